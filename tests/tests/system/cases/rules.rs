//! What rules do beside choosing a destination: faults, CORS, header values that are looked up, delegates.

use crate::system::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    [faults(), cors(), rewrites(), redirects(), values(), rest()]
        .into_iter()
        .flatten()
        .collect()
}

fn faults() -> Vec<Case> {
    vec![
        Case::http(
            "fault-abort",
            "
            - match: [{uri: {exact: /all}}]
              fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
              route: $v1
            - match: [{uri: {exact: /none}}]
              fault: {abort: {httpStatus: 418, percentage: {value: 0}}}
              route: $v1
            - match: [{uri: {exact: /default}}]
              fault: {abort: {httpStatus: 503}}
              route: $v1
            - route: $v2",
        )
        .asks(&[
            "GET /all -> 418",
            "POST /all -> 418",
            "GET /none -> 200; v1",
            "GET /default -> 503",
            "GET /other -> 200; v2",
        ]),
        Case::http(
            "fault-delay",
            "
            - match: [{uri: {exact: /short}}]
              fault: {delay: {fixedDelay: 50ms, percentage: {value: 100}}}
              route: $v1
            - match: [{uri: {exact: /both}}]
              fault: {delay: {fixedDelay: 50ms, percentage: {value: 100}}, abort: {httpStatus: 429, percentage: {value: 100}}}
              route: $v1
            - route: $v2",
        )
        .asks(&[
            "GET /short -> 200; v1",
            "GET /both -> 429",
            "GET /other -> 200; v2",
        ]),
        Case::http(
            "fault-grpc",
            "
            - fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
              route: $v1",
        )
        .asks(&["POST / | content-type: application/grpc -> 200; <grpc-status=14"]),
    ]
}

fn cors() -> Vec<Case> {
    let rule = |host, policy: &str| {
        Case::http(host, &format!("- {{corsPolicy: {{{policy}}}, route: $v1}}"))
    };
    let asks = [
        "GET / -> 200; v1",
        "GET / | origin: https://a.example -> 200; v1",
        "GET / | origin: https://other.example -> 200; v1",
        "OPTIONS / | origin: https://a.example | access-control-request-method: GET",
        "OPTIONS / | origin: https://a.example | access-control-request-method: PUT | access-control-request-headers: x-a",
        "OPTIONS / | origin: https://other.example | access-control-request-method: GET",
        "OPTIONS / | origin: https://a.example -> 200; v1",
        "OPTIONS / | access-control-request-method: GET -> 200; v1",
    ];
    vec![
        rule("cors-exact", "allowOrigins: [{exact: 'https://a.example'}], allowMethods: [GET, POST], allowHeaders: [x-a, x-b], exposeHeaders: [x-c], maxAge: 24h, allowCredentials: true").asks(&asks),
        rule("cors-prefix", "allowOrigins: [{prefix: 'https://a.'}], allowMethods: [GET], allowCredentials: false").asks(&asks),
        rule("cors-regex", "allowOrigins: [{regex: 'https://[a-c].example'}], maxAge: 10s").asks(&asks),
        rule("cors-ignore", "allowOrigins: [{exact: 'https://a.example'}], unmatchedPreflights: IGNORE").asks(&asks),
        rule("cors-forward", "allowOrigins: [{exact: 'https://a.example'}], unmatchedPreflights: FORWARD").asks(&asks),
    ]
}

fn rewrites() -> Vec<Case> {
    vec![
        Case::http(
            "rewrite-regex",
            r"
            - match: [{uri: {prefix: /service/}}]
              rewrite: {uriRegexRewrite: {match: '^/service/([^/]+)(/.*)$', rewrite: '\2/instance/\1'}}
              route: $v1
            - match: [{uri: {prefix: /all}}]
              rewrite: {uriRegexRewrite: {match: 'a', rewrite: 'b'}}
              route: $v1
            - match: [{uri: {prefix: /case}}]
              rewrite: {uriRegexRewrite: {match: '(?i)/AAA/', rewrite: '/bbb/'}}
              route: $v1",
        )
        .asks(&[
            "GET /service/foo/v1/api -> 200; v1; >:path=/v1/api/instance/foo",
            "GET /service/foo/v1/api?x=/service/a -> 200; v1; >:path=/v1/api/instance/foo?x=/service/a",
            "GET /service/foo -> 200; v1; >:path=/service/foo",
            "GET /all/a?a=a -> 200; v1; >:path=/bll/b?a=a",
            "GET /case/aaa/x -> 200; v1; >:path=/case/bbb/x",
        ]),
    ]
}

fn redirects() -> Vec<Case> {
    vec![
        Case::http(
            "redirect-prefix",
            "
            - match: [{uri: {prefix: /old}}]
              redirect: {uri: '%PREFIX()%/new'}
            - match: [{uri: {exact: /same}}]
              redirect: {derivePort: FROM_REQUEST_PORT, uri: /x}
            - match: [{uri: {exact: /protocol}}]
              redirect: {derivePort: FROM_PROTOCOL_DEFAULT, scheme: https}",
        )
        .asks(&[
            "GET /old/a?b=c -> 301",
            "GET /old -> 301",
            "GET /same -> 301",
            "GET /same | host: HOST:80 -> 301",
            "GET /protocol | host: HOST:80 -> 301",
            "GET /protocol -> 301",
        ]),
        Case::http(
            "direct-bytes",
            "- directResponse: {status: 200, body: {bytes: aGVsbG8=}}",
        )
        .asks(&["GET / -> 200"]),
    ]
}

fn values() -> Vec<Case> {
    vec![
        Case::http(
            "header-values",
            "
            - headers:
                request:
                  set: {x-protocol: '%PROTOCOL%', x-in: '%REQ(x-given)%', x-path: '%REQ(:path)%', x-or: '%REQ(x-none?x-given)%', x-cut: '%REQ(x-given):2%', x-percent: '100%%', x-both: 'a-%REQ(x-given)%-b'}
                  add: {x-remote: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}
                response:
                  set: {x-code: '%RESPONSE_CODE%', x-cluster: '%UPSTREAM_CLUSTER%', x-upstream: '%UPSTREAM_HOST%', x-name: '%RESP(x-from)%', x-missing: '%REQ(x-none)%'}
              route: $v1",
        )
        .asks(&[
            "GET /p?q=1 | x-given: hello -> 200; v1; >x-in=hello; >x-cut=he; >x-percent=100%; >x-both=a-hello-b; >x-path=/p?q=1",
            "GET / -> 200; v1; >x-remote=127.0.0.1; <x-code=200",
            "GET / | x-app-header: x-from=app | x-app-status: 404 -> 404; v1; <x-name=app; <x-code=404",
        ]),
    ]
}

/// Sources and delegates.
fn rest() -> Vec<Case> {
    vec![
        Case::http(
            "source-labels",
            "
            - match: [{sourceLabels: {app: nobody}}]
              route: $v1
            - match: [{sourceLabels: {app: shopper}}]
              route: $v2
            - route: $v3",
        )
        .asks(&["GET / -> 200; v2"]),
        Case::http(
            "source-namespace",
            "
            - match: [{sourceNamespace: elsewhere}]
              route: $v1
            - match: [{sourceNamespace: default}]
              route: $v2",
        )
        .asks(&["GET / -> 200; v2"]),
        Case::documents(
            "delegate",
            &[
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: HOST}\nspec:\n  hosts: [HOST]\n  http: [{match: [{uri: {prefix: /a}}], delegate: {name: HOST-a}}, {match: [{uri: {prefix: /b}}], route: [{destination: {host: HOST}}]}]",
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: HOST-a}\nspec:\n  http: [{match: [{uri: {prefix: /a/x}}], rewrite: {uri: /from-delegate}, route: [{destination: {host: HOST}}]}]",
            ],
        )
        .any_upstream()
        .asks(&[
            "GET /a/x -> 200; >:path=/from-delegate",
            "GET /a/y -> 404",
            "GET /b -> 200; >:path=/b",
        ]),
        Case::documents(
            "rule-elsewhere",
            &[
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: HOST, namespace: elsewhere}\nspec:\n  hosts: [HOST.default.svc.cluster.local]\n  exportTo: ['.']\n  http: [{directResponse: {status: 418}}]",
            ],
        )
        .any_upstream()
        .asks(&["GET / -> 200"]),
        Case::documents(
            "policy-elsewhere",
            &[
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST}\nspec:\n  host: HOST\n  workloadSelector: {matchLabels: {app: nobody}}\n  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 1}}}",
            ],
        )
        .any_upstream()
        .asks(&["GET / -> 200"]),
        Case::policy(
            "port-level",
            "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]",
        )
        .any_upstream()
        .asks(&["GET / -> 200"]),
    ]
}
