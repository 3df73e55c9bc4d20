//! The data plane beside one application.
//!
//! A request's way: `listen` → `worker` → `detect` and `tls` → `forward` (`http` checks, core::route, core::cluster;
//! `inbound` for what is particular to it) → `pool` → `connect`, and back. Beside it `xds`, `identity`, `register`,
//! `admin`, `telemetry`. For an application without a sidecar: `agent`.

mod admin;
mod agent;
mod backoff;
mod bootstrap;
mod capture;
mod command;
mod config;
mod connect;
mod control;
mod demand;
mod detect;
mod dns;
pub mod explain;
mod forward;
mod hello;
mod http;
mod identity;
mod inbound;
mod jwks;
mod life;
mod listen;
mod pool;
mod proxy_protocol;
mod quota;
mod readiness;
mod register;
mod run;
#[cfg(test)]
mod settings_for_tests;
mod shared;
mod tcp;
mod telemetry;
#[cfg(test)]
mod testing;
mod tls;
mod vitals;
mod worker;
mod xds;

pub use admin::{LogControl, set_log_control};
pub use agent::{AgentConfig, AgentError, EnvoyListeners, FilesError, run as run_agent};
pub use bootstrap::{Bootstrap, BootstrapError};
pub use command::CommandError;
pub use config::{
    App, Capture, CaptureCheck, CaptureMode, Config, Discovery, Dns, Limits, PolicyHeader,
    Readiness, Workload, XdsProtocol,
};
pub use control::ControlPlaneError;
pub use identity::workload_api::spiffe_endpoint;
pub use life::{Life, LifeListener, set_life_listener};
pub use outrigger_core::ProxyVersion;
pub use run::{Launch, ProxyEnv, RunError, run, run_with};
