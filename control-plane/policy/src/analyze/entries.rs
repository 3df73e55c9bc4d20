//! ServiceEntry and Sidecar: who serves, on which ports, and whom a Sidecar is for.

use std::collections::BTreeMap;

use super::finder::{Finder, listed};
use crate::{Code, Object, Protocol, ServiceEntry, ServicePort, Sidecar, TlsMode};

/// Ports that speak something else than HTTP, wherever they are found.
const DATABASES: [(u16, &str); 9] = [
    (22, "SSH"),
    (25, "SMTP"),
    (3_306, "MySQL"),
    (5_432, "PostgreSQL"),
    (5_672, "AMQP"),
    (6_379, "Redis"),
    (9_092, "Kafka"),
    (11_211, "memcached"),
    (27_017, "MongoDB"),
];

pub(super) fn check<'a>(finder: &mut Finder<'a>, object: &'a Object, entry: &ServiceEntry) {
    endpoints(finder, object, entry);
    for (index, host) in entry.hosts.iter().enumerate() {
        let name = finder.host(object, host);
        if finder.mesh.is_registered(&name) {
            let message = format!(
                "instances of {name} register by themselves, too: requests go to both; leave out what registers, or take another host"
            );
            finder.find(
                Code::EntryOverRegistered,
                object,
                &format!("spec.hosts[{index}]"),
                message,
            );
        }
    }
    for (index, port) in entry.ports.iter().enumerate() {
        ports(finder, object, entry, port, &format!("spec.ports[{index}]"));
    }
}

fn endpoints<'a>(finder: &mut Finder<'a>, object: &'a Object, entry: &ServiceEntry) {
    for (index, host) in entry.hosts.iter().enumerate() {
        let name = finder.host(object, host);
        let Some(all) = finder.endpoints(&name) else {
            continue;
        };
        if !all.is_empty() {
            continue;
        }
        if let Some(selector) = &entry.workload_selector {
            let labels = listed(
                selector
                    .iter()
                    .map(|(name, value)| format!("{name}={value}")),
            );
            let message = format!(
                "no workload of the namespace {} has {labels}, so every request to {name} gets 503; correct the labels, or start one",
                object.key.namespace
            );
            finder.find(
                Code::SelectorSelectsNothing,
                object,
                "spec.workloadSelector",
                message,
            );
        } else {
            let message = format!(
                "{name} has no endpoint, so every request to it gets 503; list them under endpoints"
            );
            finder.find(
                Code::NoEndpoints,
                object,
                &format!("spec.hosts[{index}]"),
                message,
            );
        }
    }
}

fn ports<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    entry: &ServiceEntry,
    port: &ServicePort,
    path: &str,
) {
    let said = Protocol::of_port_name(&port.name);
    let agree = |said: Protocol| {
        said == port.protocol || (said == Protocol::Http && port.protocol.is_http())
    };
    if let Some(said) = said.filter(|said| !agree(*said)) {
        let message = format!(
            "the name {:?} says {}, but the protocol is {}, which is what holds; let both say the same",
            port.name,
            said.as_str(),
            port.protocol.as_str()
        );
        finder.find(
            Code::PortNameProtocol,
            object,
            &format!("{path}.protocol"),
            message,
        );
    }
    let database = DATABASES.iter().find(|(number, _)| *number == port.number);
    if let Some((number, what)) = database.filter(|_| port.protocol.is_http()) {
        let message = format!(
            "port {number} is {what}'s, and a connection that is no HTTP would be refused with 400; write protocol: TCP, unless it really is HTTP"
        );
        finder.find(
            Code::HttpOnDatabasePort,
            object,
            &format!("{path}.protocol"),
            message,
        );
    }
    plain_443(finder, object, entry, port, path);
}

fn plain_443<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    entry: &ServiceEntry,
    port: &ServicePort,
    path: &str,
) {
    let to_443 = port.target_port.unwrap_or(port.number) == 443;
    if !to_443 || !port.protocol.is_http() || entry.mesh_internal {
        return;
    }
    let encrypted = entry.hosts.iter().all(|host| {
        let policy = finder.mesh.traffic_policy(&finder.host(object, host), None);
        let of_port = policy
            .ports
            .get(&port.number)
            .and_then(|own| own.policy.tls.as_ref());
        of_port
            .or(policy.tls.as_ref())
            .is_some_and(|tls| tls.value.mode != TlsMode::Disable)
    });
    if !encrypted {
        let message = "requests would go in plain text to a port that wants TLS; write a DestinationRule with tls.mode SIMPLE, or protocol: HTTPS if \
                       the application speaks TLS itself";
        finder.find(
            Code::PlainOn443,
            object,
            &format!("{path}.protocol"),
            message,
        );
    }
}

pub(super) fn check_sidecar<'a>(finder: &mut Finder<'a>, object: &'a Object, sidecar: &Sidecar) {
    let Some(clients) = finder.clients() else {
        return;
    };
    let mut here = clients
        .iter()
        .filter(|client| client.namespace == object.key.namespace);
    let nobody = BTreeMap::new();
    let selector = sidecar.workload_selector.as_ref().unwrap_or(&nobody);
    if here.any(|client| client.has(selector)) {
        return;
    }
    let labels = listed(
        selector
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    let whom = if selector.is_empty() {
        String::new()
    } else {
        format!(" with {labels}")
    };
    let message = format!(
        "no workload of the namespace {}{whom} has a sidecar, so it is for nobody; correct the labels or the namespace",
        object.key.namespace
    );
    finder.find(
        Code::SidecarSelectsNothing,
        object,
        "spec.workloadSelector",
        message,
    );
}
