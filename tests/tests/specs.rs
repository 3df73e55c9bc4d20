//! What the product promises, shown on real processes. Each module is one promise.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::large_futures,
    reason = "a test fails by panicking, and its reader is at a terminal"
)]

mod specs {
    mod agent;
    mod authorization;
    mod certificates;
    mod chain;
    mod connection_limits;
    mod connections;
    mod control_plane_outage;
    mod demo;
    mod dns;
    mod exact_limits;
    mod explanations;
    mod ext_authz;
    mod failures;
    mod floods;
    mod foreign_filters;
    mod foreign_server;
    mod fuzz_http;
    mod identity;
    mod istio_documents;
    mod keep_alive;
    mod lifecycle;
    mod malformed_http1;
    mod malformed_http2;
    mod membership;
    mod on_demand;
    mod protocols;
    mod proxy_protocol;
    mod refused_documents;
    mod service_limits;
    mod spire;
    mod swaps;
    mod threats_certificates;
    mod threats_credentials;
    mod threats_paths;
    mod threats_requests;
    mod threats_tls;
    mod tokens;
    mod tracing;
    mod tunnels;
}
