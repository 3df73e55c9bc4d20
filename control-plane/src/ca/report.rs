//! What `outrigger certs` shows.

use std::collections::BTreeMap;

use outrigger_proto::outrigger::v1 as api;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::parse_x509_certificate;

use super::{
    hex,
    keeper::{Keeper, Outlook},
    rotation::{Rotation, Step, Wait, Why},
    sha256,
    signer::{self, Signer},
    state::{InForce, Past, Record, Source},
    unix_ms,
};
use crate::store::from_unix_ms;

/// Nodes named in one wait.
const MAX_NODES: usize = 100;

impl Keeper {
    /// All of it.
    pub(crate) async fn report(&self, now: OffsetDateTime) -> api::CertificatesResponse {
        let in_force = self.authority.in_force();
        let outlook = self.outlook(now).await;
        let now_ms = unix_ms(now);
        let first = self.ends(now_ms).first().copied();
        let rotation = in_force.state.rotation.as_ref();
        api::CertificatesResponse {
            trust_domain: self.authority.trust_domain().to_string(),
            roots: self.roots(&in_force),
            rotation: rotation.map(|rotation| status(rotation, &in_force, &outlook)),
            past: in_force.state.past.iter().rev().map(past).collect(),
            certificates: self.certificates(now_ms),
            first_outage: first.map(|(cause, _)| cause).unwrap_or_default().to_owned(),
            first_outage_at: first.and_then(|(_, end)| time(end)),
            records_dropped: self.authority.records().counts().1,
        }
    }

    fn roots(&self, in_force: &InForce) -> Vec<api::RootStatus> {
        let step = in_force.state.rotation.as_ref().map(|one| one.step);
        let rotates = match step {
            None => self.rotates_at(in_force),
            Some(_) => None,
        };
        let mut roots = vec![root(
            &in_force.active,
            &in_force.state.active,
            "signs",
            rotates,
        )];
        if let (Some(signer), Some(record)) = (&in_force.other, &in_force.state.other) {
            let role = match step {
                Some(Step::Sign) => "goes",
                _ => "comes",
            };
            roots.push(root(signer, record, role, None));
        }
        for der in &in_force.bundle.ders {
            let sha256 = hex(&sha256(der));
            if !roots.iter().any(|root| root.sha256 == sha256) {
                roots.push(trusted(der, sha256));
            }
        }
        roots
    }

    fn certificates(&self, now_ms: u64) -> Vec<api::CertificateStatus> {
        let mut nodes: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for client in self.connected() {
            if let Some(serial) = client.serial {
                let of = nodes.entry(serial).or_default();
                if !of.contains(&client.node_id) {
                    of.push(client.node_id);
                }
            }
        }
        let live = self.authority.records().live(now_ms).into_iter();
        live.map(|(serial, held)| {
            let nodes = nodes.remove(&serial).unwrap_or_default();
            api::CertificateStatus {
                identity: held.id.to_string(),
                late: held.is_late(now_ms) && !nodes.is_empty(),
                serial: serial.to_string(),
                nodes,
                root: held.root.to_string(),
                issued: time(held.issued_ms),
                not_after: time(held.not_after_ms),
                renewed: held.renewed_ms.and_then(time),
            }
        })
        .collect()
    }
}

fn root(signer: &Signer, record: &Record, role: &str, rotates: Option<u64>) -> api::RootStatus {
    let (from, to) = signer.root_life();
    api::RootStatus {
        sha256: signer.root_sha256().to_owned(),
        subject: subject(signer.root()),
        not_before: time(unix_ms(from)),
        not_after: time(unix_ms(to)),
        role: role.to_owned(),
        source: match record.source {
            Source::Made => "made",
            Source::Given => "given",
        }
        .to_owned(),
        signs_until: time(unix_ms(signer.not_after())),
        last_certificate_ends: (record.until_ms > 0)
            .then(|| time(record.until_ms))
            .flatten(),
        rotates: rotates.and_then(time),
    }
}

/// A root that nothing here signs with.
fn trusted(der: &CertificateDer<'_>, sha256: String) -> api::RootStatus {
    let life = signer::life(der).ok();
    api::RootStatus {
        sha256,
        subject: subject(der),
        not_before: life.and_then(|(from, _)| time(unix_ms(from))),
        not_after: life.and_then(|(_, to)| time(unix_ms(to))),
        role: "trusted".to_owned(),
        source: "given".to_owned(),
        ..api::RootStatus::default()
    }
}

fn subject(der: &CertificateDer<'_>) -> String {
    parse_x509_certificate(der).map_or_else(
        |_malformed| String::new(),
        |(_, parsed)| parsed.subject().to_string(),
    )
}

fn status(rotation: &Rotation, in_force: &InForce, outlook: &Outlook) -> api::RotationStatus {
    let active = in_force.active.root_sha256().to_owned();
    let other = in_force.other.as_ref().map(|other| other.root_sha256());
    let other = other.unwrap_or_default().to_owned();
    let (from, to) = match rotation.step {
        Step::Publish => (active, other),
        Step::Sign => (other, active),
    };
    api::RotationStatus {
        step: match rotation.step {
            Step::Publish => "publish",
            Step::Sign => "sign",
        }
        .to_owned(),
        why: why(rotation.why).to_owned(),
        from,
        to,
        begun: time(rotation.begun_ms),
        since: time(rotation.since_ms),
        paused: rotation.paused,
        undoing: rotation.undoing,
        waits: outlook
            .waits
            .iter()
            .map(|one| wait(*one, outlook))
            .collect(),
    }
}

fn wait(wait: Wait, outlook: &Outlook) -> api::RotationWait {
    let (what, until, nodes): (_, _, &[String]) = match wait {
        Wait::Operator => ("operator", None, &[]),
        Wait::Acks => ("acks", None, &outlook.unacked),
        Wait::Readers(until) => ("readers", Some(until), &[]),
        Wait::Certificates(until) => ("certificates", Some(until), &[]),
        Wait::InUse(_) => ("in_use", None, &outlook.on_old),
        Wait::Tokens(until) => ("tokens", Some(until), &[]),
    };
    api::RotationWait {
        what: what.to_owned(),
        until: until.and_then(time),
        clients: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        nodes: nodes.iter().take(MAX_NODES).cloned().collect(),
    }
}

fn past(of: &Past) -> api::PastRotation {
    api::PastRotation {
        why: why(of.why).to_owned(),
        from: of.from.clone(),
        to: of.to.clone(),
        begun: time(of.begun_ms),
        ended: time(of.ended_ms),
        aborted: of.aborted,
    }
}

const fn why(of: Why) -> &'static str {
    match of {
        Why::Age => "age",
        Why::Operator => "operator",
        Why::Files => "files",
    }
}

fn time(ms: u64) -> Option<prost_types::Timestamp> {
    Some(from_unix_ms(ms).into())
}
