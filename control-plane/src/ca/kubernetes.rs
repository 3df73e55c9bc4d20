//! Kubernetes' projected service-account tokens, as a credential for a certificate.
//!
//! ```text
//! JWT ─► claims (issuer, audience, time, bound to a pod) ─► signature by the cluster's keys ─┐
//!     └► claims ─► TokenReview by the API server ────────────────────────────────────────────┴─► ns, sa
//! ```
//! The identity is what the token says, and nothing else of the request. A token may be shown again while it lasts, as
//! Kubernetes has it; what it buys is always the same identity, within that identity's limit.

mod claims;
mod keys;
mod review;

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, Validation};
use tokio::{io::AsyncReadExt as _, sync::Semaphore};
use tonic::Code;

pub(crate) use claims::ServiceAccount;
use claims::{Claims, Rules};
use keys::{Keys, Source};
use review::Reviewer;

use crate::{
    config::{Kubernetes, KubernetesCheck},
    fetch::{FetchError, Server},
    refusal::Refusal,
};

/// Where a pod has the roots of its API server.
const POD_ROOTS: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// Where a pod has its own token.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// A token of ours.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
/// Tokens that are looked at together: each may wait for the API server.
const AT_ONCE: usize = 64;

/// Why a token is not taken.
#[derive(Debug)]
pub(crate) struct Rejection {
    /// Label of the metric.
    pub(crate) reason: &'static str,
    message: String,
    code: Code,
}

impl Rejection {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            code: Code::Unauthenticated,
        }
    }

    fn unavailable(message: &str) -> Self {
        Self {
            code: Code::Unavailable,
            ..Self::new("unavailable", message)
        }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let message = format!("the Kubernetes token is not taken: {}", rejection.message);
        Self::new(rejection.code, message)
    }
}

/// Knows whose tokens are.
#[derive(Debug)]
pub(crate) struct KubernetesTokens {
    rules: Rules,
    check: Check,
    places: Semaphore,
}

#[derive(Debug)]
enum Check {
    Keys(Keys),
    Review(Reviewer),
}

impl KubernetesTokens {
    /// # Errors
    /// A URL that is none.
    pub(crate) fn new(config: &Kubernetes) -> Result<Self, FetchError> {
        let roots = config.ca.clone().unwrap_or_else(|| POD_ROOTS.into());
        let check = match &config.check {
            KubernetesCheck::KeysFile(path) => Check::Keys(Keys::new(Source::File(path.clone()))),
            KubernetesCheck::KeysUrl(url) => Check::Keys(Keys::new(Source::Url {
                server: Server::new(url, &roots)?,
                token_file: config.token_file.clone().or_else(pod_token),
            })),
            KubernetesCheck::Review(url) => {
                let url = format!("{}{}", url.trim_end_matches('/'), review::PATH);
                Check::Review(Reviewer {
                    server: Server::new(&url, &roots)?,
                    token_file: config
                        .token_file
                        .clone()
                        .unwrap_or_else(|| POD_TOKEN.into()),
                })
            }
        };
        Ok(Self {
            rules: Rules {
                issuer: config.issuer.clone(),
                audiences: config.audiences.clone(),
            },
            check,
            places: Semaphore::new(AT_ONCE),
        })
    }

    /// Whose `token` is.
    pub(crate) async fn account(&self, token: &str) -> Result<ServiceAccount, Rejection> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(Rejection {
                code: Code::ResourceExhausted,
                ..Rejection::new("limited", "too many are looked at; try again in a second")
            });
        };
        let claims = unverified(token)?;
        let now = unix_now();
        // Before the keys, so that what cannot be taken anyway costs nobody a look at them.
        let account = claims.check(&self.rules, now)?;
        match &self.check {
            Check::Keys(keys) => {
                verify(token, keys).await?;
                Ok(account)
            }
            Check::Review(reviewer) => {
                let reviewed = reviewer.review(token, &self.rules.audiences).await?;
                if (&reviewed.namespace, &reviewed.name) != (&account.namespace, &account.name) {
                    return Err(Rejection::new(
                        "subject",
                        "the API server takes it for another service account's",
                    ));
                }
                Ok(reviewed)
            }
        }
    }
}

/// Whether a bearer token has a JWT's form: three parts. A join token has two.
pub(crate) fn is_jwt(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// What it says, whoever has signed it.
fn unverified(token: &str) -> Result<Claims, Rejection> {
    let malformed = || Rejection::new("malformed", "it is not a JSON web token");
    let payload = token.split('.').nth(1).ok_or_else(malformed)?;
    let payload = BASE64_URL_SAFE_NO_PAD
        .decode(payload)
        .map_err(|_base64| malformed())?;
    serde_json::from_slice(&payload).map_err(|error| {
        Rejection::new(
            "malformed",
            format!("its claims are not those of a service account: {error}"),
        )
    })
}

async fn verify(token: &str, keys: &Keys) -> Result<(), Rejection> {
    let header = jsonwebtoken::decode_header(token)
        .map_err(|error| Rejection::new("malformed", format!("its header: {error}")))?;
    if !keys::is_allowed(header.alg) {
        return Err(Rejection::new(
            "algorithm",
            format!(
                "it is signed with {:?}; RS256 and ES256 are what Kubernetes signs with",
                header.alg
            ),
        ));
    }
    let Some(kid) = header.kid else {
        return Err(Rejection::new(
            "unknown_key",
            "it does not say with which key it is signed (kid)",
        ));
    };
    let key = keys.find(&kid).await?;
    check_signature(token, &key, header.alg)
}

/// The signature alone; what it is under has been checked.
fn check_signature(
    token: &str,
    key: &DecodingKey,
    algorithm: jsonwebtoken::Algorithm,
) -> Result<(), Rejection> {
    let mut only = Validation::new(algorithm);
    only.required_spec_claims.clear();
    only.validate_exp = false;
    only.validate_nbf = false;
    only.validate_aud = false;
    jsonwebtoken::decode::<serde::de::IgnoredAny>(token, key, &only)
        .map(|_verified| ())
        .map_err(|_invalid| Rejection::new("signature", "its signature is not the cluster's"))
}

fn pod_token() -> Option<PathBuf> {
    Path::new(POD_TOKEN).exists().then(|| POD_TOKEN.into())
}

/// Ours, which Kubernetes replaces now and then: read for each call.
async fn own_token(path: &Path) -> Result<String, String> {
    let text = read(path, MAX_TOKEN_BYTES).await?;
    let text = String::from_utf8(text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}

async fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(most)
        .read_to_end(&mut bytes)
        .await
        .map_err(failed)?;
    Ok(bytes)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests;
