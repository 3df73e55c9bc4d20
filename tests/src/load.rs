//! A steady load, and what became of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{Caller, Reply};

/// Requests in flight at a time. Past it the load waits, as a test that outruns the machine proves nothing.
const MAX_IN_FLIGHT: usize = 200;
/// Failures whose words are kept.
const MAX_KEPT: usize = 100;

/// Sends requests at a fixed rate until it is finished.
#[derive(Debug)]
pub struct Load {
    state: Arc<State>,
    sender: Option<JoinHandle<JoinSet<()>>>,
}

/// What became of a load.
#[derive(Debug)]
pub struct LoadReport {
    /// Requests sent.
    pub sent: usize,
    /// Requests that did not end in 2xx.
    pub failed: usize,
    /// The first hundred of them, in words.
    pub failures: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    stopped: std::sync::atomic::AtomicBool,
    sent: AtomicUsize,
    in_flight: AtomicUsize,
    ok: AtomicUsize,
    failed: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Sends what `make` makes, `rate` times a second.
    pub fn start(
        caller: &Caller,
        rate: u32,
        make: impl Fn() -> Request<Full<Bytes>> + Send + 'static,
    ) -> Self {
        let state = Arc::new(State::default());
        let sender = tokio::spawn(send(caller.clone(), rate, make, Arc::clone(&state)));
        Self {
            state,
            sender: Some(sender),
        }
    }

    /// `GET /` of `host`, `rate` times a second.
    pub fn get(caller: &Caller, rate: u32, host: &str) -> Self {
        let host = host.to_owned();
        Self::start(caller, rate, move || crate::caller::request(&host, "/"))
    }

    /// Requests that are not answered yet.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::SeqCst)
    }

    /// Requests that ended in 2xx.
    pub fn succeeded(&self) -> usize {
        self.state.ok.load(Ordering::SeqCst)
    }

    /// Requests that did not.
    pub fn failed(&self) -> usize {
        self.state.failed.load(Ordering::SeqCst)
    }

    /// What went wrong so far, in words.
    pub fn failures(&self) -> Vec<String> {
        self.state
            .failures
            .lock()
            .map(|kept| kept.clone())
            .unwrap_or_default()
    }

    /// Stops sending, waits for the answers that are due, and reports.
    ///
    /// # Panics
    /// When the sender has.
    pub async fn finish(mut self) -> LoadReport {
        self.state.stopped.store(true, Ordering::SeqCst);
        let sender = self.sender.take().expect("finished once");
        let requests = sender.await.expect("the sender does not panic");
        requests.join_all().await;
        LoadReport {
            sent: self.state.sent.load(Ordering::SeqCst),
            failed: self.failed(),
            failures: self.failures(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
    }
}

async fn send(
    caller: Caller,
    rate: u32,
    make: impl Fn() -> Request<Full<Bytes>>,
    state: Arc<State>,
) -> JoinSet<()> {
    let mut requests = JoinSet::new();
    let started = Instant::now();
    let mut steps = interval(Duration::from_millis(2));
    steps.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut sent = 0;
    while !state.stopped.load(Ordering::SeqCst) {
        let now = steps.tick().await;
        let due = (now - started).as_micros() * u128::from(rate) / 1_000_000;
        while sent < due {
            if state.in_flight.load(Ordering::SeqCst) >= MAX_IN_FLIGHT {
                break;
            }
            sent += 1;
            let (caller, state, request) = (caller.clone(), Arc::clone(&state), make());
            state.sent.fetch_add(1, Ordering::SeqCst);
            state.in_flight.fetch_add(1, Ordering::SeqCst);
            requests.spawn(async move {
                let reply = caller.try_send(request).await;
                state.in_flight.fetch_sub(1, Ordering::SeqCst);
                state.count(reply);
            });
        }
        while requests.try_join_next().is_some() {}
    }
    requests
}

impl State {
    fn count(&self, reply: Result<Reply, String>) {
        let why = match reply {
            Ok(reply) if reply.status.is_success() => {
                self.ok.fetch_add(1, Ordering::SeqCst);
                return;
            }
            Ok(reply) => reply.text(),
            Err(why) => why,
        };
        self.failed.fetch_add(1, Ordering::SeqCst);
        if let Ok(mut failures) = self.failures.lock()
            && failures.len() < MAX_KEPT
        {
            failures.push(why);
        }
    }
}
