//! `VirtualService`: its hosts and its lists of rules. A rule is read in `http_route` or `layer4`.
//! Source: Istio `networking/v1` VirtualService.

use super::{
    http_route::{self, Rule},
    layer4,
    visibility::{export_to, mesh_only},
};
use crate::{
    At, Delegation, ExportTo, HttpRoute, VirtualService,
    decode::{Decoder, Fields, Item, Shape, at, filled_list, host, list, refuse_twice, text},
    yaml::quoted,
};

pub(super) const VIRTUAL_SERVICE: Shape = Shape {
    what: "a VirtualService's spec",
    fields: &["hosts", "http", "tls", "tcp", "gateways", "exportTo"],
    not_yet: &[],
};

const RULES: [&str; 3] = ["http", "tls", "tcp"];

/// Reads the spec of a document in `namespace`.
pub(super) fn decode(d: &mut Decoder, item: Item<'_>, namespace: &str) -> Option<VirtualService> {
    let fields = Fields::open(d, item, &VIRTUAL_SERVICE)?;
    let hosts = fields.optional(d, "hosts", |d, item| {
        filled_list(d, item, |d, item| {
            at(d, item, |d, item| host(d, item, true))
        })
    });
    if let Some(hosts) = &hosts {
        let name = |host: &At<String>| (host.value.clone(), host.position.clone());
        refuse_twice(
            d,
            &fields,
            ("hosts", ""),
            hosts,
            name,
            "name each host once",
        );
    }
    fields.optional(d, "gateways", mesh_only);
    let export_to = fields
        .optional(d, "exportTo", |d, item| export_to(d, item, namespace))
        .unwrap_or_default();
    if fields.present(&RULES).is_empty() {
        let message = "missing; want a list of rules, here or under tls or tcp";
        fields.refuse(d, "http", message);
    }
    let (mut http, delegations) = fields
        .optional(d, "http", |d, item| http(d, item, &export_to))
        .unwrap_or_default();
    if fields.has("hosts") {
        // Zero is Istio's way to say "none". In a delegate it still has to undo the other's.
        for rule in &mut http {
            rule.timeout = rule
                .timeout
                .take()
                .filter(|timeout| !timeout.value.is_zero());
        }
    } else {
        refuse_in_a_delegate(d, &fields, &delegations);
    }
    let hosts = hosts.unwrap_or_default();
    Some(VirtualService {
        http,
        delegations,
        tls: fields
            .optional(d, "tls", |d, item| {
                filled_list(d, item, |d, item| layer4::tls(d, item, &hosts))
            })
            .unwrap_or_default(),
        tcp: fields
            .optional(d, "tcp", |d, item| filled_list(d, item, layer4::tcp))
            .unwrap_or_default(),
        hosts,
        export_to,
    })
}

fn http(
    d: &mut Decoder,
    item: Item<'_>,
    export_to: &ExportTo,
) -> Option<(Vec<HttpRoute>, Vec<Delegation>)> {
    let (mut rules, mut delegations, mut index) = (Vec::new(), Vec::new(), 0);
    filled_list(d, item, |d, item| {
        let rule = http_route::decode(d, item, export_to, index);
        index += 1;
        match rule? {
            Rule::Own(rule) => rules.push(rule),
            Rule::Delegated(rule) => delegations.push(rule),
        }
        Some(())
    })?;
    Some((rules, delegations))
}

/// Without hosts it is what others delegate to: HTTP rules, and no further level.
fn refuse_in_a_delegate(d: &mut Decoder, fields: &Fields<'_>, delegations: &[Delegation]) {
    for name in ["tls", "tcp"] {
        let message =
            "has no effect without hosts: only http rules can be delegated; name the hosts";
        fields.refuse_if_present(d, name, message);
    }
    for rule in delegations {
        let message = "a document without hosts is a delegate itself, and delegates no further; name the hosts, or \
                       the destination";
        let path = format!("spec.http[{}].delegate", rule.index);
        d.report.error_at(rule.name.position.clone(), path, message);
    }
}

/// `exportTo` where nothing else is effective yet: everywhere, which is also what an absent list means.
pub(super) fn everywhere(d: &mut Decoder, item: Item<'_>) -> Option<()> {
    list(d, item, |d, item| {
        let namespace = text(d, item)?;
        if namespace != "*" {
            let message = format!(
                "{} is not supported yet; want \"*\", or no exportTo",
                quoted(&namespace)
            );
            d.refuse(item, message);
        }
        Some(())
    })
    .map(|_| ())
}
