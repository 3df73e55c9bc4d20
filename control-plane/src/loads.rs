//! What clients say of the traffic they send (LRS): the registry's view of who is called, and how that goes.
//!
//! ```text
//! LoadStats stream ─► its last report, by cluster ─► sum by host, for `outrigger status`
//! ```
//! A report counts until the next of its stream, or three intervals without one. Nothing decides by what stands here.
//! Source: Envoy's load reporting; gRPC's (A27), whose clusters name us as where to report to.

mod server;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use outrigger_proto::envoy::config::endpoint::v3::ClusterStats;
pub(crate) use server::{LoadService, MAX_REQUEST_BYTES};

use crate::xds::subscription::MAX_NAME_BYTES;

/// How often clients report.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// Clusters in the reports of one client; those beyond are not counted.
const MAX_CLUSTERS: usize = 10_000;
/// A client that has said nothing for so long is not counted any more.
const STALE: Duration = INTERVAL.saturating_mul(3);

/// Calls in a second, and calls that are not over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Clients that report.
    pub(crate) clients: u32,
    pub(crate) succeeded_per_s: f64,
    pub(crate) failed_per_s: f64,
    /// Not sent at all: by a limit, a fault or an overload.
    pub(crate) dropped_per_s: f64,
    pub(crate) in_progress: u64,
}

/// The last report of every client.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    reports: BTreeMap<u64, Report>,
}

#[derive(Debug)]
struct Report {
    at: Instant,
    by_host: BTreeMap<String, Load>,
}

/// One stream's place. Dropping it forgets what it said.
#[derive(Debug)]
pub(crate) struct Reporter {
    loads: Arc<Loads>,
    id: u64,
}

impl Loads {
    /// A client begins to report.
    pub(crate) fn reporter(self: &Arc<Self>) -> Reporter {
        let mut streams = self.lock();
        let id = streams.next;
        streams.next += 1;
        drop(streams);
        Reporter {
            loads: Arc::clone(self),
            id,
        }
    }

    /// The load of every host that somebody calls.
    pub(crate) fn by_host(&self, now: Instant) -> BTreeMap<String, Load> {
        let mut sum = BTreeMap::<String, Load>::new();
        for report in self.lock().reports.values() {
            if now.saturating_duration_since(report.at) > STALE {
                continue;
            }
            for (host, load) in &report.by_host {
                sum.entry(host.clone()).or_default().add(*load);
            }
        }
        sum
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    fn add(&mut self, other: Self) {
        self.clients += other.clients;
        self.succeeded_per_s += other.succeeded_per_s;
        self.failed_per_s += other.failed_per_s;
        self.dropped_per_s += other.dropped_per_s;
        self.in_progress = self.in_progress.saturating_add(other.in_progress);
    }
}

impl Reporter {
    /// Takes a report, which is of the time since the one before.
    pub(crate) fn report(&self, stats: &[ClusterStats], now: Instant) {
        let mut by_host = BTreeMap::<String, Load>::new();
        for cluster in stats.iter().take(MAX_CLUSTERS) {
            // Ours are named `outbound|<port>|<subset>|<host>`; a client may have others.
            let mut parts = cluster.cluster_name.splitn(4, '|');
            let (Some("outbound"), Some(host)) = (parts.next(), parts.nth(2)) else {
                continue;
            };
            if host.len() > MAX_NAME_BYTES {
                continue;
            }
            by_host
                .entry(host.to_owned())
                .or_default()
                .add(load(cluster));
        }
        for load in by_host.values_mut() {
            load.clients = 1;
        }
        let report = Report { at: now, by_host };
        self.loads.lock().reports.insert(self.id, report);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.loads.lock().reports.remove(&self.id);
    }
}

fn load(cluster: &ClusterStats) -> Load {
    let took = cluster.load_report_interval.as_ref();
    let took = took.and_then(outrigger_proto::length);
    let seconds = took.filter(|took| !took.is_zero()).unwrap_or(INTERVAL);
    let seconds = seconds.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
    let rate = |count: u64| count as f64 / seconds;
    let of =
        |what: fn(&outrigger_proto::envoy::config::endpoint::v3::UpstreamLocalityStats) -> u64| {
            let localities = cluster.upstream_locality_stats.iter();
            localities.map(what).fold(0, u64::saturating_add)
        };
    Load {
        clients: 0,
        succeeded_per_s: rate(of(|one| one.total_successful_requests)),
        failed_per_s: rate(of(|one| one.total_error_requests)),
        dropped_per_s: rate(cluster.total_dropped_requests),
        in_progress: of(|one| one.total_requests_in_progress),
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::envoy::config::endpoint::v3::UpstreamLocalityStats;

    use super::*;

    fn stats(cluster: &str, good: u64, bad: u64) -> ClusterStats {
        ClusterStats {
            cluster_name: cluster.into(),
            upstream_locality_stats: vec![UpstreamLocalityStats {
                total_successful_requests: good,
                total_error_requests: bad,
                ..UpstreamLocalityStats::default()
            }],
            load_report_interval: Some(prost_types::Duration {
                seconds: 2,
                nanos: 0,
            }),
            ..ClusterStats::default()
        }
    }

    #[test]
    fn loads_of_all_clients_and_subsets_are_summed_by_host() {
        let (loads, now) = (Arc::new(Loads::default()), Instant::now());
        let (one, two) = (loads.reporter(), loads.reporter());
        one.report(
            &[
                stats("outbound|80||a.b", 20, 2),
                stats("outbound|80|v1|a.b", 4, 0),
                stats("xds-cluster", 9, 9),
            ],
            now,
        );
        two.report(&[stats("outbound|80||a.b", 8, 0)], now);
        let seen = loads.by_host(now);
        let expected = Load {
            clients: 2,
            succeeded_per_s: 16.0,
            failed_per_s: 1.0,
            ..Load::default()
        };
        assert_eq!(seen, [("a.b".to_owned(), expected)].into());
    }

    #[test]
    fn who_says_no_more_is_counted_no_more() {
        let (loads, now) = (Arc::new(Loads::default()), Instant::now());
        let one = loads.reporter();
        one.report(&[stats("outbound|80||a.b", 20, 2)], now);
        assert_eq!(loads.by_host(now + STALE).len(), 1);
        assert_eq!(loads.by_host(now + STALE + INTERVAL).len(), 0);
        drop(one);
        assert_eq!(loads.by_host(now).len(), 0);
    }
}
