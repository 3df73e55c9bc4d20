//! `outlierDetection`.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, future::LocalBoxFuture};

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
            fails_with_500,
            "ejected after 3",
        ),
        outlier(
            "eject-5xx-gateway",
            "consecutive5xxErrors: 4, maxEjectionPercent: 100",
            fails_with_503,
            "ejected after 4",
        ),
        outlier(
            "eject-gateway",
            "consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, maxEjectionPercent: 100",
            fails_with_503,
            "ejected after 2",
        ),
        outlier(
            "eject-gateway-not",
            "consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, maxEjectionPercent: 100",
            fails_with_500,
            "never ejected",
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
        outlier(
            "eject-min-health",
            "consecutive5xxErrors: 2, maxEjectionPercent: 100, minHealthPercent: 50",
            panics,
            "with two of three out, all three are asked again",
        ),
        outlier(
            "eject-local",
            "consecutive5xxErrors: 2, maxEjectionPercent: 100, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 40",
            fails_with_500,
            "ejected after 2",
        ),
    ]
}

fn panics(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        for app in &stage.apps {
            app.answer_with(500);
        }
        // Envoy gathers changes of health for a second.
        let started = Instant::now();
        let mut rounds = 0;
        while rounds < 5 || started.elapsed() < Duration::from_secs(2) {
            rounds += 1;
            for app in &stage.apps {
                app.forget();
            }
            stage.who(&["GET /"; 12]).await;
        }
        let asked = stage.apps.iter().filter(|app| !app.received().is_empty());
        match asked.count() {
            3 => "with two of three out, all three are asked again".to_owned(),
            count => format!("{count} of three are asked"),
        }
    }
    .boxed_local()
}

fn fails_with_500(stage: &Stage) -> LocalBoxFuture<'_, String> {
    one_bad(stage, 500).boxed_local()
}

fn fails_with_503(stage: &Stage) -> LocalBoxFuture<'_, String> {
    one_bad(stage, 503).boxed_local()
}

/// One application of three fails: how often is it seen, until it is not seen in twelve requests?
async fn one_bad(stage: &Stage, status: u16) -> String {
    stage.apps[1].answer_with(status);
    let started = Instant::now();
    let mut failures = 0;
    let mut rounds = 0;
    while rounds < 5 || started.elapsed() < Duration::from_secs(2) {
        rounds += 1;
        let names = stage.who(&["GET /"; 12]).await;
        let failed = names.iter().filter(|name| !name.starts_with('v')).count();
        failures += failed;
        if failed == 0 {
            return if stage.is_envoy {
                // It gathers changes of health for up to a second, and goes on meanwhile.
                "ejected".to_owned()
            } else {
                format!("ejected after {failures}")
            };
        }
    }
    "never ejected".to_owned()
}

/// All fail: who is still asked, at most?
fn all_bad(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        for app in &stage.apps {
            app.answer_with(500);
        }
        // Envoy gathers changes of health for a second.
        let started = Instant::now();
        let mut fewest = (stage.apps.len(), Vec::new());
        let mut rounds = 0;
        while rounds < 5 || started.elapsed() < Duration::from_secs(2) {
            rounds += 1;
            for app in &stage.apps {
                app.forget();
            }
            let answers = stage.who(&["GET /"; 12]).await;
            let asked = stage.apps.iter().filter(|app| !app.received().is_empty());
            let asked = asked.count();
            if asked < fewest.0 {
                fewest = (asked, answers);
            }
        }
        match fewest {
            (0, answers) => format!("all are out, and the answer is {}", answers[0]),
            (2, _) => "one of three is out".to_owned(),
            (asked, answers) => format!("{asked} are asked: {answers:?}"),
        }
    }
    .boxed_local()
}
