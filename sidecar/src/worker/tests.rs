//! The whole way of a request, on real sockets: caller → sidecar → mTLS → sidecar → application.

use std::{io::Read, sync::Arc, time::Duration};

use outrigger_core::{
    Direction, FilterChain, FilterChains, Listener, PolicyPositions, RouteSource,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::ListenerState;
use crate::testing::{
    Authority, Sidecar,
    app::{App, Raw, get},
    cluster, config, endpoint, mtls, spiffe,
};
use crate::{
    Config,
    listen::caps::Caps,
    shared::Identity,
    tls::{self, ALPN_H2},
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

#[tokio::test]
async fn listeners_follow_the_snapshot() {
    let app = App::start("reviews").await;
    let endpoints = vec![endpoint(app.address, false)];
    let (mut sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, |_| {}).await;
    let mut idle = Raw::to(proxy).await;
    assert_eq!(idle.get("/").await.status, 200);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listener = Listener::clone(&sidecar.builder.build().listeners["http_proxy"]);
    listener.name = "taken".to_owned();
    listener.address = taken.local_addr().unwrap();
    sidecar.builder.set_listener("taken", Some(listener));
    sidecar.builder.set_listener("http_proxy", None);
    sidecar.shared.snapshot.publish(sidecar.builder.build());
    let mut states = sidecar.workers.listeners();
    let states = states
        .wait_for(|states| !states.contains_key("http_proxy"))
        .await
        .unwrap();
    let ListenerState::Failed(error) = &states["taken"] else {
        panic!("{states:?}");
    };
    assert!(
        error.contains(&taken.local_addr().unwrap().to_string()),
        "{error}"
    );
    assert!(idle.answer().await.is_none(), "its connections end");
    while TcpStream::connect(proxy).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_proxys_port_is_not_taken_by_a_document_that_names_it() {
    let prebound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = prebound.local_addr().unwrap();
    let mut sidecar = Sidecar::start_with(&config(), None, vec![prebound]);
    let other = "127.0.0.1_15080";
    for name in [other, "http_proxy"] {
        let slot = sidecar.builder.route_slot(name);
        sidecar.builder.set_listener(
            name,
            Some(Listener {
                name: name.to_owned(),
                address,
                direction: Direction::Outbound,
                chains: FilterChains::one(FilterChain {
                    tls: None,
                    routes: RouteSource::Named(slot),
                    settings: None,
                    policies: PolicyPositions::default(),
                }),
                dry_run: None,
                capture: outrigger_core::Capture::default(),
            }),
        );
    }
    assert_eq!(sidecar.publish("http_proxy").await, address);
    let states = sidecar.workers.listeners();
    assert!(matches!(states.borrow()[other], ListenerState::Failed(_)));
}

#[tokio::test]
async fn a_listener_takes_over_the_socket_that_was_bound_before() {
    let prebound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = prebound.local_addr().unwrap();
    let mut sidecar = Sidecar::start_with(&config(), None, vec![prebound]);
    // It waits in the socket's backlog until the configuration is there.
    let mut early = Raw::to(address).await;
    early.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
    let slot = sidecar.builder.route_slot("http_proxy");
    sidecar.builder.set_listener(
        "http_proxy",
        Some(Listener {
            name: "http_proxy".to_owned(),
            address,
            direction: Direction::Outbound,
            chains: FilterChains::one(FilterChain {
                tls: None,
                routes: RouteSource::Named(slot),
                settings: None,
                policies: PolicyPositions::default(),
            }),
            dry_run: None,
            capture: outrigger_core::Capture::default(),
        }),
    );
    assert_eq!(sidecar.publish("http_proxy").await, address);
    assert_eq!(early.answer().await.unwrap().status, 404);
}

#[tokio::test]
async fn a_new_identity_is_shown_on_new_connections_at_once() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (_server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(inbound, true)];
    let (client, proxy) = Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    for account in ["frontend", "renamed"] {
        let identity = authority.identity(account);
        client.shared.identity.store(Some(Arc::new(identity)));
        assert_eq!(caller.get("/").await.status, 200);
        let seen = app.last_headers();
        let seen = seen["x-forwarded-client-cert"].to_str().unwrap();
        assert!(seen.ends_with(&spiffe(account)), "{seen}");
    }
}

#[tokio::test]
async fn metrics_name_both_ends_as_istio_does() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (_server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let mut to = endpoint(inbound, true);
    to.labels.insert("version".to_owned(), "v2".to_owned());
    let identity = Some(authority.identity("frontend"));
    let (client, proxy) = Sidecar::outbound(&config(), identity, reviews, vec![to], |_| {}).await;
    assert_eq!(get(proxy, "/").await.status, 200);
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&client.telemetry.metrics.registry.gather())
        .unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("istio_requests_total"))
        .unwrap();
    for label in [
        "reporter=\"source\"",
        "source_workload=\"frontend\"",
        "destination_service=\"reviews.default.svc.cluster.local\"",
        "destination_service_name=\"reviews\"",
        "destination_service_namespace=\"default\"",
        "destination_version=\"v2\"",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/reviews\"",
        "response_code=\"200\"",
    ] {
        assert!(line.contains(label), "{label}: {line}");
    }
}

#[tokio::test]
async fn a_listener_moves_to_another_address_with_the_same_port_at_once() {
    let app = App::start("reviews").await;
    let endpoints = vec![endpoint(app.address, false)];
    let (mut sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, |_| {}).await;
    let mut listener = Listener::clone(&sidecar.builder.build().listeners["http_proxy"]);
    // These two exclude each other.
    listener.address = ([0, 0, 0, 0], proxy.port()).into();
    let moved = ListenerState::Bound(listener.address);
    let mut states = sidecar.workers.listeners();
    states.mark_unchanged();
    sidecar.builder.set_listener("http_proxy", Some(listener));
    sidecar.shared.snapshot.publish(sidecar.builder.build());
    states.changed().await.unwrap();
    assert_eq!(states.borrow()["http_proxy"], moved);
    assert_eq!(get(proxy, "/").await.status, 200);
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 16]).await, Ok(1..))
}

#[tokio::test]
async fn silent_handshakes_beyond_their_number_are_closed_at_once() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let one_worker = Config {
        workers: 1,
        ..config()
    };
    let identity = Some(authority.identity("reviews"));
    let caps = Caps {
        connections: 4,
        of_peer: 4,
    };
    let mut sidecar = Sidecar::start_capped(&one_worker, identity, Vec::new(), caps);
    let inbound = sidecar.open_inbound(app.address).await;
    let silent = [
        TcpStream::connect(inbound).await.unwrap(),
        TcpStream::connect(inbound).await.unwrap(),
    ];
    let mut refused = TcpStream::connect(inbound).await.unwrap();
    assert!(is_closed(&mut refused).await);
    let line = "outrigger_connections_refused_total{reason=\"too_many_handshakes\"}";
    assert!((sidecar.metric(line) - 1.0).abs() < f64::EPSILON);
    drop(silent);
    while sidecar.workers.connections() > 0 {
        tokio::task::yield_now().await;
    }
    tls_client(&authority.identity("frontend"), inbound).await;
}

#[tokio::test]
async fn connections_beyond_their_number_are_closed_at_once() {
    let caps = Caps {
        connections: 2,
        of_peer: 2,
    };
    let prebound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = prebound.local_addr().unwrap();
    let mut sidecar = Sidecar::start_capped(&config(), None, vec![prebound], caps);
    let slot = sidecar.builder.route_slot("http_proxy");
    sidecar.builder.set_listener(
        "http_proxy",
        Some(Listener {
            name: "http_proxy".to_owned(),
            address: proxy,
            direction: Direction::Outbound,
            chains: FilterChains::one(FilterChain {
                tls: None,
                routes: RouteSource::Named(slot),
                settings: None,
                policies: PolicyPositions::default(),
            }),
            dry_run: None,
            capture: outrigger_core::Capture::default(),
        }),
    );
    sidecar.publish("http_proxy").await;
    let mut kept = [Raw::to(proxy).await, Raw::to(proxy).await];
    let mut refused = TcpStream::connect(proxy).await.unwrap();
    assert!(is_closed(&mut refused).await);
    let line = "outrigger_connections_refused_total{reason=\"too_many\"}";
    assert!((sidecar.metric(line) - 1.0).abs() < f64::EPSILON);
    for caller in &mut kept {
        assert_eq!(caller.get("/").await.status, 404);
    }
}

async fn tls_client(identity: &Identity, to: std::net::SocketAddr) -> TlsStream<TcpStream> {
    let config = tls::client_config(identity, &[spiffe("reviews")], &[ALPN_H2]).unwrap();
    let name = ServerName::try_from("reviews").unwrap();
    let stream = TcpStream::connect(to).await.unwrap();
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap()
}

#[tokio::test]
async fn who_agreed_to_http2_has_to_begin_it() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let frontend = authority.identity("frontend");
    let mut wrong = tls_client(&frontend, inbound).await;
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(!matches!(wrong.read(&mut [0; 16]).await, Ok(1..)));
    // One that says half of it is not waited for when all others have ended.
    let mut silent = tls_client(&frontend, inbound).await;
    silent.write_all(b"PRI * HTTP/2.0").await.unwrap();
    assert_eq!(server.workers.drain(Duration::from_secs(60)).await, 0);
}

#[tokio::test]
async fn a_peer_that_the_trust_bundle_left_during_its_handshake_is_refused() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let frontend = authority.identity("frontend");
    let config = tls::client_config(&frontend, &[spiffe("reviews")], &[ALPN_H2]).unwrap();
    let name = ServerName::try_from("reviews").unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut stream = std::net::TcpStream::connect(inbound).unwrap();
    client.write_tls(&mut stream).unwrap();
    while client.is_handshaking() {
        client.read_tls(&mut stream).unwrap();
        client.process_new_packets().unwrap();
    }
    let another = Authority::new().identity("reviews");
    server.shared.identity.store(Some(Arc::new(another)));
    while client.wants_write() {
        client.write_tls(&mut stream).unwrap();
    }
    while matches!(stream.read(&mut [0; 256]), Ok(1..)) {}
    let line = "outrigger_tls_refusals_total{reason=\"chain\",side=\"inbound\"}";
    server.until_metric(line, 1.0).await;
}

mod chains;
