//! Faults, CORS, mirrors, redirects, headers that speak of the request, counters.

use std::sync::Arc;

use outrigger_core::{
    Abort, Cors, Edit, Fault, Features, Format, Positions, RedirectPath, Rewrite, Share,
    StringMatch,
};

use super::*;

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
