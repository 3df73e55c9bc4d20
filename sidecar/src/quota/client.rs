//! The stream: feeds the holder, sends what it writes, and comes back when the stream is lost.
//! There is one only while a cluster has limits of scope SERVICE.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use outrigger_proto::{
    envoy::config::core::v3::Node,
    outrigger::v1::{LeaseGrant, LeaseRequest, quota_client::QuotaClient},
};
use prometheus::Registry;
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{holder::Holder, metrics::Metrics};
use crate::{backoff::Backoff, control::Control, identity::chain, shared::Shared, worker::Workers};

/// How often what is in use is looked at, and the most often that it is told.
const TICK: Duration = Duration::from_millis(50);
/// Requests on their way out: at least one a tick for as long as the lease lasts.
const QUEUE: usize = 256;
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_CAP: Duration = Duration::from_secs(2);
/// How long a goodbye may take to leave.
const FAREWELL: Duration = Duration::from_millis(200);

/// Holds this sidecar's shares. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    holder: Arc<Mutex<Holder>>,
    shared: Arc<Shared>,
}

impl Shares {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            holder: Arc::new(Mutex::new(Holder::new())),
            shared: Arc::clone(shared),
        }
    }

    /// Waits until every shared limit of the snapshot has a share, or has waited long enough for one.
    pub(crate) async fn settled(&self) {
        loop {
            let now = Instant::now();
            {
                let mut holder = self.lock();
                holder.follow(&self.shared.snapshot.load(), now);
                if holder.is_settled(now) {
                    return;
                }
            }
            sleep(TICK).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Holder> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leases shares from the control plane.
#[derive(Debug)]
pub(crate) struct Client {
    shares: Shares,
    control: Arc<Control>,
    workers: Arc<Workers>,
    node: Node,
    /// Tells the control plane that a process is not the one that had this node's ports before.
    process: u64,
    metrics: Metrics,
}

/// An open stream, or one that is being opened.
struct Stream {
    requests: mpsc::Sender<LeaseRequest>,
    grants: mpsc::Receiver<Result<LeaseGrant, String>>,
    task: AbortHandle,
    opened: Instant,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    pub(crate) fn new(
        shares: Shares,
        control: Arc<Control>,
        workers: Arc<Workers>,
        node: Node,
        registry: &Registry,
    ) -> Self {
        Self {
            shares,
            control,
            workers,
            node,
            process: fastrand::u64(..),
            metrics: Metrics::new(registry),
        }
    }

    /// Until `leave`, then says goodbye.
    pub(crate) async fn run(self, mut leave: oneshot::Receiver<oneshot::Sender<()>>) {
        let mut changed = self.shares.shared.snapshot.subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(BACKOFF, BACKOFF_CAP);
        let mut stream: Option<Stream> = None;
        let mut not_before = Instant::now();
        loop {
            let idle = self.shares.lock().is_empty();
            let now = Instant::now();
            if !idle && stream.is_none() && now >= not_before {
                stream = Some(self.open(now));
            }
            let lost = tokio::select! {
                bye = &mut leave => {
                    self.goodbye(stream, bye.ok()).await;
                    return;
                }
                change = changed.changed() => {
                    if change.is_err() {
                        return;
                    }
                    let snapshot = self.shares.shared.snapshot.load();
                    self.shares.lock().follow(&snapshot, Instant::now());
                    continue;
                }
                _ = tick.tick(), if !idle => self.tick(stream.as_ref()),
                grant = next(&mut stream) => match grant {
                    Ok(grant) => {
                        backoff.reset();
                        self.apply(stream.as_ref(), grant)
                    }
                    Err(reason) => Some(reason),
                },
            };
            if let Some(reason) = lost {
                tracing::debug!(%reason, "lease stream is lost");
                stream = None;
                not_before = Instant::now() + backoff.next();
            }
        }
    }

    fn open(&self, now: Instant) -> Stream {
        let (requests, queue) = mpsc::channel(QUEUE);
        let first = self
            .shares
            .lock()
            .open(self.node.clone(), self.process, now);
        let sent = requests.try_send(first);
        debug_assert!(sent.is_ok(), "a new channel has room");
        let (sender, grants) = mpsc::channel(1);
        let client = QuotaClient::new(self.control.channel());
        // Ends with its `Stream`.
        let task = tokio::spawn(forward(client, queue, sender)).abort_handle();
        Stream {
            requests,
            grants,
            task,
            opened: now,
        }
    }

    /// Gives back why the stream is to be left, if it is.
    fn tick(&self, stream: Option<&Stream>) -> Option<String> {
        let now = Instant::now();
        let (request, over) = {
            let mut holder = self.shares.lock();
            holder.set_spare(self.workers.spare_of_shares());
            holder.tick(now);
            self.metrics.show(&holder, now);
            let request = stream.and_then(|_| holder.request(now));
            (request, holder.falls_back(now))
        };
        self.workers.follow_shares();
        let stream = stream?;
        // A control plane whose lease has run out reads nothing more from this stream.
        if over && now >= stream.opened + BACKOFF_CAP * 2 {
            return Some("the lease ran out".to_owned());
        }
        request.and_then(|request| send(stream, request))
    }

    fn apply(&self, stream: Option<&Stream>, grant: LeaseGrant) -> Option<String> {
        let applied = self.shares.lock().apply(grant, Instant::now());
        self.workers.follow_shares();
        send(stream?, applied)
    }

    /// What this process had is free for others at once. Its own requests have ended.
    async fn goodbye(&self, stream: Option<Stream>, said: Option<oneshot::Sender<()>>) {
        if let Some(stream) = stream {
            let goodbye = LeaseRequest {
                goodbye: true,
                ..LeaseRequest::default()
            };
            if send(&stream, goodbye).is_none() {
                sleep(FAREWELL).await;
            }
        }
        if said.is_some_and(|said| said.send(()).is_err()) {
            tracing::debug!("the goodbye took too long");
        }
    }
}

async fn next(stream: &mut Option<Stream>) -> Result<LeaseGrant, String> {
    match stream {
        None => std::future::pending().await,
        Some(stream) => match stream.grants.recv().await {
            Some(grant) => grant,
            None => Err("the stream has ended".to_owned()),
        },
    }
}

/// Gives back why it could not be sent.
fn send(stream: &Stream, request: LeaseRequest) -> Option<String> {
    let sent = stream.requests.try_send(request);
    sent.err().map(|error| error.to_string())
}

async fn forward(
    mut client: QuotaClient<tonic::transport::Channel>,
    queue: mpsc::Receiver<LeaseRequest>,
    sender: mpsc::Sender<Result<LeaseGrant, String>>,
) {
    let ended = async {
        let call = client.lease(ReceiverStream::new(queue));
        let mut grants = call.await.map_err(|status| chain(&status))?.into_inner();
        while let Some(grant) = grants.message().await.map_err(|status| chain(&status))? {
            if sender.send(Ok(grant)).await.is_err() {
                return Ok(());
            }
        }
        Err("the control plane closed the stream".to_owned())
    };
    if let Err(reason) = ended.await {
        // Nobody is left to hear it if the stream was left.
        drop(sender.send(Err(reason)).await);
    }
}
