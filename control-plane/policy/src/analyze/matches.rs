//! Single matches: those that nothing can fulfil, or everything, and those that take more than they seem to.

use std::collections::BTreeMap;

use regex_syntax::hir::{
    Hir, HirKind,
    literal::{Extractor, Literal},
};

use super::finder::{Finder, listed};
use crate::{Code, HttpMatch, Object, StringMatch, VirtualService};

pub(super) fn check<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    spec: &VirtualService,
    index: usize,
    matches: &[HttpMatch],
) {
    for (number, found) in matches.iter().enumerate() {
        let path = format!("spec.http[{index}].match[{number}]");
        if let Some(uri) = &found.uri {
            check_uri(finder, object, uri, &format!("{path}.uri"));
        }
        within_word(finder, object, matches, number, &path);
        scheme(finder, object, found, &path);
        method(finder, object, found, &path);
        authority(finder, object, spec, found, &path);
        headers(finder, object, found, &path);
        callers(finder, object, found, &path);
        port(finder, object, spec, found, &path);
    }
}

fn check_uri<'a>(finder: &mut Finder<'a>, object: &'a Object, uri: &StringMatch, path: &str) {
    let (text, field) = match uri {
        StringMatch::Exact(text) => (text, "exact"),
        StringMatch::Prefix(text) => (text, "prefix"),
        StringMatch::Regex(regex) => return regex_uri(finder, object, regex, path),
        StringMatch::Present => return,
    };
    let path = format!("{path}.{field}");
    if let Some((before, query)) = text.split_once('?') {
        let message = format!(
            "{text:?} matches no request, because the query is not part of the path; write {before:?} and match {query:?} \
             under queryParams"
        );
        finder.find(Code::QueryInPath, object, &path, message);
    } else if let Some(character) = text
        .chars()
        .find(|c| *c == '#' || *c == ' ' || c.is_control())
    {
        let message = format!(
            "{text:?} matches no request, because no path has {character:?}: clients send it as %{:02X}, or not at all; write \
             that, or match less",
            u32::from(character)
        );
        finder.find(Code::PathNeverSent, object, &path, message);
    }
}

fn regex_uri<'a>(finder: &mut Finder<'a>, object: &'a Object, regex: &str, path: &str) {
    let path = format!("{path}.regex");
    if takes_all(regex) {
        let message = format!(
            "{regex:?} matches every path; write prefix: / or no uri, which costs no expression"
        );
        finder.find(Code::RegexOfAll, object, &path, message);
        return;
    }
    let Ok(parsed) = regex_syntax::parse(regex) else {
        return;
    };
    let starts = Extractor::new().extract(&parsed);
    let starts: Vec<&[u8]> = starts
        .literals()
        .unwrap_or_default()
        .iter()
        .map(Literal::as_bytes)
        .collect();
    if !starts.is_empty()
        && starts
            .iter()
            .all(|start| start.first().is_some_and(|&byte| byte != b'/'))
    {
        let message = format!(
            "{regex:?} matches no request: the expression has to match the whole path, and every path starts with a slash; \
             write \"/{regex}\", or \".*{regex}\" for a part of the path"
        );
        finder.find(Code::RegexOfNothing, object, &path, message);
    } else if parsed.properties().minimum_len().is_none() {
        let message = format!("{regex:?} matches no text at all; say what is meant to match");
        finder.find(Code::RegexOfNothing, object, &path, message);
    }
}

/// Whether an expression, matched as a whole, takes every text of at least one character.
pub(super) fn takes_all(regex: &str) -> bool {
    regex_syntax::parse(regex).is_ok_and(|parsed| takes_every_text(&parsed))
}

fn takes_every_text(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Repetition(repeated) => {
            repeated.min <= 1
                && repeated.max.is_none()
                && matches!(repeated.sub.kind(), HirKind::Class(_))
                && takes_any_letter(&repeated.sub)
        }
        HirKind::Capture(capture) => takes_every_text(&capture.sub),
        HirKind::Concat(parts) => {
            let mut rest = parts
                .iter()
                .filter(|part| !matches!(part.kind(), HirKind::Look(_)));
            matches!((rest.next(), rest.next()), (Some(only), None) if takes_every_text(only))
        }
        _ => false,
    }
}

fn takes_any_letter(hir: &Hir) -> bool {
    let HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = hir.kind() else {
        return false;
    };
    // All but line ends.
    let size: u32 = class
        .ranges()
        .iter()
        .map(|range| u32::from(range.end()) - u32::from(range.start()) + 1)
        .sum();
    size > 1_000_000
}

/// `/foo` takes `/foobar`, too.
fn within_word<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    matches: &[HttpMatch],
    number: usize,
    path: &str,
) {
    let Some(StringMatch::Prefix(prefix)) =
        matches.get(number).and_then(|found| found.uri.as_ref())
    else {
        return;
    };
    let in_a_word = prefix.len() > 1 && prefix.ends_with(|c: char| c.is_ascii_alphanumeric());
    if !in_a_word {
        return;
    }
    let message = format!(
        "{prefix:?} also matches \"{prefix}x\": a prefix ends anywhere in a word; if only the folder is meant, write two \
         matches, exact: {prefix} and prefix: {prefix}/"
    );
    finder.find(
        Code::PrefixWithinWord,
        object,
        &format!("{path}.uri.prefix"),
        message,
    );
}

/// What clients send (RFC 9110, RFC 5789).
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

fn scheme<'a>(finder: &mut Finder<'a>, object: &'a Object, found: &HttpMatch, path: &str) {
    let (text, field, fits) = match &found.scheme {
        Some(StringMatch::Exact(text)) => {
            (text, "exact", ["http", "https"].contains(&text.as_str()))
        }
        Some(StringMatch::Prefix(text)) => (text, "prefix", "https".starts_with(text.as_str())),
        _ => return,
    };
    if !fits {
        let message = format!(
            "{text:?} matches no request: a scheme is http or https, in lower case; write that"
        );
        finder.find(
            Code::SchemeUnknown,
            object,
            &format!("{path}.scheme.{field}"),
            message,
        );
    }
}

fn method<'a>(finder: &mut Finder<'a>, object: &'a Object, found: &HttpMatch, path: &str) {
    if let Some(StringMatch::Regex(regex)) = &found.method {
        let any = |regex: &str| {
            let whole = regex::Regex::new(&format!("^(?:{regex})$"));
            whole.is_ok_and(|regex| METHODS.iter().any(|method| regex.is_match(method)))
        };
        let upper = regex.to_ascii_uppercase();
        if !any(regex) && any(&upper) {
            let message = format!(
                "{regex:?} matches no request, because methods are compared with their letter case; write {upper}"
            );
            finder.find(
                Code::MethodCase,
                object,
                &format!("{path}.method.regex"),
                message,
            );
        }
        return;
    }
    let Some(StringMatch::Exact(method)) = &found.method else {
        return;
    };
    let several: Vec<&str> = method
        .split(['|', ',', ' '])
        .filter(|one| !one.is_empty())
        .collect();
    if several.len() > 1 {
        let message = format!(
            "{method:?} matches no request, because exact is one method; write regex: {}",
            several.join("|")
        );
        finder.find(
            Code::MethodCase,
            object,
            &format!("{path}.method.exact"),
            message,
        );
        return;
    }
    let upper = method.to_ascii_uppercase();
    if *method != upper {
        let message = format!(
            "{method:?} matches no request, because methods are compared with their letter case; write {upper}"
        );
        finder.find(
            Code::MethodCase,
            object,
            &format!("{path}.method.exact"),
            message,
        );
    }
}

fn authority<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    spec: &VirtualService,
    found: &HttpMatch,
    path: &str,
) {
    let Some(StringMatch::Exact(authority)) = &found.authority else {
        return;
    };
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    if spec.hosts.is_empty() {
        return; // A delegate: its hosts are others'.
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        let message = format!(
            "{authority:?} is compared with its letter case, and clients send host names in lower case; write {:?}",
            authority.to_ascii_lowercase()
        );
        finder.find(
            Code::AuthorityElsewhere,
            object,
            &format!("{path}.authority.exact"),
            message,
        );
        return;
    }
    let wanted = finder.mesh.host(name, &object.key.namespace);
    let mut hosts = spec.hosts.iter().map(|host| finder.host(object, host));
    if hosts.any(|host| host == wanted || wanted.wildcards().any(|wildcard| wildcard == host)) {
        return;
    }
    let message = format!(
        "{authority:?} matches no request: only requests to {} come to these rules; name it under hosts, or remove the match",
        listed(spec.hosts.iter().map(|host| &host.value))
    );
    finder.find(
        Code::AuthorityElsewhere,
        object,
        &format!("{path}.authority.exact"),
        message,
    );
}

/// Headers about one connection: each hop writes its own, so that no rule sees those of the caller.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn headers<'a>(finder: &mut Finder<'a>, object: &'a Object, found: &HttpMatch, path: &str) {
    for (field, headers) in [
        ("headers", &found.headers),
        ("withoutHeaders", &found.without_headers),
    ] {
        for name in headers
            .keys()
            .filter(|name| HOP_BY_HOP.contains(&name.to_ascii_lowercase().as_str()))
        {
            let message = format!(
                "{name} is about one connection, and every proxy on the way removes or replaces it; match a header that the \
                 caller sets end to end"
            );
            finder.find(
                Code::HopByHopMatch,
                object,
                &format!("{path}.{field}.{name}"),
                message,
            );
        }
    }
    for (name, excluded) in &found.without_headers {
        let Some(wanted) = lookup(&found.headers, name) else {
            continue;
        };
        if *excluded == StringMatch::Present || excluded == wanted {
            let message = format!(
                "no request matches: {name} has to be there and must not; remove one of the two"
            );
            finder.find(
                Code::HeaderInAndOut,
                object,
                &format!("{path}.withoutHeaders.{name}"),
                message,
            );
        }
    }
    for (name, wanted) in &found.headers {
        let spaced = match wanted {
            StringMatch::Exact(text) => {
                (text.trim() != text).then_some((text, "exact", text.trim()))
            }
            StringMatch::Prefix(text) => {
                (text.trim_start() != text).then_some((text, "prefix", text.trim_start()))
            }
            _ => None,
        };
        if let Some((text, field, trimmed)) = spaced {
            let message = format!(
                "{text:?} matches no request: spaces around a header's value are not part of it; write {trimmed:?}"
            );
            finder.find(
                Code::HeaderValueSpaces,
                object,
                &format!("{path}.headers.{name}.{field}"),
                message,
            );
        }
        if let StringMatch::Regex(regex) = wanted
            && takes_all(regex)
        {
            let message = format!(
                "{regex:?} matches every value; write {{}} for \"is there\", which costs no expression"
            );
            finder.find(
                Code::RegexOfAll,
                object,
                &format!("{path}.headers.{name}.regex"),
                message,
            );
        }
    }
}

fn lookup<'m, T>(headers: &'m BTreeMap<String, T>, name: &str) -> Option<&'m T> {
    headers
        .iter()
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// Whoever is named as the caller has to be there.
fn callers<'a>(finder: &mut Finder<'a>, object: &'a Object, found: &HttpMatch, path: &str) {
    let Some(clients) = finder.clients() else {
        return;
    };
    if let Some(namespace) = &found.source_namespace
        && !clients.iter().any(|client| client.namespace == *namespace)
    {
        let message = format!(
            "no workload of the namespace {namespace} has a sidecar, so no request matches; is it spelt right?"
        );
        finder.find(
            Code::SourceNamespaceUnknown,
            object,
            &format!("{path}.sourceNamespace"),
            message,
        );
    }
    if !found.source_labels.is_empty()
        && !clients
            .iter()
            .any(|client| client.has(&found.source_labels))
    {
        let labels = listed(
            found
                .source_labels
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        let message = format!(
            "no workload with a sidecar has {labels}, so no request matches; are the labels spelt right?"
        );
        finder.find(
            Code::SourceLabelsUnknown,
            object,
            &format!("{path}.sourceLabels"),
            message,
        );
    }
}

fn port<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    spec: &VirtualService,
    found: &HttpMatch,
    path: &str,
) {
    let Some(port) = found.port.filter(|_| !spec.hosts.is_empty()) else {
        return;
    };
    let mut known = Vec::new();
    for host in &spec.hosts {
        let Some(ports) = finder.ports(&finder.host(object, host)) else {
            return;
        };
        known.extend(ports.into_keys());
    }
    if !known.contains(&port) {
        let message = format!(
            "no request matches: {} {} the port {}, not {port}; it is the port that clients call, not the application's",
            listed(spec.hosts.iter().map(|host| &host.value)),
            if spec.hosts.len() == 1 { "has" } else { "have" },
            listed(known)
        );
        finder.find(
            Code::MatchPortUnknown,
            object,
            &format!("{path}.port"),
            message,
        );
    }
}
