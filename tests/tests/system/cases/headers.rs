//! `headers` of rules and of destinations.

use crate::system::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::http(
            "headers-rule",
            "
            - headers:
                request: {set: {x-set: s}, add: {x-add: a}, remove: [x-gone, X-Away]}
                response: {set: {x-rset: s}, add: {x-radd: a}, remove: [x-rgone]}
              route: $v1",
        )
        .asks(&[
            "GET / -> 200; v1; >x-set=s; >x-add=a; <x-rset=s; <x-radd=a",
            "GET / | x-set: old | x-set: older -> 200; v1; >x-set=s",
            "GET / | x-add: old -> 200; v1; >x-add=old,a",
            "GET / | x-gone: 1 | x-away: 2 | x-stay: 3 -> 200; v1; >!x-gone; >!x-away; >x-stay=3",
            "GET / | x-app-header: x-rset=old -> 200; v1; <x-rset=s",
            "GET / | x-app-header: x-radd=old -> 200; v1; <x-radd=old,a",
            "GET / | x-app-header: x-rgone=1 | x-app-header: x-rstay=2 -> 200; v1; <!x-rgone; <x-rstay=2",
            "GET / | x-app-header: a=1 | x-app-header: a=2 -> 200; v1; <a=1,2",
        ]),
        Case::http(
            "headers-both",
            "
            - headers:
                request: {set: {x-level: rule}, add: {x-many: rule}}
                response: {set: {x-rlevel: rule}, add: {x-rmany: rule}}
              route:
              - destination: {host: HOST, subset: v1}
                headers:
                  request: {set: {x-level: to, x-own: to}, add: {x-many: to}, remove: [x-gone]}
                  response: {set: {x-rlevel: to, x-rown: to}, add: {x-rmany: to}, remove: [x-rgone]}",
        )
        .asks(&[
            "GET / -> 200; v1; >x-level=rule; >x-own=to; >x-many=to,rule; <x-rlevel=rule; <x-rown=to",
            "GET / | x-gone: 1 | x-app-header: x-rgone=1 -> 200; v1; >!x-gone; <!x-rgone",
            "GET / | x-many: first | x-app-header: x-rmany=first -> 200; v1; >x-many=first,to,rule",
        ]),
        Case::http(
            "headers-odd",
            "
            - headers:
                request: {set: {x-empty: '', user-agent: mesh}, add: {accept: text/plain}, remove: [cookie]}
                response: {set: {server: mine, content-type: text/x}, remove: [date]}
              route: $v1",
        )
        .asks(&[
            "GET / -> 200; v1; >x-empty=; >user-agent=mesh",
            "GET / | cookie: a=b | accept: text/html -> 200; v1; >!cookie; >accept=text/html,text/plain",
        ]),
        Case::http("headers-passed", "- route: $v1").asks(&[
            "GET / | accept: a | accept: b -> 200; v1; >accept=a,b",
            "GET / | connection: x-hop | x-hop: 1 -> 200; v1; >!x-hop; >!connection",
            "GET / | te: gzip -> 200; v1; >!te",
            "GET / | keep-alive: 5 -> 200; v1; >!keep-alive",
            "GET / | proxy-connection: keep-alive -> 200; v1; >!proxy-connection",
            "GET / | authorization: Basic x | proxy-authorization: Basic y -> 200; v1",
            "GET / | x-forwarded-for: 1.2.3.4 -> 200; v1",
            "GET / | x-request-id: mine -> 200; v1; >x-request-id=mine",
            "GET / | traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00 -> 200; v1",
            "GET / | x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124 | x-b3-spanid: a2fb4a1d1a96d312 | x-b3-sampled: 0 -> 200; v1",
            "GET / | x-forwarded-client-cert: By=me -> 200; v1; >!x-forwarded-client-cert",
            "GET / | x-forwarded-proto: https -> 200; v1",
            "GET / | expect: 100-continue -> 200; v1",
            "GET / | accept-encoding: gzip -> 200; v1; >accept-encoding=gzip",
            "GET / | range: bytes=0-1 -> 200; v1; >range=bytes=0-1",
        ]),
    ]
}
