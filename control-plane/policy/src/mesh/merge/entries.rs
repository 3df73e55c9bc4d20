//! What the ServiceEntries for one host have to agree on.

use std::sync::Arc;

use super::{Found, named};
use crate::{Code, HostName, Object, Resolution, ServiceEntry, ServicePort};

/// Entries for one host add endpoints; what the service is, they have to agree on. The newer of two
/// that do not is left out.
pub(super) fn compare(
    host: &HostName,
    entries: &mut Vec<(Arc<Object>, ServiceEntry)>,
    found: &mut Found,
) {
    entries.dedup_by(|a, b| a.0.key == b.0.key);
    let mut by_age: Vec<&(Arc<Object>, ServiceEntry)> = entries.iter().collect();
    by_age.sort_by_key(|(object, _)| found.age(object));
    let mut kept: Vec<&(Arc<Object>, ServiceEntry)> = Vec::new();
    let mut refused = Vec::new();
    for this in by_age {
        let contradiction = kept.iter().find_map(|other| {
            contradiction(&this.1, &other.1).map(|(path, what)| (path, what, &other.0))
        });
        let Some((path, what, other)) = contradiction else {
            kept.push(this);
            continue;
        };
        let position = this
            .1
            .hosts
            .first()
            .map_or(&this.0.position, |host| &host.position);
        let message = format!("{host} {what} in {}; make them agree", named(other));
        found.error(Code::EntriesDisagree, &this.0, position, path, message);
        refused.push(this.0.key.clone());
    }
    entries.retain(|(object, _)| !refused.contains(&object.key));
}

fn contradiction(this: &ServiceEntry, other: &ServiceEntry) -> Option<(String, String)> {
    if this.mesh_internal != other.mesh_internal {
        let location = |entry: &ServiceEntry| {
            if entry.mesh_internal {
                "MESH_INTERNAL"
            } else {
                "MESH_EXTERNAL"
            }
        };
        let what = format!("is {} here and {}", location(this), location(other));
        return Some(("spec.location".to_owned(), what));
    }
    if this.resolution != other.resolution {
        let word = |entry: &ServiceEntry| match entry.resolution {
            Resolution::Static => "STATIC",
            Resolution::AsConnected => "NONE",
        };
        let what = format!("is {} here and {}", word(this), word(other));
        return Some(("spec.resolution".to_owned(), what));
    }
    this.ports.iter().enumerate().find_map(|(index, port)| {
        let same = |other: &&ServicePort| other.number == port.number || other.name == port.name;
        let other = other
            .ports
            .iter()
            .find(same)
            .filter(|other| *other != port)?;
        let what = format!(
            "has the port {} here and {}",
            described(port),
            described(other)
        );
        Some((format!("spec.ports[{index}]"), what))
    })
}

fn described(port: &ServicePort) -> String {
    let target = port
        .target_port
        .map_or_else(String::new, |target| format!(" to {target}"));
    format!(
        "{} ({} {:?}{target})",
        port.number, port.name, port.protocol
    )
}
