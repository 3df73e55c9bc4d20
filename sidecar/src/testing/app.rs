//! Applications, and clients that speak bytes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Collected, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// An application that answers what it was asked.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    /// Connections accepted since start.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Requests that have arrived, those that are held included.
    pub(crate) requests: watch::Receiver<usize>,
    pub(crate) heads: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    /// Requests in flight at once, at most.
    pub(crate) most: Arc<AtomicUsize>,
    hold: watch::Sender<bool>,
}

impl App {
    /// Answers `name`, or the request's body if it has one.
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), name)
    }

    /// One that allows so many streams on an HTTP/2 connection.
    pub(crate) async fn with_streams(name: &'static str, streams: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serving(listener, name, streams)
    }

    pub(crate) fn at(listener: TcpListener, name: &'static str) -> Self {
        Self::serving(listener, name, 200)
    }

    fn serving(listener: TcpListener, name: &'static str, streams: u32) -> Self {
        let (arrived, requests) = watch::channel(0);
        let (hold, held) = watch::channel(false);
        let app = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests,
            heads: Arc::default(),
            most: Arc::default(),
            hold,
        };
        let arrived = Arc::new(arrived);
        let this = app.clone();
        let active = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                this.connections.fetch_add(1, Ordering::SeqCst);
                let (this, arrived, held) = (this.clone(), Arc::clone(&arrived), held.clone());
                let active = Arc::clone(&active);
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (this, arrived, mut held) =
                            (this.clone(), Arc::clone(&arrived), held.clone());
                        let active = Arc::clone(&active);
                        async move {
                            let head = (request.uri().to_string(), request.headers().clone());
                            this.heads.lock().unwrap().push(head);
                            let now = active.fetch_add(1, Ordering::SeqCst) + 1;
                            this.most.fetch_max(now, Ordering::SeqCst);
                            arrived.send_modify(|n| *n += 1);
                            let body = request.into_body().collect().await;
                            held.wait_for(|hold| !hold).await.unwrap();
                            active.fetch_sub(1, Ordering::SeqCst);
                            let body = body.map(Collected::to_bytes).unwrap_or_default();
                            let body = if body.is_empty() {
                                Bytes::from(name)
                            } else {
                                body
                            };
                            let response = Response::builder()
                                .header("X-App", name)
                                .header("connection", "x-secret")
                                .header("x-secret", "1")
                                .header("x-outrigger-unsent", "lie");
                            Ok::<_, Infallible>(response.body(Full::new(body)).unwrap())
                        }
                    });
                    let mut server = auto::Builder::new(TokioExecutor::new());
                    server.http2().max_concurrent_streams(streams);
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        app
    }

    /// From now on requests wait.
    pub(crate) fn hold(&self) {
        self.hold.send_replace(true);
    }

    pub(crate) fn let_go(&self) {
        self.hold.send_replace(false);
    }

    pub(crate) async fn until_requests(&self, count: usize) {
        self.requests
            .clone()
            .wait_for(|n| *n >= count)
            .await
            .unwrap();
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn last_headers(&self) -> HeaderMap {
        self.heads.lock().unwrap().last().unwrap().1.clone()
    }
}

/// An HTTP/1.1 connection by hand.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
}

/// A response, as text.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Raw {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
        }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: reviews\r\n\r\n"))
            .await;
        self.answer().await.unwrap()
    }

    /// None if the connection ends without one.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: String::new(),
        };
        let length = answer
            .header("content-length")
            .map(|n| n.parse::<usize>().unwrap());
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut body).await.ok()?;
        answer.body = String::from_utf8(body).unwrap();
        Some(answer)
    }
}

/// One GET on a connection of its own.
pub(crate) async fn get(proxy: SocketAddr, path: &str) -> Answer {
    Raw::to(proxy).await.get(path).await
}
