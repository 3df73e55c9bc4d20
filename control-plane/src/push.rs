//! From a changed [`World`] to something new for the streams that it concerns: one task translates, and rings for them
//! ([`Interests`]).
//!
//! Changes that come during a translation are translated together after it (`publish` has gathered those of
//! one burst already). A stream that was busy meanwhile sees the latest only.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;
use tracing::{debug, error};

use crate::{interests::Interests, translate::Shared, world::World};

/// A translated World, and when the change was seen.
#[derive(Debug)]
pub(crate) struct Pushed {
    pub(crate) shared: Arc<Shared>,
    pub(crate) since: Instant,
}

/// What streams wait for, and look at.
#[derive(Clone, Debug)]
pub(crate) struct Pushes {
    /// The newest. Closed when no more will come.
    pub(crate) newest: watch::Receiver<Arc<Pushed>>,
    /// Where a stream says what it waits for.
    pub(crate) interests: Arc<Interests>,
    /// Never changes; closed when no more will come.
    pub(crate) end: watch::Receiver<()>,
}

/// Translates the present World at once, and later ones as they come, until `worlds` ends.
pub(crate) fn start(
    mut worlds: watch::Receiver<Arc<World>>,
) -> (Pushes, impl Future<Output = ()> + Send) {
    let world = Arc::clone(&worlds.borrow_and_update());
    let shared = Arc::new(Shared::translate(world, None));
    let first = Arc::new(Pushed {
        shared,
        since: Instant::now(),
    });
    let (sender, newest) = watch::channel(first);
    let (alive, end) = watch::channel(());
    let interests = Arc::<Interests>::default();
    let pushes = Pushes {
        newest,
        interests: Arc::clone(&interests),
        end,
    };
    let task = async move {
        while worlds.changed().await.is_ok() {
            let since = Instant::now();
            let world = Arc::clone(&worlds.borrow_and_update());
            let before = Arc::clone(&sender.borrow().shared);
            let translated = tokio::task::spawn_blocking(move || {
                let shared = Shared::translate(world, Some(&before));
                // Here, and not on the runtime's own thread, because a mesh may be large.
                drop(before);
                Arc::new(shared)
            });
            match translated.await {
                Ok(shared) => {
                    let took_us = since.elapsed().as_micros();
                    let pushed = Arc::new(Pushed { shared, since });
                    // Looked at after that: see `interests`.
                    let before = sender.send_replace(Arc::clone(&pushed));
                    let concerned = interests.ring(pushed.shared.changes(), since);
                    debug!(
                        revision = pushed.shared.revision(),
                        took_us, concerned, "translated"
                    );
                    free(before);
                }
                // The last good state stays in force.
                Err(error) => error!(%error, "translation failed"),
            }
        }
        drop(alive);
    };
    (pushes, task)
}

/// Drops what may be large where it holds nobody up.
fn free(before: Arc<Pushed>) {
    drop(tokio::task::spawn_blocking(move || drop(before)));
}
