//! Whole requests, and everything that somebody may try with a token.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method};

use super::*;
use crate::{PathMatch, RequestView};

mod attacks;
mod requests;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example.com";

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Keys of every kind, made once: RSA takes its time.
struct Keyring {
    rsa: RsaKeyPair,
    other_rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    /// The same key as `p256`, signing in DER.
    p256_der: EcdsaKeyPair,
}

fn keyring() -> &'static Keyring {
    static RING: std::sync::LazyLock<Keyring> = std::sync::LazyLock::new(|| {
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let private = p256.to_pkcs8v1().unwrap();
        let der: &'static EcdsaSigningAlgorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        Keyring {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            other_rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256_der: EcdsaKeyPair::from_pkcs8(der, private.as_ref()).unwrap(),
            p256,
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    });
    &RING
}

fn rsa_jwk(key: &RsaKeyPair, more: &str) -> String {
    // `RSAPublicKey`: two integers, of which the first has 2048 bits and a zero before them.
    let der = key.public_key().as_ref();
    let (n, e) = (&der[9..265], &der[267..270]);
    format!(
        r#"{{"kty":"RSA","n":"{}","e":"{}"{more}}}"#,
        encoded(n),
        encoded(e)
    )
}

fn ec_jwk(key: &EcdsaKeyPair, curve: &str, more: &str) -> String {
    let point = key.public_key().as_ref();
    let half = (point.len() - 1) / 2;
    format!(
        r#"{{"kty":"EC","crv":"{curve}","x":"{}","y":"{}"{more}}}"#,
        encoded(&point[1..=half]),
        encoded(&point[half + 1..])
    )
}

fn ed_jwk(key: &Ed25519KeyPair, more: &str) -> String {
    let x = encoded(key.public_key().as_ref());
    format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"{more}}}"#)
}

/// All of the ring, each with its name as kid.
fn jwks() -> String {
    let ring = keyring();
    let keys = [
        rsa_jwk(&ring.rsa, r#","kid":"rsa""#),
        ec_jwk(&ring.p256, "P-256", r#","kid":"p256""#),
        ec_jwk(&ring.p384, "P-384", r#","kid":"p384""#),
        ed_jwk(&ring.ed, r#","kid":"ed""#),
    ];
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

fn key_set() -> Arc<KeySet> {
    Arc::new(KeySet::parse(jwks().as_bytes()).unwrap())
}

/// Signs with one of the ring.
#[derive(Clone, Copy, Debug)]
enum By {
    Rs256,
    Rs512,
    Ps256,
    OtherRsa,
    Es256,
    Es256Der,
    Es384,
    Ed,
}

impl By {
    fn sign(self, text: &str) -> Vec<u8> {
        let (ring, random) = (keyring(), SystemRandom::new());
        let rsa = |key: &RsaKeyPair, padding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(padding, &random, text.as_bytes(), &mut signature)
                .unwrap();
            signature
        };
        let ec = |key: &EcdsaKeyPair| {
            let signature = key.sign(&random, text.as_bytes()).unwrap();
            signature.as_ref().to_vec()
        };
        match self {
            Self::Rs256 => rsa(&ring.rsa, &RSA_PKCS1_SHA256),
            Self::Rs512 => rsa(&ring.rsa, &RSA_PKCS1_SHA512),
            Self::Ps256 => rsa(&ring.rsa, &RSA_PSS_SHA256),
            Self::OtherRsa => rsa(&ring.other_rsa, &RSA_PKCS1_SHA256),
            Self::Es256 => ec(&ring.p256),
            Self::Es256Der => ec(&ring.p256_der),
            Self::Es384 => ec(&ring.p384),
            Self::Ed => ring.ed.sign(text.as_bytes()).as_ref().to_vec(),
        }
    }
}

fn token(by: By, header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", encoded(header), encoded(payload));
    let signature = encoded(by.sign(&signed));
    format!("{signed}.{signature}")
}

const GOOD: &str = r#"{"iss":"https://issuer.example.com","sub":"alice","exp":1800000600,"aud":"shop","groups":["staff","red"],"n":{"m":7},"scope":"read write"}"#;

fn good() -> String {
    token(By::Es256, r#"{"alg":"ES256","kid":"p256"}"#, GOOD)
}

fn provider() -> Provider {
    let mut provider = Provider::new("p", Some(ISSUER), Keys::Local(key_set()));
    provider.metadata = Some("payload".into());
    provider
}

fn everything() -> RouteMatch {
    RouteMatch {
        path: PathMatch::Prefix("/".to_owned()),
        case_sensitive: true,
        headers: Vec::new(),
        query_parameters: Vec::new(),
    }
}

/// One provider, whose tokens may be missing.
fn optional(provider: Provider) -> JwtAuthn {
    let any = Requirement::Any(vec![
        Requirement::Provider(0, None),
        Requirement::AllowMissing(vec![0]),
    ]);
    JwtAuthn::new(vec![Arc::new(provider)], vec![(everything(), Some(any))])
}

/// A request, and the moment of it.
struct Ask {
    method: Method,
    path: String,
    headers: HeaderMap,
    now: u64,
}

impl Ask {
    fn at(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            now: NOW,
        }
    }

    fn bearing(token: &str) -> Self {
        Self::at("/a").with("authorization", &format!("Bearer {token}"))
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        self.headers.append(name, value);
        self
    }

    fn of(&self, filter: &JwtAuthn) -> Found {
        self.again(filter, &mut TokenCaches::default(), &[])
    }

    fn again(
        &self,
        filter: &JwtAuthn,
        caches: &mut TokenCaches,
        tried: &[Arc<RemoteKeys>],
    ) -> Found {
        let request = RequestView {
            method: &self.method,
            authority: "shop",
            path_and_query: &self.path,
            scheme: "http",
            headers: &self.headers,
        };
        filter.judge(&request, None, self.now, caches, tried)
    }

    fn fault(&self, filter: &JwtAuthn) -> Option<Fault> {
        match self.of(filter) {
            Found::Passed { .. } => None,
            Found::Refused(refusal) => Some(refusal.fault),
            Found::Wants(_) => panic!("wants keys"),
        }
    }

    fn good(&self, filter: &JwtAuthn) -> Vec<Good> {
        match self.of(filter) {
            Found::Passed { good, .. } => good,
            other => panic!("{other:?}"),
        }
    }
}
