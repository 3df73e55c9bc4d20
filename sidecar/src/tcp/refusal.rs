//! Connections that are not led on. Their caller sees a close and nothing else: why, is in a line of the log and in a
//! counter.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use outrigger_core::{
    Cluster, Direction, Judgement, NoEndpoint, PolicyPositions, Rules, capture::MAX_DESTINATIONS,
};

use crate::{
    connect::ConnectError, demand::Denied, hello::peek::NoHello, http::answer, telemetry::Decided,
    worker::connection::Connection, xds::convert::listener::BLACK_HOLE,
};

/// What went wrong, as operators search for it. A closed set; the names are those of requests where there is such a one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    NoRouteConnection,
    RbacDenied,
    ClusterUnknown,
    NoEndpoints,
    NoHealthyEndpoints,
    BreakerOpen,
    OverflowConnections,
    ConnectFailed,
    TlsFailed,
    ClientHelloTimeout,
    ClientHelloInvalid,
    NotInRegistry,
    NoRouteYet,
    OverflowOnDemand,
    ProtocolUndecided,
}

impl Code {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoRouteConnection => "no_route_connection",
            Self::RbacDenied => "rbac_denied",
            Self::ClusterUnknown => "cluster_unknown",
            Self::NoEndpoints => "no_endpoints",
            Self::NoHealthyEndpoints => "no_healthy_endpoints",
            Self::BreakerOpen => "breaker_open",
            Self::OverflowConnections => "overflow_connections",
            Self::ConnectFailed => "connect_failed",
            Self::TlsFailed => "tls_failed",
            Self::ClientHelloTimeout => "client_hello_timeout",
            Self::ClientHelloInvalid => "client_hello_invalid",
            Self::NotInRegistry => "not_in_registry",
            Self::NoRouteYet => "no_route_yet",
            Self::OverflowOnDemand => "overflow_on_demand",
            Self::ProtocolUndecided => "protocol_undecided",
        }
    }

    /// What a request is answered with that asked for the connection.
    pub(crate) fn of_request(self) -> answer::Code {
        match self {
            Self::NoRouteConnection
            | Self::ClientHelloTimeout
            | Self::ClientHelloInvalid
            | Self::ProtocolUndecided => answer::Code::NoRouteHost,
            Self::NotInRegistry => answer::Code::NotInRegistry,
            Self::NoRouteYet => answer::Code::NoRouteYet,
            Self::OverflowOnDemand => answer::Code::OverflowOnDemand,
            Self::RbacDenied => answer::Code::RbacDenied,
            Self::ClusterUnknown => answer::Code::ClusterUnknown,
            Self::NoEndpoints => answer::Code::NoEndpoints,
            Self::NoHealthyEndpoints => answer::Code::NoHealthyEndpoints,
            Self::BreakerOpen => answer::Code::BreakerOpen,
            Self::OverflowConnections => answer::Code::OverflowPending,
            Self::ConnectFailed => answer::Code::ConnectFailed,
            Self::TlsFailed => answer::Code::TlsFailed,
        }
    }

    /// Envoy's flag for it.
    pub(super) fn flags(self) -> &'static str {
        match self {
            Self::ProtocolUndecided
            | Self::NotInRegistry
            | Self::NoRouteConnection
            | Self::ClientHelloTimeout
            | Self::ClientHelloInvalid => "NR",
            // Envoy has none for it.
            Self::RbacDenied => "-",
            Self::ClusterUnknown => "NC",
            Self::NoEndpoints | Self::NoHealthyEndpoints => "UH",
            Self::NoRouteYet => "NC",
            Self::BreakerOpen | Self::OverflowConnections | Self::OverflowOnDemand => "UO",
            Self::ConnectFailed | Self::TlsFailed => "UF",
        }
    }
}

/// A connection that is closed.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Whose it would have been.
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) attempts: u32,
    /// The line that decided, where it is neither the route's nor the cluster's.
    policy: Option<Arc<str>>,
}

impl Refused {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            endpoint: None,
            attempts: 0,
            policy: None,
        }
    }

    /// None: it left by itself, and there is nothing to tell.
    pub(super) fn no_hello(why: &NoHello) -> Option<Self> {
        match why {
            NoHello::Gone | NoHello::TooMany => None,
            NoHello::Undecided(within) => Some(Self::new(
                Code::ProtocolUndecided,
                format!(
                    "it began as an HTTP request does, and was none within {within:?}; if the port's protocol is another one, \
                     declare it (protocol: TCP, or a port name that begins with tcp)"
                ),
            )),
            NoHello::Late(within) => Some(Self::late(*within)),
            NoHello::Not(rule) => Some(Self::new(
                Code::ClientHelloInvalid,
                format!("it begins as TLS does, and is none: {rule}"),
            )),
        }
    }

    fn late(within: Duration) -> Self {
        let message =
            format!("no whole ClientHello within {within:?}, which would say the server name");
        Self::new(Code::ClientHelloTimeout, message)
    }

    /// What there is at the address that it was going to was not to be had.
    pub(super) fn unknown(connection: &Connection, denied: &Denied) -> Self {
        let to = connection.destination.map(|to| to.to_string());
        let what = format!(
            "the listener of {}, which is asked for when it is needed,",
            to.unwrap_or_default()
        );
        match denied {
            Denied::Absent => Self::new(Code::NoRouteYet, format!("{what} does not exist")),
            Denied::Refused(why) => {
                Self::new(Code::NoRouteYet, format!("{what} cannot be used: {why}"))
            }
            Denied::Late(waited) => Self::new(
                Code::NoRouteYet,
                format!(
                    "{what} did not come from the control plane within {} ms",
                    waited.as_millis()
                ),
            ),
            Denied::Away => Self::new(
                Code::NoRouteYet,
                format!("{what} is not here, and the control plane is away"),
            ),
            Denied::Overflow(most) => Self::new(
                Code::OverflowOnDemand,
                format!("as many {most} as may; {what} is not among them"),
            ),
        }
    }

    /// No filter chain is for it.
    pub(super) fn unmatched(connection: &Connection) -> Self {
        let is_tls = connection
            .greeting
            .as_ref()
            .is_some_and(|greeting| greeting.tls);
        let (code, message) = match (&connection.server_name, connection.bound.direction) {
            _ if !is_tls => (
                Code::ClientHelloInvalid,
                "this port takes TLS only: the first byte is not that of a TLS handshake"
                    .to_owned(),
            ),
            (_, Direction::Inbound) => (
                Code::NoRouteConnection,
                "this port takes no TLS with such a server name and such application protocols"
                    .to_owned(),
            ),
            (Some(name), _) => (
                Code::NoRouteConnection,
                format!("nothing on this port has the server name {name:?}"),
            ),
            (None, _) => (
                Code::NoRouteConnection,
                "the connection names no server, and every route of this port asks for one"
                    .to_owned(),
            ),
        };
        Self::new(code, message)
    }

    /// Access rules do not let it through.
    pub(super) fn denied(
        rules: &Rules,
        judgement: &Judgement<'_>,
        policies: &PolicyPositions,
    ) -> Self {
        let decided = Decided::of(judgement, policies);
        Self {
            policy: Some(decided.told()),
            ..Self::new(Code::RbacDenied, rules.why(judgement))
        }
    }

    pub(super) fn overflow(cluster: &Cluster) -> Self {
        let message = format!(
            "{} connections to {} are open (maxConnections)",
            cluster.limits.connections.limit(),
            cluster.config.service
        );
        Self::new(Code::OverflowConnections, message)
    }

    pub(super) fn no_endpoint(cluster: &Cluster, none: NoEndpoint) -> Self {
        let service = &cluster.config.service;
        match none {
            NoEndpoint::Empty if cluster.config.name == BLACK_HOLE => {
                Self::new(Code::NotInRegistry, "")
            }
            NoEndpoint::NotRedirected => Self::new(
                Code::NoEndpoints,
                "it was not redirected to this sidecar, and was going nowhere else",
            ),
            NoEndpoint::TooManyDestinations => Self::new(
                Code::OverflowConnections,
                format!("{MAX_DESTINATIONS} destinations of {service} are in use"),
            ),
            NoEndpoint::Empty => {
                Self::new(Code::NoEndpoints, format!("{service} has no endpoints"))
            }
            NoEndpoint::Unhealthy | NoEndpoint::Exhausted => Self::new(
                Code::NoHealthyEndpoints,
                format!(
                    "none of the {} endpoints of {service} is healthy",
                    cluster.endpoints.len()
                ),
            ),
            NoEndpoint::BreakerOpen { of_service, .. } => {
                let message = if of_service {
                    format!("the circuit breaker of {service} is open")
                } else {
                    format!("the circuit breakers of all healthy endpoints of {service} are open")
                };
                let breaker = cluster.config.breaker.as_ref();
                Self {
                    policy: breaker.and_then(|breaker| breaker.position.clone()),
                    ..Self::new(Code::BreakerOpen, message)
                }
            }
        }
    }

    pub(super) fn not_connected(error: &ConnectError, endpoint: SocketAddr, attempts: u32) -> Self {
        let code = match error {
            ConnectError::Tls(..) => Code::TlsFailed,
            ConnectError::Tcp(..)
            | ConnectError::Timeout(..)
            | ConnectError::Handshake(..)
            | ConnectError::OwnPort(_) => Code::ConnectFailed,
        };
        Self {
            endpoint: Some(endpoint),
            attempts,
            ..Self::new(code, error.to_string())
        }
    }
}

/// What is known of a connection when it is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) connection: &'a Connection,
    pub(super) cluster: Option<&'a Cluster>,
    pub(super) policy: Option<&'a Arc<str>>,
}

impl About<'_> {
    /// `inbound` or `outbound`.
    pub(super) fn hop(&self) -> &'static str {
        match self.connection.bound.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }

    /// One line for each.
    pub(super) fn log(&self, refused: &Refused) {
        let destination = self.connection.destination;
        let reason = match (refused.code, destination) {
            (Code::NotInRegistry, Some(to)) => Cow::Owned(format!(
                "{to} is the address of no service, and only services may be called (outboundTrafficPolicy: REGISTRY_ONLY)"
            )),
            (Code::NotInRegistry, None) => Cow::Borrowed("it leads nowhere"),
            _ => Cow::Borrowed(&*refused.message),
        };
        let service = self.cluster.map(|cluster| cluster.config.service.as_str());
        let by_cluster = self
            .cluster
            .and_then(|cluster| cluster.config.position.as_ref());
        let policy = refused.policy.as_ref().or(self.policy).or(by_cluster);
        let peer = self.connection.peer.as_ref();
        tracing::warn!(
            code = refused.code.as_str(),
            hop = self.hop(),
            listener = %self.connection.bound.name,
            remote = %self.connection.remote,
            peer = peer.map(|peer| &*peer.svid.id),
            server_name = self.connection.server_name.as_deref(),
            service,
            endpoint = refused.endpoint.map(|endpoint| endpoint.to_string()),
            attempts = refused.attempts,
            policy = policy.map(|position| &**position),
            destination = destination.map(|to| to.to_string()),
            %reason,
            "connection refused"
        );
    }
}
