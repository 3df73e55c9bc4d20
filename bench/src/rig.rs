//! The rig: ours and the peers under the same load in the same run. Each round goes through all loads and subjects in
//! turn, so that a machine that changes its mood changes it for all; medians are reported.
//!
//! `scenario` is what is measured, `targets` what is promised, `measure` one measurement, `report`, `markdown` and `plot`
//! what comes of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use serde_json::json;
use time::OffsetDateTime;

use crate::{
    backend::Backend,
    load::TOO_SLOW,
    outrigger, pki,
    process::kernel_busy_percent,
    report::{machine, progress},
    subject::{Binaries, Features, Kind, Missing, Setup, Subject},
};
use measure::{Around, Extent, measure};
use report::{Report, Row, ScenarioReport};
use scenario::{SCENARIOS, Scenario};

mod markdown;
mod measure;
mod plot;
mod report;
mod scenario;
mod targets;

/// Above this, others are at work, and the figures are not to be kept.
const BUSY: f64 = 10.0; // percent of all cores

/// How to run it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Scenarios; all of them if none is named
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "SCENARIO",
        value_parser = PossibleValuesParser::new(SCENARIOS.iter().map(|scenario| scenario.name)))]
    only: Vec<String>,
    /// Subjects, of those that a scenario has; all of them if none is named
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1..)]
    subjects: Vec<Kind>,
    /// Times that each load is put on each subject; medians are reported [default: 3; with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Milliseconds measured each time [default: 4000; with --quick 300]
    #[arg(long, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    window_ms: Option<u64>,
    /// Milliseconds of load before each measurement [default: 1000; with --quick 100]
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=60_000))]
    warm_up_ms: Option<u64>,
    /// Everything once and short, to see that it works; the figures say nothing
    #[arg(long)]
    quick: bool,
    /// Worker threads of each proxy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Binary of outrigger to measure. Default: OUTRIGGER_BIN, else the release build, brought up to date by `cargo run`
    #[arg(long, value_name = "FILE")]
    outrigger: Option<PathBuf>,
    /// Another binary of outrigger, measured beside it as `baseline`: before and after a change, in one run
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Write results.json, README.md and plot.svg into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The same into bench/results/DATE-CPU; refused if the machine is busy or a peer is not installed
    #[arg(long, conflicts_with_all = ["out", "quick", "only", "subjects"])]
    keep: bool,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.quick || !cfg!(debug_assertions),
        "a debug build's figures say nothing: cargo run --release -p outrigger-bench -- rig"
    );
    rlimit::increase_nofile_limit(65_536)?;
    let busy_percent = kernel_busy_percent(Duration::from_secs(1)).await?;
    anyhow::ensure!(
        !options.keep || busy_percent < BUSY,
        "the machine is busy ({busy_percent:.0} %): these figures are not to be kept"
    );
    let mut machine = machine();
    if let Some(machine) = machine.as_object_mut() {
        machine.insert("busy_percent".to_owned(), json!(busy_percent.round()));
    }
    let extent = options.extent();
    let rounds = options.rounds();
    let mut rig = Rig {
        report: Report {
            machine,
            settings: json!({
                "rounds": rounds,
                "window_ms": extent.window_ms,
                "warm_up_ms": extent.warm_up_ms,
                "workers": options.workers,
                "idle_connections": extent.idle,
                "quick": options.quick,
                "date": OffsetDateTime::now_utc().date().to_string(),
            }),
            versions: Vec::new(),
            scenarios: Vec::new(),
            missing: Vec::new(),
            failures: Vec::new(),
        },
        kinds: Vec::new(),
        incomplete: false,
        binaries: options.binaries().await?,
        application: Backend::start().await?,
        collector: Backend::collector().await?,
        pki: tempfile::tempdir()?,
        extent,
        rounds,
        workers: options.workers.into(),
    };
    pki::write(rig.pki.path())?;
    rig.find(&options).await?;
    let chosen: Vec<&'static Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| {
            options.only.is_empty() || options.only.iter().any(|name| name == scenario.name)
        })
        .collect();
    for group in chosen.chunk_by(|a, b| together(a, b)) {
        rig.group(group).await?;
    }
    progress("")?;
    rig.report.print()?;
    let failures = &rig.report.failures;
    let complete = failures.is_empty() && !rig.incomplete;
    anyhow::ensure!(
        complete || !options.keep,
        "not kept: something is missing, see above"
    );
    if let Some(dir) = options.directory(&rig.report) {
        rig.report.write(&dir)?;
    }
    anyhow::ensure!(failures.is_empty(), "failed:\n{}", failures.join("\n"));
    Ok(())
}

impl Options {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn extent(&self) -> Extent {
        let or = |given: Option<u64>, quick, full| {
            given.unwrap_or(if self.quick { quick } else { full })
        };
        Extent {
            warm_up_ms: or(self.warm_up_ms, 100, 1000),
            window_ms: or(self.window_ms, 300, 4000),
            // Their handshakes would take all of a short run.
            connections: if self.quick { 8 } else { usize::MAX },
            // Below what a busy machine can do.
            rate: if self.quick { 500 } else { u32::MAX },
            idle: if self.quick { [20, 60] } else { [1000, 5000] },
            settle: Duration::from_millis(or(None, 100, 2500)),
        }
    }

    async fn binaries(&self) -> anyhow::Result<Binaries> {
        let wanted = self.subjects.is_empty() || self.subjects.contains(&Kind::Outrigger);
        let outrigger = match &self.outrigger {
            Some(file) => Some(file.clone()),
            None if wanted => Some(outrigger::build().await?),
            None => None,
        };
        for file in outrigger.iter().chain(&self.baseline) {
            anyhow::ensure!(file.is_file(), "no {}", file.display());
        }
        Ok(Binaries {
            outrigger,
            baseline: self.baseline.clone(),
        })
    }

    fn directory(&self, report: &Report) -> Option<PathBuf> {
        if !self.keep {
            return self.out.clone();
        }
        let date = OffsetDateTime::now_utc().date();
        let cpu = report.machine["cpu"].as_str().unwrap_or("unknown");
        let name = format!("{date}-{}", slug(cpu));
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        Some(results.join(name))
    }
}

/// `AMD EPYC 9B14 96-Core Processor` is `amd-epyc-9b14-96-core-processor`.
fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-").to_ascii_lowercase()
}

/// May use the same running subjects.
fn together(a: &Scenario, b: &Scenario) -> bool {
    a.topology == b.topology
        && a.variants.is_empty()
        && b.variants.is_empty()
        && !a.work.fresh()
        && !b.work.fresh()
}

struct Rig {
    report: Report,
    /// That there are.
    kinds: Vec<Kind>,
    /// Some are not, that were wanted.
    incomplete: bool,
    binaries: Binaries,
    application: Backend,
    collector: Backend,
    pki: tempfile::TempDir,
    extent: Extent,
    rounds: u32,
    workers: usize,
}

type Variant = (&'static str, Features);

impl Rig {
    /// What of the wanted is on this machine.
    async fn find(&mut self, options: &Options) -> anyhow::Result<()> {
        use clap::ValueEnum as _;
        for kind in Kind::value_variants() {
            let wanted = if options.subjects.is_empty() {
                *kind != Kind::Baseline || options.baseline.is_some()
            } else {
                options.subjects.contains(kind)
            };
            if !wanted {
                continue;
            }
            match kind.version(&self.binaries).await {
                Ok(version) => {
                    self.kinds.push(*kind);
                    let version = version.map(|version| (kind.name(), version));
                    self.report.versions.extend(version);
                }
                Err(error) => {
                    let said = format!("{}: {error}", kind.name());
                    missing(&error).with_context(|| said.clone())?;
                    self.report.missing.push(said);
                    self.incomplete = true;
                }
            }
        }
        Ok(())
    }

    fn rows(&self, scenario: &Scenario) -> Vec<(Kind, Variant)> {
        let plain = [("", Features::default())];
        let variants = if scenario.variants.is_empty() {
            &plain[..]
        } else {
            scenario.variants
        };
        // A baseline is wherever ours is.
        let of = |kind: &&Kind| {
            let as_ours = **kind == Kind::Baseline && scenario.subjects.contains(&Kind::Outrigger);
            as_ours || scenario.subjects.contains(kind)
        };
        let kinds = self.kinds.iter().filter(of);
        kinds
            .flat_map(|kind| variants.iter().map(|variant| (*kind, *variant)))
            .collect()
    }

    /// Scenarios that share their subjects, round after round.
    async fn group(&mut self, scenarios: &[&'static Scenario]) -> anyhow::Result<()> {
        let mut reports: Vec<ScenarioReport> = scenarios
            .iter()
            .map(|scenario| ScenarioReport {
                scenario,
                rows: Vec::new(),
            })
            .collect();
        let Some(first) = scenarios.first().copied() else {
            return Ok(());
        };
        // Of all scenarios of the group: each leaves out those that it does not have.
        let mut all: Vec<(Kind, Variant)> = Vec::new();
        for scenario in scenarios {
            for row in self.rows(scenario) {
                if !all.contains(&row) {
                    all.push(row);
                }
            }
        }
        let mut running = Vec::new();
        for (kind, variant) in all {
            let mut missing = None;
            let mut subject = None;
            if !first.work.fresh() {
                progress(&format!("{}: starting {}", first.name, kind.name()))?;
                match self.start(first, kind, variant).await {
                    Ok(started) => subject = Some(started),
                    Err(why) => missing = Some(why),
                }
            }
            for report in &mut reports {
                if self.rows(report.scenario).contains(&(kind, variant)) {
                    report.rows.push(Row {
                        subject: kind.name(),
                        variant: variant.0,
                        rounds: Vec::new(),
                        missing: missing.clone(),
                    });
                }
            }
            running.push((kind, variant, subject));
        }
        for round in 0..self.rounds {
            for report in &mut reports {
                self.round(round, report, &running).await?;
            }
        }
        for report in &mut reports {
            report.subtract_direct();
        }
        self.report.scenarios.append(&mut reports);
        Ok(())
    }

    async fn round(
        &mut self,
        round: u32,
        report: &mut ScenarioReport,
        running: &[(Kind, Variant, Option<Subject>)],
    ) -> anyhow::Result<()> {
        let scenario = report.scenario;
        // Another one is first in each round.
        let begin = round as usize % running.len().max(1);
        let order = running.iter().cycle().skip(begin).take(running.len());
        for (kind, variant, subject) in order {
            let found = |row: &&mut Row| row.subject == kind.name() && row.variant == variant.0;
            let Some(row) = report.rows.iter_mut().find(found) else {
                continue;
            };
            if row.missing.is_some() {
                continue;
            }
            let name = row.name();
            progress(&format!(
                "{}: round {}/{}, {name}",
                scenario.name,
                round + 1,
                self.rounds
            ))?;
            let started = match subject {
                Some(_) => None,
                None => match self.start(scenario, *kind, *variant).await {
                    Ok(started) => Some(started),
                    Err(why) => {
                        row.missing = Some(why);
                        continue;
                    }
                },
            };
            let Some(subject) = subject.as_ref().or(started.as_ref()) else {
                continue;
            };
            let around = Around {
                application: &self.application,
                collector: &self.collector,
                pki: self.pki.path(),
                extent: &self.extent,
            };
            match measure(subject, scenario.work, &around).await {
                Ok(sample) => row.rounds.push(sample),
                Err(error) => {
                    let words = format!("{error:#}");
                    // No mistake of anybody: a figure that this machine does not yield.
                    if !words.contains(TOO_SLOW) {
                        let said = format!("{}, {name}: {words}", scenario.name);
                        self.report.failures.push(said);
                    }
                    row.missing = Some(format!("failed: {words}"));
                    row.rounds.clear();
                }
            }
        }
        Ok(())
    }

    /// Or why not; what should have worked is a failure of the run.
    async fn start(
        &mut self,
        scenario: &Scenario,
        kind: Kind,
        (_, features): Variant,
    ) -> Result<Subject, String> {
        let setup = Setup {
            topology: scenario.topology,
            features,
            workers: self.workers,
            application: &self.application,
            collector: &self.collector,
            binaries: &self.binaries,
            pki: self.pki.path(),
        };
        let started = Subject::start(kind, &setup).await;
        started.map_err(|error| {
            let said = format!("{}, {}: {error:#}", scenario.name, kind.name());
            if missing(&error).is_ok() {
                self.report.missing.push(said);
                return format!("{error:#}");
            }
            self.report.failures.push(said);
            format!("failed: {error:#}")
        })
    }
}

/// Whether that is what an error says.
fn missing(error: &anyhow::Error) -> anyhow::Result<()> {
    let is = error.downcast_ref::<Missing>().is_some();
    anyhow::ensure!(is, "{error:#}");
    Ok(())
}

impl Report {
    fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(&self.to_json()?)?;
        let all = [
            ("results.json", json + "\n"),
            ("README.md", self.markdown()),
            ("plot.svg", self.plot()),
        ];
        fs::create_dir_all(dir)?;
        for (name, text) in all {
            let file = dir.join(name);
            fs::write(&file, text).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    fn print(&self) -> anyhow::Result<()> {
        use std::io::Write as _;
        Ok(writeln!(std::io::stdout(), "{}", self.markdown())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processors_become_names_of_directories() {
        assert_eq!(slug("AMD EPYC 9B14 (96-Core)"), "amd-epyc-9b14-96-core");
    }

    #[test]
    fn only_scenarios_of_one_way_share_their_subjects() {
        let of = |name: &str| SCENARIOS.iter().find(|s| s.name == name).unwrap();
        assert!(together(of("two-hop"), of("two-hop-64k")));
        assert!(!together(of("one-hop"), of("two-hop")));
        assert!(!together(of("two-hop"), of("sampling")));
        assert!(!together(of("idle-mtls"), of("fresh")));
    }
}
