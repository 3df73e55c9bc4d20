//! What happens to a request before it is sent on: faults, CORS; and beside it: mirrors, rewrites, redirects.

use std::time::Duration;

use outrigger_policy::{
    AbortStatus, CorsPolicy, Fault, FaultAbort, FaultDelay, HttpAction, Mirror, Redirect,
    RedirectPort, RedirectUri, RegexRewrite, Rewrite, Share, StringMatch,
};

use super::*;

/// `reviews` with one rule, changed by hand.
fn with(edit: impl Fn(&mut outrigger_policy::HttpRoute)) -> Given {
    given_routes("  - route: [{destination: {host: reviews}}]\n").rule(edit)
}

fn route(given: &Given) -> Value {
    let seen = given.seen_by(&node());
    seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080")[0].clone()
}

fn own(route: &Value) -> &Value {
    &route["metadata"]["filterMetadata"]["outrigger"]
}

#[test]
fn outbound_listeners_have_the_filters_that_routes_may_ask_for() {
    let seen = scoped().seen_by(&node());
    for name in ["http_proxy", "127.0.0.1_9080"] {
        let listener = seen.json(Listener, name);
        let manager = &listener["filterChains"][0]["filters"][0]["typedConfig"];
        let filters = manager["httpFilters"].as_array().unwrap();
        let names: Vec<_> = filters
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "envoy.filters.http.cors",
                "envoy.filters.http.fault",
                "envoy.filters.http.router"
            ]
        );
    }
}

#[test]
fn a_fault_delays_and_answers_its_share() {
    let table = [
        (AbortStatus::Http(418), json!({"httpStatus": 418})),
        (AbortStatus::Grpc(14), json!({"grpcStatus": 14})),
    ];
    for (status, mut expected) in table {
        let given = with(move |rule| {
            let delay = Some(FaultDelay {
                share: Share(1),
                fixed_delay: Duration::from_millis(20),
            });
            let abort = Some(FaultAbort {
                share: Share::ALL,
                status,
            });
            rule.fault = Some(at(9, Fault { delay, abort }));
        });
        let route = route(&given);
        let fault = &route["typedPerFilterConfig"]["envoy.filters.http.fault"];
        let delay = json!({
            "fixedDelay": "0.020s",
            "percentage": {"numerator": 1, "denominator": "MILLION"},
        });
        assert_eq!(fault["delay"], delay);
        expected["percentage"] = json!({"numerator": 1_000_000, "denominator": "MILLION"});
        assert_eq!(fault["abort"], expected);
        assert_eq!(own(&route)["positions"], json!({"fault": "f.yaml:9:5"}));
        envoy::accepts(&given);
    }
}

#[test]
fn a_cors_policy_is_the_filters() {
    let given = with(|rule| {
        let cors = CorsPolicy {
            allow_origins: vec![
                StringMatch::Exact("https://a.example".into()),
                StringMatch::Regex("https://[a-z]+\\.example".into()),
                StringMatch::Present,
            ],
            allow_methods: vec!["GET".into(), "PUT".into()],
            allow_headers: vec!["x-a".into(), "x-b".into()],
            expose_headers: vec!["x-c".into()],
            max_age: Some(Duration::from_secs(86_400)),
            allow_credentials: true,
            forward_unmatched_preflights: false,
        };
        rule.cors = Some(at(4, cors));
    });
    let route = route(&given);
    let cors = &route["typedPerFilterConfig"]["envoy.filters.http.cors"];
    let expected = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allowOriginStringMatch": [
            {"exact": "https://a.example"},
            {"safeRegex": {"regex": "https://[a-z]+\\.example"}},
            {"safeRegex": {"regex": ".*"}},
        ],
        "allowMethods": "GET,PUT",
        "allowHeaders": "x-a,x-b",
        "exposeHeaders": "x-c",
        "maxAge": "86400",
        "allowCredentials": true,
        "filterEnabled": {"defaultValue": {"numerator": 100}},
        "forwardNotMatchingPreflights": false,
    });
    assert_eq!(*cors, expected);
    assert_eq!(own(&route)["positions"]["cors"], "f.yaml:4:5");
    envoy::accepts(&given);
}

#[test]
fn copies_go_to_the_mirrors_that_get_any() {
    let mirror = |subset: Option<&str>, share| {
        let host = at(5, "ratings".to_owned());
        Mirror {
            position: host.position.clone(),
            host,
            subset: subset.map(|name| at(5, name.to_owned())),
            port: None,
            share: Share(share),
            path: "mirror".to_owned(),
        }
    };
    let given = with(move |rule| {
        rule.mirrors = vec![
            mirror(Some("v1"), 1_000_000),
            mirror(None, 2500),
            mirror(None, 0),
        ];
    });
    let given = given.destination_rule("ratings", |_| {});
    let route = route(&given);
    let to = |subset: &str, numerator: u32| {
        json!({
            "cluster": format!("outbound|7070|{subset}|ratings.default.svc.cluster.local"),
            "runtimeFraction": {"defaultValue": {"numerator": numerator, "denominator": "MILLION"}},
            "traceSampled": false,
        })
    };
    let expected = json!([to("v1", 1_000_000), to("", 2500)]);
    assert_eq!(route["route"]["requestMirrorPolicies"], expected);
    assert_eq!(own(&route)["positions"]["mirrors"], "f.yaml:5:5");
    let narrow = scopes::SIDECAR.replace("['*/*']", "['~/*']");
    let narrow = narrow.replace("./ratings.default.svc.cluster.local", "~/*");
    let scoped = given.policy("sidecar.yaml", &narrow).seen_by(&node());
    assert_eq!(
        scoped.names(Cluster),
        [
            "outbound|7070|v1|ratings.default.svc.cluster.local",
            "outbound|7070||ratings.default.svc.cluster.local",
            REVIEWS
        ],
        "a scope includes what its routes lead to"
    );
}

#[test]
fn a_path_is_rewritten_by_expression() {
    let given = with(|rule| {
        rule.rewrite = Some(Rewrite {
            uri: None,
            authority: None,
            uri_regex: Some(RegexRewrite {
                pattern: "^/a/(\\d+)".into(),
                substitution: "/b/\\1".into(),
            }),
        });
    });
    let expected = json!({"pattern": {"regex": "^/a/(\\d+)"}, "substitution": "/b/\\1"});
    assert_eq!(route(&given)["route"]["regexRewrite"], expected);
    envoy::accepts(&given);
}

#[test]
fn redirects_take_every_form() {
    let to = |uri, port| Redirect {
        uri,
        authority: None,
        port,
        scheme: Some("https".into()),
        redirect_code: 302,
    };
    let prefix = RedirectUri::Prefix("/new/".into());
    let table = [
        (to(Some(prefix), None), "prefixRewrite", json!("/new/")),
        (
            to(None, Some(RedirectPort::Number(8443))),
            "portRedirect",
            json!(8443),
        ),
        (
            to(None, Some(RedirectPort::OfRequest)),
            "portRedirect",
            json!(9080),
        ),
        (
            to(None, Some(RedirectPort::OfScheme)),
            "portRedirect",
            Value::Null,
        ),
    ];
    for (redirect, field, expected) in table {
        let given = with(move |rule| rule.action = HttpAction::Redirect(redirect.clone()));
        let found = route(&given);
        assert_eq!(found["redirect"][field], expected, "{field}");
        assert_eq!(found["redirect"]["responseCode"], "FOUND");
        envoy::accepts(&given);
    }
}

#[test]
fn a_match_names_the_statistics_of_its_route() {
    let given = given_routes(
        "  - match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}]
    route: [{destination: {host: reviews}}]
",
    );
    let given = given.rule(|rule| {
        rule.matches[1].stat_prefix = Some("b".into());
    });
    let seen = given.seen_by(&node());
    let found = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
    assert_eq!(found[0]["statPrefix"], Value::Null);
    assert_eq!(found[1]["statPrefix"], "b");
    envoy::accepts(&given);
}
