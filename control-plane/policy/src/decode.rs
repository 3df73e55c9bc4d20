//! Typed values out of YAML nodes, with the field path of whatever is wrong.
//!
//! Every function reports and returns None instead of stopping, so that one call finds all errors of a
//! file; a value that was refused leaves a hole that nobody sees, because a file with an error is not
//! applied. `null` counts as absent in a field (as in Kubernetes), never in a list or a map.

mod basic;
mod command;
mod fields;
mod http;
mod regex;
mod values;

use std::{collections::BTreeMap, fmt};

#[cfg(test)]
pub(crate) use self::values::SELECTOR;
pub(crate) use self::{
    basic::{
        Key, at, boolean, filled_list, filled_text, integer, integer32, list, map, number, text,
        unknown_word,
    },
    command::Way,
    fields::{Fields, Shape, refuse_twice},
    http::{
        authority, check_header_name, check_header_value, edit_fault, header_name,
        header_name_fault, path,
    },
    regex::{regex, substitution},
    values::{
        dns_fault, dns_label, duration, enumeration, host, ip_address, label_key_fault, label_map,
        object_name, port, positive, positive_duration, subset_name, workload_selector,
    },
};
use crate::{
    Position,
    report::Report,
    yaml::{Node, quoted},
};

/// State of one call: the report and what is bounded over the whole file.
pub(crate) struct Decoder {
    pub(crate) report: Report,
    /// Regular expressions checked so far: compiling one is dear.
    regexes: BTreeMap<String, Result<(), String>>,
}

impl Decoder {
    pub(crate) fn new(report: Report) -> Self {
        Self {
            report,
            regexes: BTreeMap::new(),
        }
    }

    /// Reports at the place of the value itself.
    pub(crate) fn refuse(&mut self, item: Item<'_>, message: impl Into<String>) {
        self.report
            .error(item.node.mark, item.path.to_string(), message);
    }

    /// Reports a value of the wrong type.
    pub(crate) fn mismatch(&mut self, item: Item<'_>, want: &str) {
        let message = format!("found {}, want {want}", item.node.describe());
        self.refuse(item, message);
    }

    pub(crate) fn position(&self, item: Item<'_>) -> Position {
        self.report.position(item.node.mark)
    }
}

/// One step from the document's root to a value.
#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

/// Where a value stands in the document; borrowed, because it is only written out for an error.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
}

impl<'a> Path<'a> {
    pub(crate) const ROOT: Path<'static> = Path {
        parent: None,
        step: Step::Root,
    };

    const fn field(&'a self, name: &'a str) -> Self {
        Self {
            parent: Some(self),
            step: Step::Field(name),
        }
    }

    const fn index(&'a self, index: usize) -> Self {
        Self {
            parent: Some(self),
            step: Step::Index(index),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Field(name) => {
                if self.parent.is_some_and(|p| !matches!(p.step, Step::Root)) {
                    f.write_str(".")?;
                }
                // A key with dots of its own (a label) would read as several steps.
                if name.is_empty() || name.len() > 100 || name.contains(['.', ' ', '"']) {
                    f.write_str(&quoted(name))
                } else {
                    f.write_str(name)
                }
            }
        }
    }
}

/// A value and its path.
#[derive(Clone, Copy)]
pub(crate) struct Item<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: &'a Path<'a>,
}
