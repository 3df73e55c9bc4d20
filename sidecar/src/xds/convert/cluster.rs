//! `Cluster` → [`ClusterConfig`] and where its endpoints come from.

use std::time::Duration;

use outrigger_core::{
    ClusterConfig, EndpointConfig, Locality, TcpKeepalive, UpstreamProtocol, UpstreamTls,
};
use outrigger_proto::envoy::{
    config::{
        cluster::v3::{
            self as proto,
            cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy, TransportSocketMatch},
        },
        core::v3::Http2ProtocolOptions,
    },
    extensions::upstreams::http::v3::{
        HttpProtocolOptions,
        http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
    },
};

use super::{
    Converted, aggregate, balancing, beyond, dns, duration, endpoint, limits, must_be_ads, ours,
    positive, proxy_protocol, refuse, string, tls, unpack, unsupported,
};
use crate::xds::dns::DnsSource;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// `idle_timeout: 0s` = never.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

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
    /// In the cluster, by name.
    Dns(DnsSource),
    /// Those of other clusters, by name.
    Aggregate(Vec<String>),
    /// Where connections were going before they were redirected.
    OriginalDst,
}

pub(crate) fn convert(from: &proto::Cluster) -> Converted<ParsedCluster> {
    if from.name.is_empty() {
        return refuse("name", "missing");
    }
    let source = source(from)?;
    if let EndpointSource::Aggregate(_) = source {
        dns::has_no_effect(from)?;
        return Ok(ParsedCluster {
            config: aggregate::config(from)?,
            source,
            always_tls: false,
        });
    }
    let (proxy_protocol, unwrapped) = proxy_protocol::unwrapped(from)?;
    let (tls, always_tls) = transport(&unwrapped)?;
    let http = http_options(from)?;
    let ours = ours(from.metadata.as_ref());
    let (subset, service) = names_in(&from.name);
    let panic = from
        .common_lb_config
        .as_ref()
        .and_then(|common| common.healthy_panic_threshold)
        .map_or(0.0, |percent| percent.value);
    let beyond = beyond::read(from.metadata.as_ref())?;
    let balancing = balancing::balancing(from, &beyond)?;
    let (thresholds, retry_share) = limits::thresholds(from.circuit_breakers.as_ref())
        .map_err(|error| error.under("circuit_breakers"))?;
    let config = ClusterConfig {
        name: from.name.clone(),
        service: ours.service.unwrap_or(service),
        subset: ours.subset.unwrap_or(subset),
        lb: balancing.lb,
        slow_start: balancing.slow_start,
        localities: balancing.localities,
        // Known to the client, not to the cluster.
        own_locality: Locality::default(),
        hash_balance_percent: balancing.hash_balance_percent,
        breaker: beyond.breaker,
        thresholds,
        limits_scope: limits::scope(ours.limits_scope.as_deref())?,
        retry_share,
        connect_timeout: positive(
            "connect_timeout",
            from.connect_timeout.as_ref(),
            CONNECT_TIMEOUT,
        )?,
        idle_timeout: http.idle_timeout,
        max_requests_per_connection: http.max_requests_per_connection,
        max_connection_duration: http.max_connection_duration,
        max_concurrent_streams: http.max_concurrent_streams,
        tcp_keepalive: tcp_keepalive(from)?,
        proxy_protocol,
        outlier: limits::outlier(from.outlier_detection.as_ref(), panic)?,
        protocol: http.protocol,
        tls,
        position: ours.position,
        original_dst: source == EndpointSource::OriginalDst,
        members: Vec::new(),
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
        Some(ClusterDiscoveryType::ClusterType(other)) => {
            return aggregate::members(other)
                .map(EndpointSource::Aggregate)
                .map_err(|error| error.under("cluster_type"));
        }
        None => Ok(DiscoveryType::Static),
    };
    if !matches!(
        kind,
        Ok(DiscoveryType::StrictDns | DiscoveryType::LogicalDns)
    ) {
        dns::has_no_effect(from)?;
    }
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
        Ok(DiscoveryType::StrictDns) => dns::source(from, false).map(EndpointSource::Dns),
        Ok(DiscoveryType::LogicalDns) => dns::source(from, true).map(EndpointSource::Dns),
        Ok(DiscoveryType::OriginalDst) => {
            let provided = [LbPolicy::ClusterProvided, LbPolicy::RoundRobin].map(i32::from);
            for (path, is_wrong, message) in [
                (
                    "load_assignment",
                    from.load_assignment.is_some(),
                    "has no effect on a cluster of type ORIGINAL_DST",
                ),
                (
                    "eds_cluster_config",
                    from.eds_cluster_config.is_some(),
                    "has no effect on a cluster of type ORIGINAL_DST",
                ),
                (
                    "lb_policy",
                    // Zero, which is not written at all, is ROUND_ROBIN.
                    !provided.contains(&from.lb_policy),
                    "a cluster of type ORIGINAL_DST has CLUSTER_PROVIDED",
                ),
                (
                    "transport_socket_matches",
                    !from.transport_socket_matches.is_empty(),
                    "has no effect on a cluster of type ORIGINAL_DST: its endpoints have no metadata",
                ),
            ] {
                if is_wrong {
                    return refuse(path, message);
                }
            }
            Ok(EndpointSource::OriginalDst)
        }
        Err(_unknown) => refuse(
            "type",
            "is unknown; EDS, STATIC, STRICT_DNS, LOGICAL_DNS or ORIGINAL_DST",
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

/// What is not said is as it is without the message.
fn tcp_keepalive(from: &proto::Cluster) -> Converted<TcpKeepalive> {
    let path = "upstream_connection_options.tcp_keepalive";
    let options = from.upstream_connection_options.as_ref();
    let Some(from) = options.and_then(|options| options.tcp_keepalive.as_ref()) else {
        return Ok(TcpKeepalive::default());
    };
    // Linux' own bounds.
    let within = |name: &str, value: Option<u32>, most: u32, default: u32| match value {
        Some(value) if !(1..=most).contains(&value) => refuse(
            format!("{path}.{name}"),
            format!("{value}; must be 1 to {most}"),
        ),
        value => Ok(value.unwrap_or(default)),
    };
    let seconds = |name: &str, value: Option<u32>, default: Duration| {
        let default = u32::try_from(default.as_secs()).unwrap_or(1);
        let seconds = within(name, value, 32_767, default)?;
        Ok(Duration::from_secs(seconds.into()))
    };
    let default = TcpKeepalive::default();
    Ok(TcpKeepalive {
        probes: within(
            "keepalive_probes",
            from.keepalive_probes,
            127,
            default.probes,
        )?,
        time: seconds("keepalive_time", from.keepalive_time, default.time)?,
        interval: seconds(
            "keepalive_interval",
            from.keepalive_interval,
            default.interval,
        )?,
    })
}

struct HttpOptions {
    protocol: UpstreamProtocol,
    idle_timeout: Duration,
    max_requests_per_connection: Option<u32>,
    max_connection_duration: Option<Duration>,
    max_concurrent_streams: Option<u32>,
}

fn http_options(from: &proto::Cluster) -> Converted<HttpOptions> {
    let mut options = HttpOptions {
        protocol: UpstreamProtocol::Http1,
        idle_timeout: IDLE_TIMEOUT,
        max_requests_per_connection: None,
        max_connection_duration: None,
        max_concurrent_streams: None,
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
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)) => {
            let path = "use_downstream_protocol_config.http2_protocol_options";
            let http2 = both.http2_protocol_options.as_ref();
            options.max_concurrent_streams = streams(path, http2)?;
            UpstreamProtocol::AsDownstream
        }
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            match &explicit.protocol_config {
                Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                    let path = "explicit_http_config.http2_protocol_options";
                    options.max_concurrent_streams = streams(path, Some(http2))?;
                    UpstreamProtocol::Http2
                }
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
        if common.max_headers_count.is_some() {
            let path = "common_http_protocol_options.max_headers_count";
            return refuse(path, "not supported yet for answers; 100 are taken");
        }
        let path = "common_http_protocol_options.max_connection_duration";
        let most = common.max_connection_duration.as_ref();
        // Zero = for ever, as in Envoy.
        let most = most.map(|most| duration(path, most)).transpose()?;
        options.max_connection_duration = most.filter(|most| !most.is_zero());
    }
    Ok(())
}

fn streams(path: &str, from: Option<&Http2ProtocolOptions>) -> Converted<Option<u32>> {
    match from.and_then(|from| from.max_concurrent_streams) {
        Some(0) => refuse(
            format!("{path}.max_concurrent_streams"),
            "0; must be 1 or more",
        ),
        most => Ok(most),
    }
}
