//! Addresses of services, so that a restart moves nobody.

use redb::{ReadableTable as _, TableDefinition, WriteTransaction};

use super::{Store, StoreError, decode, encode};
use crate::vips::Record;

/// Host → its addresses.
const VIPS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("vips");

pub(super) fn open(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(VIPS)?;
    Ok(())
}

/// Writes what hosts have, and removes those that have nothing any more.
pub(crate) fn put<'r>(
    txn: &WriteTransaction,
    records: impl IntoIterator<Item = (&'r str, Option<&'r Record>)>,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(VIPS)?;
    for (host, record) in records {
        match record {
            Some(record) => {
                table.insert(host, encode(record)?.as_slice())?;
            }
            None => {
                table.remove(host)?;
            }
        }
    }
    Ok(())
}

/// All of them. Blocks on the disk.
pub(crate) fn load(store: &Store) -> Result<Vec<(String, Record)>, StoreError> {
    let txn = store.read()?;
    let mut all = Vec::new();
    for row in txn.open_table(VIPS)?.iter()? {
        let (host, record) = row?;
        all.push((host.value().to_owned(), decode(record.value())?));
    }
    Ok(all)
}
