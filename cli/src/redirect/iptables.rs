//! The rules as `iptables-restore --noflush` and `ip6tables-restore` are told them, each table in one transaction. **Pure.**
//!
//! Chains of our own hold the rules; a jump in the chains of the kernel leads there. What others have written stays.

use std::collections::BTreeMap;

use super::{
    cidr::Family,
    plan::{Chain, ChainName, Match, Plan, Protocol, Rule, Verdict},
};

/// What our chains begin with.
pub(crate) const PREFIX: &str = "OUTRIGGER";

/// A chain's place.
struct Place {
    table: &'static str,
    /// The chain of the kernel.
    hook: &'static str,
    name: &'static str,
    /// Before the rules of others, or behind.
    first: bool,
}

const fn place(name: ChainName) -> Place {
    let (table, hook, name, first) = match name {
        ChainName::DnsZone => ("raw", "OUTPUT", "DNS_ZONE", true),
        ChainName::Outbound => ("nat", "OUTPUT", "OUTBOUND", true),
        // A port that somebody publishes for a container is theirs.
        ChainName::Inbound => ("nat", "PREROUTING", "INBOUND", false),
        ChainName::InboundTransparent => ("mangle", "PREROUTING", "INBOUND", true),
        ChainName::Answers => ("mangle", "OUTPUT", "ANSWERS", true),
    };
    Place {
        table,
        hook,
        name,
        first,
    }
}

const TABLES: [&str; 3] = ["raw", "nat", "mangle"];

/// What one of the tables has of ours, as `iptables-save` says it: jumps of the kernel's chains, and chains.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// `-A OUTPUT -j OUTRIGGER_OUTBOUND`, by table.
    jumps: BTreeMap<&'static str, Vec<String>>,
    chains: BTreeMap<&'static str, Vec<String>>,
    /// The rules, `-A OUTRIGGER_…`, by table.
    rules: BTreeMap<&'static str, Vec<String>>,
}

impl Found {
    /// Of the whole output of `iptables-save`.
    pub(crate) fn of(saved: &str, prefix: &str) -> Self {
        let ours = format!("{prefix}_");
        let mut found = Self::default();
        let mut table = None;
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = TABLES.into_iter().find(|known| *known == name);
                continue;
            }
            let Some(table) = table else { continue };
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                if name.starts_with(&ours) {
                    found.chains.entry(table).or_default().push(name.to_owned());
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                if rule.starts_with(&ours) {
                    found.rules.entry(table).or_default().push(line.to_owned());
                } else if rule.contains(&format!(" -j {ours}")) {
                    found.jumps.entry(table).or_default().push(line.to_owned());
                }
            }
        }
        found
    }

    /// What is compared: jumps and rules, under the names of the chains in force.
    pub(crate) fn lines(&self, family: Family, prefix: &str) -> Vec<String> {
        let version = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let mut lines = Vec::new();
        for table in TABLES {
            let of =
                |map: &BTreeMap<&str, Vec<String>>| map.get(table).cloned().unwrap_or_default();
            for line in of(&self.jumps).into_iter().chain(of(&self.rules)) {
                let line = line.replace(&format!("{prefix}_"), &format!("{PREFIX}_"));
                lines.push(format!("{version} {table}: {line}"));
            }
        }
        lines
    }
}

/// A script that puts the rules of one family into force, whatever `found` says that there was of them.
pub(crate) fn script(plan: &Plan, family: Family, found: &Found) -> String {
    write(plan, family, PREFIX, Some(found))
}

/// A script that leaves chains behind that nothing leads to: what the kernel makes of the rules can be read from them.
pub(crate) fn shadow(plan: &Plan, family: Family, prefix: &str) -> String {
    write(plan, family, prefix, None)
}

/// A script after which nothing of `found` is left; None if there is nothing.
pub(crate) fn removal(found: &Found) -> Option<String> {
    let mut text = String::new();
    for table in TABLES {
        text.push_str(&Table::removing(found, table).render(table));
    }
    (!text.is_empty()).then_some(text)
}

/// The jumps that the plan asks for, as `iptables-save` says them.
pub(crate) fn jumps(plan: &Plan, family: Family) -> Vec<String> {
    let version = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let jump = |chain: &Chain| {
        let Place {
            table, hook, name, ..
        } = place(chain.name);
        format!("{version} {table}: -A {hook} -j {PREFIX}_{name}")
    };
    plan.chains().iter().map(jump).collect()
}

/// One table's part of a script.
#[derive(Default)]
struct Table {
    /// Made if they are missing, else emptied.
    chains: Vec<String>,
    lines: Vec<String>,
}

impl Table {
    /// Takes away what there is.
    fn removing(found: &Found, table: &'static str) -> Self {
        let mut removing = Self::default();
        let of = |map: &BTreeMap<&str, Vec<String>>| map.get(table).cloned().unwrap_or_default();
        for jump in of(&found.jumps) {
            let jump = jump.strip_prefix("-A ").unwrap_or(&jump).to_owned();
            removing.lines.push(format!("-D {jump}"));
        }
        let chains = of(&found.chains);
        let all = |command: &str| {
            let lines = chains.iter().map(|chain| format!("{command} {chain}"));
            lines.collect::<Vec<_>>()
        };
        removing.lines.extend(all("-F"));
        removing.lines.extend(all("-X"));
        removing
    }

    fn render(&self, table: &str) -> String {
        if self.chains.is_empty() && self.lines.is_empty() {
            return String::new();
        }
        let mut text = format!("*{table}\n");
        for chain in &self.chains {
            text.push_str(&format!(":{chain} - [0:0]\n"));
        }
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("COMMIT\n");
        text
    }
}

fn write(plan: &Plan, family: Family, prefix: &str, replacing: Option<&Found>) -> String {
    let chains = plan.chains();
    let mut text = String::new();
    for table in TABLES {
        let mut part = Table::default();
        let wanted = || {
            chains
                .iter()
                .filter(|chain| place(chain.name).table == table)
        };
        if let Some(found) = replacing {
            // In the same transaction, so that between the old and the new nothing passes by.
            part = Table::removing(found, table);
            let stays = |name: &str| {
                wanted().any(|chain| name == format!("{prefix}_{}", place(chain.name).name))
            };
            part.lines
                .retain(|line| !line.strip_prefix("-X ").is_some_and(&stays));
        }
        let mut jumps = Vec::new();
        for chain in wanted() {
            let Place {
                hook, name, first, ..
            } = place(chain.name);
            let name = format!("{prefix}_{name}");
            for rule in &chain.rules {
                for said in spell(rule, family) {
                    part.lines.push(format!("-A {name} {said}"));
                }
            }
            let how = if first { "-I" } else { "-A" };
            jumps.push(format!("{how} {hook} -j {name}"));
            part.chains.push(name);
        }
        if replacing.is_some() {
            part.lines.extend(jumps);
        }
        text.push_str(&part.render(table));
    }
    text
}

/// One rule may take several: where nftables has a set, iptables has a rule for each of its values.
fn spell(rule: &Rule, family: Family) -> Vec<String> {
    if rule.family.is_some_and(|only| only != family) {
        return Vec::new();
    }
    let mut texts = vec![String::new()];
    for one in &rule.matches {
        let said = alternatives(one);
        texts = texts
            .iter()
            .flat_map(|text| said.iter().map(move |said| format!("{text}{said} ")))
            .collect();
    }
    let targets: Vec<String> = match rule.verdict {
        Verdict::Return => vec!["-j RETURN".to_owned()],
        Verdict::Redirect(port) => vec![format!("-j REDIRECT --to-ports {port}")],
        Verdict::Zone(zone) => vec![format!("-j CT --zone {zone}")],
        Verdict::MarkConnection(mark) => vec![format!("-j CONNMARK --set-mark {mark}")],
        Verdict::Mark(mark) => vec![format!("-j MARK --set-mark {mark}")],
        Verdict::MarkAndAccept(mark) => {
            vec![format!("-j MARK --set-mark {mark}"), "-j ACCEPT".to_owned()]
        }
        Verdict::Transparent(port, mark) => {
            vec![format!("-j TPROXY --on-port {port} --tproxy-mark {mark}")]
        }
        // A refusal cannot be said in this table.
        Verdict::Refuse => vec!["-j DROP".to_owned()],
    };
    let both = |text: &String| {
        let said = targets.iter().map(|target| format!("{text}{target}"));
        said.collect::<Vec<_>>()
    };
    texts.iter().flat_map(both).collect()
}

fn alternatives(one: &Match) -> Vec<String> {
    let not = |holds: bool| if holds { "" } else { "! " };
    let one_of = |option: &str, values: Vec<String>| {
        let said = values.iter().map(|value| format!("{option} {value}"));
        said.collect()
    };
    let texts = |values: &[u32]| values.iter().map(ToString::to_string).collect();
    match one {
        Match::Source(ranges) => one_of("-s", ranges.iter().map(ToString::to_string).collect()),
        Match::Destination(ranges) => {
            one_of("-d", ranges.iter().map(ToString::to_string).collect())
        }
        Match::SourceIsLocal(is) => vec![format!("-m addrtype {}--src-type LOCAL", not(*is))],
        Match::DestinationIsLocal(is) => vec![format!("-m addrtype {}--dst-type LOCAL", not(*is))],
        Match::In(names) => one_of("-i", names.clone()),
        Match::Out(names) => one_of("-o", names.clone()),
        Match::Uid(ids) => one_of("-m owner --uid-owner", texts(ids)),
        Match::Gid(ids) => one_of("-m owner --gid-owner", texts(ids)),
        Match::Mark(marks) => one_of("-m mark --mark", texts(marks)),
        Match::ConnectionMark(mark) => vec![format!("-m connmark --mark {mark}")],
        Match::Answer => vec!["-m conntrack --ctdir REPLY".to_owned()],
        Match::Protocol(Protocol::Tcp) => vec!["-p tcp".to_owned()],
        Match::Protocol(Protocol::TcpOrUdp) => vec!["-p tcp".to_owned(), "-p udp".to_owned()],
        Match::SourcePort(port) => vec![format!("--sport {port}")],
        Match::DestinationPort(ranges) => {
            let ranges = ranges.iter().map(|range| {
                if range.first == range.last {
                    range.first.to_string()
                } else {
                    format!("{}:{}", range.first, range.last)
                }
            });
            one_of("--dport", ranges.collect())
        }
        Match::NotFirst => vec!["! --syn".to_owned()],
        Match::TransparentSocket => vec!["-m socket --transparent".to_owned()],
    }
}
