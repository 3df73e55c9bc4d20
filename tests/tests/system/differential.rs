//! The same documents and requests through our sidecar and through Envoy, in front of the same applications.

use std::{sync::Arc, time::Instant};

use outrigger_tests::{Caller, Envoy, Mesh, TestApp};
use tokio::task::JoinSet;

use super::{
    case::{Case, VERSIONS},
    cases,
    observed::Observed,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_document_means_to_our_sidecar_what_it_means_to_envoy() {
    let started = Instant::now();
    let mesh = Mesh::start().await;
    let mut apps = Vec::new();
    for version in VERSIONS {
        apps.push(TestApp::start(version).await);
    }
    let cases = cases::all();
    let documents: Vec<String> = cases.iter().map(|case| case.yaml(&apps)).collect();
    mesh.apply(&documents.join("\n---\n"));
    let shopper = mesh.service("shopper").start().await;
    let envoy = Envoy::start(&mesh, "shopper", &[]).await;
    mesh.synced().await;
    eprintln!("started after {:?}", started.elapsed());

    let ours = Arc::new(shopper.caller());
    let envoys = envoy.as_ref().map(|envoy| Arc::new(envoy.caller()));
    let mut running = JoinSet::new();
    let requests: usize = cases.iter().map(|case| case.asks.len()).sum();
    for case in cases {
        running.spawn(judge(case, Arc::clone(&ours), envoys.clone()));
    }
    let wrong: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    eprintln!("{requests} requests, {:?}", started.elapsed());
    if !wrong.is_empty() {
        let log = envoy.map(|envoy| envoy.log()).unwrap_or_default();
        panic!("{} differ:\n{}\nEnvoy:\n{log}", wrong.len(), wrong.join("\n"));
    }
}

async fn judge(case: Case, ours: Arc<Caller>, envoys: Option<Arc<Caller>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for ask in &case.asks {
        let mut say = |who: &str, what: Vec<String>| {
            let host = case.host;
            let lines = what.iter().map(|what| format!("\n    {what}"));
            if !what.is_empty() {
                let text = format!("{host}: {}\n  {who}:{}", ask.line, lines.collect::<String>());
                wrong.push(text);
            }
        };
        let seen = Observed::of(&ours.send(ask.request()).await);
        say("ours", ask.wrong(&seen));
        let Some(envoys) = &envoys else { continue };
        let envoys = Observed::of(&envoys.send(ask.request()).await);
        say("Envoy", ask.wrong(&envoys));
        say("between them", seen.differences(&envoys, case.any_upstream));
    }
    wrong
}
