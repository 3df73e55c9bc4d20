//! A downstream connection's life: its first bytes, where the listener has several filter chains; TLS where the chain
//! has it; detection, HTTP.

use std::{io, rc::Rc, sync::Arc};

use bytes::Bytes;
use outrigger_core::{
    ConnectionRoute, DownstreamTls, FilterChain, FilterChains, Greeting, HTTP1, HTTP2, Inspect,
    Listener, RouteSource, TcpKeepalive,
};
use rustls::ServerConnection;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{
    Worker,
    connection::{Connection, Order, Peer},
};
use crate::{
    capture::place,
    connect::tune,
    detect::{
        self, Wire,
        both::{self, Seen},
    },
    hello::peek::{self, NoHello},
    http::{
        io::{Io, Transport},
        serve,
    },
    listen::{Accepted, caps::PeerSeat},
    proxy_protocol,
    tcp::{
        self,
        early::{Early, Failed},
    },
    tls::{self, Refusal, svid},
};

/// Serves an accepted connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted {
        stream,
        remote,
        bound,
        load,
    } = accepted;
    let mut stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "accepted connection was lost");
            return;
        }
    };
    tune(&stream, &TcpKeepalive::default());
    let mut connection = Connection::new(bound, remote, Rc::clone(&worker.now));
    connection.local = stream.local_addr().ok();
    if !place::find(&worker, &mut connection, &stream).await
        || !introduce(&worker, &mut connection, &mut stream).await
    {
        return;
    }
    let Some(Looked {
        stream,
        first,
        early,
    }) = look(&worker, &mut connection, stream).await
    else {
        return;
    };
    // As it is now: looking may have taken a while.
    let snapshot = worker.snapshot();
    let Some(listener) = snapshot.listeners.get(&connection.bound.name) else {
        return;
    };
    let found = listener.chains.only().or_else(|| {
        let plain = Greeting::default();
        let greeting = connection.greeting.as_ref().unwrap_or(&plain);
        listener.chains.find_for(greeting, connection.local)
    });
    let Some(chain) = found else {
        tcp::refuse_unmatched(&worker, &connection);
        count_dry_run(&worker, listener, &connection, false);
        return;
    };
    if let Some(settings) = &chain.settings {
        connection.settings = settings.connection;
    }
    let (transport, alpn) = match &chain.tls {
        None => (Io::new(Transport::Plain(stream)).before(first), None),
        Some(tls) => {
            let Some(_going_on) = worker.handshakes.begin() else {
                too_many_handshakes(&worker, &connection);
                return;
            };
            match handshake(&worker, tls, stream, first, &mut connection).await {
                Ok((transport, alpn)) => (Io::new(transport), alpn),
                Err(refusal) => {
                    if refusal == Refusal::Plaintext {
                        count_dry_run(&worker, listener, &connection, false);
                    }
                    refused(&worker, &connection, &refusal);
                    return;
                }
            }
        }
    };
    count_dry_run(&worker, listener, &connection, true);
    drop(snapshot);
    let _seat = match of_identity(&worker, &connection) {
        Ok(seat) => seat,
        Err(TooMany) => return,
    };
    let connection = Rc::new(connection);
    let _watched = worker.watch(&connection);
    // As it is now: a handshake takes a while, too, and whoever looks at connections did not see this one yet.
    let snapshot = worker.snapshot();
    let listener = snapshot.listeners.get(&connection.bound.name);
    let Some(chain) = listener.and_then(|listener| connection.chain(&listener.chains)) else {
        return;
    };
    if let RouteSource::Connection(route) = &chain.routes {
        let (route, policies) = (Arc::clone(route), chain.policies.clone());
        drop(snapshot);
        // Boxed, as below.
        Box::pin(tcp::serve(
            &worker,
            &connection,
            transport,
            (&route, &policies),
            early,
        ))
        .await;
        drop(load);
        return;
    }
    drop(snapshot);
    drop(early);
    let mut stream = transport;
    let Some((detected, first)) = first_bytes(&worker, &connection, &mut stream).await else {
        return;
    };
    let wire = match (alpn, detected) {
        (None, detected) => detected,
        // It agreed to HTTP/2 and does not begin as that does (RFC 9113 section 3.4).
        (Some(Wire::Http2), Wire::Http1) => return,
        (Some(agreed), _) => agreed,
    };
    let io = stream.rewound(first, &connection);
    // Boxed: the task's future would be as large as both servers together from its first moment.
    Box::pin(serve::serve(&worker, &connection, io, wire)).await;
    drop(load);
}

/// Which HTTP it speaks. None = silence, gone without a word, or told to end before it has begun.
pub(crate) async fn first_bytes(
    worker: &Worker,
    connection: &Connection,
    io: &mut Io,
) -> Option<(Wire, Bytes)> {
    let first = tokio::select! {
        biased;
        first = timeout(worker.limits.handshake, detect::detect(io)) => first,
        _order = connection.ordered(Order::Serve) => return None,
    };
    if first.is_err() {
        worker.exceeded(connection.bound.direction, "first_byte");
    }
    first.ok()?.ok()
}

/// Who is behind the proxy that passes it on, where its listener is told so: in `connection`. False = it has come to its
/// end.
async fn introduce(worker: &Worker, connection: &mut Connection, stream: &mut TcpStream) -> bool {
    let proxied = {
        let snapshot = worker.snapshot();
        let listener = snapshot.listeners.get(&connection.bound.name);
        listener.and_then(|listener| listener.chains.proxied())
    };
    let Some(wanted) = proxied else {
        return true;
    };
    let Some(_going_on) = worker.handshakes.begin() else {
        too_many_handshakes(worker, connection);
        return false;
    };
    let mut drain = worker.shared.drain.subscribe();
    let taken = tokio::select! {
        biased;
        taken = proxy_protocol::take(stream, wanted) => taken,
        // Told to end before it has begun.
        _draining = drain.wait_for(|draining| *draining) => return false,
    };
    let outcome = match &taken {
        Ok(Some(header)) if header.ends.is_none() => "local",
        Ok(Some(_)) => "taken",
        Ok(None) => "absent",
        Err(_) => "refused",
    };
    worker.telemetry.metrics.proxied(outcome);
    match taken {
        Ok(header) => {
            if let Some(ends) = header.and_then(|header| header.ends) {
                tracing::trace!(proxy = %connection.remote, remote = %ends.source, "passed on by a proxy");
                connection.remote = ends.source;
                connection.local = Some(ends.destination);
            }
            true
        }
        Err(refused) => {
            if worker.handshakes.warned.now() {
                let (listener, remote) = (&connection.bound.name, connection.remote);
                tracing::warn!(%listener, %remote, %refused, "connection refused");
            }
            false
        }
    }
}

/// A connection of which it is known as much as its listener wants to know.
struct Looked {
    stream: TcpStream,
    /// What was read of it.
    first: Bytes,
    /// Its upstream, if its server was asked as well.
    early: Option<Result<Early, Failed>>,
}

/// What its first bytes say, where its listener has to know that: in `connection`. None = it has come to its end.
async fn look(
    worker: &Worker,
    connection: &mut Connection,
    mut stream: TcpStream,
) -> Option<Looked> {
    let unseen = |stream| Looked {
        stream,
        first: Bytes::new(),
        early: None,
    };
    let (inspect, bytewise) = {
        let snapshot = worker.snapshot();
        let chains = &snapshot.listeners.get(&connection.bound.name)?.chains;
        match chains.inspect() {
            None => return Some(unseen(stream)),
            Some(inspect) => wanted(chains, inspect, connection),
        }
    };
    if !inspect.tls && !inspect.http {
        return Some(unseen(stream));
    }
    let mut drain = worker.shared.drain.subscribe();
    let seen = async {
        if inspect.http || (inspect.silence_is_plain && bytewise.is_some()) {
            return both::look(worker, connection, &mut stream, inspect, bytewise).await;
        }
        let Some(_going_on) = worker.handshakes.begin() else {
            return Err(NoHello::TooMany);
        };
        let (greeting, first) = peek::greeting(&mut stream, inspect).await?;
        Ok(Seen {
            greeting,
            first,
            early: None,
        })
    };
    let found = tokio::select! {
        biased;
        found = seen => found,
        // Told to end before it has begun.
        _draining = drain.wait_for(|draining| *draining) => return None,
    };
    match found {
        Ok(Seen {
            greeting,
            first,
            early,
        }) => {
            connection.server_name.clone_from(&greeting.server_name);
            connection.greeting = Some(greeting);
            Some(Looked {
                stream,
                first,
                early,
            })
        }
        Err(NoHello::TooMany) => {
            too_many_handshakes(worker, connection);
            None
        }
        Err(why) => {
            tcp::refuse_greeting(worker, connection, &why);
            None
        }
    }
}

/// What matters of first bytes: whether they are HTTP only where that leads elsewhere. And where connections lead to that
/// are neither TLS nor HTTP.
fn wanted(
    chains: &FilterChains,
    inspect: Inspect,
    connection: &Connection,
) -> (Inspect, Option<Arc<ConnectionRoute>>) {
    let chain = |protocols| chains.find_for(&Greeting::plain(protocols), connection.local);
    let plain = chain(&[]);
    let is_plain = |other: Option<&FilterChain>| match (other, plain) {
        (Some(other), Some(plain)) => std::ptr::eq(other, plain),
        (None, None) => true,
        _ => false,
    };
    let http = inspect.http && !(is_plain(chain(HTTP1)) && is_plain(chain(HTTP2)));
    let bytewise = plain.and_then(|chain| match (&chain.tls, &chain.routes) {
        (None, RouteSource::Connection(route)) => Some(Arc::clone(route)),
        _ => None,
    });
    (Inspect { http, ..inspect }, bytewise)
}

/// What a PeerAuthentication that is only tried would say.
fn count_dry_run(worker: &Worker, listener: &Listener, connection: &Connection, let_in: bool) {
    let Some(dry_run) = &listener.dry_run else {
        return;
    };
    let has_tls = connection.peer.is_some();
    let allowed = if has_tls {
        dry_run.mutual_tls
    } else {
        dry_run.plain_text
    };
    worker.handles.filters().dry_run_of_mtls(allowed);
    if allowed != let_in {
        tracing::debug!(
            listener = %connection.bound.name,
            remote = %connection.remote,
            mutual_tls = has_tls,
            let_in,
            would_be_let_in = allowed,
            policy = dry_run.position.as_deref(),
            "a PeerAuthentication in dry run would decide otherwise"
        );
    }
}

/// An identity has as many connections as it may.
struct TooMany;

/// A caller without a certificate is counted by its address alone.
fn of_identity(worker: &Worker, connection: &Connection) -> Result<Option<PeerSeat>, TooMany> {
    let Some(peer) = &connection.peer else {
        return Ok(None);
    };
    let seat = worker.peers.of_identity(&peer.svid.id);
    if seat.is_none() {
        let metrics = &worker.telemetry.metrics;
        metrics.not_accepted("too_many_of_identity");
        if worker.handshakes.warned.now() {
            tracing::warn!(peer = %peer.svid.id, "one identity has as many connections as it may: closing its new ones");
        }
    }
    seat.map(Some).ok_or(TooMany)
}

fn too_many_handshakes(worker: &Worker, connection: &Connection) {
    worker.telemetry.metrics.not_accepted("too_many_handshakes");
    if worker.handshakes.warned.now() {
        let (listener, most) = (&connection.bound.name, worker.handshakes.most);
        tracing::warn!(%listener, most, "as many TLS handshakes as may be go on: closing new connections");
    }
}

fn refused(worker: &Worker, connection: &Connection, refusal: &Refusal) {
    let metrics = &worker.telemetry.metrics;
    let labels = ["inbound", refusal.code()];
    if let Ok(counter) = metrics.tls_refusals.get_metric_with_label_values(&labels) {
        counter.inc();
    }
    tracing::debug!(remote = %connection.remote, %refusal, "TLS handshake refused");
}

async fn handshake(
    worker: &Worker,
    wanted: &DownstreamTls,
    stream: TcpStream,
    first: Bytes,
    connection: &mut Connection,
) -> Result<(Transport, Option<Wire>), Refusal> {
    let identity = worker
        .shared
        .identity
        .load_full()
        .ok_or(Refusal::NoIdentity)?;
    let config = worker.tls.config(&identity, &wanted.alpn)?;
    let accept = TlsAcceptor::from(config).accept_with(stream, |session| feed(session, &first));
    let stream = timeout(worker.limits.handshake, accept)
        .await
        .map_err(|_elapsed| Refusal::Timeout)?
        .map_err(|error| Refusal::of(&error))?;
    let session = stream.get_ref().1;
    let chain: Arc<[_]> = session
        .peer_certificates()
        .map(|chain| chain.iter().map(|c| c.clone().into_owned()).collect())
        .ok_or(Refusal::NoCertificate)?;
    let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
    let svid = svid::reread(leaf)?;
    // A trust bundle that came during the handshake: what looks at connections then did not see this one yet.
    if let Some(now) = worker.shared.identity.load_full()
        && now.generation != identity.generation
    {
        tls::still_trusted(&now, &chain).map_err(|error| Refusal::of(&io::Error::other(error)))?;
    }
    let alpn = session.alpn_protocol().map(Wire::of_alpn);
    connection.server_name = session.server_name().map(Box::from);
    // Whichever chains there are later, it stays what it is.
    connection.greeting = Some(Greeting {
        tls: true,
        server_name: connection.server_name.clone(),
        alpn: session.alpn_protocol().map(Box::from).into_iter().collect(),
    });
    connection.own_id = Some(Arc::clone(&identity.spiffe_id));
    connection.expires = Some(identity.not_after.min(svid.not_after));
    connection.peer = Some(Peer { svid, chain });
    Ok((Transport::Tls(Box::new(TlsStream::Server(stream))), alpn))
}

/// Gives TLS the bytes that were read before it. What is wrong with them, it says once it runs.
fn feed(session: &mut ServerConnection, mut first: &[u8]) {
    while !first.is_empty() {
        let read = session.read_tls(&mut first);
        if !matches!(read, Ok(1..)) || session.process_new_packets().is_err() {
            return;
        }
    }
}
