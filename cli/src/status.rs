//! `outrigger status`: services, instances and their leases, sidecars and what they have accepted or refused.

use clap::Args;
use outrigger_proto::outrigger::v1::{
    ClientStatus, InstanceStatus, ResourceNote, ResourceTypeStatus, ServiceLimitStatus,
    ServiceLoad, ServiceStatus, StatusResponse,
};
use serde_json::{Value, json};

use crate::{
    client::{self, ConnectArgs},
    diagnostic,
    failure::Failure,
    output::{Output, OutputArgs, Table, print, print_json, seconds},
};

/// Show services, instances, leases, and which sidecars hold the newest configuration.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger status
  outrigger status -o json | jq '.sidecars[] | select(.state != \"synced\")'")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let answer = client::block_on(async {
        let mut admin = args.connect.connect().await?;
        admin.status().await
    })??;
    match args.output.output {
        Output::Json => print_json(&to_json(&answer))?,
        Output::Text => {
            diagnostic::report(&answer.warnings, &[]);
            print(&text(&answer))?;
        }
    }
    Ok(())
}

fn text(status: &StatusResponse) -> String {
    let documents: Vec<String> = status
        .object_counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let documents = if documents.is_empty() {
        "none".to_owned()
    } else {
        documents.join(", ")
    };
    let mut text = format!(
        "control plane {}, up since {}\nrevision {}, documents: {documents}\ntrust domain {}, root valid until {}\n",
        status.version,
        seconds(status.started.as_ref()),
        status.revision,
        status.trust_domain,
        seconds(status.root_not_after.as_ref()),
    );
    for part in [
        services(&status.services),
        instances(&status.services),
        sidecars(status),
    ]
    .into_iter()
    .chain(loads(&status.services))
    .chain(limits(&status.limits))
    .chain(notes(&status.clients))
    {
        text.push('\n');
        text.push_str(&part);
    }
    text
}

fn services(services: &[ServiceStatus]) -> String {
    let mut table = Table::new(&["SERVICE", "PORTS", "ADDRESS", "HEALTHY", "SOURCE"]);
    for service in services {
        let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
        let healthy = service
            .instances
            .iter()
            .filter(|instance| instance.health == "HEALTHY")
            .count();
        table.row(vec![
            service.host.clone(),
            ports.join(","),
            service
                .addresses
                .first()
                .cloned()
                .unwrap_or_else(|| "-".to_owned()),
            format!("{healthy} of {}", service.instances.len()),
            service.source.clone(),
        ]);
    }
    or_none(
        &table,
        "no services: start a sidecar with --app, or apply a ServiceEntry\n",
    )
}

fn instances(services: &[ServiceStatus]) -> String {
    let mut table = Table::new(&[
        "INSTANCE", "SERVICE", "ADDRESS", "HEALTH", "LEASE", "LABELS", "IDENTITY",
    ]);
    for service in services {
        for instance in &service.instances {
            let labels: Vec<String> = instance
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            table.row(vec![
                instance.id.clone(),
                service
                    .host
                    .split('.')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                instance.address.clone(),
                instance.health.clone(),
                lease(instance).map_or_else(|| "-".to_owned(), |left| format!("{left:.0} s")),
                labels.join(","),
                if instance.identity.is_empty() {
                    "plain text".to_owned()
                } else {
                    instance.identity.clone()
                },
            ]);
        }
    }
    or_none(&table, "no instances\n")
}

fn sidecars(status: &StatusResponse) -> String {
    let mut table = Table::new(&[
        "SIDECAR",
        "PEER",
        "PROTOCOL",
        "RESOURCES",
        "REVISION",
        "STATE",
    ]);
    for client in &status.clients {
        let sent: u32 = client.types.iter().map(|kind| kind.sent).sum();
        table.row(vec![
            client.node_id.clone(),
            client.peer.clone(),
            client.protocol.clone(),
            sent.to_string(),
            client.revision.to_string(),
            state(client, status.revision).text(),
        ]);
    }
    or_none(&table, "no sidecars are connected\n")
}

/// What clients report of their calls; nothing if nobody does.
fn loads(services: &[ServiceStatus]) -> Option<String> {
    let mut table = Table::new(&["CALLED", "BY", "GOOD/S", "FAILED/S", "DROPPED/S", "OPEN"]);
    for service in services {
        let Some(load) = &service.load else { continue };
        table.row(vec![
            service.host.clone(),
            load.clients.to_string(),
            format!("{:.1}", load.succeeded_per_s),
            format!("{:.1}", load.failed_per_s),
            format!("{:.1}", load.dropped_per_s),
            load.in_progress.to_string(),
        ]);
    }
    (!table.is_empty()).then(|| table.render())
}

/// What clients of a smaller dialect do not do of what documents ask for; nothing if there is nothing to say.
fn notes(clients: &[ClientStatus]) -> Option<String> {
    let mut table = Table::new(&["CLIENT", "RESOURCE", "DOES NOT FOLLOW"]);
    for client in clients {
        for note in &client.notes {
            table.row(vec![
                client.node_id.clone(),
                note.name.clone(),
                note.note.clone(),
            ]);
        }
    }
    (!table.is_empty()).then(|| table.render())
}

/// Limits of scope SERVICE; nothing if there are none.
fn limits(limits: &[ServiceLimitStatus]) -> Option<String> {
    let mut table = Table::new(&[
        "SERVICE LIMIT",
        "CLUSTER",
        "LIMIT",
        "SHARES",
        "SIDECARS",
        "IN USE",
        "BY",
    ]);
    for limit in limits {
        table.row(vec![
            limit.name.clone(),
            limit.cluster.clone(),
            limit.limit.to_string(),
            limit.leased.to_string(),
            if limit.silent > 0 {
                format!("{} ({} silent)", limit.sidecars, limit.silent)
            } else {
                limit.sidecars.to_string()
            },
            limit.in_use.to_string(),
            limit.rule.clone(),
        ]);
    }
    (!table.is_empty()).then(|| table.render())
}

fn or_none(table: &Table, none: &str) -> String {
    if table.is_empty() {
        none.to_owned()
    } else {
        table.render()
    }
}

/// Whether a sidecar holds the newest configuration.
enum State<'a> {
    Synced,
    /// For what it is sent, or its ACK.
    Waiting(u64),
    Refused(&'a str, &'a str),
}

/// `revision` is the one in force.
fn state(client: &ClientStatus, revision: u64) -> State<'_> {
    let mut behind = client
        .types
        .iter()
        .filter(|kind| kind.nonce_sent != kind.nonce_acked);
    // A refusal matters more than an answer that is on its way.
    if let Some(kind) = behind.clone().find(|kind| !kind.last_nack.is_empty()) {
        State::Refused(short(kind), &kind.last_nack)
    } else if client.revision < revision || behind.next().is_some() {
        State::Waiting(revision)
    } else {
        State::Synced
    }
}

/// Whether every sidecar has taken everything in force.
pub(crate) fn synced(status: &StatusResponse) -> bool {
    status
        .clients
        .iter()
        .all(|client| matches!(state(client, status.revision), State::Synced))
}

impl State<'_> {
    const fn word(&self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Waiting(_) => "waiting",
            Self::Refused(..) => "refused",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Synced => "synced".to_owned(),
            Self::Waiting(revision) => format!("waiting for its ACK of revision {revision}"),
            Self::Refused(kind, why) => format!("refused {kind}: {why}"),
        }
    }
}

/// `type.googleapis.com/envoy.config.cluster.v3.Cluster` is `Cluster`.
fn short(kind: &ResourceTypeStatus) -> &str {
    kind.type_url.rsplit('.').next().unwrap_or_default()
}

/// Seconds.
fn lease(instance: &InstanceStatus) -> Option<f64> {
    let left = instance.lease_left.as_ref()?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a lease is at most hours; seconds are exact"
    )]
    Some(left.seconds as f64 + f64::from(left.nanos) / 1e9)
}

fn to_json(status: &StatusResponse) -> Value {
    json!({
        "version": status.version,
        "revision": status.revision,
        "started": status.started.as_ref().map(ToString::to_string),
        "trust_domain": status.trust_domain,
        "root_not_after": status.root_not_after.as_ref().map(ToString::to_string),
        "documents": status.object_counts,
        "services": status.services.iter().map(service_json).collect::<Vec<_>>(),
        "sidecars": status.clients.iter().map(|client| client_json(client, status.revision)).collect::<Vec<_>>(),
        "service_limits": status.limits.iter().map(limit_json).collect::<Vec<_>>(),
        "warnings": status.warnings.iter().map(diagnostic::to_json).collect::<Vec<_>>(),
    })
}

fn limit_json(limit: &ServiceLimitStatus) -> Value {
    json!({
        "name": limit.name,
        "cluster": limit.cluster,
        "document": limit.rule,
        "limit": limit.limit,
        "shares": limit.leased,
        "sidecars": limit.sidecars,
        "silent_sidecars": limit.silent,
        "in_use": limit.in_use,
    })
}

fn service_json(service: &ServiceStatus) -> Value {
    let instance = |instance: &InstanceStatus| {
        json!({
            "id": instance.id,
            "address": instance.address,
            "labels": instance.labels,
            "health": instance.health,
            "identity": instance.identity,
            "lease_left_s": lease(instance),
        })
    };
    json!({
        "host": service.host,
        "ports": service.ports,
        "addresses": service.addresses,
        "source": service.source,
        "instances": service.instances.iter().map(instance).collect::<Vec<_>>(),
        "load": service.load.as_ref().map(load_json),
    })
}

fn load_json(load: &ServiceLoad) -> Value {
    json!({
        "clients": load.clients,
        "succeeded_per_s": load.succeeded_per_s,
        "failed_per_s": load.failed_per_s,
        "dropped_per_s": load.dropped_per_s,
        "in_progress": load.in_progress,
    })
}

fn client_json(client: &ClientStatus, revision: u64) -> Value {
    let kind = |kind: &ResourceTypeStatus| {
        json!({
            "type": kind.type_url,
            "resources": kind.sent,
            "nonce_sent": kind.nonce_sent,
            "nonce_acked": kind.nonce_acked,
            "nacks": kind.nacks,
            "last_nack": kind.last_nack,
        })
    };
    json!({
        "node": client.node_id,
        "identity": client.identity,
        "peer": client.peer,
        "protocol": client.protocol,
        "dialect": client.dialect,
        "notes": client.notes.iter().map(note_json).collect::<Vec<_>>(),
        "connected": client.connected.as_ref().map(ToString::to_string),
        "revision": client.revision,
        "state": state(client, revision).word(),
        "types": client.types.iter().map(kind).collect::<Vec<_>>(),
    })
}

fn note_json(note: &ResourceNote) -> Value {
    json!({ "type": note.type_url, "resource": note.name, "note": note.note })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(acked: &str, nack: &str) -> ClientStatus {
        ClientStatus {
            types: vec![ResourceTypeStatus {
                type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
                nonce_sent: "2".to_owned(),
                nonce_acked: acked.to_owned(),
                last_nack: nack.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_sidecar_is_synced_waiting_or_says_why_it_refused() {
        let text = |acked, nack| state(&client(acked, nack), 0).text();
        assert_eq!(text("2", ""), "synced");
        assert_eq!(text("1", ""), "waiting for its ACK of revision 0");
        assert_eq!(text("1", "no lb_policy"), "refused Cluster: no lb_policy");
    }

    #[test]
    fn a_sidecar_that_was_not_sent_the_newest_revision_is_not_synced() {
        let client = ClientStatus {
            revision: 41,
            ..client("2", "")
        };
        assert_eq!(state(&client, 42).word(), "waiting");
        assert_eq!(state(&client, 41).word(), "synced");
    }

    #[test]
    fn an_old_refusal_does_not_count_once_the_newest_is_accepted() {
        assert_eq!(state(&client("2", "no lb_policy"), 0).text(), "synced");
    }
}
