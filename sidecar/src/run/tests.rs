use std::net::TcpListener;

use super::{check::check, *};
use crate::settings_for_tests::{app, config};

fn refusal(change: impl FnOnce(&mut Config)) -> String {
    let mut config = config();
    config.app = Some(app());
    change(&mut config);
    check(&config).map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
}

#[test]
fn settings_that_cannot_be_are_refused_by_their_flag() {
    type Change = fn(&mut Config);
    let table: [(Change, &str); 12] = [
        (
            |c| c.tls_files = vec!["certs".into()],
            "--tls-files certs: must be an absolute path",
        ),
        (|_| (), "accepted"),
        (
            |c| c.outbound = "0.0.0.0:15080".parse().unwrap(),
            "--outbound 0.0.0.0:15080: must be a loopback address",
        ),
        (
            |c| c.admin = "10.0.0.1:0".parse().unwrap(),
            "--admin 10.0.0.1:0: must be a loopback address",
        ),
        (
            |c| c.certificate_ttl = Duration::from_secs(90_000),
            "--certificate-ttl 90000s: at most 24 h",
        ),
        (
            |c| c.heartbeat_interval = c.lease_ttl,
            "--heartbeat-interval 30s: must be shorter than --lease-ttl",
        ),
        (|c| c.workload.weight = 0, "--weight 0: must be 1 or more"),
        (
            |c| c.workload.service = "a b".to_owned(),
            "--service \"a b\": must be a name",
        ),
        (
            |c| c.app.as_mut().unwrap().port = 0,
            "--port 0: must be 1 to 65535",
        ),
        (
            |c| c.app.as_mut().unwrap().protocol = "udp".to_owned(),
            "--protocol \"udp\": must be http, http2, grpc, tcp or auto",
        ),
        (
            |c| {
                let app = c.app.as_mut().unwrap();
                app.protocol = "tcp".to_owned();
                app.readiness.http_path = Some("/health".to_owned());
            },
            "--ready-path /health: an application of protocol tcp answers no HTTP",
        ),
        (
            |c| c.app.as_mut().unwrap().readiness.http_path = Some("health".to_owned()),
            "--ready-path health: must start with '/'",
        ),
    ];
    for (change, expected) in table {
        let found = refusal(change);
        assert!(
            found.starts_with(expected),
            "expected {expected:?}, found {found:?}"
        );
    }
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.metrics = taken.local_addr().unwrap();
    let error = Sockets::bind(&config, false).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot listen on {} (--metrics); is it taken? Port 0 picks a free one",
            config.metrics
        )
    );
}

#[test]
fn plain_text_to_another_machine_is_refused() {
    let of = |url: &str| {
        let config = Config {
            control_plane: url.to_owned(),
            ..config()
        };
        Control::new(&config, Shared::new(Allowed::default()))
            .map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
    };
    assert_eq!(of("http://127.0.0.1:15010"), "accepted");
    assert_eq!(of("http://[::1]:15010"), "accepted");
    assert!(of("http://10.0.0.1:15010").contains("plain text is for loopback addresses only"));
    assert!(of("ftp://127.0.0.1").contains("is not a URL"));
    assert!(of("https://127.0.0.1:15012").contains("a join token is needed"));
}

#[test]
fn a_join_token_must_pin_the_root() {
    let of = |token: &str| {
        let config = Config {
            control_plane: "https://127.0.0.1:15012".to_owned(),
            join_token: Some(token.to_owned()),
            ..config()
        };
        Control::new(&config, Shared::new(Allowed::default())).is_ok()
    };
    assert!(of(&format!("secret.{}", "ab".repeat(32))));
    assert!(!of("secret"));
    assert!(!of("secret.abcd"));
    assert!(!of(&format!("secret.{}", "zz".repeat(32))));
}

#[test]
fn the_ready_line_tells_every_port() {
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let addresses = Addresses {
        outbound: at(1),
        inbound: None,
        captured: None,
        ipv6: false,
        admin: at(2),
        metrics: at(3),
        readiness: at(4),
        dns: Some(at(5)),
    };
    let line = addresses.ready(&[("127.0.0.1_9080".to_owned(), at(9080))]);
    assert_eq!(
        line.to_string(),
        r#"{"admin":"127.0.0.1:2","dns":"127.0.0.1:5","inbound":null,"listeners":{"127.0.0.1_9080":"127.0.0.1:9080"},"metrics":"127.0.0.1:3","outbound":"127.0.0.1:1","readiness":"127.0.0.1:4"}"#
    );
}
