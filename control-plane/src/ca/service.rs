//! Who gets a certificate: a workload by its current one, a newcomer by a join token or by a token of its pod.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::Digest;
use time::OffsetDateTime;
use tokio::time::Instant;
use tonic::Code;

use super::{
    Authority, Issued, csr,
    kubernetes::{KubernetesTokens, is_jwt},
    limit::IssueLimit,
    tokens,
};
use crate::{
    caller::{Caller, Shown},
    metrics::Metrics,
    refusal::Refusal,
    spiffe::SpiffeId,
    store::{
        Store, from_unix_ms,
        tokens::{self as stored, Redeemed, Token},
        unix_ms,
    },
};

/// Life of a token that asks for none.
const DEFAULT_TOKEN_TTL: Duration = Duration::from_secs(10 * 60);
/// Longest life of a token.
const MAX_TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// What the calls need; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct IdentityService {
    pub(crate) authority: Arc<Authority>,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limit: Arc<IssueLimit>,
    /// For how long a certificate that has ended may still renew itself.
    pub(crate) renewal_grace: Duration,
    /// None = tokens of pods are not taken.
    pub(crate) kubernetes: Option<Arc<KubernetesTokens>>,
}

/// A token as its creator gets it.
#[derive(Debug)]
pub(crate) struct NewToken {
    pub(crate) text: String,
    pub(crate) id: SpiffeId,
    pub(crate) expires: SystemTime,
}

impl IdentityService {
    /// Signs the key of `csr_der` for the identity that `caller` proved.
    pub(crate) async fn issue(
        &self,
        caller: &Caller,
        csr_der: &[u8],
        ttl: Option<Duration>,
        renews: Option<&Shown>,
    ) -> Result<(SpiffeId, Issued), Refusal> {
        let result = self.try_issue(caller, csr_der, ttl, renews).await;
        let label = match &result {
            Ok(_) if matches!(caller, Caller::Expired(_)) => "revived",
            Ok(_) => "issued",
            Err(refusal) if refusal.code == Code::ResourceExhausted => "limited",
            Err(_) => "refused",
        };
        self.metrics.certificates.with_label_values(&[label]).inc();
        result
    }

    async fn try_issue(
        &self,
        caller: &Caller,
        csr_der: &[u8],
        ttl: Option<Duration>,
        renews: Option<&Shown>,
    ) -> Result<(SpiffeId, Issued), Refusal> {
        let id = match caller {
            Caller::Expired(id) => {
                self.may_revive(id, renews)?;
                self.take(id)?;
                id.clone()
            }
            Caller::Workload(id) => {
                self.take(id)?;
                id.clone()
            }
            Caller::Bearer(token) if is_jwt(&token.0) => {
                csr::public_key(csr_der)?;
                super::checked_ttl(ttl)?;
                let id = self.pod(&token.0).await?;
                self.take(&id)?;
                id
            }
            Caller::Bearer(token) => {
                // The cheap checks first: anybody may try.
                let hash = self.known(&token.0).await?;
                // Before the token is used up: a bad request must not cost it.
                let key = csr::public_key(csr_der)?;
                super::checked_ttl(ttl)?;
                self.redeem(hash, tokens::key_sha256(&key)).await?
            }
            Caller::Operator | Caller::Plaintext => {
                return Err(Refusal::new(
                    Code::PermissionDenied,
                    "the operator has no workload identity; create a join token and let the sidecar use it over TLS",
                ));
            }
            Caller::Anonymous => {
                return Err(Refusal::new(
                    Code::Unauthenticated,
                    "a certificate needs a join token or a token of the pod (`authorization: Bearer <token>`), or the current certificate",
                ));
            }
        };
        let renews = renews.map(|shown| &*shown.serial);
        let issued = self
            .authority
            .issue(&id, csr_der, ttl, renews, OffsetDateTime::now_utc())
            .await?;
        tracing::debug!(%id, "certificate issued");
        Ok((id, issued))
    }

    /// A certificate that has ended may renew itself for a while: the control plane may have been away, and the join
    /// token is used up. Not one that has been renewed already, whose key should be gone.
    fn may_revive(&self, id: &SpiffeId, shown: Option<&Shown>) -> Result<(), Refusal> {
        let refuse = |why: String| Err(Refusal::new(Code::Unauthenticated, why));
        let Some(shown) = shown else {
            return refuse(format!("the certificate of {id} has ended"));
        };
        if self.authority.records().is_renewed(&shown.serial) {
            tracing::warn!(%id, serial = %shown.serial, "a certificate that has ended and was renewed is shown again: its key may have been stolen");
            return refuse(format!(
                "the certificate of {id} has ended, and another took its place"
            ));
        }
        let ended = SystemTime::now()
            .duration_since(shown.not_after)
            .unwrap_or_default();
        if ended > self.renewal_grace {
            return refuse(format!(
                "the certificate of {id} ended {} s ago; it could renew itself for {} s (--renewal-grace): start the sidecar with a new join token",
                ended.as_secs(),
                self.renewal_grace.as_secs()
            ));
        }
        tracing::warn!(%id, ended_s = ended.as_secs(), "a certificate that has ended renews itself");
        Ok(())
    }

    fn take(&self, id: &SpiffeId) -> Result<(), Refusal> {
        self.limit.take(id, Instant::now()).map_err(|wait| {
            Refusal::new(
                Code::ResourceExhausted,
                format!(
                    "too many certificates for {id}; try again in {} ms",
                    wait.as_millis()
                ),
            )
        })
    }

    /// Whom a token of Kubernetes is for.
    async fn pod(&self, token: &str) -> Result<SpiffeId, Refusal> {
        let count = |event: &str| {
            let tokens = &self.metrics.kubernetes_tokens;
            tokens.with_label_values(&[event]).inc();
        };
        let Some(kubernetes) = &self.kubernetes else {
            count("off");
            return Err(Refusal::new(
                Code::Unauthenticated,
                "Kubernetes tokens are not taken here; start the control plane with --kubernetes-jwks or --kubernetes-token-review",
            ));
        };
        match kubernetes.account(token).await {
            Ok(account) => {
                let id = self.identity(&account.namespace, &account.name)?;
                count("accepted");
                tracing::info!(%id, pod = account.pod, "certificate asked for with a Kubernetes token");
                Ok(id)
            }
            Err(rejection) => {
                count(rejection.reason);
                tracing::info!(reason = rejection.reason, "Kubernetes token refused");
                Err(rejection.into())
            }
        }
    }

    /// The hash of a token that was made here.
    async fn known(&self, token: &str) -> Result<Digest, Refusal> {
        let Some(secret) = tokens::secret_of(token) else {
            return self.refuse("unknown", "the bearer token is not a join token");
        };
        let hash = tokens::hash(secret);
        match self.look(hash, String::new()).await? {
            Redeemed::Unknown => self.unknown(),
            Redeemed::Expired(_) => self.expired(),
            Redeemed::Valid(_) | Redeemed::Again(_) | Redeemed::Used(_) => Ok(hash),
        }
    }

    /// Reads only.
    async fn look(&self, hash: Digest, key_sha256: String) -> Result<Redeemed, Refusal> {
        let store = self.store.clone();
        let now = unix_ms(SystemTime::now());
        let look = move || stored::look(&store, hash.as_ref(), &key_sha256, now);
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|error| Refusal::new(Code::Internal, format!("reading the token: {error}")))?
            .map_err(Refusal::from)
    }

    async fn redeem(&self, hash: Digest, key_sha256: String) -> Result<SpiffeId, Refusal> {
        let mut redeemed = self.look(hash, key_sha256.clone()).await?;
        if matches!(redeemed, Redeemed::Valid(_)) {
            let now = unix_ms(SystemTime::now());
            redeemed = self
                .store
                .write(move |txn| stored::redeem(txn, hash.as_ref(), &key_sha256, now))
                .await?;
        }
        match redeemed {
            Redeemed::Valid(token) => {
                self.count("redeemed");
                let id = self.identity(&token.namespace, &token.service_account)?;
                tracing::info!(%id, "join token used");
                Ok(id)
            }
            Redeemed::Again(token) => {
                let id = self.identity(&token.namespace, &token.service_account)?;
                self.take(&id)?;
                self.count("repeated");
                Ok(id)
            }
            Redeemed::Used(token) => {
                tracing::warn!(
                    namespace = token.namespace,
                    service_account = token.service_account,
                    "join token used a second time: it may have been stolen"
                );
                self.refuse("reused", "this join token has been used; create another")
            }
            Redeemed::Expired(_) => self.expired(),
            Redeemed::Unknown => self.unknown(),
        }
    }

    fn expired<T>(&self) -> Result<T, Refusal> {
        self.refuse("expired", "this join token has expired; create another")
    }

    fn unknown<T>(&self) -> Result<T, Refusal> {
        self.refuse(
            "unknown",
            "this join token is not known; ask the operator for a new one",
        )
    }

    fn refuse<T>(&self, event: &str, message: &str) -> Result<T, Refusal> {
        self.count(event);
        Err(Refusal::new(Code::Unauthenticated, message))
    }

    fn count(&self, event: &str) {
        self.metrics.join_tokens.with_label_values(&[event]).inc();
    }

    /// Makes a token for one identity. The caller has been checked.
    pub(crate) async fn create_token(
        &self,
        namespace: &str,
        service_account: &str,
        ttl: Option<Duration>,
    ) -> Result<NewToken, Refusal> {
        let namespace = if namespace.is_empty() {
            "default"
        } else {
            namespace
        };
        let id = self.identity(namespace, service_account)?;
        let ttl = match ttl {
            None | Some(Duration::ZERO) => DEFAULT_TOKEN_TTL,
            Some(ttl) if ttl <= MAX_TOKEN_TTL => ttl,
            Some(ttl) => {
                return Err(Refusal::invalid(
                    "ttl",
                    format!(
                        "{} s is too long; at most {} s",
                        ttl.as_secs(),
                        MAX_TOKEN_TTL.as_secs()
                    ),
                ));
            }
        };
        let secret = tokens::new_secret()
            .map_err(|_unspecified| Refusal::new(Code::Internal, "no random bytes"))?;
        let now = unix_ms(SystemTime::now());
        let expires_ms = now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let token = Token {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            expires_ms,
            used_ms: None,
            key_sha256: None,
        };
        let hash = tokens::hash(&secret);
        let kept = self
            .store
            .write(move |txn| stored::create(txn, hash.as_ref(), &token, now))
            .await?;
        if !kept {
            return Err(Refusal::new(
                Code::ResourceExhausted,
                format!(
                    "{} join tokens exist; wait until some expire",
                    stored::MAX_TOKENS
                ),
            ));
        }
        self.metrics
            .join_tokens
            .with_label_values(&["created"])
            .inc();
        Ok(NewToken {
            text: format!("{secret}.{}", self.authority.pins()),
            id,
            expires: from_unix_ms(expires_ms),
        })
    }

    fn identity(&self, namespace: &str, service_account: &str) -> Result<SpiffeId, Refusal> {
        SpiffeId::new(self.authority.trust_domain(), namespace, service_account)
            .map_err(|message| Refusal::new(Code::InvalidArgument, message))
    }
}
