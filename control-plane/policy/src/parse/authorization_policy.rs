//! `AuthorizationPolicy`: who may do what.
//! Source: Istio `security/v1` AuthorizationPolicy and its validation.

pub(super) mod condition;
mod value;

use self::value::{network, path, port, text, textual};
use super::selector::{selector, some};
use crate::{
    At, Attribute, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Clause,
    ClauseValue,
    decode::{Decoder, Fields, Item, Shape, enumeration, filled_list, filled_text, list},
};

pub(super) const AUTHORIZATION_POLICY: Shape = Shape {
    what: "an AuthorizationPolicy's spec",
    fields: &["selector", "action", "provider", "rules"],
    not_yet: &["targetRef", "targetRefs"],
};
pub(super) const PROVIDER: Shape = Shape {
    what: "a provider",
    fields: &["name"],
    not_yet: &[],
};
pub(super) const RULE: Shape = Shape {
    what: "a rule",
    fields: &["from", "to", "when"],
    not_yet: &[],
};
pub(super) const FROM: Shape = Shape {
    what: "an item of from",
    fields: &["source"],
    not_yet: &[],
};
pub(super) const SOURCE: Shape = Shape {
    what: "a source",
    fields: &[
        "principals",
        "notPrincipals",
        "requestPrincipals",
        "notRequestPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "ipBlocks",
        "notIpBlocks",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
    ],
    not_yet: &[],
};
pub(super) const TO: Shape = Shape {
    what: "an item of to",
    fields: &["operation"],
    not_yet: &[],
};
pub(super) const OPERATION: Shape = Shape {
    what: "an operation",
    fields: &[
        "hosts",
        "notHosts",
        "ports",
        "notPorts",
        "methods",
        "notMethods",
        "paths",
        "notPaths",
    ],
    not_yet: &[],
};

#[derive(Clone, Copy)]
enum Action {
    Allow,
    Deny,
    Audit,
    Custom,
}

pub(super) fn decode(
    d: &mut Decoder,
    item: Item<'_>,
    namespace: &str,
) -> Option<AuthorizationPolicy> {
    let fields = Fields::open(d, item, &AUTHORIZATION_POLICY)?;
    let selector = selector(d, &fields);
    let action = action(d, &fields);
    let rules = fields.optional(d, "rules", |d, item| {
        list(d, item, |d, item| rule(d, item, namespace))
    });
    let rules = rules.unwrap_or_default();
    let action = action?;
    if rules.is_empty() && action != AuthorizationAction::Allow {
        let message = format!(
            "missing; want the rules whose matches are meant: {} without any does nothing, and one rule {{}} matches everything",
            action.as_str()
        );
        fields.refuse(d, "rules", message);
    }
    Some(AuthorizationPolicy {
        selector,
        action,
        rules,
    })
}

fn action(d: &mut Decoder, fields: &Fields<'_>) -> Option<AuthorizationAction> {
    let words = [
        ("ALLOW", Action::Allow),
        ("DENY", Action::Deny),
        ("AUDIT", Action::Audit),
        ("CUSTOM", Action::Custom),
    ];
    let action = if fields.has("action") {
        fields.optional(d, "action", |d, item| {
            enumeration(d, item, "an action", &words, &[])
        })?
    } else {
        Action::Allow
    };
    let action = match action {
        Action::Custom => {
            let want = "the provider that is asked";
            let name = fields.required(d, "provider", want, |d, item| {
                let provider = Fields::open(d, item, &PROVIDER)?;
                provider.required_at(d, "name", "the provider's name", filled_text)
            })?;
            return Some(AuthorizationAction::Custom(name));
        }
        Action::Allow => AuthorizationAction::Allow,
        Action::Deny => AuthorizationAction::Deny,
        Action::Audit => AuthorizationAction::Audit,
    };
    let message = "has no effect without action: CUSTOM; add that, or remove the provider";
    fields.refuse_if_present(d, "provider", message);
    Some(action)
}

fn rule(d: &mut Decoder, item: Item<'_>, namespace: &str) -> Option<AuthorizationRule> {
    let fields = Fields::open(d, item, &RULE)?;
    let from = fields.optional(d, "from", |d, item| {
        numbered(d, item, |d, item, index| {
            let path = format!("from[{index}].source");
            let from = Fields::open(d, item, &FROM)?;
            let want = "who may be the caller";
            from.required(d, "source", want, |d, item| {
                source(d, item, &path, namespace)
            })
        })
    });
    let to = fields.optional(d, "to", |d, item| {
        numbered(d, item, |d, item, index| {
            let path = format!("to[{index}].operation");
            let to = Fields::open(d, item, &TO)?;
            let want = "what may be asked";
            to.required(d, "operation", want, |d, item| operation(d, item, &path))
        })
    });
    let when = fields.optional(d, "when", |d, item| numbered(d, item, condition::decode));
    Some(AuthorizationRule {
        position: d.position(item),
        from: from.unwrap_or_default(),
        to: to.unwrap_or_default(),
        when: when.unwrap_or_default(),
    })
}

/// A list with at least one item, each decoded with its place in it.
fn numbered<T>(
    d: &mut Decoder,
    item: Item<'_>,
    decode: impl Fn(&mut Decoder, Item<'_>, usize) -> Option<T>,
) -> Option<Vec<T>> {
    let mut index = 0;
    filled_list(d, item, |d, item| {
        index += 1;
        decode(d, item, index - 1)
    })
}

/// How one value of a field is read.
type Read<'r> = &'r dyn Fn(&mut Decoder, Item<'_>) -> Option<ClauseValue>;

fn source(d: &mut Decoder, item: Item<'_>, path: &str, namespace: &str) -> Option<Vec<Clause>> {
    let fields = Fields::open(d, item, &SOURCE)?;
    let account = |d: &mut Decoder, item: Item<'_>| value::account(d, item, namespace);
    let parts: [(Attribute, [&'static str; 2], Read<'_>); 6] = [
        (
            Attribute::SourcePrincipal,
            ["principals", "notPrincipals"],
            &value::principal,
        ),
        (
            Attribute::RequestPrincipal,
            ["requestPrincipals", "notRequestPrincipals"],
            &textual,
        ),
        (
            Attribute::SourceNamespace,
            ["namespaces", "notNamespaces"],
            &textual,
        ),
        (
            Attribute::SourceServiceAccount,
            ["serviceAccounts", "notServiceAccounts"],
            &account,
        ),
        (Attribute::SourceIp, ["ipBlocks", "notIpBlocks"], &network),
        (
            Attribute::RemoteIp,
            ["remoteIpBlocks", "notRemoteIpBlocks"],
            &network,
        ),
    ];
    for accounts in ["serviceAccounts", "notServiceAccounts"] {
        let beside = ["principals", "notPrincipals", "namespaces", "notNamespaces"];
        if let ([beside, ..], true) = (fields.present(&beside).as_slice(), fields.has(accounts)) {
            let message = format!(
                "found beside {beside}; only one of them can be: a service account says the namespace and the principal"
            );
            fields.refuse(d, accounts, message);
        }
    }
    clauses(d, item, &fields, path, &parts)
}

fn operation(d: &mut Decoder, item: Item<'_>, place: &str) -> Option<Vec<Clause>> {
    let fields = Fields::open(d, item, &OPERATION)?;
    let parts: [(Attribute, [&'static str; 2], Read<'_>); 4] = [
        (Attribute::Host, ["hosts", "notHosts"], &textual),
        (Attribute::Method, ["methods", "notMethods"], &textual),
        (Attribute::Path, ["paths", "notPaths"], &path),
        (Attribute::Port, ["ports", "notPorts"], &port),
    ];
    clauses(d, item, &fields, place, &parts)
}

fn clauses(
    d: &mut Decoder,
    item: Item<'_>,
    fields: &Fields<'_>,
    path: &str,
    parts: &[(Attribute, [&'static str; 2], Read<'_>)],
) -> Option<Vec<Clause>> {
    let mut clauses = Vec::new();
    let mut written = false;
    for (attribute, [name, not], read) in parts {
        let mut values = |name: &'static str| -> Vec<At<ClauseValue>> {
            written |= fields.has(name);
            let values = fields.optional(d, name, |d, item| some(d, item, read));
            values.unwrap_or_default()
        };
        let (values, not_values) = (values(name), values(not));
        if values.is_empty() && not_values.is_empty() {
            continue;
        }
        let name = if values.is_empty() { not } else { name };
        clauses.push(Clause {
            attribute: attribute.clone(),
            path: format!("{path}.{name}"),
            values,
            not_values,
        });
    }
    if !written {
        let message = "found nothing in it, which would match everything; want one or more of its fields, or remove the whole list";
        d.refuse(item, message);
        return None;
    }
    Some(clauses)
}
