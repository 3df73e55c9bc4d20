//! A worker's TLS configuration for its listeners, made once for each identity.

use std::{cell::RefCell, sync::Arc};

use rustls::ServerConfig;

use super::Refusal;
use crate::shared::Identity;

/// Configurations of the identity of now.
#[derive(Debug, Default)]
pub(crate) struct ServerTls(RefCell<Vec<Cached>>);

#[derive(Debug)]
struct Cached {
    generation: u64,
    alpn: Vec<String>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// The configuration for listeners with this `alpn`.
    pub(crate) fn config(
        &self,
        identity: &Identity,
        alpn: &[String],
    ) -> Result<Arc<ServerConfig>, Refusal> {
        let mut cached = self.0.borrow_mut();
        cached.retain(|one| one.generation == identity.generation);
        if let Some(known) = cached.iter().find(|one| one.alpn == alpn) {
            return Ok(Arc::clone(&known.config));
        }
        let config = super::server_config(identity, alpn)
            .map_err(|error| Refusal::Protocol(error.to_string()))?;
        cached.push(Cached {
            generation: identity.generation,
            alpn: alpn.to_vec(),
            config: Arc::clone(&config),
        });
        Ok(config)
    }
}
