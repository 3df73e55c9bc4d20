//! Join tokens, by the SHA-256 of their secret: who can read the store cannot use them.
//!
//! ```text
//! unused ──redeem──► used ──(24 h)──► forgotten
//!    └────(expiry + 24 h)────────────────^
//! ```

use redb::{ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{StoreError, decode, encode};

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
}

/// What came of showing a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redeemed {
    /// First use; now it is used.
    Valid(Token),
    /// Somebody was here before.
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

/// Uses a token up, if it can be used.
pub(crate) fn redeem(
    txn: &WriteTransaction,
    hash: &[u8],
    now_ms: u64,
) -> Result<Redeemed, StoreError> {
    let mut table = txn.open_table(TOKENS)?;
    let found = table.get(hash)?.map(|bytes| bytes.value().to_owned());
    let Some(found) = found else {
        return Ok(Redeemed::Unknown);
    };
    let mut token: Token = decode(&found)?;
    if token.used_ms.is_some() {
        return Ok(Redeemed::Used(token));
    }
    if token.expires_ms <= now_ms {
        return Ok(Redeemed::Expired(token));
    }
    token.used_ms = Some(now_ms);
    table.insert(hash, encode(&token)?.as_slice())?;
    Ok(Redeemed::Valid(token))
}
