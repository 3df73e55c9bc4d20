//! `spec.http[].match[]`.

use crate::system::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    [uris(), names(), headers(), queries(), combined()]
        .into_iter()
        .flatten()
        .collect()
}

fn uris() -> Vec<Case> {
    vec![
        Case::documents(
            "gateways",
            &[
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST}\nspec: {host: HOST, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}",
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: HOST}\nspec: {hosts: [HOST], gateways: [mesh], http: [{match: [{gateways: [mesh], uri: {prefix: /a}}], route: $v1}, {route: $v2}]}",
            ],
        )
        .asks(&["GET /a -> 200; v1", "GET /b -> 200; v2"]),
        Case::http(
            "uri-exact",
            "
            - match: [{uri: {exact: /a}}]
              route: $v1
            - route: $v2",
        )
        .asks(&[
            "GET /a -> 200; v1; >:path=/a",
            "GET /a?x=1 -> 200; v1; >:path=/a?x=1",
            "GET /a? -> 200; v1",
            "GET /a/ -> 200; v2",
            "GET /A -> 200; v2",
            "GET /ab -> 200; v2",
            "GET /%61 -> 200; v1; >:path=/a",
            "GET /a;v=1 -> 200; v2",
            "GET //a -> 200; v2; >:path=//a",
            "GET /./a -> 200; v1; >:path=/a",
            "GET /b/../a -> 200; v1; >:path=/a",
            "GET /b/%2e%2E/a?x=/../ -> 200; v1; >:path=/a?x=/../",
            "GET /b%2F../a -> 400 ~~ Envoy leaves dots beside an encoded slash to the application; ours refuses them",
            "GET /a%2Fb -> 200; v2; >:path=/a%2Fb",
            "GET /a/. -> 200; v2; >:path=/a/",
            "GET /%7Eb%2d%41%5F -> 200; v2; >:path=/~b-A_",
            "GET /a%5cb%22%3C%7B%60 -> 200; v2",
            "GET /%2541 -> 200; v2",
            "GET /a^b[c] -> 200; v2 ~~ Envoy encodes what no URI may hold (such as `^`); ours passes it on",
            "GET /a'b(c)!*@:$&+=,~ -> 200; v2",
            "GET /a%20b%c3%a4 -> 200; v2",
            "GET /../a -> 400 ~~ Envoy takes the root for what is above it; ours refuses it",
            "GET / -> 200; v2",
            "POST /a -> 200; v1; >:method=POST",
        ]),
        Case::http(
            "uri-exact-case",
            "
            - match: [{uri: {exact: /Item}, ignoreUriCase: true}]
              route: $v1
            - route: $v2",
        )
        .asks(&[
            "GET /item -> 200; v1; >:path=/item",
            "GET /ITEM?A=B -> 200; v1; >:path=/ITEM?A=B",
            "GET /items -> 200; v2",
        ]),
        Case::http(
            "uri-prefix",
            "
            - match: [{uri: {prefix: /a}}]
              route: $v1
            - match: [{uri: {prefix: /b/}}]
              route: $v2
            - route: $v3",
        )
        .asks(&[
            "GET /a -> 200; v1",
            "GET /abc -> 200; v1",
            "GET /a/b -> 200; v1",
            "GET /a?b -> 200; v1",
            "GET /A -> 200; v3",
            "GET /b -> 200; v3",
            "GET /b/ -> 200; v2",
            "GET /b/c?d=e -> 200; v2; >:path=/b/c?d=e",
            "GET /b?/ -> 200; v3",
        ]),
        Case::http(
            "uri-prefix-case",
            "
            - match: [{uri: {prefix: /Api/}, ignoreUriCase: true}]
              route: $v1
            - route: $v2",
        )
        .asks(&[
            "GET /api/x -> 200; v1",
            "GET /API/ -> 200; v1",
            "GET /api -> 200; v2",
        ]),
        Case::http(
            "uri-regex",
            r"
            - match: [{uri: {regex: '/users/[0-9]+(/.*)?'}}]
              route: $v1
            - match: [{uri: {regex: '/(?i)files/.*\.TXT'}}]
              route: $v2
            - route: $v3",
        )
        .asks(&[
            "GET /users/7 -> 200; v1",
            "GET /users/7?x=y -> 200; v1",
            "GET /users/7/orders -> 200; v1",
            "GET /users/ann -> 200; v3",
            "GET /v/users/7 -> 200; v3",
            "GET /users/7x -> 200; v3",
            "GET /files/a.txt -> 200; v2",
            "GET /FILES/a.Txt?b -> 200; v2",
            "GET /files/a.txt2 -> 200; v3",
        ]),
        Case::http(
            "uri-none",
            "
            - match: [{uri: {prefix: /only}}]
              route: $v1",
        )
        .asks(&[
            "GET /only -> 200; v1",
            "GET /other -> 404",
            "POST /other -> 404",
            "HEAD /other -> 404",
        ]),
    ]
}

/// Scheme, method, authority, port.
fn names() -> Vec<Case> {
    vec![
        Case::http(
            "method",
            "
            - match: [{method: {exact: PUT}}]
              route: $v1
            - match: [{method: {prefix: P}}]
              route: $v2
            - match: [{method: {regex: 'GET|DELETE'}}]
              route: $v3",
        )
        .asks(&[
            "PUT / -> 200; v1",
            "POST / -> 200; v2",
            "PATCH / -> 200; v2",
            "GET / -> 200; v3",
            "DELETE / -> 200; v3",
            "OPTIONS / -> 404",
        ]),
        Case::http(
            "scheme",
            "
            - match: [{scheme: {exact: https}}]
              route: $v1
            - match: [{scheme: {exact: http}}]
              route: $v2
            - route: $v3",
        )
        .asks(&[
            "GET / -> 200; v2",
            "GET http://HOST/x -> 200; v2; >:path=/x; >host=HOST",
        ]),
        Case::http(
            "scheme-forms",
            "
            - match: [{scheme: {prefix: htt}, uri: {prefix: /p}}]
              route: $v1
            - match: [{scheme: {regex: 'https?'}, uri: {prefix: /r}}]
              route: $v2",
        )
        .asks(&["GET /p -> 200; v1", "GET /r -> 200; v2", "GET / -> 404"]),
        Case::http(
            "authority",
            "
            - match: [{authority: {exact: HOST.default}}]
              route: $v1
            - match: [{authority: {prefix: HOST.default.svc}}]
              route: $v2
            - match: [{authority: {regex: '.*:80'}}]
              route: $v3",
        )
        .asks(&[
            "GET / | host: HOST.default -> 200; v1; >host=HOST.default",
            "GET / | host: HOST.default.svc -> 200; v2",
            "GET / | host: HOST.default.svc.cluster.local -> 200; v2",
            "GET / | host: HOST:80 -> 200; v3; >host=HOST:80",
            "GET / | host: HOST -> 404",
            "GET http://HOST.default/form | host: other -> 200; v1; >host=HOST.default",
        ]),
        Case::http("hosts", "- route: $v1").asks(&[
            "GET / -> 200; v1; >host=HOST",
            "GET / | host: HOST:80 -> 200; v1",
            "GET / | host: HOST.default -> 200; v1",
            "GET / | host: HOST.default:80 -> 200; v1",
            "GET / | host: HOST.default.svc -> 200; v1",
            "GET / | host: HOST.default.svc.cluster.local:80 -> 200; v1",
            "GET / | host: HosTs -> 200; v1",
            "GET / | host: HOST:81 -> 404",
            "GET / | host: HOST.other -> 404",
            "GET / | host: nobody -> 404",
        ]),
        Case::http(
            "port",
            "
            - match: [{port: 80, uri: {exact: /a}}]
              route: $v1
            - match: [{port: 81, uri: {exact: /b}}]
              route: $v2
            - route: $v3",
        )
        .asks(&["GET /a -> 200; v1", "GET /b -> 200; v3"]),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        Case::http(
            "header",
            "
            - match: [{headers: {x-user: {exact: ann}}}]
              route: $v1
            - match: [{headers: {x-user: {prefix: b}}}]
              route: $v2
            - match: [{headers: {x-user: {regex: '[c-e].*'}}}]
              route: $v3
            - match: [{headers: {x-any: {}}}]
              route: $v1",
        )
        .asks(&[
            "GET / | x-user: ann -> 200; v1; >x-user=ann",
            "GET / | X-User: ann -> 200; v1; >x-user=ann",
            "GET / | x-user: Ann -> 404",
            "GET / | x-user: anna -> 404",
            "GET / | x-user: bob -> 200; v2",
            "GET / | x-user: dora -> 200; v3",
            "GET / | x-user: xd -> 404",
            "GET / | x-any: -> 200; v1",
            "GET / | x-any: 1 -> 200; v1",
            "GET / -> 404",
        ]),
        // Several values of one name: the condition holds if it does for one of them.
        Case::http(
            "header-twice",
            "
            - match: [{headers: {x: {exact: 'a,b'}}}]
              rewrite: {uri: /joined}
              route: $v1
            - match: [{headers: {x: {exact: b}}}]
              rewrite: {uri: /exact}
              route: $v1
            - match: [{headers: {x: {prefix: c}}}]
              rewrite: {uri: /prefix}
              route: $v1
            - match: [{headers: {x: {regex: 'd.'}}}]
              rewrite: {uri: /regex}
              route: $v1
            - match: [{headers: {x: {regex: 'e,f'}}}]
              rewrite: {uri: /regex-joined}
              route: $v1
            - match: [{withoutHeaders: {y: {exact: a}}, headers: {y: {}}}]
              rewrite: {uri: /without}
              route: $v1
            - match: [{headers: {y: {}}}]
              rewrite: {uri: /there}
              route: $v1",
        )
        .asks(&[
            "GET / | x: a,b -> 200; v1; >:path=/joined",
            "GET / | x: a | x: b -> 200; v1; >:path=/exact",
            "GET / | x: q | x: b -> 200; v1; >:path=/exact",
            "GET / | x: b | x: q -> 200; v1; >:path=/exact",
            "GET / | x: q,b -> 404",
            "GET / | x: q | x: cc -> 200; v1; >:path=/prefix",
            "GET / | x: cc | x: q -> 200; v1; >:path=/prefix",
            "GET / | x: q | x: dd -> 200; v1; >:path=/regex",
            "GET / | x: dd | x: q -> 200; v1; >:path=/regex",
            "GET / | x: e | x: f -> 404",
            "GET / | x: e,f -> 200; v1; >:path=/regex-joined",
            "GET / | y: a -> 200; v1; >:path=/there",
            "GET / | y: b -> 200; v1; >:path=/without",
            "GET / | y: b | y: a -> 200; v1; >:path=/there",
            "GET / | y: a | y: b -> 200; v1; >:path=/there",
            "GET / | y: b | y: c -> 200; v1; >:path=/without",
        ]),
        Case::http(
            "header-pseudo",
            "
            - match: [{headers: {cookie: {regex: '^(.*?;)?(user=jason)(;.*)?$'}}}]
              route: $v1
            - match: [{headers: {user-agent: {prefix: Mozilla}}}]
              route: $v2
            - match: [{headers: {content-type: {exact: application/json}, x-b: {exact: '1'}}}]
              route: $v3",
        )
        .asks(&[
            "GET / | cookie: user=jason -> 200; v1",
            "GET / | cookie: a=b;user=jason;c=d -> 200; v1",
            "GET / | cookie: user=jasons -> 404",
            "GET / | user-agent: Mozilla/5.0 -> 200; v2",
            "GET / | content-type: application/json | x-b: 1 -> 200; v3",
            "GET / | content-type: application/json | x-b: 2 -> 404",
            "GET / | content-type: application/json -> 404",
        ]),
        Case::http(
            "header-without",
            "
            - match: [{withoutHeaders: {x-old: {}}, uri: {exact: /absent}}]
              route: $v1
            - match: [{withoutHeaders: {x-user: {exact: ann}}, uri: {exact: /not}}]
              route: $v2
            - match: [{withoutHeaders: {x-user: {prefix: a}, x-other: {regex: 'b+'}}, uri: {exact: /two}}]
              route: $v3",
        )
        .asks(&[
            "GET /absent -> 200; v1",
            "GET /absent | x-old: 1 -> 404",
            "GET /absent | x-old: -> 404",
            "GET /not -> 200; v2",
            "GET /not | x-user: bob -> 200; v2",
            "GET /not | x-user: ann -> 404",
            "GET /two -> 200; v3",
            "GET /two | x-user: bob | x-other: a -> 200; v3",
            "GET /two | x-user: ann | x-other: a -> 404",
            "GET /two | x-other: bb -> 404",
        ]),
    ]
}

fn queries() -> Vec<Case> {
    vec![
        Case::http(
            "query",
            "
            - match: [{queryParams: {q: {exact: a}}}]
              route: $v1
            - match: [{queryParams: {q: {prefix: b}}}]
              route: $v2
            - match: [{queryParams: {q: {regex: '[0-9]+'}}}]
              route: $v3
            - match: [{queryParams: {there: {}}}]
              route: $v1",
        )
        .asks(&[
            "GET /?q=a -> 200; v1; >:path=/?q=a",
            "GET /x?y=1&q=a&z -> 200; v1",
            "GET /?q=b -> 200; v2",
            "GET /?q=bcd -> 200; v2",
            "GET /?q=12 -> 200; v3",
            "GET /?q=1a -> 404",
            "GET /?q=%61 -> 404",
            "GET /?Q=a -> 404",
            "GET /?q= -> 404",
            "GET /?there -> 200; v1",
            "GET /?there= -> 200; v1",
            "GET /?there=x -> 200; v1",
            "GET /?q=a&q=b -> 200; v1",
            "GET /?q=b&q=a -> 200; v2",
            "GET / -> 404",
        ]),
    ]
}

/// Several conditions are "and", several matches "or", rules count in their order.
fn combined() -> Vec<Case> {
    vec![
        Case::http(
            "and-or",
            "
            - match:
              - {uri: {prefix: /a}, method: {exact: GET}, headers: {x: {exact: '1'}}}
              - {uri: {prefix: /b}}
              route: $v1
            - match: [{uri: {prefix: /a}}]
              route: $v2
            - match: [{uri: {exact: /b}}]
              route: $v3
            - route: $v3",
        )
        .asks(&[
            "GET /a | x: 1 -> 200; v1",
            "POST /a | x: 1 -> 200; v2",
            "GET /a | x: 2 -> 200; v2",
            "GET /b -> 200; v1",
            "PUT /b/c -> 200; v1",
            "GET /c -> 200; v3",
        ]),
        Case::documents(
            "several",
            &[
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: several-a}\nspec:\n  hosts: [HOST]\n  http: [{match: [{uri: {prefix: /x}}], rewrite: {uri: /from-a}, route: [{destination: {host: HOST}}]}]",
                "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {name: several-b}\nspec:\n  hosts: [HOST]\n  http: [{match: [{uri: {prefix: /x}}], rewrite: {uri: /from-b}, route: [{destination: {host: HOST}}]}, {match: [{uri: {prefix: /y}}], rewrite: {uri: /from-b}, route: [{destination: {host: HOST}}]}]",
            ],
        )
        .any_upstream()
        .asks(&[
            "GET /x -> 200; >:path=/from-a",
            "GET /y -> 200; >:path=/from-b",
            "GET /z -> 404",
        ]),
    ]
}
