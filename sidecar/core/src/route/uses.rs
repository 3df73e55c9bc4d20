//! Whether something was used since somebody last looked.
//!
//! A request pays one relaxed load; the first one after each look stores as well, so that workers do not take the cache
//! line from each other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// A flag that requests raise and a sweep lowers. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Uses(Arc<AtomicBool>);

impl Uses {
    /// A request uses it.
    pub fn mark(&self) {
        if !self.0.load(Relaxed) {
            self.0.store(true, Relaxed);
        }
    }

    /// Whether one has since the last call.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.swap(false, Relaxed)
    }
}
