//! Small pieces that every resource is made of: typed `Any`, metadata, addresses, config sources.

use std::{net::SocketAddr, time::Duration};

use outrigger_policy::{ObjectKey, Position, Subnet};
use outrigger_proto::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, CidrRange, ConfigSource, Metadata, SocketAddress,
    address, config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
};
use prost::Message;
use prost_types::{Any, ListValue, Struct, Value, value::Kind};

/// Where our own metadata lives in any xDS message.
pub(crate) const OUTRIGGER: &str = "outrigger";

/// Wraps a message of type `name`, e.g. `envoy.extensions.filters.http.router.v3.Router`.
pub(super) fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

/// Everything that is discovered comes over the one ADS stream.
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3 as i32,
        ..ConfigSource::default()
    }
}

pub(super) fn address(socket: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: socket.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(socket.port().into())),
            ..SocketAddress::default()
        })),
    }
}

/// A network.
pub(super) fn range(net: Subnet) -> CidrRange {
    CidrRange {
        address_prefix: net.address.to_string(),
        prefix_len: Some(net.prefix.into()),
    }
}

/// Durations of policy are bounded by `parse`; one that does not fit is the longest that does.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration {
        seconds: 315_576_000_000,
        nanos: 0,
    })
}

pub(super) fn text(text: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.into())),
    }
}

pub(super) fn number(number: impl Into<f64>) -> Value {
    Value {
        kind: Some(Kind::NumberValue(number.into())),
    }
}

pub(super) fn flag(flag: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(flag)),
    }
}

/// As a whole number of milliseconds, 1 or more.
pub(super) fn millis(duration: Duration) -> Value {
    let whole = duration.as_millis().clamp(1, u32::MAX.into());
    number(u32::try_from(whole).unwrap_or(u32::MAX))
}

pub(super) fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Struct {
    Struct {
        fields: fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    }
}

pub(super) fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue {
            values: values.into_iter().collect(),
        })),
    }
}

pub(super) fn nested(value: Struct) -> Value {
    Value {
        kind: Some(Kind::StructValue(value)),
    }
}

pub(super) fn metadata<'a>(filters: impl IntoIterator<Item = (&'a str, Struct)>) -> Metadata {
    Metadata {
        filter_metadata: filters
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        ..Metadata::default()
    }
}

/// Which line of which document decided: what errors, spans and `outrigger why` name.
pub(super) fn decided_by(position: &Position, document: &ObjectKey) -> [(&'static str, Value); 2] {
    [
        ("position", text(position.to_string())),
        ("document", text(document.to_string())),
    ]
}
