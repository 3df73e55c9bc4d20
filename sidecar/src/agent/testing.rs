//! Settings for tests: everything on loopback and on free ports.

use std::path::PathBuf;

use super::AgentConfig;
use crate::{App, settings_for_tests};

pub(super) fn config() -> AgentConfig {
    let free = "127.0.0.1:0".parse().unwrap();
    let sidecar = settings_for_tests::config();
    let mut workload = sidecar.workload;
    workload.locality = ["r".to_owned(), "a".to_owned(), String::new()];
    AgentConfig {
        control_plane: "https://127.0.0.1:1".to_owned(),
        join_token: None,
        token_file: None,
        spiffe_endpoint: None,
        root_ca: None,
        workload,
        app: Some(App {
            address: "127.0.0.1:50051".parse().unwrap(),
            port: 50051,
            protocol: "grpc".to_owned(),
            proxy_protocol: None,
            readiness: settings_for_tests::app().readiness,
        }),
        advertise_address: None,
        mtls: true,
        dir: PathBuf::from("unused"),
        admin: free,
        metrics: free,
        readiness: free,
        xds_relay: None,
        envoy: None,
        certificate_ttl: sidecar.certificate_ttl,
        lease_ttl: sidecar.lease_ttl,
        heartbeat_interval: sidecar.heartbeat_interval,
        drain_timeout: sidecar.drain_timeout,
        command: Vec::new(),
    }
}
