use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use prometheus::Registry;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

use super::*;
use crate::settings_for_tests::app;

fn judge() -> Judge {
    Judge::new(app().readiness)
}

fn after(checks: &[Check]) -> AppHealth {
    let mut judge = judge();
    checks
        .iter()
        .fold(AppHealth::Unknown, |_, check| judge.observe(*check))
}

#[test]
fn the_first_success_is_enough_to_start() {
    use Check::{Failure, Refused, Success};
    assert_eq!(after(&[Refused, Failure]), AppHealth::Unknown);
    assert_eq!(after(&[Refused, Failure, Success]), AppHealth::Healthy);
}

#[test]
fn three_failures_in_a_row_make_unhealthy_and_two_do_not() {
    use Check::{Failure, Success};
    assert_eq!(after(&[Success, Failure, Failure]), AppHealth::Healthy);
    assert_eq!(
        after(&[Success, Failure, Failure, Success, Failure]),
        AppHealth::Healthy
    );
    assert_eq!(
        after(&[Success, Failure, Failure, Failure]),
        AppHealth::Unhealthy
    );
}

#[test]
fn a_refused_connection_makes_unhealthy_at_once() {
    assert_eq!(
        after(&[Check::Success, Check::Refused]),
        AppHealth::Unhealthy
    );
}

#[test]
fn two_successes_in_a_row_bring_it_back_and_one_does_not() {
    use Check::{Failure, Refused, Success};
    assert_eq!(after(&[Success, Refused, Success]), AppHealth::Unhealthy);
    assert_eq!(
        after(&[Success, Refused, Success, Failure, Success]),
        AppHealth::Unhealthy
    );
    assert_eq!(
        after(&[Success, Refused, Success, Success]),
        AppHealth::Healthy
    );
}

/// Health after every check, at the moments at which checks begin; `answers` says how each ends.
fn timeline(answers: &[(u64, Check)]) -> Vec<(u64, AppHealth)> {
    let mut judge = judge();
    let mut now = Duration::ZERO;
    let mut seen = Vec::new();
    for (at, check) in answers {
        assert_eq!(now, Duration::from_secs(*at), "when the next check begins");
        seen.push((*at, judge.observe(*check)));
        now += judge.pause();
    }
    seen
}

#[test]
fn every_ten_seconds_three_failures_end_at_00_40_and_two_successes_at_01_00() {
    use AppHealth::{Healthy, Unhealthy};
    use Check::{Failure, Success};
    let seen = timeline(&[
        (0, Success),
        (10, Success),
        (20, Failure),
        (30, Failure),
        (40, Failure),
        (50, Success),
        (60, Success),
    ]);
    let want = [
        (0, Healthy),
        (10, Healthy),
        (20, Healthy),
        (30, Healthy),
        (40, Unhealthy),
        (50, Unhealthy),
        (60, Healthy),
    ];
    assert_eq!(seen, want);
}

#[test]
fn it_is_asked_often_until_it_starts_and_while_it_comes_back() {
    let mut judge = judge();
    let interval = app().readiness.interval;
    assert_eq!(judge.pause(), STARTING);
    judge.observe(Check::Success);
    assert_eq!(judge.pause(), interval);
    judge.observe(Check::Refused);
    assert_eq!(judge.pause(), interval);
    judge.observe(Check::Success);
    assert_eq!(judge.pause(), STARTING);
}

#[test]
fn an_application_that_never_answered_is_announced_as_unhealthy() {
    assert_eq!(AppHealth::Unknown.word(), "UNHEALTHY");
    assert_eq!(AppHealth::Healthy.word(), "HEALTHY");
}

/// An application that answers with the status in the atomic.
async fn application(status: Arc<AtomicU16>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let status = status.load(Ordering::Relaxed);
            let service = service_fn(
                move |request: http::Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/health");
                    http::Response::builder()
                        .status(status)
                        .body(Full::new(Bytes::new()))
                },
            );
            let serve = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // The check closes the connection as soon as it has its answer.
            drop(serve.await);
        }
    });
    (address, task)
}

fn asked(address: SocketAddr, path: Option<&str>) -> App {
    let mut app = app();
    app.address = address;
    app.readiness.http_path = path.map(str::to_owned);
    app
}

#[tokio::test]
async fn any_2xx_is_success_and_everything_else_is_not() {
    let status = Arc::new(AtomicU16::new(200));
    let (address, task) = application(Arc::clone(&status)).await;
    let app = asked(address, Some("/health"));
    for (answer, expected) in [
        (204, Check::Success),
        (302, Check::Failure),
        (503, Check::Failure),
    ] {
        status.store(answer, Ordering::Relaxed);
        assert_eq!(check(&app).await, expected, "{answer}");
    }
    task.abort();
}

#[tokio::test]
async fn a_connection_is_enough_without_a_path_and_its_refusal_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = asked(listener.local_addr().unwrap(), None);
    assert_eq!(check(&app).await, Check::Success);
    drop(listener);
    assert_eq!(check(&app).await, Check::Refused);
}

#[tokio::test]
async fn an_application_that_does_not_answer_fails_after_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut app = asked(listener.local_addr().unwrap(), Some("/health"));
    app.readiness.timeout = Duration::from_millis(50);
    assert_eq!(check(&app).await, Check::Failure);
}

#[tokio::test]
async fn a_refused_connection_of_live_traffic_is_checked_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut app = asked(listener.local_addr().unwrap(), None);
    app.readiness.interval = Duration::from_secs(3600);
    let shared = Shared::new(crate::tls::files::Allowed::default());
    let vitals = Arc::new(Vitals::new(&Registry::new(), true, false));
    let (sender, mut health) = watch::channel(AppHealth::Unknown);
    let task = tokio::spawn(watch(app, Arc::clone(&shared), Arc::clone(&vitals), sender));
    let patience = Duration::from_secs(10);
    timeout(patience, health.wait_for(|h| *h == AppHealth::Healthy))
        .await
        .unwrap()
        .unwrap();
    drop(listener);
    shared.app_unreachable.notify_one();
    timeout(patience, health.wait_for(|h| *h == AppHealth::Unhealthy))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(vitals.app(), Some(AppHealth::Unhealthy));
    task.abort();
}
