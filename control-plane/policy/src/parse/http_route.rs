//! One rule of a VirtualService: what it does and how long. Its matches, headers, retries, faults, mirrors, answers
//! and CORS each have a file of their own beside this one.

use super::{
    destination::{destination, weight, weighted},
    http_answer::{direct_response, redirect, rewrite},
    http_cors, http_fault, http_headers, http_match, http_mirror, http_retries,
};
use crate::{
    Delegation, ExportTo, HttpAction, HttpRoute, RuleSettings, WeightedDestination,
    decode::{
        Decoder, Fields, Item, Shape, dns_label, duration, filled_list, filled_text, object_name,
    },
};

pub(super) const ROUTE: Shape = Shape {
    what: "a rule",
    fields: &[
        "name",
        "match",
        "route",
        "redirect",
        "directResponse",
        "delegate",
        "rewrite",
        "timeout",
        "retries",
        "fault",
        "mirror",
        "mirrors",
        "mirrorPercentage",
        "mirrorPercent",
        "mirror_percent",
        "corsPolicy",
        "headers",
    ],
    not_yet: &[],
};

const ACTIONS: [&str; 4] = ["route", "redirect", "directResponse", "delegate"];

/// What acts on forwarded requests alone.
const OF_FORWARDING: [&str; 6] = [
    "timeout", "rewrite", "retries", "fault", "mirror", "mirrors",
];

/// A rule that does something itself, or leaves it to another document.
pub(super) enum Rule {
    Own(HttpRoute),
    Delegated(Delegation),
}

/// Reads the rule in the place `index` of its list.
pub(super) fn decode(
    d: &mut Decoder,
    item: Item<'_>,
    export_to: &ExportTo,
    index: usize,
) -> Option<Rule> {
    let fields = Fields::open(d, item, &ROUTE)?;
    let settings = settings(d, &fields);
    if fields.has("redirect") != fields.has("directResponse") && fields.present(&ACTIONS).len() == 1
    {
        // They answer at once: nothing is forwarded that these could act on.
        for name in OF_FORWARDING {
            fields.refuse_if_present(d, name, "has no effect without \"route\"; remove it");
        }
    }
    if let Some(rule) = fields.optional(d, "delegate", |d, item| {
        delegate(d, item, index, settings.clone())
    }) {
        return fields
            .exactly_one(d, &ACTIONS)
            .then_some(Rule::Delegated(rule));
    }
    let action = action(d, &fields)?;
    Some(Rule::Own(settings.doing(action, export_to.clone())))
}

fn settings(d: &mut Decoder, fields: &Fields<'_>) -> RuleSettings {
    RuleSettings {
        position: d.position(fields.item),
        name: fields.optional(d, "name", filled_text),
        matches: fields
            .optional(d, "match", |d, item| {
                filled_list(d, item, http_match::decode)
            })
            .unwrap_or_default(),
        timeout: fields.optional_at(d, "timeout", duration),
        headers: fields
            .optional(d, "headers", http_headers::decode)
            .unwrap_or_default(),
        rewrite: fields.optional(d, "rewrite", rewrite),
        retries: fields.optional_at(d, "retries", http_retries::decode),
        fault: fields.optional_at(d, "fault", http_fault::decode),
        mirrors: http_mirror::of_rule(d, fields),
        cors: fields.optional_at(d, "corsPolicy", http_cors::decode),
    }
}

impl RuleSettings {
    /// The whole rule.
    pub(crate) fn doing(self, action: HttpAction, export_to: ExportTo) -> HttpRoute {
        HttpRoute {
            position: self.position,
            export_to,
            name: self.name,
            matches: self.matches,
            action,
            timeout: self.timeout,
            headers: self.headers,
            rewrite: self.rewrite,
            retries: self.retries,
            fault: self.fault,
            mirrors: self.mirrors,
            cors: self.cors,
        }
    }
}

pub(super) const DELEGATE: Shape = Shape {
    what: "a delegate",
    fields: &["name", "namespace"],
    not_yet: &[],
};

fn delegate(
    d: &mut Decoder,
    item: Item<'_>,
    index: usize,
    settings: RuleSettings,
) -> Option<Delegation> {
    let fields = Fields::open(d, item, &DELEGATE)?;
    let want = "the name of a VirtualService without hosts";
    let name = fields.required_at(d, "name", want, object_name);
    let namespace = fields.optional(d, "namespace", dns_label);
    Some(Delegation {
        index,
        name: name?,
        namespace,
        settings,
    })
}

fn action(d: &mut Decoder, fields: &Fields<'_>) -> Option<HttpAction> {
    let one = fields.exactly_one(d, &ACTIONS);
    let route = fields
        .optional(d, "route", |d, item| {
            weighted(d, item, forward, |to| to.weight)
        })
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

pub(super) const WEIGHTED: Shape = Shape {
    what: "a route",
    fields: &["destination", "weight", "headers"],
    not_yet: &[],
};

fn forward(d: &mut Decoder, item: Item<'_>, alone: bool) -> Option<WeightedDestination> {
    let fields = Fields::open(d, item, &WEIGHTED)?;
    let weight = weight(d, &fields, alone);
    let headers = fields
        .optional(d, "headers", http_headers::decode)
        .unwrap_or_default();
    let (host, subset, port) = fields.required(d, "destination", "a host", destination)?;
    Some(WeightedDestination {
        position: d.position(item),
        host,
        subset,
        port,
        weight: weight?,
        headers,
    })
}
