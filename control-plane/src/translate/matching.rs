//! A rule's `match` as an xDS `RouteMatch`.
//! Source: Istio's `HTTPMatchRequest`; Envoy's route API. Regexes were checked by `parse`.

use outrigger_policy::{HttpMatch, StringMatch};
use outrigger_proto::envoy::{
    config::route::v3::{
        HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
    },
    r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
};

/// Matches every request.
pub(super) fn everything() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    }
}

/// All parts of `rule` but its port, which is a matter of which virtual host it stands in.
pub(super) fn route_match(rule: &HttpMatch) -> RouteMatch {
    let path = match &rule.uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(regex)) => PathSpecifier::SafeRegex(re2(regex)),
        Some(StringMatch::Present) | None => PathSpecifier::Prefix("/".to_owned()),
    };
    let pseudo = [
        (":scheme", &rule.scheme),
        (":method", &rule.method),
        (":authority", &rule.authority),
    ];
    let pseudo = pseudo
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let named = rule
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value));
    let present = pseudo.chain(named).map(|(name, value)| header(name, value));
    let absent = rule
        .without_headers
        .iter()
        .map(|(name, value)| without(name, value));
    RouteMatch {
        path_specifier: Some(path),
        case_sensitive: rule.ignore_uri_case.then_some(false),
        headers: present.chain(absent).collect(),
        query_parameters: rule
            .query_params
            .iter()
            .map(|(name, value)| query(name, value))
            .collect(),
        ..RouteMatch::default()
    }
}

fn header(name: &str, value: &StringMatch) -> HeaderMatcher {
    let specifier = match string(value) {
        Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    HeaderMatcher {
        name: name.to_ascii_lowercase(),
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    }
}

fn without(name: &str, value: &StringMatch) -> HeaderMatcher {
    HeaderMatcher {
        invert_match: true,
        // Otherwise Envoy lets the match fail for a request that lacks the header altogether.
        treat_missing_header_as_empty: *value != StringMatch::Present,
        ..header(name, value)
    }
}

fn query(name: &str, value: &StringMatch) -> QueryParameterMatcher {
    let specifier = match string(value) {
        Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
        None => QueryParameterMatchSpecifier::PresentMatch(true),
    };
    QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(specifier),
    }
}

/// None = it only has to be there.
fn string(value: &StringMatch) -> Option<StringMatcher> {
    let pattern = match value {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(regex) => MatchPattern::SafeRegex(re2(regex)),
        StringMatch::Present => return None,
    };
    Some(StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    })
}

/// As [`string`], for a place that has no word for "anything".
pub(super) fn any_string(value: &StringMatch) -> StringMatcher {
    string(value).unwrap_or_else(|| StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(re2(".*"))),
        ..StringMatcher::default()
    })
}

pub(super) fn re2(regex: &str) -> RegexMatcher {
    RegexMatcher {
        regex: regex.to_owned(),
    }
}
