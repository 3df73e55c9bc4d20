//! An Envoy bootstrap file: who we are to somebody else's management server, and the way to it. JSON or YAML.
//!
//! Read: `node`, `dynamic_resources` (`ads_config`; `lds_config` and `cds_config`, which must be `ads`), and of
//! `static_resources.clusters` the one that `ads_config` names. Whatever else the file says is refused by file and
//! field: a setting that is read and dropped would be worse.
//! Source: Envoy's `config.bootstrap.v3.Bootstrap`.

mod server;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use outrigger_proto::envoy::config::{
    cluster::v3::Cluster,
    core::v3::{
        ApiConfigSource, ApiVersion, GrpcService, Node, api_config_source::ApiType,
        node::UserAgentVersionType,
    },
};
use prost::Message;
use prost_reflect::DynamicMessage;
use prost_types::Any;
use serde_json::{Map, Value};
pub(crate) use server::{Place, Server};

use crate::{
    XdsProtocol,
    xds::convert::{
        self, BESIDE, Converted, FieldError,
        fields::{self, POOL},
        refuse,
    },
};

/// Of a bootstrap file.
const MAX_FILE: u64 = 4 << 20;
/// What a bootstrap file says.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub(crate) node: Node,
    pub(crate) protocol: XdsProtocol,
    pub(crate) server: Server,
    /// Socket of an agent that delivers our identity.
    pub(crate) secrets: Option<PathBuf>,
}

/// Why a bootstrap file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// It cannot be read.
    #[error("bootstrap file {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It is neither YAML nor JSON, or says what we cannot do; the message names the field.
    #[error("{file}: {problem}", file = .file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// Field, what is in it, what would be right.
        problem: String,
    },
}

impl Bootstrap {
    /// Reads `file`.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub fn read(file: &Path) -> Result<Self, BootstrapError> {
        let unreadable = |error| BootstrapError::Read(file.to_owned(), error);
        let refused = |problem: &dyn fmt::Display| BootstrapError::Refused {
            file: file.to_owned(),
            problem: problem.to_string(),
        };
        let length = std::fs::metadata(file).map_err(unreadable)?.len();
        if length > MAX_FILE {
            return Err(refused(&format!("{length} bytes; at most {MAX_FILE}")));
        }
        let text = std::fs::read_to_string(file).map_err(unreadable)?;
        Self::parse(&text).map_err(|error| refused(&error))
    }

    fn parse(text: &str) -> Converted<Self> {
        // JSON is YAML. Only `true` and `false` are booleans: a node may be called `n`.
        let options = serde_saphyr::options! { strict_booleans: true };
        let root: Value = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| FieldError::new("", format!("is neither YAML nor JSON: {error}")))?;
        let root = object("", &root)?;
        only("", root, &["node", "dynamic_resources", "static_resources"])?;
        let node = node(root.get("node"))?;
        let dynamic = under(root, "", "dynamic_resources")?;
        let path = "dynamic_resources";
        only(path, dynamic, &["ads_config", "lds_config", "cds_config"])?;
        for name in ["lds_config", "cds_config"] {
            by_ads(&format!("{path}.{name}"), dynamic.get(name))?;
        }
        let path = "dynamic_resources.ads_config";
        let Some(ads) = dynamic.get("ads_config") else {
            return refuse(path, "missing; a management server is needed");
        };
        let ads: ApiConfigSource = read(path, "envoy.config.core.v3.ApiConfigSource", ads)?;
        let (protocol, service) = source(&ads).map_err(|error| error.under(path))?;
        let mut clusters = clusters(root.get("static_resources"))?;
        let secrets = match clusters.iter().position(|(_, one)| one.name == BESIDE) {
            Some(index) => {
                let (path, cluster) = clusters.remove(index);
                Some(server::socket(&cluster).map_err(|error| error.under(path))?)
            }
            None => None,
        };
        let path = format!("{path}.grpc_services[0]");
        Ok(Self {
            node,
            protocol,
            server: server::server(&path, service, &clusters)?,
            secrets,
        })
    }

    /// A name for telemetry: the node's cluster, else its id.
    #[must_use]
    pub fn service(&self) -> &str {
        if self.node.cluster.is_empty() {
            &self.node.id
        } else {
            &self.node.cluster
        }
    }

    /// Region, zone and sub-zone of the node.
    #[must_use]
    pub fn locality(&self) -> [String; 3] {
        let own = self.node.locality.clone().unwrap_or_default();
        [own.region, own.zone, own.sub_zone]
    }
}

fn object<'a>(path: &str, value: &'a Value) -> Converted<&'a Map<String, Value>> {
    match value {
        Value::Object(fields) => Ok(fields),
        _ => refuse(path, "must be an object"),
    }
}

fn under<'a>(
    from: &'a Map<String, Value>,
    path: &str,
    name: &str,
) -> Converted<&'a Map<String, Value>> {
    let path = joined(path, name);
    match from.get(name) {
        Some(value) => object(&path, value),
        None => refuse(path, "missing"),
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        return name.to_owned();
    }
    format!("{path}.{name}")
}

/// Refuses every other field.
fn only(path: &str, fields: &Map<String, Value>, known: &[&str]) -> Converted<()> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(other) => {
            let hint = match other.as_str() {
                "admin" => "; use --admin",
                "layered_runtime" | "overload_manager" | "stats_sinks" => "; leave it out",
                _ => "",
            };
            let known = known.join(", ");
            refuse(
                joined(path, other),
                format!("not supported yet{hint} (supported here: {known})"),
            )
        }
    }
}

/// A message in protobuf's JSON form.
fn read<T: Message + Default>(path: &str, name: &str, value: &Value) -> Converted<T> {
    let bytes = bytes(path, name, value)?;
    T::decode(bytes.as_slice()).map_err(|error| FieldError::new(path, error.to_string()))
}

fn bytes(path: &str, name: &str, value: &Value) -> Converted<Vec<u8>> {
    let descriptor = POOL
        .get_message_by_name(name)
        .ok_or_else(|| FieldError::new(path, format!("{name} is unknown")))?;
    let message = DynamicMessage::deserialize(descriptor, value)
        .map_err(|error| FieldError::new(path, format!("is no {name}: {error}")))?;
    Ok(message.encode_to_vec())
}

fn node(from: Option<&Value>) -> Converted<Node> {
    let Some(from) = from else {
        return refuse("node", "missing; a management server knows us by it");
    };
    let mut node: Node = read("node", "envoy.config.core.v3.Node", from)?;
    if node.id.is_empty() {
        return refuse("node.id", "missing");
    }
    if node.user_agent_name.is_empty() {
        node.user_agent_name = "outrigger".to_owned();
        node.user_agent_version_type = Some(UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").to_owned(),
        ));
    }
    Ok(node)
}

/// `{ads: {}}` of the third version, which may wait for ever.
fn by_ads(path: &str, from: Option<&Value>) -> Converted<()> {
    let Some(from) = from else {
        return refuse(path, "missing; must be {ads: {}, resource_api_version: V3}");
    };
    let fields = object(path, from)?;
    let known = ["ads", "resource_api_version", "initial_fetch_timeout"];
    only(path, fields, &known)?;
    if !fields.contains_key("ads") {
        return refuse(joined(path, "ads"), "missing");
    }
    for (name, expected) in [
        ("resource_api_version", "V3"),
        ("initial_fetch_timeout", "0s"),
    ] {
        if let Some(found) = fields.get(name)
            && found.as_str() != Some(expected)
        {
            return refuse(joined(path, name), format!("{found}; must be {expected:?}"));
        }
    }
    Ok(())
}

/// Form and service of `ads_config`.
fn source(from: &ApiConfigSource) -> Converted<(XdsProtocol, &GrpcService)> {
    let protocol = match ApiType::try_from(from.api_type) {
        Ok(ApiType::Grpc) => XdsProtocol::Sotw,
        Ok(ApiType::DeltaGrpc) => XdsProtocol::Delta,
        Ok(other) => {
            let message = format!("{}; must be GRPC or DELTA_GRPC", other.as_str_name());
            return refuse("api_type", message);
        }
        Err(_unknown) => return refuse("api_type", "is unknown; must be GRPC or DELTA_GRPC"),
    };
    if from.transport_api_version == i32::from(ApiVersion::V2) {
        return refuse("transport_api_version", "V2; must be V3");
    }
    let [service] = from.grpc_services.as_slice() else {
        let message = format!("has {} entries; must have one", from.grpc_services.len());
        return refuse("grpc_services", message);
    };
    let known = ApiConfigSource {
        api_type: from.api_type,
        grpc_services: from.grpc_services.clone(),
        // A server has to keep the node of the first request, whatever is said here.
        set_node_on_first_message_only: from.set_node_on_first_message_only,
        transport_api_version: from.transport_api_version,
        ..ApiConfigSource::default()
    };
    if *from != known {
        return refuse(
            "",
            "has fields that are not supported yet (supported: api_type, transport_api_version, grpc_services, \
             set_node_on_first_message_only)",
        );
    }
    Ok((protocol, service))
}

/// Each static cluster, and its path.
fn clusters(from: Option<&Value>) -> Converted<Vec<(String, Cluster)>> {
    let path = "static_resources";
    let Some(from) = from else {
        return Ok(Vec::new());
    };
    let from = object(path, from)?;
    only(path, from, &["clusters"])?;
    let Some(Value::Array(found)) = from.get("clusters") else {
        return refuse(format!("{path}.clusters"), "must be a list");
    };
    let mut clusters = Vec::with_capacity(found.len());
    for (index, value) in found.iter().enumerate() {
        let path = format!("{path}.clusters[{index}]");
        const NAME: &str = "envoy.config.cluster.v3.Cluster";
        let mut value = value.clone();
        if let Value::Object(fields) = &mut value {
            // The deprecated way to say what every management server is spoken to with.
            fields.remove("http2_protocol_options");
        }
        let any = Any {
            type_url: format!("type.googleapis.com/{NAME}"),
            value: bytes(&path, NAME, &value)?,
        };
        fields::check(&any).map_err(|error| error.under(&path))?;
        clusters.push((path.clone(), convert::unpack(&any, NAME)?));
    }
    Ok(clusters)
}

#[cfg(test)]
mod tests;
