//! The xDS client: one delta ADS stream to the control plane, and what its answers mean.
//!
//! ```text
//! client (stream, backoff) ──answer──► engine (validate, ACK or NACK, subscriptions) ──► mesh (warming) ──► Snapshot
//!        ◄──requests, deadline──────────┘          └─► state (what was asked for, accepted, refused)
//! ```
//! `engine`, `mesh` and `state` know no socket, and time only as an argument.
//! Source: the xDS protocol, gRFC A40, A46, A57.

pub(crate) mod client;
pub(crate) mod convert;
pub(crate) mod engine;
mod mesh;
pub(crate) mod node;
pub(crate) mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
