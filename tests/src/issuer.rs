//! Somebody who issues tokens and shows the keys that they are verified with, over HTTP.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// An issuer with its server of keys.
#[derive(Debug)]
pub struct Issuer {
    /// What its tokens' `iss` says.
    pub name: String,
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    keys: Mutex<Vec<(String, KeyPair)>>,
    away: AtomicBool,
    asked: AtomicUsize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl Issuer {
    /// Starts it with one key, `first`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            keys: Mutex::default(),
            away: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
        });
        let answering = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&answering);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&state), request));
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        let issuer = Self {
            name: name.to_owned(),
            address,
            state,
        };
        issuer.rotate("first");
        issuer
    }

    /// Where its keys are.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows this key alone from now on, and signs with it at once.
    ///
    /// # Panics
    /// When another thread has.
    pub fn rotate(&self, kid: &str) {
        let key = KeyPair::generate().expect("a key");
        let mut keys = self.state.keys.lock().expect("nobody else has panicked");
        keys.push((kid.to_owned(), key));
    }

    /// Takes the oldest key away.
    ///
    /// # Panics
    /// When another thread has.
    pub fn retire(&self) {
        let mut keys = self.state.keys.lock().expect("nobody else has panicked");
        keys.remove(0);
    }

    /// Answers with 503 from now on, or with its keys again.
    pub fn set_away(&self, away: bool) {
        self.state.away.store(away, Ordering::SeqCst);
    }

    /// How often its keys were asked for.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// Its keys, as JSON.
    pub fn jwks(&self) -> String {
        jwks(&self.state).to_string()
    }

    /// A token for `subject` that holds for ten minutes, signed with the newest key.
    pub fn token(&self, subject: &str) -> String {
        self.token_saying(&json!({"sub": subject}))
    }

    /// One that says this, too.
    ///
    /// # Panics
    /// When another thread has.
    pub fn token_saying(&self, claims: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let mut all = json!({"iss": self.name, "exp": now + 600});
        let claims = claims.as_object().into_iter().flatten();
        for (name, value) in claims {
            all[name] = value.clone();
        }
        let keys = self.state.keys.lock().expect("nobody else has panicked");
        let (kid, key) = keys.last().expect("a key");
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.clone());
        let key = EncodingKey::from_ec_der(&key.serialize_der());
        jsonwebtoken::encode(&header, &all, &key).expect("a token")
    }
}

fn jwks(state: &State) -> Value {
    let keys = state.keys.lock().expect("nobody else has panicked");
    let keys = keys.iter().map(|(kid, key)| {
        let point = key.der_bytes();
        let part = |from: usize| BASE64_URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": part(1), "y": part(33)})
    });
    json!({ "keys": keys.collect::<Vec<_>>() })
}

async fn answer(
    state: Arc<State>,
    _request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    state.asked.fetch_add(1, Ordering::SeqCst);
    if state.away.load(Ordering::SeqCst) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    Ok(Response::new(Full::from(jwks(&state).to_string())))
}
