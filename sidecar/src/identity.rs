//! Our certificate: made here, signed by the control plane, renewed at half of its life.
//!
//! ```text
//! a token ───► first certificate ─(50 % ± 5 %)─► renewal with the current certificate ─► ...
//!                                        └─ failed: again, with backoff; from 80 % on readiness warns; serves to the end
//! ```
//! The key is made in this process and new with every certificate. It never leaves memory, unless to write it into files
//! is what the process is for (`outrigger agent`).
//! Source: SPIFFE X.509-SVID; Istio's renewal at half life.

mod credential;
pub(crate) mod delivered;
mod key;
mod schedule;
pub(crate) mod secrets;
pub(crate) mod verify;
pub(crate) mod workload_api;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outrigger_proto::outrigger::v1::{IssueCertificateRequest, identity_client::IdentityClient};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use tokio::{sync::watch, time::Instant};
use tonic::{Code, Request};

use crate::{
    Workload,
    agent::files::{CertificateFiles, FilesError, Material},
    backoff::Backoff,
    control::Control,
    shared::{Identity, Shared},
    vitals::Vitals,
};

pub(crate) use credential::Credential;
use key::Key;
pub(crate) use key::{Issued, checked};
use schedule::Schedule;

/// How often the clocks are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// One call for a certificate.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// The control plane did not answer, or with an error that may pass.
    #[error("control plane did not issue a certificate")]
    Call(#[source] Box<tonic::Status>),
    /// The control plane refused us for good.
    #[error("control plane refused the credential")]
    Refused(#[source] Box<tonic::Status>),
    /// The file that Kubernetes puts our token into.
    #[error("token file {}: {why}", path.display())]
    TokenFile {
        path: std::path::PathBuf,
        why: String,
    },
    /// The token is another workload's.
    #[error(
        "the token is for {issued}, and this sidecar was started as service account {service_account} of namespace {namespace}; start it with that one's --service, or create a token for this one"
    )]
    NotOurs {
        issued: Arc<str>,
        namespace: String,
        service_account: String,
    },
    /// What was issued is not usable.
    #[error("issued certificate is not usable: {0}")]
    Unusable(String),
    /// It could not be handed to the application.
    #[error("certificate could not be written")]
    Files(#[from] FilesError),
}

/// Where the identity is kept; the only writer of `shared.identity`.
#[derive(Debug)]
pub(crate) struct IdentityStore {
    shared: Arc<Shared>,
    writing: Mutex<()>,
    /// Announces new certificates (not new bundles).
    renewed: watch::Sender<u64>,
    /// Where an application reads what we get. None = it is for ourselves alone.
    files: Option<Arc<CertificateFiles>>,
    /// Roots come with certificates only: the control plane is not their authority.
    keeps_bundle: bool,
    /// The trust bundle as the stream of configuration has told it last, while that stream is open.
    followed: Mutex<Option<Arc<RootCertStore>>>,
}

impl IdentityStore {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            writing: Mutex::new(()),
            renewed: watch::Sender::new(0),
            files: None,
            keeps_bundle: false,
            followed: Mutex::new(None),
        }
    }

    /// Believes the roots that came with the certificate, and no others.
    pub(crate) fn keeping_bundle(self) -> Self {
        Self {
            keeps_bundle: true,
            ..self
        }
    }

    /// Writes each certificate with its key into files before it is used.
    pub(crate) fn writing(self, files: Arc<CertificateFiles>) -> Self {
        Self {
            files: Some(files),
            ..self
        }
    }

    pub(crate) fn renewals(&self) -> watch::Receiver<u64> {
        self.renewed.subscribe()
    }

    /// Nothing has changed after an error.
    async fn keep(
        &self,
        issued: Issued,
        material: impl FnOnce() -> Material,
    ) -> Result<(), IssueError> {
        if let Some(files) = &self.files {
            let (files, material) = (Arc::clone(files), material());
            // A disk that hangs must not hold a thread of the control side.
            tokio::task::spawn_blocking(move || files.write(&material))
                .await
                .unwrap_or_else(|error| Err(FilesError::lost(&error)))?;
        }
        self.install(issued);
        Ok(())
    }

    /// Takes it into use.
    ///
    /// An answer is as old as the question, so that a bundle that came over an open stream meanwhile is newer than its.
    pub(crate) fn install(&self, issued: Issued) {
        let followed = self.lock_followed().clone();
        let generation = self.replace(|_| {
            Some(Identity {
                generation: 0,
                spiffe_id: issued.spiffe_id,
                certified_key: issued.certified_key,
                roots: followed.unwrap_or(issued.roots),
                not_after: issued.not_after,
            })
        });
        self.renewed.send_replace(generation);
    }

    /// Puts another trust bundle beside the certificate in force.
    pub(crate) fn set_bundle(&self, bundle: Vec<CertificateDer<'static>>) {
        if self.keeps_bundle {
            return;
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(bundle);
        let roots = Arc::new(roots);
        *self.lock_followed() = Some(Arc::clone(&roots));
        self.replace(|current| {
            let current = current?;
            if current.roots.roots == roots.roots {
                return None;
            }
            Some(Identity {
                generation: 0,
                spiffe_id: Arc::clone(&current.spiffe_id),
                certified_key: Arc::clone(&current.certified_key),
                roots,
                not_after: current.not_after,
            })
        });
    }

    /// The stream that told us of the bundle is gone: what comes with a certificate is news again.
    pub(crate) fn unfollow(&self) {
        *self.lock_followed() = None;
    }

    fn lock_followed(&self) -> std::sync::MutexGuard<'_, Option<Arc<RootCertStore>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers and publishes what `next` makes of the current identity.
    fn replace(&self, next: impl FnOnce(Option<&Identity>) -> Option<Identity>) -> u64 {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.shared.identity.load_full();
        let generation = current.as_ref().map_or(0, |current| current.generation);
        let Some(next) = next(current.as_deref()) else {
            return generation;
        };
        let generation = generation + 1;
        self.shared
            .identity
            .store(Some(Arc::new(Identity { generation, ..next })));
        generation
    }
}

/// Gets and renews the certificate.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) control: Arc<Control>,
    pub(crate) store: Arc<IdentityStore>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) credential: Credential,
    pub(crate) workload: Workload,
    pub(crate) ttl: Duration,
}

impl Issuer {
    /// Asks until there is a first certificate.
    ///
    /// # Errors
    /// [`IssueError::Refused`], [`IssueError::NotOurs`] and [`IssueError::Unusable`]: asking again would not help.
    pub(crate) async fn first(&self) -> Result<(), IssueError> {
        // One key for all tries: an answer that got lost may then be given again.
        let key = Key::generate()?;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut is_reported = false;
        loop {
            match self.newcomer(&key).await {
                Ok(issued) => {
                    self.check_ours(&issued)?;
                    return self.take(&key, issued).await;
                }
                Err(error) if self.may_pass(&error) => {
                    self.vitals.count_renewal_failure();
                    if !std::mem::replace(&mut is_reported, true) {
                        tracing::warn!(error = %chain(&error), "no certificate yet, trying again until there is one");
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Renews for ever.
    pub(crate) async fn renew(self) {
        loop {
            let Some(not_after) = self.not_after() else {
                return;
            };
            let began = Instant::now();
            let schedule = Schedule::new(wall(), not_after, fastrand::f64());
            while !schedule.is_due(wall(), began.elapsed()) {
                self.pause(LOOK).await;
            }
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
            let mut is_reported = false;
            loop {
                let result = match Key::generate() {
                    Ok(key) => self.again(&key).await,
                    Err(error) => Err(error),
                };
                match result {
                    Ok(()) => break,
                    Err(error) => {
                        self.vitals.count_renewal_failure();
                        if !std::mem::replace(&mut is_reported, true) {
                            let not_after = not_after.as_secs();
                            tracing::warn!(error = %chain(&error), not_after, "certificate was not renewed, trying again");
                        }
                    }
                }
                let pause = schedule::retry_after(backoff.next(), wall(), not_after);
                self.pause(pause).await;
            }
        }
    }

    /// Sleeps, and says meanwhile how long the certificate lasts.
    async fn pause(&self, length: Duration) {
        let end = Instant::now() + length;
        loop {
            if let Some(not_after) = self.not_after() {
                self.vitals.set_time_left(not_after, wall());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    fn check_ours(&self, issued: &Issued) -> Result<(), IssueError> {
        let Workload {
            namespace,
            service_account,
            ..
        } = &self.workload;
        let ours = format!("/ns/{namespace}/sa/{service_account}");
        if issued.spiffe_id.ends_with(&ours) {
            return Ok(());
        }
        Err(IssueError::NotOurs {
            issued: Arc::clone(&issued.spiffe_id),
            namespace: namespace.clone(),
            service_account: service_account.clone(),
        })
    }

    /// Asks with a token.
    async fn newcomer(&self, key: &Key) -> Result<Issued, IssueError> {
        let bearer = self.credential.bearer().await?;
        self.issue(key, Some(&bearer)).await
    }

    /// Whether asking again may help. What is wrong with a pod's token today may be right with the next.
    fn may_pass(&self, error: &IssueError) -> bool {
        match error {
            IssueError::Call(_) | IssueError::TokenFile { .. } => true,
            IssueError::Refused(status) => {
                self.credential.is_renewed() && status.code() == Code::Unauthenticated
            }
            IssueError::NotOurs { .. } | IssueError::Unusable(_) | IssueError::Files(_) => false,
        }
    }

    /// By the certificate in force; where that has ended, a pod's token begins anew.
    async fn again(&self, key: &Key) -> Result<(), IssueError> {
        let is_over = self.not_after().is_none_or(|end| end <= wall());
        let issued = if is_over && self.credential.is_renewed() {
            self.newcomer(key).await?
        } else {
            self.issue(key, None).await?
        };
        self.check_ours(&issued)?;
        self.take(key, issued).await
    }

    async fn take(&self, key: &Key, issued: Issued) -> Result<(), IssueError> {
        let (not_after, id) = (issued.not_after, Arc::clone(&issued.spiffe_id));
        let material = key.material(&issued);
        self.store.keep(issued, || material).await?;
        let lifetime = not_after.saturating_sub(unix_now());
        tracing::info!(%id, lifetime_s = lifetime, "certificate issued");
        // 80 % of the lifetime is over.
        self.vitals
            .set_certificate(not_after, not_after - lifetime / 5);
        self.vitals.count_renewal();
        Ok(())
    }

    /// A certificate that was not asked for by this process.
    pub(crate) fn goes_on_with(&self, not_after: u64) {
        let left = not_after.saturating_sub(unix_now());
        self.vitals.set_certificate(not_after, not_after - left / 5);
    }

    /// End of the certificate in force, since the Unix epoch.
    fn not_after(&self) -> Option<Duration> {
        let not_after = self.store.shared.identity.load().as_ref()?.not_after;
        Some(Duration::from_secs(not_after))
    }

    async fn issue(&self, key: &Key, token: Option<&str>) -> Result<Issued, IssueError> {
        let mut request = Request::new(IssueCertificateRequest {
            csr_der: key.csr_der.clone(),
            ttl: prost_types::Duration::try_from(self.ttl).ok(),
        });
        request.set_timeout(CALL_TIMEOUT);
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().map_err(|_error| {
                IssueError::Unusable(
                    "the token has characters that a header cannot carry".to_owned(),
                )
            })?;
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = IdentityClient::new(self.control.channel());
        let response = tokio::time::timeout(CALL_TIMEOUT, client.issue_certificate(request))
            .await
            .unwrap_or_else(|_elapsed| Err(tonic::Status::deadline_exceeded("no answer in time")))
            .map_err(|status| match status.code() {
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
                    IssueError::Refused(Box::new(status))
                }
                _ => IssueError::Call(Box::new(status)),
            })?;
        key.usable(response.into_inner())
    }
}

/// Time since the Unix epoch, as the machine's clock says it.
fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // A status prints its whole cause in debug form; its message is enough.
        let boxed = || {
            error
                .downcast_ref::<Box<tonic::Status>>()
                .map(AsRef::as_ref)
        };
        let status = error.downcast_ref::<tonic::Status>().or_else(boxed);
        let part = status.map_or_else(
            || error.to_string(),
            |status| format!("{} ({:?})", status.message(), status.code()),
        );
        // Wrappers that repeat their cause would double it.
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
