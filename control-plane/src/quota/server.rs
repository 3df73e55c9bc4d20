//! The streams: who asks, which limits that means, and when grants go out. Decides nothing about shares.
//!
//! One task plans, at most every [`PLAN_EVERY`], and wakes the streams that have something to say.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use outrigger_proto::outrigger::v1::{self as api, quota_server::Quota};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    allocate::{
        Allocator, INHERITS, Kind, LeaseRequest, PoolKey, PoolStatus, Report, SidecarId, TTL,
    },
    metrics::QuotaMetrics,
    visible::Visible,
};
use crate::{caller::Caller, push::Pushed, spiffe::SpiffeId, xds::claim};

/// Changes that come within this time are planned together.
const PLAN_EVERY: Duration = Duration::from_millis(10);
/// Where many sidecars share a limit, a plan takes a while; then there are fewer, but one so often.
const PLAN_AT_LAST: Duration = Duration::from_millis(500);
/// A stream's next request is not read before.
const READ_EVERY: Duration = Duration::from_millis(5);
/// A stream is ended that says nothing for so long; a lease is renewed at half of its time.
const SILENT: Duration = Duration::from_secs(15);
/// Time for the client to take a grant.
const STUCK: Duration = Duration::from_secs(10);
/// Limits that one sidecar may lease.
const MAX_LIMITS: usize = 1024;
/// Largest request.
pub(crate) const MAX_REQUEST_BYTES: usize = 2 << 20;

/// What all streams share.
#[derive(Debug)]
pub(crate) struct Leases {
    pushed: watch::Receiver<Arc<Pushed>>,
    state: Mutex<State>,
    changed: Notify,
    metrics: QuotaMetrics,
}

#[derive(Debug)]
struct State {
    allocator: Allocator,
    streams: BTreeMap<SidecarId, Arc<Notify>>,
    /// The mesh as it was when this process started, as long as that matters.
    inherited: Option<Arc<Pushed>>,
}

impl Leases {
    pub(crate) fn new(pushed: watch::Receiver<Arc<Pushed>>, metrics: QuotaMetrics) -> Arc<Self> {
        let inherited = Some(Arc::clone(&pushed.borrow()));
        Arc::new(Self {
            pushed,
            state: Mutex::new(State {
                allocator: Allocator::new(Instant::now()),
                streams: BTreeMap::new(),
                inherited,
            }),
            changed: Notify::new(),
            metrics,
        })
    }

    /// Plans whenever something has changed or become due. Runs until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let all_ours = Instant::now() + INHERITS;
        loop {
            let begun = Instant::now();
            let deadline = {
                let mut state = self.lock();
                let now = Instant::now();
                if now >= all_ours {
                    state.inherited = None;
                }
                for id in state.allocator.advance(now) {
                    if let Some(stream) = state.streams.get(&id) {
                        stream.notify_one();
                    }
                }
                self.metrics.show(&state.allocator);
                state.allocator.deadline()
            };
            // Streams need the lock as well: at most a fifth of the time goes into planning.
            sleep(PLAN_EVERY.max(begun.elapsed() * 4).min(PLAN_AT_LAST)).await;
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = due => {}
            }
        }
    }

    /// For `outrigger status`.
    pub(crate) fn status(&self) -> Vec<PoolStatus> {
        self.lock().allocator.status()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the generated trait is implemented for.
#[derive(Clone, Debug)]
pub(crate) struct QuotaService(pub(crate) Arc<Leases>);

#[tonic::async_trait]
impl Quota for QuotaService {
    type LeaseStream = ReceiverStream<Result<api::LeaseGrant, Status>>;

    async fn lease(
        &self,
        request: Request<Streaming<api::LeaseRequest>>,
    ) -> Result<Response<Self::LeaseStream>, Status> {
        let caller = Caller::of(request.extensions());
        let identity = caller.may_subscribe().map_err(|denied| {
            self.0.metrics.refused("identity");
            Status::from(denied)
        })?;
        let identity = identity.cloned();
        let leases = Arc::clone(&self.0);
        // One grant is outstanding at most.
        let (sender, receiver) = mpsc::channel(2);
        // Ends with the client: its half of the stream fails, or nobody takes the grants.
        tokio::spawn(async move {
            let ended = serve(&leases, identity, request.into_inner(), &sender).await;
            if let Err(status) = ended {
                // A client that is gone does not hear why.
                let _gone = timeout(STUCK, sender.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Sender = mpsc::Sender<Result<api::LeaseGrant, Status>>;

async fn serve(
    leases: &Arc<Leases>,
    identity: Option<SpiffeId>,
    mut requests: Streaming<api::LeaseRequest>,
    sender: &Sender,
) -> Result<(), Status> {
    let Some(first) = read(&mut requests).await? else {
        return Ok(());
    };
    let node = claim::node(first.node.as_ref(), identity.as_ref())
        .inspect_err(|_| leases.metrics.refused("node"))?;
    let identity = identity.map(|identity| identity.to_string());
    let id = SidecarId {
        node: format!("{} {}", node.id, identity.unwrap_or_default()).into(),
        process: first.process,
    };
    let wake = Arc::new(Notify::new());
    let number = {
        let mut state = leases.lock();
        state.streams.insert(id.clone(), Arc::clone(&wake));
        state.allocator.open(&id, Instant::now())
    };
    let mut stream = Stream {
        leases: Arc::clone(leases),
        visible: Visible::new(node),
        named: BTreeMap::new(),
        id,
        number,
        wake,
        goodbye: false,
    };
    stream.hear(first)?;
    let mut pushed = leases.pushed.clone();
    loop {
        tokio::select! {
            request = read(&mut requests) => match request? {
                Some(request) => {
                    stream.hear(request)?;
                    sleep(READ_EVERY).await;
                }
                None => return Ok(()),
            },
            () = stream.wake.notified() => {
                let Some(grant) = stream.grant() else { continue };
                match timeout(STUCK, sender.send(Ok(grant))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_closed)) => return Ok(()),
                    Err(_elapsed) => return Err(Status::deadline_exceeded("grants are not read")),
                }
            }
            changed = pushed.changed() => match changed {
                Ok(()) => {
                    let now = Arc::clone(&pushed.borrow_and_update());
                    stream.look(&now);
                }
                Err(_stopping) => return Err(Status::unavailable("the control plane is stopping")),
            },
        }
    }
}

async fn read(
    requests: &mut Streaming<api::LeaseRequest>,
) -> Result<Option<api::LeaseRequest>, Status> {
    match timeout(SILENT, requests.message()).await {
        Ok(Ok(request)) => Ok(request),
        // A connection that breaks is a client that goes; there is nobody to tell.
        Ok(Err(_broken)) => Ok(None),
        Err(_elapsed) => Err(Status::deadline_exceeded(format!(
            "no request within {SILENT:?}"
        ))),
    }
}

/// What a stream has named, by cluster and limit.
#[derive(Clone, Debug)]
struct Named {
    /// What it means now; None = nothing that this node may lease.
    key: Option<PoolKey>,
    /// As last heard.
    report: Report,
    /// As last sent.
    share: u32,
    fallback: u32,
}

/// One open stream.
struct Stream {
    leases: Arc<Leases>,
    visible: Visible,
    named: BTreeMap<(Arc<str>, Kind), Named>,
    id: SidecarId,
    number: u64,
    wake: Arc<Notify>,
    goodbye: bool,
}

impl Stream {
    fn hear(&mut self, request: api::LeaseRequest) -> Result<(), Status> {
        if request.goodbye {
            self.goodbye = true;
            return Err(Status::cancelled("goodbye"));
        }
        let pushed = Arc::clone(&self.leases.pushed.borrow());
        let leases = Arc::clone(&self.leases);
        let mut used = Vec::with_capacity(request.uses.len().min(MAX_LIMITS));
        for one in request.uses {
            let (cluster, kind) = named(one.limited)?;
            let report = Report {
                in_use: one.in_use,
                wanted: one.wanted,
                held: one.held,
                fallback: one.fallback,
                first: one.first,
            };
            used.push((cluster, kind, report));
        }
        let limits = self.means(
            &pushed,
            used.iter().map(|(cluster, kind, _)| (&**cluster, *kind)),
        );
        // First what is given up: a sidecar that names a limit in both has it again.
        let mut released = Vec::new();
        for limited in request.released {
            let (cluster, kind) = named(Some(limited))?;
            let entry = self.named.remove(&(cluster, kind));
            released.extend(entry.and_then(|entry| entry.key));
        }
        let mut uses = Vec::with_capacity(used.len());
        for ((cluster, kind, report), limit) in used.into_iter().zip(&limits) {
            if self.named.len() >= MAX_LIMITS && !self.named.contains_key(&(cluster.clone(), kind))
            {
                leases.metrics.refused("limit");
                return Err(Status::resource_exhausted(format!(
                    "more than {MAX_LIMITS} limits on one stream"
                )));
            }
            let known = self.named.get(&(Arc::clone(&cluster), kind));
            let (key, report) = match (limit, known) {
                (Some(limit), _) => (Some(limit.key.clone()), report),
                // Not to be used any more; what still is in use is kept for it until it lets go.
                (None, Some(known)) => (known.key.clone(), report.wanting_nothing()),
                (None, None) => (None, report),
            };
            if key.is_none() {
                leases.metrics.refused("cluster");
            }
            uses.extend(key.clone().map(|key| (key, report)));
            let entry = self.named.entry((cluster, kind)).or_insert(Named {
                key: None,
                report,
                share: 0,
                fallback: 0,
            });
            (entry.key, entry.report) = (key, report);
        }
        let mut state = leases.lock();
        Limit::set_all(&mut state.allocator, &limits);
        let heard = LeaseRequest {
            sequence: request.sequence,
            applied: request.applied,
            renew: request.renew,
            uses,
            released,
        };
        let read = state
            .allocator
            .request(&self.id, self.number, heard, Instant::now());
        read.map_err(|_stale| Status::aborted("the lease is over, or another stream has it"))?;
        leases.changed.notify_one();
        Ok(())
    }

    /// The mesh has changed: what was named may mean other limits, or none.
    fn look(&mut self, pushed: &Pushed) {
        let leases = Arc::clone(&self.leases);
        let mut named = std::mem::take(&mut self.named);
        let names = named.keys().map(|(cluster, kind)| (&**cluster, *kind));
        let limits = self.means(pushed, names);
        let (mut uses, mut released) = (Vec::new(), Vec::new());
        for (entry, limit) in named.values_mut().zip(&limits) {
            let key = limit.as_ref().map(|limit| &limit.key);
            if key == entry.key.as_ref() {
                continue;
            }
            // What was sent may not have been answered yet.
            let report = Report {
                held: entry.report.held.max(entry.share),
                fallback: entry.report.fallback.max(entry.fallback),
                ..entry.report
            };
            match key {
                Some(key) => {
                    released.extend(entry.key.replace(key.clone()));
                    uses.push((key.clone(), report));
                }
                // The cluster is gone, and what is in use of it is not: kept until the sidecar lets go.
                None => {
                    let known = entry.key.clone();
                    uses.extend(known.map(|key| (key, report.wanting_nothing())));
                }
            }
        }
        self.named = named;
        let mut state = leases.lock();
        Limit::set_all(&mut state.allocator, &limits);
        let now = Instant::now();
        let allocator = &mut state.allocator;
        allocator.move_to(&self.id, self.number, uses, released, now);
        leases.changed.notify_one();
    }

    /// What the names mean to this node. Without the lock: it may have to translate.
    fn means<'a>(
        &mut self,
        pushed: &Pushed,
        names: impl Iterator<Item = (&'a str, Kind)> + Clone,
    ) -> Vec<Option<Limit>> {
        let before = self.leases.lock().inherited.clone();
        let then = before.map(|before| self.visible.limits(&before, names.clone()));
        let now = self.visible.limits(pushed, names);
        let mut then = then.into_iter().flatten();
        let mut limits = Vec::with_capacity(now.len());
        for found in now {
            let then = then.next().flatten();
            limits.push(found.map(|(key, limit)| Limit {
                inherited: then.is_some_and(|(then, _)| then == key),
                key,
                limit,
            }));
        }
        limits
    }

    fn grant(&mut self) -> Option<api::LeaseGrant> {
        let mut state = self.leases.lock();
        let grant = state
            .allocator
            .grant(&self.id, self.number, Instant::now())?;
        drop(state);
        let mut shares = Vec::new();
        for (key, share) in grant.shares {
            let kind = key.kind;
            let Some(entry) = self.named.get_mut(&(Arc::clone(&key.cluster), kind)) else {
                continue;
            };
            (entry.share, entry.fallback) = (share.share, share.fallback);
            shares.push(api::Share {
                limited: Some(api::Limited {
                    cluster: key.cluster.to_string(),
                    limit: wire(kind).into(),
                }),
                share: share.share,
                fallback: share.fallback,
                limit: share.limit,
                sidecars: share.sidecars,
            });
        }
        self.leases.metrics.grants.inc();
        Some(api::LeaseGrant {
            sequence: grant.sequence,
            answers: grant.answers,
            ttl: prost_types::Duration::try_from(TTL).ok(),
            shares,
        })
    }
}

/// What a name means.
#[derive(Clone, Debug)]
struct Limit {
    key: PoolKey,
    limit: u32,
    /// It was in force when this process started.
    inherited: bool,
}

impl Limit {
    fn set_all(allocator: &mut Allocator, limits: &[Option<Self>]) {
        for limit in limits.iter().flatten() {
            allocator.set_limit(&limit.key, limit.limit, limit.inherited);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.leases.lock();
        state.allocator.close(&self.id, self.number, self.goodbye);
        let ours = state.streams.get(&self.id);
        if ours.is_some_and(|wake| Arc::ptr_eq(wake, &self.wake)) {
            state.streams.remove(&self.id);
        }
        drop(state);
        self.leases.changed.notify_one();
    }
}

fn named(limited: Option<api::Limited>) -> Result<(Arc<str>, Kind), Status> {
    let limited = limited.unwrap_or_default();
    let kind = match limited.limit() {
        api::Limit::MaxConnections => Kind::Connections,
        api::Limit::Http1MaxPendingRequests => Kind::Pending,
        api::Limit::Http2MaxRequests => Kind::Requests,
        api::Limit::MaxRetries => Kind::Retries,
        api::Limit::Unspecified => {
            return Err(Status::invalid_argument(format!(
                "limited.limit is {}; use MAX_CONNECTIONS, HTTP1_MAX_PENDING_REQUESTS, HTTP2_MAX_REQUESTS or MAX_RETRIES",
                limited.limit
            )));
        }
    };
    Ok((limited.cluster.into(), kind))
}

fn wire(kind: Kind) -> api::Limit {
    match kind {
        Kind::Connections => api::Limit::MaxConnections,
        Kind::Pending => api::Limit::Http1MaxPendingRequests,
        Kind::Requests => api::Limit::Http2MaxRequests,
        Kind::Retries => api::Limit::MaxRetries,
    }
}
