//! `localityLbSetting`. Both sidecars are in r1/z1/s1.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, future::LocalBoxFuture};

use super::{Behaviour, Stage};
use crate::system::case::Case;

const PLACES: [&str; 3] = ["r1/z1/s1", "r1/z2/s1", "r2/z1/s1"];

pub(super) fn all() -> Vec<Behaviour> {
    let policy = |host, policy: &str, run, expected| Behaviour {
        case: Case::policy(host, policy).localities(&PLACES),
        applications: 3,
        run,
        expected,
    };
    vec![
        policy(
            "distribute",
            "loadBalancer: {localityLbSetting: {distribute: [{from: 'r1/z1/*', to: {'r1/z1/*': 70, 'r1/z2/*': 30}}]}}",
            shares,
            "70/30/0 within 10 points",
        ),
        policy(
            "failover",
            "loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {failover: [{from: r1, to: r2}]}}\n\
             outlierDetection: {consecutive5xxErrors: 2, interval: 1h, baseEjectionTime: 1h, maxEjectionPercent: 100}",
            falls,
            "v1, then v2, then v3",
        ),
        policy(
            "failover-priority",
            "loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {failoverPriority: ['version=v2']}}\n\
             outlierDetection: {consecutive5xxErrors: 2, interval: 1h, baseEjectionTime: 1h, maxEjectionPercent: 100}",
            second_falls,
            "v2, then v1 and v3",
        ),
        policy(
            "failover-off",
            "loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}\n\
             outlierDetection: {consecutive5xxErrors: 2, interval: 1h, baseEjectionTime: 1h, maxEjectionPercent: 100}",
            first,
            "v1 and v2 and v3",
        ),
    ]
}

fn shares(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let counts = stage.counts("GET /", 300).await;
        match counts.as_slice() {
            [(_, one), (_, two)] if one.abs_diff(210) <= 30 && one + two == 300 => {
                "70/30/0 within 10 points".to_owned()
            }
            _ => format!("{counts:?}"),
        }
    }
    .boxed_local()
}

fn first(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async { names(&stage.counts("GET /", 12).await) }.boxed_local()
}

fn names(counts: &[(String, usize)]) -> String {
    let names: Vec<_> = counts.iter().map(|(name, _)| name.as_str()).collect();
    names.join(" and ")
}

fn falls(stage: &Stage) -> LocalBoxFuture<'_, String> {
    as_they_fall(stage, &[0, 1]).boxed_local()
}

fn second_falls(stage: &Stage) -> LocalBoxFuture<'_, String> {
    as_they_fall(stage, &[1]).boxed_local()
}

/// Who serves, as one place after the other fails.
async fn as_they_fall(stage: &Stage, order: &[usize]) -> String {
    let mut told = vec![names(&stage.counts("GET /", 12).await)];
    for app in order {
        let app = *app;
        stage.apps[app].answer_with(500);
        // Envoy gathers changes of health for a second.
        let started = Instant::now();
        let mut rounds = 0;
        let now = loop {
            rounds += 1;
            let now = names(&stage.counts("GET /", 12).await);
            if !now.contains("500") || (rounds > 4 && started.elapsed() > Duration::from_secs(4)) {
                break now;
            }
        };
        told.push(now);
    }
    told.join(", then ")
}
