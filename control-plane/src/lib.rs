//! The control plane: accepts policy and registrations, issues identities, and tells every sidecar by xDS v3
//! what it has to know.
//!
//! A policy's way: `admin` → `store` → `registry` → `world` → `translate` → `push` → `xds` → `status`;
//! beside it `ca`. Traffic goes on while it is down.

mod ca;
mod caller;
mod clients;
mod config;
mod metrics;
mod refusal;
mod registry;
mod spiffe;
mod store;
mod world;

pub use config::Config;
