//! What is measured: one row a scenario, in the order in which they run.

use crate::subject::{
    Features,
    Kind::{self, Direct, Envoy, EnvoyH2, Haproxy, HaproxyH2, Nginx, Outrigger},
    Topology::{self, Grpc, OneHop, Tcp, TwoHop},
};

/// One load on some subjects.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// As on the command line and in the results.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    pub(crate) topology: Topology,
    pub(crate) work: Work,
    pub(crate) subjects: &'static [Kind],
    /// The same subject in several ways, each with a name; empty = as it comes.
    pub(crate) variants: &'static [(&'static str, Features)],
}

/// The load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// HTTP/1.1 keep-alive connections. Rate 0: each asks again as soon as it is answered.
    Http {
        bytes: usize,
        connections: usize,
        rate: u32,
    },
    /// gRPC calls, so many at a time on each connection.
    Calls { connections: usize, streams: usize },
    /// One connection's bytes.
    Bulk,
    /// Connections, so many at a time: opened, a byte, closed. Every one is a full handshake between the proxies.
    Connections { at_a_time: usize },
    /// Connections to one proxy that have been answered once and do nothing since.
    Idle { tls: bool, h2: bool },
    /// Nothing: memory after the first answer.
    Nothing,
}

impl Work {
    /// Started anew for every round.
    pub(crate) fn fresh(self) -> bool {
        matches!(self, Self::Idle { .. } | Self::Nothing)
    }

    /// What CPU is counted for.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Http { .. } => "request",
            Self::Calls { .. } => "call",
            Self::Bulk => "MiB",
            Self::Connections { .. } | Self::Idle { .. } => "connection",
            Self::Nothing => "process",
        }
    }

    /// The figures that matter, most important first.
    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Self::Http { rate: 0, .. } | Self::Calls { .. } => &LOADED,
            Self::Http { .. } => &PACED,
            Self::Bulk => &BULK,
            Self::Connections { .. } => &CONNECTIONS,
            Self::Idle { .. } => &IDLE,
            Self::Nothing => &FRESH,
        }
    }
}

/// A figure and how it is shown.
#[derive(Debug)]
pub(crate) struct Column {
    /// As in the JSON.
    pub(crate) metric: &'static str,
    pub(crate) heading: &'static str,
    pub(crate) divisor: f64,
    pub(crate) decimals: usize,
    /// In the plot too.
    pub(crate) plotted: bool,
}

const fn column(
    metric: &'static str,
    heading: &'static str,
    divisor: f64,
    decimals: usize,
    plotted: bool,
) -> Column {
    Column {
        metric,
        heading,
        divisor,
        decimals,
        plotted,
    }
}

const CPU: Column = column("cpu_us", "CPU µs", 1.0, 1, true);
const P50: Column = column("p50_us", "p50 ms", 1000.0, 3, false);
const P99: Column = column("p99_us", "p99 ms", 1000.0, 3, false);
const P999: Column = column("p999_us", "p99.9 ms", 1000.0, 2, false);
const RSS: Column = column("rss_kib", "RSS MiB", 1024.0, 1, false);
const PSS: Column = column("pss_kib", "PSS MiB", 1024.0, 1, false);

const LOADED: [Column; 7] = [
    CPU,
    column("per_second", "a second", 1.0, 0, false),
    P50,
    P99,
    P999,
    RSS,
    PSS,
];
const PACED: [Column; 7] = [
    column("p50_us", "p50 ms", 1000.0, 3, true),
    column("p90_us", "p90 ms", 1000.0, 3, false),
    column("p99_us", "p99 ms", 1000.0, 3, true),
    P999,
    column("added_p50_us", "p50 over direct, ms", 1000.0, 3, false),
    column("added_p99_us", "p99 over direct, ms", 1000.0, 3, false),
    column("cpu_us", "CPU µs", 1.0, 1, false),
];
const BULK: [Column; 3] = [CPU, column("per_second", "MiB/s", 1.0, 0, false), RSS];
const CONNECTIONS: [Column; 5] = [
    CPU,
    column("per_second", "a second", 1.0, 0, false),
    P50,
    P99,
    RSS,
];
const IDLE: [Column; 4] = [
    column("bytes_each_many", "KiB each, of the most", 1024.0, 2, true),
    column("bytes_each_few", "KiB each, of fewer", 1024.0, 2, false),
    column("base_kib", "RSS MiB before", 1024.0, 1, false),
    column("rss_many_kib", "RSS MiB with the most", 1024.0, 1, false),
];
const FRESH: [Column; 3] = [
    column(
        "largest_rss_kib",
        "RSS MiB of the largest process",
        1024.0,
        1,
        true,
    ),
    column("rss_kib", "RSS MiB of all", 1024.0, 1, false),
    column("pss_kib", "PSS MiB of all", 1024.0, 1, false),
];

const ALL: &[Kind] = &[Direct, Outrigger, Envoy, Haproxy, Nginx];
const PROXIES: &[Kind] = &[Outrigger, Envoy, Haproxy, Nginx];
const BETWEEN: &[Kind] = &[Direct, Outrigger, Envoy, EnvoyH2, Haproxy, HaproxyH2, Nginx];
/// Those whose features are compared.
const MESH: &[Kind] = &[Outrigger, Envoy];

const SMALL: Work = http(100, 64, 0);

const fn http(bytes: usize, connections: usize, rate: u32) -> Work {
    Work::Http {
        bytes,
        connections,
        rate,
    }
}

const NONE: Features = Features {
    sampling: None,
    access_log: false,
    routes: 0,
    rules: 0,
};

const fn sampled(percent: f64) -> Features {
    Features {
        sampling: Some(percent),
        ..NONE
    }
}

const fn scenario(
    name: &'static str,
    title: &'static str,
    topology: Topology,
    work: Work,
    subjects: &'static [Kind],
) -> Scenario {
    Scenario {
        name,
        title,
        topology,
        work,
        subjects,
        variants: &[],
    }
}

const fn feature(
    name: &'static str,
    title: &'static str,
    variants: &'static [(&'static str, Features)],
) -> Scenario {
    Scenario {
        variants,
        ..scenario(name, title, TwoHop, SMALL, MESH)
    }
}

/// All of them.
#[rustfmt::skip]
pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario("one-hop", "One hop, plain HTTP/1.1, 100 B answers, 64 connections", OneHop, SMALL, ALL),
    scenario("two-hop", "Two hops, mutual TLS, HTTP/1.1, 100 B answers, 64 connections", TwoHop, SMALL, BETWEEN),
    scenario("two-hop-64k", "Two hops, mutual TLS, HTTP/1.1, 64 KiB answers, 64 connections", TwoHop, http(64 << 10, 64, 0), BETWEEN),
    scenario("two-hop-1m", "Two hops, mutual TLS, HTTP/1.1, 1 MiB answers, 16 connections", TwoHop, http(1 << 20, 16, 0), BETWEEN),
    scenario("rate-4000", "Two hops, mutual TLS, HTTP/1.1, 4,000 requests/s, 64 connections", TwoHop, http(100, 64, 4000), BETWEEN),
    scenario("rate-1000", "Two hops, mutual TLS, HTTP/1.1, 1,000 requests/s, 64 connections", TwoHop, http(100, 64, 1000), BETWEEN),
    scenario("grpc-1", "Two hops, mutual TLS, gRPC, 16 connections, 1 call at a time on each", Grpc, Work::Calls { connections: 16, streams: 1 }, ALL),
    scenario("grpc-16", "Two hops, mutual TLS, gRPC, 4 connections, 16 calls at a time on each", Grpc, Work::Calls { connections: 4, streams: 16 }, ALL),
    scenario("tcp-bulk", "Two hops, mutual TLS, TCP, one connection's bytes", Tcp, Work::Bulk, ALL),
    scenario("tcp-connections", "Two hops, mutual TLS, TCP connections, full handshakes, 16 at a time", Tcp, Work::Connections { at_a_time: 16 }, ALL),
    scenario("fresh", "Fresh proxies of two hops, after the first answer", TwoHop, Work::Nothing, PROXIES),
    scenario("idle-plain", "Idle connections, plain HTTP/1.1", OneHop, Work::Idle { tls: false, h2: false }, PROXIES),
    scenario("idle-mtls", "Idle connections, HTTP/1.1 over mutual TLS, at the called side", TwoHop, Work::Idle { tls: true, h2: false }, PROXIES),
    scenario("idle-h2", "Idle connections, HTTP/2 over mutual TLS, at the called side", Grpc, Work::Idle { tls: true, h2: true }, PROXIES),
    feature("sampling", "Two hops as above, by share of traces sampled", &[
        ("no spans", sampled(0.0)), ("1 %", sampled(1.0)), ("10 %", sampled(10.0)), ("100 %", sampled(100.0)),
    ]),
    feature("access-log", "Two hops as above, with an access log in JSON", &[
        ("no log", NONE), ("JSON", Features { access_log: true, ..NONE }),
    ]),
    feature("routes", "Two hops as above, by rules of the host; the last one matches", &[
        ("1 route", Features { routes: 1, ..NONE }), ("1,000 routes", Features { routes: 1000, ..NONE }),
    ]),
    feature("rbac", "Two hops as above, by callers that may call; the last one does", &[
        ("no rules", NONE), ("100 rules", Features { rules: 100, ..NONE }),
    ]),
];
