//! The control plane: accepts policy and registrations, issues identities, and tells every sidecar by xDS v3
//! what it has to know.
//!
//! A policy's way: `admin` → `store` → `registry` → `world` → `translate` → `push` → `xds` → `status`;
//! beside it `ca`. Traffic goes on while it is down.

mod admin;
mod ca;
mod caller;
mod clients;
mod config;
mod fetch;
mod interests;
mod life;
mod loads;
mod metrics;
mod policies;
mod publish;
mod push;
mod quota;
mod refusal;
mod registry;
mod run;
mod server;
mod snapshot;
mod sorted;
mod spiffe;
mod store;
#[cfg(test)]
mod strangers;
mod translate;
mod vips;
mod world;
mod xds;

pub use config::{
    Config, Hidden, Kubernetes, KubernetesCheck, OutboundTrafficPolicy, PathNormalization,
    RootEncryption, Subnet, VipPools,
};
pub use life::{Life, LifeListener, set_life_listener};
pub use run::{ControlPlane, Ready, RunError, run};
