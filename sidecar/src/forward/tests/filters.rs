//! Access rules, limits, header edits and what a listener says about heads, on real sockets.

use std::sync::Arc;

use outrigger_core::{
    Condition, Edit, Features, Filter, FilterChain, FilterChains, HeadSettings, HeaderMutation,
    HttpFilter, HttpSettings, LocalRateLimit, Mutation, Override, Overrides, Policy, Put, Rbac,
    RbacAction, Rules, Settings, Share, StringMatch, StripPort, bucket::TokenBucket,
};

use super::*;
use crate::testing::spiffe;

/// Gives a listener that is open these settings.
async fn set(sidecar: &mut Sidecar, listener: &str, settings: HttpSettings) {
    let mut changed = (*sidecar.shared.snapshot.load().listeners[listener]).clone();
    changed.chains = FilterChains::one(FilterChain {
        settings: Some(Arc::new(settings)),
        ..changed.chains.only().unwrap().clone()
    });
    sidecar.builder.set_listener(listener, Some(changed));
    sidecar.publish(listener).await;
}

fn only(filter: Filter) -> HttpSettings {
    HttpSettings {
        filters: vec![HttpFilter {
            name: "it".into(),
            disabled: false,
            filter,
        }],
        ..HttpSettings::default()
    }
}

/// One policy `p` for a path and a principal.
fn rules(action: RbacAction, path: &str, principal: Condition) -> Rules {
    let path = Condition::Path(StringMatch::Prefix(path.to_owned(), false));
    Rules::new(action, vec![Policy::new("p", vec![path], vec![principal])])
}

fn in_force(rules: Rules) -> Filter {
    Filter::Rbac(Arc::new(Rbac {
        rules: Some(rules),
        shadow: None,
        marks: None,
    }))
}

/// A proxy in front of `app` whose listener has this one filter; `change` of the route.
async fn filtering(
    app: &App,
    filter: Filter,
    change: impl FnOnce(&mut Route),
) -> (Sidecar, SocketAddr) {
    let endpoints = vec![endpoint(app.address, false)];
    let (mut sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, change).await;
    set(&mut sidecar, "http_proxy", only(filter)).await;
    (sidecar, proxy)
}

/// Of rules that deny.
fn rbac_metric(sidecar: &Sidecar, hop: &str, verdict: &str) -> f64 {
    let policy = if verdict.ends_with("denied") {
        "p"
    } else {
        "none"
    };
    sidecar.metric(&format!(
        "outrigger_authorization_total{{action=\"deny\",hop=\"{hop}\",policy=\"{policy}\",verdict=\"{verdict}\"}}"
    ))
}

#[tokio::test]
async fn a_request_that_rules_deny_is_answered_as_envoy_does_and_says_which_policy_it_was() {
    let app = App::start("reviews").await;
    let deny = rules(RbacAction::Deny, "/secret", Condition::Any);
    let (sidecar, proxy) = filtering(&app, in_force(deny), |_| {}).await;
    let denied = get(proxy, "/secret/1").await;
    assert_eq!((denied.status, &*denied.body), (403, "RBAC: access denied"));
    assert_eq!(denied.header("content-type"), Some("text/plain"));
    assert_eq!(denied.header("x-outrigger-reason"), Some("rbac_denied"));
    assert_eq!(denied.header("x-outrigger-policy"), Some("p"));
    assert!(app.heads.lock().unwrap().is_empty());
    assert_eq!(get(proxy, "/open").await.status, 200);
    for (verdict, count) in [("denied", 1.0), ("allowed", 1.0)] {
        assert_eq!(
            rbac_metric(&sidecar, "outbound", verdict),
            count,
            "{verdict}"
        );
    }
    let refusals = "outrigger_refusals_total{code=\"rbac_denied\",hop=\"outbound\"}";
    assert_eq!(sidecar.metric(refusals), 1.0);
    let nobody = rules(RbacAction::Allow, "/shop.Other", Condition::Any);
    let (_sidecar, proxy) = filtering(&app, in_force(nobody), |_| {}).await;
    let (status, headers, ..) = grpc_call(proxy, "reviews").await;
    assert_eq!(
        (status, &headers["grpc-status"]),
        (StatusCode::OK, &HeaderValue::from_static("7"))
    );
    assert_eq!(headers["grpc-message"], "RBAC: access denied");
    assert_eq!(headers["x-outrigger-policy"], "none");
}

#[tokio::test]
async fn rules_that_are_only_counted_let_everything_through() {
    let app = App::start("reviews").await;
    let shadow = Filter::Rbac(Arc::new(Rbac {
        rules: None,
        shadow: Some(rules(RbacAction::Deny, "/secret", Condition::Any)),
        marks: None,
    }));
    let (sidecar, proxy) = filtering(&app, shadow, |_| {}).await;
    for path in ["/secret", "/open"] {
        assert_eq!(get(proxy, path).await.status, 200);
    }
    for (verdict, count) in [
        ("dry_run_denied", 1.0),
        ("dry_run_allowed", 1.0),
        ("allowed", 0.0),
    ] {
        assert_eq!(
            rbac_metric(&sidecar, "outbound", verdict),
            count,
            "{verdict}"
        );
    }
}

#[tokio::test]
async fn who_may_not_is_not_told_which_routes_there_are() {
    let app = App::start("reviews").await;
    let deny = rules(RbacAction::Deny, "/", Condition::Any);
    let (_sidecar, proxy) = filtering(&app, in_force(deny), |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    caller.send("GET / HTTP/1.1\r\nHost: unknown\r\n\r\n").await;
    assert_eq!(caller.answer().await.unwrap().status, 403);
}

#[tokio::test]
async fn a_route_has_rules_of_its_own_instead_of_the_listeners() {
    let app = App::start("reviews").await;
    let deny = || rules(RbacAction::Deny, "/", Condition::Any);
    for (on, settings, status) in [
        (true, Some(Settings::Rbac(Arc::default())), 200),
        (false, None, 200),
        (true, None, 403),
    ] {
        let overrides = Overrides::new(vec![("it".into(), Override { on, settings })]);
        let features = Features {
            overrides,
            ..Features::default()
        };
        let change = |route: &mut Route| route.features = Some(Arc::new(features));
        let (_sidecar, proxy) = filtering(&app, in_force(deny()), change).await;
        assert_eq!(get(proxy, "/").await.status, status);
    }
}

#[tokio::test]
async fn a_caller_is_known_by_its_certificate() {
    let app = App::start("reviews").await;
    let authority = Authority::new();
    let (mut server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let viewer = Condition::Principal(StringMatch::Exact(spiffe("viewer"), false));
    let allow = rules(RbacAction::Allow, "/", viewer);
    set(&mut server, "virtualInbound", only(in_force(allow))).await;
    for (account, status) in [("viewer", 200), ("stranger", 403)] {
        let mut reviews = cluster("reviews");
        reviews.tls = mtls(&["reviews"]);
        let identity = Some(authority.identity(account));
        let endpoints = vec![endpoint(inbound, true)];
        let (_client, proxy) =
            Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
        let answer = get(proxy, "/").await;
        assert_eq!(answer.status, status, "{account}");
        let denied = status == 403;
        assert_eq!(
            answer.header("x-outrigger-policy"),
            denied.then_some("none")
        );
    }
    for (policy, verdict) in [("p", "allowed"), ("none", "denied")] {
        let line = format!(
            "outrigger_authorization_total{{action=\"allow\",hop=\"inbound\",policy=\"{policy}\",verdict=\"{verdict}\"}}"
        );
        assert_eq!(server.metric(&line), 1.0, "{verdict}");
    }
}

fn limit(enforced: Share) -> LocalRateLimit {
    let header = |name: &'static str| {
        let mut edits = HeaderEdits::default();
        let value = Edit::Plain(HeaderValue::from_static("1"));
        edits.set.push((HeaderName::from_static(name), value));
        edits
    };
    LocalRateLimit {
        bucket: TokenBucket::new(2, 1, Duration::from_secs(3600)).unwrap(),
        enabled: Share::ALL,
        enforced,
        status: 429,
        grpc_status: 14,
        response_headers: header("x-limited"),
        request_headers: header("x-spared"),
        tells: true,
    }
}

#[tokio::test]
async fn a_limit_holds_over_all_workers_and_tells_what_is_left() {
    let app = App::start("reviews").await;
    let filter = Filter::LocalRateLimit(Some(Arc::new(limit(Share::ALL))));
    let (sidecar, proxy) = filtering(&app, filter, |_| {}).await;
    let mut found = Vec::new();
    for _ in 0..4 {
        // Each on a connection of its own, and so on workers in turn.
        let answer = get(proxy, "/").await;
        let left = answer.header("x-ratelimit-remaining").unwrap().to_owned();
        assert_eq!(answer.header("x-ratelimit-limit"), Some("2"));
        assert_eq!(answer.header("x-limited").is_some(), answer.status == 429);
        if answer.status == 429 {
            assert_eq!(answer.body, "local_rate_limited");
            assert_eq!(answer.header("x-outrigger-reason"), Some("rate_limited"));
            let reset: u64 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
            assert!((1..=3600).contains(&reset), "{reset}");
        }
        found.push((answer.status, left));
    }
    let told = |status, left: &str| (status, left.to_owned());
    assert_eq!(
        found,
        [
            told(200, "1"),
            told(200, "0"),
            told(429, "0"),
            told(429, "0")
        ]
    );
    let metric = |verdict| {
        let family = "outrigger_local_rate_limit_total";
        sidecar.metric(&format!(
            "{family}{{hop=\"outbound\",verdict=\"{verdict}\"}}"
        ))
    };
    assert_eq!((metric("allowed"), metric("refused")), (2.0, 2.0));
    let (_, headers, ..) = grpc_call(proxy, "reviews").await;
    assert_eq!(headers["grpc-status"], "14");
    assert_eq!(headers["grpc-message"], "local_rate_limited");
}

#[tokio::test]
async fn a_limit_that_is_not_enforced_marks_the_request() {
    let app = App::start("reviews").await;
    let filter = Filter::LocalRateLimit(Some(Arc::new(limit(Share::NONE))));
    let (_sidecar, proxy) = filtering(&app, filter, |_| {}).await;
    for _ in 0..3 {
        assert_eq!(get(proxy, "/").await.status, 200);
    }
    let heads = app.heads.lock().unwrap();
    let marked: Vec<bool> = heads
        .iter()
        .map(|(_, h)| h.contains_key("x-spared"))
        .collect();
    assert_eq!(marked, [false, false, true]);
}

fn put(name: &'static str, text: &str, put: Put) -> Mutation {
    let value = match outrigger_core::Format::parse(text, false).unwrap() {
        Ok(format) => Edit::Format(Box::new(format)),
        Err(plain) => Edit::Plain(HeaderValue::from_str(&plain).unwrap()),
    };
    Mutation::Put(HeaderName::from_static(name), value, put)
}

#[tokio::test]
async fn headers_are_edited_on_the_way_there_and_on_every_way_back() {
    let app = App::start("reviews").await;
    let own = HeaderMutation {
        request: vec![put("x-path", "%REQ(:path)%", Put::Overwrite)],
        response: vec![
            Mutation::Remove(HeaderName::from_static("x-app")),
            put(
                "x-was",
                "%RESPONSE_CODE% %REQ(x-mark)% %UPSTREAM_HOST%",
                Put::Overwrite,
            ),
        ],
    };
    let filter = Filter::HeaderMutation {
        own: Arc::new(own),
        most_specific_wins: false,
    };
    let (_sidecar, proxy) = filtering(&app, filter, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send("GET /a?b HTTP/1.1\r\nHost: reviews\r\nx-mark: m\r\n\r\n")
        .await;
    let answer = caller.answer().await.unwrap();
    assert_eq!(answer.header("x-app"), None);
    assert_eq!(
        answer.header("x-was"),
        Some(&*format!("200 m {}", app.address))
    );
    assert_eq!(app.heads.lock().unwrap()[0].1["x-path"], "/a?b");
    caller
        .send("GET / HTTP/1.1\r\nHost: unknown\r\nx-mark: m\r\n\r\n")
        .await;
    let own_answer = caller.answer().await.unwrap();
    assert_eq!(own_answer.header("x-was"), Some("404 m"));
}

#[tokio::test]
async fn a_head_is_put_into_the_form_that_the_listener_asks_for() {
    let app = App::start("reviews").await;
    let endpoints = vec![endpoint(app.address, false)];
    let (mut sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, |_| {}).await;
    let settings = HttpSettings {
        head: HeadSettings {
            merge_slashes: true,
            strip_port: StripPort::Always,
            forwarded: true,
            request_id: true,
            ..HeadSettings::default()
        },
        server: Some((HeaderValue::from_static("us"), Put::Overwrite)),
        ..HttpSettings::default()
    };
    set(&mut sidecar, "http_proxy", settings).await;
    let mut caller = Raw::to(proxy).await;
    let head = "GET //a//b?c=// HTTP/1.1\r\nHost: reviews:9080\r\n";
    caller
        .send(&format!("{head}x-forwarded-for: 1.1.1.1\r\n\r\n"))
        .await;
    let answer = caller.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("server")), (200, Some("us")));
    caller
        .send(&format!("{head}x-request-id: mine\r\n\r\n"))
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 200);
    let heads = app.heads.lock().unwrap();
    let (path, first) = &heads[0];
    assert_eq!(
        (path.as_str(), &first["host"]),
        ("/a/b?c=//", &HeaderValue::from_static("reviews"))
    );
    assert_eq!(first["x-forwarded-for"], "1.1.1.1,127.0.0.1");
    assert_eq!(first["x-forwarded-proto"], "http");
    let id = first["x-request-id"].to_str().unwrap();
    let shape: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(shape, [8, 4, 4, 4, 12], "{id}");
    assert_eq!(id.as_bytes()[14], b'4', "{id}");
    let second = &heads[1].1;
    assert_eq!(second["x-request-id"], "mine");
    assert_eq!(second["x-forwarded-for"], "127.0.0.1");
}
