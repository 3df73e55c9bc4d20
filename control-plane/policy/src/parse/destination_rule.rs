//! `DestinationRule`: for which host and clients, its subsets, and its policy, of which each part has a file of its own.
//! Source: Istio `networking/v1` DestinationRule.

use std::collections::BTreeMap;

use super::{
    client_tls, connection_pool, destination::port, load_balancer, outlier_detection,
    visibility::export_to,
};
use crate::{
    DestinationRule, ExportTo, PortPolicy, ProxyProtocol, RetryBudget, Subset, TrafficPolicy,
    decode::{
        Decoder, Fields, Item, Shape, enumeration, host, integer32, label_map, list, number,
        refuse_twice, subset_name,
    },
};

pub(super) const DESTINATION_RULE: Shape = Shape {
    what: "a DestinationRule's spec",
    fields: &[
        "host",
        "trafficPolicy",
        "subsets",
        "exportTo",
        "workloadSelector",
    ],
    not_yet: &[],
};
pub(super) const SUBSET: Shape = Shape {
    what: "a subset",
    fields: &["name", "labels", "trafficPolicy"],
    not_yet: &[],
};
/// Other kinds call it `labels`.
pub(super) const SELECTOR: Shape = Shape {
    what: "a DestinationRule's workload selector",
    fields: &["matchLabels"],
    not_yet: &[],
};

/// Reads the spec of a document in `namespace`.
pub(super) fn decode(d: &mut Decoder, item: Item<'_>, namespace: &str) -> Option<DestinationRule> {
    let fields = Fields::open(d, item, &DESTINATION_RULE)?;
    let export_to = fields
        .optional(d, "exportTo", |d, item| export_to(d, item, namespace))
        .unwrap_or_default();
    let workload_selector = fields.optional_at(d, "workloadSelector", selector);
    if workload_selector.is_some()
        && matches!(&export_to, ExportTo::Only(names) if !names.contains(namespace))
    {
        let message = "has no effect: it selects workloads of the document's own namespace, and exportTo leaves \
                       that out; add \".\" to it";
        fields.refuse(d, "workloadSelector", message);
    }
    let host = fields.required_at(d, "host", "the host that the rule is for", |d, item| {
        host(d, item, true)
    });
    let traffic_policy = fields
        .optional(d, "trafficPolicy", traffic_policy)
        .unwrap_or_default();
    let subsets = fields
        .optional(d, "subsets", |d, item| list(d, item, subset))
        .unwrap_or_default();
    let name = |subset: &Subset| (subset.name.value.clone(), subset.name.position.clone());
    let advice = "name each subset once";
    refuse_twice(d, &fields, ("subsets", ".name"), &subsets, name, advice);
    Some(DestinationRule {
        host: host?,
        traffic_policy,
        subsets,
        export_to,
        workload_selector,
    })
}

fn selector(d: &mut Decoder, item: Item<'_>) -> Option<BTreeMap<String, String>> {
    let selector = Fields::open(d, item, &SELECTOR)?;
    let labels = selector.required(d, "matchLabels", "labels to select by", label_map)?;
    if labels.is_empty() {
        let message = "found none, which would select everything; name one";
        selector.refuse(d, "matchLabels", message);
    }
    Some(labels)
}

fn subset(d: &mut Decoder, item: Item<'_>) -> Option<Subset> {
    let fields = Fields::open(d, item, &SUBSET)?;
    let name = fields.required_at(d, "name", "the subset's name", subset_name);
    Some(Subset {
        labels: fields.optional(d, "labels", label_map).unwrap_or_default(),
        traffic_policy: fields
            .optional(d, "trafficPolicy", traffic_policy)
            .unwrap_or_default(),
        name: name?,
    })
}

pub(super) const TRAFFIC_POLICY: Shape = Shape {
    what: "a traffic policy",
    fields: &[
        "loadBalancer",
        "connectionPool",
        "outlierDetection",
        "tls",
        "retryBudget",
        "proxyProtocol",
        "portLevelSettings",
    ],
    not_yet: &["tunnel"],
};

fn traffic_policy(d: &mut Decoder, item: Item<'_>) -> Option<TrafficPolicy> {
    let fields = Fields::open(d, item, &TRAFFIC_POLICY)?;
    let ports = fields.optional(d, "portLevelSettings", |d, item| {
        list(d, item, |d, item| {
            Some((of_port(d, item)?, d.position(item)))
        })
    });
    let ports = ports.unwrap_or_default();
    let number = |((port, _), position): &((u16, TrafficPolicy), _)| {
        (port.to_string(), crate::Position::clone(position))
    };
    let place = ("portLevelSettings", ".port.number");
    refuse_twice(d, &fields, place, &ports, number, "put both together");
    Some(TrafficPolicy {
        retry_budget: fields.optional_at(d, "retryBudget", retry_budget),
        proxy_protocol: fields.optional_at(d, "proxyProtocol", proxy_protocol),
        ports: ports
            .into_iter()
            .enumerate()
            .map(|(index, ((port, policy), _))| (port, PortPolicy { index, policy }))
            .collect(),
        ..parts(d, &fields)
    })
}

/// What the whole policy and one port's have.
fn parts(d: &mut Decoder, fields: &Fields<'_>) -> TrafficPolicy {
    TrafficPolicy {
        load_balancer: fields.optional_at(d, "loadBalancer", load_balancer::decode),
        connection_pool: fields.optional_at(d, "connectionPool", connection_pool::decode),
        outlier_detection: fields.optional_at(d, "outlierDetection", outlier_detection::decode),
        tls: fields.optional_at(d, "tls", client_tls::decode),
        ..TrafficPolicy::default()
    }
}

pub(super) const PORT_LEVEL: Shape = Shape {
    what: "a setting of a port",
    fields: &[
        "port",
        "loadBalancer",
        "connectionPool",
        "outlierDetection",
        "tls",
    ],
    not_yet: &[],
};

fn of_port(d: &mut Decoder, item: Item<'_>) -> Option<(u16, TrafficPolicy)> {
    let fields = Fields::open(d, item, &PORT_LEVEL)?;
    let number = fields.required(d, "port", "the port, as {number: 80}", port);
    let policy = parts(d, &fields);
    Some((number?, policy))
}

pub(super) const RETRY_BUDGET: Shape = Shape {
    what: "a retry budget",
    fields: &["percent", "minRetryConcurrency"],
    not_yet: &[],
};

pub(super) const PROXY_PROTOCOL: Shape = Shape {
    what: "a PROXY protocol setting",
    fields: &["version"],
    not_yet: &[],
};

/// V1 where it is not said, as Istio.
fn proxy_protocol(d: &mut Decoder, item: Item<'_>) -> Option<ProxyProtocol> {
    let fields = Fields::open(d, item, &PROXY_PROTOCOL)?;
    let words = [("V1", ProxyProtocol::V1), ("V2", ProxyProtocol::V2)];
    let version = fields.optional(d, "version", |d, item| {
        enumeration(d, item, "a version", &words, &[])
    });
    Some(version.unwrap_or(ProxyProtocol::V1))
}

/// Defaults as Envoy's.
fn retry_budget(d: &mut Decoder, item: Item<'_>) -> Option<RetryBudget> {
    let fields = Fields::open(d, item, &RETRY_BUDGET)?;
    let percent = fields.optional(d, "percent", |d, item| number(d, item, 0.0..=100.0));
    let least = fields.optional(d, "minRetryConcurrency", |d, item| {
        integer32(d, item, 0..=i32::MAX.unsigned_abs())
    });
    Some(RetryBudget {
        percent: percent.unwrap_or(20.0),
        min_retry_concurrency: least.unwrap_or(3),
    })
}
