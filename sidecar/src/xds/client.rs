//! The stream: connects, feeds the engine, publishes what it makes, and comes back when the stream is lost.

mod form;
mod lookups;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outrigger_core::Snapshot;
use outrigger_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use self::form::{Ads, Delta, Form};
use super::{engine::Engine, sotw::Sotw};
use crate::{
    XdsProtocol,
    backoff::Backoff,
    control::Control,
    identity::{IdentityStore, chain},
    quota::client::Shares,
    shared::Shared,
    tls::files::READ_WITHIN,
    vitals::Vitals,
};

/// One answer; larger meshes are split by the server.
const MAX_MESSAGE: usize = 64 << 20;
/// Requests on their way out. One answer makes at most five.
const QUEUE: usize = 32;
/// The server has to take a request within this time.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_CAP: Duration = Duration::from_secs(10);
/// What lasts is said again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Runs the engine against the control plane.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) engine: Arc<Mutex<Engine>>,
    pub(crate) control: Arc<Control>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Arc<IdentityStore>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) protocol: XdsProtocol,
    pub(crate) shares: Shares,
    /// True once the first configuration is complete.
    pub(crate) configured: watch::Sender<bool>,
}

/// How the stream and the look-ups tell each other that there is something to do.
#[derive(Debug, Default)]
struct Wakes {
    stream: Notify,
    names: Notify,
    shares: Notify,
}

/// How a stream ended.
enum End {
    /// We have a new certificate and come back with it.
    Renewed,
    /// It was lost, or could not be opened.
    Lost { reason: String, answered: bool },
}

impl Client {
    /// For ever: the stream, and beside it the names of clusters, whether the server is there or not. One task, so that
    /// snapshots are published in their order.
    pub(crate) async fn run(self) {
        let wakes = Wakes::default();
        let streams = async {
            match self.protocol {
                XdsProtocol::Delta => self.streams(Delta, &wakes).await,
                XdsProtocol::Sotw => self.streams(Sotw::default(), &wakes).await,
            }
        };
        tokio::join!(streams, self.look_up(&wakes), self.share_out(&wakes));
    }

    /// For ever: what leads to a cluster with limits of the service waits until this sidecar has shares of them, or has
    /// waited long enough for some.
    async fn share_out(&self, wakes: &Wakes) {
        loop {
            wakes.shares.notified().await;
            let snapshot = self.shared.snapshot.load();
            self.shares.settled().await;
            let now = Instant::now();
            lock(&self.engine).grant(&snapshot, now);
            self.publish(now, wakes);
            wakes.stream.notify_one();
        }
    }

    async fn streams<F: Form>(&self, mut form: F, wakes: &Wakes) {
        let mut backoff = Backoff::new(BACKOFF, BACKOFF_CAP);
        let mut renewals = self.store.renewals();
        let mut was_up = None;
        let mut said: Option<Instant> = None;
        loop {
            renewals.mark_unchanged();
            let end = self
                .stream(&mut form, wakes, &mut renewals, &mut was_up)
                .await;
            self.vitals.set_connected(false);
            self.shared.demand.set_connected(false);
            self.shared.names.demand.set_connected(false);
            self.store.unfollow();
            lock(&self.engine).disconnected();
            match end {
                End::Renewed => self.vitals.count_stream("renewed"),
                End::Lost { reason, answered } => {
                    self.vitals.count_stream("lost");
                    let is_news = was_up.replace(false) != Some(false);
                    if is_news || said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                        said = Some(Instant::now());
                        if *self.configured.borrow() {
                            tracing::warn!(%reason, "control plane is away; going on with the configuration at hand");
                        } else {
                            tracing::warn!(%reason, "no configuration from the control plane yet; trying again");
                        }
                    } else {
                        tracing::debug!(%reason, "control plane is still away");
                    }
                    if answered {
                        backoff.reset();
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    async fn stream<F: Form>(
        &self,
        form: &mut F,
        wakes: &Wakes,
        renewals: &mut watch::Receiver<u64>,
        was_up: &mut Option<bool>,
    ) -> End {
        let mut answered = false;
        let lost = |reason: String, answered| End::Lost { reason, answered };
        let channel = match self.control.connect().await {
            Ok(channel) => channel,
            Err(error) => return lost(chain(&error), answered),
        };
        let (requests, queue) = mpsc::channel(QUEUE);
        let first = lock(&self.engine).connected(Instant::now());
        if let Err(reason) = send(&requests, form.first(first)).await {
            return lost(reason, answered);
        }
        let mut ads = Ads::new(channel).max_decoding_message_size(MAX_MESSAGE);
        // A server may answer the call only after it has answered the first request.
        let mut call = Request::new(ReceiverStream::new(queue));
        call.metadata_mut().clone_from(self.control.metadata());
        let call = F::call(&mut ads, call);
        tokio::pin!(call);
        let mut answers: Option<Streaming<F::Answer>> = None;
        loop {
            let deadline = lock(&self.engine).deadline();
            let next = tokio::select! {
                result = &mut call, if answers.is_none() => match result {
                    Ok(response) => {
                        answers = Some(response.into_inner());
                        continue;
                    }
                    Err(status) => return lost(chain(&status), answered),
                },
                answer = next_answer(&mut answers) => match answer {
                    Ok(answer) => {
                        if !std::mem::replace(&mut answered, true) {
                            tracing::info!("configuration stream is open");
                            *was_up = Some(true);
                            self.vitals.set_connected(true);
                            self.shared.demand.set_connected(true);
                            self.shared.names.demand.set_connected(true);
                        }
                        let answer = form.read(answer, &lock(&self.engine));
                        let requests = self.take(answer, wakes);
                        wakes.names.notify_one();
                        requests
                    }
                    Err(reason) => return lost(reason, answered),
                },
                () = until(deadline) => self.tick(wakes),
                () = wakes.stream.notified() => self.tick(wakes),
                () = self.shared.demand.wanted() => self.ask(wakes),
                () = self.shared.names.demand.wanted() => self.ask_names(wakes),
                () = self.shared.jwks.came() => self.tick(wakes),
                // Somebody else's server is shown no identity of ours.
                _ = renewals.changed(), if self.control.is_tls() => return End::Renewed,
            };
            if let Err(reason) = send(&requests, form.next(next)).await {
                return lost(reason, answered);
            }
        }
    }

    fn tick(&self, wakes: &Wakes) -> Vec<DeltaDiscoveryRequest> {
        let now = Instant::now();
        let used = self.shared.demand.take_used();
        let used_names = self.shared.names.demand.take_used();
        let requests = {
            let mut engine = lock(&self.engine);
            engine.used(&used, now);
            engine.used_names(&used_names, now);
            engine.tick(now)
        };
        self.publish(now, wakes);
        requests
    }

    /// Asks for the virtual hosts that requests wait for.
    fn ask(&self, wakes: &Wakes) -> Vec<DeltaDiscoveryRequest> {
        let now = Instant::now();
        let names = self.shared.demand.take_wanted();
        let requests = lock(&self.engine).ask(&names, now);
        self.publish(now, wakes);
        requests
    }

    /// Asks for the names that DNS queries wait for.
    fn ask_names(&self, wakes: &Wakes) -> Vec<DeltaDiscoveryRequest> {
        let now = Instant::now();
        let names = self.shared.names.demand.take_wanted();
        let requests = lock(&self.engine).ask_names(&names, now);
        self.publish(now, wakes);
        requests
    }

    fn take(&self, answer: DeltaDiscoveryResponse, wakes: &Wakes) -> Vec<DeltaDiscoveryRequest> {
        let now = Instant::now();
        tracing::debug!(
            type_url = %answer.type_url,
            resources = answer.resources.len(),
            removed = answer.removed_resources.len(),
            "configuration received"
        );
        let requests = lock(&self.engine).response(answer, now);
        for request in &requests {
            if let Some(error) = &request.error_detail {
                tracing::warn!(type_url = %request.type_url, reason = %error.message, "configuration refused");
            }
        }
        self.publish(now, wakes);
        requests
    }

    /// Reads the files that `snapshot` names. A disk that hangs holds a configuration back for a moment only; what is not
    /// read by then is looked at every few seconds, and connections that need it are refused until then.
    fn read_files(&self, snapshot: &Arc<Snapshot>) {
        if !self.shared.tls_files.concern(snapshot) {
            return;
        }
        let (done, read) = std::sync::mpsc::sync_channel(1);
        let (shared, snapshot) = (Arc::clone(&self.shared), Arc::clone(snapshot));
        // Ends with the disk's answer.
        drop(tokio::task::spawn_blocking(move || {
            shared.tls_files.follow(&snapshot, READ_WITHIN);
            // Nobody waits any more if it took too long.
            done.send(()).ok();
        }));
        if read.recv_timeout(READ_WITHIN * 2).is_err() {
            tracing::warn!("TLS files are not read yet: the disk does not answer");
        }
    }

    fn publish(&self, now: Instant, wakes: &Wakes) {
        let (snapshot, bundle, tallies, is_configured, answers, asked, keys, named, names) = {
            let mut engine = lock(&self.engine);
            if engine.awaits_shares() {
                wakes.shares.notify_one();
            }
            (
                engine.take_snapshot(),
                engine.take_bundle(),
                engine.take_tallies(),
                engine.is_configured(now),
                engine.take_answers(),
                engine.asked(),
                engine.take_new_keys(),
                engine.take_named(),
                engine.named(),
            )
        };
        if let Some(bundle) = bundle {
            self.store.set_bundle(bundle);
        }
        if let Some(snapshot) = snapshot {
            self.read_files(&snapshot);
            self.shared.snapshot.publish(snapshot);
        }
        self.shared.jwks.fetch(keys);
        self.shared.demand.settle(answers, asked);
        self.shared.names.demand.settle(named, names);
        for (kind, tally) in tallies {
            self.vitals.count_resources(kind, tally);
        }
        if is_configured {
            self.shared.names.set_configured();
            self.configured
                .send_if_modified(|configured| !std::mem::replace(configured, true));
        }
    }
}

pub(crate) fn lock(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn next_answer<A>(answers: &mut Option<Streaming<A>>) -> Result<A, String> {
    match answers {
        None => std::future::pending().await,
        Some(stream) => match stream.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err("the control plane closed the stream".to_owned()),
            Err(status) => Err(chain(&status)),
        },
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn send<R>(queue: &mpsc::Sender<R>, requests: Vec<R>) -> Result<(), String> {
    for request in requests {
        match timeout(SEND_TIMEOUT, queue.send(request)).await {
            Ok(Ok(())) => {}
            Ok(Err(_closed)) => return Err("the stream was closed".to_owned()),
            Err(_elapsed) => return Err("the control plane does not take our requests".to_owned()),
        }
    }
    Ok(())
}
