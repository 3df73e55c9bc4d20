//! Edits of headers that a filter makes, one after the other.

use http::{
    HeaderMap, HeaderName,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use crate::{Edit, Facts, StringMatch};

/// What is done to requests and to answers.
#[derive(Clone, Debug, Default)]
pub struct HeaderMutation {
    /// In order.
    pub request: Vec<Mutation>,
    /// In order.
    pub response: Vec<Mutation>,
}

/// One edit.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Removes a header.
    Remove(HeaderName),
    /// Removes all whose names match, but for those that say how a message is framed and where it goes.
    RemoveMatching(StringMatch),
    /// Writes a header.
    Put(HeaderName, Edit, Put),
}

/// What is done if the header is there, and if it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// One value more.
    Append,
    /// Only if it is not there.
    IfAbsent,
    /// Instead of all values.
    Overwrite,
    /// Instead of all values, if there are any.
    OverwriteExisting,
}

const KEPT: [HeaderName; 7] = [
    HOST,
    CONNECTION,
    CONTENT_LENGTH,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

impl HeaderMutation {
    /// A value of an answer's headers is made: whoever edits the answer has to keep what from.
    #[must_use]
    pub fn makes_answers(&self) -> bool {
        let mut all = self.response.iter();
        all.any(|mutation| matches!(mutation, Mutation::Put(_, Edit::Format(_), _)))
    }
}

impl Mutation {
    /// Applies it. A message that is full already (32,768 headers, the map's bound) gets no more.
    pub fn apply(&self, headers: &mut HeaderMap, facts: &Facts<'_>) {
        match self {
            Self::Remove(name) => drop(headers.remove(name)),
            Self::RemoveMatching(condition) => {
                let meant = |name: &&HeaderName| {
                    !KEPT.contains(*name) && condition.holds(Some(name.as_str().as_bytes()))
                };
                let names: Vec<HeaderName> = headers.keys().filter(meant).cloned().collect();
                for name in names {
                    headers.remove(name);
                }
            }
            Self::Put(name, edit, put) => {
                let there = headers.contains_key(name);
                let is_meant = match put {
                    Put::Append | Put::Overwrite => true,
                    Put::IfAbsent => !there,
                    Put::OverwriteExisting => there,
                };
                let Some(value) = is_meant.then(|| edit.value(headers, facts)).flatten() else {
                    return;
                };
                match put {
                    Put::Append | Put::IfAbsent => drop(headers.try_append(name.clone(), value)),
                    Put::Overwrite | Put::OverwriteExisting => {
                        drop(headers.try_insert(name.clone(), value));
                    }
                }
            }
        }
    }
}
