//! What a rule makes of a request's address: `rewrite`; and what it answers itself: `redirect`, `directResponse`.

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::{
    HttpAction, Redirect, RedirectPort, RedirectUri, RegexRewrite, Rewrite,
    decode::{
        Decoder, Fields, Item, Shape, authority, enumeration, filled_text, integer32, path, port,
        regex, substitution, text,
    },
    yaml::quoted,
};

pub(super) const REWRITE: Shape = Shape {
    what: "a rewrite",
    fields: &["uri", "authority", "uriRegexRewrite"],
    not_yet: &[],
};
pub(super) const REGEX_REWRITE: Shape = Shape {
    what: "a rewrite by regular expression",
    fields: &["match", "rewrite"],
    not_yet: &[],
};

pub(super) fn rewrite(d: &mut Decoder, item: Item<'_>) -> Option<Rewrite> {
    let fields = Fields::open(d, item, &REWRITE)?;
    let paths = ["uri", "uriRegexRewrite"];
    if fields.present(&paths).len() > 1 {
        fields.exactly_one(d, &paths);
    }
    let rewrite = Rewrite {
        uri: fields.optional(d, "uri", path),
        authority: fields.optional(d, "authority", authority),
        uri_regex: fields.optional(d, "uriRegexRewrite", regex_rewrite),
    };
    if fields.present(REWRITE.fields).is_empty() {
        d.refuse(
            item,
            "changes nothing; want uri, uriRegexRewrite or authority",
        );
    }
    Some(rewrite)
}

fn regex_rewrite(d: &mut Decoder, item: Item<'_>) -> Option<RegexRewrite> {
    let fields = Fields::open(d, item, &REGEX_REWRITE)?;
    let pattern = fields.required(d, "match", "an RE2 expression", regex);
    let known = pattern.clone().unwrap_or_default();
    let want = "what takes the place of a match";
    let substitution = fields.required(d, "rewrite", want, |d, item| {
        if pattern.is_none() {
            return text(d, item);
        }
        substitution(d, item, &known)
    });
    Some(RegexRewrite {
        pattern: pattern?,
        substitution: substitution?,
    })
}

pub(super) const REDIRECT: Shape = Shape {
    what: "a redirect",
    fields: &[
        "uri",
        "authority",
        "port",
        "derivePort",
        "scheme",
        "redirectCode",
    ],
    not_yet: &[],
};
const REDIRECT_CODES: [u32; 5] = [301, 302, 303, 307, 308];
/// In front of what replaces the prefix that the rule matched.
const PREFIX: &str = "%PREFIX()%";

pub(super) fn redirect(d: &mut Decoder, item: Item<'_>) -> Option<Redirect> {
    let fields = Fields::open(d, item, &REDIRECT)?;
    if fields
        .present(&["uri", "authority", "port", "derivePort", "scheme"])
        .is_empty()
    {
        d.refuse(
            item,
            "would lead back to the same place; want uri, authority, port or scheme",
        );
    }
    let ports = ["port", "derivePort"];
    if fields.present(&ports).len() > 1 {
        fields.exactly_one(d, &ports);
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
    let derived = [
        ("FROM_PROTOCOL_DEFAULT", RedirectPort::OfScheme),
        ("FROM_REQUEST_PORT", RedirectPort::OfRequest),
    ];
    let derived = fields.optional(d, "derivePort", |d, item| {
        enumeration(d, item, "where the port comes from", &derived, &[])
    });
    let words = [("http", "http"), ("https", "https")];
    Some(Redirect {
        uri: fields.optional(d, "uri", redirect_uri),
        authority: fields.optional(d, "authority", authority),
        port: fields
            .optional(d, "port", port)
            .map(RedirectPort::Number)
            .or(derived),
        scheme: fields
            .optional(d, "scheme", |d, item| {
                enumeration(d, item, "a scheme", &words, &[])
            })
            .map(str::to_owned),
        redirect_code: code.unwrap_or(301),
    })
}

fn redirect_uri(d: &mut Decoder, item: Item<'_>) -> Option<RedirectUri> {
    let found = filled_text(d, item)?;
    let Some((before, replacement)) = found.split_once(PREFIX) else {
        return path(d, item).map(RedirectUri::Path);
    };
    let whole = replacement.strip_prefix('/').map(|rest| {
        rest.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&b))
    });
    if !before.is_empty() || whole != Some(true) {
        let message = format!(
            "found {}; {PREFIX} stands first, and behind it the path that takes the prefix's place, such as \
             {PREFIX}/new",
            quoted(&found)
        );
        d.refuse(item, message);
        return None;
    }
    Some(RedirectUri::Prefix(replacement.to_owned()))
}

pub(super) const DIRECT_RESPONSE: Shape = Shape {
    what: "a direct response",
    fields: &["status", "body"],
    not_yet: &[],
};
pub(super) const BODY: Shape = Shape {
    what: "a body",
    fields: &["string", "bytes"],
    not_yet: &[],
};
/// Envoy's default bound; a longer body makes it refuse the whole configuration.
const LONGEST_BODY: usize = 4_096;

pub(super) fn direct_response(d: &mut Decoder, item: Item<'_>) -> Option<HttpAction> {
    let fields = Fields::open(d, item, &DIRECT_RESPONSE)?;
    let status = fields.required(d, "status", "a status from 200 to 599", |d, item| {
        integer32(d, item, 200..=599)
    });
    let body = fields.optional(d, "body", body);
    Some(HttpAction::DirectResponse {
        status: u16::try_from(status?).ok()?,
        body: body.unwrap_or_default(),
    })
}

fn body(d: &mut Decoder, item: Item<'_>) -> Option<Vec<u8>> {
    let fields = Fields::open(d, item, &BODY)?;
    if !fields.exactly_one(d, BODY.fields) {
        return None;
    }
    let plain = fields.optional(d, "string", |d, item| {
        let body = text(d, item)?.into_bytes();
        short_enough(d, item, body)
    });
    let encoded = fields.optional(d, "bytes", |d, item| {
        let encoded = text(d, item)?;
        let Ok(body) = BASE64.decode(encoded.as_bytes()) else {
            let message = format!("found {}, want base64 such as aGVsbG8=", quoted(&encoded));
            d.refuse(item, message);
            return None;
        };
        short_enough(d, item, body)
    });
    plain.or(encoded)
}

fn short_enough(d: &mut Decoder, item: Item<'_>, body: Vec<u8>) -> Option<Vec<u8>> {
    if body.len() > LONGEST_BODY {
        let message = format!(
            "has {} bytes, at most {LONGEST_BODY} are allowed",
            body.len()
        );
        d.refuse(item, message);
        return None;
    }
    Some(body)
}

/// As protobuf's JSON: padding may be missing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
