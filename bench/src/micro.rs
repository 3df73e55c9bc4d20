//! What the pure core costs a request, operation by operation: plain loops, medians, no harness.
//!
//! Caches are warm and nothing else runs, so these are floors. They are for comparing two versions of
//! core on one machine, and for seeing which part of a request is worth looking at.

mod fixture;

use std::{
    hint::black_box,
    io::{self, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method};
use outrigger_core::{
    Action, Cluster, LbPolicy, Limits, Moment, PickContext, RequestView, RouteTable, Thresholds,
    limits::Gauge,
};
use serde_json::json;

/// How to run it.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only operations whose name contains this
    filter: Option<String>,
    /// Loops of 20 ms for each operation
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Write the figures as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const LOOP: Duration = Duration::from_millis(20);

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut bench = Bench {
        filter: options.filter.clone().unwrap_or_default(),
        rounds: options.rounds,
        figures: Vec::new(),
    };
    writeln!(
        io::stdout(),
        "{:<46}{:>12}{:>12}",
        "",
        "median ns",
        "lowest ns"
    )?;
    routes(&mut bench)?;
    picks(&mut bench)?;
    limits(&mut bench)?;
    request(&mut bench)?;
    builds(&mut bench)?;
    if let Some(file) = &options.json {
        let figures: Vec<_> = (bench.figures.iter())
            .map(|(name, median, lowest)| json!({"name": name, "median_ns": median, "lowest_ns": lowest}))
            .collect();
        std::fs::write(file, serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(())
}

struct Bench {
    filter: String,
    rounds: u32,
    figures: Vec<(String, f64, f64)>,
}

impl Bench {
    fn time<T>(&mut self, name: &str, mut operation: impl FnMut() -> T) -> anyhow::Result<()> {
        if !name.contains(&self.filter) {
            return Ok(());
        }
        // As many as fill the loop; measured, because an operation may take 1 ns or 1 ms.
        let mut times = 1_u64;
        while lap(times, &mut operation) < LOOP {
            times *= 2;
        }
        let mut rounds: Vec<f64> = (0..self.rounds)
            .map(|_| lap(times, &mut operation).as_secs_f64() * 1e9 / times as f64)
            .collect();
        rounds.sort_unstable_by(f64::total_cmp);
        let lowest = rounds.first().copied().unwrap_or_default();
        let median = crate::report::median(rounds);
        writeln!(io::stdout(), "{name:<46}{median:>12.1}{lowest:>12.1}")?;
        self.figures.push((name.to_owned(), median, lowest));
        Ok(())
    }
}

fn lap<T>(times: u64, operation: &mut impl FnMut() -> T) -> Duration {
    let began = Instant::now();
    for _ in 0..times {
        black_box(operation());
    }
    began.elapsed()
}

fn view<'a>(authority: &'a str, path: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView {
        method: &Method::GET,
        authority,
        path_and_query: path,
        scheme: "http",
        headers,
    }
}

fn routes(bench: &mut Bench) -> anyhow::Result<()> {
    let headers = fixture::headers();
    let thousand = RouteTable::new("80".to_owned(), fixture::hosts(1000));
    let authority = fixture::host(777);
    bench.time("route: find among 1,000 hosts", || {
        thousand.find(black_box(&view(&authority, "/orders/1", &headers)))
    })?;
    bench.time("route: no such host among 1,000", || {
        thousand.find(black_box(&view("nobody", "/", &headers)))
    })?;
    let long = RouteTable::new("80".to_owned(), vec![fixture::host_with_routes(50)]);
    bench.time("route: the last of 50, by path prefix", || {
        long.find(black_box(&view("orders", "/part-49/x", &headers)))
    })?;
    let canary = RouteTable::new("80".to_owned(), vec![fixture::canary()]);
    let mut chosen = headers.clone();
    chosen.insert("canary", HeaderValue::from_static("true"));
    for (name, headers) in [("matches", &chosen), ("does not", &headers)] {
        bench.time(&format!("route: header canary {name}"), || {
            canary.find(black_box(&view("orders", "/", headers)))
        })?;
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let split = fixture::split();
    bench.time("route: choose by weight 90/10", || {
        black_box(&split)
            .choose(&mut rng)
            .map(|chosen| chosen.cluster)
    })?;
    let hashed = fixture::hashed_by_header("user-id");
    bench.time("route: hash of a header", || {
        hashed.hash(black_box(&view("orders", "/", &headers)), None)
    })
}

fn picks(bench: &mut Bench) -> anyhow::Result<()> {
    let policies = [
        ("least request", LbPolicy::LeastRequest),
        ("round robin", LbPolicy::RoundRobin),
        ("random", LbPolicy::Random),
        ("peak EWMA", fixture::EWMA),
        ("ring hash", fixture::RING),
        ("maglev", fixture::MAGLEV),
    ];
    for (name, policy) in policies {
        for endpoints in [10, 1000] {
            let cluster = Cluster::new(
                fixture::config(policy.clone()),
                fixture::endpoints(endpoints),
                None,
            );
            bench.time(
                &format!("pick: {name}, {endpoints} endpoints"),
                picker(&cluster),
            )?;
        }
    }
    let mut config = fixture::config(LbPolicy::LeastRequest);
    config.outlier = Some(fixture::OUTLIER);
    let cluster = Cluster::new(config, fixture::endpoints(10), None);
    bench.time(
        "pick: least request, 10, outlier ejection on",
        picker(&cluster),
    )
}

/// Picks with another key each time, as requests of many users would.
fn picker(cluster: &Cluster) -> impl FnMut() -> bool {
    let mut rng = fastrand::Rng::with_seed(1);
    move || {
        let mut context = PickContext {
            hash: Some(rng.u64(..)),
            tried: &[],
            previous_priorities: &[],
            now: Moment(1000),
            rng: &mut rng,
        };
        cluster.pick(&mut context).is_ok()
    }
}

fn limits(bench: &mut Bench) -> anyhow::Result<()> {
    let limits = Limits::new(Thresholds {
        max_requests: 1000,
        ..Thresholds::default()
    });
    bench.time("limits: take and give back", || {
        limits.requests.try_acquire(true)
    })?;
    let full = Limits::new(Thresholds {
        max_requests: 0,
        ..Thresholds::default()
    });
    bench.time("limits: refused", || full.requests.try_acquire(true))?;
    contended(bench, &limits.requests)
}

/// With a second thread that does the same without a break.
fn contended(bench: &mut Bench, gauge: &Arc<Gauge>) -> anyhow::Result<()> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                black_box(gauge.try_acquire(true));
            }
        });
        let result = bench.time("limits: take and give back, a second thread too", || {
            gauge.try_acquire(true)
        });
        stop.store(true, Relaxed);
        result
    })
}

/// Everything that core does for a request that goes well.
fn request(bench: &mut Bench) -> anyhow::Result<()> {
    let (snapshot, slot) = fixture::snapshot(1000);
    let headers = fixture::headers();
    let authority = fixture::host(777);
    let mut rng = fastrand::Rng::with_seed(1);
    bench.time("request: route, split, limit, pick, in flight", || {
        let table = snapshot.routes(slot)?;
        let request = view(&authority, "/orders/1", &headers);
        let (_, route) = table.find(black_box(&request)).ok()?;
        let Action::Forward(choice) = &route.action else {
            return None;
        };
        let cluster = snapshot.cluster(choice.choose(&mut rng)?.cluster)?;
        let _permit = cluster.limits.requests.try_acquire(true)?;
        let mut context = PickContext {
            hash: route.hash(&request, None),
            tried: &[],
            previous_priorities: &[],
            now: Moment(1000),
            rng: &mut rng,
        };
        let in_flight = cluster.pick(&mut context).ok()?.endpoint.begin();
        Some(in_flight.endpoint().id)
    })
}

/// Not on a request's way, but a push of many clusters is as slow as these.
fn builds(bench: &mut Bench) -> anyhow::Result<()> {
    for (name, policy) in [
        ("least request", LbPolicy::LeastRequest),
        ("ring hash", fixture::RING),
        ("maglev", fixture::MAGLEV),
    ] {
        bench.time(&format!("build: cluster of 100, {name}"), || {
            Cluster::new(
                fixture::config(policy.clone()),
                fixture::endpoints(100),
                None,
            )
        })?;
    }
    bench.time("build: route table of 1,000 hosts", || {
        RouteTable::new("80".to_owned(), fixture::hosts(1000))
    })
}
