//! Whatever a server sends: nothing panics, every answer is answered once, what was refused changes nothing, what was
//! accepted can be used, and the good resource heals.
//!
//! `OUTRIGGER_FUZZ_ROUNDS` (default 400 a resource) makes it longer, `OUTRIGGER_SEED` repeats a run.

use std::hint::black_box;

use http::{HeaderMap, HeaderValue, Method};
use outrigger_core::{
    Action, Cluster, Greeting, Moment, PickContext, RequestView, RouteSource, RouteTable,
};
use prost_reflect::DynamicMessage;
use prost_types::Any;
use serde_json::{Value, json};

use super::*;
use crate::xds::convert::fields::POOL;

mod mutate;

/// Resources that are accepted, with as many features as can be.
fn corpus() -> Vec<(Kind, String, Vec<u8>)> {
    let percent = json!({"default_value": {"numerator": 50}});
    let route = json!({
        "name": "r", "match": {
            "safe_regex": {"regex": "/a/.*"}, "case_sensitive": true,
            "headers": [
                {"name": "x-user", "string_match": {"exact": "jason", "ignore_case": true}},
                {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|POST"}}, "invert_match": true},
            ],
            "query_parameters": [{"name": "q", "string_match": {"prefix": "a"}}],
        },
        "route": {
            "weighted_clusters": {"clusters": [
                {"name": R, "weight": 90, "request_headers_to_add": [{"header": {"key": "x-a", "value": "b"}}]},
                {"name": Q, "weight": 10},
            ]},
            "timeout": "3s",
            "regex_rewrite": {"pattern": {"regex": "^/a/(.*)"}, "substitution": "/\\1"},
            "hash_policy": [
                {"header": {"header_name": "x-user"}, "terminal": true},
                {"cookie": {"name": "c", "ttl": "60s", "path": "/"}},
                {"query_parameter": {"name": "q"}}, {"connection_properties": {"source_ip": true}},
            ],
            "retry_policy": {
                "retry_on": "5xx,reset,retriable-status-codes", "num_retries": 3, "per_try_timeout": "1s",
                "retriable_status_codes": [418], "host_selection_retry_max_attempts": 5,
                "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.1s"},
            },
            "request_mirror_policies": [{"cluster": Q, "trace_sampled": false, "runtime_fraction": percent}],
        },
        "request_headers_to_add": [{"header": {"key": "x-c", "value": "%REQ(x-user)%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        "response_headers_to_remove": ["server"],
        "typed_per_filter_config": {
            "envoy.filters.http.fault": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                "delay": {"fixed_delay": "3s", "percentage": {"numerator": 10}},
                "abort": {"http_status": 503, "percentage": {"numerator": 1, "denominator": "TEN_THOUSAND"}},
            },
            "envoy.filters.http.cors": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
                "allow_origin_string_match": [{"exact": "https://a.example"}], "allow_methods": "GET", "max_age": "60",
                "filter_enabled": {"default_value": {"numerator": 100}},
            },
        },
        "metadata": {"filter_metadata": {"outrigger": {
            "position": "a.yaml:1:2", "retry_implied": true, "hedge": {"after_ms": 50, "budget_percent": 5},
        }}},
    });
    let redirect = json!({"match": {"path": "/old"}, "redirect": {"path_redirect": "/new", "response_code": "FOUND"}});
    let direct = json!({"match": {"path_separated_prefix": "/x"}, "direct_response": {"status": 418, "body": {"inline_string": "no"}}});
    let rest = json!({"match": {"prefix": "/"}, "route": {"cluster": R, "prefix_rewrite": "/y"}});
    let rich = json!({"name": "9080", "virtual_hosts": [
        {"name": "a", "domains": ["a.example", "*.b.example", "c.*"], "routes": [route, redirect, direct, rest]},
        {"name": "b", "domains": ["*"], "routes": [rest]},
    ]});
    let ring = {
        let mut ring = cluster(R);
        ring.lb_policy =
            outrigger_proto::envoy::config::cluster::v3::cluster::LbPolicy::RingHash as i32;
        ring.lb_config = None;
        ring
    };
    let of_names = json!({
        "name": Q, "type": "STRICT_DNS", "connect_timeout": "1s", "dns_refresh_rate": "1s",
        "load_assignment": {"cluster_name": Q, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}}}}]}]},
        "outlier_detection": {"consecutive_5xx": 3, "interval": "1s", "base_ejection_time": "30s", "max_ejection_percent": 50},
    });
    let both = json!({
        "name": "all", "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": [R, Q, "all"],
        }},
    });
    let tcp = json!({
        "name": "tcp", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 5432}},
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "t", "idle_timeout": "60s", "hash_policy": [{"source_ip": {}}],
            "weighted_clusters": {"clusters": [{"name": R, "weight": 1}, {"name": Q, "weight": 2}]},
        }}]}],
    });
    let pem = rcgen::generate_simple_self_signed(["a".to_owned()])
        .unwrap()
        .cert
        .pem();
    vec![
        (Kind::Cluster, R.to_owned(), cluster(R).encode_to_vec()),
        (Kind::Cluster, R.to_owned(), ring.encode_to_vec()),
        (
            Kind::Cluster,
            Q.to_owned(),
            from_json(Kind::Cluster, of_names),
        ),
        (
            Kind::Cluster,
            "all".to_owned(),
            from_json(Kind::Cluster, both),
        ),
        (
            Kind::Endpoint,
            R.to_owned(),
            assignment(R, &[("10.0.0.1", 1), ("10.0.0.2", 2)]).encode_to_vec(),
        ),
        (
            Kind::Listener,
            "http".to_owned(),
            outbound("http", "9080").encode_to_vec(),
        ),
        (
            Kind::Listener,
            "inbound".to_owned(),
            inbound("inbound").encode_to_vec(),
        ),
        (
            Kind::Listener,
            "tcp".to_owned(),
            from_json(Kind::Listener, tcp),
        ),
        (Kind::Route, "9080".to_owned(), from_json(Kind::Route, rich)),
        (
            Kind::Secret,
            "ROOTCA".to_owned(),
            bundle(&pem).encode_to_vec(),
        ),
    ]
}

fn from_json(kind: Kind, json: Value) -> Vec<u8> {
    let descriptor = POOL.get_message_by_name(kind.message()).unwrap();
    DynamicMessage::deserialize(descriptor, json)
        .unwrap()
        .encode_to_vec()
}

fn sent_as(kind: Kind, name: &str, version: u32, value: &[u8]) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_string(),
        resource: Some(Any {
            type_url: kind.type_url(),
            value: value.to_vec(),
        }),
        ..Resource::default()
    }
}

/// Everything that requests would do with a configuration.
fn use_all(snapshot: &Snapshot, rng: &mut fastrand::Rng) {
    for (slot, cluster) in snapshot.clusters() {
        pick(cluster, rng);
        black_box(snapshot.serving(slot, || Moment(1), rng));
    }
    for listener in snapshot.listeners.values() {
        let greetings = [None, Some("a.example"), Some("*")].map(|name| Greeting {
            tls: name.is_some(),
            server_name: name.map(Box::from),
            ..Greeting::default()
        });
        for greeting in &greetings {
            black_box(listener.chains.find(greeting));
        }
        for chain in listener.chains.iter() {
            match &chain.routes {
                RouteSource::Named(slot) => {
                    if let Some(table) = snapshot.routes(*slot) {
                        route(table, rng);
                    }
                }
                RouteSource::Inline(table) => route(table, rng),
                RouteSource::Connection(route) => {
                    black_box((
                        route.hash([127, 0, 0, 1].into()),
                        route.clusters.choose(rng),
                    ));
                }
            }
        }
    }
}

fn pick(cluster: &Cluster, rng: &mut fastrand::Rng) {
    for hash in [None, Some(0), Some(u64::MAX)] {
        let mut context = PickContext {
            hash,
            tried: &[],
            previous_priorities: &[],
            now: Moment(1),
            rng,
        };
        if let Ok(picked) = cluster.pick(&mut context) {
            cluster.unused(&picked, Moment(2));
        }
    }
    cluster.sweep(Moment(3));
}

fn route(table: &RouteTable, rng: &mut fastrand::Rng) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-user", "jason"),
        ("cookie", "c=1; d"),
        ("origin", "https://a.example"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for authority in ["a.example", "x.b.example:80", "c.d", "", "*", "[::1]:1"] {
        for path in ["/a/b?q=a%20b&q", "/old", "/x/y", "*", "/", "/a/é"] {
            let view = RequestView {
                method: &Method::GET,
                authority,
                path_and_query: path,
                scheme: "http",
                headers: &headers,
            };
            let Ok((_, route)) = table.find(&view) else {
                continue;
            };
            black_box(route.rewrite_path(path));
            if let Action::Forward(choice) = &route.action {
                black_box(choice.choose(rng));
            }
            black_box(route.hash_with_cookie(&view, None, Some("x")));
            if let Some(features) = route.features() {
                if let Some(fault) = &features.fault {
                    black_box(fault.draw(&view, rng));
                }
                if let Some(cors) = &features.cors {
                    black_box(cors.judge(&Method::OPTIONS, &headers));
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_a_server_sends_is_taken_whole_or_refused_and_the_good_form_heals() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("OUTRIGGER_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number("OUTRIGGER_FUZZ_ROUNDS").unwrap_or(400);
    println!("OUTRIGGER_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let corpus = corpus();
    let mut story = Story::connected();
    for (kind, name, bytes) in &corpus {
        story.answer(*kind, vec![sent_as(*kind, name, 0, bytes)], &[]);
    }
    assert_eq!(story.nacks, [""; 0]);
    for (kind, name, bytes) in &corpus {
        let (mut accepted, mut refused) = (0, 0);
        for round in 1..=rounds {
            let changed = mutate::mutate(&mut rng, kind.message(), bytes);
            let before = held(&story, *kind, name);
            let was = story.snapshot.version;
            story.sent();
            let resources = vec![sent_as(
                *kind,
                name,
                u32::try_from(round).unwrap(),
                &changed,
            )];
            story.answer(*kind, resources, &[]);
            let sent = story.sent();
            let answers = sent.iter().filter(|text| text.contains("ack ")).count();
            assert_eq!(answers, 1, "{sent:?}");
            if let Some(nack) = story.nacks.pop() {
                refused += 1;
                assert!(
                    nack.contains(kind.name()) && nack.contains(&format!("{name:?}")),
                    "{nack}"
                );
                assert_eq!(held(&story, *kind, name), before, "{nack}");
                assert_eq!(story.snapshot.version, was, "{nack}");
            } else {
                accepted += 1;
                assert_eq!(held(&story, *kind, name).as_deref(), Some(&*changed));
                use_all(&story.snapshot, &mut rng);
            }
        }
        println!(
            "{} {name}: {accepted} accepted, {refused} refused",
            kind.name()
        );
        // Otherwise the test would look at refusals, or at nothing, only.
        assert!(
            accepted * 200 > rounds && refused * 200 > rounds,
            "{accepted} {refused}"
        );
        story.answer(*kind, vec![sent_as(*kind, name, 0, bytes)], &[]);
        assert_eq!(story.nacks, [""; 0]);
        assert_eq!(held(&story, *kind, name).as_deref(), Some(&**bytes));
    }
}

fn held(story: &Story, kind: Kind, name: &str) -> Option<Vec<u8>> {
    let entry = story.engine.state(kind).entries().get(name)?;
    Some(entry.accepted.as_ref()?.value.clone())
}
