//! Who gets a certificate: a workload by its current one, a newcomer by a join token.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use time::OffsetDateTime;
use tokio::time::Instant;
use tonic::Code;

use super::{Authority, Issued, csr, limit::IssueLimit, tokens};
use crate::{
    caller::Caller,
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
    ) -> Result<(SpiffeId, Issued), Refusal> {
        let result = self.try_issue(caller, csr_der, ttl).await;
        let label = match &result {
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
    ) -> Result<(SpiffeId, Issued), Refusal> {
        let id = match caller {
            Caller::Workload(id) => {
                self.take(id)?;
                id.clone()
            }
            Caller::Bearer(token) => {
                // Before the token is used up: a bad request must not cost it.
                csr::public_key(csr_der)?;
                super::checked_ttl(ttl)?;
                self.redeem(&token.0).await?
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
                    "a certificate needs a join token (`authorization: Bearer <token>`) or the current certificate",
                ));
            }
        };
        let issued = self
            .authority
            .issue(&id, csr_der, ttl, OffsetDateTime::now_utc())?;
        tracing::debug!(%id, "certificate issued");
        Ok((id, issued))
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

    async fn redeem(&self, token: &str) -> Result<SpiffeId, Refusal> {
        let refuse = |message: &str| Err(Refusal::new(Code::Unauthenticated, message));
        let count = |event: &str| self.metrics.join_tokens.with_label_values(&[event]).inc();
        let Some(secret) = tokens::secret_of(token) else {
            count("unknown");
            return refuse("the bearer token is not a join token");
        };
        let hash = tokens::hash(secret);
        let now = unix_ms(SystemTime::now());
        let redeemed = self
            .store
            .write(move |txn| stored::redeem(txn, hash.as_ref(), now))
            .await?;
        match redeemed {
            Redeemed::Valid(token) => {
                count("redeemed");
                self.identity(&token.namespace, &token.service_account)
            }
            Redeemed::Used(token) => {
                count("reused");
                tracing::warn!(
                    namespace = token.namespace,
                    service_account = token.service_account,
                    "join token used a second time: it may have been stolen"
                );
                refuse("this join token has been used; create another")
            }
            Redeemed::Expired(_) => {
                count("expired");
                refuse("this join token has expired; create another")
            }
            Redeemed::Unknown => {
                count("unknown");
                refuse("this join token is not known; ask the operator for a new one")
            }
        }
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
            text: format!("{secret}.{}", self.authority.root_sha256()),
            id,
            expires: from_unix_ms(expires_ms),
        })
    }

    fn identity(&self, namespace: &str, service_account: &str) -> Result<SpiffeId, Refusal> {
        SpiffeId::new(self.authority.trust_domain(), namespace, service_account)
            .map_err(|message| Refusal::new(Code::InvalidArgument, message))
    }
}
