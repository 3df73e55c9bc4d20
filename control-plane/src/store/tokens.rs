//! Join tokens, by the SHA-256 of their secret: who can read the store cannot use them.
//!
//! ```text
//! unused ──redeem──► used ──(24 h)──► forgotten
//!    │                  └─^ redeem with the same key, until expiry
//!    └────(expiry + 24 h)────────────────^
//! ```
//! A used token still serves the key that used it, because the answer may have been lost: whoever has that key
//! is whoever was answered.

use redb::{ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, decode, encode};

/// SHA-256 of the secret → record.
const TOKENS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tokens");

/// Tokens that may be kept at a time.
pub(crate) const MAX_TOKENS: u64 = 10_000;
/// How long a used or expired token is remembered, so that its second use is called that.
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) expires_ms: u64,
    pub(crate) used_ms: Option<u64>,
    /// Hex SHA-256 of the public key (SPKI) that it was used for.
    #[serde(default)]
    pub(crate) key_sha256: Option<String>,
}

/// What came of showing a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redeemed {
    /// First use; now it is used.
    Valid(Token),
    /// Used before, by the same key.
    Again(Token),
    /// Somebody else was here before, or it was too long ago.
    Used(Token),
    /// Too late.
    Expired(Token),
    /// Never made here, or long forgotten.
    Unknown,
}

pub(super) fn open(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(TOKENS)?;
    Ok(())
}

/// Keeps a token. False: there are [`MAX_TOKENS`] already.
pub(crate) fn create(
    txn: &WriteTransaction,
    hash: &[u8],
    token: &Token,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let mut table = txn.open_table(TOKENS)?;
    let mut forgotten = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let old: Token = decode(value.value())?;
        let ended = old.used_ms.unwrap_or(old.expires_ms);
        if ended.saturating_add(REMEMBERED_MS) < now_ms {
            forgotten.push(key.value().to_owned());
        }
    }
    for key in forgotten {
        table.remove(key.as_slice())?;
    }
    if table.len()? >= MAX_TOKENS {
        return Ok(false);
    }
    table.insert(hash, encode(token)?.as_slice())?;
    Ok(true)
}

/// What [`redeem`] would say. Blocks on the disk.
pub(crate) fn look(
    store: &Store,
    hash: &[u8],
    key_sha256: &str,
    now_ms: u64,
) -> Result<Redeemed, StoreError> {
    let txn = store.read()?;
    let table = txn.open_table(TOKENS)?;
    judge(table.get(hash)?, key_sha256, now_ms)
}

/// Uses a token up, if it can be used.
pub(crate) fn redeem(
    txn: &WriteTransaction,
    hash: &[u8],
    key_sha256: &str,
    now_ms: u64,
) -> Result<Redeemed, StoreError> {
    let mut table = txn.open_table(TOKENS)?;
    let mut redeemed = judge(table.get(hash)?, key_sha256, now_ms)?;
    if let Redeemed::Valid(token) = &mut redeemed {
        token.used_ms = Some(now_ms);
        token.key_sha256 = Some(key_sha256.to_owned());
        table.insert(hash, encode(token)?.as_slice())?;
    }
    Ok(redeemed)
}

/// When the last token ends that can still be used. Blocks on the disk.
pub(crate) fn last_expiry(store: &Store, now_ms: u64) -> Result<Option<u64>, StoreError> {
    let txn = store.read()?;
    let mut last = None;
    for row in txn.open_table(TOKENS)?.iter()? {
        let token: Token = decode(row?.1.value())?;
        if token.used_ms.is_none() && token.expires_ms > now_ms {
            last = last.max(Some(token.expires_ms));
        }
    }
    Ok(last)
}

fn judge(
    found: Option<redb::AccessGuard<'_, &'static [u8]>>,
    key_sha256: &str,
    now_ms: u64,
) -> Result<Redeemed, StoreError> {
    let Some(found) = found else {
        return Ok(Redeemed::Unknown);
    };
    let token: Token = decode(found.value())?;
    let late = token.expires_ms <= now_ms;
    Ok(match &token.used_ms {
        Some(_) if !late && token.key_sha256.as_deref() == Some(key_sha256) => {
            Redeemed::Again(token)
        }
        Some(_) => Redeemed::Used(token),
        None if late => Redeemed::Expired(token),
        None => Redeemed::Valid(token),
    })
}
