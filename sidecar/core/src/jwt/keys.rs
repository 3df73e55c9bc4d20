//! Keys of an issuer: a JSON Web Key Set (RFC 7517). Each key is good for the algorithms that its own type has, so that
//! what a token's header says can never make a key of one kind be used as another.
//!
//! Symmetric keys are never used: a set that everybody may read would let everybody make tokens.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, VerificationAlgorithm,
};
use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{Claim, Claims, Fault, token::Token};

/// Bytes of a key set.
pub const MAX_KEY_SET: usize = 1 << 20;
/// Keys of a set. A token without `kid` may have to be held against all of them.
pub const MAX_KEYS: usize = 100;

/// Servers are not strict about padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a token is signed. There is no way to say `none` or HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alg {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

const ALL: [(&str, Alg); 10] = [
    ("RS256", Alg::Rs256),
    ("RS384", Alg::Rs384),
    ("RS512", Alg::Rs512),
    ("PS256", Alg::Ps256),
    ("PS384", Alg::Ps384),
    ("PS512", Alg::Ps512),
    ("ES256", Alg::Es256),
    ("ES384", Alg::Es384),
    ("ES512", Alg::Es512),
    ("EdDSA", Alg::EdDsa),
];
const OF_RSA: [Alg; 6] = [
    Alg::Rs256,
    Alg::Rs384,
    Alg::Rs512,
    Alg::Ps256,
    Alg::Ps384,
    Alg::Ps512,
];

impl Alg {
    /// By its exact name (RFC 7518 section 3.1, RFC 8037).
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut all = ALL.iter();
        all.find_map(|(own, alg)| (*own == name).then_some(*alg))
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &RSA_PSS_2048_8192_SHA512,
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &ECDSA_P521_SHA512_FIXED,
            Self::EdDsa => &ED25519,
        }
    }
}

/// Why a text is no key set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySetError {
    /// Longer than [`MAX_KEY_SET`].
    TooLarge(usize),
    /// Not JSON, or not strictly.
    Json(String),
    /// `keys` is missing or not a list.
    NoKeys,
    /// More than [`MAX_KEYS`].
    TooMany(usize),
    /// None of the keys can be used; the first reasons.
    NoneUsable(Vec<String>),
}

impl std::error::Error for KeySetError {}

impl fmt::Display for KeySetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(bytes) => {
                write!(f, "{bytes} bytes; a key set has at most {MAX_KEY_SET}")
            }
            Self::Json(error) => write!(f, "not JSON: {error}"),
            Self::NoKeys => f.write_str("has no list \"keys\""),
            Self::TooMany(found) => write!(f, "has {found} keys; at most {MAX_KEYS}"),
            Self::NoneUsable(reasons) if reasons.is_empty() => f.write_str("\"keys\" is empty"),
            Self::NoneUsable(reasons) => {
                write!(f, "no key can be used: {}", reasons.join("; "))
            }
        }
    }
}

/// The keys that can be used.
#[derive(Debug)]
pub struct KeySet {
    keys: Box<[Key]>,
    /// What they were read from.
    text: Claims,
    /// Why others cannot.
    unusable: Vec<String>,
}

struct Key {
    kid: Option<Box<str>>,
    verifiers: Vec<(Alg, ParsedPublicKey)>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.kid)
    }
}

impl KeySet {
    /// Reads a set. Keys of kinds that are not used here (encryption, HMAC, other curves) are left out, as RFC 7517 asks.
    ///
    /// # Errors
    /// [`KeySetError`]: not a set, or none of its keys can be used.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_KEY_SET {
            return Err(KeySetError::TooLarge(text.len()));
        }
        let set = Claims::parse(text).map_err(|error| KeySetError::Json(error.to_string()))?;
        let Some(Claim::List(found)) = set.get("keys") else {
            return Err(KeySetError::NoKeys);
        };
        if found.len() > MAX_KEYS {
            return Err(KeySetError::TooMany(found.len()));
        }
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for (index, one) in found.iter().enumerate() {
            match key(one) {
                Ok(key) => keys.push(key),
                Err(why) => unusable.push(format!("keys[{index}]: {why}")),
            }
        }
        if keys.is_empty() {
            unusable.truncate(SHOWN);
            return Err(KeySetError::NoneUsable(unusable));
        }
        Ok(Self {
            keys: keys.into(),
            unusable,
            text: set,
        })
    }

    /// Whether another set says the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.text == other.text
    }

    /// How many keys can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Never: a set without a key that can be used is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Why the other keys of the text cannot be used.
    #[must_use]
    pub fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// Whether one of the keys has made the token's signature. As in Envoy, a `kid` chooses among keys that have one; a
    /// key without, or a token without, is tried.
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<(), Fault> {
        let mut fault = Fault::NoKey;
        for key in &self.keys {
            if let (Some(asked), Some(own)) = (&token.kid, &key.kid)
                && asked != own
            {
                continue;
            }
            let mut of_alg = key.verifiers.iter().filter(|(alg, _)| *alg == token.alg);
            if let Some((_, verifier)) = of_alg.next() {
                if verifier.verify_sig(token.signed, &token.signature).is_ok() {
                    return Ok(());
                }
                fault = Fault::Signature;
            }
        }
        Err(fault)
    }
}

const SHOWN: usize = 3;

fn key(from: &Claim) -> Result<Key, String> {
    let Claim::Object(from) = from else {
        return Err("is not an object".to_owned());
    };
    let text = |name: &str| match from.get(name) {
        None => Ok(None),
        Some(Claim::Text(text)) => Ok(Some(&**text)),
        Some(_) => Err(format!("{name} is not a text")),
    };
    if text("use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("is not for signatures (use)".to_owned());
    }
    if let Some(Claim::List(operations)) = from.get("key_ops")
        && !operations.contains(&Claim::Text("verify".into()))
    {
        return Err("is not for verification (key_ops)".to_owned());
    }
    if from.get("d").is_some() {
        return Err("is a private key, which is no secret any more; replace it".to_owned());
    }
    let needed = |name: &str| text(name)?.ok_or_else(|| format!("{name} is missing"));
    let bytes = |name: &str| {
        let text = needed(name)?;
        LENIENT
            .decode(text)
            .map_err(|_error| format!("{name} is not base64url"))
    };
    let (algs, material): (&[Alg], Vec<u8>) = match needed("kty")? {
        "RSA" => (&OF_RSA, rsa(&bytes("n")?, &bytes("e")?)?),
        "EC" => {
            let (algs, size): (&[Alg], usize) = match needed("crv")? {
                "P-256" => (&[Alg::Es256], 32),
                "P-384" => (&[Alg::Es384], 48),
                "P-521" => (&[Alg::Es512], 66),
                other => return Err(format!("crv {other:?} is not supported")),
            };
            (algs, point(&bytes("x")?, &bytes("y")?, size)?)
        }
        "OKP" => match needed("crv")? {
            "Ed25519" => (&[Alg::EdDsa], bytes("x")?),
            other => return Err(format!("crv {other:?} is not supported")),
        },
        "oct" => return Err("is a symmetric key (oct), which is never used".to_owned()),
        other => return Err(format!("kty {other:?} is not supported")),
    };
    let only = match text("alg")? {
        None => None,
        Some(name) => {
            let alg = Alg::named(name).filter(|alg| algs.contains(alg));
            Some(alg.ok_or_else(|| format!("alg {name:?} does not go with its kty and crv"))?)
        }
    };
    let algs = algs
        .iter()
        .filter(|alg| only.is_none_or(|only| only == **alg));
    let verifiers: Result<Vec<_>, _> = algs
        .map(|alg| ParsedPublicKey::new(alg.verification(), &material).map(|key| (*alg, key)))
        .collect();
    Ok(Key {
        kid: text("kid")?.filter(|kid| !kid.is_empty()).map(Box::from),
        verifiers: verifiers.map_err(|error| format!("is no valid public key ({error})"))?,
    })
}

/// `RSAPublicKey` of RFC 8017, in DER.
fn rsa(n: &[u8], e: &[u8]) -> Result<Vec<u8>, String> {
    let (n, e) = (without_zeros(n), without_zeros(e));
    // 1024 bytes are 8192 bits.
    if !(256..=1024).contains(&n.len()) {
        return Err(format!(
            "has {} bits; 2048 to 8192 are supported",
            n.len() * 8
        ));
    }
    let is_small = e.len() == 1 && e.first().is_none_or(|e| *e < 3);
    if e.is_empty() || e.len() > 4 || is_small || e.last().is_none_or(|last| last % 2 == 0) {
        return Err("e is not a public exponent".to_owned());
    }
    let body = [integer(n), integer(e)].concat();
    Ok(tagged(0x30, &body))
}

fn without_zeros(mut number: &[u8]) -> &[u8] {
    while let Some((0, rest)) = number.split_first() {
        number = rest;
    }
    number
}

/// Positive: the first bit of it is not set.
fn integer(number: &[u8]) -> Vec<u8> {
    let high = number.first().is_some_and(|first| *first >= 0x80);
    let zero: &[u8] = if high { &[0] } else { &[] };
    tagged(0x02, &[zero, number].concat())
}

fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let [.., high, low] = length.to_be_bytes();
    let head: &[u8] = match length {
        0..=0x7f => &[tag, low],
        0x80..=0xff => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    [head, body].concat()
}

/// Uncompressed (SEC 1).
fn point(x: &[u8], y: &[u8], size: usize) -> Result<Vec<u8>, String> {
    if x.len() != size || y.len() != size {
        return Err(format!("x and y must have {size} bytes"));
    }
    Ok([&[4], x, y].concat())
}
