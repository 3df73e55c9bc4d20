//! What documents ask of one workload's inbound side: the one place that lists its filters, in their order.
//!
//! ```text
//! jwt_authn ─► for each provider: rbac.custom, ext_authz ─► rbac.audit ─► rbac.deny ─► rbac.allow ─► router
//! (authn)      (ext_authz)                                  (rbac)
//! ```
//! A filter is there only if a document asks for it. Of connections without HTTP there are the last three, as network
//! filters. Each rule is a policy of its own, `ns[<namespace>]-policy[<name>]-rule[<index>]` (Istio's names); where it
//! stands is in the filter chain's metadata, so that whoever refuses something can name the line.

mod rbac;
mod rule;
mod term;

pub(super) use rbac::{policies, rule_name};
pub(super) use rule::Of;

use std::{collections::BTreeMap, sync::Arc};

use outrigger_policy::{
    Attribute, AuthorizationRule, Mesh, MtlsMode, ObjectKey, PeerMode, Position, WorkloadView,
};
use outrigger_proto::envoy::{
    config::{core::v3::Metadata, listener::v3::Filter},
    extensions::filters::network::http_connection_manager::v3::HttpFilter,
};
use prost_types::Struct;

use super::{
    any::{OUTRIGGER, metadata, nested, object, text},
    authn, ext_authz,
    node::NodeInfo,
};
use crate::{config::PathNormalization, world::World};

/// Whose inbound side it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) trust_domain: &'a str,
    pub(super) namespace: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
    /// That it is registered with.
    pub(super) port: u16,
    /// Any other, which is not known before there is a connection.
    pub(super) elsewhere: bool,
    normalization: PathNormalization,
}

impl<'a> Workload<'a> {
    /// The workload behind `node`; None if nobody can call it.
    pub(super) fn of(world: &'a World, node: &'a NodeInfo) -> Option<Self> {
        let inbound = node.inbound.as_ref()?;
        Some(Self {
            mesh: &world.mesh,
            trust_domain: &world.trust_domain,
            normalization: world.path_normalization,
            namespace: &node.namespace,
            labels: &node.labels,
            port: inbound.port,
            elsewhere: false,
        })
    }

    /// The same workload as another port of it is.
    pub(super) const fn at(&self, port: u16) -> Self {
        Self { port, ..*self }
    }

    /// The same as ports of it are that nobody speaks of.
    pub(super) const fn anywhere(&self) -> Self {
        Self {
            port: 0,
            elsewhere: true,
            ..*self
        }
    }

    /// As the policy crate wants it.
    pub(super) const fn view(&self) -> WorkloadView<'a> {
        WorkloadView {
            namespace: self.namespace,
            labels: self.labels,
        }
    }

    /// What becomes of paths; never [`PathNormalization::Auto`].
    pub(super) fn normalization(&self) -> PathNormalization {
        let looks_at_paths = || {
            let mut documents = self.mesh.authorization_policies(self.view());
            documents.any(|(_, spec)| {
                let mut clauses = spec.rules.iter().flat_map(AuthorizationRule::clauses);
                clauses.any(|clause| clause.attribute == Attribute::Path)
            })
        };
        match self.normalization {
            PathNormalization::Auto if looks_at_paths() => PathNormalization::MergeSlashes,
            PathNormalization::Auto => PathNormalization::Base,
            said => said,
        }
    }

    /// How connections have to be.
    pub(super) fn mode(&self) -> PeerMode<'a> {
        self.mesh.peer_mode(self.view(), self.port)
    }

    /// What a dry run would make of that, if anything else.
    fn tried_mode(&self) -> Option<(MtlsMode, &'a Position)> {
        let tried = self.mesh.peer_mode_of_dry_runs(self.view(), self.port);
        let (document, position) = tried.decided?;
        (document.is_dry_run() && tried.mode != self.mode().mode).then_some((tried.mode, position))
    }
}

/// All but the router.
pub(super) fn http_filters(workload: &Workload<'_>) -> Vec<HttpFilter> {
    let mut filters = authn::filters(workload);
    filters.extend(ext_authz::filters(workload));
    filters.extend(rbac::http(workload));
    filters
}

/// All but the TCP proxy.
pub(super) fn network_filters(workload: &Workload<'_>) -> Vec<Filter> {
    let mut filters = ext_authz::network_filters(workload);
    filters.extend(rbac::network(workload));
    filters
}

/// Of each filter chain: where the rules stand.
pub(super) fn chain_metadata(workload: &Workload<'_>) -> Option<Metadata> {
    let mut positions = rbac::positions(workload);
    positions.extend(ext_authz::positions(workload));
    positions.extend(authn::positions(workload));
    let positions: Vec<_> = positions
        .iter()
        .map(|(name, position)| (name.as_str(), text(position.to_string())))
        .collect();
    if positions.is_empty() {
        return None;
    }
    let policies = nested(object(positions));
    Some(metadata([(OUTRIGGER, object([("policies", policies)]))]))
}

/// Of the listener: which mode is in force and why, and which one is tried.
pub(super) fn listener_metadata(workload: &Workload<'_>) -> Option<Metadata> {
    let mode = workload.mode();
    let said = mode.decided.map(|(document, position)| {
        let fields = said(mode.mode, position, &document.key);
        ("mtls", nested(fields))
    });
    let tried = workload.tried_mode().map(|(mode, position)| {
        let fields = [
            ("mtls", text(mode.as_str())),
            ("position", text(position.to_string())),
        ];
        ("dry_run", nested(object(fields)))
    });
    let fields: Vec<_> = said.into_iter().chain(tried).collect();
    (!fields.is_empty()).then(|| metadata([(OUTRIGGER, object(fields))]))
}

fn said(mode: MtlsMode, position: &Position, document: &ObjectKey) -> Struct {
    object([
        ("mode", text(mode.as_str())),
        ("position", text(position.to_string())),
        ("document", text(document.to_string())),
    ])
}

/// What a gRPC server without a proxy does not do: it has no access rules, and its bootstrap file says whether it
/// takes plain text. By document.
pub(super) fn unenforced(mesh: &Mesh, node: &NodeInfo, mtls: bool) -> Vec<(Arc<str>, String)> {
    let view = WorkloadView {
        namespace: &node.namespace,
        labels: &node.labels,
    };
    let rules = mesh.authorization_policies(view).map(|(document, spec)| {
        let note = format!(
            "{}: not enforced: a gRPC server without a proxy takes calls whatever this {} policy says; put a sidecar before it",
            document.position,
            spec.action.as_str()
        );
        (document.key.to_string().into(), note)
    });
    let mode = mesh.peer_mode(
        view,
        node.inbound.as_ref().map_or(0, |inbound| inbound.port),
    );
    let wanted = mode
        .decided
        .filter(|_| (mode.mode == MtlsMode::Strict) != mtls);
    let mode = wanted.map(|(document, position)| {
        let takes = if mtls { "mutual TLS alone" } else { "plain text" };
        let note = format!(
            "{position}: not enforced: {} is asked for, and by its bootstrap file this gRPC server takes {takes}",
            mode.mode
        );
        (document.key.to_string().into(), note)
    });
    rules.chain(mode).collect()
}
