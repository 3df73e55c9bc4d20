//! What TLS a connection begins with, made once for each policy of a cluster and each change of what it is made of.

use std::sync::Arc;

use outrigger_core::{Cluster, Endpoint, UpstreamTls};
use rustls::ClientConfig;

use super::{ClusterPool, Protocol};
use crate::{
    shared::Shared,
    tls::{self, Refusal},
    xds::convert::tls::ISTIO,
};

/// Configurations under one identity, or one reading of files.
#[derive(Debug)]
pub(super) struct ClientTls {
    generation: u64,
    policy: UpstreamTls,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    other: Arc<ClientConfig>,
}

/// What one connection begins with.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) config: Arc<ClientConfig>,
    /// Of our identity; None = the mesh's is not shown.
    pub(super) generation: Option<u64>,
    /// Unix seconds at which what we show ends.
    pub(super) expires: u64,
}

impl ClusterPool {
    /// For a connection to `endpoint`; None = plain text. No protocol = bytes.
    pub(super) fn client_tls(
        &self,
        shared: &Shared,
        cluster: &Cluster,
        endpoint: &Endpoint,
        protocol: Option<Protocol>,
    ) -> Result<Option<Chosen>, Refusal> {
        let policy = cluster.config.tls.as_ref().filter(|_| endpoint.config.mtls);
        let Some(policy) = policy else {
            return Ok(None);
        };
        if let Some(outside) = &policy.outside {
            let material = shared.tls_files.material(outside);
            let material = material.map_err(|why| Refusal::Files((*why).to_owned()))?;
            self.files.set(Some(material.generation));
            let config = self.config(policy, material.generation, protocol, |alpn| {
                tls::outside::client_config(policy, &material, alpn)
            })?;
            return Ok(Some(Chosen {
                config,
                generation: None,
                expires: u64::MAX,
            }));
        }
        let identity = shared.identity.load_full().ok_or(Refusal::NoIdentity)?;
        let config = self.config(policy, identity.generation, protocol, |alpn| {
            tls::client_config(&identity, &policy.subject_alt_names, alpn)
        })?;
        Ok(Some(Chosen {
            config,
            generation: Some(identity.generation),
            expires: identity.not_after,
        }))
    }

    fn config(
        &self,
        policy: &UpstreamTls,
        generation: u64,
        protocol: Option<Protocol>,
        make: impl Fn(&[&[u8]]) -> Result<Arc<ClientConfig>, rustls::Error>,
    ) -> Result<Arc<ClientConfig>, Refusal> {
        let mut cached = self.tls.borrow_mut();
        let fits = |tls: &ClientTls| tls.generation == generation && tls.policy == *policy;
        if !cached.as_ref().is_some_and(fits) {
            let make =
                |alpn: &[&[u8]]| make(alpn).map_err(|error| Refusal::Protocol(error.to_string()));
            let mut other: Vec<&[u8]> = policy.alpn.iter().map(String::as_bytes).collect();
            if other.is_empty() && policy.outside.is_none() {
                // Of a port of any protocol: a sidecar is told that this is none of HTTP's.
                other.push(ISTIO.as_bytes());
            }
            *cached = Some(ClientTls {
                generation,
                http1: make(&[tls::ALPN_HTTP1])?,
                http2: make(&[tls::ALPN_H2])?,
                other: make(&other)?,
                policy: policy.clone(),
            });
        }
        let tls = cached.as_ref().ok_or(Refusal::NoIdentity)?;
        Ok(Arc::clone(match protocol {
            Some(Protocol::Http1) => &tls.http1,
            Some(Protocol::Http2) => &tls.http2,
            None => &tls.other,
        }))
    }
}
