//! `DestinationRule`: balancing, limits, ejection, TLS and subsets of one host.
//! Source: Istio `networking/v1` DestinationRule; bounds of the rings from Envoy.

use super::virtual_service::everywhere;
use crate::{
    Balancer, ClientTls, ConnectionPool, DestinationRule, HashAlgorithm, HashKey, LoadBalancer,
    OutlierDetection, Subset, TlsMode, TrafficPolicy,
    decode::{
        Decoder, Fields, Item, Shape, boolean, dns_label, duration, enumeration, filled_text, host,
        integer, integer32, label_map, list, positive, positive_duration, refuse_twice, text,
    },
    yaml::quoted,
};
use std::time::Duration;

pub(super) const DESTINATION_RULE: Shape = Shape {
    what: "a DestinationRule's spec",
    fields: &["host", "trafficPolicy", "subsets", "exportTo"],
    not_yet: &["workloadSelector"],
};
pub(super) const SUBSET: Shape = Shape {
    what: "a subset",
    fields: &["name", "labels", "trafficPolicy"],
    not_yet: &[],
};

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<DestinationRule> {
    let fields = Fields::open(d, item, &DESTINATION_RULE)?;
    fields.optional(d, "exportTo", everywhere);
    let host = fields.required_at(d, "host", "the host that the rule is for", |d, item| {
        host(d, item, true)
    });
    let traffic_policy = fields
        .optional(d, "trafficPolicy", traffic_policy)
        .unwrap_or_default();
    let subsets = fields
        .optional(d, "subsets", |d, item| list(d, item, subset))
        .unwrap_or_default();
    let name = |subset: &Subset| (subset.name.value.clone(), subset.name.position.clone());
    let advice = "name each subset once";
    refuse_twice(d, &fields, ("subsets", ".name"), &subsets, name, advice);
    Some(DestinationRule {
        host: host?,
        traffic_policy,
        subsets,
        export_to: crate::ExportTo::All,
        workload_selector: None,
    })
}

fn subset(d: &mut Decoder, item: Item<'_>) -> Option<Subset> {
    let fields = Fields::open(d, item, &SUBSET)?;
    let name = fields.required_at(d, "name", "the subset's name", dns_label);
    Some(Subset {
        labels: fields.optional(d, "labels", label_map).unwrap_or_default(),
        traffic_policy: fields
            .optional(d, "trafficPolicy", traffic_policy)
            .unwrap_or_default(),
        name: name?,
    })
}

pub(super) const TRAFFIC_POLICY: Shape = Shape {
    what: "a traffic policy",
    fields: &["loadBalancer", "connectionPool", "outlierDetection", "tls"],
    not_yet: &[
        "portLevelSettings",
        "tunnel",
        "proxyProtocol",
        "retryBudget",
    ],
};

fn traffic_policy(d: &mut Decoder, item: Item<'_>) -> Option<TrafficPolicy> {
    let fields = Fields::open(d, item, &TRAFFIC_POLICY)?;
    Some(TrafficPolicy {
        load_balancer: fields.optional_at(d, "loadBalancer", load_balancer),
        connection_pool: fields.optional_at(d, "connectionPool", connection_pool),
        outlier_detection: fields.optional_at(d, "outlierDetection", outlier_detection),
        tls: fields.optional_at(d, "tls", tls),
        ..TrafficPolicy::default()
    })
}

pub(super) const LOAD_BALANCER: Shape = Shape {
    what: "a load balancer",
    fields: &["simple", "consistentHash"],
    not_yet: &["localityLbSetting", "warmup", "warmupDurationSecs"],
};

fn load_balancer(d: &mut Decoder, item: Item<'_>) -> Option<LoadBalancer> {
    let fields = Fields::open(d, item, &LOAD_BALANCER)?;
    if fields.present(LOAD_BALANCER.fields).len() > 1 {
        fields.exactly_one(d, LOAD_BALANCER.fields);
    }
    let words = [
        ("UNSPECIFIED", 0),
        ("LEAST_REQUEST", 0),
        ("LEAST_CONN", 0),
        ("ROUND_ROBIN", 1),
        ("RANDOM", 2),
    ];
    let simple = fields.optional(d, "simple", |d, item| {
        enumeration(d, item, "a load balancer", &words, &["PASSTHROUGH"])
    });
    let hash = fields.optional(d, "consistentHash", consistent_hash);
    if fields.has("consistentHash") {
        return hash;
    }
    Some(simple_balancer(match simple {
        Some(1) => Balancer::RoundRobin,
        Some(2) => Balancer::Random,
        _ => Balancer::LeastRequest,
    }))
}

fn simple_balancer(algorithm: Balancer) -> LoadBalancer {
    LoadBalancer {
        algorithm,
        ..LoadBalancer::default()
    }
}

pub(super) const CONSISTENT_HASH: Shape = Shape {
    what: "a consistent hash",
    fields: &[
        "httpHeaderName",
        "httpCookie",
        "useSourceIp",
        "httpQueryParameterName",
        "ringHash",
        "maglev",
        "minimumRingSize",
    ],
    not_yet: &[],
};
const HASH_KEYS: [&str; 4] = [
    "httpHeaderName",
    "httpCookie",
    "useSourceIp",
    "httpQueryParameterName",
];
const ALGORITHMS: [&str; 3] = ["ringHash", "maglev", "minimumRingSize"];
pub(super) const RING: Shape = Shape {
    what: "a ring hash",
    fields: &["minimumRingSize"],
    not_yet: &[],
};
pub(super) const MAGLEV: Shape = Shape {
    what: "a Maglev hash",
    fields: &["tableSize"],
    not_yet: &[],
};

const SMALLEST_RING: u64 = 1_024; // Istio's default
const LARGEST_RING: u64 = 8_388_608; // Envoy's bound
const TABLE_SIZE: u64 = 65_537; // Envoy's default
const LARGEST_TABLE: u64 = 5_000_011; // Envoy's bound

fn consistent_hash(d: &mut Decoder, item: Item<'_>) -> Option<LoadBalancer> {
    let fields = Fields::open(d, item, &CONSISTENT_HASH)?;
    let one_key = fields.exactly_one(d, &HASH_KEYS);
    let header = fields.optional(d, "httpHeaderName", |d, item| {
        let name = filled_text(d, item)?;
        if let Some(fault) = crate::decode::header_name_fault(&name) {
            d.refuse(item, fault);
        }
        Some(HashKey::Header(name))
    });
    let cookie = fields.optional(d, "httpCookie", cookie);
    let source = fields.optional(d, "useSourceIp", |d, item| {
        if boolean(d, item)? {
            return Some(HashKey::SourceIp);
        }
        d.refuse(
            item,
            "found false; want true, or one of the other keys instead",
        );
        None
    });
    let parameter = fields
        .optional(d, "httpQueryParameterName", filled_text)
        .map(HashKey::QueryParameter);
    if fields.present(&ALGORITHMS).len() > 1 {
        fields.exactly_one(d, &ALGORITHMS);
    }
    let algorithm = algorithm(d, &fields);
    let key = header.or(cookie).or(source).or(parameter)?;
    one_key.then(|| simple_balancer(Balancer::ConsistentHash { key, algorithm }))
}

fn algorithm(d: &mut Decoder, fields: &Fields<'_>) -> HashAlgorithm {
    let size = |d: &mut Decoder, item: Item<'_>| integer(d, item, 1..=LARGEST_RING);
    let ring = fields.optional(d, "ringHash", |d, item| {
        Fields::open(d, item, &RING)?.optional(d, "minimumRingSize", size)
    });
    let old = fields.optional(d, "minimumRingSize", size);
    let table = fields.optional(d, "maglev", |d, item| {
        Fields::open(d, item, &MAGLEV)?.optional(d, "tableSize", |d, item| {
            let size = integer(d, item, 2..=LARGEST_TABLE)?;
            if !is_prime(size) {
                d.refuse(
                    item,
                    format!("found {size}, want a prime number such as {TABLE_SIZE}"),
                );
            }
            Some(size)
        })
    });
    if fields.has("maglev") {
        return HashAlgorithm::Maglev {
            table_size: table.unwrap_or(TABLE_SIZE),
        };
    }
    HashAlgorithm::RingHash {
        minimum_ring_size: ring.or(old).unwrap_or(SMALLEST_RING),
    }
}

fn is_prime(n: u64) -> bool {
    n >= 2
        && (2..)
            .take_while(|i| i * i <= n)
            .all(|i| !n.is_multiple_of(i))
}

pub(super) const COOKIE: Shape = Shape {
    what: "a cookie",
    fields: &["name", "path", "ttl"],
    not_yet: &["attributes"],
};

fn cookie(d: &mut Decoder, item: Item<'_>) -> Option<HashKey> {
    let fields = Fields::open(d, item, &COOKIE)?;
    let name = fields.required(d, "name", "the cookie's name", |d, item| {
        let name = filled_text(d, item)?;
        if let Some(fault) = crate::decode::header_name_fault(&name) {
            d.refuse(item, fault.replace("header name", "cookie name"));
        }
        Some(name)
    });
    let path = fields.optional(d, "path", |d, item| {
        let path = text(d, item)?;
        if path.contains(|c: char| c.is_control() || c == ';') {
            d.refuse(
                item,
                format!("found {}; a cookie's path has no semicolon", quoted(&path)),
            );
        }
        Some(path)
    });
    Some(HashKey::Cookie {
        path: path.unwrap_or_default(),
        ttl: fields.optional(d, "ttl", duration),
        name: name?,
        attributes: Vec::new(),
    })
}

pub(super) const CONNECTION_POOL: Shape = Shape {
    what: "a connection pool",
    fields: &["tcp", "http"],
    not_yet: &[],
};
pub(super) const TCP: Shape = Shape {
    what: "a connection pool's tcp",
    fields: &["maxConnections", "connectTimeout"],
    not_yet: &["tcpKeepalive", "maxConnectionDuration", "idleTimeout"],
};
pub(super) const HTTP: Shape = Shape {
    what: "a connection pool's http",
    fields: &[
        "http1MaxPendingRequests",
        "http2MaxRequests",
        "maxRequestsPerConnection",
        "maxRetries",
        "idleTimeout",
    ],
    not_yet: &[
        "h2UpgradePolicy",
        "useClientProtocol",
        "maxConcurrentStreams",
    ],
};
/// Istio's bound.
const MOST_REQUESTS: u32 = 1 << 29;

fn connection_pool(d: &mut Decoder, item: Item<'_>) -> Option<ConnectionPool> {
    let fields = Fields::open(d, item, &CONNECTION_POOL)?;
    let mut pool = ConnectionPool::default();
    fields.optional(d, "tcp", |d, item| {
        let tcp = Fields::open(d, item, &TCP)?;
        pool.max_connections = tcp.optional(d, "maxConnections", positive);
        pool.connect_timeout = tcp.optional(d, "connectTimeout", positive_duration);
        Some(())
    });
    fields.optional(d, "http", |d, item| {
        let http = Fields::open(d, item, &HTTP)?;
        pool.http1_max_pending_requests = http.optional(d, "http1MaxPendingRequests", positive);
        pool.http2_max_requests = http.optional(d, "http2MaxRequests", positive);
        pool.max_requests_per_connection = http
            .optional(d, "maxRequestsPerConnection", |d, item| {
                integer32(d, item, 0..=MOST_REQUESTS)
            })
            .filter(|&most| most > 0);
        pool.max_retries = http.optional(d, "maxRetries", positive);
        pool.idle_timeout = http.optional(d, "idleTimeout", positive_duration);
        Some(())
    });
    Some(pool)
}

pub(super) const OUTLIER_DETECTION: Shape = Shape {
    what: "an outlier detection",
    fields: &[
        "consecutive5xxErrors",
        "consecutiveGatewayErrors",
        "interval",
        "baseEjectionTime",
        "maxEjectionPercent",
        "minHealthPercent",
    ],
    not_yet: &[
        "consecutiveErrors",
        "consecutiveLocalOriginFailures",
        "splitExternalLocalOriginErrors",
    ],
};

fn outlier_detection(d: &mut Decoder, item: Item<'_>) -> Option<OutlierDetection> {
    let fields = Fields::open(d, item, &OUTLIER_DETECTION)?;
    let count = |d: &mut Decoder, item: Item<'_>| integer32(d, item, 0..=i32::MAX.unsigned_abs());
    let percent = |d: &mut Decoder, item: Item<'_>| integer32(d, item, 0..=100);
    let time = |d: &mut Decoder, name: &str, default: u64| {
        fields
            .optional(d, name, positive_duration)
            .unwrap_or_else(|| Duration::from_secs(default))
    };
    Some(OutlierDetection {
        interval: time(d, "interval", 10),
        base_ejection_time: time(d, "baseEjectionTime", 30),
        consecutive_5xx_errors: fields
            .optional(d, "consecutive5xxErrors", count)
            .unwrap_or(5),
        consecutive_gateway_errors: fields
            .optional(d, "consecutiveGatewayErrors", count)
            .unwrap_or(0),
        max_ejection_percent: fields
            .optional(d, "maxEjectionPercent", percent)
            .unwrap_or(10),
        min_health_percent: fields.optional(d, "minHealthPercent", percent).unwrap_or(0),
        split_external_local_origin_errors: false,
        consecutive_local_origin_failures: 5,
    })
}

pub(super) const TLS: Shape = Shape {
    what: "tls",
    fields: &["mode"],
    not_yet: &[
        "clientCertificate",
        "privateKey",
        "caCertificates",
        "caCrl",
        "credentialName",
        "subjectAltNames",
        "sni",
        "insecureSkipVerify",
    ],
};

fn tls(d: &mut Decoder, item: Item<'_>) -> Option<ClientTls> {
    let words = [
        ("ISTIO_MUTUAL", TlsMode::IstioMutual),
        ("DISABLE", TlsMode::Disable),
    ];
    let fields = Fields::open(d, item, &TLS)?;
    let mode = fields.required(d, "mode", "ISTIO_MUTUAL or DISABLE", |d, item| {
        enumeration(d, item, "a mode", &words, &["SIMPLE", "MUTUAL"])
    });
    Some(ClientTls {
        mode: mode?,
        client_certificate: None,
        private_key: None,
        ca_certificates: None,
        ca_crl: None,
        subject_alt_names: Vec::new(),
        sni: None,
        insecure_skip_verify: false,
    })
}
