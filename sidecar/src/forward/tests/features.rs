//! Faults, CORS, mirrors, redirects, headers that speak of the request, counters.

use std::sync::Arc;

use outrigger_core::{
    Abort, ClusterConfig, Cors, Edit, Fault, Features, Format, Hedge, Mirror, Positions,
    RedirectPath, Rewrite, Share, StringMatch,
};

use super::{ejection::ejecting_after, *};

async fn with(app: &App, change: impl FnOnce(&mut Route)) -> (Sidecar, SocketAddr) {
    let endpoints = vec![endpoint(app.address, false)];
    Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, change).await
}

fn features(features: Features) -> impl FnOnce(&mut Route) {
    |route| route.features = Some(Arc::new(features))
}

#[tokio::test]
async fn an_abort_is_answered_with_its_status_and_the_line_that_asked_for_it() {
    let app = App::start("reviews").await;
    let fault = |abort| Features {
        fault: Some(Fault {
            abort: Some((abort, Share::ALL)),
            ..Fault::default()
        }),
        positions: Positions {
            fault: Some("fault.yaml:9:5".into()),
            ..Positions::default()
        },
        ..Features::default()
    };
    for (abort, status) in [
        (Abort::Http(418), 418),
        (Abort::Grpc(14), 503),
        (Abort::Grpc(5), 404),
    ] {
        let (sidecar, proxy) = with(&app, features(fault(abort))).await;
        let answer = get(proxy, "/").await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("x-outrigger-reason"), Some("fault_injected"));
        assert!(answer.body.contains("fault.yaml:9:5"), "{}", answer.body);
        let flag = "istio_requests_total{";
        assert_eq!(sidecar.metric(flag), 1.0);
        let event = "outrigger_route_features_total{event=\"fault_abort\"}";
        assert_eq!(sidecar.metric(event), 1.0);
    }
    for (abort, status) in [(Abort::Http(503), "14"), (Abort::Grpc(7), "7")] {
        let (_sidecar, proxy) = with(&app, features(fault(abort))).await;
        let (_, headers, ..) = grpc_call(proxy, "reviews").await;
        assert_eq!(headers["grpc-status"], status);
    }
    assert!(app.heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_delay_comes_before_the_routes_timeout() {
    let app = App::start("reviews").await;
    let delay = Duration::from_millis(200);
    let slow = Features {
        fault: Some(Fault {
            delay: Some((delay, Share::ALL)),
            ..Fault::default()
        }),
        ..Features::default()
    };
    let (sidecar, proxy) = with(&app, |route| {
        features(slow)(route);
        route.timeout = Some(Duration::from_millis(150));
    })
    .await;
    let begun = tokio::time::Instant::now();
    assert_eq!(get(proxy, "/").await.status, 200);
    assert!(begun.elapsed() >= delay);
    sidecar.until_metric("istio_requests_total{", 1.0).await;
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&sidecar.telemetry.metrics.registry.gather())
        .unwrap();
    assert!(text.contains("response_flags=\"DI\""), "{text}");
}

#[tokio::test]
async fn browsers_of_an_allowed_origin_are_answered_and_marked() {
    let app = App::start("reviews").await;
    let cors = Features {
        cors: Some(Cors {
            allow_origins: vec![StringMatch::Exact("https://a.example".to_owned(), false)],
            allow_methods: Some(HeaderValue::from_static("PUT")),
            forward_not_matching_preflights: true,
            ..Cors::default()
        }),
        ..Features::default()
    };
    let (_sidecar, proxy) = with(&app, features(cors)).await;
    let mut caller = Raw::to(proxy).await;
    for (method, origin, status, allowed, methods) in [
        ("OPTIONS", "https://a.example", 200, true, Some("PUT")),
        ("GET", "https://a.example", 200, true, None),
        ("OPTIONS", "https://evil.example", 200, false, None),
    ] {
        caller
            .send(&format!(
                "{method} / HTTP/1.1\r\nHost: reviews\r\nOrigin: {origin}\r\n\
                 Access-Control-Request-Method: PUT\r\n\r\n"
            ))
            .await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, status, "{method} {origin}");
        let found = answer.header("access-control-allow-origin");
        assert_eq!(found, allowed.then_some(origin), "{method} {origin}");
        assert_eq!(answer.header("access-control-allow-methods"), methods);
    }
    assert_eq!(
        app.heads.lock().unwrap().len(),
        2,
        "the preflight ended here"
    );
}

#[tokio::test]
async fn own_answers_are_marked_for_browsers_too() {
    let cors = Features {
        cors: Some(Cors {
            allow_origins: vec![StringMatch::Prefix("https://".to_owned(), false)],
            ..Cors::default()
        }),
        ..Features::default()
    };
    let cluster = cluster("reviews");
    let (_sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster, Vec::new(), features(cors)).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send("GET / HTTP/1.1\r\nHost: reviews\r\nOrigin: https://a.example\r\n\r\n")
        .await;
    let answer = caller.answer().await.unwrap();
    assert_eq!(answer.status, 503);
    let found = answer.header("access-control-allow-origin");
    assert_eq!(found, Some("https://a.example"));
}

#[tokio::test]
async fn a_redirect_may_keep_the_rest_of_the_path() {
    let app = App::start("reviews").await;
    let rewritten = RedirectPath::Rewritten(Rewrite::Prefix("/new".to_owned()));
    for (path, location) in [
        (rewritten, "http://reviews/newold/a?b=c"),
        (RedirectPath::Whole("/x".to_owned()), "http://reviews/x?b=c"),
        (RedirectPath::Whole("/x?y".to_owned()), "http://reviews/x?y"),
        (RedirectPath::Same, "http://reviews/old/a?b=c"),
    ] {
        let (_sidecar, proxy) = with(&app, |route| {
            route.action = Action::Redirect {
                scheme: None,
                host: None,
                port: None,
                path,
                strip_query: false,
                status: 302,
            };
        })
        .await;
        let answer = get(proxy, "/old/a?b=c").await;
        assert_eq!(answer.status, 302);
        assert_eq!(answer.header("location"), Some(location));
    }
}

#[tokio::test]
async fn headers_may_speak_of_the_request_in_both_directions() {
    let app = App::start("reviews").await;
    let format = |text: &str| {
        let format = Format::parse(text, false).unwrap().unwrap();
        Edit::Format(Box::new(format))
    };
    let set = |name: &'static str, text| HeaderEdits {
        set: vec![(HeaderName::from_static(name), format(text))],
        ..HeaderEdits::default()
    };
    let (_sidecar, proxy) = with(&app, |route| {
        route.request_headers = set(
            "x-from",
            "%REQ(:PATH)% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        );
        route.response_headers = set("x-to", "%REQ(x-from)% %UPSTREAM_HOST% %RESPONSE_CODE%");
        route.rewrite = Some(Rewrite::Prefix("/new/".to_owned()));
    })
    .await;
    let answer = get(proxy, "/a?b").await;
    let (uri, headers) = app.heads.lock().unwrap()[0].clone();
    assert_eq!(uri, "/new/a?b");
    assert_eq!(headers["x-from"], "/a?b 127.0.0.1");
    let said = format!("/a?b 127.0.0.1 {} 200", app.address);
    assert_eq!(answer.header("x-to"), Some(&*said));
}

#[tokio::test]
async fn a_route_may_be_counted_by_a_name_of_its_own() {
    let app = App::start("reviews").await;
    let named = Features {
        stat_prefix: Some("checkout".into()),
        ..Features::default()
    };
    let (sidecar, proxy) = with(&app, features(named)).await;
    get(proxy, "/").await;
    let counted =
        "outrigger_route_requests_total{response_code_class=\"2xx\",stat_prefix=\"checkout\"}";
    sidecar.until_metric(counted, 1.0).await;
}

/// A sidecar with a second cluster, to which the route sends copies.
async fn mirroring(
    app: &App,
    shadow: SocketAddr,
    change: impl FnOnce(&mut Mirror),
) -> (Sidecar, SocketAddr) {
    let name = cluster("shadow").name;
    let endpoints = vec![endpoint(app.address, false)];
    let mut slots = outrigger_core::SnapshotBuilder::default();
    // The first name of a builder is the route's cluster.
    slots.cluster_slot(&cluster("reviews").name);
    let mut mirror = Mirror {
        cluster: slots.cluster_slot(&name),
        name: name.as_str().into(),
        share: Share::ALL,
        marks_host: true,
        host: None,
    };
    change(&mut mirror);
    let route = features(Features {
        mirrors: vec![mirror],
        ..Features::default()
    });
    let (mut sidecar, _) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, route).await;
    sidecar.set_cluster(cluster("shadow"), vec![endpoint(shadow, false)]);
    let proxy = sidecar.publish("http_proxy").await;
    (sidecar, proxy)
}

#[tokio::test]
async fn a_mirror_gets_a_copy_with_head_and_body_and_changes_nothing() {
    let (app, shadow) = (App::start("reviews").await, App::start("shadow").await);
    let (sidecar, proxy) = mirroring(&app, shadow.address, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    for body in ["small", &"x".repeat(100_000)] {
        caller.send(&post(body)).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.header("x-app"), Some("reviews"));
        assert_eq!(answer.body, body);
    }
    let sent = "outrigger_route_features_total{event=\"mirror_sent\"}";
    sidecar.until_metric(sent, 2.0).await;
    assert_eq!(shadow.last_headers()["host"], "reviews-shadow");
    assert_eq!(shadow.last_headers()["content-length"], "100000");
    assert_eq!(app.last_headers()["host"], "reviews");
}

#[tokio::test]
async fn what_is_refused_here_is_not_copied() {
    let (app, shadow) = (App::start("reviews").await, App::start("shadow").await);
    let (mut sidecar, _) = mirroring(&app, shadow.address, |_| {}).await;
    let good = vec![endpoint(app.address, false)];
    let mut full = cluster("reviews");
    full.thresholds.max_requests = 0;
    for (reviews, endpoints, reason) in [
        (cluster("reviews"), Vec::new(), Some("no_endpoints")),
        (full, good.clone(), Some("overflow_requests")),
        (cluster("reviews"), good, None),
    ] {
        sidecar.set_cluster(reviews, endpoints);
        let proxy = sidecar.publish("http_proxy").await;
        let answer = get(proxy, "/").await;
        assert_eq!(answer.header("x-outrigger-reason"), reason);
    }
    let sent = "outrigger_route_features_total{event=\"mirror_sent\"}";
    sidecar.until_metric(sent, 1.0).await;
    assert_eq!(shadow.heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_mirror_that_hangs_or_is_down_delays_nobody() {
    let (app, slow, nobody) = (
        App::start("reviews").await,
        App::start("slow").await,
        Nobody::at_home(),
    );
    slow.hold();
    for shadow in [slow.address, nobody.address()] {
        let (sidecar, proxy) = mirroring(&app, shadow, |_| {}).await;
        let mut caller = Raw::to(proxy).await;
        for _ in 0..3 {
            assert_eq!(caller.get("/").await.body, "reviews");
        }
        if shadow != slow.address {
            let failed = "outrigger_route_features_total{event=\"mirror_failed\"}";
            sidecar.until_metric(failed, 3.0).await;
        }
    }
    slow.until_requests(3).await;
}

#[tokio::test]
async fn a_mirror_of_none_gets_none_and_an_unknown_one_is_counted() {
    let (app, shadow) = (App::start("reviews").await, App::start("shadow").await);
    let none = |mirror: &mut Mirror| mirror.share = Share::NONE;
    let (_sidecar, proxy) = mirroring(&app, shadow.address, none).await;
    assert_eq!(get(proxy, "/").await.body, "reviews");
    let unknown = |mirror: &mut Mirror| mirror.cluster = outrigger_core::ClusterSlot(77);
    let (sidecar, proxy) = mirroring(&app, shadow.address, unknown).await;
    assert_eq!(get(proxy, "/").await.body, "reviews");
    let counted = "outrigger_route_features_total{event=\"mirror_no_cluster\"}";
    assert_eq!(sidecar.metric(counted), 1.0);
    assert!(shadow.heads.lock().unwrap().is_empty());
}

/// Two endpoints, of which the first to be asked hangs.
async fn hedging(percent: u32) -> (App, App, Sidecar, SocketAddr) {
    hedging_in(cluster("reviews"), percent).await
}

async fn hedging_in(reviews: ClusterConfig, percent: u32) -> (App, App, Sidecar, SocketAddr) {
    let (a, b) = (App::start("a").await, App::start("b").await);
    let endpoints = vec![endpoint(a.address, false), endpoint(b.address, false)];
    let route = features(Features {
        hedge: Some(Hedge {
            after: Duration::from_millis(30),
            budget_percent: percent,
        }),
        ..Features::default()
    });
    let (sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, route).await;
    (a, b, sidecar, proxy)
}

#[tokio::test]
async fn a_slow_idempotent_request_is_tried_elsewhere_and_the_first_answer_wins() {
    let (a, b, sidecar, proxy) = hedging(100).await;
    a.hold();
    for _ in 0..4 {
        assert_eq!(get(proxy, "/").await.body, "b");
    }
    let won = sidecar.metric("outrigger_route_features_total{event=\"hedge_won\"}");
    assert!(won >= 1.0, "{won}");
    // With its body, if that is at hand.
    let mut caller = Raw::to(proxy).await;
    for _ in 0..2 {
        caller
            .send("PUT / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 3\r\n\r\nput")
            .await;
        assert_eq!(caller.answer().await.unwrap().body, "put");
    }
    assert!(b.heads.lock().unwrap().len() >= 6);
}

#[tokio::test]
async fn a_post_is_never_hedged() {
    let (a, b, sidecar, proxy) = hedging(100).await;
    a.hold();
    b.hold();
    let mut caller = Raw::to(proxy).await;
    caller.send(&post("order")).await;
    tokio::time::timeout(Duration::from_millis(200), caller.answer())
        .await
        .unwrap_err();
    let seen = a.heads.lock().unwrap().len() + b.heads.lock().unwrap().len();
    assert_eq!(seen, 1);
    assert_eq!(
        sidecar.metric("outrigger_route_features_total{event=\"hedge"),
        0.0
    );
}

#[tokio::test]
async fn hedges_count_against_the_limits_of_requests_and_retries() {
    for of_requests in [true, false] {
        let mut reviews = cluster("reviews");
        if of_requests {
            reviews.thresholds.max_requests = 1;
        } else {
            reviews.thresholds.max_retries = 0;
        }
        let (a, b, sidecar, proxy) = hedging_in(reviews, 100).await;
        a.hold();
        b.hold();
        let mut caller = Raw::to(proxy).await;
        caller.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
        let refused = "outrigger_route_features_total{event=\"hedge_overflow\"}";
        sidecar.until_metric(refused, 1.0).await;
        a.let_go();
        b.let_go();
        assert_eq!(caller.answer().await.unwrap().status, 200);
        let seen = a.heads.lock().unwrap().len() + b.heads.lock().unwrap().len();
        assert_eq!(seen, 1);
        // One at a time is what it still is.
        assert_eq!(get(proxy, "/").await.status, 200);
    }
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_found_out_though_hedges_rescue_its_requests() {
    let (a, _b, sidecar, proxy) = hedging_in(ejecting_after(3), 100).await;
    a.hold();
    for _ in 0..20 {
        assert_eq!(get(proxy, "/").await.body, "b");
    }
    assert_eq!(a.heads.lock().unwrap().len(), 3);
    let won = sidecar.metric("outrigger_route_features_total{event=\"hedge_won\"}");
    assert_eq!(won, 3.0);
}

#[tokio::test]
async fn hedges_stay_within_their_budget() {
    let (a, b, sidecar, proxy) = hedging(0).await;
    a.hold();
    b.hold();
    let mut callers = Vec::new();
    for _ in 0..3 {
        let mut caller = Raw::to(proxy).await;
        caller.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
        callers.push(caller);
    }
    let refused = "outrigger_route_features_total{event=\"hedge_budget\"}";
    sidecar.until_metric(refused, 2.0).await;
    a.let_go();
    b.let_go();
    for mut caller in callers {
        assert_eq!(caller.answer().await.unwrap().status, 200);
    }
    let seen = a.heads.lock().unwrap().len() + b.heads.lock().unwrap().len();
    assert_eq!(seen, 4, "three, and one hedge");
}
