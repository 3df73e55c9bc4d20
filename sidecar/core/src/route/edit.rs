//! What a route changes on a message: headers and the path. Never decides anything.

use std::borrow::Cow;

use http::HeaderMap;

use super::{HeaderEdits, PathMatch, Route, matching::split_path};

impl HeaderEdits {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Removes, then overwrites, then appends (Envoy's order). A message that is full already
    /// (32,768 headers, the map's bound) gets no more.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.try_insert(name.clone(), value.clone()).ok();
        }
        for (name, value) in &self.add {
            headers.try_append(name.clone(), value.clone()).ok();
        }
    }
}

impl Route {
    /// The path and query to send on, after `prefix_rewrite`.
    ///
    /// A prefix is replaced as written (Envoy: `/a` to `/` makes `//b` of `/a/b`); only a
    /// [`PathMatch::SeparatedPrefix`] joins without a double slash (Gateway API). An exact or regex match
    /// is replaced as a whole. The query stays. Meant for a request that this route matched; another
    /// one's path stays as it is.
    #[must_use]
    pub fn rewrite_path<'a>(&self, path_and_query: &'a str) -> Cow<'a, str> {
        let Some(new) = &self.prefix_rewrite else {
            return Cow::Borrowed(path_and_query);
        };
        let (path, query) = split_path(path_and_query);
        let rest = match &self.matches.path {
            PathMatch::Exact(_) | PathMatch::Regex(_) => Some(""),
            PathMatch::Prefix(prefix) => path.get(prefix.len()..),
            PathMatch::SeparatedPrefix(prefix) => path.get(prefix.len()..).map(|rest| {
                if new.ends_with('/') {
                    rest.strip_prefix('/').unwrap_or(rest)
                } else {
                    rest
                }
            }),
        };
        match rest {
            Some(rest) => Cow::Owned([new, rest, query].concat()),
            None => Cow::Borrowed(path_and_query),
        }
    }
}
