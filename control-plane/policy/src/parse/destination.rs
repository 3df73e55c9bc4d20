//! `destination` and `weight`: where requests and connections go, in `http`, `tls` and `tcp` rules and in mirrors.

use crate::{
    At, RouteDestination,
    decode::{
        Decoder, Fields, Item, Shape, filled_list, host, integer32, port as port_number,
        subset_name,
    },
    yaml::Value,
};

pub(super) const DESTINATION: Shape = Shape {
    what: "a destination",
    fields: &["host", "subset", "port"],
    not_yet: &[],
};
pub(super) const PORT: Shape = Shape {
    what: "a port",
    fields: &["number"],
    not_yet: &[],
};
/// Of a `tls` or `tcp` rule.
pub(super) const WEIGHTED: Shape = Shape {
    what: "a route",
    fields: &["destination", "weight"],
    not_yet: &[],
};

/// Envoy adds the weights of a route in 32 bits.
const HEAVIEST: u32 = 1_000_000;

/// Host, subset and port.
pub(super) type Destination = (At<String>, Option<At<String>>, Option<u16>);

pub(super) fn destination(d: &mut Decoder, item: Item<'_>) -> Option<Destination> {
    let fields = Fields::open(d, item, &DESTINATION)?;
    let host = fields.required_at(d, "host", "where to send the requests", |d, item| {
        host(d, item, false)
    });
    let subset = fields.optional_at(d, "subset", subset_name);
    let port = fields.optional(d, "port", port);
    Some((host?, subset, port))
}

/// `port: {number: 80}`.
pub(super) fn port(d: &mut Decoder, item: Item<'_>) -> Option<u16> {
    Fields::open(d, item, &PORT)?.required(d, "number", "a port", port_number)
}

/// `weight`; 100 for one alone that has none, or 0, which to Istio is none; else 0.
pub(super) fn weight(d: &mut Decoder, fields: &Fields<'_>, alone: bool) -> Option<u32> {
    let whole = if alone { 100 } else { 0 };
    if !fields.has("weight") {
        return Some(whole);
    }
    let written = fields.optional(d, "weight", |d, item| integer32(d, item, 0..=HEAVIEST))?;
    Some(if written == 0 { whole } else { written })
}

/// A list of destinations whose weights make sense together. `decode` also gets whether there is only one.
pub(super) fn weighted<T>(
    d: &mut Decoder,
    item: Item<'_>,
    decode: impl Fn(&mut Decoder, Item<'_>, bool) -> Option<T>,
    weight: impl Fn(&T) -> u32,
) -> Option<Vec<T>> {
    let alone = matches!(&item.node.value, Value::Sequence(nodes) if nodes.len() == 1);
    let found = filled_list(d, item, |d, item| decode(d, item, alone))?;
    let complete = matches!(&item.node.value, Value::Sequence(nodes) if nodes.len() == found.len());
    let sum: u64 = found.iter().map(|each| u64::from(weight(each))).sum();
    if complete && sum == 0 {
        d.refuse(
            item,
            "the weights sum to 0, so no request could go anywhere; give one a weight above 0",
        );
    }
    if sum > u64::from(u32::MAX) {
        d.refuse(
            item,
            format!("the weights sum to {sum}; at most {} are allowed", u32::MAX),
        );
    }
    Some(found)
}

/// `route` of a `tls` or `tcp` rule.
pub(super) fn of_connections(d: &mut Decoder, item: Item<'_>) -> Option<Vec<RouteDestination>> {
    weighted(d, item, of_connection, |to| to.weight)
}

fn of_connection(d: &mut Decoder, item: Item<'_>, alone: bool) -> Option<RouteDestination> {
    let fields = Fields::open(d, item, &WEIGHTED)?;
    let weight = weight(d, &fields, alone);
    let (host, subset, port) = fields.required(d, "destination", "a host", destination)?;
    Some(RouteDestination {
        position: d.position(item),
        host,
        subset,
        port,
        weight: weight?,
    })
}
