//! Who asks: the node of a stream's first request, read once. Keys as in `docs/WIRE.md` (Istio's, and ours
//! under `OUTRIGGER`).

use std::{collections::BTreeMap, net::SocketAddr};

use outrigger_policy::{HostName, Protocol, ProxyProtocol};
use outrigger_proto::envoy::config::core::v3::{Locality, Node};
use prost_types::{Struct, Value, value::Kind};

use super::{
    grpc::{Credentials, PROVIDER},
    sds_cluster,
};

/// What kind of client it is; each understands a different part of xDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Our sidecar.
    Outrigger,
    /// Envoy, and anything that does not say what it is: the same resources.
    Envoy,
    /// A gRPC library without a proxy.
    Grpc(Credentials),
}

impl Dialect {
    /// As `outrigger status` says it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Outrigger => "outrigger",
            Self::Envoy => "envoy",
            Self::Grpc(_) => "grpc",
        }
    }
}

/// What translation needs to know of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeInfo {
    pub(crate) id: String,
    pub(crate) dialect: Dialect,
    /// As claimed; whether it may is checked against the stream's identity.
    pub(crate) namespace: String,
    /// As claimed, if it claims one.
    pub(crate) service_account: Option<String>,
    /// The service that its application is, as claimed: what its errors and metrics speak of.
    pub(crate) service: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Region, zone, sub-zone, if it says where it is.
    pub(crate) locality: Option<[String; 3]>,
    /// Where its HTTP proxy listens, if it wants one.
    pub(crate) http_proxy: Option<SocketAddr>,
    /// Its HTTP proxy asks for virtual hosts as requests need them (VHDS).
    pub(crate) on_demand: bool,
    /// Its keys and roots come from an SDS server of its own.
    pub(crate) sds_cluster: bool,
    /// Its inbound side, if it has one.
    pub(crate) inbound: Option<Inbound>,
    /// Connections of its application are redirected to it, and those to its application.
    pub(crate) capture: Option<Capture>,
    /// Where it answers its application's DNS queries, if it does.
    pub(crate) dns: Option<SocketAddr>,
}

/// How connections come to a proxy that did not ask for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capture {
    /// Where the application's connections are redirected to.
    pub(crate) listen: SocketAddr,
    /// Its host has IPv6: that port of `::1`, too.
    pub(crate) ipv6: bool,
    /// By TPROXY, so that it has to accept connections to addresses of others.
    pub(crate) transparent: bool,
}

impl Capture {
    /// The other family's address of the same port.
    pub(crate) fn also(&self) -> Option<SocketAddr> {
        let loopback = std::net::Ipv6Addr::LOCALHOST;
        (self.ipv6 && self.listen.is_ipv4()).then(|| (loopback, self.listen.port()).into())
    }
}

/// The inbound side of a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inbound {
    /// Where it listens for mTLS.
    pub(crate) listen: SocketAddr,
    /// Where its application listens.
    pub(crate) app: SocketAddr,
    /// The service's port.
    pub(crate) port: u16,
    /// What the application speaks.
    pub(crate) protocol: Protocol,
    /// The header that its connections begin with.
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
}

impl Inbound {
    /// The other family's address of the same port, where connections are redirected to all addresses of the host.
    pub(super) fn also(&self, node: &NodeInfo) -> Option<SocketAddr> {
        let ipv6 = node.capture.is_some_and(|capture| capture.ipv6);
        let any = std::net::Ipv6Addr::UNSPECIFIED;
        let open = self.listen.is_ipv4() && self.listen.ip().is_unspecified();
        (ipv6 && open).then(|| (any, self.listen.port()).into())
    }
}

impl NodeInfo {
    /// Reads a node.
    ///
    /// # Errors
    /// The field, what was found, and what would be right.
    pub(crate) fn parse(node: &Node) -> Result<Self, String> {
        let empty = Struct::default();
        let metadata = node.metadata.as_ref().unwrap_or(&empty);
        let own = field(metadata, "OUTRIGGER")
            .and_then(as_struct)
            .unwrap_or(&empty);
        let namespace = string(metadata, "NAMESPACE").or_else(|| Some(domain_of(&node.id)?.0));
        let namespace = namespace.unwrap_or("default");
        let domain = domain_of(&node.id).map_or(DEFAULT_DOMAIN, |(_, domain)| domain);
        let service = string(own, "SERVICE");
        let service = service.map(|name| HostName::canonical(name, namespace, domain).to_string());
        Ok(Self {
            id: node.id.clone(),
            dialect: dialect(node, metadata, own)?,
            namespace: namespace.to_owned(),
            service,
            service_account: string(metadata, "SERVICE_ACCOUNT").map(str::to_owned),
            labels: labels(field(metadata, "LABELS").and_then(as_struct)),
            locality: node.locality.as_ref().and_then(locality),
            http_proxy: socket(own, "HTTP_PROXY")?,
            on_demand: on_demand(own)?,
            sds_cluster: sds_cluster(own)?,
            inbound: inbound(own)?,
            capture: capture(metadata, own)?,
            dns: dns(metadata, own)?,
        })
    }
}

/// One without a region says nothing.
fn locality(of: &Locality) -> Option<[String; 3]> {
    let parts = [&of.region, &of.zone, &of.sub_zone];
    (!of.region.is_empty()).then(|| parts.map(Clone::clone))
}

/// By what it calls itself, or says that its configuration is generated for (Istio's key).
fn dialect(node: &Node, metadata: &Struct, own: &Struct) -> Result<Dialect, String> {
    let agent = node.user_agent_name.as_str();
    if agent == "outrigger" {
        return Ok(Dialect::Outrigger);
    }
    let grpc = agent.starts_with("gRPC") || agent.starts_with("grpc");
    if !grpc && string(metadata, "GENERATOR") != Some("grpc") {
        return Ok(Dialect::Envoy);
    }
    match string(own, "CERTIFICATE_PROVIDER") {
        None => Ok(Dialect::Grpc(Credentials::None)),
        Some(PROVIDER) => Ok(Dialect::Grpc(Credentials::Provider)),
        Some(other) => Err(format!(
            "node.metadata.OUTRIGGER.CERTIFICATE_PROVIDER is {other:?}; name the instance {PROVIDER:?}"
        )),
    }
}

fn on_demand(own: &Struct) -> Result<bool, String> {
    match field(own, "ON_DEMAND").map(|value| &value.kind) {
        None => Ok(false),
        Some(Some(Kind::BoolValue(on))) => Ok(*on),
        Some(_) => Err("node.metadata.OUTRIGGER.ON_DEMAND is not true or false".to_owned()),
    }
}

fn sds_cluster(own: &Struct) -> Result<bool, String> {
    match string(own, "SDS_CLUSTER") {
        None => Ok(false),
        Some(sds_cluster::NAME) => Ok(true),
        Some(other) => Err(format!(
            "node.metadata.OUTRIGGER.SDS_CLUSTER is {other:?}; call the cluster {:?}",
            sds_cluster::NAME
        )),
    }
}

/// Where Istio's rules redirect an application's connections to, if nothing else is said.
const OUTBOUND: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15001);

/// Istio's key for how, ours for where to.
fn capture(metadata: &Struct, own: &Struct) -> Result<Option<Capture>, String> {
    let transparent = match string(metadata, "INTERCEPTION_MODE") {
        None | Some("NONE") => return Ok(None),
        Some("REDIRECT") => false,
        Some("TPROXY") => true,
        Some(other) => {
            return Err(format!(
                "node.metadata.INTERCEPTION_MODE is {other:?}; use \"REDIRECT\", \"TPROXY\" or \"NONE\""
            ));
        }
    };
    let ipv6 = match field(own, "IPV6").map(|value| &value.kind) {
        None => false,
        Some(Some(Kind::BoolValue(on))) => *on,
        Some(_) => return Err("node.metadata.OUTRIGGER.IPV6 is not true or false".to_owned()),
    };
    let listen = socket(own, "OUTBOUND")?.unwrap_or(OUTBOUND);
    if !listen.ip().is_loopback() {
        return Err(format!(
            "node.metadata.OUTRIGGER.OUTBOUND is \"{listen}\"; others could call with this workload's identity: use an address of loopback, e.g. \"127.0.0.1:15001\""
        ));
    }
    Ok(Some(Capture {
        listen,
        ipv6,
        transparent,
    }))
}

/// Where Istio's rules redirect queries to.
const DNS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15053);

/// Istio's key for whether, ours for where.
fn dns(metadata: &Struct, own: &Struct) -> Result<Option<SocketAddr>, String> {
    if !captures_dns(metadata)? {
        return Ok(None);
    }
    let listen = socket(own, "DNS")?.unwrap_or(DNS);
    if listen.ip().is_loopback() {
        Ok(Some(listen))
    } else {
        Err(format!(
            "node.metadata.OUTRIGGER.DNS is \"{listen}\"; others could have it ask for them: use an address of loopback, e.g. \"127.0.0.1:15053\""
        ))
    }
}

/// A word, as Istio's agents write it, or a flag.
fn captures_dns(metadata: &Struct) -> Result<bool, String> {
    match field(metadata, "DNS_CAPTURE").map(|value| &value.kind) {
        None => Ok(false),
        Some(Some(Kind::BoolValue(on))) => Ok(*on),
        Some(Some(Kind::StringValue(text))) if matches!(text.as_str(), "true" | "false" | "") => {
            Ok(text == "true")
        }
        Some(_) => Err("node.metadata.DNS_CAPTURE is not \"true\" or \"false\"".to_owned()),
    }
}

fn inbound(own: &Struct) -> Result<Option<Inbound>, String> {
    let (Some(listen), Some(app)) = (socket(own, "INBOUND")?, socket(own, "APP")?) else {
        return Ok(None);
    };
    let protocol = match string(own, "PROTOCOL").unwrap_or("http") {
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" => Protocol::Tcp,
        "auto" => Protocol::Auto,
        other => {
            return Err(format!(
                "node.metadata.OUTRIGGER.PROTOCOL is {other:?}; use \"http\", \"http2\", \"grpc\", \"tcp\" or \"auto\""
            ));
        }
    };
    let proxy_protocol = match string(own, "APP_PROXY_PROTOCOL") {
        None => None,
        Some("V1") => Some(ProxyProtocol::V1),
        Some("V2") => Some(ProxyProtocol::V2),
        Some(other) => {
            return Err(format!(
                "node.metadata.OUTRIGGER.APP_PROXY_PROTOCOL is {other:?}; use \"V1\" or \"V2\""
            ));
        }
    };
    Ok(Some(Inbound {
        proxy_protocol,
        listen,
        app,
        port: port(own, app)?,
        protocol,
    }))
}

fn port(own: &Struct, app: SocketAddr) -> Result<u16, String> {
    match field(own, "PORT") {
        None => Ok(app.port()),
        Some(&Value {
            kind: Some(Kind::NumberValue(number)),
        }) if number.fract() == 0.0 && (1.0..=65_535.0).contains(&number) =>
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a whole number from 1 to 65535, as the guard says"
            )]
            Ok(number as u16)
        }
        Some(_) => {
            Err("node.metadata.OUTRIGGER.PORT is not a whole number from 1 to 65535".to_owned())
        }
    }
}

fn socket(own: &Struct, key: &str) -> Result<Option<SocketAddr>, String> {
    let Some(value) = field(own, key) else {
        return Ok(None);
    };
    let Some(text) = as_str(value) else {
        return Err(format!("node.metadata.OUTRIGGER.{key} is not a string"));
    };
    text.parse().map(Some).map_err(|_syntax| {
        format!("node.metadata.OUTRIGGER.{key} is {text:?}; use address and port, e.g. \"127.0.0.1:15080\"")
    })
}

/// Where Kubernetes' names, and so ours, end if nothing else is said.
const DEFAULT_DOMAIN: &str = "cluster.local";

/// Namespace and domain: the fourth part of `sidecar~<ip>~<name>.<ns>~<ns>.svc.<domain>`.
fn domain_of(id: &str) -> Option<(&str, &str)> {
    let (namespace, rest) = id.split('~').nth(3)?.split_once('.')?;
    let domain = rest.strip_prefix("svc.")?;
    (!namespace.is_empty()).then_some((namespace, domain))
}

fn labels(labels: Option<&Struct>) -> BTreeMap<String, String> {
    let fields = labels.into_iter().flat_map(|labels| &labels.fields);
    fields
        .filter_map(|(key, value)| Some((key.clone(), as_str(value)?.to_owned())))
        .collect()
}

fn field<'a>(of: &'a Struct, key: &str) -> Option<&'a Value> {
    of.fields
        .get(key)
        .filter(|value| !matches!(value.kind, None | Some(Kind::NullValue(_))))
}

fn string<'a>(of: &'a Struct, key: &str) -> Option<&'a str> {
    field(of, key)
        .and_then(as_str)
        .filter(|text| !text.is_empty())
}

fn as_str(value: &Value) -> Option<&str> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn as_struct(value: &Value) -> Option<&Struct> {
    match &value.kind {
        Some(Kind::StructValue(value)) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node whose metadata are these words, those with a dot under `OUTRIGGER`.
    fn saying(words: &[(&str, &str)]) -> Result<NodeInfo, String> {
        let text = |text: &str| Value {
            kind: Some(match text {
                "yes" => Kind::BoolValue(true),
                text => Kind::StringValue(text.to_owned()),
            }),
        };
        let (own, plain): (Vec<_>, Vec<_>) =
            words.iter().partition(|(key, _)| key.starts_with('.'));
        let own = own.iter().map(|(key, value)| {
            let key = key.trim_start_matches('.');
            (key.to_owned(), text(value))
        });
        let own = Struct {
            fields: own.collect(),
        };
        let own = Value {
            kind: Some(Kind::StructValue(own)),
        };
        let plain = plain
            .iter()
            .map(|(key, value)| ((*key).to_owned(), text(value)));
        let metadata = Struct {
            fields: plain.chain([("OUTRIGGER".to_owned(), own)]).collect(),
        };
        NodeInfo::parse(&Node {
            metadata: Some(metadata),
            ..Node::default()
        })
    }

    #[test]
    fn a_node_says_how_its_connections_are_captured() {
        let found = |words: &[(&str, &str)]| saying(words).unwrap().capture;
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("INTERCEPTION_MODE", "NONE")]), None);
        let plain = found(&[("INTERCEPTION_MODE", "REDIRECT")]).unwrap();
        assert_eq!(plain.listen, "127.0.0.1:15001".parse().unwrap());
        assert_eq!((plain.also(), plain.transparent), (None, false));
        let all = found(&[
            ("INTERCEPTION_MODE", "TPROXY"),
            (".OUTBOUND", "127.0.0.1:16001"),
            (".IPV6", "yes"),
        ]);
        let all = all.unwrap();
        assert_eq!(all.also(), Some("[::1]:16001".parse().unwrap()));
        assert!(all.transparent);
    }

    #[test]
    fn a_node_that_could_be_called_by_others_as_itself_is_refused() {
        let error = |words: &[(&str, &str)]| saying(words).unwrap_err();
        let open = [
            ("INTERCEPTION_MODE", "REDIRECT"),
            (".OUTBOUND", "0.0.0.0:15001"),
        ];
        assert!(error(&open).contains("OUTBOUND is \"0.0.0.0:15001\""));
        assert!(error(&[("INTERCEPTION_MODE", "IPTABLES")]).contains("INTERCEPTION_MODE"));
        assert!(error(&[("DNS_CAPTURE", "on")]).contains("DNS_CAPTURE"));
    }

    #[test]
    fn a_node_says_whether_it_answers_dns() {
        for (word, dns) in [("true", true), ("false", false), ("yes", true)] {
            let found = saying(&[("DNS_CAPTURE", word)]).unwrap();
            assert_eq!(found.dns.is_some(), dns, "{word}");
        }
        assert_eq!(saying(&[]).unwrap().dns, None);
        let at = |address| saying(&[("DNS_CAPTURE", "true"), (".DNS", address)]);
        let dns = at("127.0.0.2:53").unwrap().dns;
        assert_eq!(dns, Some("127.0.0.2:53".parse().unwrap()));
        assert!(at("0.0.0.0:53").unwrap_err().contains("OUTRIGGER.DNS"));
    }

    #[test]
    fn the_service_is_named_in_full() {
        let text = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        let node = |service: &str| {
            let own = Struct {
                fields: [("SERVICE".to_owned(), text(service))].into(),
            };
            let own = Value {
                kind: Some(Kind::StructValue(own)),
            };
            let metadata = Struct {
                fields: [("OUTRIGGER".to_owned(), own)].into(),
            };
            Node {
                id: "sidecar~10.0.0.1~reviews-15006.shop~shop.svc.example.org".to_owned(),
                metadata: Some(metadata),
                ..Node::default()
            }
        };
        for service in ["reviews", "reviews.shop.svc.example.org"] {
            let info = NodeInfo::parse(&node(service)).unwrap();
            let named = info.service.as_deref();
            assert_eq!(named, Some("reviews.shop.svc.example.org"));
            assert_eq!(info.namespace, "shop");
        }
        assert_eq!(NodeInfo::parse(&Node::default()).unwrap().service, None);
    }
}
