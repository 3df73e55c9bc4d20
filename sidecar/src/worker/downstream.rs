//! A downstream connection's life: TLS where the listener has it, detection, HTTP.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use outrigger_core::{DownstreamTls, RouteSource, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{
    Worker,
    connection::{Connection, Order, Peer},
};
use crate::{
    connect::tune,
    detect::{self, Wire},
    http::{
        io::{Io, Transport},
        serve,
    },
    listen::Accepted,
    tcp,
    tls::{self, Refusal, svid},
};

/// For the whole TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the first bytes: of an HTTP/1.1 head, or HTTP/2's preface as a whole.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves an accepted connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted {
        stream,
        remote,
        bound,
        load,
    } = accepted;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "accepted connection was lost");
            return;
        }
    };
    tune(&stream, &TcpKeepalive::default());
    let snapshot = worker.snapshot();
    let Some(listener) = snapshot.listeners.get(&bound.name) else {
        return;
    };
    let mut connection = Connection::new(bound, remote, Rc::clone(&worker.now));
    connection.local = stream.local_addr().ok();
    if let Some(settings) = &listener.settings {
        connection.settings = settings.connection;
    }
    let (transport, alpn) = match &listener.tls {
        None => (Transport::Plain(stream), None),
        Some(tls) => {
            let Some(_going_on) = worker.handshakes.begin() else {
                too_many_handshakes(&worker, &connection);
                return;
            };
            match handshake(&worker, tls, stream, &mut connection).await {
                Ok((transport, alpn)) => (transport, alpn),
                Err(refusal) => {
                    refused(&worker, &connection, &refusal);
                    return;
                }
            }
        }
    };
    let connections = match &listener.routes {
        RouteSource::Connections(routes) => Some(Arc::clone(routes)),
        RouteSource::Named(_) | RouteSource::Inline(_) => None,
    };
    drop(snapshot);
    let connection = Rc::new(connection);
    let _watched = worker.watch(&connection);
    if let Some(routes) = connections {
        // Boxed, as below.
        Box::pin(tcp::serve(&worker, &connection, transport, &routes)).await;
        drop(load);
        return;
    }
    let mut stream = Io::new(transport);
    let first = tokio::select! {
        biased;
        first = timeout(FIRST_BYTES_TIMEOUT, detect::detect(&mut stream)) => first,
        // Told to end before it has begun.
        _order = connection.ordered(Order::Serve) => return,
    };
    // Silence, or gone without a word.
    let Ok(Ok((detected, first))) = first else {
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
    connection: &mut Connection,
) -> Result<(Transport, Option<Wire>), Refusal> {
    let identity = worker
        .shared
        .identity
        .load_full()
        .ok_or(Refusal::NoIdentity)?;
    let config = worker.tls.config(&identity, &wanted.alpn)?;
    let stream = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream))
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
    connection.own_id = Some(Arc::clone(&identity.spiffe_id));
    connection.expires = Some(identity.not_after.min(svid.not_after));
    connection.peer = Some(Peer { svid, chain });
    Ok((Transport::Tls(Box::new(TlsStream::Server(stream))), alpn))
}
