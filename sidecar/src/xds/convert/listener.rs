//! `Listener` with its filter chains (`chains` tells them apart), each with an HTTP connection manager or a TCP proxy
//! (`connections`) → [`ParsedListener`].

use std::{net::SocketAddr, sync::Arc};

use outrigger_core::{
    Capture, ChainLookup, ChainMatch, ConnectionRoute, Direction, DownstreamTls, DryRun,
    HttpSettings, PolicyPositions, ProxyProtocol, RouteTable,
};
use outrigger_proto::envoy::{
    config::listener::v3::{self as proto, filter, listener::ListenerSpecifier},
    extensions::filters::network::http_connection_manager::v3::{
        HttpConnectionManager,
        http_connection_manager::{CodecType, ForwardClientCertDetails, RouteSpecifier},
    },
};
use prost_types::Any;

use super::{
    Converted, chains, connections, direction, manager, must_be_ads, must_be_false, proxy_protocol,
    refuse, route, socket_address, tls, unpack, unsupported,
};

/// The cluster without endpoints that leads nowhere (Istio's name).
pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";
const HCM: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// An accepted listener.
#[derive(Debug)]
pub(crate) struct ParsedListener {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) chains: Vec<ParsedChain>,
    /// None = there is one chain.
    pub(crate) lookup: Option<ChainLookup>,
    pub(crate) dry_run: Option<DryRun>,
    pub(crate) capture: Capture,
    pub(crate) proxied: Option<ProxyProtocol>,
}

/// See [`outrigger_core::FilterChain`].
#[derive(Debug)]
pub(crate) struct ParsedChain {
    pub(crate) tls: Option<DownstreamTls>,
    pub(crate) routes: ParsedRoutes,
    pub(crate) settings: Option<Arc<HttpSettings>>,
    pub(crate) policies: PolicyPositions,
}

/// Where a chain's routes come from.
#[derive(Debug)]
pub(crate) enum ParsedRoutes {
    /// RDS by this name.
    Named(String),
    /// In the listener.
    Inline(RouteTable),
    /// Of connections, in the listener.
    Connection(ConnectionRoute),
}

pub(crate) fn convert(
    from: &proto::Listener,
    slots: &mut route::Slots<'_>,
) -> Converted<ParsedListener> {
    if from.name.is_empty() {
        return refuse("name", "missing");
    }
    if let Some(ListenerSpecifier::InternalListener(_)) = from.listener_specifier {
        return unsupported("internal_listener");
    }
    let address = socket_address("address", from.address.as_ref())?;
    let proxied = proxy_protocol::taken(from)?;
    let asks = chains::asks(from, proxied.is_some())?;
    let capture = capture(from, asks)?;
    let mut matches = Vec::with_capacity(from.filter_chains.len());
    for (index, chain) in from.filter_chains.iter().enumerate() {
        let found = chains::wanted(chain.filter_chain_match.as_ref(), asks);
        let path = format!("filter_chains[{index}].filter_chain_match");
        matches.push(found.map_err(|error| error.under(path))?);
    }
    let rest = from.default_filter_chain.as_ref();
    if rest.is_some_and(|chain| chain.filter_chain_match.is_some()) {
        let path = "default_filter_chain.filter_chain_match";
        return refuse(path, "has no effect: it is for what no other chain matches");
    }
    let lookup = chains::lookup(asks, &matches, rest.is_some())?;
    let has_tls = from
        .filter_chains
        .iter()
        .chain(rest)
        .any(|chain| chain.transport_socket.is_some());
    let direction = direction(from.traffic_direction, has_tls);
    let mut parsed = Vec::with_capacity(matches.len() + 1);
    for (index, chain) in from.filter_chains.iter().enumerate() {
        let found = filter_chain(chain, direction, slots);
        parsed.push(found.map_err(|error| error.under(format!("filter_chains[{index}]")))?);
    }
    if let Some(chain) = rest {
        let found = filter_chain(chain, direction, slots);
        parsed.push(found.map_err(|error| error.under("default_filter_chain"))?);
        matches.push(ChainMatch::default());
    }
    let mut addresses = std::iter::once(&address).chain(&capture.more_addresses);
    let open = addresses.find(|address| !address.ip().is_loopback());
    // One that hands over refuses whatever was not redirected.
    if let (Some(open), false) = (open, capture.unbound) {
        if direction == Direction::Inbound {
            refuse_plain_text(&matches, &parsed)?;
        } else if !capture.hands_over {
            return refuse(
                "address.socket_address.address",
                format!(
                    "{} is not a loopback address; an outbound listener would be an open proxy",
                    open.ip()
                ),
            );
        }
    }
    Ok(ParsedListener {
        name: from.name.clone(),
        address,
        direction,
        chains: parsed,
        lookup,
        dry_run: chains::dry_run(from.metadata.as_ref())?,
        capture,
        proxied,
    })
}

/// What it has to do with connections that were going elsewhere.
fn capture(from: &proto::Listener, asks: chains::Asks) -> Converted<Capture> {
    let hands_over = from.use_original_dst.unwrap_or(false);
    let unbound = from.bind_to_port == Some(false);
    if hands_over && unbound {
        return refuse(
            "use_original_dst",
            "has no effect on a listener that is not bound (bind_to_port)",
        );
    }
    let transparent = from.transparent.unwrap_or(false);
    if transparent && unbound {
        let message = "has no effect on a listener that is not bound (bind_to_port)";
        return refuse("transparent", message);
    }
    let mut more_addresses = Vec::with_capacity(from.additional_addresses.len());
    for (index, more) in from.additional_addresses.iter().enumerate() {
        let path = format!("additional_addresses[{index}].address");
        more_addresses.push(socket_address(&path, more.address.as_ref())?);
    }
    Ok(Capture {
        more_addresses,
        unbound,
        hands_over,
        restores: hands_over || asks.original_dst,
        transparent,
        alone: unbound && chains::is_alone(from.metadata.as_ref()),
        mesh_addresses: chains::mesh_addresses(from.metadata.as_ref())?,
        ..Capture::default()
    })
}

/// Plain text from others skips every check of who they are: it has to be asked for in so many words. TLS that is
/// passed through to the application may stand beside it.
fn refuse_plain_text(matches: &[ChainMatch], parsed: &[ParsedChain]) -> Converted<()> {
    let is_permissive = matches.iter().any(|wanted| wanted.tls == Some(false));
    for (index, (wanted, chain)) in matches.iter().zip(parsed).enumerate() {
        let passed = match &chain.routes {
            ParsedRoutes::Connection(route) => {
                is_permissive || route.clusters.names().all(|name| name == BLACK_HOLE)
            }
            _ => false,
        };
        if chain.tls.is_none() && wanted.tls != Some(false) && !passed {
            return refuse(
                format!("filter_chains[{index}].transport_socket"),
                "missing; an inbound listener needs mutual TLS, or a filter_chain_match that says raw_buffer",
            );
        }
    }
    Ok(())
}

fn filter_chain(
    from: &proto::FilterChain,
    direction: Direction,
    slots: &mut route::Slots<'_>,
) -> Converted<ParsedChain> {
    let tls = match &from.transport_socket {
        Some(socket) => tls::downstream(socket).map_err(|e| e.under("transport_socket"))?,
        None => None,
    };
    let policies = chains::policies(from.metadata.as_ref());
    if connections::is_meant(from) {
        return Ok(ParsedChain {
            tls,
            routes: ParsedRoutes::Connection(connections::convert(from, slots)?),
            settings: None,
            policies,
        });
    }
    let [only] = from.filters.as_slice() else {
        return refuse(
            "filters",
            format!(
                "has {} entries; exactly one, the HTTP connection manager, is supported yet",
                from.filters.len()
            ),
        );
    };
    let any: &Any = match &only.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => any,
        Some(filter::ConfigType::ConfigDiscovery(_)) => {
            return unsupported("filters[0].config_discovery");
        }
        None => return refuse("filters[0].typed_config", "missing"),
    };
    let path = "filters[0].typed_config";
    let manager: HttpConnectionManager = unpack(any, HCM).map_err(|error| error.under(path))?;
    let routes = connection_manager(&manager, slots).map_err(|error| error.under(path))?;
    check_client_certificate_header(&manager, tls.is_some(), direction)
        .map_err(|error| error.under(path))?;
    let settings = manager::settings(&manager, slots).map_err(|error| error.under(path))?;
    Ok(ParsedChain {
        tls,
        routes,
        settings,
        policies,
    })
}

fn connection_manager(
    from: &HttpConnectionManager,
    slots: &mut route::Slots<'_>,
) -> Converted<ParsedRoutes> {
    if from.codec_type != i32::from(CodecType::Auto) {
        return refuse(
            "codec_type",
            "must be AUTO; HTTP/1.1 and HTTP/2 are told apart here",
        );
    }
    match &from.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            must_be_ads("rds.config_source", rds.config_source.as_ref())?;
            if rds.route_config_name.is_empty() {
                return refuse("rds.route_config_name", "missing");
            }
            Ok(ParsedRoutes::Named(rds.route_config_name.clone()))
        }
        Some(RouteSpecifier::RouteConfig(config)) => {
            let path = "route_config.validate_clusters";
            // It would be asked once, when the listener comes; clusters go and come later.
            must_be_false(path, config.validate_clusters.unwrap_or(false))?;
            if config.vhds.is_some() {
                let message = "only a RouteConfiguration that comes by RDS may have it";
                return refuse("route_config.vhds", message);
            }
            route::convert(config, slots)
                .map(ParsedRoutes::Inline)
                .map_err(|error| error.under("route_config"))
        }
        None => refuse("rds", "missing; rds or route_config must be set"),
    }
}

/// Inbound always deletes `x-forwarded-client-cert` and writes its own, if TLS has named the caller; outbound always
/// deletes it.
fn check_client_certificate_header(
    from: &HttpConnectionManager,
    has_tls: bool,
    direction: Direction,
) -> Converted<()> {
    let path = "forward_client_cert_details";
    let inbound = direction == Direction::Inbound;
    let sets = match ForwardClientCertDetails::try_from(from.forward_client_cert_details) {
        // Of a chain in plain text, there is nothing to be set: the same words do for both chains.
        Ok(ForwardClientCertDetails::SanitizeSet) if has_tls || inbound => true,
        Ok(ForwardClientCertDetails::Sanitize) if !has_tls => false,
        Ok(ForwardClientCertDetails::Sanitize) => {
            return refuse(
                path,
                "SANITIZE is not supported yet with TLS; must be SANITIZE_SET",
            );
        }
        Ok(other) => {
            return refuse(
                path,
                format!("{} is not supported yet", other.as_str_name()),
            );
        }
        Err(_unknown) => return refuse(path, "is unknown"),
    };
    match &from.set_current_client_cert_details {
        Some(details) if sets && !details.uri => {
            refuse("set_current_client_cert_details.uri", "must be true")
        }
        Some(_) if !sets => refuse(
            "set_current_client_cert_details",
            "has no effect without TLS",
        ),
        None if sets => refuse("set_current_client_cert_details.uri", "must be true"),
        _ => Ok(()),
    }
}
