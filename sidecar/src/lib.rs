//! The data plane beside one application.
//!
//! A request's way: `listen` → `detect` → `tls` → `inbound` | `outbound` (core::route, core::cluster) → `pool` →
//! `connect` → `http`. Beside it `xds`, `identity`, `register`, `drain`, `admin`, `telemetry`.

mod config;
mod shared;
mod telemetry;
mod worker;

pub use config::{App, Config, Readiness, Workload};
