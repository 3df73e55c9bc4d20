//! CDS for a gRPC library: balancer, limits, ejection and TLS in the words that it has.
//! Sources: gRFC A27, A32 (limits), A42 (ring hash), A50 (ejection), A29 and A83 (TLS).

use outrigger_proto::envoy::{
    config::{
        cluster::v3::{
            CircuitBreakers, Cluster, OutlierDetection,
            circuit_breakers::Thresholds,
            cluster::{LbConfig, LbPolicy, RingHashLbConfig, ring_hash_lb_config::HashFunction},
        },
        core::v3::{
            ApiVersion, ConfigSource, SelfConfigSource, TransportSocket,
            config_source::ConfigSourceSpecifier, transport_socket::ConfigType,
        },
    },
    extensions::transport_sockets::tls::v3::{
        CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext,
        UpstreamTlsContext, common_tls_context::ValidationContextType,
    },
};
use prost::Message as _;
use prost_types::{Struct, value};

use super::PROVIDER;
use crate::{
    snapshot::{Adapted, Dialected, ResourceBytes, ResourceType},
    translate::{
        any::{OUTRIGGER, any},
        proxy_protocol,
        tls::NOBODY,
    },
};

/// For a library without certificates.
pub(super) const WITHOUT_CERTIFICATES: Dialected = Dialected {
    slot: 0,
    adapt: |resource| adapt(resource, Way::Plain),
};
/// For one that has some.
pub(super) const WITH_CERTIFICATES: Dialected = Dialected {
    slot: 1,
    adapt: |resource| adapt(resource, Way::Auto),
};
/// For one that has some, of a cluster whose endpoints have no mTLS.
pub(super) const OF_PLAIN_ENDPOINTS: Dialected = Dialected {
    slot: 2,
    adapt: |resource| adapt(resource, Way::AutoPlain),
};

/// How a library calls.
#[derive(Clone, Copy)]
enum Way {
    /// In plain text, always.
    Plain,
    /// As the cluster says.
    Auto,
    /// As the cluster says, in plain text if it leaves that open.
    AutoPlain,
}

/// gRPC's and Envoy's; a larger ring is refused.
const MAX_RING_SIZE: u64 = 8_388_608;
const UPSTREAM_TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

fn adapt(resource: &ResourceBytes, way: Way) -> Adapted {
    // Our own bytes.
    let Ok(cluster) = Cluster::decode(resource.any.value.as_slice()) else {
        return Adapted::default();
    };
    let mut notes = Vec::new();
    let transport_socket = match socket(&cluster, way) {
        Ok(socket) => socket,
        Err(why) => {
            return Adapted {
                notes: positioned(&cluster, vec![why]),
                ..Adapted::default()
            };
        }
    };
    let (lb_policy, lb_config) = balancer(&cluster, &mut notes);
    note(&cluster, &mut notes);
    let notes = positioned(&cluster, notes);
    let adapted = Cluster {
        name: cluster.name,
        cluster_discovery_type: cluster.cluster_discovery_type,
        eds_cluster_config: cluster.eds_cluster_config,
        connect_timeout: cluster.connect_timeout,
        lb_policy: lb_policy as i32,
        lb_config,
        circuit_breakers: cluster.circuit_breakers.as_ref().and_then(limits),
        outlier_detection: cluster.outlier_detection.as_ref().and_then(ejection),
        transport_socket,
        // Load reports go where the configuration is from.
        lrs_server: Some(ConfigSource {
            config_source_specifier: Some(
                ConfigSourceSpecifier::Self_(SelfConfigSource::default()),
            ),
            resource_api_version: ApiVersion::V3 as i32,
            ..ConfigSource::default()
        }),
        ..Cluster::default()
    };
    Adapted {
        resource: Some(ResourceBytes::new(
            ResourceType::Cluster,
            &resource.name,
            &adapted,
        )),
        notes,
        plain: false,
    }
}

/// One way for all endpoints; gRPC does not choose by endpoint. An error is why it cannot call them at all.
fn socket(cluster: &Cluster, way: Way) -> Result<Option<TransportSocket>, String> {
    let by_match = cluster.transport_socket_matches.iter();
    let by_match = by_match.filter_map(|one| one.transport_socket.as_ref());
    let mut all = cluster.transport_socket.iter().chain(by_match);
    if all.any(proxy_protocol::is_wrapped) {
        return Err("withheld: its servers want a PROXY protocol header (proxyProtocol), which a gRPC client does not send; \
            call it through a sidecar"
            .to_owned());
    }
    if cluster.transport_socket.is_some() {
        return Err("withheld: its servers are outside of the mesh and want TLS, for which a gRPC client has \
            no certificates; call it by its own name, or through a sidecar"
            .to_owned());
    }
    let matches = &cluster.transport_socket_matches;
    let Some(mesh) = matches.iter().find(|one| one.name == "tlsMode-istio") else {
        return Ok(None);
    };
    let context = mesh.transport_socket.as_ref().and_then(context);
    let names = context.as_ref().map_or_else(Vec::new, names);
    // Without a plain alternative a person wrote ISTIO_MUTUAL.
    let always = matches.len() == 1;
    let nobody = names.iter().all(|name| name.contains(NOBODY));
    match way {
        Way::Plain if always => Err(
            "withheld: tls.mode is ISTIO_MUTUAL, and this client has no certificate provider"
                .to_owned(),
        ),
        Way::Plain => Ok(None),
        Way::AutoPlain if !always => Ok(None),
        Way::Auto if nobody && !always => Ok(None),
        Way::Auto | Way::AutoPlain => Ok(context.as_ref().map(provided)),
    }
}

fn context(socket: &TransportSocket) -> Option<UpstreamTlsContext> {
    let Some(ConfigType::TypedConfig(typed)) = &socket.config_type else {
        return None;
    };
    UpstreamTlsContext::decode(typed.value.as_slice()).ok()
}

fn validation(context: &UpstreamTlsContext) -> Option<&CertificateValidationContext> {
    let common = context.common_tls_context.as_ref()?;
    match common.validation_context_type.as_ref()? {
        ValidationContextType::CombinedValidationContext(combined) => {
            combined.default_validation_context.as_ref()
        }
        ValidationContextType::ValidationContext(_)
        | ValidationContextType::ValidationContextSdsSecretConfig(_) => None,
    }
}

fn names(context: &UpstreamTlsContext) -> Vec<String> {
    let names = validation(context).map_or(&[][..], |one| &one.match_typed_subject_alt_names);
    let patterns = names.iter().filter_map(|name| name.matcher.as_ref());
    patterns.map(|matcher| format!("{matcher:?}")).collect()
}

/// The same peers, with key, certificate and roots from the library's bootstrap file.
fn provided(context: &UpstreamTlsContext) -> TransportSocket {
    let instance = || CertificateProviderPluginInstance {
        instance_name: PROVIDER.to_owned(),
        ..CertificateProviderPluginInstance::default()
    };
    let names = validation(context).map_or(&[][..], |one| &one.match_typed_subject_alt_names);
    let names = names.iter().filter_map(|name| name.matcher.clone());
    let common = CommonTlsContext {
        tls_certificate_provider_instance: Some(instance()),
        validation_context_type: Some(ValidationContextType::ValidationContext(
            CertificateValidationContext {
                ca_certificate_provider_instance: Some(instance()),
                // The typed names are not read by gRPC: any identity of the mesh would do.
                match_subject_alt_names: names.collect(),
                ..CertificateValidationContext::default()
            },
        )),
        ..CommonTlsContext::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(common),
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(UPSTREAM_TLS, &context))),
    }
}

/// gRPC has round robin and ring hash. Without a document it is least request that others use.
fn balancer(cluster: &Cluster, notes: &mut Vec<String>) -> (LbPolicy, Option<LbConfig>) {
    let ring = |size: u64| {
        let config = RingHashLbConfig {
            minimum_ring_size: Some(size.min(MAX_RING_SIZE)),
            // Spelled out: grpc-js refuses the default.
            hash_function: HashFunction::XxHash as i32,
            maximum_ring_size: None,
        };
        (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config)))
    };
    match LbPolicy::try_from(cluster.lb_policy) {
        Ok(LbPolicy::RingHash) => match &cluster.lb_config {
            Some(LbConfig::RingHashLbConfig(config)) => {
                ring(config.minimum_ring_size.unwrap_or(DEFAULT_RING_SIZE))
            }
            _ => ring(DEFAULT_RING_SIZE),
        },
        Ok(LbPolicy::Maglev) => {
            notes.push("maglev: a gRPC client hashes over a ring instead".to_owned());
            ring(DEFAULT_RING_SIZE)
        }
        Ok(LbPolicy::Random) => {
            notes.push("RANDOM: a gRPC client takes turns instead".to_owned());
            (LbPolicy::RoundRobin, None)
        }
        _ => (LbPolicy::RoundRobin, None),
    }
}

/// Envoy's default.
const DEFAULT_RING_SIZE: u64 = 1024;

/// The limit of requests is the one that there is (A32).
fn limits(all: &CircuitBreakers) -> Option<CircuitBreakers> {
    let thresholds = all.thresholds.first()?;
    Some(CircuitBreakers {
        thresholds: vec![Thresholds {
            max_requests: thresholds.max_requests,
            ..Thresholds::default()
        }],
        ..CircuitBreakers::default()
    })
}

/// gRPC does not count failures in a row. An endpoint of which as many calls of an interval fail as are asked
/// for in a row, and hardly any other succeeds, is taken out.
fn ejection(all: &OutlierDetection) -> Option<OutlierDetection> {
    /// Envoy's default.
    const FAILING_PERCENT: u32 = 85;
    let in_a_row = [
        (all.enforcing_consecutive_5xx, all.consecutive_5xx),
        (
            all.enforcing_consecutive_gateway_failure,
            all.consecutive_gateway_failure,
        ),
    ];
    let in_a_row = in_a_row
        .into_iter()
        .filter(|(enforced, _)| *enforced != Some(0));
    let volume = in_a_row.filter_map(|(_, count)| count).min()?;
    Some(OutlierDetection {
        interval: all.interval,
        base_ejection_time: all.base_ejection_time,
        max_ejection_time: all.max_ejection_time,
        max_ejection_percent: all.max_ejection_percent,
        failure_percentage_threshold: Some(FAILING_PERCENT),
        enforcing_failure_percentage: Some(100),
        failure_percentage_minimum_hosts: Some(1),
        failure_percentage_request_volume: Some(volume),
        // grpc-js ends its process over a success-rate check.
        enforcing_success_rate: Some(0),
        ..OutlierDetection::default()
    })
}

/// What is asked for and ignored.
fn note(cluster: &Cluster, notes: &mut Vec<String>) {
    let mut add = |asked: bool, note: &str| {
        if asked {
            notes.push(note.to_owned());
        }
    };
    let thresholds = cluster.circuit_breakers.as_ref();
    let thresholds = thresholds.and_then(|all| all.thresholds.first());
    let limited = |limit: Option<u32>| limit.is_some_and(|limit| limit != u32::MAX);
    add(
        thresholds
            .is_some_and(|of| limited(of.max_connections) || limited(of.max_pending_requests)),
        "maxConnections, http1MaxPendingRequests: a gRPC client has http2MaxRequests only",
    );
    add(
        thresholds.is_some_and(|of| limited(of.max_retries) || of.retry_budget.is_some()),
        "maxRetries, retryBudget: a gRPC client does not limit its retries",
    );
    add(
        cluster.outlier_detection.is_some(),
        "outlierDetection: a gRPC client ejects an endpoint of which 85 % of the calls of an interval fail",
    );
    let slow_start = match &cluster.lb_config {
        Some(LbConfig::LeastRequestLbConfig(of)) => of.slow_start_config.is_some(),
        Some(LbConfig::RoundRobinLbConfig(of)) => of.slow_start_config.is_some(),
        _ => false,
    };
    add(
        slow_start,
        "warmup: a gRPC client uses new endpoints at once",
    );
    let own = cluster.metadata.as_ref();
    let own = own.and_then(|own| own.filter_metadata.get(OUTRIGGER));
    let has = |key| own.is_some_and(|own: &Struct| own.fields.contains_key(key));
    for (key, note) in [
        ("balancer", "balancer: a gRPC client takes turns instead"),
        (
            "zone_aware",
            "zoneAware: a gRPC client uses all zones alike",
        ),
        (
            "circuit_breaker",
            "circuitBreaker: a gRPC client goes on calling",
        ),
        (
            "limits_scope",
            "limits.scope: a gRPC client holds the limits for itself alone",
        ),
    ] {
        add(has(key), note);
    }
}

/// With the line of the document that decided.
fn positioned(cluster: &Cluster, mut notes: Vec<String>) -> Vec<String> {
    let own = cluster.metadata.as_ref();
    let own = own.and_then(|own| own.filter_metadata.get(OUTRIGGER));
    let position = own.and_then(|own| match &own.fields.get("position")?.kind {
        Some(value::Kind::StringValue(text)) => Some(text),
        _ => None,
    });
    if let Some(position) = position {
        for note in &mut notes {
            *note = format!("{position}: {note}");
        }
    }
    notes
}
