//! Conditions of a route, and edits of headers.

use http::{HeaderName, HeaderValue};
use outrigger_core::{Edit, Format, HeaderEdits, HeaderMatch, PathMatch, RouteMatch, StringMatch};
use outrigger_proto::envoy::{
    config::{
        core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
        route::v3::{
            self as proto, header_matcher, query_parameter_matcher, route_match::PathSpecifier,
        },
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};

use super::{Converted, FieldError, refuse, unsupported};

/// Compiled size of one regular expression. The engine is linear in the input; this bounds its memory.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

const PSEUDO_HEADERS: [&str; 4] = [":method", ":authority", ":path", ":scheme"];

pub(super) fn route_match(from: Option<&proto::RouteMatch>) -> Converted<RouteMatch> {
    let Some(from) = from else {
        return refuse("match", "missing");
    };
    convert_match(from).map_err(|error| error.under("match"))
}

fn convert_match(from: &proto::RouteMatch) -> Converted<RouteMatch> {
    let path = match &from.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.clone()),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.clone()),
        Some(PathSpecifier::SafeRegex(found)) => {
            PathMatch::Regex(regex("safe_regex.regex", &found.regex)?)
        }
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => separated(prefix)?,
        Some(PathSpecifier::ConnectMatcher(_)) => PathMatch::Connect,
        Some(PathSpecifier::PathMatchPolicy(_)) => return unsupported("path_match_policy"),
        None => {
            return refuse(
                "prefix",
                "missing; one of prefix, path, safe_regex, path_separated_prefix must be set",
            );
        }
    };
    let mut headers = Vec::with_capacity(from.headers.len());
    for (index, header) in from.headers.iter().enumerate() {
        headers.push(header_match(header).map_err(|e| e.under(format!("headers[{index}]")))?);
    }
    if from.grpc.is_some() {
        headers.push(HeaderMatch {
            name: "content-type".to_owned(),
            value: StringMatch::Prefix("application/grpc".to_owned(), false),
            invert: false,
            treat_missing_as_empty: false,
        });
    }
    let mut query_parameters = Vec::with_capacity(from.query_parameters.len());
    for (index, parameter) in from.query_parameters.iter().enumerate() {
        query_parameters.push(
            query_match(parameter).map_err(|e| e.under(format!("query_parameters[{index}]")))?,
        );
    }
    Ok(RouteMatch {
        path,
        case_sensitive: from.case_sensitive.unwrap_or(true),
        headers,
        query_parameters,
    })
}

fn separated(prefix: &str) -> Converted<PathMatch> {
    if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
        return refuse(
            "path_separated_prefix",
            format!("{prefix:?} must start with '/', not end with it, and have no '?' or '#'"),
        );
    }
    Ok(PathMatch::SeparatedPrefix(prefix.to_owned()))
}

pub(super) fn header_match(from: &proto::HeaderMatcher) -> Converted<HeaderMatch> {
    use header_matcher::HeaderMatchSpecifier as Spec;
    let name = from.name.to_ascii_lowercase();
    if !PSEUDO_HEADERS.contains(&name.as_str()) && HeaderName::from_bytes(name.as_bytes()).is_err()
    {
        return refuse("name", format!("{:?} is not a header name", from.name));
    }
    let value = match &from.header_match_specifier {
        Some(Spec::StringMatch(matcher)) => {
            string_match(matcher).map_err(|error| error.under("string_match"))?
        }
        Some(Spec::PresentMatch(present)) => StringMatch::Present(*present),
        Some(Spec::RangeMatch(_)) => return unsupported("range_match"),
        None => StringMatch::Present(true),
    };
    Ok(HeaderMatch {
        name,
        value,
        invert: from.invert_match,
        treat_missing_as_empty: from.treat_missing_header_as_empty,
    })
}

fn query_match(from: &proto::QueryParameterMatcher) -> Converted<(String, StringMatch)> {
    use query_parameter_matcher::QueryParameterMatchSpecifier as Spec;
    if from.name.is_empty() {
        return refuse("name", "missing");
    }
    let value = match &from.query_parameter_match_specifier {
        Some(Spec::StringMatch(matcher)) => {
            string_match(matcher).map_err(|error| error.under("string_match"))?
        }
        Some(Spec::PresentMatch(present)) => StringMatch::Present(*present),
        None => StringMatch::Present(true),
    };
    Ok((from.name.clone(), value))
}

pub(super) fn string_match(from: &StringMatcher) -> Converted<StringMatch> {
    let ignore_case = from.ignore_case;
    Ok(match &from.match_pattern {
        Some(MatchPattern::Exact(text)) => StringMatch::Exact(text.clone(), ignore_case),
        Some(MatchPattern::Prefix(text)) => StringMatch::Prefix(text.clone(), ignore_case),
        Some(MatchPattern::Suffix(text)) => StringMatch::Suffix(text.clone(), ignore_case),
        Some(MatchPattern::Contains(text)) => StringMatch::Contains(text.clone(), ignore_case),
        Some(MatchPattern::SafeRegex(_)) if ignore_case => {
            return refuse(
                "ignore_case",
                "has no effect on safe_regex; write (?i) in the expression",
            );
        }
        Some(MatchPattern::SafeRegex(found)) => {
            StringMatch::Regex(regex("safe_regex.regex", &found.regex)?)
        }
        Some(MatchPattern::Custom(_)) => return unsupported("custom"),
        None => {
            return refuse(
                "exact",
                "missing; one of exact, prefix, suffix, contains, safe_regex must be set",
            );
        }
    })
}

/// For parts of a string.
pub(super) fn search(path: &str, text: &str) -> Converted<regex::Regex> {
    if text.is_empty() {
        return refuse(path, "is empty");
    }
    regex::RegexBuilder::new(text)
        .size_limit(REGEX_SIZE_LIMIT)
        .build()
        .map_err(|error| {
            let message = format!("{text:?} is not a regular expression: {error}");
            FieldError::new(path, message)
        })
}

/// For a whole string, made here.
pub(super) fn whole(path: &str, text: &str) -> Converted<regex::Regex> {
    regex(path, text)
}

/// Anchored, because xDS means the whole string.
fn regex(path: &str, text: &str) -> Converted<regex::Regex> {
    if text.is_empty() {
        return refuse(path, "is empty");
    }
    // Compiled alone first, so that `a)(b` cannot escape the group.
    for candidate in [text, &format!(r"\A(?:{text})\z")] {
        let compiled = regex::RegexBuilder::new(candidate)
            .size_limit(REGEX_SIZE_LIMIT)
            .build()
            .map_err(|error| {
                FieldError::new(
                    path,
                    format!("{text:?} is not a regular expression: {error}"),
                )
            })?;
        if candidate != text {
            return Ok(compiled);
        }
    }
    refuse(path, "is not a regular expression")
}

/// Header edits of one level; `kind` is `request` or `response`.
pub(super) fn header_edits(
    kind: &str,
    add: &[HeaderValueOption],
    remove: &[String],
) -> Converted<HeaderEdits> {
    let mut edits = HeaderEdits::default();
    for (index, name) in remove.iter().enumerate() {
        let path = format!("{kind}_headers_to_remove[{index}]");
        edits.remove.push(header_name(&path, name)?);
    }
    for (index, option) in add.iter().enumerate() {
        header_edit(option, &mut edits)
            .map_err(|error| error.under(format!("{kind}_headers_to_add[{index}]")))?;
    }
    Ok(edits)
}

/// Name and value of a header that is written.
pub(super) fn header_value(option: &HeaderValueOption) -> Converted<(HeaderName, Edit)> {
    let Some(header) = &option.header else {
        return refuse("header", "missing");
    };
    let name = header_name("header.key", &header.key)?;
    let (field, raw) = if header.raw_value.is_empty() {
        ("header.value", header.value.as_str())
    } else {
        let text = std::str::from_utf8(&header.raw_value)
            .map_err(|error| FieldError::new("header.raw_value", error.to_string()))?;
        ("header.raw_value", text)
    };
    if raw.is_empty() && !option.keep_empty_value {
        return refuse("header.value", "is empty and keep_empty_value is not set");
    }
    let value =
        value(raw, option.keep_empty_value).map_err(|message| FieldError::new(field, message))?;
    Ok((name, value))
}

fn header_edit(option: &HeaderValueOption, edits: &mut HeaderEdits) -> Converted<()> {
    let (name, value) = header_value(option)?;
    match HeaderAppendAction::try_from(option.append_action) {
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) => edits.add.push((name, value)),
        Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => edits.set.push((name, value)),
        Ok(other @ (HeaderAppendAction::AddIfAbsent | HeaderAppendAction::OverwriteIfExists)) => {
            return refuse(
                "append_action",
                format!("{} is not supported yet", other.as_str_name()),
            );
        }
        Err(_unknown) => {
            return refuse(
                "append_action",
                format!("{} is unknown", option.append_action),
            );
        }
    }
    Ok(())
}

/// A value, with its command operators compiled.
fn value(text: &str, keep_empty: bool) -> Result<Edit, String> {
    match Format::parse(text, keep_empty) {
        Ok(Ok(format)) => Ok(Edit::Format(Box::new(format))),
        Ok(Err(plain)) => HeaderValue::from_str(&plain)
            .map(Edit::Plain)
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// About one connection, or where a message ends (RFC 9110 section 7.6.1, RFC 9112 section 6).
const OF_THE_CONNECTION: [HeaderName; 6] = [
    http::header::CONNECTION,
    http::header::CONTENT_LENGTH,
    http::header::TE,
    http::header::TRAILER,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
];

/// A header that may be edited.
pub(super) fn header_name(path: &str, name: &str) -> Converted<HeaderName> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(http::header::HOST) => refuse(
            path,
            "`host` cannot be edited here; use host_rewrite_literal",
        ),
        Ok(name) if OF_THE_CONNECTION.contains(&name) => refuse(
            path,
            format!("`{name}` is about one connection; each proxy writes its own"),
        ),
        Ok(name) => Ok(name),
        Err(_) => refuse(
            path,
            format!("{name:?} is not a header name that can be edited"),
        ),
    }
}
