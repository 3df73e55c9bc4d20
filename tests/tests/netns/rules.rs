//! What is captured by the rules, and what is not. A stand-in for the sidecar says where a connection was meant to go.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use outrigger_tests::{APPLICATION, Arrival, Host, Network, OriginalDestinations, SIDECAR};

/// Every tool that may speak to the kernel.
pub(crate) const BACKENDS: [&str; 3] = ["nft", "iptables-nft", "iptables-legacy"];

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn vips() -> [IpAddr; 2] {
    ["240.240.0.9", "2001:2::9"].map(|text| text.parse().unwrap())
}

fn probes() -> [IpAddr; 2] {
    ["240.240.255.254", "2001:2::ffff"].map(|text| text.parse().unwrap())
}

#[track_caller]
fn arrives(from: &Host, to: SocketAddr, name: &str) {
    let arrival = from.arrives(to);
    assert_eq!(arrival.to(), Some((name, to)), "{to}: {arrival:?}");
}

#[test]
fn connections_of_the_application_and_to_it_arrive_at_the_sidecar_with_their_destination() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        let _out = OriginalDestinations::of(&a).on_loopback("outbound", 15001);
        let _in = OriginalDestinations::of(&b)
            .everywhere("inbound", 15006)
            .everywhere("app", 8080)
            .everywhere("ssh", 22)
            .everywhere("metrics", 15020);
        a.must_redirect(&format!("apply --mode all --backend {backend}"));
        b.must_redirect(&format!("apply --backend {backend}"));
        let app = a.as_user(APPLICATION);
        for ip in b.addresses() {
            arrives(&app, at(ip, 8080), "outbound");
            // The sidecar's own connection passes, and is taken on the other side.
            arrives(&a.as_user(SIDECAR), at(ip, 8080), "inbound");
            arrives(&a.as_user(SIDECAR), at(ip, 9), "inbound");
            arrives(&a.as_user(SIDECAR), at(ip, 22), "ssh");
            arrives(&a.as_user(SIDECAR), at(ip, 15020), "metrics");
        }
        // What stays within a host is not touched.
        for ip in b.addresses() {
            arrives(&b, at(ip, 8080), "app");
        }
        arrives(&b, "127.0.0.1:8080".parse().unwrap(), "app");
        arrives(&b, "[::1]:8080".parse().unwrap(), "app");
    }
}

#[test]
fn addresses_of_services_lead_to_the_sidecar_where_there_is_no_route_to_them() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        let _out = OriginalDestinations::of(&a).on_loopback("outbound", 15001);
        let _in = OriginalDestinations::of(&b).everywhere("app", 8080);
        a.must_redirect(&format!("apply --backend {backend}"));
        let app = a.as_user(APPLICATION);
        for ip in vips() {
            arrives(&app, at(ip, 8080), "outbound");
        }
        // Nothing else is of the mesh.
        for ip in b.addresses() {
            arrives(&app, at(ip, 8080), "app");
        }
        // The probe is the one connection of its own that the sidecar gets back.
        for ip in probes() {
            arrives(&a.as_user(SIDECAR), at(ip, 15001), "outbound");
        }
        a.must_redirect(&format!("apply --mode off --backend {backend}"));
        for ip in probes() {
            arrives(&a.as_user(SIDECAR), at(ip, 15001), "outbound");
        }
        let lost = app.arrives(at(vips()[0], 8080));
        assert_eq!(lost.to(), None, "{lost:?}");
    }
}

#[test]
fn what_is_excluded_passes() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b, c) = (network.host("a"), network.host("b"), network.host("c"));
        let _out = OriginalDestinations::of(&a).on_loopback("outbound", 15001);
        let _apps: Vec<_> = [&b, &c]
            .map(|host| {
                OriginalDestinations::of(host)
                    .everywhere("app", 8080)
                    .everywhere("db", 3001)
            })
            .into();
        let [c4, c6] = c.addresses();
        a.must_redirect(&format!(
            "apply --mode all --backend {backend} --uid 1337,1500 --gid 1600 --mark 0x77 --exclude-cidr {c4},{c6} \
             --exclude-ports 25,3000-3999"
        ));
        let app = a.as_user(APPLICATION);
        for (ip, other) in b.addresses().into_iter().zip(c.addresses()) {
            arrives(&app, at(ip, 8080), "outbound");
            arrives(&app, at(ip, 3001), "db");
            arrives(&app, at(other, 8080), "app");
            arrives(&a.as_user(SIDECAR), at(ip, 8080), "app");
            arrives(&a.as_user(1500), at(ip, 8080), "app");
            // Users of a test are in the group of their number.
            arrives(&a.as_user(1600), at(ip, 8080), "app");
            let marked = a.arrives_marked(at(ip, 8080), 0x77);
            assert_eq!(marked.to(), Some(("app", at(ip, 8080))), "{marked:?}");
            let marked = a.arrives_marked(at(ip, 8080), 0x78);
            assert_eq!(marked.to(), Some(("outbound", at(ip, 8080))), "{marked:?}");
        }
        // From what belongs to services nothing is excluded.
        for ip in vips() {
            arrives(&app, at(ip, 3001), "outbound");
        }
    }
}

#[test]
fn named_ports_alone_are_captured_and_an_interface_can_be_left_out() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        let _in = OriginalDestinations::of(&b)
            .everywhere("inbound", 15006)
            .everywhere("app", 8080)
            .everywhere("ssh", 22);
        b.must_redirect(&format!(
            "apply --backend {backend} --inbound-ports 22,8000-8079"
        ));
        for ip in b.addresses() {
            arrives(&a, at(ip, 22), "inbound");
            arrives(&a, at(ip, 8079), "inbound");
            arrives(&a, at(ip, 8080), "app");
        }
        b.must_redirect(&format!(
            "apply --backend {backend} --exclude-interface eth0"
        ));
        for ip in b.addresses() {
            arrives(&a, at(ip, 8080), "app");
        }
    }
}

#[test]
fn without_a_sidecar_everything_that_is_captured_is_refused_at_once() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        let _app = OriginalDestinations::of(&b).everywhere("app", 8080);
        a.must_redirect(&format!("apply --mode all --backend {backend}"));
        b.must_redirect(&format!("apply --backend {backend}"));
        for ip in b.addresses() {
            let out = a.as_user(APPLICATION).arrives(at(ip, 8080));
            assert_eq!(out, Arrival::Refused, "{backend} {ip}");
            let inbound = a.as_user(SIDECAR).arrives(at(ip, 8080));
            assert_eq!(inbound, Arrival::Refused, "{backend} {ip}");
        }
    }
}

#[test]
fn while_rules_are_replaced_nothing_gets_past_them() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        let _out = OriginalDestinations::of(&a).on_loopback("outbound", 15001);
        let _app = OriginalDestinations::of(&b).everywhere("app", 8080);
        a.must_redirect(&format!("apply --mode all --backend {backend}"));
        let (done, connections) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for to in b.addresses().map(|ip| at(ip, 8080)) {
                let (app, done, connections) = (a.as_user(APPLICATION), &done, &connections);
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        let arrival = app.arrives(to);
                        assert_eq!(arrival.to(), Some(("outbound", to)), "{arrival:?}");
                        connections.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for n in 0..10 {
                a.must_redirect(&format!(
                    "apply --mode all --backend {backend} --exclude-ports {}",
                    n + 1
                ));
                // So many at least that some of them met the change.
                let before = connections.load(Ordering::SeqCst);
                let deadline = Instant::now() + Duration::from_secs(30);
                while connections.load(Ordering::SeqCst) < before + 10 && Instant::now() < deadline
                {
                    std::thread::yield_now();
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        assert!(connections.load(Ordering::SeqCst) >= 100);
    }
}

#[test]
fn a_connection_that_was_open_before_the_rules_stays_what_it_is() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        let _sidecars = [&a, &b].map(|host| {
            OriginalDestinations::of(host)
                .on_loopback("outbound", 15001)
                .everywhere("inbound", 15006)
        });
        for ip in b.addresses() {
            let listener = b
                .within(|| std::net::TcpListener::bind(at(ip, 2222)))
                .unwrap();
            let here = a.connect(at(ip, 2222)).unwrap();
            let (there, _) = listener.accept().unwrap();
            for host in [&a, &b] {
                host.must_redirect(&format!("apply --mode all --backend {backend}"));
            }
            for said in ["before", "after the rules"] {
                for (mut from, mut to) in [(&here, &there), (&there, &here)] {
                    to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    from.write_all(said.as_bytes()).unwrap();
                    let mut heard = vec![0; said.len()];
                    to.read_exact(&mut heard).unwrap();
                    assert_eq!(heard, said.as_bytes());
                }
            }
            for host in [&a, &b] {
                host.must_redirect("remove");
            }
        }
    }
}

#[test]
fn what_passes_through_a_host_on_its_way_to_another_is_not_captured() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, router, b) = (network.host("a"), network.host("router"), network.host("b"));
        let _in = OriginalDestinations::of(&router).everywhere("inbound", 15006);
        let _app = OriginalDestinations::of(&b).everywhere("app", 8080);
        b.must(&["ip", "addr", "add", "10.78.0.1/32", "dev", "lo"]);
        router.must(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        let [of_router, of_b] = [router.v4().to_string(), b.v4().to_string()];
        router.must(&["ip", "route", "add", "10.78.0.1/32", "via", &of_b]);
        a.must(&["ip", "route", "add", "10.78.0.1/32", "via", &of_router]);
        router.must_redirect(&format!("apply --mode all --backend {backend}"));
        arrives(&a, "10.78.0.1:8080".parse().unwrap(), "app");
        arrives(&a, at(router.v4(), 8080), "inbound");
    }
}
