//! From a changed [`World`] to something new for every stream: one task translates, streams look.
//!
//! Changes that come during a translation are translated together after it (`publish` has gathered those of
//! one burst already). A stream that was busy meanwhile sees the latest only.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;
use tracing::{debug, error};

use crate::{translate::Shared, world::World};

/// A translated World, and when the change was seen.
#[derive(Debug)]
pub(crate) struct Pushed {
    pub(crate) shared: Arc<Shared>,
    pub(crate) since: Instant,
}

/// Translates the present World at once, and later ones as they come, until `worlds` ends.
pub(crate) fn start(
    mut worlds: watch::Receiver<Arc<World>>,
) -> (
    watch::Receiver<Arc<Pushed>>,
    impl Future<Output = ()> + Send,
) {
    let world = Arc::clone(&worlds.borrow_and_update());
    let shared = Arc::new(Shared::translate(world, None));
    let first = Arc::new(Pushed {
        shared,
        since: Instant::now(),
    });
    let (sender, receiver) = watch::channel(first);
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
                    let took_ms = since.elapsed().as_millis();
                    debug!(revision = shared.revision(), took_ms, "translated");
                    sender.send_replace(Arc::new(Pushed { shared, since }));
                }
                // The last good state stays in force.
                Err(error) => error!(%error, "translation failed"),
            }
        }
    };
    (receiver, task)
}
