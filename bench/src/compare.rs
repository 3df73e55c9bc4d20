//! The rig: starts every subject once, then puts each load on them in turn, round after round, so that
//! a machine that changes its mood changes it for all.

use std::{path::PathBuf, time::Duration};

use crate::{
    backend, load,
    process::{Process, Usage, this_program},
    report::{self, Cost, LoadReport, Report, SubjectReport},
    subject::{Kind, Subject},
};

/// How to run it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What to measure, in this order
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,outrigger,envoy"
    )]
    subjects: Vec<Kind>,
    /// Which loads: small (100 B answers), large (64 KiB answers), rate (small, at a fixed rate)
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "small,large,rate"
    )]
    loads: Vec<Load>,
    /// Times that each load is put on each subject; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Milliseconds measured each time
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    window_ms: u64,
    /// Milliseconds of load before each measurement
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(..=60_000))]
    warm_up_ms: u64,
    /// Keep-alive connections of the load generator
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Requests a second of the load `rate`
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Worker threads of each proxy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Write everything, each round included, as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Load {
    Small,
    Large,
    Rate,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
            Self::Rate => "rate",
        }
    }

    fn describe(self, options: &Options) -> String {
        let (size, pace) = match self {
            Self::Small => ("100 B", "as fast as answers come".to_owned()),
            Self::Large => ("64 KiB", "as fast as answers come".to_owned()),
            Self::Rate => ("100 B", format!("{} requests/s", options.rate)),
        };
        format!(
            "GET, {size} answers, {} connections, {pace}",
            options.connections
        )
    }

    fn on(self, subject: &Subject, options: &Options) -> load::Options {
        load::Options {
            address: subject.entry,
            host: subject.host.clone(),
            bytes: if self == Self::Large { 64 * 1024 } else { 100 },
            connections: usize::from(options.connections),
            rate: (self == Self::Rate).then_some(options.rate),
            warm_up_ms: options.warm_up_ms,
            window_ms: options.window_ms,
        }
    }
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        !cfg!(debug_assertions),
        "a debug build's figures say nothing: cargo run --release -p outrigger-bench -- compare"
    );
    let mut report = Report::new(options.workers, options.rounds, options.window_ms);
    let (_backend, application) = backend::start().await?;
    let mut subjects = Vec::new();
    for kind in &options.subjects {
        subjects.push(Subject::start(*kind, application, usize::from(options.workers)).await?);
    }
    // Before any load, for all at the same moment.
    let idle: Vec<Usage> = subjects
        .iter()
        .map(Subject::usage)
        .collect::<Result<_, _>>()?;

    report.loads = options
        .loads
        .iter()
        .map(|load| LoadReport {
            name: load.name(),
            description: load.describe(&options),
            rate: (*load == Load::Rate).then_some(options.rate),
            subjects: (subjects.iter().zip(&idle))
                .map(|(subject, idle)| SubjectReport::new(subject, idle.rss_kib))
                .collect(),
        })
        .collect();
    for round in 1..=options.rounds {
        for (load, load_report) in options.loads.iter().zip(&mut report.loads) {
            for (subject, subject_report) in subjects.iter().zip(&mut load_report.subjects) {
                report::progress(&format!(
                    "round {round}/{}: {} on {}",
                    options.rounds,
                    load.name(),
                    subject.name
                ))?;
                let cost = measure(subject, &load.on(subject, &options)).await?;
                subject_report.rounds.push(cost);
            }
        }
    }
    report::progress("")?;
    report.print()?;
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report.to_json())?)?;
    }
    report.verdict()
}

async fn measure(subject: &Subject, load: &load::Options) -> anyhow::Result<Cost> {
    let window = Duration::from_millis(load.warm_up_ms + load.window_ms);
    let patience = window + Duration::from_secs(15);
    let mut command = this_program()?;
    command.arg("load").args(load.arguments());
    let mut generator = Process::start("the load generator", command)?;

    expect(&mut generator, "start", patience).await?;
    let before = subject.usage()?;
    expect(&mut generator, "end", patience).await?;
    let after = subject.usage()?;
    let figures: load::Figures = serde_json::from_str(&generator.line(patience).await?)?;
    generator.ended(patience).await?;
    Ok(Cost::new(figures, before, after))
}

async fn expect(process: &mut Process, wanted: &str, patience: Duration) -> anyhow::Result<()> {
    let line = process.line(patience).await?;
    anyhow::ensure!(
        line == wanted,
        "the load generator said {line:?}, not {wanted:?}"
    );
    Ok(())
}
