//! Changes of the path. The query stays.
//!
//! Source: Envoy `prefix_rewrite`, `regex_rewrite` (RE2's `GlobalReplace` with its `\1`).

use std::borrow::Cow;

use regex::{Captures, Regex};

use super::{PathMatch, Route, matching::split_path};

/// How a path becomes another.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// What the route matched is replaced.
    Prefix(String),
    /// Every match of the expression is replaced.
    Regex(Regex, Substitution),
}

/// RE2's replacement text: `\1` to `\9` are groups, `\0` is the whole match, `\\` is a backslash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Group(usize),
}

impl Substitution {
    /// Compiles `text` for an expression.
    ///
    /// # Errors
    /// What is wrong with it: a group that `pattern` does not have, or a backslash before something else.
    pub fn parse(text: &str, pattern: &Regex) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            if char != '\\' {
                plain.push(char);
                continue;
            }
            match chars.next() {
                Some('\\') => plain.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = digit.to_digit(10).unwrap_or_default() as usize;
                    let groups = pattern.captures_len() - 1;
                    if group > groups {
                        return Err(format!(
                            "{text:?} names group {group}; the expression has {groups}"
                        ));
                    }
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Group(group));
                }
                Some(other) => {
                    return Err(format!(
                        "{text:?} has \\{other}; after a backslash comes a digit or a backslash"
                    ));
                }
                None => return Err(format!("{text:?} ends in a backslash; write \\\\ for one")),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    fn write(&self, captures: &Captures<'_>, out: &mut String) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Group(group) => {
                    out.push_str(captures.get(*group).map_or("", |found| found.as_str()));
                }
            }
        }
    }
}

impl Route {
    /// The path and query to send on.
    ///
    /// A prefix is replaced as written (Envoy: `/a` to `/` makes `//b` of `/a/b`); only a
    /// [`PathMatch::SeparatedPrefix`] joins without a double slash (Gateway API). An exact or regex match
    /// is replaced as a whole. The query stays. Meant for a request that this route matched; another
    /// one's path stays as it is.
    #[must_use]
    pub fn rewrite_path<'a>(&self, path_and_query: &'a str) -> Cow<'a, str> {
        match &self.rewrite {
            Some(rewrite) => self.rewritten(rewrite, path_and_query),
            None => Cow::Borrowed(path_and_query),
        }
    }

    /// As [`Self::rewrite_path`], with another rewrite: a redirect's.
    #[must_use]
    pub fn rewritten<'a>(&self, rewrite: &Rewrite, path_and_query: &'a str) -> Cow<'a, str> {
        let (path, query) = split_path(path_and_query);
        match rewrite {
            Rewrite::Prefix(new) => match self.after_match(path, new) {
                Some(rest) => Cow::Owned([new, rest, query].concat()),
                None => Cow::Borrowed(path_and_query),
            },
            Rewrite::Regex(pattern, substitution) => {
                let replace = |captures: &Captures<'_>| {
                    let mut new = String::new();
                    substitution.write(captures, &mut new);
                    new
                };
                match pattern.replace_all(path, replace) {
                    Cow::Borrowed(_) => Cow::Borrowed(path_and_query),
                    Cow::Owned(new) => Cow::Owned(new + query),
                }
            }
        }
    }

    /// What comes after the part of the path that this route matched.
    fn after_match<'a>(&self, path: &'a str, new: &str) -> Option<&'a str> {
        match &self.matches.path {
            PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Connect => Some(""),
            PathMatch::Prefix(prefix) => path.get(prefix.len()..),
            PathMatch::SeparatedPrefix(prefix) => path.get(prefix.len()..).map(|rest| {
                if new.ends_with('/') {
                    rest.strip_prefix('/').unwrap_or(rest)
                } else {
                    rest
                }
            }),
        }
    }
}
