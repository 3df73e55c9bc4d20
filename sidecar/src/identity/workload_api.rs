//! SPIRE, or whoever else serves SPIFFE's Workload API on this machine, as the authority: key, certificate and roots come
//! over a Unix socket, and again whenever they are renewed.
//!
//! ```text
//! FetchX509SVID ─► X.509-SVIDs ─► the one that is ours ─► checked as a peer would ─► in force
//!       └─ ended, refused, unusable: again, with backoff; what is in force serves to its end
//! ```
//! The stream is the only source of trust: a bundle of our control plane is not looked at. Bundles of federated trust
//! domains are not used; a peer of another trust domain is refused, as ever.
//! Source: SPIFFE Workload API, sections 4 to 5; SPIFFE Workload Endpoint, section 3.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use outrigger_proto::{
    X509svid, X509svidRequest, X509svidResponse,
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::UnixStream;
use tonic::{Request, metadata::MetadataValue, transport::Endpoint};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{IdentityStore, IssueError, Issued, chain, checked, key, unix_now};
use crate::{Workload, agent::files::Material, backoff::Backoff, tls::svid, vitals::Vitals};

/// Says that we mean this API: a web page cannot set it.
const HEADER: &str = "workload.spiffe.io";
const CONNECT: Duration = Duration::from_secs(5);
/// SPIRE's own limit of a message is 4 MiB.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Follows what the Workload API says of us.
#[derive(Debug)]
pub(crate) struct WorkloadApi {
    pub(crate) socket: PathBuf,
    pub(crate) store: Arc<IdentityStore>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) workload: Workload,
}

impl WorkloadApi {
    /// For ever.
    pub(crate) async fn follow(self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut said = String::new();
        loop {
            let error = match self.stream(&mut backoff, &mut said).await {
                Ok(()) => "the stream ended".to_owned(),
                Err(error) => chain(&error),
            };
            self.vitals.count_renewal_failure();
            if error != said {
                tracing::warn!(socket = %self.socket.display(), error, "the Workload API gives no certificate at the moment");
                said = error;
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn stream(&self, backoff: &mut Backoff, said: &mut String) -> Result<(), IssueError> {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_uri: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT)
            .connect_with_connector(connect)
            .await
            .map_err(|error| IssueError::Unusable(chain(&error)))?;
        let mut client =
            SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let mut request = Request::new(X509svidRequest {});
        request
            .metadata_mut()
            .insert(HEADER, MetadataValue::from_static("true"));
        let failed = |status| IssueError::Call(Box::new(status));
        let answers = client.fetch_x509svid(request).await.map_err(failed)?;
        let mut answers = answers.into_inner();
        while let Some(answer) = answers.message().await.map_err(failed)? {
            self.take(answer).await?;
            backoff.reset();
            said.clear();
        }
        Ok(())
    }

    /// Each answer replaces all before it.
    async fn take(&self, answer: X509svidResponse) -> Result<(), IssueError> {
        if !answer.crl.is_empty() {
            tracing::warn!(
                lists = answer.crl.len(),
                "revocation lists of the Workload API are not used"
            );
        }
        if !answer.federated_bundles.is_empty() {
            let domains: Vec<&str> = answer
                .federated_bundles
                .keys()
                .map(String::as_str)
                .collect();
            tracing::info!(
                ?domains,
                "federated trust domains are not used: their workloads are refused"
            );
        }
        let ours = self.ours(&answer.svids)?;
        let (issued, material) = usable(ours)?;
        let (not_after, id) = (issued.not_after, Arc::clone(&issued.spiffe_id));
        self.store.keep(issued, || material).await?;
        let lifetime = not_after.saturating_sub(unix_now());
        tracing::info!(%id, lifetime_s = lifetime, "certificate taken from the Workload API");
        self.vitals
            .set_certificate(not_after, not_after - lifetime / 5);
        self.vitals.count_renewal();
        Ok(())
    }

    /// Of several, the one that says what we were started as.
    fn ours<'a>(&self, svids: &'a [X509svid]) -> Result<&'a X509svid, IssueError> {
        let Workload {
            namespace,
            service_account,
            ..
        } = &self.workload;
        let ours = format!("/ns/{namespace}/sa/{service_account}");
        let mut all = svids.iter();
        all.find(|svid| svid.spiffe_id.ends_with(&ours))
            .ok_or_else(|| {
                let found: Vec<&str> = svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
                IssueError::Unusable(format!(
                    "the Workload API has {found:?} for us, and nothing that ends with {ours}; register that SPIFFE id for this workload, or give another --service-account"
                ))
            })
    }
}

/// The certificate as a peer would check it, and what an application reads of it.
fn usable(svid: &X509svid) -> Result<(Issued, Material), IssueError> {
    let unusable = |why: String| IssueError::Unusable(why);
    let chain = certificates(&svid.x509_svid)
        .map_err(|error| unusable(format!("the chain of {}: {error}", svid.spiffe_id)))?;
    let roots = certificates(&svid.bundle)
        .map_err(|error| unusable(format!("the bundle of {}: {error}", svid.spiffe_id)))?;
    let leaf = chain
        .first()
        .ok_or_else(|| unusable(format!("{} has no certificate", svid.spiffe_id)))?;
    let reread = svid::reread(leaf).map_err(|error| unusable(error.to_string()))?;
    // What peers demand of the leaf, before they do.
    let (domain, _) = svid::parse_id(&svid.spiffe_id).map_err(|rule| unusable(rule.to_owned()))?;
    svid::check_leaf(leaf, domain).map_err(|error| unusable(error.to_string()))?;
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.x509_svid_key.as_slice()));
    let material = Material::new(&chain, key::pem(&svid.x509_svid_key), &roots);
    let issued = checked(chain, roots, &der, &svid.spiffe_id, reread.not_after)?;
    Ok((issued, material))
}

/// One after the other, without anything between them.
fn certificates(der: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut rest = der;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest).map_err(|error| error.to_string())?;
        let (one, _) = rest
            .split_at_checked(rest.len() - after.len())
            .ok_or_else(|| "is cut off".to_owned())?;
        found.push(CertificateDer::from(one.to_vec()));
        rest = after;
    }
    Ok(found)
}

/// `unix:///run/spire/agent.sock`, as the environment of SPIFFE has it.
///
/// # Errors
/// What would be right.
pub fn spiffe_endpoint(text: &str) -> Result<PathBuf, String> {
    let wrong = || {
        format!(
            "{text:?} is no endpoint of the Workload API; write unix:///run/spire/agent.sock (tcp is not supported)"
        )
    };
    // One slash or three: an authority is not allowed (SPIFFE Workload Endpoint, 4).
    let path = text.strip_prefix("unix:").ok_or_else(wrong)?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.starts_with('/') && path.len() > 1 && !path.contains(['?', '#']) {
        Ok(PathBuf::from(path))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn an_endpoint_is_a_unix_socket() {
        for good in ["unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"] {
            let path = spiffe_endpoint(good).unwrap();
            assert_eq!(path, PathBuf::from("/run/spire/agent.sock"), "{good}");
        }
        for bad in [
            "/run/spire/agent.sock",
            "unix://",
            "unix://run/agent.sock",
            "unix:///run/agent.sock?x=y",
            "tcp://127.0.0.1:8000",
            "",
        ] {
            assert!(spiffe_endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn certificates_come_one_after_the_other() {
        let make = || {
            let mut params = CertificateParams::default();
            let uri = "spiffe://a/b".try_into().unwrap();
            params.subject_alt_names.push(SanType::URI(uri));
            let key = KeyPair::generate().unwrap();
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let (one, two) = (make(), make());
        let both = [one.clone(), two.clone()].concat();
        let found = certificates(&both).unwrap();
        assert_eq!(
            found,
            [CertificateDer::from(one), CertificateDer::from(two)]
        );
        assert!(certificates(&both[..both.len() - 1]).is_err());
        assert!(certificates(b"x").is_err());
    }
}
