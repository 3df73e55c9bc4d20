//! Servers that are asked: what AuthorizationPolicies with action CUSTOM ask of one workload's inbound side.
//!
//! `parse` knows no provider yet, so nothing asks for it.

use outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::authz::Workload;

/// For each provider, who is to be asked about and the question; behind tokens, before all other rules.
pub(super) fn filters(_workload: &Workload<'_>) -> Vec<HttpFilter> {
    Vec::new()
}
