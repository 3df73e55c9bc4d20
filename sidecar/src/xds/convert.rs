//! From xDS messages to the types of `core`. Everything is validated here, once; a resource that says anything we
//! would not do is refused with the name of the field, never applied in part.
//!
//! ```text
//! Any ──fields::check──► every populated field is one we read ──listener|route|cluster|endpoint|tls──► core types
//! ```

mod aggregate;
mod balancing;
mod beyond;
mod chains;
pub(crate) mod cluster;
mod connections;
mod dns;
pub(crate) mod endpoint;
mod features;
pub(crate) mod fields;
pub(crate) mod filters;
mod limits;
pub(crate) mod listener;
pub(crate) mod manager;
mod matches;
pub(crate) mod names;
pub(crate) mod outside_tls;
mod proxy_protocol;
mod retry;
pub(crate) mod route;
#[cfg(test)]
mod tests;
pub(crate) mod tls;

use std::{fmt, sync::Arc, time::Duration};

use outrigger_proto::envoy::config::core::v3::{
    ApiVersion, ConfigSource, Metadata, TrafficDirection, address, api_config_source::ApiType,
    config_source, grpc_service::TargetSpecifier, socket_address,
};
use prost_types::{Any, Struct, Value, value};

/// Why a resource is refused: which field, what is in it, what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// `filter_chains[0].filters[0].typed_config.rds`; empty = the resource itself.
    pub(crate) path: String,
    pub(crate) message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl FieldError {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }

    /// The same error seen from the message that holds `field`.
    pub(crate) fn under(mut self, field: impl fmt::Display) -> Self {
        self.path = if self.path.is_empty() {
            field.to_string()
        } else {
            format!("{field}.{}", self.path)
        };
        self
    }
}

pub(crate) type Converted<T> = Result<T, FieldError>;

/// Shorthand for a refusal.
pub(crate) fn refuse<T>(path: impl Into<String>, message: impl Into<String>) -> Converted<T> {
    Err(FieldError::new(path, message))
}

/// Refuses what the schema knows and we do not do.
pub(crate) fn unsupported<T>(path: impl Into<String>) -> Converted<T> {
    refuse(path, "not supported yet")
}

/// Refuses `true`.
pub(crate) fn must_be_false(path: &str, value: bool) -> Converted<()> {
    if value {
        return refuse(path, "true is not supported yet");
    }
    Ok(())
}

/// Decodes the message inside `any`, which must be an `expected`, e.g. `envoy.config.cluster.v3.Cluster`.
pub(crate) fn unpack<T: prost::Message + Default>(any: &Any, expected: &str) -> Converted<T> {
    let found = fields::type_name(&any.type_url);
    if found != expected {
        return refuse("", format!("expected a {expected}, found {found:?}"));
    }
    T::decode(any.value.as_slice())
        .map_err(|error| FieldError::new("", format!("not a valid {expected}: {error}")))
}

/// A positive or zero duration.
pub(crate) fn duration(path: &str, value: &prost_types::Duration) -> Converted<Duration> {
    outrigger_proto::length(value).ok_or_else(|| {
        FieldError::new(
            path,
            format!(
                "{}.{:09}s is not a duration of 0 to 315576000000 s",
                value.seconds, value.nanos
            ),
        )
    })
}

/// A duration of more than zero, or `default`.
pub(crate) fn positive(
    path: &str,
    value: Option<&prost_types::Duration>,
    default: Duration,
) -> Converted<Duration> {
    match value.map(|value| duration(path, value)).transpose()? {
        None => Ok(default),
        Some(Duration::ZERO) => refuse(path, "0s; must be more than zero"),
        Some(value) => Ok(value),
    }
}

/// Refuses every source but the stream that this resource came on, and another wait for it than ours.
pub(crate) fn must_be_ads(path: &str, source: Option<&ConfigSource>) -> Converted<()> {
    is_ads(path, source)?;
    match source.and_then(|source| source.initial_fetch_timeout.as_ref()) {
        Some(_) => unsupported(format!("{path}.initial_fetch_timeout")),
        None => Ok(()),
    }
}

/// The same of something that nothing here waits for, so that it does not matter how long it may take.
pub(crate) fn must_be_ads_unawaited(path: &str, source: Option<&ConfigSource>) -> Converted<()> {
    is_ads(path, source)?;
    let wait = source.and_then(|source| source.initial_fetch_timeout.as_ref());
    let path = format!("{path}.initial_fetch_timeout");
    wait.map_or(Ok(()), |wait| duration(&path, wait).map(drop))
}

/// The same of a secret, which may also come from an agent beside us: the cluster of the bootstrap that leads to it, and
/// no other server.
pub(crate) fn must_be_ads_or_beside(path: &str, source: Option<&ConfigSource>) -> Converted<()> {
    let Some(config_source::ConfigSourceSpecifier::ApiConfigSource(api)) =
        source.and_then(|source| source.config_source_specifier.as_ref())
    else {
        return must_be_ads_unawaited(path, source);
    };
    let named = match api.grpc_services.as_slice() {
        [service] => match &service.target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(target)) => target.cluster_name.as_str(),
            _ => "",
        },
        _ => "",
    };
    let is_grpc = [ApiType::Grpc, ApiType::DeltaGrpc].map(i32::from);
    if named == BESIDE && is_grpc.contains(&api.api_type) {
        return Ok(());
    }
    refuse(
        path,
        format!("must be `ads`, or GRPC of the bootstrap's cluster {BESIDE:?}"),
    )
}

/// The cluster of a bootstrap file that leads to an agent with secrets (Istio's name).
pub(crate) const BESIDE: &str = "sds-grpc";

fn is_ads(path: &str, source: Option<&ConfigSource>) -> Converted<()> {
    let Some(source) = source else {
        return refuse(path, "missing; must be `ads`");
    };
    if source.resource_api_version == i32::from(ApiVersion::V2) {
        return refuse(format!("{path}.resource_api_version"), "V2; must be V3");
    }
    match source.config_source_specifier {
        Some(
            config_source::ConfigSourceSpecifier::Ads(_)
            | config_source::ConfigSourceSpecifier::Self_(_),
        ) => Ok(()),
        Some(
            config_source::ConfigSourceSpecifier::ApiConfigSource(_)
            | config_source::ConfigSourceSpecifier::PathConfigSource(_),
        )
        | None => refuse(path, "must be `ads`"),
    }
}

/// An IP address and port.
pub(crate) fn socket_address(
    path: &str,
    value: Option<&outrigger_proto::envoy::config::core::v3::Address>,
) -> Converted<std::net::SocketAddr> {
    let found = match value.and_then(|value| value.address.as_ref()) {
        Some(address::Address::SocketAddress(found)) => found,
        Some(address::Address::Pipe(_)) => return unsupported(format!("{path}.pipe")),
        Some(address::Address::EnvoyInternalAddress(_)) => {
            return unsupported(format!("{path}.envoy_internal_address"));
        }
        None => return refuse(path, "missing; must be a socket_address"),
    };
    let path = format!("{path}.socket_address");
    if found.protocol != i32::from(socket_address::Protocol::Tcp) {
        return unsupported(format!("{path}.protocol"));
    }
    let ip: std::net::IpAddr = found.address.parse().map_err(|_error| {
        FieldError::new(
            format!("{path}.address"),
            format!("{:?} is not an IP address", found.address),
        )
    })?;
    let port = match &found.port_specifier {
        Some(socket_address::PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).map_err(|_error| {
                FieldError::new(
                    format!("{path}.port_value"),
                    format!("{port} is not a port; at most 65535"),
                )
            })?
        }
        Some(socket_address::PortSpecifier::NamedPort(_)) => {
            return unsupported(format!("{path}.named_port"));
        }
        None => return refuse(format!("{path}.port_value"), "missing"),
    };
    Ok((ip, port).into())
}

/// Our part of a resource's metadata.
#[derive(Debug, Default)]
pub(crate) struct Ours {
    pub(crate) position: Option<Arc<str>>,
    pub(crate) service: Option<String>,
    pub(crate) subset: Option<String>,
    pub(crate) limits_scope: Option<String>,
}

/// Reads `filter_metadata["outrigger"]`; other keys belong to others and mean nothing here.
pub(crate) fn ours(metadata: Option<&Metadata>) -> Ours {
    let Some(ours) = metadata.and_then(|metadata| metadata.filter_metadata.get("outrigger")) else {
        return Ours::default();
    };
    Ours {
        position: string(ours, "position").map(Into::into),
        service: string(ours, "service").map(str::to_owned),
        subset: string(ours, "subset").map(str::to_owned),
        limits_scope: string(ours, "limits_scope").map(str::to_owned),
    }
}

/// A string in a struct.
pub(crate) fn string<'a>(from: &'a Struct, key: &str) -> Option<&'a str> {
    match from.fields.get(key) {
        Some(Value {
            kind: Some(value::Kind::StringValue(text)),
        }) => Some(text),
        _ => None,
    }
}

/// `traffic_direction`, or what the listener's transport says.
pub(crate) fn direction(value: i32, has_tls: bool) -> outrigger_core::Direction {
    match TrafficDirection::try_from(value) {
        Ok(TrafficDirection::Inbound) => outrigger_core::Direction::Inbound,
        Ok(TrafficDirection::Unspecified) if has_tls => outrigger_core::Direction::Inbound,
        Ok(TrafficDirection::Outbound | TrafficDirection::Unspecified) | Err(_) => {
            outrigger_core::Direction::Outbound
        }
    }
}
