//! This sidecar's shares of limits that hold for all sidecars together.
//!
//! ```text
//! snapshot ─► holder (state machine) ─► gauges of core: what this proxy may have now
//!               ▲ │ uses, grants
//!           client (stream to the control plane)          worker gates: told when a limit rises or falls
//! ```
//! On the control runtime; a request sees nothing of it but the gauge.

pub(crate) mod client;
pub(crate) mod holder;
mod metrics;
