//! Routes and rules of routing that the redirection needs, done and undone by us: everything of ours has one protocol number.
//!
//! Where a host has no default route, nothing leads to the addresses of services: the kernel refuses before any rule is asked.

use super::{
    cidr::{Cidr, Family},
    plan::{MARK_DELIVER, Plan},
    tool,
};

/// Protocol number of our routes, number of our table, preference of our rule (Istio's number of a table).
pub(crate) const NUMBER: &str = "133";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Addresses of services, which lead to `lo`.
    Service(Cidr),
    /// Everything in our table is for this host.
    Deliver(Family),
    /// What is marked looks into our table.
    Marked(Family),
}

impl Entry {
    const fn family(&self) -> Family {
        match self {
            Self::Service(range) => range.family(),
            Self::Deliver(family) | Self::Marked(family) => *family,
        }
    }

    /// Arguments of `ip`, with `add`, `replace` or `del` between them.
    fn command(&self, verb: &str) -> Vec<String> {
        let family = match self.family() {
            Family::V4 => "-4",
            Family::V6 => "-6",
        };
        let mark = format!("{MARK_DELIVER:#x}");
        let words = match self {
            Self::Service(range) => format!("{family} route {verb} {range} dev lo proto {NUMBER}"),
            Self::Deliver(_) => {
                format!("{family} route {verb} local default dev lo table {NUMBER} proto {NUMBER}")
            }
            Self::Marked(_) => {
                format!("{family} rule {verb} fwmark {mark} lookup {NUMBER} pref {NUMBER}")
            }
        };
        words.split(' ').map(str::to_owned).collect()
    }

    /// As a person would type it.
    pub(crate) fn line(&self) -> String {
        format!("ip {}", self.command("add").join(" "))
    }
}

/// What the plan needs here and now.
pub(crate) fn wanted(plan: &Plan, present: &[Entry]) -> anyhow::Result<Vec<Entry>> {
    let families = families();
    let mut wanted = Vec::new();
    for range in plan.routed() {
        // What leads there because of us may not be wanted any more.
        let ours = present.iter().any(|entry| match entry {
            Entry::Service(other) => other.contains(range),
            Entry::Deliver(_) | Entry::Marked(_) => false,
        });
        if families.contains(&range.family()) && (ours || !has_route(range)?) {
            wanted.push(Entry::Service(range));
        }
    }
    if plan.transparent {
        for family in families {
            // The route before what leads to it.
            wanted.extend([Entry::Deliver(family), Entry::Marked(family)]);
        }
    }
    Ok(wanted)
}

fn families() -> Vec<Family> {
    if tool::has_ipv6() {
        Family::BOTH.to_vec()
    } else {
        vec![Family::V4]
    }
}

fn has_route(range: Cidr) -> anyhow::Result<bool> {
    let flag = flag(range.family());
    let address = range.address().to_string();
    Ok(tool::run("ip", &[flag, "route", "get", &address], "")?.success)
}

const fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// What there is of ours.
pub(crate) fn present() -> anyhow::Result<Vec<Entry>> {
    let mut present = Vec::new();
    for family in families() {
        let flag = flag(family);
        let routes = ["route", "show", "table", "all", "proto", NUMBER];
        let routes = tool::run("ip", &[&[flag], &routes[..]].concat(), "")?;
        let routes = routes.stdout.lines().filter_map(|line| route(line, family));
        present.extend(routes);
        let rules = tool::run("ip", &[flag, "rule", "show", "pref", NUMBER], "")?;
        let mark = format!("fwmark {MARK_DELIVER:#x}");
        if rules.stdout.lines().any(|line| line.contains(&mark)) {
            present.push(Entry::Marked(family));
        }
    }
    Ok(present)
}

/// `240.240.0.0/16 dev lo scope link`, `local default dev lo table 133 …`, `2001:2::/48 dev lo metric 1024 …`.
fn route(line: &str, family: Family) -> Option<Entry> {
    if line.starts_with("local ") {
        return Some(Entry::Deliver(family));
    }
    let range = line.split(' ').next()?.parse().ok()?;
    Some(Entry::Service(range))
}

/// Makes `present` what is `wanted`.
pub(crate) fn reconcile(wanted: &[Entry], present: &[Entry]) -> anyhow::Result<()> {
    for entry in wanted {
        if !present.contains(entry) {
            ip(entry, "add")?;
        }
    }
    // The rule before the route that it leads to.
    for entry in present.iter().rev() {
        if !wanted.contains(entry) {
            ip(entry, "del")?;
        }
    }
    Ok(())
}

fn ip(entry: &Entry, verb: &str) -> anyhow::Result<()> {
    let args = entry.command(verb);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    tool::must("ip", &args, "").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ip_shows_is_known_as_ours() {
        let range = |text: &str| Entry::Service(text.parse().unwrap());
        for (line, family, entry) in [
            (
                "240.240.0.0/16 dev lo scope link ",
                Family::V4,
                range("240.240.0.0/16"),
            ),
            (
                "240.240.255.254 dev lo scope link ",
                Family::V4,
                range("240.240.255.254/32"),
            ),
            (
                "2001:2::/48 dev lo metric 1024 pref medium",
                Family::V6,
                range("2001:2::/48"),
            ),
            (
                "local default dev lo table 133 scope host ",
                Family::V4,
                Entry::Deliver(Family::V4),
            ),
        ] {
            assert_eq!(route(line, family), Some(entry), "{line}");
        }
    }

    #[test]
    fn a_route_is_typed_as_ip_takes_it() {
        let lines = [
            Entry::Service("240.240.0.0/16".parse().unwrap()),
            Entry::Deliver(Family::V6),
            Entry::Marked(Family::V4),
        ]
        .map(|entry| entry.line());
        assert_eq!(
            lines,
            [
                "ip -4 route add 240.240.0.0/16 dev lo proto 133",
                "ip -6 route add local default dev lo table 133 proto 133",
                "ip -4 rule add fwmark 0x539 lookup 133 pref 133",
            ]
        );
    }
}
