//! Which endpoint is chosen, over many requests.

use std::collections::BTreeSet;

use futures_util::{FutureExt as _, future::LocalBoxFuture};

use super::{Behaviour, Stage};
use crate::system::case::{Ask, Case};

pub(super) fn all() -> Vec<Behaviour> {
    let sticky = |host, hash: &str, run, expected| Behaviour {
        case: Case::policy(
            host,
            &format!("loadBalancer: {{consistentHash: {{{hash}}}}}"),
        ),
        applications: 3,
        run,
        expected,
    };
    vec![
        sticky(
            "hash-header",
            "httpHeaderName: X-User",
            by_header,
            "the same user, the same application; 3 in all",
        ),
        sticky(
            "hash-ring-size",
            "httpHeaderName: X-User, ringHash: {minimumRingSize: 4096}",
            by_header,
            "the same user, the same application; 3 in all",
        ),
        sticky(
            "hash-old-ring-size",
            "httpHeaderName: X-User, minimumRingSize: 2048",
            by_header,
            "the same user, the same application; 3 in all",
        ),
        sticky(
            "hash-maglev",
            "httpHeaderName: X-User, maglev: {tableSize: 251}",
            by_header,
            "the same user, the same application; 3 in all",
        ),
        sticky(
            "hash-query",
            "httpQueryParameterName: user",
            by_query,
            "the same user, the same application; 3 in all",
        ),
        sticky("hash-source-ip", "useSourceIp: true", by_source, "1 in all"),
        sticky(
            "hash-cookie",
            "httpCookie: {name: session, path: /shop, ttl: 60s}",
            by_cookie,
            "Max-Age=60; Path=/shop; HttpOnly; kept by the next 10",
        ),
        sticky(
            "hash-cookie-session",
            "httpCookie: {name: session, ttl: 0s}",
            by_cookie,
            "HttpOnly; kept by the next 10",
        ),
        sticky(
            "hash-cookie-given",
            "httpCookie: {name: session}",
            by_given_cookie,
            "no cookie is set; the same cookie, the same application; 3 in all",
        ),
        Behaviour {
            case: Case::policy(
                "hash-cookie-attributes",
                "loadBalancer: {consistentHash: {httpCookie: {name: session, path: /, ttl: 5s, attributes: [{name: SameSite, value: Strict}, {name: Secure}]}}}",
            ),
            applications: 3,
            run: by_cookie,
            expected: "Max-Age=5; Path=/; SameSite=Strict; Secure; HttpOnly; kept by the next 10",
        },
        Behaviour {
            case: Case::policy("round-robin", "loadBalancer: {simple: ROUND_ROBIN}"),
            applications: 3,
            run: in_turn,
            expected: "each of 3 once in every 3",
        },
        Behaviour {
            case: Case::http(
                "split",
                "
                - route:
                  - {destination: {host: HOST, subset: v1}, weight: 80}
                  - {destination: {host: HOST, subset: v2}, weight: 15}
                  - {destination: {host: HOST, subset: v3}, weight: 5}",
            ),
            applications: 3,
            run: by_weight,
            expected: "80/15/5 within 5 points",
        },
    ]
}

/// Sends each of `lines` three times in all.
async fn stick(stage: &Stage, lines: &[String]) -> String {
    let mut first = Vec::new();
    for round in 0..3 {
        for (at, line) in lines.iter().enumerate() {
            let name = stage.who(&[line]).await.remove(0);
            if round == 0 {
                first.push(name);
            } else if first[at] != name {
                return format!("{line}: {} first, then {name}", first[at]);
            }
        }
    }
    let all: BTreeSet<_> = first.iter().collect();
    format!("the same user, the same application; {} in all", all.len())
}

fn by_header(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let lines: Vec<_> = (0..40)
            .map(|n| format!("GET / | x-user: user-{n}"))
            .collect();
        stick(stage, &lines).await
    }
    .boxed_local()
}

fn by_query(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let lines: Vec<_> = (0..40).map(|n| format!("GET /{n}?user=user-{n}")).collect();
        stick(stage, &lines).await.replace("GET", "")
    }
    .boxed_local()
}

fn by_source(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async { format!("{} in all", stage.counts("GET /", 20).await.len()) }.boxed_local()
}

fn by_cookie(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let ask = Ask::parse("GET /", stage.host);
        let reply = ask.send(&stage.caller).await;
        let Some(set) = reply.headers.get("set-cookie") else {
            return "no cookie".to_owned();
        };
        let set = set.to_str().unwrap();
        let (pair, attributes) = set.split_once(';').unwrap_or((set, ""));
        let mut attributes: Vec<_> = attributes.split(';').map(str::trim).collect();
        attributes.sort_unstable_by_key(|attribute| (attribute.len() == 8, *attribute));
        let next = stage.counts(&format!("GET / | cookie: {pair}"), 10).await;
        let kept = next == [(reply.name(), 10)];
        let kept = if kept {
            "kept by the next 10"
        } else {
            "not kept"
        };
        format!("{}; {kept}", attributes.join("; "))
    }
    .boxed_local()
}

fn by_given_cookie(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let ask = Ask::parse("GET /", stage.host);
        let reply = ask.send(&stage.caller).await;
        let set = reply.headers.contains_key("set-cookie");
        let lines: Vec<_> = (0..40)
            .map(|n| format!("GET / | cookie: a=b; session=s{n}; c=d"))
            .collect();
        let sticks = stick(stage, &lines).await.replace("user", "cookie");
        let set = if set {
            "a cookie is set"
        } else {
            "no cookie is set"
        };
        format!("{set}; {sticks}")
    }
    .boxed_local()
}

/// On one connection, so that Envoy's one worker counts.
fn in_turn(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let names = stage.who(&["GET /"; 12]).await;
        for three in names.chunks(3) {
            let set: BTreeSet<_> = three.iter().collect();
            if set.len() != 3 {
                return format!("{names:?}");
            }
        }
        "each of 3 once in every 3".to_owned()
    }
    .boxed_local()
}

fn by_weight(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let counts = stage.counts("GET /", 1_000).await;
        let near = |at: usize, percent: usize| {
            let count = counts.get(at).map_or(0, |(_, count)| *count);
            count.abs_diff(percent * 10) <= 50
        };
        if near(0, 80) && near(1, 15) && near(2, 5) {
            "80/15/5 within 5 points".to_owned()
        } else {
            format!("{counts:?}")
        }
    }
    .boxed_local()
}
