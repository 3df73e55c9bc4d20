//! How a sidecar ends.
//!
//! ```text
//! readiness says no ─► registry: DRAINING, acknowledged by peers ─► who comes still is served, and told to go elsewhere
//!     ─► the application is asked to end, its calls still go out ─► nothing new is taken, the rest is finished
//!     ─► deregister, give up shares, send spans
//! ```
//! A second signal skips whatever is waited for; a third ends the process.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{End, FLUSH_TIMEOUT, RunError, SETTLE, Sidecar};
use crate::{
    life::{self, Life},
    register::Registered,
};

/// How often it is looked whether the application is gone, or whether all peers are.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_AT_APP: Duration = Duration::from_millis(250);

impl Sidecar {
    /// From the first sign of the end to the last. Gives the exit code.
    pub(super) async fn drain(mut self, end: End) -> Result<u8, RunError> {
        tracing::info!("draining");
        life::tell(Life::Draining);
        let hurried = self.hurried.clone();
        let delay = match end {
            End::Asked(_) => self.config.drain_delay,
            End::Command(_) => Duration::ZERO,
        };
        let until = Instant::now() + self.config.drain_time.max(delay);
        self.go_away(delay, &hurried).await;
        let code = self.end_app(end, until, &hurried).await?;
        self.finish(&hurried).await;
        if let Some(registered) = self.registered.take() {
            registered.deregister().await;
        }
        if let Some(give_up) = self.give_up.take() {
            let (tell, told) = oneshot::channel();
            if give_up.send(tell).is_ok() {
                // Without a goodbye the shares are free when the lease is over.
                drop(timeout(FLUSH_TIMEOUT, told).await);
            }
        }
        self.telemetry.flush(FLUSH_TIMEOUT).await;
        self.tasks.abort_all();
        tracing::info!("drained");
        Ok(code)
    }

    /// Everybody hears that we leave, and goes elsewhere; who comes all the same is served, for `delay` at least. Our own
    /// application's calls go on. Once only.
    pub(super) async fn go_away(&mut self, delay: Duration, hurried: &watch::Receiver<bool>) {
        self.shared.draining.store(true, Ordering::Release);
        if self.site.left.load(Ordering::Relaxed) {
            return;
        }
        let begun = Instant::now();
        let until = begun + self.config.drain_time.max(delay);
        self.say_goodbye(until, hurried).await;
        unless(hurried, sleep_until(begun + delay)).await;
        if self.registered.as_ref().is_some_and(Registered::is_known) {
            self.workers.leave();
            unless(hurried, self.peers_left(until)).await;
        }
        self.site.left.store(true, Ordering::Release);
    }

    /// Others hear that we leave. Who cannot be asked whether it has heard has a while to do so.
    async fn say_goodbye(&mut self, until: Instant, hurried: &watch::Receiver<bool>) {
        if let Some((leave, registrar)) = self.leave.take() {
            if leave.send(()).is_err() {
                tracing::debug!("the registrar has ended already");
            }
            self.registered = registrar.await.ok();
        }
        let Some(registered) = self.registered.as_ref().filter(|one| one.is_known()) else {
            return;
        };
        let goodbye = async {
            let patient = until.saturating_duration_since(Instant::now());
            if !registered.say_goodbye(patient).await {
                sleep_until(until.min(Instant::now() + SETTLE)).await;
            }
        };
        unless(hurried, goodbye).await;
    }

    /// Until nobody is connected to us any more.
    async fn peers_left(&self, until: Instant) {
        while self.workers.inbound_connections() > 0 && Instant::now() < until {
            sleep(LOOK).await;
        }
    }

    /// The application ends, while what it calls still goes out.
    async fn end_app(
        &mut self,
        end: End,
        until: Instant,
        hurried: &watch::Receiver<bool>,
    ) -> Result<u8, RunError> {
        match (end, &mut self.command) {
            (End::Command(code), _) => Ok(code),
            (End::Asked(signal), Some(command)) => {
                Ok(command.end(signal, self.config.drain_timeout).await?)
            }
            (End::Asked(signal), None) => {
                unless(hurried, self.app_left(until)).await;
                // What was to be started was not: nobody may take that for success.
                let is_missed = self.launch.is_some();
                let code = 128 + u8::try_from(signal.as_raw_value()).unwrap_or_default();
                Ok(if is_missed { code } else { 0 })
            }
        }
    }

    /// Until an application that somebody else started does not listen any more: it may still call others until then.
    async fn app_left(&self, until: Instant) {
        let Some(app) = &self.config.app else { return };
        while Instant::now() < until {
            let connect = timeout(LOOK_AT_APP, TcpStream::connect(app.address)).await;
            if matches!(connect, Ok(Err(_))) {
                return;
            }
            sleep(LOOK_AT_APP).await;
        }
    }

    /// Nothing new; what is in flight comes to its end.
    async fn finish(&self, hurried: &watch::Receiver<bool>) {
        self.shared.drain.send_replace(true);
        let mut hurried = hurried.clone();
        let hurry = async {
            if hurried.wait_for(|hurried| *hurried).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let cut_off = self
            .workers
            .drain_until(self.config.drain_timeout, hurry)
            .await;
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "the drain timeout is over, or there was no time: connections were cut off"
            );
        }
    }
}

/// Waits, unless there is no time.
async fn unless(hurried: &watch::Receiver<bool>, wait: impl Future<Output = ()>) {
    let mut hurried = hurried.clone();
    tokio::select! {
        () = wait => {}
        _ = hurried.wait_for(|hurried| *hurried) => {}
    }
}
