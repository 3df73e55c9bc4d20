//! Which routes a request passes by, and why: [`RouteTable::find`] step by step, for people.
//!
//! It asks the same conditions in the same order; only the words are its own. Allocates, and is on no request's path.

use std::fmt;

use super::{
    HeaderMatch, NoRoute, PathMatch, RequestView, Route, RouteTable, StringMatch, VirtualHost,
    matching::{Failed, split_path},
};

/// A route that was looked at.
#[derive(Clone, Debug)]
pub struct Tried<'a> {
    /// Which.
    pub route: &'a Route,
    /// Its first condition that does not hold, in words; None = it matches.
    pub failed: Option<String>,
}

impl RouteTable {
    /// As [`Self::find`], with every route on the way; if one matches, it is the last.
    ///
    /// # Errors
    /// [`NoRoute::Host`] if no virtual host has the authority.
    pub fn explain(
        &self,
        request: &RequestView<'_>,
    ) -> Result<(&VirtualHost, Vec<Tried<'_>>), NoRoute> {
        let host = self.virtual_host(request.authority).ok_or(NoRoute::Host)?;
        let (path, _) = split_path(request.path_and_query);
        let mut tried = Vec::new();
        for route in &*host.routes {
            let failed = route
                .matches
                .failing(request, path)
                .map(|failed| words(&failed, request, path, route));
            let matches = failed.is_none();
            tried.push(Tried { route, failed });
            if matches {
                break;
            }
        }
        Ok((host, tried))
    }
}

fn words(failed: &Failed<'_>, request: &RequestView<'_>, path: &str, route: &Route) -> String {
    match failed {
        Failed::Path => {
            let case = if route.matches.case_sensitive {
                ""
            } else {
                " (letter case ignored)"
            };
            format!("the path {path:?} {}{case}", Unlike(&route.matches.path))
        }
        Failed::Header(header) => header_words(header, request),
        Failed::Query(name, wanted) => {
            match super::matching::query_parameter(request.path_and_query, name) {
                None => format!(
                    "there is no query parameter {name}; wanted {}",
                    Wanted(wanted)
                ),
                Some(found) => format!(
                    "the query parameter {name} is {found:?}; wanted {}",
                    Wanted(wanted)
                ),
            }
        }
    }
}

fn header_words(header: &HeaderMatch, request: &RequestView<'_>) -> String {
    let name = match header.name.as_str() {
        ":method" => "the method",
        ":authority" | "host" => "the authority",
        ":scheme" => "the scheme",
        ":path" => "the path with its query",
        other => &format!("the header {other}"),
    };
    let not = if header.invert { "anything but " } else { "" };
    match super::matching::header_value(request, &header.name) {
        None => format!("{name} is missing; wanted {not}{}", Wanted(&header.value)),
        Some(found) => {
            format!(
                "{name} is {:?}; wanted {not}{}",
                String::from_utf8_lossy(&found),
                Wanted(&header.value)
            )
        }
    }
}

/// `does not start with "/api/"`.
struct Unlike<'a>(&'a PathMatch);

impl fmt::Display for Unlike<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PathMatch::Exact(want) => write!(f, "is not {want:?}"),
            PathMatch::Prefix(want) => write!(f, "does not start with {want:?}"),
            PathMatch::SeparatedPrefix(want) => write!(f, "is neither {want:?} nor below it"),
            PathMatch::Regex(regex) => write!(f, "does not match {:?}", written(regex)),
            PathMatch::Connect => f.write_str("is not that of a CONNECT"),
        }
    }
}

/// `exactly "true"`.
struct Wanted<'a>(&'a StringMatch);

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fold = |fold: &bool| if *fold { " (letter case ignored)" } else { "" };
        match self.0 {
            StringMatch::Exact(want, ignore) => write!(f, "{want:?}{}", fold(ignore)),
            StringMatch::Prefix(want, ignore) => {
                write!(f, "what starts with {want:?}{}", fold(ignore))
            }
            StringMatch::Suffix(want, ignore) => {
                write!(f, "what ends with {want:?}{}", fold(ignore))
            }
            StringMatch::Contains(want, ignore) => {
                write!(f, "what contains {want:?}{}", fold(ignore))
            }
            StringMatch::Regex(regex) => write!(f, "what matches {:?}", written(regex)),
            StringMatch::Present(true) => f.write_str("any value"),
            StringMatch::Present(false) => f.write_str("none"),
        }
    }
}

/// Without the anchors that the table put around it.
fn written(regex: &regex::Regex) -> &str {
    let text = regex.as_str();
    let inner = text
        .strip_prefix(r"\A(?:")
        .and_then(|text| text.strip_suffix(r")\z"));
    inner.unwrap_or(text)
}
