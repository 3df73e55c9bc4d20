//! The rules as nftables is told them: one table of both families, replaced in one transaction. **Pure.**
//!
//! In the oldest spelling that says it, which every nft with `inet` NAT (Linux 5.2, nft 0.9.1) reads.

use super::{
    cidr::Family,
    plan::{Chain, ChainName, Match, Plan, Protocol, Rule, Verdict},
};

pub(crate) const TABLE: &str = "outrigger";

/// A script that puts the rules into force, whatever there was of them before.
pub(crate) fn script(plan: &Plan) -> String {
    // The first line makes sure that there is something to delete.
    let table = table(TABLE, plan, "");
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n{table}")
}

/// A script that leaves a table without effect behind: what the kernel makes of the rules can be read from it.
pub(crate) fn shadow(name: &str, plan: &Plan) -> String {
    table(name, plan, "\tflags dormant;\n")
}

fn table(name: &str, plan: &Plan, head: &str) -> String {
    let mut text = format!("table inet {name} {{\n{head}");
    for (n, chain) in plan.chains().iter().enumerate() {
        if n > 0 || !head.is_empty() {
            text.push('\n');
        }
        write_chain(&mut text, chain);
    }
    text.push_str("}\n");
    text
}

fn write_chain(text: &mut String, chain: &Chain) {
    let (name, hook) = match chain.name {
        ChainName::DnsZone => ("dns_zone", "filter hook output priority -300"),
        ChainName::Outbound => ("outbound", "nat hook output priority -100"),
        // After those of others: a port that somebody publishes for a container is theirs.
        ChainName::Inbound => ("inbound", "nat hook prerouting priority -90"),
        ChainName::InboundTransparent => ("inbound", "filter hook prerouting priority -150"),
        ChainName::Answers => ("answers", "route hook output priority -150"),
    };
    text.push_str(&format!(
        "\tchain {name} {{\n\t\ttype {hook}; policy accept;\n"
    ));
    for rule in &chain.rules {
        text.push_str(&format!("\t\t{}\n", spell(rule)));
    }
    text.push_str("\t}\n");
}

fn spell(rule: &Rule) -> String {
    let ip = match rule.family {
        Some(Family::V6) => "ip6",
        _ => "ip",
    };
    let udp_too = rule
        .matches
        .iter()
        .any(|one| matches!(one, Match::Protocol(Protocol::TcpOrUdp)));
    let port = if udp_too { "th" } else { "tcp" };
    let equals = |holds: bool| if holds { "" } else { "!= " };
    // What looks into the header of TCP says so itself.
    let tcp_is_said = rule
        .matches
        .iter()
        .any(|one| matches!(one, Match::NotFirst | Match::DestinationPort(_)));
    let mut text = String::new();
    for one in &rule.matches {
        let said = match one {
            Match::Source(ranges) => format!("{ip} saddr {}", set(ranges)),
            Match::Destination(ranges) => format!("{ip} daddr {}", set(ranges)),
            Match::SourceIsLocal(is) => format!("fib saddr type {}local", equals(*is)),
            Match::DestinationIsLocal(is) => format!("fib daddr type {}local", equals(*is)),
            Match::In(names) => format!("iifname {}", set(quoted(names))),
            Match::Out(names) => format!("oifname {}", set(quoted(names))),
            Match::Uid(ids) => format!("meta skuid {}", set(ids)),
            Match::Gid(ids) => format!("meta skgid {}", set(ids)),
            Match::Mark(marks) => format!("meta mark {}", set(marks)),
            Match::ConnectionMark(mark) => format!("ct mark {mark}"),
            Match::Answer => "ct direction reply".to_owned(),
            Match::Protocol(Protocol::Tcp) if tcp_is_said => continue,
            Match::Protocol(Protocol::Tcp) => "meta l4proto tcp".to_owned(),
            Match::Protocol(Protocol::TcpOrUdp) => "meta l4proto { tcp, udp }".to_owned(),
            Match::SourcePort(number) => format!("{port} sport {number}"),
            Match::DestinationPort(ranges) => format!("{port} dport {}", set(ranges)),
            Match::NotFirst => "tcp flags & (fin | syn | rst | ack) != syn".to_owned(),
            Match::TransparentSocket => "socket transparent 1".to_owned(),
        };
        text.push_str(&said);
        text.push(' ');
    }
    let verdict = match rule.verdict {
        Verdict::Return => "return".to_owned(),
        Verdict::Redirect(port) => format!("redirect to :{port}"),
        Verdict::Zone(zone) => format!("ct zone set {zone}"),
        Verdict::MarkConnection(mark) => format!("ct mark set {mark}"),
        Verdict::Mark(mark) => format!("meta mark set {mark}"),
        Verdict::MarkAndAccept(mark) => format!("meta mark set {mark} accept"),
        Verdict::Transparent(port, mark) => {
            format!("tproxy to :{port} meta mark set {mark} accept")
        }
        Verdict::Refuse => "reject with tcp reset".to_owned(),
    };
    text.push_str(&verdict);
    text
}

fn quoted(names: &[String]) -> impl Iterator<Item = String> {
    names.iter().map(|name| format!("\"{name}\""))
}

/// One value, or a set of them.
fn set<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    match &texts[..] {
        [one] => one.clone(),
        _ => format!("{{ {} }}", texts.join(", ")),
    }
}
