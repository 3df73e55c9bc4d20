//! `retries`, `mirrors`, and faults whose share or time counts.

use std::time::{Duration, Instant};

use futures_util::{
    FutureExt as _,
    future::{LocalBoxFuture, join_all},
};
use outrigger_tests::eventually;

use super::{Behaviour, Stage};
use crate::system::case::{Ask, Case};

pub(super) fn all() -> Vec<Behaviour> {
    let retries = |host, retries: &str, run, expected| Behaviour {
        case: Case::http(
            host,
            &format!("- {{retries: {{{retries}}}, route: [{{destination: {{host: HOST}}}}]}}"),
        ),
        applications: 3,
        run,
        expected,
    };
    let plain = Behaviour {
        case: Case::http("retry-unset", "- route: [{destination: {host: HOST}}]"),
        applications: 3,
        run: get_503,
        expected: "503 after 1",
    };
    let mut all = vec![
        plain,
        retries(
            "retry-5xx",
            "attempts: 2, retryOn: 5xx",
            get_503,
            "503 after 3, in 3 applications",
        ),
        retries(
            "retry-5xx-post",
            "attempts: 2, retryOn: 5xx",
            post_503,
            "503 after 3, in 3 applications",
        ),
        retries("retry-none", "attempts: 0", get_503, "503 after 1"),
        retries(
            "retry-code",
            "attempts: 1, retryOn: '503'",
            get_503,
            "503 after 2, in 2 applications",
        ),
        retries(
            "retry-other-code",
            "attempts: 1, retryOn: '502,504'",
            get_503,
            "503 after 1",
        ),
        retries(
            "retry-gateway",
            "attempts: 1, retryOn: gateway-error",
            get_503,
            "503 after 2, in 2 applications",
        ),
        retries(
            "retry-gateway-500",
            "attempts: 1, retryOn: gateway-error",
            get_500,
            "500 after 1",
        ),
        retries(
            "retry-4xx",
            "attempts: 1, retryOn: retriable-4xx",
            get_409,
            "409 after 2, in 2 applications",
        ),
        retries(
            "retry-4xx-404",
            "attempts: 1, retryOn: retriable-4xx",
            get_404,
            "404 after 1",
        ),
        retries(
            "retry-connect",
            "attempts: 3, retryOn: connect-failure",
            get_503,
            "503 after 1",
        ),
        retries(
            "retry-implied",
            "attempts: 2",
            get_503,
            "503 after 3, in 3 applications",
        ),
        retries(
            "retry-implied-post",
            "attempts: 2",
            post_503,
            "503 after 1 ~~ 503 after 3, in 3 applications ~~ Envoy repeats every method; ours, unless the document names what to retry on, only what is idempotent",
        ),
        retries(
            "retry-per-try",
            "attempts: 2, perTryTimeout: 400ms, retryOn: 5xx",
            get_slow,
            "504 after 3, in 3 applications",
        ),
    ];
    all.push(retries(
        "retry-backoff",
        "attempts: 3, retryOn: 5xx, backoff: 800ms",
        get_503_slowly,
        "503 after 4, not at once",
    ));
    all.extend(elsewhere());
    all.extend(shares());
    all
}

/// Where the next try goes.
fn elsewhere() -> Vec<Behaviour> {
    let sticky = |host, retries: &str, expected| {
        let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST}\nspec: {host: HOST, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}";
        let service = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: HOST}}\nspec: {{hosts: [HOST], http: [{{retries: {{attempts: 2, retryOn: 5xx{retries}}}, route: [{{destination: {{host: HOST}}}}]}}]}}"
        );
        Behaviour {
            case: Case::documents(host, &[rule, &service]),
            applications: 3,
            run: get_503_as_ann,
            expected,
        }
    };
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST}\nspec: {host: HOST, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: true}}, outlierDetection: {consecutive5xxErrors: 100, interval: 1h}}}";
    let service = |more: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: HOST}}\nspec: {{hosts: [HOST], http: [{{retries: {{attempts: 2, retryOn: 5xx{more}}}, route: [{{destination: {{host: HOST}}}}]}}]}}"
        )
    };
    let limited = |host, policy: &str, expected| {
        let rule = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: HOST}}\nspec: {{host: HOST, trafficPolicy: {{{policy}}}}}"
        );
        Behaviour {
            case: Case::documents(host, &[&rule, &service("")]),
            applications: 3,
            run: ten_fail,
            expected,
        }
    };
    vec![
        limited(
            "max-retries",
            "connectionPool: {http: {maxRetries: 1}}",
            "503 x10 after 12",
        ),
        limited(
            "retry-budget",
            "retryBudget: {percent: 10, minRetryConcurrency: 2}",
            "503 x10 after 14",
        ),
        sticky("retry-next", "", "503 after 3, in 3 applications"),
        sticky(
            "retry-same",
            ", retryIgnorePreviousHosts: false",
            "503 after 3",
        ),
        Behaviour {
            case: Case::documents(
                "retry-remote",
                &[rule, &service(", retryRemoteLocalities: true")],
            )
            .localities(&["r1/z1/s1", "r2/z1/s1", "r2/z1/s1"]),
            applications: 3,
            run: first_place_fails,
            expected: "200 from the other region x2",
        },
    ]
}

fn get_503_slowly(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let started = Instant::now();
        let told = counted(stage, "GET / | x-app-status: 503").await;
        let told = told.split(',').next().unwrap_or_default().to_owned();
        // By default three pauses are 275 ms at most; of these, 0.8 + 2.4 + 5.6 s are drawn from, and not so little
        // comes of it in one of three thousand runs.
        if started.elapsed() >= Duration::from_millis(280) {
            told + ", not at once"
        } else {
            told
        }
    }
    .boxed_local()
}

fn get_503_as_ann(stage: &Stage) -> LocalBoxFuture<'_, String> {
    counted(stage, "GET / | x-user: ann | x-app-status: 503").boxed_local()
}

/// Ten at the same time, whose repeats come at the same time.
fn ten_fail(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let ask = Ask::parse(
            "GET / | x-app-status: 503 | x-app-delay-ms: 700",
            stage.host,
        );
        let asks = (0..10).map(|_| ask.send(&stage.caller));
        let failed = join_all(asks).await;
        let failed = failed.iter().filter(|reply| reply.status == 503).count();
        let seen: usize = stage.apps.iter().map(|app| app.received().len()).sum();
        format!("503 x{failed} after {seen}")
    }
    .boxed_local()
}

fn first_place_fails(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.apps[0].answer_with(503);
        let names = stage.who(&["GET /"; 2]).await;
        let remote = names
            .iter()
            .filter(|name| ["v2", "v3"].contains(&name.as_str()));
        format!("200 from the other region x{}", remote.count())
    }
    .boxed_local()
}

fn shares() -> Vec<Behaviour> {
    let http = |host, rule: &str, run, expected| Behaviour {
        case: Case::http(host, rule),
        applications: 3,
        run,
        expected,
    };
    vec![
        http(
            "mirror",
            "- {mirrors: [{destination: {host: HOST, subset: v2}}], route: $v1}",
            mirrored,
            "10 to v1, 10 to v2 as mirror-shadow, 0 to v3",
        ),
        http(
            "mirror-two",
            "- {mirrors: [{destination: {host: HOST, subset: v2}, percentage: {value: 100}}, {destination: {host: HOST, subset: v3}}], route: $v1}",
            mirrored,
            "10 to v1, 10 to v2 as mirror-two-shadow, 10 to v3",
        ),
        http(
            "mirror-old",
            "- {mirror: {host: HOST, subset: v2}, mirrorPercentage: {value: 100}, route: $v1}",
            mirrored,
            "10 to v1, 10 to v2 as mirror-old-shadow, 0 to v3",
        ),
        http(
            "fault-half",
            "- {fault: {abort: {httpStatus: 418, percentage: {value: 50}}}, route: $v1}",
            half,
            "half",
        ),
        http(
            "fault-time",
            "- {fault: {delay: {fixedDelay: 300ms, percentage: {value: 100}}}, route: $v1}",
            late,
            "200 after 300 ms",
        ),
    ]
}

async fn counted(stage: &Stage, line: &str) -> String {
    let status = stage.who(&[line]).await.remove(0);
    let counts = stage.apps.iter().map(|app| app.received().len());
    let counts: Vec<_> = counts.filter(|count| *count > 0).collect();
    let all: usize = counts.iter().sum();
    let spread = match counts.len() {
        0 | 1 => String::new(),
        // It gives up looking for another one after a few draws.
        _ if stage.is_envoy => String::new(),
        many => format!(", in {many} applications"),
    };
    format!("{status} after {all}{spread}")
}

fn get_503(stage: &Stage) -> LocalBoxFuture<'_, String> {
    counted(stage, "GET / | x-app-status: 503").boxed_local()
}

fn post_503(stage: &Stage) -> LocalBoxFuture<'_, String> {
    counted(stage, "POST / | x-app-status: 503").boxed_local()
}

fn get_500(stage: &Stage) -> LocalBoxFuture<'_, String> {
    counted(stage, "GET / | x-app-status: 500").boxed_local()
}

fn get_409(stage: &Stage) -> LocalBoxFuture<'_, String> {
    counted(stage, "GET / | x-app-status: 409").boxed_local()
}

fn get_404(stage: &Stage) -> LocalBoxFuture<'_, String> {
    counted(stage, "GET / | x-app-status: 404").boxed_local()
}

fn get_slow(stage: &Stage) -> LocalBoxFuture<'_, String> {
    counted(stage, "GET / | x-app-delay-ms: 2000").boxed_local()
}

fn mirrored(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.who(&["GET / | x-a: 1"; 10]).await;
        // Nobody waits for the copies.
        eventually("the copies are there", async || {
            match stage.apps[1].received().len() {
                10 => Ok(()),
                count => Err(count.to_string()),
            }
        })
        .await;
        let counts: Vec<_> = stage.apps.iter().map(|app| app.received().len()).collect();
        let copy = &stage.apps[1].received()[0];
        let host = copy.headers["host"].to_str().unwrap();
        format!(
            "{} to v1, {} to v2 as {host}, {} to v3",
            counts[0], counts[1], counts[2]
        )
    }
    .boxed_local()
}

fn half(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let names = stage.who(&["GET /"; 300]).await;
        match names.iter().filter(|name| *name == "418").count() {
            105..=195 => "half".to_owned(),
            count => format!("{count} of 300"),
        }
    }
    .boxed_local()
}

fn late(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let started = Instant::now();
        let name = stage.who(&["GET /"]).await.remove(0);
        let took = started.elapsed();
        if name == "v1" && took >= Duration::from_millis(300) {
            "200 after 300 ms".to_owned()
        } else {
            format!("{name} after {took:?}")
        }
    }
    .boxed_local()
}
