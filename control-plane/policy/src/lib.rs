//! Istio's policy documents: YAML in, one consistent [`Mesh`] or precise refusals out.
//!
//! ```text
//! YAML text ──parse──► Object (typed, every value with its Position) ──┐
//! YAML text ──parse──► Object ─────────────────────────────────────────┼─ Mesh::build ──► Mesh
//! stored objects ──────────────────────────────────────────────────────┘        └──► Diagnostics
//! ```
//! Pure: no file, clock, network or environment. A setting is effective, or refused with its
//! position and the words "not supported yet"; nothing is dropped.

mod analyze;
mod code;
mod decode;
mod diagnostic;
mod mesh;
mod object;
mod parse;
#[cfg(test)]
mod random;
mod report;
mod spec;
mod suggest;
mod yaml;

pub use analyze::{
    Analysis, ClientFacts, Effect, Effective, EndpointFacts, Inventory, ServiceFacts, analyze,
    effects,
};
pub use code::{Code, Example, Story, UnknownCode};
pub use diagnostic::{Diagnostic, Position, Severity};
pub use mesh::{
    Client, HostName, MergedDestinationRule, MergedVirtualService, Mesh, MeshInput,
    NamespacePolicies, NamespaceRules, PeerMode, WorkloadView,
};
pub use object::{Kind, Object, ObjectKey};
pub use parse::{ParseLimits, parse, parse_again, parse_bytes};
pub use spec::*;
