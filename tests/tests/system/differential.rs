//! The same documents and requests through our sidecar and through Envoy, in front of the same applications.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::{FutureExt as _, future::join_all};
use outrigger_tests::{Caller, Envoy, Mesh, TestApp};
use tokio::task::JoinSet;

use super::{
    behaviours::{self, Behaviour, Stage},
    case::{Case, VERSIONS},
    cases,
    observed::{self, Observed},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_document_means_to_our_sidecar_what_it_means_to_envoy() {
    let started = Instant::now();
    let mesh = Mesh::start().await;
    let apps = applications(3).await;
    let cases = cases::all();
    let mut documents: Vec<String> = cases.iter().map(|case| case.yaml(&apps)).collect();
    let mut behaviours = Vec::new();
    for behaviour in behaviours::all() {
        let apps = applications(behaviour.applications).await;
        documents.push(behaviour.case.yaml(&apps));
        behaviours.push((behaviour, apps));
    }
    mesh.apply(&documents.join("\n---\n"));
    let shopper = mesh
        .service("shopper")
        .label("app", "shopper")
        .flag("--locality", "r1/z1/s1")
        .start()
        .await;
    let envoy = Envoy::start(&mesh, "shopper", &[("app", "shopper")]).await;
    mesh.synced().await;
    let ready = started.elapsed();

    let ours = Arc::new(shopper.caller());
    let envoys = envoy.as_ref().map(|envoy| Arc::new(envoy.caller()));
    let mut running = JoinSet::new();
    let requests: usize = cases.iter().map(|case| case.asks.len()).sum();
    for case in cases {
        running.spawn(judge(case, Arc::clone(&ours), envoys.clone()));
    }
    let scenes = behaviours.len();
    let behaviours = behaviours.into_iter().map(|(behaviour, apps)| {
        let ours = shopper.caller();
        let envoys = envoy.as_ref().filter(|_| !behaviour.case.is_ours_alone());
        let envoys = envoys.map(Envoy::caller);
        compare(behaviour, apps, ours, envoys)
    });
    let mut wrong = join_all(behaviours).await.concat();
    wrong.extend(running.join_all().await.into_iter().flatten());
    eprintln!(
        "{requests} requests and {scenes} behaviours, {:?} after {ready:?}",
        started.elapsed() - ready
    );
    if !wrong.is_empty() {
        let log = envoy.map(|envoy| envoy.log()).unwrap_or_default();
        panic!(
            "{} differ:\n{}\nEnvoy:\n{log}",
            wrong.len(),
            wrong.join("\n")
        );
    }
}

async fn applications(count: usize) -> Vec<TestApp> {
    let mut apps = Vec::new();
    for version in &VERSIONS[..count] {
        apps.push(TestApp::start(version).await);
    }
    apps
}

async fn judge(case: Case, ours: Arc<Caller>, envoys: Option<Arc<Caller>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for ask in &case.asks {
        let mut say = |who: &str, what: Vec<String>| {
            let lines = what.iter().map(|what| format!("\n    {what}"));
            if !what.is_empty() {
                let lines = lines.collect::<String>();
                wrong.push(format!("{}: {}\n  {who}:{lines}", case.host, ask.line));
            }
        };
        let seen = Observed::of(&ask.send(&ours).await);
        say("ours", ask.wrong(&seen));
        let Some(envoys) = &envoys else { continue };
        let envoys = Observed::of(&ask.send(envoys).await);
        let differences = seen.differences(&envoys, case.any_upstream);
        if ask.unlike_envoy.is_some() {
            if differences.is_empty() {
                say("between them", vec!["no difference any more".to_owned()]);
            }
            continue;
        }
        say("Envoy", ask.wrong(&envoys));
        say("between them", differences);
    }
    wrong
}

/// Ours first, then Envoy: what one does to the applications must not be seen by the other.
async fn compare(
    behaviour: Behaviour,
    apps: Vec<TestApp>,
    ours: Caller,
    envoys: Option<Caller>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut stage = Stage {
        host: behaviour.case.host,
        apps,
        caller: ours,
        is_envoy: false,
    };
    let callers = [
        Some(("ours", stage.caller.clone())),
        envoys.map(|caller| ("Envoy", caller)),
    ];
    for (who, caller) in callers.into_iter().flatten() {
        stage.caller = caller;
        stage.is_envoy = who == "Envoy";
        for app in &stage.apps {
            app.forget();
            app.answer_with(200);
        }
        // What never happens is a difference as any other.
        let run = AssertUnwindSafe((behaviour.run)(&stage)).catch_unwind();
        let seen = run.await.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>();
            text.map_or("a panic", String::as_str).to_owned()
        });
        let (expected, _) = behaviour.expectations(stage.is_envoy);
        let same = seen == expected || (stage.is_envoy && expected.starts_with(&seen));
        if !same {
            let host = stage.host;
            wrong.push(format!("{host}: {who}: {seen}\n  instead of: {expected}"));
        }
    }
    wrong
}

#[test]
fn the_policy_reference_names_every_difference_with_its_reason() {
    let reference = include_str!("../../../docs/POLICY.md");
    let words = reference.split_whitespace().collect::<Vec<_>>().join(" ");
    let cases = cases::all();
    let asks = cases.iter().flat_map(|case| &case.asks);
    let reasons = asks.filter_map(|ask| ask.unlike_envoy.as_deref());
    let behaviours = behaviours::all();
    let more = behaviours.iter().filter_map(|one| one.expectations(true).1);
    for reason in reasons
        .chain(more)
        .chain(observed::known().map(|(_, reason)| reason))
    {
        assert!(
            words.contains(reason),
            "docs/POLICY.md does not say: {reason}"
        );
    }
    for (name, _) in observed::known() {
        assert!(
            words.contains(&format!("`{name}`")),
            "docs/POLICY.md does not name `{name}`"
        );
    }
}
