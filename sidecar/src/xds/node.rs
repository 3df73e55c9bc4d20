//! Who we say we are: the node of the first request on every stream.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use outrigger_proto::envoy::config::core::v3::{Locality, Node, node::UserAgentVersionType};
use prost_types::{Struct, Value, value::Kind};

use crate::{App, CaptureMode, Discovery, ProxyVersion, Workload};

/// Domain of a service that is named without one.
const DEFAULT_DOMAIN: &str = "cluster.local";

/// Ports that the node tells of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// There is a DNS server.
    pub(crate) dns: bool,
    pub(crate) outbound: SocketAddr,
    /// None = takes no calls from others.
    pub(crate) inbound: Option<SocketAddr>,
    /// Takes redirected connections of the application; None = there are none.
    pub(crate) captured: Option<(CaptureMode, SocketAddr)>,
    /// These are of both families.
    pub(crate) ipv6: bool,
}

pub(crate) fn node(
    workload: &Workload,
    app: Option<&App>,
    ip: IpAddr,
    ports: Ports,
    discovery: Discovery,
) -> Node {
    let namespace = &workload.namespace;
    let (service, domain) = short_name(&workload.service, namespace);
    let mut ours = BTreeMap::from([
        ("HTTP_PROXY".to_owned(), text(&ports.outbound)),
        ("SERVICE".to_owned(), text(&workload.service)),
    ]);
    if discovery == Discovery::OnDemand {
        ours.insert("ON_DEMAND".to_owned(), value(Kind::BoolValue(true)));
    }
    if let Some(inbound) = ports.inbound {
        ours.insert("INBOUND".to_owned(), text(&inbound));
    }
    if let Some((_, captured)) = ports.captured {
        ours.insert("OUTBOUND".to_owned(), text(&captured));
        ours.insert("IPV6".to_owned(), value(Kind::BoolValue(ports.ipv6)));
    }
    if let Some(app) = app {
        ours.insert("APP".to_owned(), text(&app.address));
        ours.insert(
            "PORT".to_owned(),
            value(Kind::NumberValue(f64::from(app.port))),
        );
        ours.insert("PROTOCOL".to_owned(), text(&app.protocol));
        if let Some(version) = app.proxy_protocol {
            let version = match version {
                ProxyVersion::V1 => "V1",
                ProxyVersion::V2 => "V2",
            };
            ours.insert("APP_PROXY_PROTOCOL".to_owned(), text(&version));
        }
    }
    let labels = workload
        .labels
        .iter()
        .map(|(key, label)| (key.clone(), text(label)))
        .collect();
    let interception = ports.captured.and_then(|(mode, _)| match mode {
        CaptureMode::None => None,
        CaptureMode::Redirect => Some("REDIRECT"),
        CaptureMode::Tproxy => Some("TPROXY"),
    });
    let mut metadata = BTreeMap::from([
        ("NAMESPACE".to_owned(), text(namespace)),
        (
            "SERVICE_ACCOUNT".to_owned(),
            text(&workload.service_account),
        ),
        ("WORKLOAD_NAME".to_owned(), text(&service)),
        ("INSTANCE_IPS".to_owned(), text(&ip)),
        ("LABELS".to_owned(), object(labels)),
        ("OUTRIGGER".to_owned(), object(ours)),
    ]);
    if ports.dns {
        // Istio's words: names are asked for.
        metadata.insert("DNS_CAPTURE".to_owned(), text(&"true"));
    }
    metadata.extend(interception.map(|mode| ("INTERCEPTION_MODE".to_owned(), text(&mode))));
    let [region, zone, sub_zone] = workload.locality.clone();
    // Istio has the pod's name here. A port of ours tells copies of one service on one address apart.
    let port = ports.inbound.unwrap_or(ports.outbound).port();
    Node {
        id: format!("sidecar~{ip}~{service}-{port}.{namespace}~{namespace}.svc.{domain}"),
        cluster: format!("{service}.{namespace}"),
        metadata: Some(Struct { fields: metadata }),
        locality: Some(Locality {
            region,
            zone,
            sub_zone,
        }),
        user_agent_name: "outrigger".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").to_owned(),
        )),
        ..Node::default()
    }
}

/// Who a client is, if it is nothing else.
pub(crate) fn identity_metadata(workload: &Workload) -> Struct {
    Struct {
        fields: BTreeMap::from([
            ("NAMESPACE".to_owned(), text(&workload.namespace)),
            (
                "SERVICE_ACCOUNT".to_owned(),
                text(&workload.service_account),
            ),
        ]),
    }
}

/// `reviews` and the domain, of `reviews`, `reviews.default` or `reviews.default.svc.example.org`.
pub(crate) fn short_name(service: &str, namespace: &str) -> (String, String) {
    let (name, domain) = service
        .split_once(".svc.")
        .unwrap_or((service, DEFAULT_DOMAIN));
    let short = name.strip_suffix(&format!(".{namespace}")).unwrap_or(name);
    (short.to_owned(), domain.to_owned())
}

fn text(text: &impl ToString) -> Value {
    value(Kind::StringValue(text.to_string()))
}

fn object(fields: BTreeMap<String, Value>) -> Value {
    value(Kind::StructValue(Struct { fields }))
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn copies_of_a_service_on_one_address_have_ids_of_their_own() {
        let workload = testing::config().workload;
        let id = |outbound: &str, inbound: Option<&str>| {
            let ports = Ports {
                dns: false,
                outbound: outbound.parse().unwrap(),
                inbound: inbound.map(|address| address.parse().unwrap()),
                captured: None,
                ipv6: false,
            };
            let ip = IpAddr::from([10, 0, 0, 1]);
            node(&workload, None, ip, ports, Discovery::OnDemand).id
        };
        let first = id("127.0.0.1:15080", Some("0.0.0.0:15006"));
        assert_eq!(
            first,
            "sidecar~10.0.0.1~frontend-15006.default~default.svc.cluster.local"
        );
        assert_ne!(id("127.0.0.1:15080", Some("0.0.0.0:15007")), first);
        assert_ne!(id("127.0.0.1:15081", None), id("127.0.0.1:15082", None));
    }
}
