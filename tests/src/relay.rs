//! An application that answers what another answers: a link of a chain, which passes the trace on.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::Caller;

/// Passed on, as any application that wants to be traced does.
const PASSED: [&str; 2] = ["traceparent", "tracestate"];

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    caller: Arc<Mutex<Option<Caller>>>,
    server: JoinHandle<()>,
}

impl Relay {
    /// Starts one that calls `next`, e.g. `ratings:9080`.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(next: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let caller = Arc::<Mutex<Option<Caller>>>::default();
        let (next, through) = (next.to_owned(), Arc::clone(&caller));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (next, through) = (next.clone(), Arc::clone(&through));
                let service = service_fn(move |request| {
                    let caller = through.lock().ok().and_then(|caller| caller.clone());
                    let next = next.clone();
                    async move { Ok::<_, Infallible>(pass_on(request, caller, &next).await) }
                });
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let serving = builder.serve_connection(TokioIo::new(stream), service);
                    serving.await.ok();
                });
            }
        });
        Self {
            address,
            caller,
            server,
        }
    }

    /// From now on it calls through this sidecar; before, it answers 200 by itself.
    ///
    /// # Panics
    /// When the relay has.
    pub fn call_through(&self, caller: Caller) {
        *self.caller.lock().expect("the relay runs") = Some(caller);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass_on(
    request: Request<Incoming>,
    caller: Option<Caller>,
    next: &str,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let Some(caller) = caller.filter(|_| request.uri().path() != "/healthz") else {
        return response;
    };
    let mut onward = crate::caller::request(next, "/");
    for name in PASSED {
        if let Some(value) = request.headers().get(name) {
            onward.headers_mut().insert(name, value.clone());
        }
    }
    // What went wrong is for the caller to know: its own status, as most applications do.
    *response.status_mut() = match caller.try_send(onward).await {
        Ok(reply) => reply.status,
        Err(_) => StatusCode::BAD_GATEWAY,
    };
    response
}
