//! Limits that hold for all sidecars together: leases their shares.
//!
//! ```text
//! Lease stream ─► server (who, which limits does its node see) ─► allocate (state machine) ─► grants
//!                                                                   pool (one limit) ─ division (arithmetic)
//! ```
//! `allocate`, `pool` and `division` know no socket and no clock. What a node may lease is read off the very clusters
//! that it is sent.

pub(crate) mod allocate;
mod division;
pub(crate) mod metrics;
mod pool;
pub(crate) mod server;
mod visible;
