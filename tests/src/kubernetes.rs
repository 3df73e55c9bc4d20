//! The part of a Kubernetes cluster that a mesh sees: it signs service-account tokens, shows its keys, and reviews
//! tokens, over TLS with a root of its own.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertifiedKey, KeyPair, PublicKeyData as _, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Who its tokens are from.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// What the control plane's own token says.
const OWN_TOKEN: &str = "the-control-planes-own-token";

/// A cluster.
#[derive(Debug)]
pub struct Kubernetes {
    address: SocketAddr,
    state: Arc<State>,
    dir: TempDir,
}

struct State {
    keys: Mutex<Vec<(String, KeyPair)>>,
    /// Pods that are gone.
    gone: Mutex<BTreeSet<String>>,
    asked: AtomicUsize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Starts its API server.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            keys: Mutex::default(),
            gone: Mutex::default(),
            asked: AtomicUsize::new(0),
        });
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("ca.crt"), cert.pem()).expect("a file");
        fs::write(dir.path().join("token"), OWN_TOKEN).expect("a file");
        let answering = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&answering));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| answer(Arc::clone(&state), request));
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await
                        .ok();
                });
            }
        });
        let cluster = Self {
            address,
            state,
            dir,
        };
        cluster.rotate("first");
        cluster
    }

    /// Signs with a new key from now on; the old ones are shown on.
    ///
    /// # Panics
    /// When another thread has.
    pub fn rotate(&self, kid: &str) {
        let key = KeyPair::generate().expect("a key");
        let mut keys = self.state.keys.lock().expect("nobody else has panicked");
        keys.push((kid.to_owned(), key));
    }

    /// Flags of a control plane that checks tokens by the cluster's keys.
    pub fn by_keys(&self) -> Vec<String> {
        let url = format!("https://localhost:{}/openid/v1/jwks", self.address.port());
        self.flags("--kubernetes-jwks", &url)
    }

    /// Flags of one that lets the API server review tokens.
    pub fn by_review(&self) -> Vec<String> {
        let url = format!("https://localhost:{}", self.address.port());
        self.flags("--kubernetes-token-review", &url)
    }

    fn flags(&self, how: &str, url: &str) -> Vec<String> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        [
            (how, url.to_owned()),
            ("--kubernetes-issuer", ISSUER.to_owned()),
            ("--kubernetes-ca", file("ca.crt")),
            ("--kubernetes-token-file", file("token")),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    /// What a projected token of a pod says.
    pub fn claims(namespace: &str, service_account: &str) -> Value {
        let now = unix_now();
        json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "aud": ["outrigger-ca"],
            "exp": now + 600, "nbf": now, "iat": now,
            "kubernetes.io": {
                "namespace": namespace,
                "pod": { "name": format!("{service_account}-1"), "uid": "4e9d9cd6" },
                "serviceaccount": { "name": service_account, "uid": "5d1b3c2a" },
            },
        })
    }

    /// Signs what somebody says.
    ///
    /// # Panics
    /// When the key cannot be used.
    pub fn sign(&self, claims: &Value) -> String {
        let keys = self.state.keys.lock().expect("nobody else has panicked");
        let (kid, key) = keys.last().expect("there is a first one");
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.clone());
        let key = EncodingKey::from_ec_der(&key.serialize_der());
        jsonwebtoken::encode(&header, claims, &key).expect("a token")
    }

    /// A token of a pod of `service_account`.
    pub fn token(&self, service_account: &str) -> String {
        self.sign(&Self::claims("default", service_account))
    }

    /// Such a token in a file, as it is projected.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn project(&self, service_account: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{service_account}.token"));
        fs::write(&path, self.token(service_account)).expect("a file");
        path
    }

    /// The pod of this account is deleted.
    ///
    /// # Panics
    /// When another thread has.
    pub fn delete_pod(&self, service_account: &str) {
        let mut gone = self.state.gone.lock().expect("nobody else has panicked");
        gone.insert(format!("{service_account}-1"));
    }

    /// How often its API server was asked.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    state.asked.fetch_add(1, Ordering::SeqCst);
    let bearer = request.headers().get("authorization").cloned();
    let is_known =
        bearer.is_some_and(|value| value.as_bytes() == format!("Bearer {OWN_TOKEN}").as_bytes());
    let path = request.uri().path().to_owned();
    let (status, body) = match path.as_str() {
        _ if !is_known => (StatusCode::UNAUTHORIZED, json!({})),
        "/openid/v1/jwks" => (StatusCode::OK, jwks(&state)),
        "/apis/authentication.k8s.io/v1/tokenreviews" => {
            let body = request.into_body().collect().await.expect("a body");
            let ask: Value = serde_json::from_slice(&body.to_bytes()).expect("a review");
            (StatusCode::CREATED, review(&state, &ask))
        }
        _ => (StatusCode::NOT_FOUND, json!({})),
    };
    let response = Response::builder()
        .status(status)
        .body(Full::from(body.to_string()));
    Ok(response.expect("a response"))
}

fn jwks(state: &State) -> Value {
    let keys = state.keys.lock().expect("nobody else has panicked");
    let keys = keys.iter().map(|(kid, key)| {
        // The point is the end of an uncompressed public key: 0x04, x, y.
        let spki = key.subject_public_key_info();
        let (_, point) = spki.split_at(spki.len() - 64);
        let (x, y) = point.split_at(32);
        let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": encode(x), "y": encode(y) })
    });
    json!({ "keys": keys.collect::<Vec<_>>() })
}

/// As the API server judges: signature, time, audience, and whether the pod is there.
fn review(state: &State, ask: &Value) -> Value {
    let token = ask["spec"]["token"].as_str().unwrap_or_default();
    let refused = |why: &str| json!({ "status": { "authenticated": false, "error": why } });
    let payload = token.split('.').nth(1).unwrap_or_default();
    let Some(claims) = BASE64_URL_SAFE_NO_PAD
        .decode(payload)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
    else {
        return refused("malformed");
    };
    if !is_signed(state, token) {
        return refused("invalid bearer token, square/go-jose: error in cryptographic primitive");
    }
    let pod = claims["kubernetes.io"]["pod"]["name"]
        .as_str()
        .unwrap_or_default();
    let gone = state.gone.lock().expect("nobody else has panicked");
    if gone.contains(pod) {
        return refused("pod has been deleted");
    }
    json!({ "status": {
        "authenticated": true,
        "audiences": claims["aud"],
        "user": {
            "username": claims["sub"],
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "extra": {
                "authentication.kubernetes.io/pod-name": [pod],
                "authentication.kubernetes.io/pod-uid": [claims["kubernetes.io"]["pod"]["uid"]],
            },
        },
    }})
}

fn is_signed(state: &State, token: &str) -> bool {
    let keys = jwks(state);
    let keys = keys["keys"].as_array().into_iter().flatten();
    let mut only = jsonwebtoken::Validation::new(Algorithm::ES256);
    only.validate_aud = false;
    keys.into_iter().any(|key| {
        let jwk = serde_json::from_value(key.clone()).expect("a key");
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).expect("a key");
        jsonwebtoken::decode::<Value>(token, &key, &only).is_ok()
    })
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
