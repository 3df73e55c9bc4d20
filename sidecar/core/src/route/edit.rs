//! What a route changes on a message's headers. Never decides anything.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::format::{Facts, Format};

/// Compiled header edits, applied in this order.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// Remove.
    pub remove: Vec<HeaderName>,
    /// Overwrite.
    pub set: Vec<(HeaderName, Edit)>,
    /// Append.
    pub add: Vec<(HeaderName, Edit)>,
}

/// The value of a header that is set or added.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Always the same.
    Plain(HeaderValue),
    /// Made from the request; empty, it is left out.
    // Boxed: few headers have one, and all would be as large.
    Format(Box<Format>),
}

impl From<HeaderValue> for Edit {
    fn from(value: HeaderValue) -> Self {
        Self::Plain(value)
    }
}

impl Edit {
    pub(crate) fn value(&self, headers: &HeaderMap, facts: &Facts<'_>) -> Option<HeaderValue> {
        match self {
            Self::Plain(value) => Some(value.clone()),
            Self::Format(format) => format.value(headers, facts),
        }
    }
}

impl HeaderEdits {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// A value is made from the request's headers: whoever edits an answer has to keep them.
    #[must_use]
    pub fn reads_request(&self) -> bool {
        self.formats().any(Format::reads_request)
    }

    /// A value is made from the time.
    #[must_use]
    pub fn reads_time(&self) -> bool {
        self.formats().any(Format::reads_time)
    }

    fn formats(&self) -> impl Iterator<Item = &Format> {
        self.set
            .iter()
            .chain(&self.add)
            .filter_map(|(_, edit)| match edit {
                Edit::Plain(_) => None,
                Edit::Format(format) => Some(&**format),
            })
    }

    /// Removes, then overwrites, then appends (Envoy's order). A message that is full already
    /// (32,768 headers, the map's bound) gets no more.
    pub fn apply(&self, headers: &mut HeaderMap, facts: &Facts<'_>) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, edit) in &self.set {
            if let Some(value) = edit.value(headers, facts) {
                headers.try_insert(name.clone(), value).ok();
            }
        }
        for (name, edit) in &self.add {
            if let Some(value) = edit.value(headers, facts) {
                headers.try_append(name.clone(), value).ok();
            }
        }
    }
}
