//! What was measured, as a table and as JSON.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{Options, board::Heard, fleet::Connected};
use crate::{process::Usage, report::machine};

/// The target for one change (on a quiet machine of two cores).
const TARGET_MS: f64 = 100.0;
/// The target for memory.
const TARGET_KIB: u64 = 1 << 20;

/// What a step took of the control plane.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Cost {
    cpu_seconds: f64,
    seconds: f64,
    /// At its end.
    rss_kib: u64,
}

impl Cost {
    pub(super) fn new(before: &Usage, after: &Usage, took: Duration) -> Self {
        Self {
            cpu_seconds: after.cpu_since(before),
            seconds: took.as_secs_f64(),
            rss_kib: after.rss_kib,
        }
    }

    fn cores(&self) -> f64 {
        self.cpu_seconds / self.seconds.max(f64::EPSILON)
    }
}

/// How long changes took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Latencies {
    changes: usize,
    /// Clients that heard of one change.
    arrivals: usize,
    last_p50_ms: f64,
    last_p99_ms: f64,
    last_max_ms: f64,
    each_p50_ms: f64,
    each_p99_ms: f64,
    cost: Cost,
}

impl Latencies {
    pub(super) fn of(heard: &[Heard], cost: Cost) -> Self {
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        let mut last: Vec<f64> = heard.iter().map(|one| ms(&one.last)).collect();
        let each = heard.iter().flat_map(|one| &one.each);
        let mut each: Vec<f64> = each.map(ms).collect();
        last.sort_unstable_by(f64::total_cmp);
        each.sort_unstable_by(f64::total_cmp);
        Self {
            changes: last.len(),
            arrivals: each.len(),
            last_p50_ms: quantile(&last, 0.5),
            last_p99_ms: quantile(&last, 0.99),
            last_max_ms: quantile(&last, 1.0),
            each_p50_ms: quantile(&each, 0.5),
            each_p99_ms: quantile(&each, 0.99),
            cost,
        }
    }

    fn row(&self, name: &str) -> String {
        let changes = self.changes.max(1) as f64;
        format!(
            "  {name:<28}{:>8}{:>10.1}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>12.2}{:>8.2}",
            self.changes,
            self.arrivals as f64 / changes,
            self.last_p50_ms,
            self.last_p99_ms,
            self.last_max_ms,
            self.each_p50_ms,
            self.cost.cpu_seconds / changes * 1e3,
            self.cost.cores(),
        )
    }
}

/// The nearest rank.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and not more than the length"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let at = sorted.get(rank.saturating_sub(1));
    at.copied().unwrap_or_default()
}

/// What the clients of one protocol saw.
pub(super) struct Protocol {
    name: &'static str,
    clients: u32,
    connected: (Connected, Cost),
    pub(super) rss_connected_kib: u64,
    /// To services at random.
    pub(super) single: Latencies,
    /// To the service that all use.
    pub(super) popular: Latencies,
    pub(super) sustained: Latencies,
    /// The calls were so far behind the rate at the end.
    pub(super) sustained_behind: Duration,
    pub(super) rss_after_kib: u64,
    pub(super) storm: Option<(Connected, Cost)>,
}

impl Protocol {
    pub(super) fn new(name: &'static str, clients: u32, connected: Connected, cost: Cost) -> Self {
        Self {
            name,
            clients,
            connected: (connected, cost),
            rss_connected_kib: 0,
            single: Latencies::default(),
            popular: Latencies::default(),
            sustained: Latencies::default(),
            sustained_behind: Duration::ZERO,
            rss_after_kib: 0,
            storm: None,
        }
    }

    fn print(&self, out: &mut impl io::Write, rate: u32) -> io::Result<()> {
        writeln!(
            out,
            "\n{}: {} clients\n{}",
            self.name,
            self.clients,
            joined("connect", &self.connected)
        )?;
        writeln!(
            out,
            "  {:<28}{:>8}{:>10}{:>9}{:>9}{:>9}{:>9}{:>12}{:>8}",
            "ms to the last client",
            "changes",
            "clients",
            "p50",
            "p99",
            "max",
            "any p50",
            "CPU ms/chg",
            "cores"
        )?;
        writeln!(out, "{}", self.single.row("one at a time"))?;
        writeln!(out, "{}", self.popular.row("one that all clients use"))?;
        writeln!(out, "{}", self.sustained.row(&format!("{rate}/s")))?;
        if self.sustained_behind > Duration::from_millis(100) {
            writeln!(
                out,
                "  the calls were {:?} behind the rate at the end",
                self.sustained_behind
            )?;
        }
        if let Some(storm) = &self.storm {
            writeln!(out, "{}", joined("all come back", storm))?;
        }
        writeln!(
            out,
            "  RSS {:.0} MiB connected, {:.0} MiB after the changes",
            mib(self.rss_connected_kib),
            mib(self.rss_after_kib)
        )
    }

    fn to_json(&self) -> Value {
        json!({
            "protocol": self.name,
            "clients": self.clients,
            "connect": joined_json(&self.connected),
            "rss_connected_kib": self.rss_connected_kib,
            "single": self.single,
            "popular": self.popular,
            "sustained": self.sustained,
            "sustained_behind_ms": self.sustained_behind.as_secs_f64() * 1e3,
            "rss_after_kib": self.rss_after_kib,
            "storm": self.storm.as_ref().map(joined_json),
        })
    }
}

fn joined(what: &str, (connected, cost): &(Connected, Cost)) -> String {
    format!(
        "  {what:<28}{:.2} s to the last one, {:.2} s of CPU, {} resources in {} answers ({:.1} MiB)",
        connected.last.as_secs_f64(),
        cost.cpu_seconds,
        connected.resources,
        connected.answers,
        connected.bytes as f64 / f64::from(1 << 20),
    )
}

fn joined_json((connected, cost): &(Connected, Cost)) -> Value {
    json!({
        "last_ms": connected.last.as_secs_f64() * 1e3,
        "answers": connected.answers,
        "resources": connected.resources,
        "bytes": connected.bytes,
        "cost": cost,
    })
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Everything.
pub(super) struct Report {
    options: Options,
    machine: Value,
    /// Memory before anything is loaded.
    pub(super) empty: u64,
    pub(super) loaded: Cost,
    pub(super) protocols: Vec<Protocol>,
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            machine: machine(),
            empty: 0,
            loaded: Cost::default(),
            protocols: Vec::new(),
        }
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let options = &self.options;
        if cfg!(debug_assertions) {
            writeln!(out, "DEBUG BUILD: these times say nothing")?;
        }
        writeln!(
            out,
            "{} services, {} endpoints, {} namespaces; each client uses {} services, over {} of its own\n\
             {} cores of {}, Linux {}, load average before: {}",
            options.services,
            options.endpoints,
            options.namespaces,
            options.uses,
            if options.plaintext {
                "a plain-text connection"
            } else {
                "an mTLS connection"
            },
            self.machine["cores"],
            self.machine["cpu"].as_str().unwrap_or_default(),
            self.machine["kernel"].as_str().unwrap_or_default(),
            self.machine["load_before"]
        )?;
        writeln!(
            out,
            "\nload: {:.1} s, {:.1} s of CPU; RSS {:.0} MiB empty, {:.0} MiB loaded",
            self.loaded.seconds,
            self.loaded.cpu_seconds,
            mib(self.empty),
            mib(self.loaded.rss_kib)
        )?;
        for protocol in &self.protocols {
            protocol.print(&mut out, options.rate)?;
        }
        for (target, met) in self.targets() {
            writeln!(out, "{} {target}", if met { "met:   " } else { "MISSED:" })?;
        }
        Ok(())
    }

    fn targets(&self) -> Vec<(String, bool)> {
        let mut all = Vec::new();
        for one in &self.protocols {
            let name = one.name;
            let changes = [
                ("one change", &one.single),
                ("one that all use", &one.popular),
            ];
            for (what, latencies) in changes {
                all.push((
                    format!("{name}: p99 of {what} to the last client under {TARGET_MS} ms"),
                    latencies.last_p99_ms < TARGET_MS,
                ));
            }
            if let Some((storm, _)) = &one.storm {
                all.push((
                    format!("{name}: nothing unchanged is sent again"),
                    storm.resources == 0,
                ));
            }
        }
        let protocols = self.protocols.iter();
        let most = protocols.flat_map(|one| [one.rss_connected_kib, one.rss_after_kib]);
        let most = most.chain([self.loaded.rss_kib]).max();
        all.push((
            "RSS under 1 GiB".to_owned(),
            most.is_some_and(|most| most < TARGET_KIB),
        ));
        all
    }

    pub(super) fn to_json(&self) -> Value {
        let options = &self.options;
        json!({
            "machine": self.machine,
            "services": options.services,
            "endpoints": options.endpoints,
            "namespaces": options.namespaces,
            "uses": options.uses,
            "rate": options.rate,
            "seconds": options.seconds,
            "tls": !options.plaintext,
            "seed": options.seed,
            "rss_empty_kib": self.empty,
            "load": self.loaded,
            "protocols": self.protocols.iter().map(Protocol::to_json).collect::<Vec<_>>(),
            "targets": self.targets().into_iter().map(|(target, met)| json!({"target": target, "met": met})).collect::<Vec<_>>(),
        })
    }

    /// An error if something was sent again that had not changed: that is no matter of the machine.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        for one in &self.protocols {
            if let Some((storm, _)) = &one.storm {
                anyhow::ensure!(
                    storm.resources == 0,
                    "{}: {} resources that had not changed were sent again to clients that came back",
                    one.name,
                    storm.resources
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_nearest_rank() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.5), 100.0);
        assert_eq!(quantile(&sorted, 0.99), 198.0);
        assert_eq!(quantile(&sorted, 1.0), 200.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
