//! Routes of a VirtualService.

use super::*;

#[test]
fn each_match_of_a_rule_is_a_route() {
    let found = routes(
        "  - name: both
    match:
    - {uri: {prefix: /a}, ignoreUriCase: true}
    - {uri: {exact: /b}, method: {exact: PUT}, headers: {X-One: {regex: 'a+'}, x-two: {}}}
    - {uri: {regex: '/c.*'}, queryParams: {q: {exact: '1'}}, withoutHeaders: {no: {prefix: x}}}
    route: [{destination: {host: ratings}}]
",
    );
    assert_eq!(found.len(), 3);
    assert_eq!(
        found[0]["match"],
        json!({"prefix": "/a", "caseSensitive": false})
    );
    assert_eq!(found[1]["match"]["path"], "/b");
    assert_eq!(found[1]["match"]["headers"][0]["name"], ":method");
    assert_eq!(found[1]["match"]["headers"][1]["name"], "x-one");
    assert_eq!(found[1]["match"]["headers"][2]["presentMatch"], true);
    assert_eq!(found[2]["match"]["safeRegex"]["regex"], "/c.*");
    assert_eq!(found[2]["match"]["headers"][0]["invertMatch"], true);
    assert_eq!(
        found[2]["match"]["queryParameters"][0]["stringMatch"]["exact"],
        "1"
    );
    for route in &found {
        assert_eq!(route["name"], "both");
        assert_eq!(
            route["metadata"]["filterMetadata"]["outrigger"]["position"],
            "routes.yaml:7:5"
        );
        let cluster = "outbound|7070||ratings.default.svc.cluster.local";
        assert_eq!(route["route"]["cluster"], cluster, "on its only port");
    }
}

#[test]
fn a_match_on_another_port_makes_no_route() {
    let found = routes(
        "  - match: [{port: 80}]
    route: [{destination: {host: ratings}}]
  - match: [{port: 9080}]
    route: [{destination: {host: reviews}}]
",
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["route"]["cluster"], REVIEWS);
}

#[test]
fn a_route_without_timeout_has_none() {
    // Absent would mean 15 s to Envoy.
    let found = routes("  - route: [{destination: {host: reviews}}]\n");
    assert_eq!(found[0]["route"]["timeout"], "0s");
    let found = routes("  - timeout: 1.5s\n    route: [{destination: {host: reviews}}]\n");
    assert_eq!(found[0]["route"]["timeout"], "1.500s");
}

#[test]
fn a_destination_of_weight_0_is_left_out() {
    let found = routes(
        "  - route:
    - {destination: {host: reviews}, weight: 0}
    - {destination: {host: ratings}, weight: 100}
",
    );
    let cluster = "outbound|7070||ratings.default.svc.cluster.local";
    assert_eq!(found[0]["route"]["cluster"], cluster);
}

#[test]
fn headers_are_set_added_and_removed_on_both_ways() {
    let found = routes(
        "  - headers:
      request: {set: {a: '1'}, add: {b: '2'}, remove: [C]}
      response: {set: {d: ''}}
    rewrite: {uri: /new, authority: other.example}
    route:
    - destination: {host: reviews}
      headers: {response: {add: {e: '5'}}}
",
    );
    let route = &found[0];
    let request: Vec<_> = route["requestHeadersToAdd"]
        .as_array()
        .unwrap()
        .iter()
        .collect();
    assert_eq!(request[0]["appendAction"], "OVERWRITE_IF_EXISTS_OR_ADD");
    assert_eq!(request[1]["header"], json!({"key": "b", "value": "2"}));
    assert_eq!(route["requestHeadersToRemove"], json!(["c"]));
    let empty = &route["responseHeadersToAdd"][0];
    assert_eq!(empty["header"]["key"], "d");
    assert_eq!(empty["keepEmptyValue"], true);
    assert_eq!(route["route"]["hostRewriteLiteral"], "other.example");
    assert_eq!(route["route"]["prefixRewrite"], "/new");
    let destination = &route["route"]["weightedClusters"]["clusters"][0];
    assert_eq!(destination["responseHeadersToAdd"][0]["header"]["key"], "e");
}

#[test]
fn redirects_and_direct_responses_need_no_cluster() {
    let found = routes(
        "  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, authority: b.example, redirectCode: 308}
  - directResponse: {status: 418, body: {string: short and stout}}
",
    );
    assert_eq!(found[0]["redirect"]["pathRedirect"], "/new");
    assert_eq!(found[0]["redirect"]["responseCode"], "PERMANENT_REDIRECT");
    assert_eq!(found[1]["directResponse"]["status"], 418);
    assert_eq!(
        found[1]["directResponse"]["body"]["inlineString"],
        "short and stout"
    );
}

#[test]
fn every_route_to_a_hashed_host_says_what_to_hash() {
    let rule = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hash}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: session, ttl: 60s}}}}
";
    let seen = reviews().policy("hash.yaml", rule).seen_by(&node());
    let found = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
    let policy = &found[0]["route"]["hashPolicy"][0]["cookie"];
    assert_eq!(
        (&policy["name"], &policy["ttl"]),
        (&json!("session"), &json!("60s"))
    );
    assert_eq!(seen.json(Cluster, REVIEWS)["lbPolicy"], "RING_HASH");
}

#[test]
fn a_port_that_no_rule_is_for_keeps_its_service() {
    let other = routes("  - match: [{port: 8080}]\n    directResponse: {status: 418}\n");
    assert_eq!(other.len(), 1);
    assert_eq!(
        other[0]["route"]["cluster"],
        "outbound|9080||reviews.default.svc.cluster.local"
    );
    let own = routes("  - match: [{port: 9080}]\n    directResponse: {status: 418}\n");
    assert_eq!(own.len(), 1);
    assert_eq!(own[0]["directResponse"]["status"], 418);
}

#[test]
fn the_line_of_a_timeout_travels_with_it() {
    let rule = "  - timeout: 3s\n    route: [{destination: {host: reviews}}]\n";
    let found = routes(rule);
    let own = &found[0]["metadata"]["filterMetadata"]["outrigger"];
    assert_eq!(own["positions"], json!({"timeout": "routes.yaml:7:14"}));
}
