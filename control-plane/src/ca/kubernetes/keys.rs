//! The keys that a cluster signs tokens with (`/openid/v1/jwks`), from a file or a URL, kept and read again.
//!
//! ```text
//! known key, read within 5 min ─► used        unknown key, or older ─► read again, every 10 s at most
//! cannot be read ─► the last good ones, for a day
//! ```
//! Source: RFC 7517; Kubernetes, "Service account issuer discovery".

use std::{path::PathBuf, sync::Arc, time::Duration};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, Jwk},
};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use super::Rejection;
use crate::fetch::Server;

/// Keys are read again after this long.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// Whoever sends tokens with unknown keys makes us read no more often than this.
const AGAIN: Duration = Duration::from_secs(10);
/// How long the last good ones are used while they cannot be read.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// A cluster has one or two.
const MAX_KEYS: usize = 64;
/// A file of these is not larger.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What Kubernetes signs with (`--service-account-signing-key-file`: RSA or ECDSA), each with all its hashes.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
];

/// Where keys are read from.
#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    Url {
        server: Server,
        /// Our own token, where the API server asks for one.
        token_file: Option<PathBuf>,
    },
}

/// The keys as they were read last.
pub(super) struct Keys {
    source: Source,
    state: Mutex<State>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    keys: Vec<(String, Arc<DecodingKey>)>,
    /// The last time that they could be read.
    read: Option<Instant>,
    /// The last time that they were asked for.
    tried: Option<Instant>,
}

impl Keys {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            state: Mutex::default(),
        }
    }

    /// The key called `kid`.
    pub(super) async fn find(&self, kid: &str) -> Result<Arc<DecodingKey>, Rejection> {
        // Held while they are read: whoever else needs them waits for the same answer.
        let mut state = self.state.lock().await;
        let is_old = state.read.is_none_or(|read| read.elapsed() >= FRESH);
        let known = state.find(kid);
        if is_old || known.is_none() {
            self.read_again(&mut state).await;
        }
        if state.read.is_none_or(|read| read.elapsed() >= STALE) {
            return Err(Rejection::unavailable(
                "the cluster's keys cannot be read at the moment",
            ));
        }
        state.find(kid).ok_or_else(|| {
            Rejection::new(
                "unknown_key",
                format!("it is signed with the key {kid:?}, which the cluster does not have"),
            )
        })
    }

    async fn read_again(&self, state: &mut State) {
        if state.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return;
        }
        state.tried = Some(Instant::now());
        match self.read().await.and_then(|text| parse(&text)) {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "the cluster's keys were read");
                state.keys = keys;
                state.read = state.tried;
            }
            Err(error) => {
                tracing::warn!(%error, source = ?self.source, "the cluster's keys cannot be read");
            }
        }
    }

    async fn read(&self) -> Result<Vec<u8>, String> {
        match &self.source {
            Source::File(path) => super::read(path, MAX_FILE_BYTES).await,
            Source::Url { server, token_file } => {
                let token = match token_file {
                    Some(path) => Some(super::own_token(path).await?),
                    None => None,
                };
                let answer = server.call(token.as_deref(), None).await;
                answer
                    .map(|body| body.to_vec())
                    .map_err(|error| super::chain(&error))
            }
        }
    }
}

impl State {
    fn find(&self, kid: &str) -> Option<Arc<DecodingKey>> {
        let mut keys = self.keys.iter();
        keys.find(|(name, _)| name == kid)
            .map(|(_, key)| Arc::clone(key))
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// Those that can be used; a set may hold others.
fn parse(text: &[u8]) -> Result<Vec<(String, Arc<DecodingKey>)>, String> {
    let set: Set =
        serde_json::from_slice(text).map_err(|error| format!("not a set of keys: {error}"))?;
    let keys = set.keys.into_iter().take(MAX_KEYS);
    let keys: Vec<_> = keys.filter_map(usable).collect();
    if keys.is_empty() {
        return Err("no RSA or ECDSA key with a \"kid\" is in the set".to_owned());
    }
    Ok(keys)
}

fn usable(key: serde_json::Value) -> Option<(String, Arc<DecodingKey>)> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let is_public = matches!(
        jwk.algorithm,
        AlgorithmParameters::RSA(_) | AlgorithmParameters::EllipticCurve(_)
    );
    let kid = jwk.common.key_id.clone()?;
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    is_public.then(|| (kid, Arc::new(key)))
}

/// Whether a token may be signed so: by a key pair, never by a shared secret or not at all.
pub(super) fn is_allowed(algorithm: Algorithm) -> bool {
    ALGORITHMS.contains(&algorithm)
}
