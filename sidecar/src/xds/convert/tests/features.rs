//! What a route says beside its match and its cluster: from the JSON of the message, as Envoy's reference writes it.

use outrigger_core::{
    Abort, Edit, Fault, RedirectPath, RetryOn, RetryPolicy, Rewrite, Route, Share,
};
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};

use super::*;

/// The whole way of a route with these fields beside its match.
fn route_of(fields: &Value) -> Converted<Route> {
    let mut route = json!({"match": {"prefix": "/"}});
    for (key, value) in fields.as_object().unwrap() {
        route[key] = value.clone();
    }
    let host = json!({
        "name": "reviews", "domains": ["*"], "routes": [route], "include_request_attempt_count": true,
    });
    let config = json!({"name": "9080", "virtual_hosts": [host]});
    let name = "envoy.config.route.v3.RouteConfiguration";
    let descriptor = fields::POOL.get_message_by_name(name).unwrap();
    let message = DynamicMessage::deserialize(descriptor, config).unwrap();
    let message: rds::RouteConfiguration = message.transcode_to().unwrap();
    let table = routes_of(&message)?;
    Ok(table.virtual_hosts[0].routes[0].clone())
}

fn forward(fields: &Value) -> Value {
    let mut action = json!({"cluster": "c"});
    for (key, value) in fields.as_object().unwrap() {
        action[key] = value.clone();
    }
    json!({"route": action})
}

fn previous_hosts() -> Value {
    json!([{
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        },
    }])
}

#[test]
fn retries_become_what_they_say() {
    let silent = route_of(&forward(&json!({}))).unwrap();
    assert_eq!(silent.retry, RetryPolicy::default());
    assert!(silent.tells_attempts && !silent.answers_attempts);
    let unset = json!({"retry_policy": {
        "retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 1,
        "retry_host_predicate": previous_hosts(), "host_selection_retry_max_attempts": 5,
    }});
    let unset = route_of(&forward(&unset)).unwrap();
    assert_eq!(unset.retry, RetryPolicy::default());
    let off = route_of(&forward(&json!({"retry_policy": {"num_retries": 0}}))).unwrap();
    assert_eq!(off.retry.attempts, 1);
    let written = json!({"retry_policy": {
        "retry_on": "5xx,retriable-status-codes", "num_retries": 3, "per_try_timeout": "2s",
        "retriable_status_codes": [418], "retry_host_predicate": previous_hosts(),
        "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.1s"},
        "retry_priority": {"name": "envoy.retry_priorities.previous_priorities", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            "update_frequency": 2,
        }},
    }});
    let written = route_of(&forward(&written)).unwrap();
    let want = RetryPolicy {
        attempts: 4,
        on: RetryOn::SERVER_ERROR | RetryOn::STATUS_CODES,
        codes: vec![418],
        implied: false,
        per_try_timeout: Some(Duration::from_secs(2)),
        base_interval: Duration::from_millis(50),
        max_interval: Duration::from_millis(100),
        other_host: true,
        same_host_at_last: true,
        other_priority_every: Some(2),
    };
    assert_eq!(written.retry, want);
}

#[test]
fn our_own_settings_come_in_the_metadata() {
    let mut fields = forward(&json!({"retry_policy": {"retry_on": "unavailable"}}));
    fields["metadata"] = json!({"filter_metadata": {"outrigger": {
        "retry_implied": true,
        "hedge": {"after_ms": 50, "budget_percent": 5},
        "positions": {"timeout": "f.yaml:3:5", "retries": "f.yaml:4:5"},
    }}});
    let route = route_of(&fields).unwrap();
    assert!(route.retry.implied);
    let features = route.features.unwrap();
    let hedge = features.hedge.unwrap();
    assert_eq!(
        (hedge.after, hedge.budget_percent),
        (Duration::from_millis(50), 5)
    );
    assert_eq!(features.positions.timeout.as_deref(), Some("f.yaml:3:5"));
    assert_eq!(features.positions.fault, None);
}

#[test]
fn faults_cors_mirrors_and_rewrites_become_what_they_say() {
    let mut fields = forward(&json!({
        "regex_rewrite": {"pattern": {"regex": "^/a/(.*)"}, "substitution": "/\\1"},
        "request_mirror_policies": [{
            "cluster": "shadow", "trace_sampled": false,
            "runtime_fraction": {"default_value": {"numerator": 125_000, "denominator": "MILLION"}},
        }],
    }));
    fields["stat_prefix"] = json!("checkout");
    fields["typed_per_filter_config"] = json!({
        "envoy.filters.http.fault": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "delay": {"fixed_delay": "3s", "percentage": {"numerator": 10}},
            "abort": {"http_status": 503, "percentage": {"numerator": 1, "denominator": "TEN_THOUSAND"}},
        },
        "envoy.filters.http.cors": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{"exact": "https://a.example"}],
            "allow_methods": "GET", "max_age": "60", "allow_credentials": true,
            "filter_enabled": {"default_value": {"numerator": 100}},
        },
    });
    let route = route_of(&fields).unwrap();
    assert_eq!(route.rewrite_path("/a/b?c"), "/b?c");
    let features = route.features().unwrap();
    let Some(Fault { delay, abort, .. }) = &features.fault else {
        panic!("no fault");
    };
    assert_eq!(*delay, Some((Duration::from_secs(3), Share::new(10, 100))));
    assert_eq!(*abort, Some((Abort::Http(503), Share::new(1, 10_000))));
    let cors = features.cors.as_ref().unwrap();
    assert!(cors.allow_credentials && cors.forward_not_matching_preflights);
    assert_eq!(cors.max_age.as_ref().unwrap(), "60");
    let [mirror] = features.mirrors.as_slice() else {
        panic!("{:?}", features.mirrors);
    };
    assert_eq!(mirror.share, Share::new(125_000, 1_000_000));
    assert!(mirror.marks_host);
    assert_eq!(features.stat_prefix.as_deref(), Some("checkout"));
}

#[test]
fn redirects_and_headers_may_be_made_from_the_request() {
    let route = route_of(&json!({
        "redirect": {"prefix_rewrite": "/new/"},
        "response_headers_to_add": [{"header": {"key": "x-from", "value": "%REQ(:PATH)% %%"}}],
    }))
    .unwrap();
    assert!(
        matches!(&route.action, Action::Redirect { path: RedirectPath::Rewritten(Rewrite::Prefix(new)), .. } if new == "/new/")
    );
    assert!(matches!(&route.response_headers.add[0].1, Edit::Format(_)));
}

#[test]
fn what_is_not_done_is_refused_by_the_name_of_its_field() {
    let per_filter = |name: &str, config: Value| {
        let mut fields = forward(&json!({}));
        fields["typed_per_filter_config"][name] = config;
        fields
    };
    let fault = |rest: Value| {
        let mut config = rest;
        config["@type"] =
            json!("type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault");
        per_filter("envoy.filters.http.fault", config)
    };
    let retry = |policy: Value| forward(&json!({"retry_policy": policy}));
    let header = |value: &str| {
        let mut fields = forward(&json!({}));
        fields["request_headers_to_add"] = json!([{"header": {"key": "x", "value": value}}]);
        fields
    };
    for (fields, named) in [
        (
            retry(json!({"retry_on": "5xx,nope"})),
            "retry_policy.retry_on: \"nope\" is not",
        ),
        (
            retry(json!({"retry_on": "5xx", "num_retries": 101})),
            "num_retries: 101; at most",
        ),
        (
            retry(json!({"retriable_headers": [{"name": "x"}]})),
            "retriable_headers: not supported",
        ),
        (
            retry(json!({"retry_back_off": {"base_interval": "1s", "max_interval": "0.5s"}})),
            "retry_back_off.max_interval: 500ms is below 1s",
        ),
        (
            retry(json!({"retriable_status_codes": [42]})),
            "retriable_status_codes[0]: 42",
        ),
        (
            forward(&json!({"request_mirror_policies": [{"cluster": "x"}]})),
            "request_mirror_policies[0].trace_sampled: must be false",
        ),
        (
            forward(&json!({"regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "\\1"}})),
            "regex_rewrite.substitution: \"\\\\1\" names group 1",
        ),
        (
            fault(json!({"upstream_cluster": "x"})),
            "upstream_cluster: not supported",
        ),
        (
            fault(json!({"delay": {"header_delay": {}}})),
            "delay.header_delay: not supported",
        ),
        (
            fault(json!({"abort": {"http_status": 42}})),
            "abort.http_status: 42; must be",
        ),
        (
            per_filter(
                "envoy.filters.http.lua",
                json!({
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors",
                }),
            ),
            "typed_per_filter_config[\"envoy.filters.http.lua\"]: not supported",
        ),
        (header("%NOPE%"), "header.value: %NOPE% is not supported"),
    ] {
        let found = refusal(route_of(&fields));
        assert!(found.contains(named), "expected {named:?}, found {found:?}");
    }
}

#[test]
fn filters_that_routes_configure_are_empty_in_a_listener() {
    let with = |config: &str, bytes: Vec<u8>| {
        let filter = hcm::HttpFilter {
            name: config.to_owned(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(Any {
                type_url: format!("type.googleapis.com/{config}"),
                value: bytes,
            })),
            ..Default::default()
        };
        let rds = hcm::Rds {
            config_source: Some(ads()),
            route_config_name: "9080".to_owned(),
        };
        let mut manager = manager(hcm::http_connection_manager::RouteSpecifier::Rds(rds));
        manager.http_filters.insert(0, filter);
        refusal(listener_of(&listener_with("9080", &manager, None)))
    };
    let (cors, fault) = (
        "envoy.extensions.filters.http.cors.v3.Cors",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
    );
    assert_eq!(with(cors, Vec::new()), "accepted");
    assert_eq!(with(fault, Vec::new()), "accepted");
    let filled = outrigger_proto::envoy::extensions::filters::http::fault::v3::HttpFault {
        delay: Some(Default::default()),
        ..Default::default()
    };
    let found = with(fault, filled.encode_to_vec());
    assert!(
        found.contains("http_filters[0].typed_config: must be empty"),
        "{found}"
    );
}

#[test]
fn a_cookie_has_the_attributes_that_fit_into_one() {
    let hashed = |attributes: Value| {
        let cookie = json!({"name": "user", "ttl": "60s", "attributes": attributes});
        route_of(&forward(&json!({"hash_policy": [{"cookie": cookie}]})))
    };
    let route = hashed(json!([{"name": "SameSite", "value": "Strict"}, {"name": "Secure"}]));
    let none = http::HeaderMap::new();
    let cookie = |route: &Route| {
        let missing = route.missing_cookies(&none).next().unwrap();
        missing.set_cookie("f00").unwrap()
    };
    assert_eq!(
        cookie(&route.unwrap()),
        "user=\"f00\"; Max-Age=60; SameSite=Strict; Secure; HttpOnly"
    );
    for (attributes, expected) in [
        (
            json!([{"name": "Secure"}, {"name": ""}]),
            "cookie.attributes[1].name: \"\"",
        ),
        (
            json!([{"name": "A=b"}]),
            "cookie.attributes[0].name: \"A=b\"",
        ),
        (
            json!([{"name": "A", "value": "b; c"}]),
            "cookie.attributes[0].value: \"b; c\"",
        ),
    ] {
        let refused = hashed(attributes).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}
