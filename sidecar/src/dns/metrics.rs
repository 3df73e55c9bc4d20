//! What the DNS server counts.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::names::Names;
use crate::demand::STATES;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

/// What came of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A name of the mesh.
    Mesh,
    /// A name of the mesh that has nothing of this type.
    MeshEmpty,
    /// Another's answer.
    Forwarded,
    /// Nobody answered.
    Unanswered,
    /// The mesh's, and not known: the control plane is away, silent, or sent what is refused.
    NotKnown,
    /// Before the first configuration.
    NotReady,
    /// No query, a query of a kind that is not served.
    Refused,
    /// As many queries or connections as may be were there.
    Overflow,
    /// One of our own that came back.
    Loop,
}

impl Outcome {
    const ALL: [Self; 9] = [
        Self::Mesh,
        Self::MeshEmpty,
        Self::Forwarded,
        Self::Unanswered,
        Self::NotKnown,
        Self::NotReady,
        Self::Refused,
        Self::Overflow,
        Self::Loop,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::MeshEmpty => "mesh_empty",
            Self::Forwarded => "forwarded",
            Self::Unanswered => "unanswered",
            Self::NotKnown => "not_known",
            Self::NotReady => "not_ready",
            Self::Refused => "refused",
            Self::Overflow => "overflow",
            Self::Loop => "loop",
        }
    }
}

/// What came of one question to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Answered,
    /// It was too long for UDP, and asked for again over TCP.
    Truncated,
    /// An answer that says that the server cannot help.
    Failed,
    /// Nothing came in time.
    Silent,
    /// It could not be sent, or the server's machine refused it.
    Unreachable,
    /// Something that is no answer to it, as a forged one is.
    Mismatched,
}

impl Asked {
    const ALL: [Self; 6] = [
        Self::Answered,
        Self::Truncated,
        Self::Failed,
        Self::Silent,
        Self::Unreachable,
        Self::Mismatched,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Truncated => "truncated",
            Self::Failed => "failed",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::Mismatched => "mismatched",
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Counters {
    queries: [[IntCounter; Outcome::ALL.len()]; 2],
    asked: [IntCounter; Asked::ALL.len()],
    pub(crate) seconds: Histogram,
    pub(crate) in_flight: IntGauge,
    pub(crate) connections: IntGauge,
}

impl Counters {
    #[expect(
        clippy::expect_used,
        reason = "constant names, proved by every test that starts a server"
    )]
    pub(crate) fn new(registry: &Registry, names: &Arc<Names>) -> Self {
        let queries = IntCounterVec::new(
            Opts::new(
                "outrigger_dns_queries_total",
                "Queries of the application, by what came of them.",
            ),
            &["transport", "outcome"],
        )
        .expect("valid names");
        let asked = IntCounterVec::new(
            Opts::new(
                "outrigger_dns_upstream_total",
                "Questions to DNS servers of this machine, by what came of them.",
            ),
            &["outcome"],
        )
        .expect("valid names");
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "outrigger_dns_upstream_seconds",
                "How long forwarded queries took.",
            )
            .buckets(vec![0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
        )
        .expect("valid names");
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("valid names");
        let in_flight = gauge(
            "outrigger_dns_queries_in_flight",
            "Queries that wait for an answer.",
        );
        let connections = gauge(
            "outrigger_dns_connections",
            "Connections for queries over TCP.",
        );
        let known = Known {
            names: Arc::clone(names),
            family: family(),
        };
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(queries.clone()),
            Box::new(asked.clone()),
            Box::new(seconds.clone()),
            Box::new(in_flight.clone()),
            Box::new(connections.clone()),
            Box::new(known),
        ];
        for collector in collectors {
            if let Err(error) = registry.register(collector) {
                tracing::error!(%error, "metric could not be registered");
            }
        }
        Self {
            queries: ["udp", "tcp"].map(|transport| {
                Outcome::ALL.map(|outcome| queries.with_label_values(&[transport, outcome.word()]))
            }),
            asked: Asked::ALL.map(|outcome| asked.with_label_values(&[outcome.word()])),
            seconds,
            in_flight,
            connections,
        }
    }

    pub(crate) fn query(&self, over: Over, outcome: Outcome) {
        let of_transport = self.queries.get(over as usize);
        if let Some(counter) = of_transport.and_then(|all| all.get(outcome as usize)) {
            counter.inc();
        }
    }

    pub(crate) fn asked(&self, outcome: Asked) {
        if let Some(counter) = self.asked.get(outcome as usize) {
            counter.inc();
        }
    }

    pub(crate) fn took(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    /// What came of queries so far, for people.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::ALL.into_iter().map(|outcome| {
            let of = self
                .queries
                .iter()
                .filter_map(|all| all.get(outcome as usize));
            (outcome.word(), of.map(IntCounter::get).sum())
        })
    }
}

/// Names by state, read when somebody asks.
struct Known {
    names: Arc<Names>,
    family: IntGaugeVec,
}

#[expect(clippy::expect_used, reason = "constant names")]
fn family() -> IntGaugeVec {
    let help =
        "Names of the mesh: known, and those that were asked for by state (held, absent, pending).";
    IntGaugeVec::new(Opts::new("outrigger_dns_names", help), &["state"]).expect("valid names")
}

impl Collector for Known {
    fn desc(&self) -> Vec<&Desc> {
        self.family.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let family = family();
        let set = |state: &str, count: usize| {
            let gauge = family.with_label_values(&[state]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set("known", self.names.book().len());
        for (state, count) in STATES.iter().zip(&self.names.demand.counts.names) {
            set(state, count.load(Relaxed));
        }
        family.collect()
    }
}
