//! Tells whoever started the process how it is: ready, draining, alive (systemd's notifications, by the command line).

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{shared::Shared, worker::Workers};

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Calls can be made and, once the application answers, taken.
    Ready,
    /// The end has begun.
    Draining,
    /// About once a second, as long as every thread that serves requests gets on.
    Alive,
}

/// Is told.
pub type LifeListener = Box<dyn Fn(Life) + Send + Sync>;

static LISTENER: OnceLock<LifeListener> = OnceLock::new();

/// How often it is told that we live.
const EVERY: Duration = Duration::from_secs(1);
/// A worker that has not looked at its connections for so long hangs.
const HANGS: Duration = Duration::from_secs(10);

/// Sets who is told. The first caller of the process wins.
pub fn set_life_listener(listener: LifeListener) {
    if LISTENER.set(listener).is_err() {
        tracing::debug!("somebody is told already");
    }
}

pub(crate) fn tell(life: Life) {
    if let Some(listener) = LISTENER.get() {
        listener(life);
    }
}

/// Tells that we live, for ever, where nothing else serves requests.
pub(crate) async fn live() {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        tell(Life::Alive);
    }
}

/// Tells that we live, for ever, while all workers do.
pub(crate) async fn beat(shared: Arc<Shared>, workers: Arc<Workers>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match workers.hanging(shared.now(), HANGS) {
            None => tell(Life::Alive),
            Some(worker) => tracing::error!(worker, for_at_least = ?HANGS, "a worker hangs"),
        }
    }
}
