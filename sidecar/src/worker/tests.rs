//! The whole way of a request, on real sockets: caller → sidecar → mTLS → sidecar → application.

use crate::testing::{
    Authority, Sidecar,
    app::{App, Raw, get},
    cluster, config, endpoint, mtls, spiffe,
};

#[tokio::test]
async fn a_request_goes_through_two_sidecars_over_mtls() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (_server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let (_client, proxy) = Sidecar::outbound(
        &config(),
        Some(authority.identity("frontend")),
        reviews,
        vec![endpoint(inbound, true)],
        |_| {},
    )
    .await;
    let answer = get(proxy, "/reviews/1").await;
    assert_eq!(
        (answer.status, &*answer.body),
        (200, "reviews"),
        "{answer:?}"
    );
    let seen = app.last_headers();
    assert_eq!(
        seen["x-forwarded-client-cert"],
        format!("By={};URI={}", spiffe("reviews"), spiffe("frontend"))
    );
    assert_eq!(seen["host"], "reviews");
    assert_eq!(
        answer.header("connection"),
        None,
        "hop-by-hop of the application"
    );
    assert_eq!(answer.header("x-outrigger-unsent"), None);
}

#[tokio::test]
async fn a_plain_upstream_is_reached_over_one_reused_connection() {
    let app = App::start("reviews").await;
    let (_client, proxy) = Sidecar::outbound(
        &config(),
        None,
        cluster("reviews"),
        vec![endpoint(app.address, false)],
        |_| {},
    )
    .await;
    let mut caller = Raw::to(proxy).await;
    for _ in 0..5 {
        assert_eq!(caller.get("/").await.status, 200);
    }
    assert_eq!(app.connections(), 1);
}
