//! The server: one task a connection, one answer a request.

use std::{
    convert::Infallible,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    Args,
    answer::{Answer, forwarded},
    life,
    upstream::Upstream,
};

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4_096;
/// Bytes of a request's body, which is read and forgotten.
const MAX_BODY: usize = 1 << 20;

struct Service {
    name: String,
    version: String,
    instance: String,
    upstreams: Vec<Upstream>,
    delay: Duration,
    fail_percent: u64,
    served: AtomicU64,
}

pub(crate) async fn serve(args: Args) -> anyhow::Result<()> {
    let proxy = life::watch(&args)?;
    let service = Arc::new(Service {
        instance: args.instance(),
        upstreams: args
            .upstreams()
            .into_iter()
            .map(|authority| Upstream::new(&authority, proxy.clone()))
            .collect::<anyhow::Result<_>>()?,
        delay: Duration::from_millis(args.delay_ms),
        fail_percent: u64::from(args.fail_percent),
        served: AtomicU64::new(0),
        name: args.service,
        version: args.version,
    });
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    let ready = json!({ "listen": listener.local_addr()? });
    writeln!(std::io::stdout(), "ready {ready}").context("printing the ready line")?;

    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let Ok((stream, _)) = listener.accept().await else {
            // The peer gave up while it waited, or we are out of descriptors: the next one may do better.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // A peer that has gone already makes this fail; serving it will tell.
        stream.set_nodelay(true).ok();
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(
                    TokioIo::new(stream),
                    service_fn(|request| {
                        let service = Arc::clone(&service);
                        async move { Ok::<_, Infallible>(service.answer(request).await) }
                    }),
                );
            // A broken connection is the caller's to report; it has no bearing on the next one.
            connection.await.ok();
            drop(place);
        });
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/healthz" {
            return respond(StatusCode::OK, &json!({ "healthy": true }));
        }
        let (head, body) = request.into_parts();
        if Limited::new(body, MAX_BODY).collect().await.is_err() {
            let error = format!("the body is longer than {MAX_BODY} bytes, or broke off");
            return respond(StatusCode::BAD_REQUEST, &json!({ "error": error }));
        }
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let mut answer = Answer::new(&self.name, &self.version, &self.instance, &head);
        let served = self.served.fetch_add(1, Ordering::Relaxed);
        if fails(served, self.fail_percent) {
            answer.fail("asked to fail by --fail-percent");
            return respond(StatusCode::INTERNAL_SERVER_ERROR, &answer.json());
        }
        for upstream in &self.upstreams {
            let called = upstream
                .call(head.uri.path(), forwarded(&head.headers))
                .await;
            answer.add(upstream.name(), called);
        }
        respond(answer.status(), &answer.json())
    }
}

/// Spreads failures evenly: 25 % is every fourth request.
const fn fails(n: u64, percent: u64) -> bool {
    (n + 1) * percent / 100 > n * percent / 100
}

fn respond(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::fails;

    #[test]
    fn a_share_of_failures_is_exact_and_even() {
        for percent in [0, 1, 25, 33, 100] {
            let failed = (0..1_000).filter(|n| fails(*n, percent)).count();
            assert_eq!(failed as u64, percent * 10, "{percent} %");
        }
        assert_eq!((0..8).filter(|n| fails(*n, 25)).collect::<Vec<_>>(), [3, 7]);
    }
}
