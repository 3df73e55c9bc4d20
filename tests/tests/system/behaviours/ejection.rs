//! `outlierDetection`.

use futures_util::{FutureExt as _, future::BoxFuture};

use super::{Behaviour, Stage};
use crate::system::case::Case;

pub(super) fn all() -> Vec<Behaviour> {
    let outlier = |host, outlier: &str, run, expected| Behaviour {
        case: Case::policy(
            host,
            &format!(
                "loadBalancer: {{simple: ROUND_ROBIN}}\noutlierDetection: {{interval: 1h, baseEjectionTime: 1h, {outlier}}}"
            ),
        ),
        applications: 3,
        run,
        expected,
    };
    vec![
        outlier(
            "eject-5xx",
            "consecutive5xxErrors: 3, maxEjectionPercent: 100",
            one_bad,
            "3 failures with 500, then none; 3 failures with 503, then none",
        ),
        outlier(
            "eject-gateway",
            "consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, maxEjectionPercent: 100",
            one_bad,
            "10 failures with 500; 2 failures with 503, then none",
        ),
        outlier(
            "eject-percent",
            "consecutive5xxErrors: 2, maxEjectionPercent: 10",
            all_bad,
            "one of three is out",
        ),
        outlier(
            "eject-all",
            "consecutive5xxErrors: 2, maxEjectionPercent: 100",
            all_bad,
            "all are out, and the answer is 503",
        ),
    ]
}

/// One application fails with 500, then another with 503: how often is it seen in 30 requests?
fn one_bad(stage: &Stage) -> BoxFuture<'_, String> {
    async {
        let mut told = Vec::new();
        for (app, status) in [(0, 500), (1, 503)] {
            stage.apps[app].answer_with(status);
            let names = stage.who(&["GET /"; 30]).await;
            let failed = names
                .iter()
                .filter(|name| **name == status.to_string())
                .count();
            let status_of_none = names[15..].iter().all(|name| name.starts_with('v'));
            let then = if status_of_none { ", then none" } else { "" };
            told.push(format!("{failed} failures with {status}{then}"));
            stage.apps[app].answer_with(200);
        }
        told.join("; ")
    }
    .boxed()
}

/// All fail: who is still asked?
fn all_bad(stage: &Stage) -> BoxFuture<'_, String> {
    async {
        for app in &stage.apps {
            app.answer_with(500);
        }
        stage.who(&["GET /"; 20]).await;
        for app in &stage.apps {
            app.forget();
        }
        let answers = stage.who(&["GET /"; 20]).await;
        let asked = stage
            .apps
            .iter()
            .filter(|app| !app.received().is_empty())
            .count();
        match asked {
            0 => format!("all are out, and the answer is {}", answers[0]),
            2 => "one of three is out".to_owned(),
            asked => format!("{asked} are asked: {answers:?}"),
        }
    }
    .boxed()
}
