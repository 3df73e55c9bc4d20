//! Foreign programs beside ours, driven by our control plane: stock Envoy as a judge of what a document means, and
//! gRPC without a proxy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::large_futures,
    reason = "a test fails by panicking, and its reader is at a terminal"
)]

mod system {
    mod agent;
    mod arrivals;
    mod authorization;
    mod behaviours;
    mod case;
    mod cases;
    mod connections;
    mod differential;
    mod envoy;
    mod envoy_mtls;
    mod ext_authz;
    mod grpc;
    mod observed;
    mod tokens;
}
