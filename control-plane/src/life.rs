//! Tells whoever started the process how it is: ready, stopping, alive (systemd's notifications, by the command line).

use std::{sync::OnceLock, time::Duration};

use tokio::time::MissedTickBehavior;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// All ports are served.
    Ready,
    /// The end has begun.
    Stopping,
    /// About once a second.
    Alive,
}

/// Is told.
pub type LifeListener = Box<dyn Fn(Life) + Send + Sync>;

static LISTENER: OnceLock<LifeListener> = OnceLock::new();

/// How often it is told that we live.
const EVERY: Duration = Duration::from_secs(1);

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

/// Tells that we live, for ever.
pub(crate) async fn live() {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        tell(Life::Alive);
    }
}
