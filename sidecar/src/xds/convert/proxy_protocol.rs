//! PROXY protocol: the listener filter → [`ProxyProtocol`]; the transport socket that writes headers around another one →
//! [`ProxyVersion`].

use std::borrow::Cow;

use outrigger_core::{ProxyProtocol, ProxyVersion};
use outrigger_proto::envoy::{
    config::{
        cluster::v3::Cluster,
        core::v3::{TransportSocket, proxy_protocol_config::Version, transport_socket},
        listener::v3::{Listener, ListenerFilter, listener_filter},
    },
    extensions::{
        filters::listener::proxy_protocol::v3 as filter,
        transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport,
    },
};
use prost_types::Any;

use super::{Converted, chains, fields::type_name, refuse, unpack};

pub(super) const FILTER: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
const UPSTREAM: &str =
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// What a listener takes. Before it only the original destination may be looked at: a header comes before all other bytes.
pub(super) fn taken(from: &Listener) -> Converted<Option<ProxyProtocol>> {
    let config = |filter: &ListenerFilter, wanted: &str| match &filter.config_type {
        Some(listener_filter::ConfigType::TypedConfig(any)) => {
            (type_name(&any.type_url) == wanted).then(|| any.clone())
        }
        _ => None,
    };
    let filters = from.listener_filters.as_slice();
    let Some(at) = filters.iter().position(|one| config(one, FILTER).is_some()) else {
        return Ok(None);
    };
    let (before, rest) = filters.split_at(at);
    let is_first = |one: &ListenerFilter| config(one, chains::ORIGINAL_DST).is_some();
    let later = rest
        .iter()
        .skip(1)
        .position(|one| config(one, FILTER).is_some());
    if !before.iter().all(is_first) || later.is_some() {
        let path = format!(
            "listener_filters[{}]",
            later.map_or(at, |later| at + 1 + later)
        );
        return refuse(
            path,
            "must be the first but for original_dst, and there once: the header comes before everything else",
        );
    }
    let Some(any) = rest.first().and_then(|one| config(one, FILTER)) else {
        return Ok(None);
    };
    let path = format!("listener_filters[{at}].typed_config");
    let found: filter::ProxyProtocol = unpack(&any, FILTER).map_err(|error| error.under(&path))?;
    let mut versions = (true, true);
    for version in &found.disallowed_versions {
        match Version::try_from(*version) {
            Ok(Version::V1) => versions.0 = false,
            Ok(Version::V2) => versions.1 = false,
            Err(_unknown) => {
                return refuse(format!("{path}.disallowed_versions"), "is unknown");
            }
        }
    }
    if versions == (false, false) {
        let path = format!("{path}.disallowed_versions");
        return refuse(path, "has all versions: no connection could be taken");
    }
    let taken = ProxyProtocol {
        optional: found.allow_requests_without_proxy_protocol,
        versions,
        within: chains::hello_timeout(from, false)?,
        silence_is_none: from.continue_on_listener_filters_timeout,
    };
    Ok(Some(taken))
}

/// What connections of a cluster begin with, and the cluster without that.
pub(super) fn unwrapped(from: &Cluster) -> Converted<(Option<ProxyVersion>, Cow<'_, Cluster>)> {
    let sockets = || {
        let of_matches = from.transport_socket_matches.iter();
        let of_matches = of_matches.filter_map(|one| one.transport_socket.as_ref());
        from.transport_socket.iter().chain(of_matches)
    };
    if !sockets().any(|socket| wrapper(socket).is_some()) {
        return Ok((None, Cow::Borrowed(from)));
    }
    let mut unwrapped = from.clone();
    let mut version = None;
    let mut strip = |socket: &mut TransportSocket, path: &str| {
        let Some(any) = wrapper(socket) else {
            let message =
                "must begin connections with a PROXY protocol header, as the cluster's others do";
            return refuse(path, message);
        };
        let path = format!("{path}.typed_config");
        let (found, inner) = read(any).map_err(|error| error.under(&path))?;
        if version.replace(found).is_some_and(|before| before != found) {
            return refuse(
                format!("{path}.config.version"),
                "is another than that of the cluster's others",
            );
        }
        *socket = inner;
        Ok(())
    };
    if let Some(socket) = &mut unwrapped.transport_socket {
        strip(socket, "transport_socket")?;
    }
    for (index, one) in unwrapped.transport_socket_matches.iter_mut().enumerate() {
        if let Some(socket) = &mut one.transport_socket {
            let path = format!("transport_socket_matches[{index}].transport_socket");
            strip(socket, &path)?;
        }
    }
    Ok((version, Cow::Owned(unwrapped)))
}

fn wrapper(socket: &TransportSocket) -> Option<&Any> {
    match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) => {
            (type_name(&any.type_url) == UPSTREAM).then_some(any)
        }
        None => None,
    }
}

fn read(any: &Any) -> Converted<(ProxyVersion, TransportSocket)> {
    let found: ProxyProtocolUpstreamTransport = unpack(any, UPSTREAM)?;
    let version = match Version::try_from(found.config.map_or(0, |config| config.version)) {
        Ok(Version::V1) => ProxyVersion::V1,
        Ok(Version::V2) => ProxyVersion::V2,
        Err(_unknown) => return refuse("config.version", "is unknown; V1 or V2"),
    };
    match found.transport_socket {
        Some(inner) if wrapper(&inner).is_none() => Ok((version, inner)),
        Some(_) => refuse("transport_socket", "is another PROXY protocol header"),
        None => refuse("transport_socket", "missing"),
    }
}

#[cfg(test)]
mod tests;
