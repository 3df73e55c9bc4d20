//! Tokens of requests: what RequestAuthentication documents ask of one workload's inbound side.
//!
//! Before everything that looks at what a token says. Nothing asks for it yet.

use outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::authz::Workload;

/// The filters that verify tokens, first of all.
pub(super) fn filters(_workload: &Workload<'_>) -> Vec<HttpFilter> {
    Vec::new()
}
