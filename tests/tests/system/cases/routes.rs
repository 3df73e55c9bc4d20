//! `spec.http[].route[]`: destinations, weights, timeouts.

use crate::system::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::http(
            "subset",
            "
            - match: [{uri: {exact: /1}}]
              route: [{destination: {host: HOST, subset: v1}}]
            - match: [{uri: {exact: /2}}]
              route: [{destination: {host: HOST.default.svc.cluster.local, subset: v2, port: {number: 80}}}]
            - match: [{uri: {exact: /other}}]
              route: [{destination: {host: hosts, subset: v3}}]",
        )
        .asks(&[
            "GET /1 -> 200; v1",
            "GET /2 -> 200; v2",
            "GET /other -> 200; v3; >host=HOST",
        ]),
        Case::http(
            "weights",
            "
            - route:
              - {destination: {host: HOST, subset: v1}, weight: 50}
              - {destination: {host: HOST, subset: v2}, weight: 50}",
        )
        .any_upstream()
        .asks(&["GET / -> 200"; 5]),
        Case::http(
            "weight-zero",
            "
            - route:
              - {destination: {host: HOST, subset: v1}, weight: 100}
              - {destination: {host: HOST, subset: v2}, weight: 0}",
        )
        .asks(&["GET / -> 200; v1"; 5]),
        Case::http(
            "timeout",
            "
            - match: [{uri: {prefix: /short}}]
              timeout: 1s
              route: $v1
            - match: [{uri: {prefix: /none}}]
              timeout: 0s
              route: $v1
            - route: $v1",
        )
        .asks(&[
            "GET /short -> 200; v1",
            "GET /short | x-app-delay-ms: 3000 -> 504",
            "POST /short | x-app-delay-ms: 3000 -> 504",
            "GET /none | x-app-delay-ms: 400 -> 200; v1",
            "GET /default | x-app-delay-ms: 400 -> 200; v1",
        ]),
        Case::http("statuses", "- route: $v1").asks(&[
            "GET / | x-app-status: 201 -> 201; v1",
            "GET / | x-app-status: 301 -> 301; v1",
            "GET / | x-app-status: 404 -> 404; v1",
            "GET / | x-app-status: 429 -> 429; v1",
            "GET / | x-app-status: 500 -> 500; v1",
            "POST / | x-app-status: 503 -> 503; v1",
            "HEAD / -> 200",
            "OPTIONS / -> 200; v1",
            "GET / | x-app-status: 204 -> 204",
        ]),
    ]
}
