//! The mesh that the micro benchmarks ask about.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_core::{
    Action, Cluster, ClusterChoice, ClusterConfig, ClusterSlot, EndpointConfig, HashPolicy,
    HeaderEdits, HeaderMatch, Health, LbPolicy, Locality, OutlierConfig, PathMatch, Route,
    RouteMatch, RouteSlot, RouteTable, Snapshot, SnapshotBuilder, StringMatch, VirtualHost,
    WeightedCluster,
};

/// Envoy's defaults.
pub(super) const RING: LbPolicy = LbPolicy::RingHash {
    minimum_ring_size: 1024,
    maximum_ring_size: 8_388_608,
};
pub(super) const EWMA: LbPolicy = LbPolicy::PeakEwma {
    decay: Duration::from_secs(10),
};
pub(super) const MAGLEV: LbPolicy = LbPolicy::Maglev { table_size: 65_537 };

pub(super) const OUTLIER: OutlierConfig = OutlierConfig {
    consecutive_5xx: 5,
    consecutive_gateway_failure: 0,
    split_local: None,
    interval: Duration::from_secs(10),
    base_ejection_time: Duration::from_secs(30),
    max_ejection_time: Duration::from_secs(300),
    max_ejection_percent: 10,
    min_health_percent: 0,
};

/// What a browser behind two proxies sends, roughly.
pub(super) fn headers() -> HeaderMap {
    [
        ("accept", "*/*"),
        ("user-agent", "curl/8.5.0"),
        ("x-request-id", "3f1c9a52-8f0e-4a3c-9a53-0f6f5b1f2a11"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("user-id", "u-1234567"),
        ("cookie", "session=abcdef0123456789; theme=dark"),
    ]
    .into_iter()
    .map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    })
    .collect()
}

pub(super) fn host(number: usize) -> String {
    format!("service-{number}.default.svc.cluster.local")
}

/// As the control plane writes them: every spelling of the host, with and without the port.
pub(super) fn hosts(count: usize) -> Vec<VirtualHost> {
    (0..count)
        .map(|number| {
            let spellings = [
                format!("service-{number}"),
                format!("service-{number}.default"),
                format!("service-{number}.default.svc"),
                host(number),
            ];
            let with_port = spellings.iter().map(|name| format!("{name}:80"));
            VirtualHost::new(
                &format!("{}:80", host(number)),
                with_port.chain(spellings.iter().cloned()).collect(),
                vec![route(anything(), slot(number))],
            )
        })
        .collect()
}

pub(super) fn host_with_routes(count: usize) -> VirtualHost {
    let by_prefix = |part| RouteMatch {
        path: PathMatch::SeparatedPrefix(format!("/part-{part}")),
        ..anything()
    };
    let routes = (0..count).map(|part| route(by_prefix(part), slot(part)));
    VirtualHost::new("orders:80", vec!["orders".to_owned()], routes.collect())
}

/// `canary: true` leads to one cluster, everything else to another.
pub(super) fn canary() -> VirtualHost {
    let canary = RouteMatch {
        headers: vec![HeaderMatch {
            name: "canary".to_owned(),
            value: StringMatch::Exact("true".to_owned(), false),
            invert: false,
            treat_missing_as_empty: false,
        }],
        ..anything()
    };
    let routes = vec![route(canary, slot(1)), route(anything(), slot(0))];
    VirtualHost::new("orders:80", vec!["orders".to_owned()], routes)
}

pub(super) fn hashed_by_header(name: &'static str) -> Route {
    Route {
        hash_policies: vec![HashPolicy::Header(HeaderName::from_static(name))],
        ..route(anything(), slot(0))
    }
}

pub(super) fn split() -> ClusterChoice {
    choice(vec![weighted(slot(0), 90), weighted(slot(1), 10)])
}

fn choice(clusters: Vec<WeightedCluster>) -> ClusterChoice {
    ClusterChoice::new(clusters).expect("weights above 0")
}

fn anything() -> RouteMatch {
    RouteMatch {
        path: PathMatch::Prefix("/".to_owned()),
        case_sensitive: true,
        headers: Vec::new(),
        query_parameters: Vec::new(),
    }
}

fn route(matches: RouteMatch, cluster: ClusterSlot) -> Route {
    Route {
        name: "default".to_owned(),
        ..Route::new(matches, Action::Forward(choice(vec![weighted(cluster, 1)])))
    }
}

fn weighted(cluster: ClusterSlot, weight: u32) -> WeightedCluster {
    WeightedCluster {
        cluster,
        name: "outbound|80||service".into(),
        weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    }
}

fn slot(number: usize) -> ClusterSlot {
    ClusterSlot(u32::try_from(number).unwrap_or(u32::MAX))
}

pub(super) fn config(lb: LbPolicy) -> ClusterConfig {
    ClusterConfig {
        name: "outbound|80||service.default.svc.cluster.local".to_owned(),
        service: "service.default.svc.cluster.local".to_owned(),
        lb,
        ..ClusterConfig::default()
    }
}

pub(super) fn endpoints(count: u32) -> Vec<EndpointConfig> {
    let first = Ipv4Addr::new(10, 0, 0, 1).to_bits();
    (first..first + count)
        .map(|address| EndpointConfig {
            address: (Ipv4Addr::from_bits(address), 15006).into(),
            weight: 1,
            health: Health::Healthy,
            priority: 0,
            locality: Locality::default(),
            locality_weight: 0,
            mtls: true,
            labels: BTreeMap::new(),
        })
        .collect()
}

/// So many services of ten endpoints, and where their routes are.
pub(super) fn snapshot(services: usize) -> (Arc<Snapshot>, RouteSlot) {
    let mut builder = SnapshotBuilder::default();
    for number in 0..services {
        let name = format!("outbound|80||{}", host(number));
        let cluster = Cluster::new(config(LbPolicy::LeastRequest), endpoints(10), None);
        builder.set_cluster(&name, Some(Arc::new(cluster)));
    }
    let table = RouteTable::new("80".to_owned(), hosts(services));
    builder.set_routes("80", Some(Arc::new(table)));
    let slot = builder.route_slot("80");
    (builder.build(), slot)
}
