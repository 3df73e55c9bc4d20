//! `Cluster` → [`ClusterConfig`] and where its endpoints come from.

use std::time::Duration;

use outrigger_core::{
    ClusterConfig, EndpointConfig, OutlierConfig, Thresholds, UpstreamProtocol, UpstreamTls,
    balance::LbPolicy,
};
use outrigger_proto::envoy::{
    config::{
        cluster::v3::{
            self as proto, CircuitBreakers, OutlierDetection,
            cluster::{
                ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy as ProtoPolicy,
                TransportSocketMatch, ring_hash_lb_config::HashFunction,
            },
        },
        core::v3::RoutingPriority,
    },
    extensions::{
        load_balancing_policies::{
            least_request::v3::LeastRequest, maglev::v3::Maglev, ring_hash::v3::RingHash,
        },
        upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
    },
};

use super::{
    Converted, duration, endpoint, fields, must_be_ads, ours, positive, refuse, string, tls,
    unpack, unsupported,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// `idle_timeout: 0s` = never.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);
const MINIMUM_RING: u64 = 1024;
const MAXIMUM_RING: u64 = 8_388_608;
const MAGLEV_TABLE: u64 = 65_537;
const MAXIMUM_MAGLEV_TABLE: u64 = 5_000_011;
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const POLICIES: &str = "envoy.extensions.load_balancing_policies";

/// An accepted cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParsedCluster {
    pub(crate) config: ClusterConfig,
    pub(crate) source: EndpointSource,
    /// TLS to every endpoint, whatever its metadata says.
    pub(crate) always_tls: bool,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EndpointSource {
    /// EDS by this name.
    Eds(String),
    /// In the cluster.
    Static(Vec<EndpointConfig>),
}

pub(crate) fn convert(from: &proto::Cluster) -> Converted<ParsedCluster> {
    if from.name.is_empty() {
        return refuse("name", "missing");
    }
    let source = source(from)?;
    let (tls, always_tls) = transport(from)?;
    let http = http_options(from)?;
    let ours = ours(from.metadata.as_ref());
    let (subset, service) = names_in(&from.name);
    let panic = from
        .common_lb_config
        .as_ref()
        .and_then(|common| common.healthy_panic_threshold)
        .map_or(0.0, |percent| percent.value);
    let config = ClusterConfig {
        name: from.name.clone(),
        service: ours.service.unwrap_or(service),
        subset: ours.subset.unwrap_or(subset),
        lb: policy(from)?,
        thresholds: thresholds(from.circuit_breakers.as_ref())
            .map_err(|error| error.under("circuit_breakers"))?,
        connect_timeout: positive(
            "connect_timeout",
            from.connect_timeout.as_ref(),
            CONNECT_TIMEOUT,
        )?,
        idle_timeout: http.idle_timeout,
        max_requests_per_connection: http.max_requests_per_connection,
        outlier: outlier(from.outlier_detection.as_ref(), panic)?,
        protocol: http.protocol,
        tls,
        position: ours.position,
    };
    Ok(ParsedCluster {
        config,
        source,
        always_tls,
    })
}

/// Subset and service of `outbound|9080|v1|reviews.default.svc.cluster.local`; for other names, no subset and the name.
fn names_in(name: &str) -> (String, String) {
    let mut parts = name.split('|').skip(2);
    match (parts.next(), parts.next()) {
        (Some(subset), Some(host)) if !host.is_empty() => (subset.to_owned(), host.to_owned()),
        _ => (String::new(), name.to_owned()),
    }
}

fn source(from: &proto::Cluster) -> Converted<EndpointSource> {
    let kind = match &from.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind),
        Some(ClusterDiscoveryType::ClusterType(_)) => return unsupported("cluster_type"),
        None => Ok(DiscoveryType::Static),
    };
    match kind {
        Ok(DiscoveryType::Eds) => {
            if from.load_assignment.is_some() {
                return refuse("load_assignment", "has no effect on a cluster of type EDS");
            }
            let Some(eds) = &from.eds_cluster_config else {
                return refuse("eds_cluster_config", "missing on a cluster of type EDS");
            };
            must_be_ads("eds_cluster_config.eds_config", eds.eds_config.as_ref())?;
            let name = if eds.service_name.is_empty() {
                &from.name
            } else {
                &eds.service_name
            };
            Ok(EndpointSource::Eds(name.clone()))
        }
        Ok(DiscoveryType::Static) => {
            if from.eds_cluster_config.is_some() {
                return refuse(
                    "eds_cluster_config",
                    "has no effect on a cluster of type STATIC",
                );
            }
            let endpoints = match &from.load_assignment {
                Some(assignment) => {
                    endpoint::convert(assignment).map_err(|error| error.under("load_assignment"))?
                }
                None => Vec::new(),
            };
            Ok(EndpointSource::Static(endpoints))
        }
        Ok(
            other @ (DiscoveryType::StrictDns
            | DiscoveryType::LogicalDns
            | DiscoveryType::OriginalDst),
        ) => refuse(
            "type",
            format!(
                "{} is not supported yet; EDS or STATIC",
                other.as_str_name()
            ),
        ),
        Err(_unknown) => refuse("type", "is unknown; EDS or STATIC"),
    }
}

fn policy(from: &proto::Cluster) -> Converted<LbPolicy> {
    if let Some(list) = &from.load_balancing_policy {
        return policy_list(list).map_err(|error| error.under("load_balancing_policy"));
    }
    let Ok(policy) = ProtoPolicy::try_from(from.lb_policy) else {
        return refuse("lb_policy", format!("{} is unknown", from.lb_policy));
    };
    let name = policy.as_str_name();
    match (policy, &from.lb_config) {
        (ProtoPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(_)) | None) => {
            Ok(LbPolicy::RoundRobin)
        }
        (ProtoPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            choices("least_request_lb_config.choice_count", config.choice_count)
        }
        (ProtoPolicy::LeastRequest, None) => Ok(LbPolicy::LeastRequest),
        (ProtoPolicy::Random, None) => Ok(LbPolicy::Random),
        (ProtoPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config))) => {
            if config.hash_function != i32::from(HashFunction::XxHash) {
                return refuse("ring_hash_lb_config.hash_function", "must be XX_HASH");
            }
            ring(config.minimum_ring_size, config.maximum_ring_size)
                .map_err(|error| error.under("ring_hash_lb_config"))
        }
        (ProtoPolicy::RingHash, None) => ring(None, None),
        (ProtoPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config))) => {
            maglev(config.table_size).map_err(|error| error.under("maglev_lb_config"))
        }
        (ProtoPolicy::Maglev, None) => maglev(None),
        (ProtoPolicy::ClusterProvided | ProtoPolicy::LoadBalancingPolicyConfig, _) => {
            refuse("lb_policy", format!("{name} needs load_balancing_policy"))
        }
        (_, Some(_)) => refuse(
            "lb_config",
            format!("belongs to another policy than {name}"),
        ),
    }
}

/// The first policy of the list that we know.
fn policy_list(list: &proto::LoadBalancingPolicy) -> Converted<LbPolicy> {
    for (index, policy) in list.policies.iter().enumerate() {
        let Some(any) = policy
            .typed_extension_config
            .as_ref()
            .and_then(|config| config.typed_config.as_ref())
        else {
            return refuse(
                format!("policies[{index}].typed_extension_config"),
                "missing",
            );
        };
        let full = fields::type_name(&any.type_url);
        let found = match full.strip_prefix(POLICIES) {
            Some(".least_request.v3.LeastRequest") => {
                let config: LeastRequest = unpack(any, full)?;
                choices("choice_count", config.choice_count)
            }
            Some(".round_robin.v3.RoundRobin") => Ok(LbPolicy::RoundRobin),
            Some(".random.v3.Random") => Ok(LbPolicy::Random),
            Some(".ring_hash.v3.RingHash") => {
                let config: RingHash = unpack(any, full)?;
                if config.hash_function > 1 {
                    return refuse(
                        format!("policies[{index}].hash_function"),
                        "must be XX_HASH",
                    );
                }
                ring(config.minimum_ring_size, config.maximum_ring_size)
            }
            Some(".maglev.v3.Maglev") => {
                let config: Maglev = unpack(any, full)?;
                maglev(config.table_size)
            }
            _ => continue,
        };
        return found.map_err(|error| error.under(format!("policies[{index}]")));
    }
    refuse(
        "policies",
        "none of them is known here: least_request, round_robin, random, ring_hash, maglev",
    )
}

fn choices(path: &str, count: Option<u32>) -> Converted<LbPolicy> {
    match count {
        None | Some(2) => Ok(LbPolicy::LeastRequest),
        Some(count) => refuse(path, format!("{count} is not supported yet; must be 2")),
    }
}

fn ring(minimum: Option<u64>, maximum: Option<u64>) -> Converted<LbPolicy> {
    let minimum_ring_size = minimum.unwrap_or(MINIMUM_RING);
    let maximum_ring_size = maximum.unwrap_or(MAXIMUM_RING);
    if !(1..=MAXIMUM_RING).contains(&minimum_ring_size) {
        return refuse(
            "minimum_ring_size",
            format!("{minimum_ring_size}; must be 1 to {MAXIMUM_RING}"),
        );
    }
    if !(minimum_ring_size..=MAXIMUM_RING).contains(&maximum_ring_size) {
        return refuse(
            "maximum_ring_size",
            format!("{maximum_ring_size}; must be {minimum_ring_size} to {MAXIMUM_RING}"),
        );
    }
    Ok(LbPolicy::RingHash {
        minimum_ring_size,
        maximum_ring_size,
    })
}

fn maglev(size: Option<u64>) -> Converted<LbPolicy> {
    let table_size = size.unwrap_or(MAGLEV_TABLE);
    let is_prime = table_size > 1
        && (2..)
            .take_while(|d| d * d <= table_size)
            .all(|d| !table_size.is_multiple_of(d));
    if table_size > MAXIMUM_MAGLEV_TABLE || !is_prime {
        return refuse(
            "table_size",
            format!("{table_size}; must be a prime number of at most {MAXIMUM_MAGLEV_TABLE}"),
        );
    }
    Ok(LbPolicy::Maglev { table_size })
}

/// Unset = unlimited.
fn thresholds(from: Option<&CircuitBreakers>) -> Converted<Thresholds> {
    let mut found = Thresholds::default();
    for (index, limits) in from
        .iter()
        .flat_map(|all| all.thresholds.iter().enumerate())
    {
        if limits.priority != i32::from(RoutingPriority::Default) {
            return refuse(
                format!("thresholds[{index}].priority"),
                "HIGH is not supported yet",
            );
        }
        if index > 0 {
            return refuse(
                format!("thresholds[{index}]"),
                "a second entry for priority DEFAULT",
            );
        }
        found = Thresholds {
            max_connections: limits.max_connections.unwrap_or(u32::MAX),
            max_pending_requests: limits.max_pending_requests.unwrap_or(u32::MAX),
            max_requests: limits.max_requests.unwrap_or(u32::MAX),
            max_retries: limits.max_retries.unwrap_or(u32::MAX),
        };
    }
    Ok(found)
}

/// `panic` is Envoy's panic threshold, which is how `minHealthPercent` arrives.
fn outlier(from: Option<&OutlierDetection>, panic: f64) -> Converted<Option<OutlierConfig>> {
    let path = "common_lb_config.healthy_panic_threshold.value";
    if !(0.0..=100.0).contains(&panic) {
        return refuse(path, format!("{panic}; must be 0 to 100"));
    }
    let Some(from) = from else {
        if panic > 0.0 {
            return refuse(
                path,
                "not supported yet without outlier_detection; must be 0",
            );
        }
        return Ok(None);
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 100, checked above"
    )]
    let min_health_percent = panic.round() as u32;
    ejection(from, min_health_percent)
        .map(Some)
        .map_err(|error| error.under("outlier_detection"))
}

fn ejection(from: &OutlierDetection, min_health_percent: u32) -> Converted<OutlierConfig> {
    for (path, value) in [
        ("enforcing_success_rate", from.enforcing_success_rate),
        (
            "enforcing_failure_percentage",
            from.enforcing_failure_percentage,
        ),
    ] {
        if value.is_some_and(|value| value > 0) {
            return refuse(path, "not supported yet; must be 0");
        }
    }
    if from
        .max_ejection_time_jitter
        .is_some_and(|jitter| jitter.seconds != 0 || jitter.nanos != 0)
    {
        return refuse("max_ejection_time_jitter", "not supported yet; must be 0s");
    }
    if from.always_eject_one_host == Some(false) {
        return refuse("always_eject_one_host", "false is not supported yet");
    }
    let max_ejection_percent = from.max_ejection_percent.unwrap_or(10);
    if max_ejection_percent > 100 {
        return refuse(
            "max_ejection_percent",
            format!("{max_ejection_percent}; at most 100"),
        );
    }
    let base_ejection_time = positive(
        "base_ejection_time",
        from.base_ejection_time.as_ref(),
        Duration::from_secs(30),
    )?;
    let max_ejection_time = positive(
        "max_ejection_time",
        from.max_ejection_time.as_ref(),
        Duration::from_secs(300),
    )?
    .max(base_ejection_time);
    Ok(OutlierConfig {
        consecutive_5xx: enforced(
            "consecutive_5xx",
            from.consecutive_5xx,
            from.enforcing_consecutive_5xx,
            100,
        )?,
        consecutive_gateway_failure: enforced(
            "consecutive_gateway_failure",
            from.consecutive_gateway_failure,
            from.enforcing_consecutive_gateway_failure,
            0,
        )?,
        interval: positive("interval", from.interval.as_ref(), Duration::from_secs(10))?,
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent,
        min_health_percent,
    })
}

/// A count (default 5) that is enforced always or never; 0 = off.
fn enforced(
    name: &str,
    count: Option<u32>,
    enforcing: Option<u32>,
    default_enforcing: u32,
) -> Converted<u32> {
    match enforcing.unwrap_or(default_enforcing) {
        100 => Ok(count.unwrap_or(5)),
        0 if enforcing.is_none() && count.is_some_and(|count| count > 0) => {
            refuse(name, format!("has no effect without enforcing_{name}: 100"))
        }
        0 => Ok(0),
        part => refuse(
            format!("enforcing_{name}"),
            format!("{part} is not supported yet; 0 or 100"),
        ),
    }
}

/// TLS of a cluster, and whether it is for every endpoint.
fn transport(from: &proto::Cluster) -> Converted<(Option<UpstreamTls>, bool)> {
    if let Some(socket) = &from.transport_socket {
        let any = tls::config(socket).map_err(|error| error.under("transport_socket"))?;
        if !tls::is_raw_buffer(any) {
            if !from.transport_socket_matches.is_empty() {
                return refuse(
                    "transport_socket",
                    "beside transport_socket_matches it must be raw_buffer",
                );
            }
            let tls =
                tls::upstream(any).map_err(|error| error.under("transport_socket.typed_config"))?;
            return Ok((Some(tls), true));
        }
    }
    matched_transport(&from.transport_socket_matches)
}

/// Endpoints choose by their metadata: TLS for `{tlsMode: istio}` and then plain text for the rest, or TLS for all.
fn matched_transport(from: &[TransportSocketMatch]) -> Converted<(Option<UpstreamTls>, bool)> {
    let mut found = None;
    let mut always_tls = false;
    for (index, entry) in from.iter().enumerate() {
        let path = format!("transport_socket_matches[{index}]");
        let Some(socket) = &entry.transport_socket else {
            return refuse(format!("{path}.transport_socket"), "missing");
        };
        let any = tls::config(socket).map_err(|e| e.under(format!("{path}.transport_socket")))?;
        let keys = entry.r#match.as_ref().map_or(0, |keys| keys.fields.len());
        let is_istio = keys == 1
            && entry
                .r#match
                .as_ref()
                .and_then(|keys| string(keys, "tlsMode"))
                == Some("istio");
        match (index, tls::is_raw_buffer(any)) {
            (0, false) if is_istio || keys == 0 => {
                let tls = tls::upstream(any)
                    .map_err(|e| e.under(format!("{path}.transport_socket.typed_config")))?;
                found = Some(tls);
                always_tls = keys == 0;
            }
            (_, true) if keys == 0 && !always_tls => {}
            _ => {
                return refuse(
                    path,
                    "not supported yet; expected TLS for {tlsMode: istio} first, then raw_buffer for {}",
                );
            }
        }
    }
    Ok((found, always_tls))
}

struct HttpOptions {
    protocol: UpstreamProtocol,
    idle_timeout: Duration,
    max_requests_per_connection: Option<u32>,
}

fn http_options(from: &proto::Cluster) -> Converted<HttpOptions> {
    let mut options = HttpOptions {
        protocol: UpstreamProtocol::Http1,
        idle_timeout: IDLE_TIMEOUT,
        max_requests_per_connection: None,
    };
    for (key, any) in &from.typed_extension_protocol_options {
        let path = format!("typed_extension_protocol_options[{key:?}]");
        if key != HTTP_OPTIONS {
            return unsupported(path);
        }
        read_http_options(
            &mut options,
            &unpack(any, HTTP_OPTIONS).map_err(|e| e.under(&path))?,
        )
        .map_err(|error| error.under(path))?;
    }
    Ok(options)
}

fn read_http_options(options: &mut HttpOptions, from: &HttpProtocolOptions) -> Converted<()> {
    options.protocol = match &from.upstream_protocol_options {
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => {
            UpstreamProtocol::AsDownstream
        }
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            match explicit.protocol_config {
                Some(ProtocolConfig::Http2ProtocolOptions(_)) => UpstreamProtocol::Http2,
                Some(ProtocolConfig::HttpProtocolOptions(_)) => UpstreamProtocol::Http1,
                None => {
                    return refuse(
                        "explicit_http_config",
                        "is empty; http_protocol_options or http2_protocol_options",
                    );
                }
            }
        }
        Some(UpstreamProtocolOptions::AutoConfig(_)) => return unsupported("auto_config"),
        None => {
            return refuse(
                "explicit_http_config",
                "missing; or use_downstream_protocol_config",
            );
        }
    };
    if let Some(common) = &from.common_http_protocol_options {
        if let Some(idle) = &common.idle_timeout {
            let idle = duration("common_http_protocol_options.idle_timeout", idle)?;
            options.idle_timeout = if idle.is_zero() { NEVER } else { idle };
        }
        options.max_requests_per_connection = common
            .max_requests_per_connection
            .filter(|count| *count > 0);
    }
    Ok(())
}
