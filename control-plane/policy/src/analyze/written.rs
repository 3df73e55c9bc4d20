//! The document as it was written: where each field stands, and what the typed content no longer shows (old names, empty
//! lists).

use std::{fmt::Write as _, rc::Rc};

use super::finder::Finder;
use crate::{
    Code, Object, ParseLimits, Position,
    report::{Mark, Report},
    yaml::{self, Node, Value},
};

/// A document's tree.
pub(super) struct Written {
    root: Option<Rc<Node>>,
    report: Report,
    start: Position,
}

impl Written {
    pub(super) fn of(object: &Object) -> Self {
        let text = &object.text_position;
        let origin = Mark {
            line: text.line,
            column: text.column,
        };
        let mut report = Report::new(&text.file, origin);
        let documents = yaml::read(&object.yaml, &ParseLimits::default(), &mut report);
        Self {
            root: documents.into_iter().next().map(|document| document.root),
            report,
            start: object.position.clone(),
        }
    }

    /// Of a field such as `spec.http[0].timeout`; of the nearest above it that is written.
    pub(super) fn position(&self, path: &str) -> Position {
        let Some(root) = &self.root else {
            return self.start.clone();
        };
        let mut node = root;
        let mut mark = root.mark;
        for step in steps(path) {
            let next = match (&node.value, step) {
                (Value::Mapping(pairs), Step::Field(name)) => pairs
                    .iter()
                    .find(|pair| *pair.key == *name)
                    .map(|pair| &pair.value),
                (Value::Sequence(items), Step::Index(index)) => items.get(index),
                _ => None,
            };
            let Some(next) = next else {
                break;
            };
            node = next;
            mark = node.mark;
        }
        self.report.position(mark)
    }
}

enum Step<'p> {
    Field(&'p str),
    Index(usize),
}

/// `a.b[2]."c.d"` as its steps.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some((index, tail)) = rest
            .strip_prefix('[')
            .and_then(|inner| inner.split_once(']'))
        {
            steps.extend(index.parse().map(Step::Index));
            rest = tail;
        } else if let Some((name, tail)) = rest
            .strip_prefix('"')
            .and_then(|inner| inner.split_once('"'))
        {
            steps.push(Step::Field(name));
            rest = tail;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
            steps.push(Step::Field(name));
            rest = tail;
            if name.is_empty() && !tail.starts_with('[') {
                break;
            }
        }
    }
    steps
}

/// Fields under an old name, and what they are called now.
const OLD_FIELDS: [(&str, &str); 5] = [
    ("mirror_percent", "mirrorPercentage"),
    ("mirrorPercent", "mirrorPercentage"),
    ("allowOrigin", "allowOrigins"),
    ("warmupDurationSecs", "warmup"),
    ("consecutiveErrors", "consecutive5xxErrors"),
];

pub(super) fn check<'a>(finder: &mut Finder<'a>, object: &'a Object) {
    if !object.api_version.ends_with("/v1") {
        let message = format!(
            "{} still works and means the same as {}/v1; write that, because the old names go away",
            object.api_version,
            object.api_version.split('/').next().unwrap_or_default()
        );
        finder.find(Code::OldApiVersion, object, "apiVersion", message);
    }
    let written = Written::of(object);
    if let Some(root) = &written.root {
        walk(finder, object, root, &mut String::new());
    }
}

fn walk<'a>(finder: &mut Finder<'a>, object: &'a Object, node: &Node, path: &mut String) {
    let length = path.len();
    match &node.value {
        Value::Mapping(pairs) => {
            for pair in pairs {
                if length > 0 {
                    path.push('.');
                }
                let plain = !pair.key.contains(['.', '[', ' ']);
                if plain {
                    path.push_str(&pair.key);
                } else {
                    write!(path, "\"{}\"", pair.key).ok();
                }
                field(finder, object, &pair.key, &pair.value, path);
                // What is under labels and headers has free names.
                if !matches!(
                    &*pair.key,
                    "metadata" | "labels" | "headers" | "withoutHeaders" | "queryParams"
                ) {
                    walk(finder, object, &pair.value, path);
                }
                path.truncate(length);
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                write!(path, "[{index}]").ok();
                walk(finder, object, item, path);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn field<'a>(finder: &mut Finder<'a>, object: &'a Object, key: &str, value: &Node, path: &str) {
    if let Some((_, new)) = OLD_FIELDS.iter().find(|(old, _)| *old == key) {
        let message = format!("{key} is the old name; it works, but write {new}");
        finder.find(Code::DeprecatedField, object, path, message);
    }
    match (&value.value, key) {
        (Value::Text { text, .. }, "simple") if text == "LEAST_CONN" => {
            let message = "LEAST_CONN is the old name of LEAST_REQUEST and counts requests in flight, not connections; write LEAST_REQUEST";
            finder.find(Code::OldBalancerName, object, path, message);
        }
        (Value::Sequence(items), "exportTo") if items.is_empty() => {
            let message = "an empty exportTo is none at all: the document is for every namespace; write [\".\"] for its own, or remove it";
            finder.find(Code::ExportToNobody, object, path, message);
        }
        _ => {}
    }
}
