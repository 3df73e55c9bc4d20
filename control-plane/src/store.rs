//! What survives a restart: policies with their history, registrations, join tokens, authorities. One redb file.
//!
//! ```text
//! callers ──► jobs (bounded) ──► writer thread: up to 256 jobs, one transaction, one fsync ──► answers
//! ```
//! Nothing is answered before it is durable. Jobs of one batch stand or fall together, because they share
//! a transaction; a job says "no" with its value, an error means that the disk failed. Reads go past the
//! writer: redb lets them see the last commit. After a failure of the disk redb does nothing more until the
//! file is opened anew: the writer does that ([`writer`]). This file knows no rule of policy or registration.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::Histogram;
use redb::{Database, DatabaseError, ReadableDatabase as _, TableDefinition, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

pub(crate) mod authorities;
pub(crate) mod policies;
pub(crate) mod registrations;
pub(crate) mod tokens;
pub(crate) mod vips;
mod writer;

/// File name inside the data directory.
const FILE: &str = "store.redb";
/// Jobs that wait for the writer; more wait at the sender.
const QUEUE: usize = 1024;
/// Memory redb may use for pages. Its default is 1 GiB; all of a mesh's policies are a few MiB.
const CACHE_BYTES: usize = 16 << 20;

/// `format` → [`FORMAT`], `revision` → newest revision, `writes` → transactions of the writer so far.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Layout of the tables; another number is refused rather than misread.
const FORMAT: u64 = 1;

/// Handle on the store; cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    file: Arc<writer::File>,
    jobs: mpsc::Sender<Job>,
}

/// Ends when the last [`Store`] is gone; then the file is closed.
pub(crate) type Writer = thread::JoinHandle<()>;

/// Runs inside the transaction; what it gives back runs after the commit or the failure.
type Job =
    Box<dyn FnOnce(Result<&WriteTransaction, StoreError>) -> Result<Answer, StoreError> + Send>;
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The store could not be opened, read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Somebody else has it open.
    #[error(
        "{path} is in use by another control plane; stop that one or choose another --data-dir"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Opening.
    #[error("opening the store {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<redb::Error>,
    },
    /// Written by another version.
    #[error("{path} has layout {found}, this version reads {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
    /// Disk full, I/O error, corruption.
    #[error("reading or writing the store: {0}")]
    Storage(Arc<redb::Error>),
    /// A record that this version did not write.
    #[error("a record in the store cannot be read: {0}")]
    Record(Arc<serde_json::Error>),
    /// After a failure, until it can be opened again.
    #[error(
        "the store cannot be used since the disk failed; it is opened again with the next change"
    )]
    Unusable,
    /// What is on disk and what was answered differ.
    #[error(
        "a change that was answered as failed is in the store all the same; restart the control plane"
    )]
    Diverged,
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Storage(Arc::new(error.into()))
    }
}

impl Store {
    /// Opens or makes `<data_dir>/store.redb` and starts the writer.
    pub(crate) fn open(
        data_dir: &Path,
        write_seconds: Histogram,
    ) -> Result<(Self, Writer), StoreError> {
        let path = data_dir.join(FILE);
        let open = {
            let path = path.clone();
            move || {
                Database::builder()
                    .set_cache_size(CACHE_BYTES)
                    .create(&path)
            }
        };
        Self::start(path, open, write_seconds)
    }

    fn start(
        path: PathBuf,
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
        write_seconds: Histogram,
    ) -> Result<(Self, Writer), StoreError> {
        let failed = |error: redb::Error| StoreError::Open {
            path: path.clone(),
            source: Arc::new(error),
        };
        let db = match open() {
            Ok(db) => db,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::Locked { path }),
            Err(error) => return Err(failed(error.into())),
        };
        let (file, writer) = writer::Writing::new(&path, Box::new(open), db, write_seconds)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| failed(error.into()))?;
        Ok((Self { file, jobs }, writer))
    }

    /// Runs `work` in the next transaction and answers when it is on disk.
    ///
    /// Dropping the future does not undo the work.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (job, answer) = job(work);
        self.jobs
            .send(job)
            .await
            .map_err(|_closed| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// [`Self::write`] for a thread that may block.
    pub(crate) fn write_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (job, answer) = job(work);
        self.jobs
            .blocking_send(job)
            .map_err(|_closed| StoreError::Closed)?;
        answer.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }

    /// The last commit. Blocks on the disk.
    pub(crate) fn read(&self) -> Result<redb::ReadTransaction, StoreError> {
        let db = self.file.db().ok_or(StoreError::Unusable)?;
        Ok(db.begin_read()?)
    }

    /// Whether the last write did not leave it unusable.
    pub(crate) fn is_usable(&self) -> bool {
        self.file.db().is_some()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

fn job<T: Send + 'static>(
    work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, StoreError>>) {
    let (answer, wait) = oneshot::channel();
    let job: Job = Box::new(move |txn| match txn.and_then(work) {
        Ok(value) => Ok(Box::new(move |committed: Result<(), StoreError>| {
            // The caller may have gone away; the work is done all the same.
            drop(answer.send(committed.map(|()| value)));
        })),
        Err(error) => {
            drop(answer.send(Err(error.clone())));
            Err(error)
        }
    });
    (job, wait)
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The other way.
pub(crate) fn from_unix_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH + std::time::Duration::from_millis(ms)
}

fn encode(record: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|error| StoreError::Record(Arc::new(error)))
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Record(Arc::new(error)))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
