//! `outrigger certs`: which roots sign and are trusted, what a rotation waits for, who holds what until when; and
//! `outrigger certs rotate`.

use clap::{Args, Subcommand};
use outrigger_proto::outrigger::v1::{
    CertificateStatus, CertificatesResponse, RootStatus, RotateRootRequest, RotationStatus,
    RotationWait, rotate_root_request::Action,
};
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::{
    client::{self, ConnectArgs},
    failure::Failure,
    output::{Output, OutputArgs, Table, print, print_json, seconds},
};

/// Show roots and certificates: who signs, who holds what until when, what a rotation waits for.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  outrigger certs
  outrigger certs -o json | jq '.certificates[] | select(.late)'
  outrigger certs rotate"
)]
pub(crate) struct CertsArgs {
    #[command(subcommand)]
    command: Option<CertsCommand>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    Rotate(RotateArgs),
}

/// Replace the root, step by step, without a failed handshake; or stop that.
///
/// Without a flag a rotation begins: a new root is made and trusted beside the old one, signs when every connected client
/// has accepted it, and the old one goes when its last certificate has ended. It takes about twice the life of a
/// certificate, survives restarts, and shows in `outrigger certs`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger certs rotate
  outrigger certs rotate --abort")]
struct RotateArgs {
    #[command(flatten)]
    action: ActionArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
struct ActionArgs {
    /// Take no further step until --resume.
    #[arg(long)]
    pause: bool,
    /// Go on after --pause.
    #[arg(long)]
    resume: bool,
    /// Go back: the root of before stays, or signs again, and the other one goes.
    #[arg(long)]
    abort: bool,
    /// Take the next step now, without what it waits for. Clients that it waits for may fail handshakes.
    #[arg(long)]
    skip_wait: bool,
}

impl ActionArgs {
    const fn action(&self) -> Action {
        match (self.pause, self.resume, self.abort, self.skip_wait) {
            (true, ..) => Action::Pause,
            (_, true, ..) => Action::Resume,
            (_, _, true, _) => Action::Abort,
            (.., true) => Action::SkipWait,
            _ => Action::Start,
        }
    }
}

pub(crate) fn run(args: &CertsArgs) -> Result<(), Failure> {
    let (status, output) = match &args.command {
        None => {
            let status = client::block_on(async {
                let mut admin = args.connect.connect().await?;
                admin.certificates().await
            })??;
            (status, args.output.output)
        }
        Some(CertsCommand::Rotate(rotate)) => {
            let action = rotate.action.action().into();
            let answer = client::block_on(async {
                let mut admin = rotate.connect.connect().await?;
                admin.rotate_root(RotateRootRequest { action }).await
            })??;
            (answer.status.unwrap_or_default(), rotate.output.output)
        }
    };
    match output {
        Output::Json => print_json(&to_json(&status))?,
        Output::Text => print(&text(&status))?,
    }
    Ok(())
}

fn text(status: &CertificatesResponse) -> String {
    let mut text = format!(
        "trust domain {}; if nothing is done the first to end is the {}, at {}\n\n",
        status.trust_domain,
        status.first_outage,
        seconds(status.first_outage_at.as_ref())
    );
    text.push_str(&roots(&status.roots));
    text.push('\n');
    match &status.rotation {
        None => text.push_str("no rotation is under way\n"),
        Some(rotation) => text.push_str(&rotation_text(rotation)),
    }
    for past in &status.past {
        text.push_str(&format!(
            "{} {} -> {}, {} to {} ({})\n",
            if past.aborted { "aborted:" } else { "done:" },
            short(&past.from),
            short(&past.to),
            seconds(past.begun.as_ref()),
            seconds(past.ended.as_ref()),
            past.why
        ));
    }
    text.push('\n');
    text.push_str(&certificates(&status.certificates));
    if status.records_dropped > 0 {
        text.push_str(&format!(
            "and {} more, for which there was no room\n",
            status.records_dropped
        ));
    }
    text
}

fn roots(roots: &[RootStatus]) -> String {
    let mut table = Table::new(&[
        "ROOT",
        "ROLE",
        "SOURCE",
        "VALID UNTIL",
        "SIGNS UNTIL",
        "LAST CERTIFICATE ENDS",
        "REPLACED",
    ]);
    for root in roots {
        let or_dash = |time: &Option<Timestamp>| match time {
            Some(time) => seconds(Some(time)),
            None => "-".to_owned(),
        };
        table.row(vec![
            short(&root.sha256),
            root.role.clone(),
            root.source.clone(),
            or_dash(&root.not_after),
            or_dash(&root.signs_until),
            or_dash(&root.last_certificate_ends),
            or_dash(&root.rotates),
        ]);
    }
    table.render()
}

fn rotation_text(rotation: &RotationStatus) -> String {
    let doing = match (rotation.step.as_str(), rotation.undoing) {
        ("publish", _) => "both roots are trusted, the old one signs",
        (_, false) => "both roots are trusted, the new one signs",
        (_, true) => "taken back: both roots are trusted, the old one signs again",
    };
    let mut text = format!(
        "rotation {} -> {} ({}), step {} since {}{}: {doing}\n",
        short(&rotation.from),
        short(&rotation.to),
        rotation.why,
        rotation.step,
        seconds(rotation.since.as_ref()),
        if rotation.paused { ", paused" } else { "" },
    );
    if rotation.waits.is_empty() {
        text.push_str("  waits for nothing: the next step is due\n");
    }
    for wait in &rotation.waits {
        text.push_str(&format!("  waits {}\n", wait_text(wait)));
    }
    text
}

fn wait_text(wait: &RotationWait) -> String {
    let until = seconds(wait.until.as_ref());
    let of = |what: &str| {
        let nodes = wait.nodes.iter().map(|node| format!("\n    {node}"));
        format!("for {} {what}:{}", wait.clients, nodes.collect::<String>())
    };
    match wait.what.as_str() {
        "operator" => "for you: it is paused (`outrigger certs rotate --resume`)".to_owned(),
        "acks" => of("connected clients to accept the bundle"),
        "in_use" => of("connected clients whose certificate leads to the old root"),
        "readers" => format!("until {until}, for applications that read the bundle from a file"),
        "certificates" => format!("until {until}, when the last certificate of before has ended"),
        "tokens" => {
            format!("until {until}, when the last join token that pins the old root has ended")
        }
        other => format!("for {other}"),
    }
}

fn certificates(all: &[CertificateStatus]) -> String {
    if all.is_empty() {
        return "no certificates are known\n".to_owned();
    }
    let mut table = Table::new(&["IDENTITY", "UNTIL", "STATE", "ROOT", "SERIAL", "NODE"]);
    for one in all {
        table.row(vec![
            one.identity.clone(),
            seconds(one.not_after.as_ref()),
            state(one).to_owned(),
            short(&one.root),
            one.serial.clone(),
            if one.nodes.is_empty() {
                "-".to_owned()
            } else {
                one.nodes.join(" ")
            },
        ]);
    }
    table.render()
}

fn state(one: &CertificateStatus) -> &'static str {
    match one {
        one if one.late => "late",
        one if one.renewed.is_some() => "renewed",
        one if one.nodes.is_empty() => "not connected",
        _ => "connected",
    }
}

/// As much of a hash as tells roots apart.
fn short(sha256: &str) -> String {
    if sha256.is_empty() {
        return "-".to_owned();
    }
    sha256.chars().take(12).collect()
}

fn to_json(status: &CertificatesResponse) -> Value {
    let time = |time: &Option<Timestamp>| time.as_ref().map(ToString::to_string);
    let root = |root: &RootStatus| {
        json!({
            "sha256": root.sha256, "subject": root.subject, "role": root.role, "source": root.source,
            "not_before": time(&root.not_before), "not_after": time(&root.not_after),
            "signs_until": time(&root.signs_until),
            "last_certificate_ends": time(&root.last_certificate_ends),
            "rotates": time(&root.rotates),
        })
    };
    let wait = |wait: &RotationWait| {
        json!({
            "what": wait.what, "until": time(&wait.until), "clients": wait.clients,
            "nodes": wait.nodes,
        })
    };
    let rotation = |of: &RotationStatus| {
        json!({
            "step": of.step, "why": of.why, "from": of.from, "to": of.to, "paused": of.paused,
            "undoing": of.undoing, "begun": time(&of.begun), "since": time(&of.since),
            "waits": of.waits.iter().map(wait).collect::<Vec<_>>(),
        })
    };
    let certificate = |of: &CertificateStatus| {
        json!({
            "identity": of.identity, "serial": of.serial, "nodes": of.nodes, "root": of.root,
            "state": state(of), "late": of.late, "issued": time(&of.issued),
            "not_after": time(&of.not_after), "renewed": time(&of.renewed),
        })
    };
    let past = status.past.iter().map(|past| {
        json!({
            "why": past.why, "from": past.from, "to": past.to, "aborted": past.aborted,
            "begun": time(&past.begun), "ended": time(&past.ended),
        })
    });
    json!({
        "trust_domain": status.trust_domain,
        "first_outage": status.first_outage,
        "first_outage_at": time(&status.first_outage_at),
        "roots": status.roots.iter().map(root).collect::<Vec<_>>(),
        "rotation": status.rotation.as_ref().map(rotation),
        "past": past.collect::<Vec<_>>(),
        "certificates": status.certificates.iter().map(certificate).collect::<Vec<_>>(),
        "records_dropped": status.records_dropped,
    })
}
