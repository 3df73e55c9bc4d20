//! The rules in their order, in words of no tool.
//! ```text
//!  application ──► outbound: probe, sidecar's own, DNS, addresses of services, lo, exclusions, the rest ──► 15001
//!  network ──────► inbound: not for us, excluded ports, the rest ──► 15006
//! ```
//! Only the first packet of a connection is caught, so that a connection that was open before the rules came stays what it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DNS_ZONE, Dns, MARK_CLIENT, MARK_DELIVER, Mode, PROBES, Plan, of_family};
use crate::redirect::{
    cidr::{Cidr, Family},
    ports::{PortRange, Wanted},
};

/// A place in the kernel where rules stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainName {
    /// Before conntrack looks at what a process of this host sends.
    DnsZone,
    /// What a process of this host opens.
    Outbound,
    /// What comes from elsewhere.
    Inbound,
    /// The same, with the client's address kept.
    InboundTransparent,
    /// The application's answers to clients that the sidecar speaks for.
    Answers,
}

#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: ChainName,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// None: both.
    pub(crate) family: Option<Family>,
    /// All of them hold.
    pub(crate) matches: Vec<Match>,
    pub(crate) verdict: Verdict,
}

/// A list holds if one of it does; none is empty.
#[derive(Clone, Debug)]
pub(crate) enum Match {
    Source(Vec<Cidr>),
    Destination(Vec<Cidr>),
    SourceIsLocal(bool),
    DestinationIsLocal(bool),
    In(Vec<String>),
    Out(Vec<String>),
    Uid(Vec<u32>),
    Gid(Vec<u32>),
    Mark(Vec<u32>),
    ConnectionMark(u32),
    /// A packet against the direction of its connection.
    Answer,
    Protocol(Protocol),
    /// After a protocol.
    SourcePort(u16),
    /// After a protocol.
    DestinationPort(Vec<PortRange>),
    /// After TCP: any packet but the first of a connection.
    NotFirst,
    /// There is a socket that takes other hosts' addresses.
    TransparentSocket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    TcpOrUdp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing more of this chain.
    Return,
    Redirect(u16),
    Zone(u16),
    MarkConnection(u32),
    Mark(u32),
    MarkAndAccept(u32),
    /// To the listener on this port, with its address as it is, and this mark.
    Transparent(u16, u32),
    /// Nobody listens.
    Refuse,
}

impl Plan {
    /// Every chain that has a rule.
    pub(crate) fn chains(&self) -> Vec<Chain> {
        let inbound = if self.transparent {
            vec![
                (ChainName::InboundTransparent, self.inbound_transparent()),
                (ChainName::Answers, answers()),
            ]
        } else {
            vec![(ChainName::Inbound, self.inbound())]
        };
        let outbound = [
            (ChainName::DnsZone, self.dns_zone()),
            (ChainName::Outbound, self.outbound()),
        ];
        let chains = outbound.into_iter().chain(inbound);
        chains
            .filter(|(_, rules)| !rules.is_empty())
            .map(|(name, rules)| Chain { name, rules })
            .collect()
    }

    fn dns_zone(&self) -> Vec<Rule> {
        if self.dns == Dns::Off {
            return Vec::new();
        }
        let zone = Verdict::Zone(DNS_ZONE);
        let loopback = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let answer = |address| {
            let from = [
                Match::Source(vec![Cidr::host(address)]),
                Match::Protocol(Protocol::TcpOrUdp),
                Match::SourcePort(self.dns_port),
            ];
            rule(from, zone).of(Family::of(address))
        };
        // Answers first: they are the sidecar's own.
        let mut rules: Vec<Rule> = loopback.into_iter().map(answer).collect();
        rules.extend(self.own());
        rules.extend(self.questions(zone));
        rules
    }

    fn outbound(&self) -> Vec<Rule> {
        let to_sidecar = Verdict::Redirect(self.outbound_port);
        let mut rules = vec![not_first()];
        rules.extend(to_any(&PROBES.map(Cidr::host), to_sidecar));
        if self.mode == Mode::Off {
            return rules;
        }
        rules.extend(self.own());
        rules.extend(self.questions(Verdict::Redirect(self.dns_port)));
        // Before lo: where there is no other route to them, they lead there.
        rules.extend(to_any(&self.vips, to_sidecar));
        rules.push(rule([Match::Out(self.interfaces())], Verdict::Return));
        for family in Family::BOTH {
            rules.extend(to(family, &self.excluded, [], Verdict::Return));
        }
        rules.extend(excluded(&self.excluded_ports));
        match self.mode {
            Mode::All => {
                // Its interface is lost on the way: nobody could dial it in the application's place.
                rules.extend(to(Family::V6, &[Cidr::LINK_LOCAL_V6], [], Verdict::Return));
                rules.push(rule([Match::Protocol(Protocol::Tcp)], to_sidecar));
            }
            Mode::Mesh => rules.extend(to_any(&self.mesh, to_sidecar)),
            Mode::Off => {}
        }
        rules
    }

    fn inbound(&self) -> Vec<Rule> {
        let Some(captured) = self.captured() else {
            return Vec::new();
        };
        let mut rules = self.not_for_us();
        rules.push(not_first());
        rules.extend(excluded(&self.inbound_excluded));
        rules.push(rule(captured, Verdict::Redirect(self.inbound_port)));
        rules
    }

    fn inbound_transparent(&self) -> Vec<Rule> {
        let Some(captured) = self.captured() else {
            return Vec::new();
        };
        let mut rules = self.not_for_us();
        // What others answer to us is no connection to us.
        rules.push(rule([Match::Answer], Verdict::Return));
        rules.push(rule(
            [Match::Protocol(Protocol::Tcp), Match::TransparentSocket],
            Verdict::MarkAndAccept(MARK_DELIVER),
        ));
        rules.push(not_first());
        rules.extend(excluded(&self.inbound_excluded));
        let transparent = Verdict::Transparent(self.inbound_port, MARK_DELIVER);
        rules.push(rule(captured.clone(), transparent));
        // Without a sidecar the rule above does not hold, and the application would be reached in plain text.
        rules.push(rule(captured, Verdict::Refuse));
        rules
    }

    fn captured(&self) -> Option<Vec<Match>> {
        let tcp = Match::Protocol(Protocol::Tcp);
        match &self.inbound {
            Wanted::Nothing => None,
            Wanted::All => Some(vec![tcp]),
            Wanted::Only(ports) => Some(vec![tcp, Match::DestinationPort(ports.clone())]),
        }
    }

    /// What passes through this host, or stays in it.
    fn not_for_us(&self) -> Vec<Rule> {
        vec![
            rule([Match::In(self.interfaces())], Verdict::Return),
            rule([Match::DestinationIsLocal(false)], Verdict::Return),
        ]
    }

    /// `lo`, and what is excluded.
    fn interfaces(&self) -> Vec<String> {
        let excluded = self.excluded_interfaces.iter().cloned();
        std::iter::once("lo".to_owned()).chain(excluded).collect()
    }

    fn own(&self) -> Vec<Rule> {
        let owners = &self.owners;
        let by = [
            (&owners.uids, Match::Uid as fn(Vec<u32>) -> Match),
            (&owners.gids, Match::Gid),
            (&owners.marks, Match::Mark),
        ];
        by.into_iter()
            .filter(|(list, _)| !list.is_empty())
            .map(|(list, by)| rule([by(list.clone())], Verdict::Return))
            .collect()
    }

    fn questions(&self, verdict: Verdict) -> Vec<Rule> {
        let question = [
            Match::Protocol(Protocol::TcpOrUdp),
            Match::DestinationPort(vec![PortRange::one(53)]),
        ];
        match &self.dns {
            Dns::Off => Vec::new(),
            Dns::All => vec![rule(question, verdict)],
            Dns::Servers(servers) => {
                let servers: Vec<Cidr> = servers.iter().copied().map(Cidr::host).collect();
                Family::BOTH
                    .into_iter()
                    .filter_map(|family| to(family, &servers, question.clone(), verdict))
                    .collect()
            }
        }
    }
}

/// Packets of the application for a client whose address the sidecar took would leave for the client itself.
fn answers() -> Vec<Rule> {
    let lo = Match::Out(vec!["lo".to_owned()]);
    vec![
        rule(
            [lo, Match::SourceIsLocal(false)],
            Verdict::MarkConnection(MARK_CLIENT),
        ),
        rule(
            [Match::Answer, Match::ConnectionMark(MARK_CLIENT)],
            Verdict::Mark(MARK_DELIVER),
        ),
    ]
}

fn rule(matches: impl Into<Vec<Match>>, verdict: Verdict) -> Rule {
    Rule {
        family: None,
        matches: matches.into(),
        verdict,
    }
}

impl Rule {
    fn of(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }
}

fn not_first() -> Rule {
    let matches = [Match::Protocol(Protocol::Tcp), Match::NotFirst];
    rule(matches, Verdict::Return)
}

fn excluded(ports: &[PortRange]) -> Option<Rule> {
    let matches = || {
        [
            Match::Protocol(Protocol::Tcp),
            Match::DestinationPort(ports.to_vec()),
        ]
    };
    (!ports.is_empty()).then(|| rule(matches(), Verdict::Return))
}

/// TCP to these ranges.
fn to_any(ranges: &[Cidr], verdict: Verdict) -> impl Iterator<Item = Rule> {
    let tcp = Match::Protocol(Protocol::Tcp);
    Family::BOTH
        .into_iter()
        .filter_map(move |family| to(family, ranges, [tcp.clone()], verdict))
}

/// To the ranges of one family, if there are any.
fn to(
    family: Family,
    ranges: &[Cidr],
    further: impl IntoIterator<Item = Match>,
    verdict: Verdict,
) -> Option<Rule> {
    let ranges = of_family(ranges, family);
    if ranges.is_empty() {
        return None;
    }
    let matches: Vec<Match> = std::iter::once(Match::Destination(ranges))
        .chain(further)
        .collect();
    Some(rule(matches, verdict).of(family))
}
