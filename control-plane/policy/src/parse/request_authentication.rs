//! `RequestAuthentication`: whose tokens are verified, and what becomes of them.
//! Source: Istio `security/v1` RequestAuthentication, JWTRule, and their validation.

use std::time::Duration;

use super::{key_set, selector::selector};
use crate::{
    At, JwksUrl, JwtKeys, JwtRule, RequestAuthentication,
    decode::{
        Decoder, Fields, Item, Shape, at, boolean, dns_fault, filled_list, filled_text,
        header_name_fault, list, positive_duration, refuse_twice, text,
    },
    yaml::quoted,
};

pub(super) const REQUEST_AUTHENTICATION: Shape = Shape {
    what: "a RequestAuthentication's spec",
    fields: &["selector", "jwtRules"],
    not_yet: &["targetRef", "targetRefs"],
};
pub(super) const JWT_RULE: Shape = Shape {
    what: "a JWT rule",
    fields: &[
        "issuer",
        "audiences",
        "jwksUri",
        "jwks_uri",
        "jwks",
        "fromHeaders",
        "fromParams",
        "fromCookies",
        "outputPayloadToHeader",
        "outputClaimToHeaders",
        "forwardOriginalToken",
        "timeout",
        "spaceDelimitedClaims",
    ],
    not_yet: &[],
};
pub(super) const FROM_HEADER: Shape = Shape {
    what: "a header with a token",
    fields: &["name", "prefix"],
    not_yet: &[],
};
pub(super) const CLAIM_TO_HEADER: Shape = Shape {
    what: "a claim in a header",
    fields: &["header", "claim"],
    not_yet: &[],
};

/// Istio's default.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of which every sidecar of the workloads is sent a copy.
const MAX_JWKS: usize = 64 << 10;

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<RequestAuthentication> {
    let fields = Fields::open(d, item, &REQUEST_AUTHENTICATION)?;
    let selector = selector(d, &fields);
    let want = "a list of issuers and their keys; without one the document does nothing";
    let rules = fields.required(d, "jwtRules", want, |d, item| filled_list(d, item, rule))?;
    refuse_twice(
        d,
        &fields,
        ("jwtRules", ".issuer"),
        &rules,
        |rule| (rule.issuer.value.clone(), rule.issuer.position.clone()),
        "put both rules together",
    );
    Some(RequestAuthentication { selector, rules })
}

fn rule(d: &mut Decoder, item: Item<'_>) -> Option<JwtRule> {
    let fields = Fields::open(d, item, &JWT_RULE)?;
    let want = "who issues the tokens: what their iss says";
    let issuer = fields.required_at(d, "issuer", want, filled_text);
    let texts = |d: &mut Decoder, name| {
        let found = fields.optional(d, name, |d, item| list(d, item, filled_text));
        found.unwrap_or_default()
    };
    let from_headers = fields.optional(d, "fromHeaders", |d, item| list(d, item, from_header));
    let claims = fields.optional(d, "outputClaimToHeaders", |d, item| {
        list(d, item, |d, item| at(d, item, claim_to_header))
    });
    let claims = claims.unwrap_or_default();
    let header =
        |one: &At<(String, String)>| (one.value.0.to_ascii_lowercase(), one.position.clone());
    let advice = "give each claim a header of its own";
    refuse_twice(
        d,
        &fields,
        ("outputClaimToHeaders", ".header"),
        &claims,
        header,
        advice,
    );
    Some(JwtRule {
        position: d.position(item),
        audiences: texts(d, "audiences"),
        from_headers: from_headers.unwrap_or_default(),
        from_params: texts(d, "fromParams"),
        from_cookies: texts(d, "fromCookies"),
        payload_header: fields.optional(d, "outputPayloadToHeader", written_header),
        claim_headers: claims.into_iter().map(|one| one.value).collect(),
        forward: fields
            .optional(d, "forwardOriginalToken", boolean)
            .unwrap_or(false),
        timeout: fields
            .optional(d, "timeout", positive_duration)
            .unwrap_or(TIMEOUT),
        space_delimited: texts(d, "spaceDelimitedClaims"),
        keys: keys(d, &fields)?,
        issuer: issuer?,
    })
}

fn keys(d: &mut Decoder, fields: &Fields<'_>) -> Option<JwtKeys> {
    // Istio would look them up by the issuer.
    if !fields.exactly_one(d, &["jwksUri", "jwks_uri", "jwks"]) {
        return None;
    }
    let url = ["jwksUri", "jwks_uri"]
        .into_iter()
        .find(|name| fields.has(name));
    match url {
        Some(name) => fields.optional_at(d, name, url_of_keys).map(JwtKeys::Url),
        None => fields.optional_at(d, "jwks", inline).map(JwtKeys::Inline),
    }
}

fn inline(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let text = filled_text(d, item)?;
    if text.len() > MAX_JWKS {
        let message = format!(
            "found {} bytes, want at most {MAX_JWKS}; use jwksUri",
            text.len()
        );
        d.refuse(item, message);
        return None;
    }
    if let Some(fault) = key_set::fault(&text) {
        d.refuse(item, fault);
        return None;
    }
    Some(text)
}

fn url_of_keys(d: &mut Decoder, item: Item<'_>) -> Option<JwksUrl> {
    let text = filled_text(d, item)?;
    match url(&text) {
        Ok(found) => Some(found),
        Err(fault) => {
            d.refuse(item, format!("found {}: {fault}", quoted(&text)));
            None
        }
    }
}

fn url(text: &str) -> Result<JwksUrl, String> {
    let (https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err("want a URL that begins with https:// or http://".to_owned()),
    };
    if text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return Err("a URL has no spaces and no letters beyond ASCII".to_owned());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.contains('#') {
        return Err("a server is not told what stands behind #; remove it".to_owned());
    }
    if authority.contains('@') {
        return Err("a name and password in a URL are read by everybody; remove them".to_owned());
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => {
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            (host, port.ok_or("want a port from 1 to 65535")?)
        }
        None => (authority, if https { 443 } else { 80 }),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[') {
        return Err("want the name of a service, or of a ServiceEntry, not an address".to_owned());
    }
    if let Some(fault) = dns_fault(host) {
        return Err(fault);
    }
    Ok(JwksUrl {
        text: text.to_owned(),
        https,
        host: host.to_ascii_lowercase(),
        port,
    })
}

fn from_header(d: &mut Decoder, item: Item<'_>) -> Option<(String, String)> {
    let fields = Fields::open(d, item, &FROM_HEADER)?;
    let name = fields.required(d, "name", "the header's name", header_name);
    let prefix = fields.optional(d, "prefix", |d, item| {
        let prefix = text(d, item)?;
        if prefix.chars().any(char::is_control) {
            d.refuse(
                item,
                "a header's value has no line break or control character",
            );
            return None;
        }
        Some(prefix)
    });
    Some((name?, prefix.unwrap_or_default()))
}

fn claim_to_header(d: &mut Decoder, item: Item<'_>) -> Option<(String, String)> {
    let fields = Fields::open(d, item, &CLAIM_TO_HEADER)?;
    let header = fields.required(d, "header", "the header's name", written_header);
    let claim = fields.required(
        d,
        "claim",
        "the claim's name, such as sub or a.b",
        filled_text,
    );
    header.zip(claim)
}

fn header_name(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let name = filled_text(d, item)?;
    if let Some(fault) = header_name_fault(&name) {
        d.refuse(item, fault);
        return None;
    }
    Some(name)
}

/// One that the sidecar may write: others belong to the connection, or say who calls.
fn written_header(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let name = header_name(d, item)?;
    let fault = crate::decode::edit_fault(&name).or_else(|| {
        let is_ours = OF_THE_SIDECAR
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own));
        is_ours.then(|| format!("{} is written by the sidecar itself", quoted(&name)))
    });
    if let Some(fault) = fault {
        d.refuse(item, fault);
        return None;
    }
    Some(name)
}

const OF_THE_SIDECAR: [&str; 4] = [
    "x-forwarded-client-cert",
    "x-outrigger-unsent",
    "x-outrigger-reason",
    "x-outrigger-policy",
];
