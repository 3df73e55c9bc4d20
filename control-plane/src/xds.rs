//! The xDS server: one pure state machine a stream ([`stream`]), two views of it ([`delta`], [`sotw`]), and
//! the tonic streams and services that carry them ([`server`]).
//! Rules: the xDS protocol text, and what real clients do where it is silent.

pub(crate) mod claim;
pub(crate) mod delta;
pub(crate) mod holdings;
pub(crate) mod metrics;
pub(crate) mod server;
mod services;
pub(crate) mod sets;
pub(crate) mod sotw;
pub(crate) mod stream;
pub(crate) mod subscription;
mod together;

#[cfg(test)]
mod strangers;
#[cfg(test)]
mod testing;
