//! The mesh's roots, as soon as they change: an agent asks for nothing else over xDS. So it knows a new root before the
//! first certificate that leads to it, and the control plane knows that it does.
//!
//! Source: the xDS protocol, State of the World; `docs/WIRE.md`, SDS.

use std::{net::IpAddr, sync::Arc, time::Duration};

use outrigger_proto::envoy::{
    config::core::v3::Node,
    extensions::transport_sockets::tls::v3::Secret,
    service::{
        discovery::v3::{DiscoveryRequest, DiscoveryResponse},
        secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
};
use prost::Message as _;
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::files::CertificateFiles;
use crate::{
    Workload,
    backoff::Backoff,
    control::Control,
    identity::{
        IdentityStore, chain,
        secrets::{SECRET, reply},
    },
    xds::{
        convert::tls::{self, BUNDLE},
        node::{self, short_name},
    },
};

/// What the control plane calls us.
const AGENT: &str = "outrigger-agent";

/// Follows the trust bundle.
pub(super) struct Roots {
    pub(super) control: Arc<Control>,
    pub(super) store: Arc<IdentityStore>,
    pub(super) files: Arc<CertificateFiles>,
    pub(super) node: Node,
}

impl Roots {
    /// For ever.
    pub(super) async fn follow(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut said = false;
        loop {
            match self.stream(&mut backoff).await {
                Ok(()) => {}
                Err(status) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(error = %chain(&status), "the mesh's roots are not followed at the moment");
                    }
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn stream(&self, backoff: &mut Backoff) -> Result<(), tonic::Status> {
        let (requests, receiver) = mpsc::channel(2);
        let first = DiscoveryRequest {
            node: Some(self.node.clone()),
            resource_names: vec![BUNDLE.to_owned()],
            type_url: SECRET.to_owned(),
            ..DiscoveryRequest::default()
        };
        // The queue is empty.
        drop(requests.send(first).await);
        let mut client = SecretDiscoveryServiceClient::new(self.control.channel());
        let responses = client.stream_secrets(ReceiverStream::new(receiver)).await?;
        let mut responses = responses.into_inner();
        let mut renewals = self.store.renewals();
        let mut known: Option<Vec<CertificateDer<'static>>> = None;
        loop {
            tokio::select! {
                response = responses.message() => {
                    let Some(response) = response? else {
                        return Ok(());
                    };
                    backoff.reset();
                    let result = self.take(&response, &mut known).await;
                    if let Err(error) = &result {
                        tracing::warn!(error, "the mesh's roots were not taken");
                    }
                    if requests.send(reply(BUNDLE, response, result)).await.is_err() {
                        return Ok(());
                    }
                }
                renewed = renewals.changed() => {
                    // A certificate comes with the roots of when it was asked for; these may be newer.
                    if let (Ok(()), Some(roots)) = (renewed, &known) {
                        drop(self.put(roots.clone()).await);
                    }
                }
            }
        }
    }

    async fn take(
        &self,
        response: &DiscoveryResponse,
        known: &mut Option<Vec<CertificateDer<'static>>>,
    ) -> Result<(), String> {
        for any in &response.resources {
            let secret = Secret::decode(any.value.as_slice()).map_err(|error| error.to_string())?;
            if secret.name != BUNDLE {
                continue;
            }
            let roots = tls::bundle(&secret).map_err(|error| error.to_string())?;
            self.put(roots.clone()).await?;
            *known = Some(roots);
        }
        Ok(())
    }

    /// Into the files first: what is acknowledged is in force.
    async fn put(&self, roots: Vec<CertificateDer<'static>>) -> Result<(), String> {
        let (files, written) = (Arc::clone(&self.files), roots.clone());
        tokio::task::spawn_blocking(move || files.write_roots(&written))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| chain(&error))?;
        self.store.set_bundle(roots);
        Ok(())
    }
}

/// Told apart from the application's own by the kind in the id.
pub(super) fn node(workload: &Workload, ip: IpAddr, port: u16) -> Node {
    let namespace = &workload.namespace;
    let (service, domain) = short_name(&workload.service, namespace);
    Node {
        id: format!("agent~{ip}~{service}-{port}.{namespace}~{namespace}.svc.{domain}"),
        cluster: format!("{service}.{namespace}"),
        metadata: Some(node::identity_metadata(workload)),
        user_agent_name: AGENT.to_owned(),
        ..Node::default()
    }
}
