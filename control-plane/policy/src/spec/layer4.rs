//! Rules for connections: TLS that is passed through, and everything that is not HTTP.
//! Source: Istio `networking/v1` VirtualService, `TLSRoute` and `TCPRoute`.

use std::{collections::BTreeMap, net::IpAddr};

use super::At;
use crate::Position;

/// `tls[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsRoute {
    /// Where it stands.
    pub position: Position,
    /// Any of these; at least one.
    pub matches: Vec<TlsMatch>,
    /// At least one; weights sum to more than 0.
    pub route: Vec<RouteDestination>,
}

/// `tls[].match[]`: all parts must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsMatch {
    /// `sniHosts`: at least one; `*.suffix` and `*` too. Each falls under one of the document's hosts.
    pub sni_hosts: Vec<At<String>>,
    /// The rest.
    pub common: ConnectionMatch,
}

/// `tcp[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoute {
    /// Where it stands.
    pub position: Position,
    /// Any of these; empty = every connection.
    pub matches: Vec<ConnectionMatch>,
    /// At least one; weights sum to more than 0.
    pub route: Vec<RouteDestination>,
}

/// What is known of a connection of any protocol: all parts must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectionMatch {
    /// `destinationSubnets`: networks of which one has the original destination. Empty = any.
    pub destination_subnets: Vec<Subnet>,
    /// `port`: the service's.
    pub port: Option<u16>,
    /// Labels that the calling workload must have.
    pub source_labels: BTreeMap<String, String>,
    /// Namespace of the calling workload.
    pub source_namespace: Option<String>,
}

/// An address, or a network as `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    /// Its address; bits past the prefix are 0.
    pub address: IpAddr,
    /// 0 to 32 or 128.
    pub prefix: u8,
}

/// One destination of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteDestination {
    /// Where it stands.
    pub position: Position,
    /// Host as written.
    pub host: At<String>,
    /// Subset of the host's DestinationRule.
    pub subset: Option<At<String>>,
    /// Port; None = the connection's, or the service's only one.
    pub port: Option<u16>,
    /// Share of the sum; 100 if alone and not given, else 0.
    pub weight: u32,
}
