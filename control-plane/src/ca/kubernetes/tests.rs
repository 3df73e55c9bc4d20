use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use serde_json::{Value, json};

use super::*;

/// A cluster that signs tokens with ES256.
struct Cluster {
    key: KeyPair,
    kid: &'static str,
}

impl Cluster {
    fn new(kid: &'static str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self { key, kid }
    }

    fn jwk(&self) -> Value {
        // The point is the end of an uncompressed public key: 0x04, x, y.
        let spki = self.key.subject_public_key_info();
        let point = &spki[spki.len() - 64..];
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": BASE64_URL_SAFE_NO_PAD.encode(&point[..32]),
            "y": BASE64_URL_SAFE_NO_PAD.encode(&point[32..]),
        })
    }

    fn sign(&self, claims: &Value) -> String {
        let key = EncodingKey::from_ec_der(&self.key.serialize_der());
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.to_owned());
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://cluster", "sub": "system:serviceaccount:shop:reviews", "aud": ["outrigger-ca"],
        "exp": unix_now() + 600, "iat": unix_now(),
        "kubernetes.io": {
            "namespace": "shop",
            "pod": { "name": "reviews-1", "uid": "p" },
            "serviceaccount": { "name": "reviews", "uid": "s" },
        },
    })
}

fn by_file(path: &Path) -> KubernetesTokens {
    let config = Kubernetes {
        check: KubernetesCheck::KeysFile(path.to_owned()),
        issuer: Some("https://cluster".to_owned()),
        audiences: vec!["outrigger-ca".to_owned()],
        ca: None,
        token_file: None,
    };
    KubernetesTokens::new(&config).unwrap()
}

async fn reason(tokens: &KubernetesTokens, token: &str) -> &'static str {
    tokens.account(token).await.unwrap_err().reason
}

#[tokio::test]
async fn a_token_of_the_cluster_is_taken_and_one_of_another_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let (cluster, other) = (Cluster::new("one"), Cluster::new("one"));
    // Keys of other kinds beside ours harm nobody.
    let set = json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "shared" }, { "kty": "new" }, cluster.jwk()] });
    std::fs::write(&file, set.to_string()).unwrap();
    let tokens = by_file(&file);

    let account = tokens.account(&cluster.sign(&claims())).await.unwrap();
    assert_eq!((&*account.namespace, &*account.name), ("shop", "reviews"));
    assert_eq!(reason(&tokens, &other.sign(&claims())).await, "signature");
}

#[tokio::test]
async fn a_token_that_is_signed_with_a_public_key_as_a_secret_or_not_at_all_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let cluster = Cluster::new("one");
    let shared = json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256" });
    std::fs::write(
        &file,
        json!({ "keys": [cluster.jwk(), shared] }).to_string(),
    )
    .unwrap();
    let tokens = by_file(&file);
    for kid in ["one", "shared"] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        let key = EncodingKey::from_secret(b"secret");
        let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
        assert_eq!(reason(&tokens, &token).await, "algorithm");
    }
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let none = format!(
        "{}.{}.",
        part(json!({ "alg": "none", "kid": "one" })),
        part(claims())
    );
    assert_eq!(reason(&tokens, &none).await, "malformed");
    // Somebody else's claims under a good signature.
    let token = cluster.sign(&claims());
    let mut parts: Vec<&str> = token.split('.').collect();
    let mut admin = claims();
    admin["sub"] = "system:serviceaccount:shop:admin".into();
    admin["kubernetes.io"]["serviceaccount"]["name"] = "admin".into();
    let admin = part(admin);
    parts[1] = &admin;
    assert_eq!(reason(&tokens, &parts.join(".")).await, "signature");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_and_strangers_do_not_make_us_read_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let (old, new) = (Cluster::new("old"), Cluster::new("new"));
    std::fs::write(&file, json!({ "keys": [old.jwk()] }).to_string()).unwrap();
    let tokens = by_file(&file);
    tokens.account(&old.sign(&claims())).await.unwrap();
    // Read just now: the new key is not looked for before ten seconds are over.
    std::fs::write(&file, json!({ "keys": [old.jwk(), new.jwk()] }).to_string()).unwrap();
    let token = new.sign(&claims());
    assert_eq!(reason(&tokens, &token).await, "unknown_key");
    tokio::time::advance(std::time::Duration::from_secs(11)).await;
    tokens.account(&token).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_are_used_for_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let cluster = Cluster::new("one");
    std::fs::write(&file, json!({ "keys": [cluster.jwk()] }).to_string()).unwrap();
    let tokens = by_file(&file);
    let token = cluster.sign(&claims());
    tokens.account(&token).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    tokio::time::advance(std::time::Duration::from_secs(3600)).await;
    tokens.account(&token).await.unwrap();
    tokio::time::advance(std::time::Duration::from_secs(24 * 3600)).await;
    assert_eq!(reason(&tokens, &token).await, "unavailable");
}

/// As kube-apiserver signs by default: RS256.
#[tokio::test]
async fn a_token_that_is_signed_with_rsa_is_taken() {
    let pair =
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let spki = pair.subject_public_key_info();
    let (_, info) = <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(&spki).unwrap();
    let x509_parser::public_key::PublicKey::RSA(public) = info.parsed().unwrap() else {
        panic!("not RSA");
    };
    let number = |bytes: &[u8]| {
        let first = bytes.iter().position(|byte| *byte != 0).unwrap();
        BASE64_URL_SAFE_NO_PAD.encode(&bytes[first..])
    };
    let jwk = json!({
        "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "rsa",
        "n": number(public.modulus), "e": number(public.exponent),
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    std::fs::write(&file, json!({ "keys": [jwk] }).to_string()).unwrap();
    // What PKCS#8 has around PKCS#1, for 2048 bits.
    const AROUND: usize = 26;
    let key = EncodingKey::from_rsa_der(&pair.serialize_der()[AROUND..]);
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some("rsa".to_owned());
    let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
    by_file(&file).account(&token).await.unwrap();
}
