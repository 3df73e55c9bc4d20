//! Copies of requests that a route asked for. Nobody waits for them: they never delay, fail or change the original, and
//! their answers are thrown away.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Request, header::HOST, request::Parts};
use http_body_util::BodyExt as _;
use outrigger_core::{Cluster, ClusterSlot, Mirror, Outcome, PickContext, Picked};
use tokio::time::timeout;

use super::{call::Call, deadline, tries::Plan, upstream};
use crate::{
    http::replay::{UpBody, Upload},
    pool::acquire::{NoConnection, Target},
    worker::Worker,
};

/// Copies in flight of one worker.
const AT_ONCE: u32 = 256;
/// For a route without a timeout.
const LONGEST: Duration = Duration::from_secs(60);

/// Sends the copies of a request whose head is edited, and whose body is yet to be read.
pub(crate) fn send(call: &Rc<Call>, plan: &Plan<'_>, parts: &Parts) {
    let Some(features) = plan.route.features() else {
        return;
    };
    let handles = &call.worker.handles;
    for mirror in &features.mirrors {
        if !mirror.share.hits(&mut call.worker.rng.borrow_mut()) {
            continue;
        }
        let serving = {
            let rng = &mut call.worker.rng.borrow_mut();
            let now = || call.worker.shared.now();
            plan.snapshot.serving(mirror.cluster, now, rng)
        };
        let Some((slot, cluster)) = serving else {
            handles.count_feature("mirror_no_cluster");
            continue;
        };
        let Some(seat) = Seat::take(&call.worker.mirrors) else {
            handles.count_feature("mirror_busy");
            continue;
        };
        let within = plan.limit.map_or(LONGEST, |limit| call.remains(&limit));
        let copy = Copy {
            worker: Rc::clone(&call.worker),
            slot,
            cluster: Arc::clone(cluster),
            head: head(call, parts, mirror, within),
            body: call.upload.tap(),
            http2: call.is_http2(),
        };
        // Ends with its answer, or after its time.
        tokio::task::spawn_local(copy.run(within, seat));
    }
}

/// A copy has no span of its own, and what follows from it is not sampled.
fn head(call: &Call, parts: &Parts, mirror: &Mirror, within: Duration) -> Parts {
    let mut head = parts.clone();
    let host = match &mirror.host {
        Some(host) => Some(host.clone()),
        None if mirror.marks_host => head.headers.get(HOST).and_then(marked),
        None => None,
    };
    if let Some(host) = host {
        head.headers.insert(HOST, host);
    }
    call.inject_unsampled(&mut head.headers);
    deadline::announce(&mut head.headers, within, call.grpc);
    head
}

/// `reviews:80` → `reviews-shadow:80` (Envoy).
fn marked(host: &HeaderValue) -> Option<HeaderValue> {
    let host = host.to_str().ok()?;
    let marked = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => format!("{name}-shadow:{port}"),
        _ => format!("{host}-shadow"),
    };
    HeaderValue::try_from(marked).ok()
}

/// One of the places for copies.
#[derive(Debug)]
struct Seat(Rc<Cell<u32>>);

impl Seat {
    fn take(taken: &Rc<Cell<u32>>) -> Option<Self> {
        (taken.get() < AT_ONCE).then(|| {
            taken.set(taken.get() + 1);
            Self(Rc::clone(taken))
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

struct Copy {
    worker: Rc<Worker>,
    slot: ClusterSlot,
    cluster: Arc<Cluster>,
    head: Parts,
    body: UpBody,
    http2: bool,
}

impl Copy {
    async fn run(self, within: Duration, _seat: Seat) {
        let worker = Rc::clone(&self.worker);
        let ended = timeout(within, self.exchange()).await;
        worker
            .handles
            .count_feature(ended.unwrap_or("mirror_timeout"));
    }

    async fn exchange(mut self) -> &'static str {
        let Some(_request) = self.cluster.limits.requests.try_acquire(true) else {
            return "mirror_overflow";
        };
        let picked = self.cluster.pick(&mut PickContext {
            hash: None,
            tried: &[],
            previous_priorities: &[],
            now: self.worker.shared.now(),
            rng: &mut self.worker.rng.borrow_mut(),
        });
        let Ok(picked) = picked else {
            return "mirror_no_endpoint";
        };
        let _in_flight = picked.endpoint.begin();
        let mut told = Told::new(&self.worker, &self.cluster, picked);
        let protocol = upstream::protocol(&self.cluster, self.http2);
        if upstream::address(&mut self.head, protocol).is_err() {
            return "mirror_failed";
        }
        let reached = Cell::new(false);
        let target = Target {
            slot: self.slot,
            cluster: &self.cluster,
            endpoint: &told.picked.endpoint,
            protocol,
            fresh: false,
            ends: None,
            reached: &reached,
        };
        let mut lease = match self.worker.pools.acquire(target).await {
            Ok(lease) => lease,
            Err(NoConnection::Connect(_)) => {
                told.report(Outcome::LocalError);
                return "mirror_failed";
            }
            Err(_limit) => return "mirror_overflow",
        };
        let copied = self.body.copied();
        match lease.send(Request::from_parts(self.head, self.body)).await {
            Ok(response) => {
                told.report(Outcome::Status(response.status().as_u16()));
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    if frame.is_err() {
                        return "mirror_failed";
                    }
                }
                drop(body);
                lease.release(&self.cluster, &Upload::default());
                "mirror_sent"
            }
            Err(_) if copied.is_some_and(|copied| copied.is_broken()) => "mirror_broken_off",
            Err(_) => {
                told.report(Outcome::LocalError);
                "mirror_failed"
            }
        }
    }
}

/// What the ejection rules learn from a copy, or a question of ours.
pub(super) struct Told<'a> {
    worker: &'a Worker,
    cluster: &'a Cluster,
    picked: Picked,
    reported: bool,
}

impl<'a> Told<'a> {
    pub(super) fn new(worker: &'a Worker, cluster: &'a Cluster, picked: Picked) -> Self {
        Self {
            worker,
            cluster,
            picked,
            reported: false,
        }
    }

    pub(super) fn report(&mut self, outcome: Outcome) {
        self.reported = true;
        let now = self.worker.shared.now();
        if self.cluster.report(&self.picked, outcome, now).ejected {
            self.worker.telemetry.metrics.ejections.inc();
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if !self.reported {
            let now = self.worker.shared.now();
            self.cluster.unused(&self.picked, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_host_says_what_it_is() {
        for (host, want) in [
            ("reviews", "reviews-shadow"),
            ("reviews:9080", "reviews-shadow:9080"),
            ("[::1]", "[::1]-shadow"),
            ("[::1]:80", "[::1]-shadow:80"),
        ] {
            let host = HeaderValue::from_static(host);
            assert_eq!(marked(&host).unwrap(), want);
        }
    }
}
