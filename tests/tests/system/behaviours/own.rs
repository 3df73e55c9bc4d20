//! `DestinationPolicy`: what Envoy has no word for. Seen on our sidecar only.

use futures_util::{FutureExt as _, future::LocalBoxFuture};
use outrigger_tests::{TestApp, eventually};

use super::{Behaviour, Stage};
use crate::system::case::{Ask, Case};

pub(super) fn all() -> Vec<Behaviour> {
    let own = |host, spec: &str, run, expected| {
        let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST}\nspec: {host: HOST, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}";
        let policy = format!(
            "apiVersion: outrigger.dev/v1\nkind: DestinationPolicy\nmetadata: {{name: HOST}}\nspec: {{host: HOST, {spec}}}"
        );
        let documents: &[&str] = if spec.contains("peakEwma") {
            &[&policy]
        } else {
            &[rule, &policy]
        };
        Behaviour {
            case: Case::documents(host, documents),
            applications: 3,
            run,
            expected,
        }
    };
    vec![
        own(
            "breaker-endpoint",
            "circuitBreaker: {consecutiveFailures: 3, resetTimeout: 1h}",
            one_fails,
            "one application is seen 3 times, the others take over",
        ),
        own(
            "breaker-service",
            "circuitBreaker: {consecutiveFailures: 4, resetTimeout: 1h, scope: SERVICE}",
            all_fail,
            "503 x4, then breaker_open x6",
        ),
        own(
            "breaker-probe",
            "circuitBreaker: {consecutiveFailures: 2, resetTimeout: 400ms, scope: SERVICE}",
            recovers,
            "breaker_open, and later 200 x5",
        ),
        own(
            "peak-ewma",
            "balancer: {peakEwma: {decay: 5s}}",
            spread,
            "3 are tried",
        ),
        own(
            "hedged",
            "hedging: {after: 100ms, budgetPercent: 100}",
            hedged,
            "each of 3 is answered, though one application is not",
        ),
        Behaviour {
            case: zones("zones", "zoneAware: {minimumEndpoints: 1}"),
            applications: 3,
            run: by_zone,
            expected: "its own zone first",
        },
        Behaviour {
            case: zones("zones-few", "zoneAware: {minimumEndpoints: 4}"),
            applications: 3,
            run: by_zone,
            expected: "all zones alike",
        },
        Behaviour {
            case: bounded("bounded", "boundedLoad: {percent: 125}"),
            applications: 3,
            run: one_key,
            expected: "no application has more than 3 of 6",
        },
        Behaviour {
            case: bounded("not-bounded", "hedging: {after: 1h}"),
            applications: 3,
            run: one_key,
            expected: "one has all 6",
        },
    ]
}

/// Two applications in the callers' zone, one in another.
fn zones(host: &'static str, spec: &str) -> Case {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST}\nspec: {host: HOST, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}}}";
    let policy = format!(
        "apiVersion: outrigger.dev/v1\nkind: DestinationPolicy\nmetadata: {{name: HOST}}\nspec: {{host: HOST, {spec}}}"
    );
    Case::documents(host, &[rule, &policy]).localities(&["r1/z1/s1", "r1/z1/s1", "r1/z2/s1"])
}

fn bounded(host: &'static str, spec: &str) -> Case {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST}\nspec: {host: HOST, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}";
    let policy = format!(
        "apiVersion: outrigger.dev/v1\nkind: DestinationPolicy\nmetadata: {{name: HOST}}\nspec: {{host: HOST, {spec}}}"
    );
    Case::documents(host, &[rule, &policy])
}

fn by_zone(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let counts = stage.counts("GET /", 90).await;
        let of = |name: &str| {
            let found = counts.iter().find(|(found, _)| found == name);
            found.map_or(0, |(_, count)| *count)
        };
        match (of("v1"), of("v2"), of("v3")) {
            (one, two, 0) if one.abs_diff(two) <= 10 => "its own zone first".to_owned(),
            // The zone is drawn each time: 30 for each on average, give or take 4.5.
            (10.., 10.., 10..) => "all zones alike".to_owned(),
            _ => format!("{counts:?}"),
        }
    }
    .boxed_local()
}

/// Six requests with one key, at the same time.
fn one_key(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.apps.iter().for_each(TestApp::hold);
        let ask = Ask::parse("GET / | x-user: ann", stage.host);
        let asks: Vec<_> = (0..6)
            .map(|_| {
                let (ask, caller) = (ask.clone(), stage.caller.clone());
                tokio::spawn(async move { ask.send(&caller).await })
            })
            .collect();
        eventually("all are in applications", async || {
            match stage.apps.iter().map(TestApp::waiting).sum() {
                6 => Ok(()),
                waiting => Err(format!("{waiting}")),
            }
        })
        .await;
        let most = stage.apps.iter().map(TestApp::waiting).max();
        stage.apps.iter().for_each(TestApp::release);
        for ask in asks {
            ask.await.unwrap();
        }
        match most {
            Some(2..=3) => "no application has more than 3 of 6".to_owned(),
            Some(6) => "one has all 6".to_owned(),
            most => format!("{most:?}"),
        }
    }
    .boxed_local()
}

/// Who answers, or the code of our own answer, or the status.
async fn told(stage: &Stage, times: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..times {
        let reply = Ask::parse("GET /", stage.host).send(&stage.caller).await;
        let status = reply.status.as_u16().to_string();
        all.push(reply.reason().map_or(status, str::to_owned));
    }
    all
}

fn runs(told: &[String]) -> String {
    let chunks = told.chunk_by(|a, b| a == b);
    let chunks: Vec<_> = chunks
        .map(|run| format!("{} x{}", run[0], run.len()))
        .collect();
    chunks.join(", then ")
}

fn one_fails(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.apps[1].answer_with(503);
        let failed = told(stage, 30)
            .await
            .iter()
            .filter(|told| *told == "503")
            .count();
        format!("one application is seen {failed} times, the others take over")
    }
    .boxed_local()
}

fn all_fail(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.apps.iter().for_each(|app| app.answer_with(503));
        runs(&told(stage, 10).await)
    }
    .boxed_local()
}

fn recovers(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.apps.iter().for_each(|app| app.answer_with(503));
        let open = told(stage, 3).await.remove(2);
        stage.apps.iter().for_each(|app| app.answer_with(200));
        eventually("the probe succeeds", async || {
            match told(stage, 1).await.remove(0) {
                told if told == "200" => Ok(()),
                told => Err(told),
            }
        })
        .await;
        format!("{open}, and later {}", runs(&told(stage, 5).await))
    }
    .boxed_local()
}

fn spread(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.who(&["GET /"; 60]).await;
        let tried = stage.apps.iter().filter(|app| !app.received().is_empty());
        format!("{} are tried", tried.count())
    }
    .boxed_local()
}

fn hedged(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.apps[0].hold();
        let answered = told(stage, 3).await;
        stage.apps.iter().for_each(TestApp::release);
        if answered == ["200"; 3] {
            "each of 3 is answered, though one application is not".to_owned()
        } else {
            format!("{answered:?}")
        }
    }
    .boxed_local()
}
