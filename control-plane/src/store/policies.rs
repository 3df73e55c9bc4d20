//! Policies: the current document of each object, and what it was before.
//!
//! History is bounded twice: [`REVISIONS_PER_OBJECT`] for one object, [`REVISIONS`] for all of them. What
//! is in force is never dropped.

use std::ops::RangeInclusive;

use redb::{ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{META, Store, StoreError, decode, encode};

/// Revisions of one object that `get --history` can show.
pub(crate) const REVISIONS_PER_OBJECT: usize = 100;
/// Revisions whose documents are kept at all.
pub(crate) const REVISIONS: u64 = 10_000;

/// Object id → current record.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Object id, revision → record as of that revision, the current one included.
const HISTORY: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("history");
/// Revision → ids of the objects it changed.
const CHANGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("changes");

/// One object as of one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// File, line and column where the document begins.
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
    /// The document, byte for byte.
    pub(crate) yaml: String,
    /// Revision that made it so.
    pub(crate) revision: u64,
    pub(crate) author: String,
    pub(crate) time_ms: u64,
    /// True: this revision deleted it, and `yaml` is what it was.
    pub(crate) deleted: bool,
}

impl Record {
    /// Unique; sorts by kind, namespace, name.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

pub(super) fn open(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(OBJECTS)?;
    txn.open_table(HISTORY)?;
    txn.open_table(CHANGES)?;
    Ok(())
}

/// Writes one revision: every record of `changed` carries its number.
pub(crate) fn commit(
    txn: &WriteTransaction,
    revision: u64,
    changed: &[Record],
) -> Result<(), StoreError> {
    txn.open_table(META)?.insert("revision", revision)?;
    let mut objects = txn.open_table(OBJECTS)?;
    let mut history = txn.open_table(HISTORY)?;
    let mut ids = Vec::with_capacity(changed.len());
    for record in changed {
        let id = record.id();
        let bytes = encode(record)?;
        if record.deleted {
            objects.remove(id.as_str())?;
        } else {
            objects.insert(id.as_str(), bytes.as_slice())?;
        }
        history.insert((id.as_str(), revision), bytes.as_slice())?;
        let kept: Vec<u64> = revisions(&history, &id, 0..=revision)?;
        for old in kept.iter().rev().skip(REVISIONS_PER_OBJECT) {
            history.remove((id.as_str(), *old))?;
        }
        ids.push(id);
    }
    let mut changes = txn.open_table(CHANGES)?;
    changes.insert(revision, encode(&ids)?.as_slice())?;
    loop {
        let first = changes
            .first()?
            .map(|(oldest, ids)| (oldest.value(), ids.value().to_owned()));
        let Some((oldest, ids)) = first else { break };
        if oldest + REVISIONS > revision {
            break;
        }
        changes.remove(oldest)?;
        for id in decode::<Vec<String>>(&ids)? {
            let current = match objects.get(id.as_str())? {
                Some(bytes) => Some(decode::<Record>(bytes.value())?.revision),
                None => None,
            };
            for old in revisions(&history, &id, 0..=oldest)? {
                if Some(old) != current {
                    history.remove((id.as_str(), old))?;
                }
            }
        }
    }
    Ok(())
}

/// Writes where documents stand now; their content and revision are the same.
pub(crate) fn moved(txn: &WriteTransaction, records: &[Record]) -> Result<(), StoreError> {
    let mut objects = txn.open_table(OBJECTS)?;
    let mut history = txn.open_table(HISTORY)?;
    for record in records {
        let id = record.id();
        let bytes = encode(record)?;
        objects.insert(id.as_str(), bytes.as_slice())?;
        history.insert((id.as_str(), record.revision), bytes.as_slice())?;
    }
    Ok(())
}

fn revisions(
    history: &redb::Table<'_, (&'static str, u64), &'static [u8]>,
    id: &str,
    range: RangeInclusive<u64>,
) -> Result<Vec<u64>, StoreError> {
    let mut found = Vec::new();
    for row in history.range((id, *range.start())..=(id, *range.end()))? {
        found.push(row?.0.value().1);
    }
    Ok(found)
}

/// Newest revision and everything in force. Blocks on the disk.
pub(crate) fn load(store: &Store) -> Result<(u64, Vec<Record>), StoreError> {
    let txn = store.read()?;
    let revision = txn
        .open_table(META)?
        .get("revision")?
        .map_or(0, |revision| revision.value());
    let mut records = Vec::new();
    for row in txn.open_table(OBJECTS)?.iter()? {
        records.push(decode(row?.1.value())?);
    }
    Ok((revision, records))
}

/// Kept revisions of the objects that `wanted` chooses by id, newest first for each object, until their
/// text exceeds `max_bytes` (then None). Blocks on the disk.
pub(crate) fn history(
    store: &Store,
    mut wanted: impl FnMut(&Record) -> bool,
    max_bytes: usize,
) -> Result<Option<Vec<Record>>, StoreError> {
    let txn = store.read()?;
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = 0;
    for row in txn.open_table(HISTORY)?.iter()? {
        let record: Record = decode(row?.1.value())?;
        if wanted(&record) {
            bytes += record.yaml.len() + 256;
            if bytes > max_bytes {
                return Ok(None);
            }
            records.push(record);
        }
    }
    records.sort_by(|a, b| a.id().cmp(&b.id()).then(b.revision.cmp(&a.revision)));
    Ok(Some(records))
}
