//! The decision, as lines for people and as JSON.
//! ```text
//! GET http://reviews:9080/ from productpage.default
//! listener      http_proxy (127.0.0.1:15080)
//! virtual host  reviews.default.svc.cluster.local:9080
//! routes
//!   1 no   canary.yaml:9:5: the header canary is missing; wanted "true"
//!   2 yes  canary.yaml:16:5
//! ...
//! ```

use std::fmt::Write as _;

use outrigger_sidecar::{
    Workload,
    explain::{Destination, Explanation, Outcome, OwnAnswer, Question},
};
use serde_json::{Map, Value, json};

use crate::output::Table;

/// Endpoints of one cluster that are listed.
const MAX_ENDPOINTS: usize = 50;

pub(super) fn text(question: &Question, caller: &Workload, found: &Explanation) -> String {
    let mut text = format!(
        "{} {} from {}\n",
        question.method,
        question.url,
        name(caller)
    );
    if let Some((listener, address)) = &found.listener {
        writeln!(text, "listener      {listener} ({address})").ok();
    }
    if let Some((host, domains)) = &found.virtual_host {
        writeln!(text, "virtual host  {host} ({})", domains.join(", ")).ok();
    }
    if !found.tried.is_empty() {
        text.push_str("routes\n");
    }
    for (index, step) in found.tried.iter().enumerate() {
        let place = match &step.position {
            Some(position) => position.clone(),
            None => format!("route {:?}", step.name),
        };
        match &step.failed {
            Some(why) => writeln!(text, "  {} no   {place}: {why}", index + 1),
            None => writeln!(text, "  {} yes  {place}", index + 1),
        }
        .ok();
    }
    match &found.outcome {
        Outcome::Answer(answer) => text.push_str(&answered(answer, "answer        ")),
        Outcome::NoListener(why) => {
            writeln!(text, "no listener   {why}").ok();
        }
        Outcome::Direct(status) => {
            writeln!(text, "answer        {status}, as the document says").ok();
        }
        Outcome::Redirect(status) => {
            writeln!(text, "answer        {status}, a redirect").ok();
        }
        Outcome::Forward => {
            policy(&mut text, "", &found.policy);
            for to in &found.clusters {
                destination(&mut text, to);
            }
        }
    }
    for refused in &found.refused {
        writeln!(
            text,
            "refused       the sidecar would refuse a part of its configuration: {refused}"
        )
        .ok();
    }
    text
}

fn name(caller: &Workload) -> String {
    let labels: Vec<String> = caller
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let labels = if labels.is_empty() {
        String::new()
    } else {
        format!(" ({})", labels.join(", "))
    };
    let place: Vec<&str> = caller.locality.iter().map(String::as_str).collect();
    let place = place.join("/");
    let place = match place.trim_end_matches('/') {
        "" => "nowhere in particular",
        place => place,
    };
    format!(
        "{}.{}{labels}, in {place}",
        caller.service, caller.namespace
    )
}

fn answered(answer: &OwnAnswer, margin: &str) -> String {
    format!(
        "{margin}{} {}: {}\n",
        answer.status, answer.code, answer.message
    )
}

fn policy(text: &mut String, margin: &str, policy: &[(&'static str, String)]) {
    for (name, value) in policy {
        writeln!(
            text,
            "{margin}{name:<14}{}{value}",
            if name.len() > 13 { " " } else { "" }
        )
        .ok();
    }
}

fn destination(text: &mut String, to: &Destination) {
    let place = to
        .position
        .as_ref()
        .map_or_else(String::new, |position| format!(", policy of {position}"));
    writeln!(
        text,
        "to            {} ({:.1} % of the requests{place})",
        to.name, to.share
    )
    .ok();
    policy(text, "  ", &to.policy);
    if let Some(answer) = &to.answer {
        text.push_str(&answered(answer, "  answer      "));
    }
    if to.endpoints.is_empty() {
        return;
    }
    let mut table = Table::new(&[
        "  ENDPOINT",
        "HEALTH",
        "WEIGHT",
        "PRIORITY",
        "TLS",
        "LOCALITY",
        "LABELS",
    ]);
    for endpoint in to.endpoints.iter().take(MAX_ENDPOINTS) {
        let labels: Vec<String> = endpoint
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        table.row(vec![
            format!("  {}", endpoint.address),
            endpoint.health.to_owned(),
            endpoint.weight.to_string(),
            endpoint.priority.to_string(),
            endpoint.tls.to_owned(),
            endpoint.locality.clone(),
            labels.join(","),
        ]);
    }
    text.push_str(&table.render());
    if let more @ 1.. = to.endpoints.len().saturating_sub(MAX_ENDPOINTS) {
        writeln!(text, "  and {more} more").ok();
    }
}

pub(super) fn json(caller: &Workload, found: &Explanation) -> Value {
    json!({
        "from": { "service": caller.service, "namespace": caller.namespace, "labels": caller.labels, "locality": caller.locality.join("/") },
        "listener": found.listener.as_ref().map(|(name, address)| json!({ "name": name, "address": address.to_string() })),
        "virtual_host": found.virtual_host.as_ref().map(|(name, domains)| json!({ "name": name, "domains": domains })),
        "routes": found.tried.iter().map(|step| json!({
            "name": step.name,
            "position": step.position,
            "matches": step.failed.is_none(),
            "why_not": step.failed,
        })).collect::<Vec<_>>(),
        "outcome": outcome(&found.outcome),
        "policy": pairs(&found.policy),
        "clusters": found.clusters.iter().map(cluster).collect::<Vec<_>>(),
        "refused": found.refused,
    })
}

fn outcome(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Forward => json!({ "kind": "forward" }),
        Outcome::Redirect(status) => json!({ "kind": "redirect", "status": status }),
        Outcome::Direct(status) => json!({ "kind": "direct_response", "status": status }),
        Outcome::Answer(answer) => own(answer),
        Outcome::NoListener(why) => json!({ "kind": "no_listener", "message": why }),
    }
}

fn own(answer: &OwnAnswer) -> Value {
    json!({ "kind": "own_answer", "code": answer.code, "status": answer.status, "message": answer.message })
}

fn pairs(policy: &[(&'static str, String)]) -> Value {
    let pairs: Map<String, Value> = policy
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    Value::Object(pairs)
}

fn cluster(to: &Destination) -> Value {
    json!({
        "name": to.name,
        "weight": to.weight,
        "percent": to.share,
        "position": to.position,
        "policy": pairs(&to.policy),
        "answer": to.answer.as_ref().map(own),
        "endpoints": to.endpoints.iter().map(|endpoint| json!({
            "address": endpoint.address.to_string(),
            "health": endpoint.health,
            "weight": endpoint.weight,
            "priority": endpoint.priority,
            "tls": endpoint.tls,
            "locality": endpoint.locality,
            "labels": endpoint.labels,
        })).collect::<Vec<_>>(),
    })
}
