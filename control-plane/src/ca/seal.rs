//! Keys at rest: an envelope that only who has the sealing key can open.
//!
//! ```text
//! private key ─seal(first key)─► {v, algorithm, key_id, nonce, ciphertext} ─► store
//! ```
//! AES-256-GCM with random nonces; a key seals a handful of times in its life. What an envelope is for goes into it as
//! associated data, so that one cannot be put in another's place. Several keys may be given: the first seals, all open,
//! which is how the sealing key is exchanged.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest, rand,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::{hex, root::write_private};

/// Length of a key, in bytes.
pub(crate) const KEY_BYTES: usize = 32;
/// Keys in one file: the new one and a few old ones.
const MAX_KEYS: usize = 8;
/// A file of keys is not longer.
const MAX_FILE_BYTES: u64 = 4096;
/// Form of the envelope.
const VERSION: u32 = 1;
/// What is written beside the ciphertext.
const ALGORITHM: &str = "AES-256-GCM";
/// File in the data directory if nothing else is given.
pub(crate) const FILE: &str = "root-encryption.key";

/// There is no usable sealing key, or an envelope does not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// Reading or writing the file.
    #[error("{doing} the root's encryption key {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Not a key.
    #[error("{origin}: {problem}")]
    Key { origin: String, problem: String },
    /// The store's envelope is for another key.
    #[error(
        "the root key in the store is encrypted with the key {wanted}, and {origin} holds {found}; give that key (--root-key-encryption-file, or OUTRIGGER_ROOT_KEY_ENCRYPTION_KEY), nothing was changed"
    )]
    WrongKey {
        wanted: String,
        origin: String,
        found: String,
    },
    /// Written by another version, or damaged.
    #[error("the encrypted root key in the store cannot be read: {0}")]
    Envelope(String),
}

/// What the store holds in place of a private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    v: u32,
    algorithm: String,
    /// Of the key that opens it.
    key_id: String,
    nonce: String,
    ciphertext: String,
}

/// The keys, the one that seals first.
pub(crate) struct SealingKeys {
    keys: Vec<(String, RandomizedNonceKey)>,
    /// Where they are from, for errors.
    origin: String,
}

impl std::fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealingKeys")
            .field("origin", &self.origin)
            .field("keys", &self.ids())
            .finish()
    }
}

impl SealingKeys {
    /// From text: one key a line, as 64 hex digits or base64; lines that begin with `#` are passed over.
    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, SealError> {
        let wrong = |problem: String| SealError::Key {
            origin: origin.to_owned(),
            problem,
        };
        let mut keys = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = key_bytes(line).ok_or_else(|| {
                wrong(format!(
                    "line {} is not a key; a key is {KEY_BYTES} bytes as 64 hex digits or in base64 (`openssl rand -hex {KEY_BYTES}`)",
                    n + 1
                ))
            })?;
            keys.push(sealing_key(&bytes).map_err(wrong)?);
        }
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(wrong(format!(
                "holds {} keys; give 1 to {MAX_KEYS}, one a line",
                keys.len()
            )));
        }
        Ok(Self {
            keys,
            origin: origin.to_owned(),
        })
    }

    /// From a file.
    pub(crate) fn read(path: &Path) -> Result<Self, SealError> {
        let failed = |source| SealError::File {
            doing: "reading",
            path: path.to_owned(),
            source,
        };
        let found = fs::metadata(path).map_err(failed)?;
        let origin = path.display().to_string();
        if found.len() > MAX_FILE_BYTES {
            return Err(SealError::Key {
                origin,
                problem: format!("has {} bytes; a file of keys is short", found.len()),
            });
        }
        if found.mode() & 0o077 != 0 {
            let mode = format!("{:o}", found.mode() & 0o777);
            tracing::warn!(path = %path.display(), mode, "others can read the root's encryption key; chmod 600");
        }
        Self::parse(&fs::read_to_string(path).map_err(failed)?, &origin)
    }

    /// The file in the data directory, which is made if `may_make`.
    pub(crate) fn beside_store(data_dir: &Path, may_make: bool) -> Result<Self, SealError> {
        let path = data_dir.join(FILE);
        if may_make && !path.exists() {
            let mut key = [0; KEY_BYTES];
            rand::fill(&mut key).map_err(|_unspecified| SealError::Key {
                origin: path.display().to_string(),
                problem: "no random bytes".to_owned(),
            })?;
            let text = format!(
                "# Encrypts the private keys of the mesh's roots in the store. Back it up apart from the store.\n{}\n",
                BASE64_STANDARD.encode(key)
            );
            write_private(&path, text.as_bytes()).map_err(|error| SealError::Key {
                origin: path.display().to_string(),
                problem: error.to_string(),
            })?;
        }
        Self::read(&path)
    }

    /// Seals for `purpose`.
    pub(crate) fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Sealed, SealError> {
        let failed = || SealError::Envelope("encrypting failed".to_owned());
        let (key_id, key) = self.keys.first().ok_or_else(failed)?;
        let mut text = plain.to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut text)
            .map_err(|_unspecified| failed())?;
        let nonce: &[u8; NONCE_LEN] = nonce.as_ref();
        Ok(Sealed {
            v: VERSION,
            algorithm: ALGORITHM.to_owned(),
            key_id: key_id.clone(),
            nonce: BASE64_STANDARD.encode(nonce),
            ciphertext: BASE64_STANDARD.encode(text),
        })
    }

    /// Opens what was sealed for `purpose`.
    pub(crate) fn open(&self, purpose: &str, sealed: &Sealed) -> Result<Vec<u8>, SealError> {
        let bad = |what: &str| SealError::Envelope(what.to_owned());
        if sealed.v != VERSION || sealed.algorithm != ALGORITHM {
            return Err(SealError::Envelope(format!(
                "it is of form {} with {}, this version reads form {VERSION} with {ALGORITHM}",
                sealed.v, sealed.algorithm
            )));
        }
        let Some((_, key)) = self.keys.iter().find(|(id, _)| *id == sealed.key_id) else {
            return Err(SealError::WrongKey {
                wanted: sealed.key_id.clone(),
                origin: self.origin.clone(),
                found: self.ids().join(", "),
            });
        };
        let nonce = BASE64_STANDARD
            .decode(&sealed.nonce)
            .ok()
            .and_then(|nonce| Nonce::try_assume_unique_for_key(&nonce).ok())
            .ok_or_else(|| bad("its nonce is malformed"))?;
        let mut text = BASE64_STANDARD
            .decode(&sealed.ciphertext)
            .map_err(|_error| bad("it is not base64"))?;
        let plain = key
            .open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut text)
            .map_err(|_unspecified| bad("it was changed, or is another root's"))?;
        Ok(plain.to_vec())
    }

    /// Whether it is sealed with the key that is to be used from now on.
    pub(crate) fn is_current(&self, sealed: &Sealed) -> bool {
        self.keys
            .first()
            .is_some_and(|(id, _)| *id == sealed.key_id)
    }

    fn ids(&self) -> Vec<String> {
        self.keys.iter().map(|(id, _)| id.clone()).collect()
    }
}

fn sealing_key(bytes: &[u8]) -> Result<(String, RandomizedNonceKey), String> {
    // Tells keys apart and gives nothing of them away.
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"outrigger root encryption key id");
    hash.update(bytes);
    let id = hex(hash.finish().as_ref()).chars().take(16).collect();
    let key = RandomizedNonceKey::new(&AES_256_GCM, bytes)
        .map_err(|_unspecified| "the key cannot be used".to_owned())?;
    Ok((id, key))
}

fn key_bytes(line: &str) -> Option<Vec<u8>> {
    let hex_pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes = if line.len() == 2 * KEY_BYTES {
        line.as_bytes().chunks_exact(2).map(hex_pair).collect()
    } else {
        BASE64_STANDARD.decode(line).ok()
    };
    bytes.filter(|bytes: &Vec<u8>| bytes.len() == KEY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> SealingKeys {
        SealingKeys::parse(text, "test").unwrap()
    }

    fn hex_key(n: u8) -> String {
        format!("{n:02x}").repeat(KEY_BYTES)
    }

    #[test]
    fn what_was_sealed_opens_with_the_same_key_and_purpose_only() {
        let sealed = keys(&hex_key(1)).seal("root a", b"secret").unwrap();
        let again = keys(&hex_key(1)).seal("root a", b"secret").unwrap();
        assert_ne!(sealed.ciphertext, again.ciphertext, "a nonce each");
        assert_eq!(
            keys(&hex_key(1)).open("root a", &sealed).unwrap(),
            b"secret"
        );
        let error = keys(&hex_key(1)).open("root b", &sealed).unwrap_err();
        assert!(error.to_string().contains("another root's"), "{error}");
        let error = keys(&hex_key(2)).open("root a", &sealed).unwrap_err();
        assert!(matches!(error, SealError::WrongKey { .. }), "{error}");
    }

    #[test]
    fn a_changed_envelope_does_not_open() {
        let keys = keys(&hex_key(1));
        let sealed = keys.seal("root", b"secret").unwrap();
        let mut text = BASE64_STANDARD.decode(&sealed.ciphertext).unwrap();
        text[0] ^= 1;
        let changed = Sealed {
            ciphertext: BASE64_STANDARD.encode(text),
            ..sealed.clone()
        };
        assert!(keys.open("root", &changed).is_err());
        let newer = Sealed { v: 2, ..sealed };
        assert!(
            keys.open("root", &newer)
                .unwrap_err()
                .to_string()
                .contains("form 2")
        );
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let old = keys(&hex_key(1)).seal("root", b"secret").unwrap();
        let both = keys(&format!("# new\n{}\n\n{}\n", hex_key(2), hex_key(1)));
        assert_eq!(both.open("root", &old).unwrap(), b"secret");
        assert!(!both.is_current(&old));
        assert!(both.is_current(&both.seal("root", b"secret").unwrap()));
    }

    #[test]
    fn keys_are_32_bytes_in_hex_or_base64() {
        let base64 = BASE64_STANDARD.encode([1; KEY_BYTES]);
        assert_eq!(keys(&base64).ids(), keys(&hex_key(1)).ids());
        for bad in ["", "# none\n", "short", &"f".repeat(62), &"g".repeat(64)] {
            assert!(SealingKeys::parse(bad, "test").is_err(), "{bad}");
        }
    }

    #[test]
    fn the_file_beside_the_store_is_made_once_and_never_in_place_of_a_lost_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(SealingKeys::beside_store(dir.path(), false).is_err());
        let made = SealingKeys::beside_store(dir.path(), true).unwrap();
        let again = SealingKeys::beside_store(dir.path(), true).unwrap();
        assert_eq!(made.ids(), again.ids());
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
