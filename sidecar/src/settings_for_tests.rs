//! Settings for tests: everything on loopback and on free ports.

use std::{collections::BTreeMap, time::Duration};

use crate::{App, Config, Readiness, Workload};

pub(crate) fn config() -> Config {
    let free = "127.0.0.1:0".parse().unwrap();
    Config {
        control_plane: "http://127.0.0.1:1".to_owned(),
        bootstrap: None,
        xds_protocol: None,
        discovery: None,
        join_token: None,
        token_file: None,
        spiffe_endpoint: None,
        root_ca: None,
        workload: Workload {
            service: "reviews".to_owned(),
            namespace: "default".to_owned(),
            service_account: "reviews".to_owned(),
            labels: BTreeMap::from([("version".to_owned(), "v1".to_owned())]),
            locality: [String::new(), "a".to_owned(), String::new()],
            weight: 1,
        },
        app: None,
        advertise_address: None,
        outbound: free,
        inbound: free,
        capture: crate::Capture::default(),
        admin: free,
        admin_users: Vec::new(),
        metrics: free,
        readiness: free,
        dns: None,
        tls_files: Vec::new(),
        workers: 1,
        otlp_endpoint: None,
        trace_sampling: 1.0,
        certificate_ttl: Duration::from_secs(3600),
        lease_ttl: Duration::from_secs(30),
        heartbeat_interval: Duration::from_secs(10),
        policy_header: crate::PolicyHeader::Mesh,
        drain_time: Duration::from_secs(1),
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(1),
        limits: crate::Limits::default(),
    }
}

pub(crate) fn app() -> App {
    App {
        address: "127.0.0.1:9080".parse().unwrap(),
        port: 9080,
        protocol: "http".to_owned(),
        proxy_protocol: None,
        readiness: Readiness {
            http_path: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        },
    }
}
