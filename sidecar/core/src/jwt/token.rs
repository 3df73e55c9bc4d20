//! A token as it was sent, taken apart: three parts of base64url with a dot between them (RFC 7515 section 3.1).
//!
//! Strict: one spelling only. Nothing in it is believed before its signature is verified; the header says which
//! algorithm was used, and the key decides whether it may be.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{Alg, Claim, Claims, Fault, Fault::Malformed};

/// Bytes of a token. Envoy takes what fits into a header; nobody's tokens are half as large.
pub const MAX_TOKEN: usize = 16 << 10;

/// A token that can be read.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) alg: Alg,
    pub(super) kid: Option<Box<str>>,
    /// Header, dot, payload.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
    pub(super) payload: &'a str,
    pub(super) claims: Claims,
    pub(super) facts: TokenFacts,
}

/// What every reader of a token wants to know. Unix seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TokenFacts {
    pub(super) issuer: Option<Arc<str>>,
    pub(super) subject: Option<Box<str>>,
    pub(super) audiences: Box<[Box<str>]>,
    pub(super) expires: Option<u64>,
    pub(super) not_before: u64,
}

impl<'a> Token<'a> {
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, Fault> {
        if text.len() > MAX_TOKEN {
            return Err(Fault::TooLarge);
        }
        // ASCII by what base64 takes; anything else is no token.
        let text = std::str::from_utf8(text).map_err(|_not| FORM)?;
        let (signed, signature) = text.rsplit_once('.').ok_or(FORM)?;
        let (header, payload) = signed.split_once('.').ok_or(FORM)?;
        if payload.contains('.') || [header, payload, signature].contains(&"") {
            return Err(FORM);
        }
        let part = |text: &str, fault| URL_SAFE_NO_PAD.decode(text).map_err(|_error| fault);
        let json = |text: &[u8], fault| Claims::parse(text).map_err(|_error| fault);
        let header = part(
            header,
            Malformed("Jwt header is an invalid Base64url encoded"),
        )?;
        let header = json(&header, Malformed("Jwt header is an invalid JSON"))?;
        let (alg, kid) = read_header(&header)?;
        let bytes = part(
            payload,
            Malformed("Jwt payload is an invalid Base64url encoded"),
        )?;
        let claims = json(&bytes, Malformed("Jwt payload is an invalid JSON"))?;
        Ok(Self {
            alg,
            kid,
            signed: signed.as_bytes(),
            signature: part(
                signature,
                Malformed("Jwt signature is an invalid Base64url encoded"),
            )?,
            payload,
            facts: facts(&claims)?,
            claims,
        })
    }
}

const FORM: Fault =
    Malformed("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections");

fn read_header(header: &Claims) -> Result<(Alg, Option<Box<str>>), Fault> {
    let Some(Claim::Text(alg)) = header.get("alg") else {
        let message = "Jwt header [alg] field is required and must be a string";
        return Err(Malformed(message));
    };
    // `none` and the symmetric ones among them: nobody can verify these with a public key.
    let alg = Alg::named(alg).ok_or(Malformed("Jwt header [alg] is not supported"))?;
    let kid = match header.get("kid") {
        None => None,
        Some(Claim::Text(kid)) => Some(kid.clone()),
        Some(_) => return Err(Malformed("Jwt header [kid] field is not a string")),
    };
    // What is critical has to be understood (RFC 7515 section 4.1.11), and none of it is. `b64` changes what is signed.
    if header.get("crit").is_some() || header.get("b64").is_some() {
        return Err(Malformed(
            "Jwt header [crit] asks for extensions that are not supported",
        ));
    }
    // Encrypted, or a token in a token.
    if header.get("enc").is_some() || header.get("zip").is_some() {
        return Err(Malformed("Jwt is not a signed one"));
    }
    Ok((alg, kid))
}

fn facts(claims: &Claims) -> Result<TokenFacts, Fault> {
    text(
        claims,
        "jti",
        Malformed("Jwt payload [jti] field is not a string"),
    )?;
    time(
        claims,
        "iat",
        Malformed("Jwt payload [iat] field is not a positive 64 bit integer"),
    )?;
    let issuer = text(
        claims,
        "iss",
        Malformed("Jwt payload [iss] field is not a string"),
    )?;
    let subject = text(
        claims,
        "sub",
        Malformed("Jwt payload [sub] field is not a string"),
    )?;
    Ok(TokenFacts {
        issuer: issuer.map(Arc::from),
        subject: subject.map(Box::from),
        audiences: audiences(claims)?,
        expires: time(
            claims,
            "exp",
            Malformed("Jwt payload [exp] field is not a positive 64 bit integer"),
        )?,
        not_before: time(
            claims,
            "nbf",
            Malformed("Jwt payload [nbf] field is not a positive 64 bit integer"),
        )?
        .unwrap_or(0),
    })
}

fn text<'c>(claims: &'c Claims, name: &str, fault: Fault) -> Result<Option<&'c str>, Fault> {
    match claims.get(name) {
        None => Ok(None),
        Some(Claim::Text(text)) => Ok(Some(text)),
        Some(_) => Err(fault),
    }
}

/// A fraction of a second is cut (RFC 7519 allows one).
fn time(claims: &Claims, name: &str, fault: Fault) -> Result<Option<u64>, Fault> {
    match claims.get(name) {
        None => Ok(None),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in range, as the guard says"
        )]
        Some(Claim::Number(number)) if (0.0..LATEST).contains(number) => Ok(Some(*number as u64)),
        Some(_) => Err(fault),
    }
}

/// 2^53: up to here a double is exact.
const LATEST: f64 = 9_007_199_254_740_992.0;

fn audiences(claims: &Claims) -> Result<Box<[Box<str>]>, Fault> {
    let fault = Malformed("Jwt payload [aud] field is not a string or string list");
    match claims.get("aud") {
        None => Ok(Box::default()),
        Some(Claim::Text(one)) => Ok([one.clone()].into()),
        Some(Claim::List(all)) => all
            .iter()
            .map(|one| match one {
                Claim::Text(one) => Ok(one.clone()),
                _ => Err(fault),
            })
            .collect(),
        Some(_) => Err(fault),
    }
}
