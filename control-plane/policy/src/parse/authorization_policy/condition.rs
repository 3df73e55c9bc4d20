//! `when[]`: conditions by key.

use super::{network, port, text, textual, value};
use crate::{
    Attribute, Clause, ClauseValue,
    decode::{Decoder, Fields, Item, Shape, filled_text, header_name_fault},
    parse::selector::some,
    suggest::hint,
    yaml::quoted,
};

pub(in crate::parse) const CONDITION: Shape = Shape {
    what: "a condition",
    fields: &["key", "values", "notValues"],
    not_yet: &[],
};

/// As Istio's reference lists them.
const KEYS: [&str; 14] = [
    "request.headers[name]",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[name]",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.headers",
    "request.auth.claims",
];
/// Of these, the ones to be shown.
const SHOWN: usize = 12;

pub(super) fn decode(d: &mut Decoder, item: Item<'_>, index: usize) -> Option<Clause> {
    let fields = Fields::open(d, item, &CONDITION)?;
    let attribute = fields.required(d, "key", "what is looked at", key)?;
    let read: super::Read<'_> = match attribute {
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => &network,
        Attribute::Port => &port,
        Attribute::SourcePrincipal => &value::principal,
        Attribute::RequestHeader(_) => &text,
        _ => &textual,
    };
    let mut values = |name: &'static str| -> Vec<crate::At<ClauseValue>> {
        let values = fields.optional(d, name, |d, item| some(d, item, read));
        values.unwrap_or_default()
    };
    let (values, not_values) = (values("values"), values("notValues"));
    if !fields.has("values") && !fields.has("notValues") {
        fields.refuse(
            d,
            "values",
            "missing; want one or more values, or notValues",
        );
    }
    Some(Clause {
        attribute,
        path: format!("when[{index}]"),
        values,
        not_values,
    })
}

fn key(d: &mut Decoder, item: Item<'_>) -> Option<Attribute> {
    let found = filled_text(d, item)?;
    let attribute = match found.as_str() {
        "request.auth.principal" => Ok(Attribute::RequestPrincipal),
        "request.auth.audiences" => Ok(Attribute::RequestAudiences),
        "request.auth.presenter" => Ok(Attribute::RequestPresenter),
        "source.ip" => Ok(Attribute::SourceIp),
        "remote.ip" => Ok(Attribute::RemoteIp),
        "source.namespace" => Ok(Attribute::SourceNamespace),
        "source.principal" => Ok(Attribute::SourcePrincipal),
        "destination.ip" => Ok(Attribute::DestinationIp),
        "destination.port" => Ok(Attribute::Port),
        "connection.sni" => Ok(Attribute::ServerName),
        other => with_name(other),
    };
    attribute.map_err(|fault| d.refuse(item, fault)).ok()
}

fn with_name(key: &str) -> Result<Attribute, String> {
    if let Some(rest) = key.strip_prefix("request.headers") {
        return match brackets(rest).as_deref() {
            Some([name]) => match header_name_fault(name) {
                None => Ok(Attribute::RequestHeader(name.to_ascii_lowercase())),
                Some(_) if name.starts_with(':') => Err(format!(
                    "found {}; {} is no header here: write to[].operation, with hosts, methods or paths",
                    quoted(key),
                    quoted(name)
                )),
                Some(fault) => Err(fault),
            },
            _ => Err(format!(
                "found {}, want request.headers[name] with the header's name",
                quoted(key)
            )),
        };
    }
    if let Some(rest) = key.strip_prefix("request.auth.claims") {
        return match brackets(rest) {
            Some(path) if path.len() <= DEEPEST => Ok(Attribute::RequestClaim(path)),
            _ => Err(format!(
                "found {}, want request.auth.claims[name], or [outer][inner] for a claim inside another, at most {DEEPEST} deep",
                quoted(key)
            )),
        };
    }
    if key.starts_with("experimental.envoy.filters.") {
        return Err(format!(
            "the key {} is not supported yet; want one of {}",
            quoted(key),
            shown()
        ));
    }
    Err(format!(
        "found {}, want a key: {}{}",
        quoted(key),
        shown(),
        hint(key, KEYS.iter().copied())
    ))
}

/// Claims inside claims.
const DEEPEST: usize = 8;

fn shown() -> String {
    KEYS.iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ")
}

/// `[a][b]`.
fn brackets(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<String> = inner.split("][").map(str::to_owned).collect();
    let right = |name: &String| !name.is_empty() && !name.contains(['[', ']']);
    names.iter().all(right).then_some(names)
}
