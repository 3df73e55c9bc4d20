//! Sends requests at a fixed rate, whatever the answers take, through one HTTP proxy on localhost.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    hops::Hops,
    tally::{Outcome, Tally},
};

/// Requests in flight at a time; past it, requests are not sent and counted as such.
const MAX_IN_FLIGHT: u32 = 512;
/// Idle connections that are kept.
const MAX_IDLE: usize = 512;
const MAX_ANSWER: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often due requests are sent.
const STEP: Duration = Duration::from_millis(2);
/// Whom to call.
const HOST_NAME: &str = "frontend:9080";

pub(super) struct Traffic {
    tally: Arc<Mutex<Tally>>,
    in_flight: Arc<Semaphore>,
    sender: JoinHandle<()>,
}

impl Traffic {
    pub(super) fn start(proxy: SocketAddr, rate: u32) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize));
        let sender = tokio::spawn(send(
            proxy,
            rate,
            Arc::clone(&tally),
            Arc::clone(&in_flight),
        ));
        Self {
            tally,
            in_flight,
            sender,
        }
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Stops sending, waits for what is in flight, and gives the result.
    pub(super) async fn finish(self) -> Tally {
        self.sender.abort();
        // Every place back means that every answer is counted; each is bounded by `TIMEOUT`.
        let all = self.in_flight.acquire_many(MAX_IN_FLIGHT).await;
        drop(all);
        lock(&self.tally).clone()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.sender.abort();
    }
}

async fn send(proxy: SocketAddr, rate: u32, tally: Arc<Mutex<Tally>>, in_flight: Arc<Semaphore>) {
    let client = Arc::new(Client::new(proxy));
    let started = Instant::now();
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut sent = 0;
    loop {
        let now = steps.tick().await;
        let due = (now - started).as_micros() * u128::from(rate) / 1_000_000;
        while sent < due {
            sent += 1;
            let Ok(place) = Arc::clone(&in_flight).try_acquire_owned() else {
                lock(&tally).skip();
                continue;
            };
            let (client, tally) = (Arc::clone(&client), Arc::clone(&tally));
            tokio::spawn(async move {
                let outcome = one(&client).await;
                lock(&tally).add(outcome);
                drop(place);
            });
        }
    }
}

async fn one(client: &Client) -> Outcome {
    let traceparent = Hops::new_traceparent();
    let started = Instant::now();
    let answer = client.get(&traceparent).await;
    let latency = started.elapsed();
    match answer {
        Ok((status, body)) if status.is_success() => Outcome::Answered {
            latency,
            hops: Hops::read(&body, &traceparent),
        },
        Ok((status, body)) => Outcome::Failed {
            latency,
            why: format!("{status}: {body}"),
        },
        Err(error) => Outcome::Failed {
            latency,
            why: format!("{error:#}"),
        },
    }
}

type Connection = SendRequest<Empty<Bytes>>;

/// Calls the frontend through a proxy, over connections that are kept.
pub(super) struct Client {
    proxy: SocketAddr,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    pub(super) const fn new(proxy: SocketAddr) -> Self {
        Self {
            proxy,
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(super) async fn get(&self, traceparent: &str) -> anyhow::Result<(StatusCode, Value)> {
        let call = timeout(TIMEOUT, self.get_unbounded(traceparent));
        call.await
            .unwrap_or_else(|_| anyhow::bail!("no answer within {} s", TIMEOUT.as_secs()))
    }

    async fn get_unbounded(&self, traceparent: &str) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = Request::get("/")
            .header(HOST, HOST_NAME)
            .header("traceparent", traceparent)
            .body(Empty::new())?;
        let (connection, response) = loop {
            let (mut connection, kept) = self.connection().await?;
            match connection.try_send_request(request).await {
                Ok(response) => break (connection, response),
                // The sidecar had closed the kept connection and nothing was sent: take the next one.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(error.into_error()).context("calling through the sidecar"),
                },
            }
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body
            .map_err(anyhow::Error::from_boxed)
            .context("reading the answer")?
            .to_bytes();
        let mut idle = lock(&self.idle);
        if idle.len() < MAX_IDLE && !connection.is_closed() {
            idle.push(connection);
        }
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        Ok((
            status,
            serde_json::from_slice(&body).unwrap_or_else(|_| text()),
        ))
    }

    async fn connection(&self) -> anyhow::Result<(Connection, bool)> {
        loop {
            let Some(mut connection) = lock(&self.idle).pop() else {
                break;
            };
            if connection.ready().await.is_ok() {
                return Ok((connection, true));
            }
        }
        let stream = TcpStream::connect(self.proxy)
            .await
            .context("connecting to the sidecar")?;
        stream.set_nodelay(true)?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; its error also comes out of `try_send_request`.
        tokio::spawn(driver);
        Ok((connection, false))
    }
}

/// What these locks guard is consistent after every statement, so that a panic elsewhere does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
