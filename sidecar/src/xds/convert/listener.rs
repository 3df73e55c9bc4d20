//! `Listener` with its one HTTP connection manager, or with TCP proxies (`connections`) → [`ParsedListener`].

use std::{net::SocketAddr, sync::Arc};

use outrigger_core::{ConnectionRoutes, Direction, DownstreamTls, HttpSettings, RouteTable};
use outrigger_proto::envoy::{
    config::listener::v3::{self as proto, FilterChainMatch, filter, listener::ListenerSpecifier},
    extensions::filters::network::http_connection_manager::v3::{
        HttpConnectionManager,
        http_connection_manager::{CodecType, ForwardClientCertDetails, RouteSpecifier},
    },
};
use prost_types::Any;

use super::{
    Converted, connections, direction, manager, must_be_ads, must_be_false, refuse, route,
    socket_address, tls, unpack, unsupported,
};

const HCM: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// An accepted listener.
#[derive(Debug)]
pub(crate) struct ParsedListener {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) tls: Option<DownstreamTls>,
    pub(crate) routes: ParsedRoutes,
    /// See [`outrigger_core::Listener::settings`].
    pub(crate) settings: Option<Arc<HttpSettings>>,
}

/// Where a listener's routes come from.
#[derive(Debug)]
pub(crate) enum ParsedRoutes {
    /// RDS by this name.
    Named(String),
    /// In the listener.
    Inline(RouteTable),
    /// Of connections, in the listener.
    Connections(ConnectionRoutes),
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
    must_be_false("use_original_dst", from.use_original_dst.unwrap_or(false))?;
    if from.bind_to_port == Some(false) {
        return refuse("bind_to_port", "false is not supported yet");
    }
    let address = socket_address("address", from.address.as_ref())?;
    let (tls, routes, settings) = if connections::is_meant(from) {
        let (tls, routes) = connections::convert(from, slots)?;
        (tls, ParsedRoutes::Connections(routes), None)
    } else {
        requests(from, slots)?
    };
    let direction = direction(from.traffic_direction, tls.is_some());
    // Plain text from others would skip every check of who they are.
    if direction == Direction::Inbound && tls.is_none() && !address.ip().is_loopback() {
        return refuse(
            "filter_chains[0].transport_socket",
            "missing; an inbound listener needs mutual TLS",
        );
    }
    if direction == Direction::Outbound && !address.ip().is_loopback() {
        return refuse(
            "address.socket_address.address",
            format!(
                "{} is not a loopback address; an outbound listener would be an open proxy",
                address.ip()
            ),
        );
    }
    Ok(ParsedListener {
        name: from.name.clone(),
        address,
        direction,
        tls,
        routes,
        settings,
    })
}

/// What a listener for HTTP says.
type Requests = (
    Option<DownstreamTls>,
    ParsedRoutes,
    Option<Arc<HttpSettings>>,
);

/// The one connection manager of a listener for HTTP.
fn requests(from: &proto::Listener, slots: &mut route::Slots<'_>) -> Converted<Requests> {
    let [chain] = from.filter_chains.as_slice() else {
        return refuse(
            "filter_chains",
            format!(
                "has {} entries; with an HTTP connection manager exactly one is supported yet",
                from.filter_chains.len()
            ),
        );
    };
    if !from.listener_filters.is_empty() {
        return refuse(
            "listener_filters",
            "not supported yet with an HTTP connection manager",
        );
    }
    if chain
        .filter_chain_match
        .as_ref()
        .is_some_and(|found| *found != FilterChainMatch::default())
    {
        return refuse(
            "filter_chains[0].filter_chain_match",
            "not supported yet with an HTTP connection manager",
        );
    }
    let (tls, manager) = filter_chain(chain).map_err(|e| e.under("filter_chains[0]"))?;
    let path = "filter_chains[0].filters[0].typed_config";
    let routes = connection_manager(&manager, slots).map_err(|error| error.under(path))?;
    check_client_certificate_header(&manager, tls.is_some()).map_err(|error| error.under(path))?;
    let settings = manager::settings(&manager).map_err(|error| error.under(path))?;
    Ok((tls, routes, settings))
}

fn filter_chain(
    from: &proto::FilterChain,
) -> Converted<(Option<DownstreamTls>, HttpConnectionManager)> {
    let tls = match &from.transport_socket {
        Some(socket) => tls::downstream(socket).map_err(|e| e.under("transport_socket"))?,
        None => None,
    };
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
    let manager = unpack(any, HCM).map_err(|error| error.under("filters[0].typed_config"))?;
    Ok((tls, manager))
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

/// Inbound always deletes `x-forwarded-client-cert` and writes its own; outbound always deletes it.
fn check_client_certificate_header(from: &HttpConnectionManager, has_tls: bool) -> Converted<()> {
    let path = "forward_client_cert_details";
    match ForwardClientCertDetails::try_from(from.forward_client_cert_details) {
        Ok(ForwardClientCertDetails::SanitizeSet) if has_tls => {}
        Ok(ForwardClientCertDetails::Sanitize) if !has_tls => {}
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
    }
    match &from.set_current_client_cert_details {
        Some(details) if has_tls && !details.uri => {
            refuse("set_current_client_cert_details.uri", "must be true")
        }
        Some(_) if !has_tls => refuse(
            "set_current_client_cert_details",
            "has no effect without TLS",
        ),
        None if has_tls => refuse("set_current_client_cert_details.uri", "must be true"),
        _ => Ok(()),
    }
}
