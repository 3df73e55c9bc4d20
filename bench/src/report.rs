//! What all subcommands say: medians, the machine, what is going on.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::Context as _;
use serde_json::{Value, json};

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
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| {
        let text = line.strip_prefix("MemTotal:")?.trim();
        text.strip_suffix(" kB")?.parse::<u64>().ok()
    });
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernel": kernel.trim(),
        "memory_mib": memory.map(|kib| kib / 1024),
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
