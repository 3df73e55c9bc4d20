//! A key set as it stands in a document: each key of a kind that sidecars can use, and no secret among them. What is
//! published here is read by everybody who may read policies.
//! Source: RFC 7517, RFC 7518 section 6, RFC 8037.

use std::collections::BTreeSet;

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Map, Value};

/// As sidecars take it.
const MAX_KEYS: usize = 100;
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const OF_RSA: [&str; 6] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
/// What only the private half of a key has.
const SECRET: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What is wrong with a set, if anything.
pub(super) fn fault(text: &str) -> Option<String> {
    let set: Value = match serde_json::from_str(text) {
        Ok(set) => set,
        Err(error) => return Some(format!("is not JSON: {error}")),
    };
    let Some(keys) = set.get("keys").and_then(Value::as_array) else {
        return Some("has no list \"keys\"; want a JSON Web Key Set: {\"keys\":[…]}".to_owned());
    };
    if keys.is_empty() || keys.len() > MAX_KEYS {
        let found = keys.len();
        return Some(format!("has {found} keys, want 1 to {MAX_KEYS}"));
    }
    let mut ids = BTreeSet::new();
    for (index, key) in keys.iter().enumerate() {
        let Some(key) = key.as_object() else {
            return Some(format!("keys[{index}] is not an object"));
        };
        if let Some(fault) = key_fault(key) {
            return Some(format!("keys[{index}] {fault}"));
        }
        if let Some(id) = key.get("kid").and_then(Value::as_str)
            && !ids.insert(id)
        {
            return Some(format!("keys[{index}] has the kid {id:?} of another key"));
        }
    }
    None
}

fn key_fault(key: &Map<String, Value>) -> Option<String> {
    let kind = match text(key, "kty") {
        Ok(kind) => kind,
        Err(fault) => return Some(fault),
    };
    if kind == "oct" {
        let message = "is a symmetric key (kty oct): whoever can read it could make tokens; use RSA, EC or OKP";
        return Some(message.to_owned());
    }
    if let Some(secret) = SECRET.iter().find(|name| key.contains_key(**name)) {
        return Some(format!(
            "has {secret:?}, the secret half of a key: replace that key, and write the public half only"
        ));
    }
    if key.get("use").is_some_and(|purpose| purpose != "sig") {
        return Some(format!("has use {}, want \"sig\"", key.get("use")?));
    }
    if let Some(operations) = key.get("key_ops") {
        let all = operations.as_array();
        if !all.is_some_and(|all| all.iter().any(|one| one == "verify")) {
            return Some(format!("has key_ops {operations}, want [\"verify\"]"));
        }
    }
    for name in ["kid", "alg"] {
        if key.get(name).is_some_and(|value| !value.is_string()) {
            return Some(format!("has a {name} that is not a text"));
        }
    }
    let checked = match kind {
        "RSA" => rsa(key),
        "EC" => elliptic(key),
        "OKP" => edwards(key),
        other => Err(format!("has kty {other:?}, want RSA, EC or OKP")),
    };
    let algorithms = match checked {
        Ok(algorithms) => algorithms,
        Err(fault) => return Some(fault),
    };
    let found = key.get("alg").and_then(Value::as_str)?;
    (!algorithms.contains(&found)).then(|| {
        format!(
            "has alg {found:?}, which does not go with its kty; want {}",
            algorithms.join(", ")
        )
    })
}

fn rsa(key: &Map<String, Value>) -> Result<&'static [&'static str], String> {
    let n = bytes(key, "n")?;
    let bits = n.iter().skip_while(|byte| **byte == 0).count() * 8;
    if !(2048..=8192).contains(&bits) {
        return Err(format!("has {bits} bits; want 2048 to 8192"));
    }
    let e = bytes(key, "e")?;
    let is_small = e.iter().rev().skip(1).all(|byte| *byte == 0) && e.last().is_none_or(|e| *e < 3);
    if is_small || e.len() > 4 || e.last().is_none_or(|last| last % 2 == 0) {
        return Err("has an e that is no public exponent; it is AQAB mostly".to_owned());
    }
    Ok(&OF_RSA)
}

fn elliptic(key: &Map<String, Value>) -> Result<&'static [&'static str], String> {
    let (algorithms, size): (&[&str], usize) = match text(key, "crv")? {
        "P-256" => (&["ES256"], 32),
        "P-384" => (&["ES384"], 48),
        "P-521" => (&["ES512"], 66),
        other => return Err(format!("has crv {other:?}, want P-256, P-384 or P-521")),
    };
    for name in ["x", "y"] {
        sized(key, name, size)?;
    }
    Ok(algorithms)
}

fn edwards(key: &Map<String, Value>) -> Result<&'static [&'static str], String> {
    match text(key, "crv")? {
        "Ed25519" => sized(key, "x", 32).map(|()| &["EdDSA"][..]),
        other => Err(format!("has crv {other:?}, want Ed25519")),
    }
}

fn sized(key: &Map<String, Value>, name: &str, size: usize) -> Result<(), String> {
    match bytes(key, name)?.len() {
        found if found == size => Ok(()),
        found => Err(format!("has an {name} of {found} bytes, want {size}")),
    }
}

fn text<'k>(key: &'k Map<String, Value>, name: &str) -> Result<&'k str, String> {
    match key.get(name) {
        None => Err(format!("has no {name}")),
        Some(value) => value
            .as_str()
            .ok_or_else(|| format!("has {name} {value}, want a text")),
    }
}

fn bytes(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    LENIENT
        .decode(text(key, name)?)
        .map_err(|_error| format!("has an {name} that is not base64url"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn of(key: &str) -> Option<String> {
        fault(&format!("{{\"keys\":[{key}]}}"))
    }

    #[test]
    fn public_keys_of_every_kind_are_taken() {
        let n = LENIENT.encode([255; 256]);
        for key in [
            format!(
                r#"{{"kty":"EC","crv":"P-256","x":"{X}","y":"{X}","kid":"a","use":"sig","alg":"ES256"}}"#
            ),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{X}","key_ops":["verify"]}}"#),
            format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","alg":"PS512"}}"#),
            format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","x5c":["ignored"]}}"#),
        ] {
            assert_eq!(of(&key), None, "{key}");
        }
    }

    #[test]
    fn secrets_and_what_no_sidecar_could_use_are_refused_in_words() {
        let n = LENIENT.encode([255; 256]);
        let short = LENIENT.encode([255; 128]);
        let cases = [
            (
                r#"{"kty":"oct","k":"c2VjcmV0"}"#.to_owned(),
                "symmetric key",
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{X}","y":"{X}","d":"{X}"}}"#),
                "secret half",
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","p":"AQAB"}}"#),
                "secret half",
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{short}","e":"AQAB"}}"#),
                "1024 bits",
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQ"}}"#),
                "public exponent",
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAC"}}"#),
                "public exponent",
            ),
            (format!(r#"{{"kty":"RSA","n":"{n}"}}"#), "has no e"),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","alg":"HS256"}}"#),
                "alg \"HS256\"",
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","alg":"ES256"}}"#),
                "alg \"ES256\"",
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","use":"enc"}}"#),
                "want \"sig\"",
            ),
            (
                format!(r#"{{"kty":"EC","crv":"secp256k1","x":"{X}","y":"{X}"}}"#),
                "crv \"secp256k1\"",
            ),
            (
                r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#.to_owned(),
                "an x of 1 bytes",
            ),
            (
                r#"{"kty":"EC","crv":"P-256","x":"*","y":"AA"}"#.to_owned(),
                "not base64url",
            ),
            (r#"{"kty":"DSA"}"#.to_owned(), "kty \"DSA\""),
            ("1".to_owned(), "not an object"),
            (
                format!(
                    r#"{{"kty":"OKP","crv":"Ed25519","x":"{X}","kid":"a"}},{{"kty":"OKP","crv":"Ed25519","x":"{X}","kid":"a"}}"#
                ),
                "of another key",
            ),
        ];
        for (key, wanted) in cases {
            let found = of(&key).unwrap_or_default();
            assert!(found.contains(wanted), "{key}: {found}");
        }
        assert!(fault("keys").is_some_and(|fault| fault.contains("not JSON")));
        assert!(fault(r#"{"keys":[]}"#).is_some_and(|fault| fault.contains("0 keys")));
        assert!(fault(r#"{"keys":{}}"#).is_some_and(|fault| fault.contains("no list")));
    }
}
