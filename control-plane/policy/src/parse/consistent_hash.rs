//! `consistentHash`: what is hashed, and how.
//! Source: Istio `networking/v1` DestinationRule; bounds of the rings from Envoy.

use crate::{
    Balancer, HashAlgorithm, HashKey,
    decode::{Decoder, Fields, Item, Shape, boolean, duration, filled_text, integer, list, text},
    yaml::quoted,
};

pub(super) const CONSISTENT_HASH: Shape = Shape {
    what: "a consistent hash",
    fields: &[
        "httpHeaderName",
        "httpCookie",
        "useSourceIp",
        "httpQueryParameterName",
        "ringHash",
        "maglev",
        "minimumRingSize",
    ],
    not_yet: &[],
};
const HASH_KEYS: [&str; 4] = [
    "httpHeaderName",
    "httpCookie",
    "useSourceIp",
    "httpQueryParameterName",
];
const ALGORITHMS: [&str; 3] = ["ringHash", "maglev", "minimumRingSize"];
pub(super) const RING: Shape = Shape {
    what: "a ring hash",
    fields: &["minimumRingSize"],
    not_yet: &[],
};
pub(super) const MAGLEV: Shape = Shape {
    what: "a Maglev hash",
    fields: &["tableSize"],
    not_yet: &[],
};

const SMALLEST_RING: u64 = 1_024; // Istio's default
const LARGEST_RING: u64 = 8_388_608; // Envoy's bound
const TABLE_SIZE: u64 = 65_537; // Envoy's default
const LARGEST_TABLE: u64 = 5_000_011; // Envoy's bound

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<Balancer> {
    let fields = Fields::open(d, item, &CONSISTENT_HASH)?;
    let one_key = fields.exactly_one(d, &HASH_KEYS);
    let header = fields.optional(d, "httpHeaderName", |d, item| {
        let name = filled_text(d, item)?;
        if let Some(fault) = crate::decode::header_name_fault(&name) {
            d.refuse(item, fault);
        }
        Some(HashKey::Header(name))
    });
    let cookie = fields.optional(d, "httpCookie", cookie);
    let source = fields.optional(d, "useSourceIp", |d, item| {
        if boolean(d, item)? {
            return Some(HashKey::SourceIp);
        }
        d.refuse(
            item,
            "found false; want true, or one of the other keys instead",
        );
        None
    });
    let parameter = fields
        .optional(d, "httpQueryParameterName", filled_text)
        .map(HashKey::QueryParameter);
    if fields.present(&ALGORITHMS).len() > 1 {
        fields.exactly_one(d, &ALGORITHMS);
    }
    let algorithm = algorithm(d, &fields);
    let key = header.or(cookie).or(source).or(parameter)?;
    one_key.then_some(Balancer::ConsistentHash { key, algorithm })
}

fn algorithm(d: &mut Decoder, fields: &Fields<'_>) -> HashAlgorithm {
    let size = |d: &mut Decoder, item: Item<'_>| integer(d, item, 1..=LARGEST_RING);
    let ring = fields.optional(d, "ringHash", |d, item| {
        Fields::open(d, item, &RING)?.optional(d, "minimumRingSize", size)
    });
    let old = fields.optional(d, "minimumRingSize", size);
    let table = fields.optional(d, "maglev", |d, item| {
        Fields::open(d, item, &MAGLEV)?.optional(d, "tableSize", |d, item| {
            let size = integer(d, item, 2..=LARGEST_TABLE)?;
            if !is_prime(size) {
                d.refuse(
                    item,
                    format!("found {size}, want a prime number such as {TABLE_SIZE}"),
                );
            }
            Some(size)
        })
    });
    if fields.has("maglev") {
        return HashAlgorithm::Maglev {
            table_size: table.unwrap_or(TABLE_SIZE),
        };
    }
    HashAlgorithm::RingHash {
        minimum_ring_size: ring.or(old).unwrap_or(SMALLEST_RING),
    }
}

fn is_prime(n: u64) -> bool {
    n >= 2
        && (2..)
            .take_while(|i| i * i <= n)
            .all(|i| !n.is_multiple_of(i))
}

pub(super) const COOKIE: Shape = Shape {
    what: "a cookie",
    fields: &["name", "path", "ttl", "attributes"],
    not_yet: &[],
};
pub(super) const ATTRIBUTE: Shape = Shape {
    what: "a cookie's attribute",
    fields: &["name", "value"],
    not_yet: &[],
};
/// Fields of their own say them.
const OWN_ATTRIBUTES: [&str; 3] = ["path", "max-age", "expires"];

fn cookie(d: &mut Decoder, item: Item<'_>) -> Option<HashKey> {
    let fields = Fields::open(d, item, &COOKIE)?;
    let name = fields.required(d, "name", "the cookie's name", |d, item| {
        let name = filled_text(d, item)?;
        if let Some(fault) = crate::decode::header_name_fault(&name) {
            d.refuse(item, fault.replace("header name", "cookie name"));
        }
        Some(name)
    });
    let path = fields.optional(d, "path", |d, item| {
        let path = text(d, item)?;
        if path.contains(|c: char| c.is_control() || c == ';') {
            d.refuse(
                item,
                format!("found {}; a cookie's path has no semicolon", quoted(&path)),
            );
        }
        Some(path)
    });
    Some(HashKey::Cookie {
        path: path.unwrap_or_default(),
        ttl: fields.optional(d, "ttl", duration),
        attributes: attributes(d, &fields),
        name: name?,
    })
}

fn attributes(d: &mut Decoder, cookie: &Fields<'_>) -> Vec<(String, String)> {
    let found = cookie.optional(d, "attributes", |d, item| list(d, item, attribute));
    if !cookie.has("ttl") {
        let message =
            "has no effect without ttl: the cookie is never set by us; add one, 0s for the session";
        cookie.refuse_if_present(d, "attributes", message);
    }
    found.unwrap_or_default()
}

/// `SameSite` and `Lax`, or `Secure` alone.
fn attribute(d: &mut Decoder, item: Item<'_>) -> Option<(String, String)> {
    let fields = Fields::open(d, item, &ATTRIBUTE)?;
    let name = fields.required(d, "name", "the attribute's name", |d, item| {
        let name = filled_text(d, item)?;
        if let Some(fault) = crate::decode::header_name_fault(&name) {
            d.refuse(item, fault.replace("header name", "attribute name"));
        }
        if OWN_ATTRIBUTES.contains(&name.to_ascii_lowercase().as_str()) {
            let message = format!("{} is said by path and ttl of the cookie", quoted(&name));
            d.refuse(item, message);
        }
        Some(name)
    });
    let value = fields.optional(d, "value", |d, item| {
        let value = text(d, item)?;
        if value.contains(|c: char| c.is_control() || c == ';') {
            let message = format!("found {}; an attribute has no semicolon", quoted(&value));
            d.refuse(item, message);
        }
        Some(value)
    });
    Some((name?, value.unwrap_or_default()))
}
