//! Registered instances, so that a restart does not empty the mesh. Leases are not stored: after a restart
//! every instance has a full lease to be heard of again.

use redb::{ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

use super::{Store, StoreError, decode, encode};

/// `<service>.<namespace>`, instance id → the registration.
const REGISTRATIONS: TableDefinition<'_, (&str, &str), &[u8]> =
    TableDefinition::new("registrations");

pub(super) fn open(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(REGISTRATIONS)?;
    Ok(())
}

/// Writes the instance, or removes it if there is none (any more).
pub(crate) fn put(
    txn: &WriteTransaction,
    service: &str,
    id: &str,
    registration: Option<&impl Serialize>,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(REGISTRATIONS)?;
    match registration {
        Some(registration) => {
            table.insert((service, id), encode(registration)?.as_slice())?;
        }
        None => {
            table.remove((service, id))?;
        }
    }
    Ok(())
}

/// All instances. Blocks on the disk.
pub(crate) fn load<T: DeserializeOwned>(store: &Store) -> Result<Vec<T>, StoreError> {
    let txn = store.read()?;
    let mut all = Vec::new();
    for row in txn.open_table(REGISTRATIONS)?.iter()? {
        all.push(decode(row?.1.value())?);
    }
    Ok(all)
}
