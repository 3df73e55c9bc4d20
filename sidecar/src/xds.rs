//! The xDS client: one ADS stream to a management server, ours or another, delta or State of the World, and what its
//! answers mean.
//!
//! ```text
//! client (stream, backoff) ──answer──► engine (validate, ACK or NACK, subscriptions) ──► mesh (warming) ──► Snapshot
//!        ◄──requests, deadline──────────┘          └─► state (what was asked for, accepted, refused)
//! ```
//! `sotw` stands between the stream and the engine where the server speaks that form. `engine`, `mesh`, `dns`, `sotw` and `state` know no socket, and time only as an argument.
//! Source: the xDS protocol, gRFC A40, A46, A57.

pub(crate) mod asked;
pub(crate) mod client;
pub(crate) mod convert;
mod dns;
pub(crate) mod engine;
mod mesh;
pub(crate) mod node;
mod sotw;
pub(crate) mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
