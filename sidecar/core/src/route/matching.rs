//! Whether a request fulfils a condition.
//!
//! Source: Envoy `RouteMatch`, `HeaderMatcher`, `QueryParameterMatcher`, `StringMatcher`.

use http::Method;
use regex::Regex;

use super::{HeaderMatch, PathMatch, RequestView, RouteMatch, StringMatch};

/// A part of a condition that does not hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failed<'a> {
    Path,
    Header(&'a HeaderMatch),
    Query(&'a str, &'a StringMatch),
}

impl PathMatch {
    /// A regular expression for the whole path.
    ///
    /// # Errors
    /// The pattern's error.
    pub fn regex(pattern: &str) -> Result<Self, regex::Error> {
        Regex::new(pattern).map(|regex| Self::Regex(anchored(regex)))
    }

    fn matches(&self, path: &str, case_sensitive: bool) -> bool {
        let (path_bytes, fold) = (path.as_bytes(), !case_sensitive);
        match self {
            Self::Exact(want) => equal(path_bytes, want, fold),
            Self::Prefix(want) => starts(path_bytes, want, fold),
            Self::SeparatedPrefix(want) => {
                starts(path_bytes, want, fold)
                    && matches!(path_bytes.get(want.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => whole(regex, path),
            Self::Connect => true,
        }
    }
}

impl RouteMatch {
    /// Whether all parts hold. `path` is the request's path without its query.
    pub(crate) fn holds(&self, request: &RequestView<'_>, path: &str) -> bool {
        self.failing(request, path).is_none()
    }

    /// The first part that does not hold.
    pub(super) fn failing(&self, request: &RequestView<'_>, path: &str) -> Option<Failed<'_>> {
        let is_connect = request.method == Method::CONNECT;
        if is_connect != matches!(self.path, PathMatch::Connect)
            || !self.path.matches(path, self.case_sensitive)
        {
            return Some(Failed::Path);
        }
        if let Some(header) = self.headers.iter().find(|header| !header.holds(request)) {
            return Some(Failed::Header(header));
        }
        let query = self.query_parameters.iter().find(|(name, condition)| {
            let value = query_parameter(request.path_and_query, name);
            !condition.holds(value.map(str::as_bytes))
        });
        query.map(|(name, condition)| Failed::Query(name, condition))
    }

    /// Makes every regex match as a whole, however the caller built it.
    pub(crate) fn anchor(&mut self) {
        if let PathMatch::Regex(regex) = &mut self.path {
            *regex = anchored(regex.clone());
        }
        let headers = self.headers.iter_mut().map(|header| &mut header.value);
        let queries = self.query_parameters.iter_mut().map(|(_, value)| value);
        for value in headers.chain(queries) {
            value.anchor();
        }
    }
}

impl HeaderMatch {
    /// The same condition, whose regex matches as a whole however it was built.
    #[must_use]
    pub fn whole(mut self) -> Self {
        self.value.anchor();
        self
    }

    /// Of several values of one name, one that fulfils the condition is enough (Envoy); the opposite holds if none
    /// does.
    pub(crate) fn holds(&self, request: &RequestView<'_>) -> bool {
        let (there, fulfilled) = if let Some(value) = request_line(request, &self.name) {
            (true, self.value.holds(Some(value.as_bytes())))
        } else {
            let mut values = request.headers.get_all(&self.name).iter().peekable();
            let there = values.peek().is_some();
            (
                there,
                values.any(|value| self.value.holds(Some(value.as_bytes()))),
            )
        };
        match &self.value {
            StringMatch::Present(wanted) => {
                ((there || self.treat_missing_as_empty) == *wanted) != self.invert
            }
            condition if !there && self.treat_missing_as_empty => {
                condition.holds(Some(b"")) != self.invert
            }
            // Envoy: what is missing matches neither a condition nor its opposite.
            _ => there && fulfilled != self.invert,
        }
    }
}

impl StringMatch {
    /// A regular expression for the whole value.
    ///
    /// # Errors
    /// The pattern's error.
    pub fn regex(pattern: &str) -> Result<Self, regex::Error> {
        Regex::new(pattern).map(|regex| Self::Regex(anchored(regex)))
    }

    /// The same condition, whose regex matches as a whole however it was built.
    #[must_use]
    pub fn whole(mut self) -> Self {
        self.anchor();
        self
    }

    fn anchor(&mut self) {
        if let Self::Regex(regex) = self {
            *regex = anchored(regex.clone());
        }
    }

    pub(crate) fn holds(&self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else {
            return matches!(self, Self::Present(false));
        };
        match self {
            Self::Present(wanted) => *wanted,
            Self::Exact(want, fold) => equal(value, want, *fold),
            Self::Prefix(want, fold) => starts(value, want, *fold),
            Self::Suffix(want, fold) => value
                .len()
                .checked_sub(want.len())
                .and_then(|start| value.get(start..))
                .is_some_and(|end| equal(end, want, *fold)),
            Self::Contains(want, fold) => {
                want.is_empty()
                    || value
                        .windows(want.len())
                        .any(|part| equal(part, want, *fold))
            }
            // Lossy: a header may hold bytes that are no UTF-8, which a pattern sees as U+FFFD (RE2).
            Self::Regex(regex) => whole(regex, &String::from_utf8_lossy(value)),
        }
    }
}

/// Path, and the query with its `?` (or a fragment with its `#`).
pub(super) fn split_path(path_and_query: &str) -> (&str, &str) {
    let end = path_and_query
        .bytes()
        .position(|byte| byte == b'?' || byte == b'#')
        .unwrap_or(path_and_query.len());
    path_and_query.split_at(end)
}

/// The path alone.
pub(crate) fn path_of(path_and_query: &str) -> &str {
    split_path(path_and_query).0
}

/// First value of a query parameter, as written: Envoy decodes neither names nor values here. One
/// without `=` is empty.
pub(super) fn query_parameter<'a>(path_and_query: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = split_path(path_and_query);
    let query = query.strip_prefix('?')?;
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find_map(|(key, value)| (key == name && !key.is_empty()).then_some(value))
}

/// What a pseudo header stands for; None for any other.
fn request_line<'a>(request: &RequestView<'a>, name: &str) -> Option<&'a str> {
    match name {
        ":method" => Some(request.method.as_str()),
        ":authority" | "host" => Some(request.authority),
        ":scheme" => Some(request.scheme),
        ":path" => Some(request.path_and_query),
        _ => None,
    }
}

/// Value of a header as a person is told it: several joined by `,`; pseudo headers from the request line.
pub(super) fn header_value(request: &RequestView<'_>, name: &str) -> Option<Vec<u8>> {
    if let Some(value) = request_line(request, name) {
        return Some(value.as_bytes().to_vec());
    }
    let values = request.headers.get_all(name).iter();
    let values: Vec<_> = values.map(http::HeaderValue::as_bytes).collect();
    (!values.is_empty()).then(|| values.join(&b","[..]))
}

fn equal(value: &[u8], want: &str, fold: bool) -> bool {
    let want = want.as_bytes();
    value == want || (fold && value.eq_ignore_ascii_case(want))
}

fn starts(value: &[u8], want: &str, fold: bool) -> bool {
    value
        .get(..want.len())
        .is_some_and(|start| equal(start, want, fold))
}

/// Whether the leftmost match is the whole text. Exact for an [`anchored`] expression.
fn whole(regex: &Regex, text: &str) -> bool {
    regex
        .find(text)
        .is_some_and(|found| found.len() == text.len())
}

/// The same expression for the whole text: of `a|ab`, the leftmost match in `ab` would be `a`.
fn anchored(regex: Regex) -> Regex {
    let pattern = regex.as_str();
    if pattern.starts_with(r"\A(?:") && pattern.ends_with(r")\z") {
        return regex;
    }
    // The second form is for a pattern that ends in a comment, `(?x)a # b`. Neither fails for a pattern
    // that compiled, unless the anchors exceed the size limit; then `whole` alone decides.
    Regex::new(&format!(r"\A(?:{pattern})\z"))
        .or_else(|_| Regex::new(&format!("\\A(?:{pattern}\n)\\z")))
        .unwrap_or(regex)
}
