//! hyper's server side with our limits, ended when the worker says so.

use std::{
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{
    H2_CONNECTION_WINDOW, H2_STREAM_WINDOW, H2_STREAMS, LocalExec, MAX_HEADER_BYTES, READ_BUFFER,
    io::Io,
};
use crate::{
    detect::Wire,
    forward, inbound,
    worker::{
        Worker,
        connection::{Connection, Order},
    },
};

/// Streams that a peer may reset before we have seen them, before the connection is ended (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// HTTP/2 connections whose peer has silently gone are found by pings.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_WITHIN: Duration = Duration::from_secs(20);

/// Serves a connection to its end.
pub(crate) async fn serve(worker: &Rc<Worker>, connection: &Rc<Connection>, io: Io, wire: Wire) {
    let service = {
        let (worker, connection) = (Rc::clone(worker), Rc::clone(connection));
        let introduction = inbound::introduction(&connection);
        service_fn(move |request| {
            let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
            forward::serve(worker, connection, introduction.clone(), request)
        })
    };
    let io = TokioIo::new(match wire {
        Wire::Http1 => io,
        Wire::Http2 => io.metered(),
    });
    let settings = &connection.settings;
    let most_head = settings
        .max_head
        .map_or(MAX_HEADER_BYTES, |bytes| bytes as usize);
    // The two arms differ in their types only.
    macro_rules! run {
        ($serving:expr) => {{
            let mut serving = $serving;
            let mut known = Order::Serve;
            loop {
                tokio::select! {
                    biased;
                    ended = serving.as_mut() => break ended,
                    order = connection.ordered(known) => {
                        known = order;
                        if order == Order::Cut {
                            break Ok(());
                        }
                        serving.as_mut().graceful_shutdown();
                    }
                }
            }
        }};
    }
    let ended = match wire {
        Wire::Http1 => {
            let mut server = http1::Builder::new();
            server
                .preserve_header_case(true)
                .auto_date_header(false)
                .max_header_size(most_head)
                .max_buf_size(READ_BUFFER.max(most_head + READ_BUFFER - MAX_HEADER_BYTES));
            // Unset, hyper's own 100 cost less.
            if settings.max_fields() > 100 {
                server.max_headers(settings.max_fields());
            }
            let mut serving = server.serve_connection(io, service);
            let ended = run!(Pin::new(&mut serving));
            let tunnel = connection.tunnel.borrow_mut().take();
            if let (Ok(()), Some(tunnel)) = (&ended, tunnel) {
                let parts = serving.into_parts();
                // Boxed: few connections switch.
                Box::pin(tunnel.run(parts.io.into_inner().before(parts.read_buf))).await;
                return;
            }
            ended
        }
        Wire::Http2 => {
            connection.speaks_http2();
            let mut server = http2::Builder::new(LocalExec);
            server
                .timer(TokioTimer::new())
                .auto_date_header(false)
                .initial_stream_window_size(H2_STREAM_WINDOW)
                .initial_connection_window_size(H2_CONNECTION_WINDOW)
                .max_concurrent_streams(settings.max_streams.unwrap_or(H2_STREAMS))
                .max_header_list_size(u32::try_from(most_head).unwrap_or(u32::MAX))
                // What waits for room in one stream's window.
                .max_send_buf_size(H2_STREAM_WINDOW as usize)
                .max_pending_accept_reset_streams(PENDING_RESETS)
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_WITHIN)
                // RFC 8441.
                .enable_connect_protocol();
            run!(pin!(server.serve_connection(io, service)))
        }
    };
    if let Err(error) = ended {
        let ours = connection.went_beyond.get().map(|why| why.limit);
        let limit = ours.or_else(|| limit_of(&error, wire));
        if let Some(limit) = limit {
            worker.exceeded(connection.bound.direction, limit);
        }
        tracing::debug!(%error, remote = %connection.remote, "downstream connection ended");
    }
}

/// What the caller went beyond, if that was it.
fn limit_of(error: &hyper::Error, wire: Wire) -> Option<&'static str> {
    if error.is_parse_too_large() {
        return Some("head_size");
    }
    if error.is_parse() {
        return Some("malformed");
    }
    if wire == Wire::Http1 {
        return None;
    }
    let source = std::error::Error::source(error)?;
    let h2 = source.downcast_ref::<h2::Error>()?;
    let ours = h2.is_library() || (h2.is_go_away() && !h2.is_remote());
    match h2.reason() {
        Some(h2::Reason::ENHANCE_YOUR_CALM) if ours => Some("http2_abuse"),
        Some(_) if ours => Some("malformed"),
        _ => None,
    }
}
