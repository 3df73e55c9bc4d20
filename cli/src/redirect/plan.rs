//! What is to be captured, as one value, and the rules that follow from it. **Pure**: the same plan gives the same rules.
//!
//! The rules are said once, in words of no tool; [`nft`](super::nft) and [`iptables`](super::iptables) only spell them.

mod rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;

use super::{
    cidr::{Cidr, Family},
    ports::{PortRange, Wanted},
};

pub(crate) use rules::{Chain, ChainName, Match, Protocol, Rule, Verdict};

/// Addresses that the sidecar dials to see that its own connections arrive at itself. No service is given one.
pub(crate) const PROBES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(240, 240, 255, 254)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0xffff)),
];
/// Istio's pools of addresses for services that have none; the control plane gives them out.
pub(crate) const VIP_POOLS: [&str; 2] = ["240.240.0.0/16", "2001:2::/48"];
/// Zone of conntrack for questions to the DNS proxy and its answers. Beside them in the zone of all others, the proxy's own
/// question from a port that an application has just used would be sent back to it.
pub(crate) const DNS_ZONE: u16 = 15_053;
/// Mark of packets that are delivered here whatever their address says (Istio's number).
pub(crate) const MARK_DELIVER: u32 = 1337;
/// Mark of connections that the sidecar opened to its application with the client's address.
pub(crate) const MARK_CLIENT: u32 = 1338;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// What goes to the addresses of the mesh.
    Mesh,
    /// Everything.
    All,
    /// Nothing; incoming connections only.
    Off,
}

/// Whose own traffic is left alone: the sidecar's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    pub(crate) uids: Vec<u32>,
    pub(crate) gids: Vec<u32>,
    pub(crate) marks: Vec<u32>,
}

/// Which questions to DNS servers are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dns {
    Off,
    /// To any server.
    All,
    /// To these: one of them is on this host, and its own questions to others must go out.
    Servers(Vec<IpAddr>),
}

/// What is to be captured. Lists are sorted and merged.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) outbound_port: u16,
    pub(crate) inbound_port: u16,
    pub(crate) dns_port: u16,
    pub(crate) dns: Dns,
    pub(crate) owners: Owners,
    pub(crate) vips: Vec<Cidr>,
    /// Further ranges, with [`Mode::Mesh`].
    pub(crate) mesh: Vec<Cidr>,
    pub(crate) excluded: Vec<Cidr>,
    pub(crate) excluded_ports: Vec<PortRange>,
    pub(crate) excluded_interfaces: Vec<String>,
    pub(crate) inbound: Wanted,
    pub(crate) inbound_excluded: Vec<PortRange>,
    /// Incoming connections keep the client's address (TPROXY).
    pub(crate) transparent: bool,
}

impl Plan {
    /// Ranges that need a route, or else nobody gets as far as the rules.
    pub(crate) fn routed(&self) -> Vec<Cidr> {
        let mut routed = match self.mode {
            Mode::Off => Vec::new(),
            Mode::Mesh | Mode::All => self.vips.clone(),
        };
        for probe in PROBES.map(Cidr::host) {
            if !routed.iter().any(|range| range.contains(probe)) {
                routed.push(probe);
            }
        }
        routed
    }

    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        let ranges = |ranges: &[Cidr]| {
            let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        let outbound = match self.mode {
            Mode::Off => "outbound nothing".to_owned(),
            Mode::All => format!("outbound everything -> {}", self.outbound_port),
            Mode::Mesh => {
                let all: Vec<Cidr> = self.vips.iter().chain(&self.mesh).copied().collect();
                format!("outbound {} -> {}", ranges(&all), self.outbound_port)
            }
        };
        let ports = |ports: &[PortRange]| super::ports::list(ports);
        let inbound = match &self.inbound {
            Wanted::Nothing => "inbound nothing".to_owned(),
            Wanted::All => format!(
                "inbound every port but {} -> {}",
                ports(&self.inbound_excluded),
                self.inbound_port
            ),
            Wanted::Only(only) => format!("inbound {} -> {}", ports(only), self.inbound_port),
        };
        let dns = match &self.dns {
            Dns::Off => "DNS untouched".to_owned(),
            Dns::All => format!("DNS -> {}", self.dns_port),
            Dns::Servers(servers) => {
                let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
                format!("DNS to {} -> {}", servers.join(", "), self.dns_port)
            }
        };
        format!("{outbound}; {inbound}; {dns}")
    }
}

/// Those of one family.
pub(crate) fn of_family(ranges: &[Cidr], family: Family) -> Vec<Cidr> {
    let ranges = ranges.iter().copied();
    ranges.filter(|range| range.family() == family).collect()
}
