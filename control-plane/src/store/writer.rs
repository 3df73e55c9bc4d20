//! The thread that writes, and what it does when the disk fails.
//!
//! ```text
//! batch ─► transaction ─► commit ─► answers
//!              └──(disk fails)──► close, open anew ─► the batch's number is there? ─► answers: yes, it is
//!                                        │                                └─ no ──► answers: failed
//!                                        └──(fails)──► unusable; the next batch opens anew
//! ```
//! A commit that failed may be on disk all the same. Each transaction therefore writes its number, and the
//! number tells. If it tells too late, after the callers were told otherwise, there is nothing but a restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwapOption;
use prometheus::Histogram;
use redb::{Database, DatabaseError, ReadableTable as _, WriteTransaction};
use tokio::sync::mpsc;

use super::{FORMAT, Job, META, StoreError, authorities, policies, registrations, tokens, vips};

/// Jobs that share one fsync.
const BATCH: usize = 256;
/// The open file; none after a failure.
#[derive(Debug)]
pub(super) struct File(ArcSwapOption<Database>);

impl File {
    pub(super) fn db(&self) -> Option<Arc<Database>> {
        self.0.load_full()
    }
}

type Open = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// State of the thread.
pub(super) struct Writing {
    path: PathBuf,
    open: Open,
    file: Arc<File>,
    /// Transactions so far, as answered.
    writes: u64,
    diverged: bool,
    write_seconds: Histogram,
}

impl Writing {
    /// Takes over a file that was just opened with `open`.
    pub(super) fn new(
        path: &Path,
        open: Open,
        db: Database,
        write_seconds: Histogram,
    ) -> Result<(Arc<File>, Self), StoreError> {
        let writes = prepare(&db, path)?;
        let file = Arc::new(File(ArcSwapOption::from_pointee(db)));
        let writing = Self {
            path: path.to_owned(),
            open,
            file: Arc::clone(&file),
            writes,
            diverged: false,
            write_seconds,
        };
        Ok((file, writing))
    }

    /// Until nobody can send jobs any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
            let begun = Instant::now();
            let mut answers = Vec::with_capacity(batch.len());
            let result = match self.begin() {
                Ok(txn) => self.commit(txn, batch.drain(..), &mut answers),
                Err(error) => refuse(batch.drain(..), error),
            };
            if let Err(error) = &result {
                tracing::error!(%error, "store not written");
            }
            self.write_seconds.observe(begun.elapsed().as_secs_f64());
            for answer in answers {
                answer(result.clone());
            }
        }
    }

    fn begin(&mut self) -> Result<WriteTransaction, StoreError> {
        if let Some(db) = self.file.db() {
            match db.begin_write() {
                Ok(txn) => return Ok(txn),
                // A reader met a failing disk before us.
                Err(error) => tracing::warn!(%error, "store closed"),
            }
        }
        if self.reopen()? != self.writes {
            self.diverged = true;
            self.file.0.store(None);
            return Err(StoreError::Diverged);
        }
        let db = self.file.db().ok_or(StoreError::Unusable)?;
        Ok(db.begin_write()?)
    }

    fn commit(
        &mut self,
        txn: WriteTransaction,
        batch: impl Iterator<Item = Job>,
        answers: &mut Vec<super::Answer>,
    ) -> Result<(), StoreError> {
        let number = self.writes + 1;
        let Err(error) = work(txn, number, batch, answers) else {
            self.writes = number;
            return Ok(());
        };
        if !matches!(error, StoreError::Storage(_)) {
            return Err(error);
        }
        match self.reopen() {
            Ok(found) if found == number => {
                tracing::warn!(%error, "the disk failed, but the change is in the store");
                self.writes = number;
                Ok(())
            }
            Ok(_) => Err(error),
            Err(again) => {
                tracing::error!(error = %again, "the store cannot be opened again");
                Err(error)
            }
        }
    }

    /// Gives the number of the last transaction on disk.
    fn reopen(&self) -> Result<u64, StoreError> {
        if self.diverged {
            return Err(StoreError::Diverged);
        }
        self.file.0.store(None);
        let db = (self.open)()?;
        let writes = prepare(&db, &self.path)?;
        self.file.0.store(Some(Arc::new(db)));
        tracing::info!("store opened again");
        Ok(writes)
    }
}

fn work(
    txn: WriteTransaction,
    number: u64,
    mut batch: impl Iterator<Item = Job>,
    answers: &mut Vec<super::Answer>,
) -> Result<(), StoreError> {
    for job in batch.by_ref() {
        match job(Ok(&txn)) {
            Ok(answer) => answers.push(answer),
            Err(error) => return refuse(batch, error),
        }
    }
    txn.open_table(META)?.insert("writes", number)?;
    txn.commit()?;
    Ok(())
}

/// Tells those whose job was not run why.
fn refuse(batch: impl Iterator<Item = Job>, error: StoreError) -> Result<(), StoreError> {
    for job in batch {
        let _same = job(Err(error.clone()));
    }
    Err(error)
}

/// Makes all tables, so that a reader always finds them, and checks the layout. Gives the number of the last
/// transaction.
fn prepare(db: &Database, path: &Path) -> Result<u64, StoreError> {
    let txn = db.begin_write()?;
    let writes = {
        let mut meta = txn.open_table(META)?;
        let found = meta.get("format")?.map(|format| format.value());
        match found {
            None => {
                meta.insert("format", FORMAT)?;
            }
            Some(FORMAT) => {}
            Some(found) => {
                return Err(StoreError::Format {
                    path: path.to_owned(),
                    found,
                });
            }
        }
        authorities::open(&txn)?;
        policies::open(&txn)?;
        registrations::open(&txn)?;
        tokens::open(&txn)?;
        vips::open(&txn)?;
        meta.get("writes")?.map_or(0, |writes| writes.value())
    };
    txn.commit()?;
    Ok(writes)
}
