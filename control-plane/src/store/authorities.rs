//! What the certificate authority has to know after a restart: one record, replaced as a whole, so that a step of a
//! rotation is there or is not. Keys in it are sealed before they come here.

use redb::{TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

use super::{Store, StoreError, decode, encode};

const AUTHORITIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("authorities");
/// The only row of this version.
const STATE: &str = "state";

pub(super) fn open(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(AUTHORITIES)?;
    Ok(())
}

/// Replaces the record.
pub(crate) fn put(txn: &WriteTransaction, state: &impl Serialize) -> Result<(), StoreError> {
    let bytes = encode(state)?;
    txn.open_table(AUTHORITIES)?
        .insert(STATE, bytes.as_slice())?;
    Ok(())
}

/// The record. Blocks on the disk.
pub(crate) fn load<T: DeserializeOwned>(store: &Store) -> Result<Option<T>, StoreError> {
    let txn = store.read()?;
    let table = txn.open_table(AUTHORITIES)?;
    let found = table.get(STATE)?;
    found.map(|found| decode(found.value())).transpose()
}
