//! The signals that end us, and what they mean while a command runs.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::process::Signal as Number;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::command::{ignored, is_in_foreground};

/// Why it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// The command has ended, with this code.
    Command(u8),
    /// By a signal, or as if by one.
    Asked(SignalKind),
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    /// None = whoever started us does not want it to reach us.
    interrupt: Option<Signal>,
    typed: Arc<AtomicBool>,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let hears_interrupts = !ignored().contains(Number::INT);
        let interrupt = hears_interrupts.then(|| signal(SignalKind::interrupt()));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: interrupt.transpose()?,
            typed: Arc::default(),
        })
    }

    /// To be set while a command runs in our process group: what is typed at a terminal reaches it without us, and it
    /// decides what that means.
    pub(crate) fn typed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.typed)
    }

    /// Which of them came.
    pub(crate) async fn next(&mut self) -> SignalKind {
        loop {
            let interrupted = async {
                match &mut self.interrupt {
                    Some(interrupt) => interrupt.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.terminate.recv() => return SignalKind::terminate(),
                _ = interrupted => {
                    if !(self.typed.load(Ordering::Relaxed) && is_in_foreground()) {
                        return SignalKind::interrupt();
                    }
                }
            }
        }
    }

    /// The first of two more says that there is no time; ends with the second.
    pub(crate) async fn twice(&mut self, hurry: &watch::Sender<bool>) {
        self.next().await;
        tracing::warn!(
            "a second signal: what is in flight is not waited for; a third one ends at once"
        );
        hurry.send_replace(true);
        self.next().await;
    }
}
