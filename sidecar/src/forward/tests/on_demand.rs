//! A request to a host whose routes are not here waits for them, and goes on or is answered.

use outrigger_core::{
    Direction, FilterChain, FilterChains, Listener, PolicyPositions, RouteSource, RouteTable, Uses,
    VirtualHost,
};

use super::*;
use crate::{testing::route, xds::asked::Answer};

/// A sidecar that knows no host yet, and where its HTTP proxy is.
async fn empty() -> (Sidecar, SocketAddr) {
    let mut sidecar = Sidecar::start(&config(), None);
    sidecar.shared.demand.set_connected(true);
    know(&mut sidecar, &[]);
    let slot = sidecar.builder.route_slot("http_proxy");
    sidecar.builder.set_listener(
        "http_proxy",
        Some(Listener {
            name: "http_proxy".to_owned(),
            address: "127.0.0.1:0".parse().unwrap(),
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
    let address = sidecar.publish("http_proxy").await;
    (sidecar, address)
}

/// The virtual hosts that are there, all of which lead to `reviews`.
fn know(sidecar: &mut Sidecar, hosts: &[&str]) {
    let routes = route(&mut sidecar.builder, &cluster("reviews").name);
    let hosts = hosts.iter().map(|host| VirtualHost {
        ports: [9080].into(),
        uses: Some(Uses::default()),
        ..VirtualHost::new(host, vec![(*host).to_owned()], vec![routes.clone()])
    });
    let table = RouteTable::growing("http_proxy".to_owned(), hosts.collect());
    let table = Some(std::sync::Arc::new(table));
    sidecar.builder.set_routes("http_proxy", table);
}

/// What is asked for next.
async fn asked(sidecar: &Sidecar) -> String {
    loop {
        if let Some(name) = sidecar.shared.demand.take_wanted().pop() {
            return name;
        }
        sidecar.shared.demand.wanted().await;
    }
}

fn settle(sidecar: &Sidecar, name: &str, answer: Answer) {
    let answers = vec![(name.to_owned(), answer)];
    sidecar.shared.demand.settle(answers, [0; 3]);
}

fn get_of(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[tokio::test]
async fn a_request_to_a_new_host_goes_on_when_its_routes_come() {
    let app = App::start("reviews").await;
    let (mut sidecar, proxy) = empty().await;
    let mut caller = Raw::to(proxy).await;
    caller.send(&get_of("Reviews:9080")).await;
    assert_eq!(asked(&sidecar).await, "http_proxy/reviews:9080");

    sidecar.set_cluster(cluster("reviews"), vec![endpoint(app.address, false)]);
    know(&mut sidecar, &["reviews:9080"]);
    sidecar.publish("http_proxy").await;
    settle(&sidecar, "http_proxy/reviews:9080", Answer::Here);
    assert_eq!(caller.answer().await.unwrap().status, 200);

    caller.send(&get_of("reviews:9080")).await;
    assert_eq!(caller.answer().await.unwrap().status, 200);
    let came = sidecar.metric("outrigger_on_demand_requests_total{outcome=\"came\"}");
    assert!((came - 1.0).abs() < f64::EPSILON, "{came}");
}

#[tokio::test]
async fn a_body_is_sent_on_as_it_came_after_the_wait() {
    let app = App::start("reviews").await;
    let (mut sidecar, proxy) = empty().await;
    let mut caller = Raw::to(proxy).await;
    caller.send(&post(&"x".repeat(60_000))).await;
    assert_eq!(asked(&sidecar).await, "http_proxy/reviews");
    sidecar.set_cluster(cluster("reviews"), vec![endpoint(app.address, false)]);
    know(&mut sidecar, &["reviews"]);
    sidecar.publish("http_proxy").await;
    settle(&sidecar, "http_proxy/reviews", Answer::Here);
    let answer = caller.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 60_000));
}

#[tokio::test]
async fn a_host_that_there_is_not_is_answered_as_ever_and_at_once_the_next_time() {
    let (sidecar, proxy) = empty().await;
    let mut caller = Raw::to(proxy).await;
    caller.send(&get_of("nobody")).await;
    let name = asked(&sidecar).await;
    settle(&sidecar, &name, Answer::Absent);
    for _ in 0..2 {
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, 404);
        assert!(answer.body.contains("no_route_host"), "{}", answer.body);
        let says = "no service is known as \\\"nobody\\\" here";
        assert!(answer.body.contains(says), "{}", answer.body);
        caller.send(&get_of("nobody")).await;
    }
    assert_eq!(sidecar.shared.demand.take_wanted(), [""; 0]);
}

#[tokio::test]
async fn a_port_that_nobody_serves_is_answered_with_those_that_are() {
    let (mut sidecar, proxy) = empty().await;
    let mut caller = Raw::to(proxy).await;
    caller.send(&get_of("reviews:1")).await;
    assert_eq!(asked(&sidecar).await, "http_proxy/reviews:1");
    settle(&sidecar, "http_proxy/reviews:1", Answer::Absent);
    assert_eq!(asked(&sidecar).await, "http_proxy/reviews");
    know(&mut sidecar, &["reviews"]);
    sidecar.publish("http_proxy").await;
    settle(&sidecar, "http_proxy/reviews", Answer::Here);
    let answer = caller.answer().await.unwrap();
    assert_eq!(answer.status, 404);
    assert!(
        answer.body.contains("its ports are 9080"),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn without_the_control_plane_a_new_host_is_unavailable_and_a_known_one_is_not() {
    let app = App::start("reviews").await;
    let (mut sidecar, proxy) = empty().await;
    sidecar.set_cluster(cluster("reviews"), vec![endpoint(app.address, false)]);
    know(&mut sidecar, &["reviews"]);
    sidecar.publish("http_proxy").await;
    sidecar.shared.demand.set_connected(false);
    let mut caller = Raw::to(proxy).await;
    for (host, status) in [("reviews", 200), ("ratings", 503), ("reviews", 200)] {
        caller.send(&get_of(host)).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.body);
        if status == 503 {
            assert!(answer.body.contains("no_route_yet"), "{}", answer.body);
            let says = "the control plane is away";
            assert!(answer.body.contains(says), "{}", answer.body);
        }
    }
}

#[tokio::test]
async fn routes_that_come_for_another_host_end_in_an_answer_and_not_in_a_circle() {
    let (mut sidecar, proxy) = empty().await;
    let mut caller = Raw::to(proxy).await;
    caller.send(&get_of("reviews")).await;
    let name = asked(&sidecar).await;
    know(&mut sidecar, &["ratings"]);
    sidecar.publish("http_proxy").await;
    settle(&sidecar, &name, Answer::Here);
    assert_eq!(caller.answer().await.unwrap().status, 404);
}

#[tokio::test]
async fn patterns_and_names_that_no_host_has_are_not_asked_for() {
    let (sidecar, proxy) = empty().await;
    let mut caller = Raw::to(proxy).await;
    for host in ["*", "*.example.com", &"x".repeat(300)] {
        caller.send(&get_of(host)).await;
        assert_eq!(caller.answer().await.unwrap().status, 404, "{host}");
    }
    assert_eq!(sidecar.shared.demand.take_wanted(), [""; 0]);
}
