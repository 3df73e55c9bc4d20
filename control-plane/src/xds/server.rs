//! The tonic services: ADS and one a type, incremental and state of the world.
//!
//! A stream is one task: it reads requests, waits for changes that concern it, and sends what [`StreamState`] says. It ends
//! with its client, with the server, or when the client reads nothing for [`STUCK`].

mod wire;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use prost::Message as _;
use prost_types::Struct;
use tokio::{
    sync::mpsc,
    time::{sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

pub(super) use wire::{Delta, Sotw, Wire};

use super::{
    claim,
    holdings::{self, Ask},
    metrics::{XdsMetrics, label},
    sets::Sets,
    stream::{Protocol, StreamState},
    subscription::{Answer, MAX_NAME_BYTES, Verdict},
    together::{Member, Together},
};
use crate::{
    caller::{Caller, Peer, Shown},
    clients::{Client, ClientHandle, Clients, Note},
    interests::{Entry, Interest},
    push::{Pushed, Pushes},
    snapshot::ResourceType,
    spiffe::SpiffeId,
    translate::{Dialect, NodeInfo, NodeResources},
};

/// A client whose transport takes nothing for this long is let go: what it would be sent is kept only while
/// it reads. Twice the server's keep-alive, which ends dead connections; this ends live ones that hang.
const STUCK: Duration = Duration::from_secs(30);
/// For clients of the process before this one to come back: gRPC tries again after 2 minutes at the latest.
const ORIGIN_KEPT: Duration = Duration::from_secs(5 * 60);
/// Time for the first request, without which nothing is known of the client.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// Responses between the stream's task and its connection: one outstanding a type, and as many again.
const QUEUE: usize = 10;

/// Remarks shown of one client. One that reads all of them has enough to do.
const MAX_NOTES: usize = 100;

/// Responses of one stream.
pub(crate) type Responses<T> = ReceiverStream<Result<T, Status>>;

/// What all streams share.
#[derive(Debug)]
pub(crate) struct Xds {
    pushes: Pushes,
    clients: Arc<Clients>,
    metrics: XdsMetrics,
    /// What clients of the state of the world were sent.
    sets: Arc<Sets>,
    /// The streams of each node.
    together: Arc<Together>,
    /// What was to be sent first, for a while.
    origin: Mutex<Option<Arc<Pushed>>>,
    started: Instant,
    /// Different in every process, so that no nonce comes twice.
    epoch: u128,
    streams: AtomicU64,
}

impl Xds {
    /// Streams end when no more pushes will come.
    pub(crate) fn new(pushes: Pushes, clients: Arc<Clients>, metrics: XdsMetrics) -> Arc<Self> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let epoch = since.unwrap_or_default().as_nanos();
        let origin = newest(&pushes);
        Arc::new(Self {
            pushes,
            clients,
            metrics,
            sets: Arc::default(),
            together: Arc::default(),
            origin: Mutex::new(Some(origin)),
            started: Instant::now(),
            epoch,
            streams: AtomicU64::new(0),
        })
    }

    /// Opens a stream. `only` is the type of a per-type service.
    pub(super) fn open<W: Wire>(
        self: &Arc<Self>,
        request: Request<Streaming<W::Request>>,
        only: Option<ResourceType>,
    ) -> Result<Response<Responses<W::Response>>, Status> {
        // Nobody may come to look at it any more.
        drop(self.origin());
        let caller = Caller::of(request.extensions());
        let identity = caller.may_subscribe().map_err(|denied| {
            self.refused("identity");
            Status::from(denied)
        })?;
        let session = Session {
            xds: Arc::clone(self),
            identity: identity.cloned(),
            peer: request.extensions().get::<Peer>().map(|peer| peer.0),
            serial: request
                .extensions()
                .get::<Shown>()
                .map(|shown| Arc::clone(&shown.serial)),
            only,
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        // Ends with the client: its half of the stream fails, or nobody takes the responses.
        tokio::spawn(async move {
            if let Err(status) = session.run::<W>(request.into_inner(), &sender).await {
                // A client that is gone does not hear why.
                let _gone = timeout(STUCK, sender.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    fn refused(&self, reason: &str) {
        self.metrics
            .streams_refused
            .with_label_values(&[reason])
            .inc();
    }

    /// What was sent before the process before this one ended: nothing can change while there is none.
    fn origin(&self) -> Option<Arc<Pushed>> {
        let mut origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        if self.started.elapsed() > ORIGIN_KEPT {
            *origin = None;
        }
        origin.clone()
    }

    fn nonce_prefix(&self) -> String {
        format!(
            "{:x}.{:x}",
            self.epoch,
            self.streams.fetch_add(1, Ordering::Relaxed)
        )
    }
}

/// Who opened a stream, and how.
struct Session {
    xds: Arc<Xds>,
    identity: Option<SpiffeId>,
    peer: Option<SocketAddr>,
    /// Of its certificate.
    serial: Option<Arc<str>>,
    only: Option<ResourceType>,
}

type Sender<W> = mpsc::Sender<Result<<W as Wire>::Response, Status>>;

impl Session {
    async fn run<W: Wire>(
        &self,
        mut requests: Streaming<W::Request>,
        sender: &Sender<W>,
    ) -> Result<(), Status> {
        let first = timeout(FIRST_REQUEST, requests.message()).await;
        let first = first.map_err(|_elapsed| {
            Status::deadline_exceeded(format!("no request within {FIRST_REQUEST:?}"))
        })?;
        let Some(first) = first? else { return Ok(()) };
        let node = claim::node(W::node(&first), self.identity.as_ref())
            .inspect_err(|_| self.xds.refused("node"))?;
        let metadata = W::node(&first).and_then(|node| node.metadata.as_ref());
        let metadata = metadata.map(Struct::encode_to_vec).unwrap_or_default();
        let mut stream = self.stream(node, metadata.into(), W::PROTOCOL);
        // An operator may be any node, and reads what others are told.
        let operator = self.identity.is_none();
        info!(node = stream.node.id, peer = ?self.peer, operator, "xDS client connected");
        let result = self
            .serve::<W>(&mut stream, first, &mut requests, sender)
            .await;
        match &result {
            Ok(()) => info!(node = stream.node.id, "xDS client gone"),
            Err(status) => info!(node = stream.node.id, %status, "xDS stream ended"),
        }
        result
    }

    async fn serve<W: Wire>(
        &self,
        stream: &mut Stream,
        first: W::Request,
        requests: &mut Streaming<W::Request>,
        sender: &Sender<W>,
    ) -> Result<(), Status> {
        let mut end = self.xds.pushes.end.clone();
        self.read::<W>(stream, first)?;
        loop {
            stream.look(&self.xds.pushes);
            stream.heed_others();
            let now = Instant::now();
            for answer in stream.state.poll(now) {
                stream.sent(&self.xds.metrics, &answer);
                match timeout(STUCK, sender.send(Ok(W::response(answer)))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_closed)) => return Ok(()),
                    Err(_elapsed) => {
                        self.xds.metrics.streams_stuck.inc();
                        warn!(
                            node = stream.node.id,
                            "xDS client reads nothing; stream ended"
                        );
                        return Ok(());
                    }
                }
            }
            stream.tell_others();
            stream.settle();
            stream.trust();
            stream.note();
            // Held until the next look, it would hold a translation that others have left behind. Not if it would have to
            // be made anew each time.
            if stream.own.shares_scope() {
                stream.state.rest();
            }
            let deadline = stream.state.deadline(Instant::now());
            let wait = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.read::<W>(stream, request)?,
                    Ok(None) => return Ok(()),
                    // A connection that breaks is a client that goes; there is nobody to tell.
                    Err(status) => {
                        debug!(node = stream.node.id, %status, "xDS stream broken");
                        return Ok(());
                    }
                },
                () = stream.entry.rung() => {}
                _closed = end.changed() => {
                    return Err(Status::unavailable("the control plane is stopping"));
                }
                Some(ask) = stream.asks.recv() => {
                    // Who asked may have gone.
                    let _gone = ask.send(holdings::of(&stream.state));
                }
                () = stream.others.changed() => {}
                () = wait => {}
            }
        }
    }

    fn read<W: Wire>(&self, stream: &mut Stream, mut request: W::Request) -> Result<(), Status> {
        let type_url = W::type_url(&mut request);
        if type_url.len() > MAX_NAME_BYTES {
            return Err(Status::invalid_argument(format!(
                "type_url has {} bytes; at most {MAX_NAME_BYTES}",
                type_url.len()
            )));
        }
        if let Some(only) = self.only {
            if type_url.is_empty() {
                only.url().clone_into(type_url);
            } else if type_url != only.url() {
                return Err(Status::invalid_argument(format!(
                    "type_url is {type_url:?}; this service has {:?} only, ADS has all",
                    only.url()
                )));
            }
        } else if type_url.is_empty() {
            return Err(Status::invalid_argument(
                "type_url is empty; ADS needs one in each request",
            ));
        }
        let kind = ResourceType::from_url(type_url);
        if let Some(kind) = kind.filter(|kind| kind.is_full_state())
            && let Some((version, names)) = W::comes_back_with(&request)
        {
            self.recognize(stream, kind, version, names);
        }
        let verdict = W::read(&mut stream.state, &request, Instant::now());
        let verdict = verdict.map_err(|refusal| {
            self.xds.refused("limit");
            Status::resource_exhausted(refusal.to_string())
        })?;
        if let Some(verdict) = verdict {
            stream.heard(&self.xds.metrics, kind, verdict);
        }
        Ok(())
    }

    /// Finds out whether a client that comes back has what the process before this one sent last.
    fn recognize(&self, stream: &Stream, kind: ResourceType, version: &str, names: &[String]) {
        let sets = &self.xds.sets;
        if stream.state.is_started(kind) {
            return;
        }
        let is_known = || sets.get(kind, version).is_some();
        if !is_known()
            && let Some(origin) = self.xds.origin()
        {
            let snapshot = origin.shared.snapshot(&stream.node, &stream.own);
            sets.recognize(kind, version, names, snapshot.of(kind));
        }
        let known = if is_known() { "known" } else { "unknown" };
        self.xds.metrics.returns.with_label_values(&[known]).inc();
    }

    fn stream(&self, node: NodeInfo, metadata: Box<[u8]>, protocol: Protocol) -> Stream {
        let name = match protocol {
            Protocol::Delta => "delta",
            Protocol::Sotw => "sotw",
        };
        let (ask, asks) = mpsc::channel(1);
        let client = self.xds.clients.connected(Client {
            ask: Some(ask),
            node_id: node.id.clone(),
            metadata,
            identity: self
                .identity
                .as_ref()
                .map(|identity| Arc::clone(identity.uri())),
            peer: self.peer,
            serial: self.serial.clone(),
            protocol: name,
            dialect: node.dialect.name(),
        });
        let identity = self.identity.as_ref().map(SpiffeId::uri);
        let others = self.xds.together.join(&node.id, identity);
        if others.is_none() {
            self.xds.metrics.streams_alone.inc();
        }
        let open = self.xds.metrics.streams.with_label_values(&[name]);
        open.inc();
        Stream {
            own: NodeResources::of(&node),
            state: StreamState::new(
                protocol,
                &self.xds.nonce_prefix(),
                Arc::clone(&self.xds.sets),
            ),
            node,
            client,
            asks,
            others: OtherStreams(others),
            entry: self.xds.pushes.interests.enter(),
            interest: Interest::default(),
            everything: false,
            seen: None,
            changed: None,
            revision: 0,
            settled: None,
            answered: None,
            unenforced: Vec::new(),
            notes: Vec::new(),
            bundle: None,
            _open: Open(open),
        }
    }
}

/// Not to keep the channel locked: looking at it may take a while.
fn newest(pushes: &Pushes) -> Arc<Pushed> {
    Arc::clone(&pushes.newest.borrow())
}

/// One open stream.
struct Stream {
    node: NodeInfo,
    own: NodeResources,
    state: StreamState,
    client: ClientHandle,
    /// Questions of the operator.
    asks: mpsc::Receiver<Ask>,
    others: OtherStreams,
    /// Where it waits.
    entry: Entry,
    /// For what.
    interest: Interest,
    /// It asked for all clusters or endpoints.
    everything: bool,
    /// The last translation that it looked at.
    seen: Option<Instant>,
    /// When the change was seen that the next response carries.
    changed: Option<Instant>,
    /// Of the policies behind what is to be sent.
    revision: u64,
    /// The last one that was told to `client`.
    settled: Option<u64>,
    /// The last translation whose endpoints were answered, as told to `entry`.
    answered: Option<Instant>,
    /// Documents that are for this client's workload and that it does not enforce, and why.
    unenforced: Vec<(Arc<str>, String)>,
    /// The last ones that were told to `client`.
    notes: Vec<Note>,
    /// The last one that was told to `client`.
    bundle: Option<Option<Arc<str>>>,
    _open: Open,
}

/// The node's other streams, if it does not have too many.
struct OtherStreams(Option<Member>);

impl OtherStreams {
    async fn changed(&mut self) {
        match &mut self.0 {
            Some(member) => member.changed().await,
            None => std::future::pending().await,
        }
    }
}

/// Counts the stream as long as it is open.
struct Open(prometheus::IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Stream {
    /// Takes over what the node's other streams leave to this one, and what it has to wait for.
    fn heed_others(&mut self) {
        if let (Some(member), Some(seen)) = (&mut self.others.0, self.seen) {
            self.state.set_others(member.others(seen));
            if self.state.is_started(ResourceType::Endpoint) {
                self.state.owe_too(member.take_owed(seen));
            }
        }
    }

    /// Says how far this one has got, and what it leaves to the others.
    fn tell_others(&mut self) {
        if let (Some(member), Some(seen)) = (&self.others.0, self.seen) {
            if member.has_others() {
                let owed = self.state.take_owed();
                if !owed.is_empty() {
                    member.owe(owed, seen);
                }
            }
            member.tell(seen, self.state.open());
        }
    }

    /// Takes the newest translation.
    fn look(&mut self, pushes: &Pushes) {
        let renamed = self.state.renamed();
        if let Some(named) = &renamed {
            self.everything = named.everything;
            self.interest.named.clone_from(&named.hosts);
        }
        let mut pushed = newest(pushes);
        // Streams that wait for each other have to see the same changes.
        let joined = self.others.0.as_ref().is_some_and(Member::has_others);
        let all_of =
            (self.everything || joined).then(|| pushed.shared.hosts_of(&self.node, &self.own));
        // By their address: there is another set when ports or policies have changed, and each is large.
        let same = match (&all_of, &self.interest.all_of) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if renamed.is_some() || !same {
            self.interest.all_of = all_of;
            self.entry.waits_for(self.interest.clone());
            // Anything that came before that has not been rung for.
            pushed = newest(pushes);
        }
        let new = self.seen != Some(pushed.since);
        if !new && self.state.has_snapshot() {
            return;
        }
        if new {
            self.seen = Some(pushed.since);
            self.changed = Some(pushed.since);
            self.revision = pushed.shared.revision();
            self.unenforced = pushed.shared.unenforced(&self.node);
        }
        let snapshot = pushed.shared.snapshot(&self.node, &self.own);
        if new {
            self.state.set_snapshot(snapshot);
        } else {
            self.state.set_snapshot_again(snapshot);
        }
    }

    /// Shows what a client of a smaller dialect does not do.
    fn note(&mut self) {
        if !matches!(self.node.dialect, Dialect::Grpc(_)) {
            return;
        }
        // Who is let in comes first: nothing else is worth as much.
        let unenforced = self.unenforced.iter().map(|(document, note)| Note {
            type_url: ResourceType::Listener.url(),
            name: Arc::clone(document),
            note: note.clone(),
        });
        let notes = self.state.notes().map(|(kind, name, note)| Note {
            type_url: kind.url(),
            name: Arc::clone(name),
            note: note.to_owned(),
        });
        let notes: Vec<Note> = unenforced.chain(notes).take(MAX_NOTES).collect();
        if self.notes != notes {
            self.client.noted(notes.clone());
            self.notes = notes;
        }
    }

    /// Notes which trust bundle the client has accepted: the rotation of the root waits for that.
    fn trust(&mut self) {
        let bundle = self.state.bundle();
        if self.bundle.as_ref().map(Option::as_ref) != bundle {
            let bundle = bundle.map(Option::<&Arc<str>>::cloned);
            self.client.trusts(bundle.clone());
            self.bundle = bundle;
        }
    }

    /// Notes that the client has answered everything there is.
    fn settle(&mut self) {
        if self.settled != Some(self.revision) && self.state.is_settled() {
            self.settled = Some(self.revision);
            self.client.settled(self.revision);
        }
        if self.answered != self.seen
            && let Some(seen) = self.seen
            && self.state.has_all_endpoints()
        {
            self.answered = Some(seen);
            self.entry.answered(seen);
        }
    }

    fn sent(&mut self, metrics: &XdsMetrics, answer: &Answer) {
        let kind = ResourceType::from_url(&answer.type_url);
        let (set, removed) = (answer.resources.len(), answer.removed.len());
        metrics.pushes.with_label_values(&[label(kind)]).inc();
        metrics
            .resources_sent
            .with_label_values(&[label(kind)])
            .inc_by(set as u64);
        metrics
            .resources_removed
            .with_label_values(&[label(kind)])
            .inc_by(removed as u64);
        if let Some(since) = self.changed.take() {
            metrics.push_seconds.observe(since.elapsed().as_secs_f64());
        }
        if let Some(kind) = kind {
            self.client
                .sent(kind.url(), &answer.nonce, self.state.held(kind));
        }
    }

    fn heard(&self, metrics: &XdsMetrics, kind: Option<ResourceType>, verdict: Verdict) {
        match verdict {
            Verdict::Ack { nonce, after } => {
                metrics.ack_seconds.observe(after.as_secs_f64());
                if let Some(kind) = kind {
                    self.client.acked(kind.url(), &nonce);
                }
            }
            Verdict::Nack { nonce, words } => {
                metrics.nacks.with_label_values(&[label(kind)]).inc();
                warn!(
                    node = self.node.id,
                    kind = label(kind),
                    nonce,
                    words,
                    "xDS response refused"
                );
                if let Some(kind) = kind {
                    self.client.nacked(kind.url(), &words);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
