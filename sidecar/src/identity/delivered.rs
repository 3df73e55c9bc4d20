//! An identity that somebody else's agent delivers: key and chain as the secret `default`, roots as `ROOTCA`, by SDS over
//! the Unix socket of a bootstrap file's cluster `sds-grpc` (as Istio's agent serves its proxy).
//!
//! ```text
//! stream of default ─┐
//! stream of ROOTCA ──┴─► both there, and they fit ─► in force; again with each that is new
//! ```
//! A stream for each, as Envoy has them. What cannot be used is refused with its reason, and what is in force stays.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use outrigger_proto::envoy::{
    config::core::v3::Node,
    extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret},
    service::{
        discovery::v3::{DiscoveryRequest, DiscoveryResponse},
        secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
};
use prost::Message as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    net::UnixStream,
    sync::{Mutex, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{
    IdentityStore, chain, checked,
    secrets::{SECRET, reply},
    unix_now,
};
use crate::{
    backoff::Backoff,
    tls::svid,
    vitals::Vitals,
    xds::convert::tls::{self, BUNDLE, CERTIFICATE},
};

const CONNECT: Duration = Duration::from_secs(5);

/// Follows both secrets.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) socket: PathBuf,
    pub(crate) node: Node,
    pub(crate) store: Arc<IdentityStore>,
    pub(crate) vitals: Arc<Vitals>,
}

/// What has come so far.
#[derive(Default)]
struct Parts {
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    roots: Option<Vec<CertificateDer<'static>>>,
}

impl Delivered {
    /// For ever.
    pub(crate) async fn follow(self) {
        let parts = Mutex::default();
        tokio::join!(
            self.secret(CERTIFICATE, &parts),
            self.secret(BUNDLE, &parts)
        );
    }

    async fn secret(&self, name: &'static str, parts: &Mutex<Parts>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut said = String::new();
        loop {
            let error = match self.stream(name, parts, &mut backoff).await {
                Ok(()) => "the stream ended".to_owned(),
                Err(error) => error,
            };
            self.vitals.count_renewal_failure();
            if error != said {
                tracing::warn!(secret = name, socket = %self.socket.display(), error, "a secret does not come at the moment");
                said = error;
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn stream(
        &self,
        name: &'static str,
        parts: &Mutex<Parts>,
        backoff: &mut Backoff,
    ) -> Result<(), String> {
        let channel = self.connect().await.map_err(|error| chain(&error))?;
        let (requests, receiver) = mpsc::channel(2);
        let first = DiscoveryRequest {
            node: Some(self.node.clone()),
            resource_names: vec![name.to_owned()],
            type_url: SECRET.to_owned(),
            ..DiscoveryRequest::default()
        };
        // The queue is empty.
        drop(requests.send(first).await);
        let mut client = SecretDiscoveryServiceClient::new(channel);
        let answers = client.stream_secrets(ReceiverStream::new(receiver)).await;
        let mut answers = answers.map_err(|status| chain(&status))?.into_inner();
        while let Some(answer) = answers.message().await.map_err(|status| chain(&status))? {
            let result = self.take(name, &answer, &mut *parts.lock().await);
            if let Err(error) = &result {
                tracing::warn!(secret = name, error, "a secret was refused");
            } else {
                backoff.reset();
            }
            let reply = reply(name, answer, result);
            if requests.send(reply).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_uri: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT)
            .connect_with_connector(connect)
            .await
    }

    fn take(
        &self,
        name: &str,
        answer: &DiscoveryResponse,
        parts: &mut Parts,
    ) -> Result<(), String> {
        for any in &answer.resources {
            let secret = Secret::decode(any.value.as_slice()).map_err(|error| error.to_string())?;
            if secret.name != name {
                continue;
            }
            let mut next = Parts {
                own: parts
                    .own
                    .as_ref()
                    .map(|(chain, key)| (chain.clone(), key.clone_key())),
                roots: parts.roots.clone(),
            };
            match &secret.r#type {
                Some(secret::Type::TlsCertificate(own)) if name == CERTIFICATE => {
                    next.own = Some(pair(own)?);
                }
                _ if name == BUNDLE => {
                    let roots = tls::bundle(&secret).map_err(|error| error.to_string())?;
                    next.roots = Some(roots);
                }
                _ => return Err(format!("Secret {name:?}: has no tls_certificate")),
            }
            self.put(&next)?;
            *parts = next;
        }
        Ok(())
    }

    /// Nothing happens before both are there.
    fn put(&self, parts: &Parts) -> Result<(), String> {
        let (Some((chain, key)), Some(roots)) = (&parts.own, &parts.roots) else {
            return Ok(());
        };
        let leaf = chain
            .first()
            .ok_or("tls_certificate.certificate_chain: is empty")?;
        let id = svid::reread(leaf).map_err(|error| error.to_string())?.id;
        let (domain, _) = svid::parse_id(&id).map_err(str::to_owned)?;
        let svid = svid::check_leaf(leaf, domain).map_err(|error| error.to_string())?;
        let issued = checked(chain.clone(), roots.clone(), key, &id, svid.not_after);
        self.store
            .install(issued.map_err(|error| error.to_string())?);
        let lifetime = svid.not_after.saturating_sub(unix_now());
        tracing::info!(%id, lifetime_s = lifetime, "certificate delivered");
        self.vitals
            .set_certificate(svid.not_after, svid.not_after - lifetime / 5);
        self.vitals.count_renewal();
        Ok(())
    }
}

/// Chain and key, inline: a server names no files of this machine.
fn pair(
    from: &TlsCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let known = TlsCertificate {
        certificate_chain: from.certificate_chain.clone(),
        private_key: from.private_key.clone(),
        ..TlsCertificate::default()
    };
    if *from != known {
        return Err("tls_certificate: has more than certificate_chain and private_key, which is not supported yet".to_owned());
    }
    let inline = |path: &str, source| -> Result<Vec<u8>, String> {
        tls::inline(path, source)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("{path}: missing"))
    };
    let path = "tls_certificate.certificate_chain";
    let pem = inline(path, from.certificate_chain.as_ref())?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| format!("{path}: is not PEM: {error}"))?;
    let path = "tls_certificate.private_key";
    let pem = inline(path, from.private_key.as_ref())?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| format!("{path}: is not a key in PEM: {error}"))?;
    Ok((chain, key))
}
