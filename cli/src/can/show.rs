//! The answer, as lines for people and as JSON.
//! ```text
//! DENIED  GET /admin of reviews.default.svc.cluster.local:9080 by spiffe://cluster.local/ns/default/sa/web from 10.0.0.7
//! mTLS      STRICT (peers.yaml:6:9, PeerAuthentication default/strict)
//! decided   ns[default]-policy[viewers]-rule[0] at viewers.yaml:9:7
//! because   policy "ns[default]-policy[viewers]-rule[0]" denies it
//! filters
//!   envoy.filters.http.rbac.deny   DENY   refuses  ns[default]-policy[viewers]-rule[0] at viewers.yaml:9:7
//! ```

use std::fmt::Write as _;

use outrigger_sidecar::explain::{Access, AccessStep, AccessVerdict, WrittenMode};
use serde_json::{Value, json};

use super::{
    CanArgs,
    ask::{Answer, Group},
};
use crate::output::Table;

type Policy = Option<(String, Option<String>)>;

pub(super) fn text(args: &CanArgs, answer: &Answer) -> String {
    let mut text = String::new();
    for (index, group) in answer.groups.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        one(&mut text, args, answer, group);
    }
    for assumed in &answer.assumed {
        writeln!(text, "assumed   {assumed}").ok();
    }
    text
}

fn one(text: &mut String, args: &CanArgs, answer: &Answer, group: &Group) {
    let access = &group.access;
    let what = match access.is_http {
        true => format!("{} {} of", args.method, args.path),
        false => "a connection to".to_owned(),
    };
    let who = answer.identity.as_deref().unwrap_or("plain text");
    writeln!(
        text,
        "{}  {what} {}:{} by {who} from {}",
        verdict(access),
        answer.host,
        answer.port,
        answer.from
    )
    .ok();
    if answer.groups.len() > 1 {
        let labels: Vec<String> = group.labels.iter().map(labelled).collect();
        writeln!(
            text,
            "instances {} ({})",
            group.instances.join(", "),
            labels.join("; ")
        )
        .ok();
    }
    let default = access.mode.position.is_none();
    let default = if default { ", the default" } else { "" };
    writeln!(text, "mTLS      {}{default}", mode(&access.mode)).ok();
    if let Some(tried) = &access.tried_mode {
        writeln!(text, "dry run   {}", mode(tried)).ok();
    }
    if answer.identity.is_some() && !access.identity_seen {
        text.push_str("identity  is not shown: the port is called in plain text\n");
    }
    if let Some(policy) = &access.policy {
        let named = Some((policy.clone(), access.position.clone()));
        writeln!(text, "decided   {}", placed(&named)).ok();
    }
    writeln!(text, "because   {}", access.why).ok();
    if !access.steps.is_empty() {
        text.push_str("filters\n");
        let mut table = Table::new(&["  FILTER", "ACTION", "VERDICT", "POLICY", "DRY RUN"]);
        for step in &access.steps {
            table.row(row(step));
        }
        text.push_str(&table.render());
    }
    for refused in &access.refused {
        writeln!(
            text,
            "refused   the sidecar would refuse a part of its configuration: {refused}"
        )
        .ok();
    }
}

fn row(step: &AccessStep) -> Vec<String> {
    let tried = step.tried.as_ref().map(|tried| {
        let verdict = if tried.passes {
            "would pass"
        } else {
            "would refuse"
        };
        match &tried.policy {
            Some(_) => format!("{verdict}: {}", placed(&tried.policy)),
            None => verdict.to_owned(),
        }
    });
    vec![
        format!("  {}", step.filter),
        step.action.to_owned(),
        if step.passes { "passes" } else { "refuses" }.to_owned(),
        placed(&step.policy),
        tried.unwrap_or_default(),
    ]
}

fn placed(policy: &Policy) -> String {
    match policy {
        None => String::new(),
        Some((name, None)) => name.clone(),
        Some((name, Some(position))) => format!("{name} at {position}"),
    }
}

fn labelled(labels: &std::collections::BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    match labels.is_empty() {
        true => "no labels".to_owned(),
        false => labels.join(","),
    }
}

fn mode(mode: &WrittenMode) -> String {
    match (&mode.position, &mode.document) {
        (Some(position), Some(document)) => format!("{} ({position}, {document})", mode.mode),
        (Some(position), None) => format!("{} ({position})", mode.mode),
        (None, _) => mode.mode.clone(),
    }
}

fn verdict(access: &Access) -> String {
    match &access.verdict {
        AccessVerdict::Allowed => "ALLOWED".to_owned(),
        AccessVerdict::Denied => "DENIED".to_owned(),
        AccessVerdict::Asks(provider) => format!("ASKS {provider}"),
    }
}

pub(super) fn json(args: &CanArgs, answer: &Answer) -> Value {
    json!({
        "server": { "host": answer.host, "port": answer.port },
        "client": { "identity": answer.identity, "address": answer.from },
        "method": args.method.as_str(),
        "path": args.path,
        "assumed": answer.assumed,
        "answers": answer.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

fn group(group: &Group) -> Value {
    let access = &group.access;
    json!({
        "verdict": match &access.verdict {
            AccessVerdict::Allowed => "allowed",
            AccessVerdict::Denied => "denied",
            AccessVerdict::Asks(_) => "asks",
        },
        "asks": match &access.verdict {
            AccessVerdict::Asks(provider) => Some(provider),
            _ => None,
        },
        "because": access.why,
        "policy": access.policy,
        "position": access.position,
        "mtls": written(&access.mode),
        "mtls_dry_run": access.tried_mode.as_ref().map(written),
        "identity_seen": access.identity_seen,
        "instances": group.instances,
        "labels": group.labels,
        "filters": access.steps.iter().map(step).collect::<Vec<_>>(),
        "refused": access.refused,
    })
}

fn written(mode: &WrittenMode) -> Value {
    json!({ "mode": mode.mode, "position": mode.position, "document": mode.document })
}

fn step(step: &AccessStep) -> Value {
    let named = |policy: &Policy| {
        policy
            .as_ref()
            .map(|(name, position)| json!({ "name": name, "position": position }))
    };
    json!({
        "filter": step.filter,
        "action": step.action,
        "passes": step.passes,
        "policy": named(&step.policy),
        "dry_run": step.tried.as_ref().map(|tried| {
            json!({ "passes": tried.passes, "policy": named(&tried.policy) })
        }),
    })
}
