//! One measurement: a load generator beside a running subject, and what the processes used meanwhile.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::scenario::Work;
use crate::{
    backend::Backend,
    load::{self, Figures},
    process::{Process, Usage, this_program},
    subject::Subject,
};

/// What one round found, by name.
pub(crate) type Sample = BTreeMap<&'static str, f64>;

/// How long and how much.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) warm_up_ms: u64,
    pub(crate) window_ms: u64,
    /// Connections of one load: fewer are opened than it says.
    pub(crate) connections: usize,
    /// Requests a second, if there is a rate: no more than that.
    pub(crate) rate: u32,
    /// Idle connections: fewer, then the most.
    pub(crate) idle: [usize; 2],
    /// Before memory is read: what is given back when idle has been given back.
    pub(crate) settle: Duration,
}

/// What is beside the subject.
pub(crate) struct Around<'a> {
    pub(crate) application: &'a Backend,
    pub(crate) collector: &'a Backend,
    pub(crate) pki: &'a Path,
    pub(crate) extent: &'a Extent,
}

pub(crate) async fn measure(
    subject: &Subject,
    work: Work,
    around: &Around<'_>,
) -> anyhow::Result<Sample> {
    match work {
        Work::Nothing => {
            tokio::time::sleep(around.extent.settle).await;
            let usage = subject.usage()?;
            Ok(Sample::from([
                ("rss_kib", usage.rss_kib as f64),
                ("largest_rss_kib", usage.largest_rss_kib as f64),
                ("pss_kib", subject.pss_kib()? as f64),
            ]))
        }
        Work::Idle { tls, h2 } => idle(subject, tls, h2, around).await,
        Work::Http { .. } | Work::Calls { .. } | Work::Bulk | Work::Connections { .. } => {
            loaded(subject, work, around).await
        }
    }
}

async fn loaded(subject: &Subject, work: Work, around: &Around<'_>) -> anyhow::Result<Sample> {
    let load = load_of(subject, work, around.extent);
    let patience = load.duration() + Duration::from_secs(30);
    let mut generator = generator(&load)?;
    let generator_pid = [generator.pid()?];
    let application_pid = [around.application.process.pid()?];

    expect(&mut generator, "start", patience).await?;
    let before = subject.usage()?;
    let spans_before = around.collector.received().await?;
    let others = [Usage::of(&generator_pid)?, Usage::of(&application_pid)?];
    expect(&mut generator, "end", patience).await?;
    let after = subject.usage()?;
    let [generator_before, application_before] = others;
    let generator_used = Usage::of(&generator_pid)?.cpu_since(&generator_before);
    let application_used = Usage::of(&application_pid)?.cpu_since(&application_before);
    let figures = figures(&mut generator, patience).await?;
    let pss = subject.pss_kib()?;
    generator.ended(patience).await?;

    anyhow::ensure!(figures.done > 0.0, "nothing was answered");
    let each = |seconds: f64| seconds * 1e6 / figures.done;
    let mut sample = Sample::from([
        ("done", figures.done),
        ("per_second", figures.per_second),
        ("cpu_us", each(after.cpu_since(&before))),
        ("generator_cpu_us", each(generator_used)),
        ("application_cpu_us", each(application_used)),
        ("rss_kib", after.rss_kib as f64),
        ("pss_kib", pss as f64),
    ]);
    if work != Work::Bulk {
        sample.extend([
            ("p50_us", figures.p50_us),
            ("p90_us", figures.p90_us),
            ("p99_us", figures.p99_us),
            ("p999_us", figures.p999_us),
        ]);
    }
    let spans = around.collector.received().await? - spans_before;
    sample.insert("span_bytes", spans as f64 / figures.done);
    Ok(sample)
}

fn load_of(subject: &Subject, work: Work, extent: &Extent) -> load::Options {
    let kind = match work {
        Work::Http { .. } => load::Kind::Http,
        Work::Calls { .. } => load::Kind::Grpc,
        Work::Bulk => load::Kind::Bulk,
        Work::Connections { .. } => load::Kind::Connections,
        Work::Idle { .. } | Work::Nothing => load::Kind::Idle,
    };
    let mut load = load::Options::new(kind, subject.entry, &subject.host);
    load.warm_up_ms = extent.warm_up_ms;
    load.window_ms = extent.window_ms;
    match work {
        Work::Http {
            bytes,
            connections,
            rate,
        } => {
            (load.bytes, load.connections) = (bytes, connections);
            load.rate = (rate > 0).then_some(rate.min(extent.rate));
        }
        Work::Calls {
            connections,
            streams,
        } => (load.connections, load.streams) = (connections, streams),
        Work::Connections { at_a_time } => load.connections = at_a_time,
        Work::Idle { h2, .. } => load.h2 = h2,
        Work::Bulk | Work::Nothing => {}
    }
    load.connections = load.connections.min(extent.connections);
    load
}

/// The memory of the one proxy that the connections lead to.
async fn idle(
    subject: &Subject,
    tls: bool,
    h2: bool,
    around: &Around<'_>,
) -> anyhow::Result<Sample> {
    let extent = around.extent;
    let mut load = load_of(subject, Work::Idle { tls, h2 }, extent);
    load.steps = extent.idle.to_vec();
    let (at, address) = if tls {
        load.tls = Some(around.pki.to_owned());
        (subject.proxies.last(), subject.inbound)
    } else {
        (subject.proxies.first(), Some(subject.entry))
    };
    let (Some(proxy), Some(address)) = (at, address) else {
        anyhow::bail!("no proxy to connect to");
    };
    load.address = address;
    let pid = [proxy.pid()?];
    // The first of each kind makes what is there once: it does not count.
    let mut first = load.clone();
    first.steps = vec![1];
    let mut generator_of_one = generator(&first)?;
    let patience = Duration::from_secs(180);
    expect(&mut generator_of_one, "held 1", patience).await?;
    generator_of_one.tell("").await?;
    figures(&mut generator_of_one, patience).await?;
    generator_of_one.ended(patience).await?;
    tokio::time::sleep(extent.settle).await;

    let base = Usage::of(&pid)?.rss_kib as f64;
    let mut sample = Sample::from([("base_kib", base)]);
    let names = [
        ("bytes_each_few", "rss_few_kib"),
        ("bytes_each_many", "rss_many_kib"),
    ];
    let mut generator = generator(&load)?;
    for (held, (each, all)) in extent.idle.into_iter().zip(names) {
        expect(&mut generator, &format!("held {held}"), patience).await?;
        tokio::time::sleep(extent.settle).await;
        let rss = Usage::of(&pid)?.rss_kib as f64;
        sample.insert(each, (rss - base) * 1024.0 / held as f64);
        sample.insert(all, rss);
        generator.tell("").await?;
    }
    figures(&mut generator, patience).await?;
    generator.ended(patience).await?;
    Ok(sample)
}

fn generator(load: &load::Options) -> anyhow::Result<Process> {
    let mut command = this_program()?;
    command.arg("load").args(load.arguments());
    Process::start("the load generator", command)
}

/// An error if a single request failed: figures with failures do not compare.
async fn figures(generator: &mut Process, patience: Duration) -> anyhow::Result<Figures> {
    let figures: Figures = serde_json::from_str(&generator.line(patience).await?)?;
    anyhow::ensure!(
        figures.errors == 0,
        "{} failed, the first with: {}",
        figures.errors,
        figures.first_error.unwrap_or_default()
    );
    Ok(figures)
}

async fn expect(process: &mut Process, wanted: &str, patience: Duration) -> anyhow::Result<()> {
    let line = process.line(patience).await?;
    anyhow::ensure!(
        line == wanted,
        "the load generator said {line:?}, not {wanted:?}"
    );
    Ok(())
}
