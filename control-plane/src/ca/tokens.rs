//! Join tokens as text: `<secret>.<hex SHA-256 of the root>`. The secret buys one key a certificate
//! of one identity; the second part lets the sidecar recognise the control plane.

use aws_lc_rs::{digest, rand};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rcgen::{PublicKeyData as _, SubjectPublicKeyInfo};

/// Length of a secret as text: 32 bytes.
const SECRET_CHARS: usize = 43;
/// Longest text that is looked at.
const MAX_CHARS: usize = 256;

/// A new secret, as text.
pub(crate) fn new_secret() -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// What the store knows a secret by. A secret has 256 bits of randomness, so a plain hash is enough,
/// and looking it up tells nothing: who does not know the secret cannot choose its hash.
pub(crate) fn hash(secret: &str) -> digest::Digest {
    digest::digest(&digest::SHA256, secret.as_bytes())
}

/// What a used token knows the key by that it was used for.
pub(crate) fn key_sha256(key: &SubjectPublicKeyInfo) -> String {
    let spki = key.subject_public_key_info();
    super::hex(digest::digest(&digest::SHA256, &spki).as_ref())
}

/// The secret of a token, with or without the part after the dot.
pub(crate) fn secret_of(token: &str) -> Option<&str> {
    if token.len() > MAX_CHARS {
        return None;
    }
    let secret = token.split_once('.').map_or(token, |(secret, _)| secret);
    (secret.len() == SECRET_CHARS).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_understood_with_and_without_its_pin() {
        let secret = new_secret().unwrap();
        assert_eq!(secret_of(&secret), Some(secret.as_str()));
        assert_eq!(secret_of(&format!("{secret}.00ff")), Some(secret.as_str()));
        assert_eq!(secret_of("short.00ff"), None);
        assert_eq!(secret_of(&"x".repeat(300)), None);
    }

    #[test]
    fn two_secrets_differ() {
        assert_ne!(new_secret().unwrap(), new_secret().unwrap());
    }
}
