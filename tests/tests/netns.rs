//! Hosts with addresses of their own, in network namespaces: rules of the kernel, and programs that know nothing of a mesh.
//! Needs root: `sudo -E cargo test -p outrigger-tests --test netns`, or `.ci/run netns`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test fails by panicking, and its reader is at a terminal"
)]

mod netns {
    mod dns_rules;
    mod operator;
    mod rules;
    mod tproxy_rules;
    mod transparent;
}
