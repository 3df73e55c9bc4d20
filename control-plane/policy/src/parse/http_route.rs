//! One rule of a VirtualService: what it does, with which headers, how long. Its matches: `http_match`.

use std::collections::BTreeMap;

use super::http_match;
use crate::{
    HeaderEdits, HeaderOps, HttpAction, HttpRoute, Redirect, RedirectPort, RedirectUri, Rewrite,
    WeightedDestination,
    decode::{
        Decoder, Fields, Item, Shape, authority, check_header_name, check_header_value, dns_label,
        duration, edit_fault, enumeration, filled_list, filled_text, header_name_fault, host,
        integer32, list, map, path, port, text,
    },
    yaml::{Value, quoted},
};

pub(super) const ROUTE: Shape = Shape {
    what: "a rule",
    fields: &[
        "name",
        "match",
        "route",
        "redirect",
        "directResponse",
        "rewrite",
        "timeout",
        "headers",
    ],
    not_yet: &[
        "retries",
        "fault",
        "mirror",
        "mirrors",
        "mirrorPercent",
        "mirror_percent",
        "mirrorPercentage",
        "corsPolicy",
        "delegate",
    ],
};

const ACTIONS: [&str; 3] = ["route", "redirect", "directResponse"];

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<HttpRoute> {
    let fields = Fields::open(d, item, &ROUTE)?;
    let name = fields.optional(d, "name", filled_text);
    let matches = fields
        .optional(d, "match", |d, item| {
            filled_list(d, item, http_match::decode)
        })
        .unwrap_or_default();
    let timeout = fields.optional(d, "timeout", duration);
    let headers = fields
        .optional(d, "headers", header_edits)
        .unwrap_or_default();
    let rewrite = fields.optional(d, "rewrite", rewrite);
    if !fields.has("route") && fields.present(&ACTIONS).len() == 1 {
        // They answer at once: nothing is forwarded that these could act on.
        for name in ["timeout", "rewrite"] {
            fields.refuse_if_present(d, name, "has no effect without \"route\"; remove it");
        }
    }
    Some(HttpRoute {
        position: d.position(item),
        name,
        matches,
        action: action(d, &fields)?,
        // Zero is Istio's way to say "none".
        timeout: timeout.filter(|timeout| !timeout.is_zero()),
        headers,
        rewrite,
        retries: None,
        fault: None,
        mirrors: Vec::new(),
        cors: None,
    })
}

fn action(d: &mut Decoder, fields: &Fields<'_>) -> Option<HttpAction> {
    let one = fields.exactly_one(d, &ACTIONS);
    let route = fields
        .optional(d, "route", destinations)
        .map(HttpAction::Route);
    let redirect = fields
        .optional(d, "redirect", redirect)
        .map(HttpAction::Redirect);
    let direct = fields.optional(d, "directResponse", direct_response);
    if one {
        route.or(redirect).or(direct)
    } else {
        None
    }
}

pub(super) const DESTINATION: Shape = Shape {
    what: "a destination",
    fields: &["host", "subset", "port"],
    not_yet: &[],
};
pub(super) const WEIGHTED: Shape = Shape {
    what: "a route",
    fields: &["destination", "weight", "headers"],
    not_yet: &[],
};
pub(super) const PORT: Shape = Shape {
    what: "a port",
    fields: &["number"],
    not_yet: &[],
};

/// Envoy adds the weights of a route in 32 bits.
const HEAVIEST: u32 = 1_000_000;

fn destinations(d: &mut Decoder, item: Item<'_>) -> Option<Vec<WeightedDestination>> {
    let alone = matches!(&item.node.value, Value::Sequence(nodes) if nodes.len() == 1);
    let found = filled_list(d, item, |d, item| destination(d, item, alone))?;
    let complete = matches!(&item.node.value, Value::Sequence(nodes) if nodes.len() == found.len());
    let sum: u64 = found.iter().map(|each| u64::from(each.weight)).sum();
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

fn destination(d: &mut Decoder, item: Item<'_>, alone: bool) -> Option<WeightedDestination> {
    let fields = Fields::open(d, item, &WEIGHTED)?;
    let weight = if fields.has("weight") {
        fields.optional(d, "weight", |d, item| integer32(d, item, 0..=HEAVIEST))
    } else {
        Some(if alone { 100 } else { 0 })
    };
    let headers = fields
        .optional(d, "headers", header_edits)
        .unwrap_or_default();
    let (host, subset, port) = fields.required(d, "destination", "a host", |d, item| {
        let fields = Fields::open(d, item, &DESTINATION)?;
        let host = fields.required_at(d, "host", "where to send the requests", |d, item| {
            host(d, item, false)
        });
        let subset = fields.optional_at(d, "subset", dns_label);
        let port = fields.optional(d, "port", |d, item| {
            Fields::open(d, item, &PORT)?.required(d, "number", "a port", port)
        });
        Some((host?, subset, port))
    })?;
    Some(WeightedDestination {
        position: d.position(item),
        host,
        subset,
        port,
        weight: weight?,
        headers,
    })
}

pub(super) const HEADERS: Shape = Shape {
    what: "headers",
    fields: &["request", "response"],
    not_yet: &[],
};
pub(super) const OPERATIONS: Shape = Shape {
    what: "header operations",
    fields: &["set", "add", "remove"],
    not_yet: &[],
};

fn header_edits(d: &mut Decoder, item: Item<'_>) -> Option<HeaderEdits> {
    let fields = Fields::open(d, item, &HEADERS)?;
    Some(HeaderEdits {
        request: fields
            .optional(d, "request", header_ops)
            .unwrap_or_default(),
        response: fields
            .optional(d, "response", header_ops)
            .unwrap_or_default(),
    })
}

fn header_ops(d: &mut Decoder, item: Item<'_>) -> Option<HeaderOps> {
    let fields = Fields::open(d, item, &OPERATIONS)?;
    let set = fields.optional(d, "set", header_values).unwrap_or_default();
    let add = fields.optional(d, "add", header_values).unwrap_or_default();
    let remove = fields.optional(d, "remove", |d, item| {
        list(d, item, |d, item| {
            let name = filled_text(d, item)?;
            if let Some(fault) = header_name_fault(&name).or_else(|| edit_fault(&name)) {
                d.refuse(item, fault);
                return None;
            }
            Some(name)
        })
    });
    Some(HeaderOps {
        set,
        add,
        remove: remove.unwrap_or_default(),
    })
}

/// Names keep their letter case: it survives on HTTP/1.1.
fn header_values(d: &mut Decoder, item: Item<'_>) -> Option<BTreeMap<String, String>> {
    let mut lower = BTreeMap::new();
    map(d, item, "header names and values", |d, key, value| {
        if !check_header_name(d, key) {
            return None;
        }
        if let Some(fault) = edit_fault(key.text) {
            key.refuse(d, fault);
            return None;
        }
        if let Some(other) = lower.insert(key.text.to_ascii_lowercase(), key.text.to_owned()) {
            key.refuse(
                d,
                format!("is the same header as {}; keep one", quoted(&other)),
            );
        }
        Some((key.text.to_owned(), check_header_value(d, value)?))
    })
}

pub(super) const REWRITE: Shape = Shape {
    what: "a rewrite",
    fields: &["uri", "authority"],
    not_yet: &["uriRegexRewrite"],
};

fn rewrite(d: &mut Decoder, item: Item<'_>) -> Option<Rewrite> {
    let fields = Fields::open(d, item, &REWRITE)?;
    let rewrite = Rewrite {
        uri: fields.optional(d, "uri", path),
        authority: fields.optional(d, "authority", authority),
        uri_regex: None,
    };
    if fields.present(&["uri", "authority"]).is_empty() {
        d.refuse(item, "changes nothing; want uri, authority or both");
    }
    Some(rewrite)
}

pub(super) const REDIRECT: Shape = Shape {
    what: "a redirect",
    fields: &["uri", "authority", "port", "scheme", "redirectCode"],
    not_yet: &["derivePort"],
};
const REDIRECT_CODES: [u32; 5] = [301, 302, 303, 307, 308];

fn redirect(d: &mut Decoder, item: Item<'_>) -> Option<Redirect> {
    let fields = Fields::open(d, item, &REDIRECT)?;
    if fields
        .present(&["uri", "authority", "port", "scheme"])
        .is_empty()
    {
        d.refuse(
            item,
            "would lead back to the same place; want uri, authority, port or scheme",
        );
    }
    let code = fields.optional(d, "redirectCode", |d, item| {
        let code = integer32(d, item, 300..=399)?;
        if !REDIRECT_CODES.contains(&code) {
            d.refuse(
                item,
                format!("found {code}, want 301, 302, 303, 307 or 308"),
            );
        }
        u16::try_from(code).ok()
    });
    let uri = fields.optional(d, "uri", |d, item| {
        let uri = filled_text(d, item)?;
        if uri.contains("%PREFIX()%") {
            d.refuse(
                item,
                "%PREFIX()% is not supported yet; write the whole path",
            );
            return None;
        }
        path(d, item)
    });
    let words = [("http", "http"), ("https", "https")];
    Some(Redirect {
        uri: uri.map(RedirectUri::Path),
        authority: fields.optional(d, "authority", authority),
        port: fields.optional(d, "port", port).map(RedirectPort::Number),
        scheme: fields
            .optional(d, "scheme", |d, item| {
                enumeration(d, item, "a scheme", &words, &[])
            })
            .map(str::to_owned),
        redirect_code: code.unwrap_or(301),
    })
}

pub(super) const DIRECT_RESPONSE: Shape = Shape {
    what: "a direct response",
    fields: &["status", "body"],
    not_yet: &[],
};
pub(super) const BODY: Shape = Shape {
    what: "a body",
    fields: &["string"],
    not_yet: &["bytes"],
};
/// Envoy's default bound; a longer body makes it refuse the whole configuration.
const LONGEST_BODY: usize = 4_096;

fn direct_response(d: &mut Decoder, item: Item<'_>) -> Option<HttpAction> {
    let fields = Fields::open(d, item, &DIRECT_RESPONSE)?;
    let status = fields.required(d, "status", "a status from 200 to 599", |d, item| {
        integer32(d, item, 200..=599)
    });
    let body = fields.optional(d, "body", |d, item| {
        Fields::open(d, item, &BODY)?.required(d, "string", "the body's text", |d, item| {
            let body = text(d, item)?;
            if body.len() > LONGEST_BODY {
                let message = format!(
                    "has {} bytes, at most {LONGEST_BODY} are allowed",
                    body.len()
                );
                d.refuse(item, message);
            }
            Some(body)
        })
    });
    Some(HttpAction::DirectResponse {
        status: u16::try_from(status?).ok()?,
        body: body.unwrap_or_default().into_bytes(),
    })
}
