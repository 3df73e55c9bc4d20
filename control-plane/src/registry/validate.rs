//! A request to register becomes a [`Registration`] here, or is refused with the field's name. Past this
//! file nobody checks again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use outrigger_policy::{HostName, Protocol};
use outrigger_proto::outrigger::v1 as api;
use serde::{Deserialize, Serialize};

use crate::{refusal::Refusal, spiffe::check_label, world::InstanceHealth};

/// Shortest and longest lease. Below, a lost packet empties the mesh; above, a crash goes unnoticed.
const TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
/// Labels of one instance (Kubernetes has no number; Istio's own add about ten).
const MAX_LABELS: usize = 64;
/// Kubernetes: a prefix of 253, a slash, a name of 63.
const MAX_LABEL_KEY_BYTES: usize = 317;
/// Kubernetes allows 63; other registries' metadata is longer.
const MAX_LABEL_VALUE_BYTES: usize = 256;
/// Instance ids, in bytes (as long as a host name).
const MAX_ID_BYTES: usize = 253;
/// Region, zone, sub-zone, in bytes.
const MAX_LOCALITY_BYTES: usize = 63;
/// The weights of 10,000 instances must sum to less than 2^32 (Envoy's limit).
const MAX_WEIGHT: u32 = 100_000;

/// Which service a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceName {
    /// `reviews`
    pub(crate) service: String,
    /// `default`
    pub(crate) namespace: String,
    /// `reviews.default.svc.cluster.local`
    pub(crate) host: HostName,
}

/// One instance as it was registered; also the form in which it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) id: String,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) target_port: u16,
    #[serde(with = "protocol_name")]
    pub(crate) protocol: Protocol,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) locality: [String; 3],
    pub(crate) weight: u32,
    pub(crate) ttl: Duration,
    pub(crate) health: InstanceHealth,
    /// SPIFFE id; None = plain text.
    pub(crate) identity: Option<String>,
}

impl ServiceName {
    /// `service` is `reviews` or `reviews.default.svc.<domain>`.
    pub(crate) fn parse(service: &str, namespace: &str, domain: &str) -> Result<Self, Refusal> {
        let suffix = format!(".svc.{domain}");
        let (service, namespace) = match service
            .strip_suffix(&suffix)
            .and_then(|s| s.split_once('.'))
        {
            Some((service, of_host)) if namespace.is_empty() || namespace == of_host => {
                (service, of_host)
            }
            Some((_, of_host)) => {
                return Err(Refusal::invalid(
                    "namespace",
                    format!("{namespace:?} contradicts the host's {of_host:?}; leave it out"),
                ));
            }
            None => (
                service,
                if namespace.is_empty() {
                    "default"
                } else {
                    namespace
                },
            ),
        };
        check_label("service", service).map_err(|message| {
            Refusal::invalid(
                "service",
                format!("{message}; or a full host <name>.<namespace>{suffix}"),
            )
        })?;
        check_label("namespace", namespace)
            .map_err(|message| Refusal::invalid("namespace", message))?;
        Ok(Self {
            service: service.to_owned(),
            namespace: namespace.to_owned(),
            host: HostName::canonical(service, namespace, domain),
        })
    }
}

impl Registration {
    /// `peer` is the address the call came from; `identity` the SPIFFE id to expect if `mtls`.
    pub(crate) fn parse(
        request: api::RegisterRequest,
        name: &ServiceName,
        peer: Option<IpAddr>,
        default_ttl: Duration,
        identity: impl FnOnce() -> Result<String, Refusal>,
    ) -> Result<Self, Refusal> {
        let address = address(&request.address, peer)?;
        let port = port("port", request.port)?;
        let target_port = match request.target_port {
            0 => port,
            number => self::port("target_port", number)?,
        };
        let id = match request.instance_id {
            id if id.is_empty() => std::net::SocketAddr::new(address, target_port).to_string(),
            id => id,
        };
        check_id(&id)?;
        check_labels(&request.labels)?;
        Ok(Self {
            service: name.service.clone(),
            namespace: name.namespace.clone(),
            id,
            address,
            port,
            target_port,
            protocol: protocol(&request.protocol)?,
            labels: request.labels,
            locality: locality(request.locality)?,
            weight: weight(request.weight)?,
            ttl: ttl(request.ttl.as_ref(), default_ttl)?,
            health: health(&request.health)?.unwrap_or_default(),
            identity: if request.mtls {
                Some(identity()?)
            } else {
                None
            },
        })
    }
}

fn address(text: &str, peer: Option<IpAddr>) -> Result<IpAddr, Refusal> {
    let address: IpAddr = match (text, peer) {
        ("", Some(peer)) => peer,
        ("", None) => {
            return Err(Refusal::invalid(
                "address",
                "is missing and the caller's is not known",
            ));
        }
        (text, _) => text.parse().map_err(|_not_an_ip| {
            Refusal::invalid("address", format!("{text:?} is not an IP address"))
        })?,
    };
    let address = address.to_canonical();
    if address.is_unspecified()
        || address.is_multicast()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST)
    {
        return Err(Refusal::invalid(
            "address",
            format!("{address} is nobody's; give the address that others connect to"),
        ));
    }
    Ok(address)
}

fn port(field: &'static str, number: u32) -> Result<u16, Refusal> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Refusal::invalid(
            field,
            format!("{number} is not a port; use 1 to 65535"),
        )),
    }
}

fn protocol(text: &str) -> Result<Protocol, Refusal> {
    match text {
        "" | "http" => Ok(Protocol::Http),
        "http2" => Ok(Protocol::Http2),
        "grpc" => Ok(Protocol::Grpc),
        "tcp" => Ok(Protocol::Tcp),
        "auto" => Ok(Protocol::Auto),
        other => Err(Refusal::invalid(
            "protocol",
            format!("{other:?} is not known; use http, http2, grpc, tcp or auto"),
        )),
    }
}

/// The name that [`protocol`] reads.
pub(crate) const fn protocol_text(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
        Protocol::Tls => "tls",
        Protocol::Auto => "auto",
    }
}

/// None = as it is.
pub(crate) fn health(text: &str) -> Result<Option<InstanceHealth>, Refusal> {
    match text {
        "" => Ok(None),
        "HEALTHY" => Ok(Some(InstanceHealth::Healthy)),
        "UNHEALTHY" => Ok(Some(InstanceHealth::Unhealthy)),
        "DRAINING" => Ok(Some(InstanceHealth::Draining)),
        other => Err(Refusal::invalid(
            "health",
            format!("{other:?} is not known; use HEALTHY, UNHEALTHY or DRAINING"),
        )),
    }
}

/// The name that [`health`] reads.
pub(crate) const fn health_text(health: InstanceHealth) -> &'static str {
    match health {
        InstanceHealth::Healthy => "HEALTHY",
        InstanceHealth::Unhealthy => "UNHEALTHY",
        InstanceHealth::Draining => "DRAINING",
    }
}

fn ttl(ttl: Option<&prost_types::Duration>, default: Duration) -> Result<Duration, Refusal> {
    let wrong = |text: String| {
        Refusal::invalid(
            "ttl",
            format!("{text} is out of range; use 1 s to 86400 s, or 0 for the default"),
        )
    };
    let Some(ttl) = ttl else { return Ok(default) };
    let length = outrigger_proto::length(ttl)
        .ok_or_else(|| wrong(format!("{}.{:09} s", ttl.seconds, ttl.nanos.unsigned_abs())))?;
    if length.is_zero() {
        Ok(default)
    } else if TTL.contains(&length) {
        Ok(length)
    } else {
        Err(wrong(format!("{} s", length.as_secs_f64())))
    }
}

fn weight(weight: u32) -> Result<u32, Refusal> {
    match weight {
        0 => Ok(1),
        1..=MAX_WEIGHT => Ok(weight),
        more => Err(Refusal::invalid(
            "weight",
            format!("{more} is too much; use 1 to {MAX_WEIGHT}"),
        )),
    }
}

fn locality(locality: Option<api::Locality>) -> Result<[String; 3], Refusal> {
    let locality = locality.unwrap_or_default();
    let parts = [locality.region, locality.zone, locality.sub_zone];
    for part in &parts {
        if part.len() > MAX_LOCALITY_BYTES
            || !part.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        {
            return Err(Refusal::invalid(
                "locality",
                format!(
                    "{part:?}: use at most {MAX_LOCALITY_BYTES} visible ASCII characters without '/'"
                ),
            ));
        }
    }
    Ok(parts)
}

/// Also for the calls that name an instance.
pub(crate) fn check_id(id: &str) -> Result<(), Refusal> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]~@".contains(&b);
    if !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(good) {
        Ok(())
    } else {
        Err(Refusal::invalid(
            "instance_id",
            format!("{id:?}: use 1 to {MAX_ID_BYTES} letters, digits and any of -._:[]~@"),
        ))
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if labels.len() > MAX_LABELS {
        return Err(Refusal::new(
            tonic::Code::ResourceExhausted,
            format!("labels: {} of them; at most {MAX_LABELS}", labels.len()),
        ));
    }
    for (key, value) in labels {
        if key.is_empty()
            || key.len() > MAX_LABEL_KEY_BYTES
            || !key.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Refusal::invalid(
                "labels",
                format!("key {key:?}: use 1 to {MAX_LABEL_KEY_BYTES} visible ASCII characters"),
            ));
        }
        if value.len() > MAX_LABEL_VALUE_BYTES || value.chars().any(char::is_control) {
            return Err(Refusal::invalid(
                "labels",
                format!(
                    "value of {key:?}: use at most {MAX_LABEL_VALUE_BYTES} bytes without control characters"
                ),
            ));
        }
    }
    Ok(())
}

mod protocol_name {
    use outrigger_policy::Protocol;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(super) fn serialize<S: Serializer>(
        protocol: &Protocol,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(super::protocol_text(*protocol))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Protocol, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::protocol(&text).map_err(|refusal| D::Error::custom(refusal.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strangers::{SEEDS, Stranger};

    const DOMAIN: &str = "cluster.local";

    fn request() -> api::RegisterRequest {
        api::RegisterRequest {
            service: "reviews".into(),
            address: "10.0.0.1".into(),
            port: 9080,
            ..Default::default()
        }
    }

    fn parse(request: api::RegisterRequest) -> Result<Registration, Refusal> {
        let name = ServiceName::parse(&request.service, &request.namespace, DOMAIN)?;
        Registration::parse(
            request,
            &name,
            Some([192, 0, 2, 7].into()),
            Duration::from_secs(30),
            || Ok("spiffe://cluster.local/ns/default/sa/reviews".into()),
        )
    }

    #[test]
    fn what_is_left_out_gets_its_default() {
        let made = parse(request()).unwrap();
        assert_eq!(
            (made.namespace.as_str(), made.id.as_str()),
            ("default", "10.0.0.1:9080")
        );
        assert_eq!((made.target_port, made.weight), (9080, 1));
        assert_eq!(
            (made.protocol, made.health),
            (Protocol::Http, InstanceHealth::Healthy)
        );
        assert_eq!((made.ttl, made.identity), (Duration::from_secs(30), None));
    }

    #[test]
    fn an_application_may_speak_any_protocol() {
        for (name, protocol) in [
            ("http", Protocol::Http),
            ("http2", Protocol::Http2),
            ("grpc", Protocol::Grpc),
            ("tcp", Protocol::Tcp),
            ("auto", Protocol::Auto),
        ] {
            let request = api::RegisterRequest {
                protocol: name.into(),
                ..request()
            };
            assert_eq!(parse(request).unwrap().protocol, protocol);
            assert_eq!(protocol_text(protocol), name);
        }
    }

    #[test]
    fn the_callers_address_stands_in_for_a_missing_one() {
        let made = parse(api::RegisterRequest {
            address: String::new(),
            ..request()
        })
        .unwrap();
        assert_eq!(made.address, IpAddr::from([192, 0, 2, 7]));
    }

    #[test]
    fn a_full_host_names_service_and_namespace() {
        let name = ServiceName::parse("reviews.shop.svc.cluster.local", "", DOMAIN).unwrap();
        assert_eq!(
            (name.service.as_str(), name.namespace.as_str()),
            ("reviews", "shop")
        );
        assert_eq!(name.host.as_str(), "reviews.shop.svc.cluster.local");
        let contradiction = ServiceName::parse("reviews.shop.svc.cluster.local", "other", DOMAIN);
        assert_eq!(contradiction.unwrap_err().field, Some("namespace"));
    }

    #[test]
    fn each_wrong_field_is_named() {
        type Change = fn(&mut api::RegisterRequest);
        let table: &[(&str, Change)] = &[
            ("service", |r| r.service = String::new()),
            ("service", |r| r.service = "Reviews".into()),
            ("service", |r| r.service = "reviews.example.com".into()),
            ("service", |r| r.service = "a".repeat(64)),
            ("namespace", |r| r.namespace = "a/b".into()),
            ("instance_id", |r| r.instance_id = "a b".into()),
            ("instance_id", |r| r.instance_id = "a".repeat(254)),
            ("address", |r| r.address = "reviews".into()),
            ("address", |r| r.address = "0.0.0.0".into()),
            ("address", |r| r.address = "::".into()),
            ("address", |r| r.address = "224.0.0.1".into()),
            ("address", |r| r.address = "255.255.255.255".into()),
            ("port", |r| r.port = 0),
            ("port", |r| r.port = 65536),
            ("target_port", |r| r.target_port = 65536),
            ("protocol", |r| r.protocol = "tls".into()),
            ("protocol", |r| r.protocol = "HTTP".into()),
            ("labels", |r| {
                drop(r.labels.insert(String::new(), "v".into()));
            }),
            ("labels", |r| {
                drop(r.labels.insert("k".repeat(318), "v".into()));
            }),
            ("labels", |r| {
                drop(r.labels.insert("k".into(), "v\n".into()));
            }),
            ("labels", |r| {
                drop(r.labels.insert("k".into(), "v".repeat(257)));
            }),
            ("locality", |r| {
                r.locality = Some(api::Locality {
                    region: "a/b".into(),
                    ..Default::default()
                });
            }),
            ("weight", |r| r.weight = 100_001),
            ("ttl", |r| {
                r.ttl = Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                });
            }),
            ("ttl", |r| {
                r.ttl = Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 1,
                });
            }),
            ("ttl", |r| {
                r.ttl = Some(prost_types::Duration {
                    seconds: 86_401,
                    nanos: 0,
                });
            }),
            ("health", |r| r.health = "healthy".into()),
        ];
        for (field, change) in table {
            let mut request = request();
            change(&mut request);
            let shown = format!("{request:?}");
            assert_eq!(parse(request).unwrap_err().field, Some(*field), "{shown}");
        }
    }

    #[test]
    fn too_many_labels_exhaust_a_limit() {
        let labels = (0..65).map(|n| (n.to_string(), String::new())).collect();
        let refusal = parse(api::RegisterRequest {
            labels,
            ..request()
        })
        .unwrap_err();
        assert_eq!(refusal.code, tonic::Code::ResourceExhausted);
    }

    #[test]
    fn a_registration_survives_the_store() {
        let made = parse(api::RegisterRequest {
            mtls: true,
            ..request()
        })
        .unwrap();
        let text = serde_json::to_string(&made).unwrap();
        assert_eq!(serde_json::from_str::<Registration>(&text).unwrap(), made);
    }

    #[test]
    fn whatever_a_stranger_registers_is_taken_within_the_limits_or_refused_in_words() {
        for seed in 0..SEEDS {
            let mut stranger = Stranger::new(seed);
            for _ in 0..500 {
                let name = "outrigger.v1.RegisterRequest";
                let Some(request) = stranger.message::<api::RegisterRequest>(name) else {
                    continue;
                };
                match parse(request) {
                    Ok(taken) => {
                        assert!(taken.id.len() <= MAX_ID_BYTES, "seed {seed}: {taken:?}");
                        assert!(taken.labels.len() <= MAX_LABELS, "seed {seed}");
                        assert!((1..=MAX_WEIGHT).contains(&taken.weight), "seed {seed}");
                        assert!(taken.port > 0 && taken.target_port > 0, "seed {seed}");
                        assert!(!taken.ttl.is_zero(), "seed {seed}");
                    }
                    Err(refusal) => assert!(!refusal.message.is_empty(), "seed {seed}"),
                }
            }
        }
    }
}
