//! Incoming connections that keep their client's address.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use outrigger_tests::{Arrival, Host, Network, OriginalDestinations};
use socket2::{Domain, Socket, Type};

use super::rules::{BACKENDS, at};

/// As a sidecar in `host` connects to its application in the name of a client.
fn in_the_name_of(host: &Host, client: IpAddr, app: SocketAddr) -> String {
    host.within(|| {
        let socket = Socket::new(Domain::for_address(app), Type::STREAM, None).unwrap();
        match client.is_ipv4() {
            true => socket.set_ip_transparent_v4(true).unwrap(),
            false => socket.set_ip_transparent_v6(true).unwrap(),
        }
        socket.bind(&at(client, 0).into()).unwrap();
        socket
            .connect_timeout(&app.into(), Duration::from_secs(10))
            .expect("the application answers the sidecar, not the client");
        let mut heard = String::new();
        TcpStream::from(socket).read_to_string(&mut heard).unwrap();
        heard
    })
}

#[test]
fn the_sidecar_and_the_application_see_the_address_of_the_client() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        let _sidecar = OriginalDestinations::of(&b)
            .transparently("inbound", 15006)
            .everywhere("app", 8080)
            .everywhere("ssh", 22);
        b.must_redirect(&format!("apply --tproxy --backend {backend}"));
        b.must_redirect(&format!("check --tproxy --backend {backend}"));
        for (client, ip) in a.addresses().into_iter().zip(b.addresses()) {
            match a.arrives(at(ip, 8080)) {
                Arrival::At(name, to, from) => {
                    assert_eq!(
                        (name.as_str(), to, from.ip()),
                        ("inbound", at(ip, 8080), client)
                    );
                }
                other => panic!("{backend}: {other:?}"),
            }
            assert_eq!(a.arrives(at(ip, 22)).to(), Some(("ssh", at(ip, 22))));
            // Its own connections to others come back, though they look like connections to it.
            let _there = OriginalDestinations::of(&a).everywhere("there", 7000);
            assert_eq!(
                b.arrives(at(client, 7000)).to(),
                Some(("there", at(client, 7000)))
            );
            let heard = in_the_name_of(&b, client, at(ip, 8080));
            assert!(
                heard.starts_with(&format!("app {} {}", at(ip, 8080), address(client))),
                "{heard}"
            );
        }
        b.must_redirect("remove");
        for family in ["-4", "-6"] {
            let rules = b.must(&["ip", family, "rule"]);
            assert!(!rules.contains("133"), "{rules}");
            let routes = b.must(&[
                "ip", family, "route", "show", "table", "all", "proto", "133",
            ]);
            assert_eq!(routes, "");
        }
    }
}

/// As it stands before a port.
fn address(ip: IpAddr) -> String {
    at(ip, 0).to_string().trim_end_matches('0').to_owned()
}

#[test]
fn without_a_sidecar_the_application_is_not_reached_past_it() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in BACKENDS {
        let (a, b) = (network.host("a"), network.host("b"));
        let _app = OriginalDestinations::of(&b).everywhere("app", 8080);
        b.must_redirect(&format!("apply --tproxy --mode off --backend {backend}"));
        let arrival = a.arrives(at(b.v4(), 8080));
        match backend {
            "nft" => assert_eq!(arrival, Arrival::Refused),
            // Iptables can only be silent there.
            _ => assert!(matches!(arrival, Arrival::Failed(_)), "{arrival:?}"),
        }
    }
}
