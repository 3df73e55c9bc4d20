//! A store on a disk that fails when told to.

use std::{
    io,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use prometheus::{Histogram, HistogramOpts};
use redb::Database;

use super::{FILE, Store};

/// A disk in memory that fails when told to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    content: Arc<redb::backends::InMemoryBackend>,
    full: Arc<AtomicBool>,
    fail_next_sync: Arc<AtomicBool>,
    full_after_sync: Arc<AtomicBool>,
    /// True after a crash: nothing is written any more. Held while something is, so that a crash is one instant.
    crashed: Arc<RwLock<bool>>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(crate) fn fill(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    pub(crate) fn fail_next_sync(&self) {
        self.fail_next_sync.store(true, Ordering::SeqCst);
    }

    /// Fails the next sync, and is full from then on.
    pub(crate) fn die_at_next_sync(&self) {
        self.full_after_sync.store(true, Ordering::SeqCst);
        self.fail_next_sync();
    }

    /// What is on it now, as another process finds it: who has this one open cannot write any more.
    pub(crate) fn after_crash(&self) -> Self {
        use redb::StorageBackend as _;

        let mut crashed = self.crashed.write().unwrap();
        *crashed = true;
        let length = self.content.len().unwrap();
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        self.content.read(0, &mut bytes).unwrap();
        let copy = Self::default();
        copy.content.set_len(length).unwrap();
        copy.content.write(0, &bytes).unwrap();
        copy
    }

    pub(crate) fn open(&self) -> Store {
        let disk = self.clone();
        let histogram = HistogramOpts::new("write_seconds", "test");
        let histogram = Histogram::with_opts(histogram).unwrap();
        let open = move || Database::builder().create_with_backend(disk.clone());
        Store::start(FILE.into(), open, histogram).unwrap().0
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.content.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.content.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        let crashed = self.crashed.read().unwrap();
        if *crashed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.content.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.fail_next_sync.swap(false, Ordering::SeqCst) {
            self.fill(self.full_after_sync.load(Ordering::SeqCst));
            return Err(io::Error::other("no answer from the disk"));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let crashed = self.crashed.read().unwrap();
        if *crashed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.content.write(offset, data)
    }
}
