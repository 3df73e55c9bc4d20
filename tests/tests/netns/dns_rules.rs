//! Questions to DNS servers: where they arrive, and that the proxy's own ones get out.

use std::net::{IpAddr, SocketAddr};

use outrigger_tests::{APPLICATION, Host, Network, OriginalDestinations, SIDECAR};

use super::rules::{BACKENDS, at};

fn loopback() -> [IpAddr; 2] {
    [[127, 0, 0, 1].into(), [0_u16, 0, 0, 0, 0, 0, 0, 1].into()]
}

/// A question over UDP from this port, and who answered.
fn ask(host: &Host, from: SocketAddr, to: SocketAddr, server: &std::net::UdpSocket) -> SocketAddr {
    let socket = host.udp(from);
    socket.connect(to).unwrap();
    socket.send(b"question").unwrap();
    let mut buffer = [0; 64];
    let (length, peer) = server
        .recv_from(&mut buffer)
        .unwrap_or_else(|error| panic!("the question from {from} to {to} did not arrive: {error}"));
    assert_eq!(&buffer[..length], b"question");
    server.send_to(b"answer", peer).unwrap();
    // Connected: an answer of anybody else does not count.
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"answer");
    socket.local_addr().unwrap()
}

#[test]
fn questions_to_any_server_are_answered_by_the_sidecar_in_its_name() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        let app = a.as_user(APPLICATION);
        let _tcp = OriginalDestinations::of(&a).on_loopback("dns", 15053);
        a.must_redirect(&format!("apply --backend {backend}"));
        for (n, proxy) in loopback().into_iter().enumerate() {
            let proxy = a.as_user(SIDECAR).udp(at(proxy, 15053));
            for server in [b.addresses()[n], loopback()[n]] {
                let any = at(
                    if n == 0 {
                        [0, 0, 0, 0].into()
                    } else {
                        [0_u16; 8].into()
                    },
                    0,
                );
                ask(&app, any, at(server, 53), &proxy);
                let arrival = app.arrives(at(server, 53));
                // The kernel knows no original destination in a zone of conntrack; for DNS nobody asks it.
                assert_eq!(
                    arrival.to().map(|(name, _)| name),
                    Some("dns"),
                    "{arrival:?}"
                );
            }
        }
        let stub = app.arrives("127.0.0.53:53".parse().unwrap());
        assert_eq!(stub.to().map(|(name, _)| name), Some("dns"), "{stub:?}");
    }
}

#[test]
fn a_question_of_the_proxy_from_a_port_that_the_application_has_just_used_gets_out() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        a.must_redirect(&format!("apply --backend {backend}"));
        for n in 0..2 {
            let (here, there) = (a.addresses()[n], at(b.addresses()[n], 53));
            let server = b.udp(there);
            let proxy = a.as_user(SIDECAR).udp(at(loopback()[n], 15053));
            let used = ask(&a.as_user(APPLICATION), at(here, 0), there, &proxy);
            let again = ask(&a.as_user(SIDECAR), used, there, &server);
            assert_eq!(used, again);
            // And once more as the application.
            ask(&a.as_user(APPLICATION), used, there, &proxy);
        }
    }
}

#[test]
fn where_the_server_is_on_this_host_its_own_questions_to_others_get_out() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        std::fs::write(a.dir().join("resolv.conf"), "nameserver 127.0.0.53\n").unwrap();
        a.must_redirect(&format!("apply --backend {backend}"));
        let (there, stub) = (at(b.v4(), 53), "127.0.0.53:53".parse().unwrap());
        let server = b.udp(there);
        let proxy = a.as_user(SIDECAR).udp(at(loopback()[0], 15053));
        let any = "0.0.0.0:0".parse().unwrap();
        ask(&a.as_user(APPLICATION), any, stub, &proxy);
        // As its user: not the sidecar's.
        ask(&a.as_user(102), any, there, &server);
        a.must_redirect(&format!("apply --backend {backend} --no-dns"));
        let resolver = a.udp(stub);
        ask(&a.as_user(APPLICATION), any, stub, &resolver);
    }
}
