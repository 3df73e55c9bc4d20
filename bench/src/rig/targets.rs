//! What is promised, as code: each line a figure of ours beside another's of the same run, and how large the one may be.

use serde::Serialize;

use super::report::Report;

/// One promise.
struct Target {
    /// Where it is promised: the number in docs/PERFORMANCE.md.
    number: &'static str,
    scenario: &'static str,
    metric: &'static str,
    /// Variant of ours; empty = the only one.
    ours: &'static str,
    than: Than,
    at_most: f64,
    says: &'static str,
}

enum Than {
    /// A subject of the scenario.
    Subject(&'static str),
    /// Another variant of ours.
    Variant(&'static str),
    /// Nothing: the figure itself, divided by so much.
    Unit(f64, &'static str),
}

/// Whether one was kept.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) number: &'static str,
    pub(crate) scenario: &'static str,
    pub(crate) metric: &'static str,
    pub(crate) says: &'static str,
    /// Whose figure the ratio is to.
    pub(crate) than: &'static str,
    pub(crate) at_most: f64,
    /// Ours divided by theirs: the median over the rounds.
    pub(crate) found: Option<f64>,
    pub(crate) met: Option<bool>,
}

const fn target(
    number: &'static str,
    scenario: &'static str,
    metric: &'static str,
    other: &'static str,
    at_most: f64,
    says: &'static str,
) -> Target {
    Target {
        number,
        scenario,
        metric,
        ours: "",
        than: Than::Subject(other),
        at_most,
        says,
    }
}

const fn cost(
    scenario: &'static str,
    with: &'static str,
    without: &'static str,
    at_most: f64,
    says: &'static str,
) -> Target {
    Target {
        number: "7",
        scenario,
        metric: "cpu_us",
        ours: with,
        than: Than::Variant(without),
        at_most,
        says,
    }
}

const fn memory(
    scenario: &'static str,
    metric: &'static str,
    divisor: f64,
    unit: &'static str,
    at_most: f64,
    says: &'static str,
) -> Target {
    Target {
        number: "6",
        scenario,
        metric,
        ours: "",
        than: Than::Unit(divisor, unit),
        at_most,
        says,
    }
}

#[rustfmt::skip]
const TARGETS: &[Target] = &[
    target("1", "one-hop", "cpu_us", "envoy", 0.40, "One hop plain HTTP/1.1, CPU"),
    target("1", "one-hop", "cpu_us", "haproxy", 1.0, "One hop plain HTTP/1.1, CPU"),
    target("1", "one-hop", "cpu_us", "nginx", 1.0, "One hop plain HTTP/1.1, CPU"),
    target("2", "two-hop", "cpu_us", "envoy", 0.25, "Two hops mTLS HTTP/1.1, CPU"),
    target("2", "two-hop", "cpu_us", "haproxy-h2", 1.0, "Two hops mTLS HTTP/1.1, CPU"),
    target("2 stretch", "two-hop", "cpu_us", "envoy", 0.18, "Two hops mTLS HTTP/1.1, CPU"),
    target("3", "grpc-16", "cpu_us", "envoy", 0.45, "Two hops mTLS gRPC, 16 at a time, CPU"),
    target("3", "grpc-16", "cpu_us", "haproxy", 1.0, "Two hops mTLS gRPC, 16 at a time, CPU"),
    target("4", "two-hop-64k", "cpu_us", "envoy", 0.7, "64 KiB answers, CPU"),
    target("4", "two-hop-64k", "cpu_us", "haproxy", 1.0, "64 KiB answers, CPU"),
    target("4", "two-hop-64k", "cpu_us", "haproxy-h2", 1.0, "64 KiB answers, CPU"),
    target("4", "tcp-bulk", "cpu_us", "envoy", 0.7, "TCP over mTLS, CPU a MiB"),
    target("5", "rate-4000", "p50_us", "envoy", 0.5, "4,000 requests/s, p50"),
    target("5", "rate-4000", "p99_us", "envoy", 0.5, "4,000 requests/s, p99"),
    target("5", "rate-4000", "p50_us", "nginx", 1.0, "4,000 requests/s, p50"),
    target("5", "rate-4000", "p99_us", "nginx", 1.0, "4,000 requests/s, p99"),
    memory("fresh", "largest_rss_kib", 1024.0, "MiB", 10.0, "RSS of a fresh sidecar"),
    memory("idle-plain", "bytes_each_many", 1024.0, "KiB", 4.0, "An idle connection, plain"),
    memory("idle-mtls", "bytes_each_many", 1024.0, "KiB", 12.0, "An idle connection, mTLS"),
    cost("sampling", "10 %", "no spans", 1.03, "CPU with 10 % of traces sampled"),
    cost("access-log", "JSON", "no log", 1.10, "CPU with an access log in JSON"),
    cost("routes", "1,000 routes", "1 route", 1.03, "CPU with 1,000 routes"),
    cost("rbac", "100 rules", "no rules", 1.05, "CPU with 100 RBAC rules"),
];

/// Of this run; what was not measured has no verdict.
pub(crate) fn judge(report: &Report) -> Vec<Verdict> {
    let ratio = |target: &Target| {
        let scenario = report.scenario(target.scenario)?;
        let ours = scenario.row("outrigger", target.ours)?;
        match target.than {
            Than::Subject(name) => ours.over(scenario.row(name, "")?, target.metric),
            Than::Variant(name) => ours.over(scenario.row("outrigger", name)?, target.metric),
            Than::Unit(divisor, _) => Some(ours.median(target.metric)? / divisor),
        }
    };
    let verdict = |target: &Target| {
        let found = ratio(target);
        Verdict {
            number: target.number,
            scenario: target.scenario,
            metric: target.metric,
            says: target.says,
            than: match target.than {
                Than::Subject(name) | Than::Variant(name) | Than::Unit(_, name) => name,
            },
            at_most: target.at_most,
            found,
            met: found.map(|found| found <= target.at_most),
        }
    };
    // What was not asked for is not reported as missing.
    TARGETS
        .iter()
        .filter(|target| report.scenario(target.scenario).is_some())
        .map(verdict)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::scenario::SCENARIOS;

    #[test]
    fn every_target_names_what_is_measured() {
        for target in TARGETS {
            let of = |scenario: &&crate::rig::scenario::Scenario| scenario.name == target.scenario;
            let scenario = SCENARIOS.iter().find(of).unwrap();
            let columns = scenario.work.columns();
            assert!(columns.iter().any(|c| c.metric == target.metric));
            let variant = |name| {
                scenario
                    .variants
                    .iter()
                    .any(|(variant, _)| *variant == name)
            };
            match target.than {
                Than::Subject(name) => {
                    assert!(scenario.subjects.iter().any(|kind| kind.name() == name));
                }
                Than::Variant(name) => assert!(variant(name) && variant(target.ours)),
                Than::Unit(..) => assert!(scenario.variants.is_empty()),
            }
        }
    }
}
