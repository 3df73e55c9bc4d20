//! Medians, the table, the JSON.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{load::Figures, process::Usage, subject::Subject};

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    #[serde(flatten)]
    figures: Figures,
    /// User and system time of both proxies for each request of the window.
    cpu_us_per_request: f64,
    rss_loaded_kib: f64,
}

impl Cost {
    pub(crate) fn new(figures: Figures, before: Usage, after: Usage) -> Self {
        let cpu_us = (after.cpu_seconds - before.cpu_seconds) * 1e6;
        Self {
            cpu_us_per_request: cpu_us / figures.requests.max(1) as f64,
            rss_loaded_kib: after.rss_kib as f64,
            figures,
        }
    }
}

/// One subject under one load.
pub(crate) struct SubjectReport {
    name: &'static str,
    proxies: usize,
    rss_idle_kib: u64,
    pub(crate) rounds: Vec<Cost>,
}

/// Medians over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Medians {
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_request: f64,
    rss_idle_kib: f64,
    rss_loaded_kib: f64,
    errors: u64,
}

impl SubjectReport {
    pub(crate) fn new(subject: &Subject, rss_idle_kib: u64) -> Self {
        Self {
            name: subject.name,
            proxies: subject.proxies.len(),
            rss_idle_kib,
            rounds: Vec::new(),
        }
    }

    fn medians(&self) -> Medians {
        let of = |what: fn(&Cost) -> f64| median(self.rounds.iter().map(what).collect());
        Medians {
            requests_per_second: of(|cost| cost.figures.requests_per_second),
            p50_us: of(|cost| cost.figures.p50_us),
            p99_us: of(|cost| cost.figures.p99_us),
            cpu_us_per_request: of(|cost| cost.cpu_us_per_request),
            rss_idle_kib: self.rss_idle_kib as f64,
            rss_loaded_kib: of(|cost| cost.rss_loaded_kib),
            errors: self.rounds.iter().map(|cost| cost.figures.errors).sum(),
        }
    }

    fn row(&self, rate: Option<u32>) -> String {
        let m = self.medians();
        let mut row = format!(
            "{:<12}{:>12.0}{:>10.2}{:>10.2}",
            self.name,
            m.requests_per_second,
            m.p50_us / 1000.0,
            m.p99_us / 1000.0
        );
        if self.proxies > 0 {
            row += &format!(
                "{:>16.1}{:>12.1}{:>13.1}",
                m.cpu_us_per_request,
                m.rss_idle_kib / 1024.0,
                m.rss_loaded_kib / 1024.0
            );
        }
        // Its latencies are then those of a queue that grows to the end of the window.
        if rate.is_some_and(|rate| m.requests_per_second < 0.99 * f64::from(rate)) {
            row += "   TOO SLOW FOR THE RATE";
        }
        if m.errors > 0 {
            row += &format!("   {} ERRORS", m.errors);
        }
        row
    }
}

/// One load on all subjects.
pub(crate) struct LoadReport {
    pub(crate) name: &'static str,
    pub(crate) description: String,
    /// Requests a second that were due, if that was fixed.
    pub(crate) rate: Option<u32>,
    pub(crate) subjects: Vec<SubjectReport>,
}

impl LoadReport {
    /// Ours divided by the other's, where both were measured.
    fn ratios(&self) -> Vec<(&'static str, Medians, Medians)> {
        let Some(ours) = self.subjects.iter().find(|s| s.name == "outrigger") else {
            return Vec::new();
        };
        self.subjects
            .iter()
            .filter(|other| other.name != ours.name && other.proxies > 0)
            .map(|other| (other.name, ours.medians(), other.medians()))
            .collect()
    }
}

/// Everything.
pub(crate) struct Report {
    workers: u16,
    rounds: u32,
    window_ms: u64,
    machine: Value,
    pub(crate) loads: Vec<LoadReport>,
}

impl Report {
    pub(crate) fn new(workers: u16, rounds: u32, window_ms: u64) -> Self {
        Self {
            workers,
            rounds,
            window_ms,
            machine: machine(),
            loads: Vec::new(),
        }
    }

    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "Two hops of mutual TLS 1.3, {} worker thread(s) a proxy; CPU and RSS are both proxies'.\n\
             Medians of {} round(s) of {} ms on {} cores of {}, Linux {}, load average before: {}",
            self.workers,
            self.rounds,
            self.window_ms,
            self.machine["cores"],
            self.machine["cpu"].as_str().unwrap_or_default(),
            self.machine["kernel"].as_str().unwrap_or_default(),
            self.machine["load_before"]
        )?;
        for load in &self.loads {
            writeln!(
                out,
                "\n{}: {}\n{:<12}{:>12}{:>10}{:>10}{:>16}{:>12}{:>13}",
                load.name,
                load.description,
                "",
                "requests/s",
                "p50 ms",
                "p99 ms",
                "CPU us/request",
                "idle MiB",
                "loaded MiB"
            )?;
            for subject in &load.subjects {
                writeln!(out, "{}", subject.row(load.rate))?;
            }
            for (other, a, b) in load.ratios() {
                writeln!(
                    out,
                    "{:<12}{:>11.2}x{:>9.2}x{:>9.2}x{:>15.2}x{:>11.2}x{:>12.2}x",
                    format!("us/{other}"),
                    a.requests_per_second / b.requests_per_second,
                    a.p50_us / b.p50_us,
                    a.p99_us / b.p99_us,
                    a.cpu_us_per_request / b.cpu_us_per_request,
                    a.rss_idle_kib / b.rss_idle_kib,
                    a.rss_loaded_kib / b.rss_loaded_kib
                )?;
            }
        }
        Ok(())
    }

    pub(crate) fn to_json(&self) -> Value {
        let loads: Vec<Value> = self
            .loads
            .iter()
            .map(|load| {
                let subjects: Vec<Value> = load
                    .subjects
                    .iter()
                    .map(|subject| {
                        json!({
                            "name": subject.name,
                            "medians": subject.medians(),
                            "rounds": subject.rounds,
                        })
                    })
                    .collect();
                json!({ "name": load.name, "description": load.description, "subjects": subjects })
            })
            .collect();
        json!({
            "machine": self.machine,
            "workers": self.workers,
            "window_ms": self.window_ms,
            "loads": loads,
        })
    }

    /// An error if a request failed, because then the figures do not compare.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        for load in &self.loads {
            for subject in &load.subjects {
                let errors = subject.medians().errors;
                let words = subject
                    .rounds
                    .iter()
                    .find_map(|cost| cost.figures.first_error.as_deref());
                anyhow::ensure!(
                    errors == 0,
                    "{} failed {errors} requests of load {}, the first with: {}",
                    subject.name,
                    load.name,
                    words.unwrap_or_default()
                );
            }
        }
        Ok(())
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or_default();
    match middle.checked_sub(1) {
        Some(below) if values.len().is_multiple_of(2) => {
            f64::midpoint(values.get(below).copied().unwrap_or_default(), upper)
        }
        _ => upper,
    }
}

pub(crate) fn machine() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernel": kernel.trim(),
        // Of the minute before: above 0.5 somebody else is at work, and the figures are worse than they need be.
        "load_before": load.split(' ').next().and_then(|one| one.parse::<f64>().ok()),
    })
}

/// What is going on, for a person who waits: one line that is written over; nothing into a pipe.
pub(crate) fn progress(what: &str) -> anyhow::Result<()> {
    let mut terminal = io::stderr();
    if terminal.is_terminal() {
        write!(terminal, "\r\x1b[K{what}").context("standard error")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_middle_two() {
        assert_eq!(median(vec![3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), 3.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
