//! Puts nodes together from the parser's events: anchors, merge keys, duplicate keys, depth and number.

use std::{collections::BTreeMap, rc::Rc};

use serde_saphyr::granit_parser::{Event, ScalarStyle, Span, Tag};

use super::{
    Stop, mark,
    node::{Node, Pair, Value, quoted},
    too_deep,
};
use crate::{
    parse::ParseLimits,
    report::{Mark, Report},
};

const MERGE: &str = "<<";

pub(crate) struct Builder {
    max_depth: usize,
    max_nodes: usize,
    nodes: usize,
    /// Collections that are still open, outermost first.
    open: Vec<Frame>,
    root: Option<Rc<Node>>,
    /// By the parser's number; None = still open, so an alias to it would contain itself.
    anchors: BTreeMap<usize, Option<Rc<Node>>>,
}

struct Frame {
    mark: Mark,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Rc<Node>>),
    Mapping {
        pairs: Vec<Pair>,
        seen: BTreeMap<Rc<str>, Mark>,
        /// Read, its value not yet.
        key: Option<(Rc<str>, Mark)>,
        /// Values of `<<`.
        merged: Vec<Rc<Node>>,
    },
}

impl Builder {
    pub(crate) fn new(limits: &ParseLimits) -> Self {
        Self {
            max_depth: limits.max_depth,
            max_nodes: limits.max_nodes,
            nodes: 0,
            open: Vec::new(),
            root: None,
            anchors: BTreeMap::new(),
        }
    }

    /// Forgets the document that was begun.
    pub(crate) fn abandon(&mut self) {
        self.open.clear();
        self.root = None;
        self.anchors.clear();
    }

    /// Takes the next event; gives the root when a document ends that is not empty.
    pub(crate) fn take(
        &mut self,
        event: Event<'_>,
        span: Span,
        report: &mut Report,
    ) -> Result<Option<Rc<Node>>, Stop> {
        let mark = mark(span);
        match event {
            Event::DocumentStart(..) => self.abandon(),
            Event::DocumentEnd => {
                let root = self.root.take();
                self.abandon();
                return Ok(root.filter(|root| !matches!(root.value, Value::Null)));
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.charge(1, mark)?;
                let length = text.len();
                let value = scalar(text.into_owned(), style, tag.as_deref(), mark, report);
                let node = Rc::new(Node::scalar(mark, value, length));
                self.define(anchor, &node);
                self.place(node, mark, report)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), "seq", mark, report);
                self.open(mark, anchor, Content::Sequence(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), "map", mark, report);
                self.open(mark, anchor, Content::mapping())?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(report)?,
            Event::Alias(anchor) => {
                let node = self.aliased(anchor, mark)?;
                self.place(node, mark, report)?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn charge(&mut self, weight: usize, mark: Mark) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(weight);
        if self.nodes <= self.max_nodes {
            return Ok(());
        }
        let message = format!(
            "more than {} values up to here, aliases counted in full; split the file, or write out \
             what its aliases (*) stand for",
            self.max_nodes
        );
        Err(Stop::Refused(mark, message))
    }

    fn aliased(&mut self, anchor: usize, mark: Mark) -> Result<Rc<Node>, Stop> {
        let Some(Some(node)) = self.anchors.get(&anchor).cloned() else {
            let message =
                "this alias stands inside the value that it refers to; write the value out";
            return Err(Stop::Refused(mark, message.to_owned()));
        };
        self.charge(node.weight, mark)?;
        if self.open.len() + node.height > self.max_depth {
            return Err(Stop::Refused(mark, too_deep(self.max_depth)));
        }
        Ok(node)
    }

    fn define(&mut self, anchor: usize, node: &Rc<Node>) {
        if anchor != 0 {
            self.anchors.insert(anchor, Some(Rc::clone(node)));
        }
    }

    fn open(&mut self, mark: Mark, anchor: usize, content: Content) -> Result<(), Stop> {
        self.charge(1, mark)?;
        if self.open.len() >= self.max_depth {
            return Err(Stop::Refused(mark, too_deep(self.max_depth)));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        self.open.push(Frame {
            mark,
            anchor,
            content,
        });
        Ok(())
    }

    fn close(&mut self, report: &mut Report) -> Result<(), Stop> {
        let Some(Frame {
            mark,
            anchor,
            content,
        }) = self.open.pop()
        else {
            return Ok(());
        };
        let node = match content {
            Content::Sequence(items) => Node::sequence(mark, items),
            Content::Mapping {
                mut pairs,
                mut seen,
                merged,
                ..
            } => {
                for node in &merged {
                    merge(&mut pairs, &mut seen, node, report);
                }
                Node::mapping(mark, pairs)
            }
        };
        let node = Rc::new(node);
        self.define(anchor, &node);
        self.place(node, mark, report)
    }

    /// Puts a finished node where it belongs: the root, an item, a key or a value.
    fn place(&mut self, node: Rc<Node>, mark: Mark, report: &mut Report) -> Result<(), Stop> {
        let Some(frame) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut frame.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping {
                pairs,
                seen,
                key,
                merged,
            } => match key.take() {
                None => *key = Some((key_text(&node, mark, report), mark)),
                Some((name, at)) => {
                    if let Some(first) = seen.get(&name) {
                        let message = format!(
                            "the key {} is there twice, first in {}; keep one",
                            quoted(&name),
                            report.place(*first)
                        );
                        report.error(at, String::new(), message);
                        return Ok(());
                    }
                    seen.insert(Rc::clone(&name), at);
                    if &*name == MERGE {
                        merged.push(node);
                    } else {
                        pairs.push(Pair {
                            key: name,
                            mark: at,
                            value: node,
                        });
                    }
                }
            },
        }
        Ok(())
    }
}

impl Content {
    fn mapping() -> Self {
        Self::Mapping {
            pairs: Vec::new(),
            seen: BTreeMap::new(),
            key: None,
            merged: Vec::new(),
        }
    }
}

fn key_text(node: &Node, mark: Mark, report: &mut Report) -> Rc<str> {
    match &node.value {
        Value::Text { text, .. } | Value::Number(text) => text.as_str().into(),
        Value::Bool(value) => if *value { "true" } else { "false" }.into(),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => {
            let message = format!("found {} as a key, want a text", node.describe());
            report.error(mark, String::new(), message);
            // Unique, so that the message stays the only one.
            format!("key of line {}, column {}", mark.line, mark.column).into()
        }
    }
}

/// Adds what `node` has and the mapping does not, as `<<` says.
fn merge(
    pairs: &mut Vec<Pair>,
    seen: &mut BTreeMap<Rc<str>, Mark>,
    node: &Node,
    report: &mut Report,
) {
    match &node.value {
        Value::Mapping(others) => {
            for other in others {
                if !seen.contains_key(&other.key) {
                    seen.insert(Rc::clone(&other.key), other.mark);
                    pairs.push(other.clone());
                }
            }
        }
        Value::Sequence(nodes) if nodes.iter().all(|n| matches!(n.value, Value::Mapping(_))) => {
            for node in nodes {
                merge(pairs, seen, node, report);
            }
        }
        _ => {
            let message = format!("\"<<\" merges mappings; found {}", node.describe());
            report.error(node.mark, String::new(), message);
        }
    }
}

fn refuse_tag(tag: Option<&Tag>, allowed: &str, mark: Mark, report: &mut Report) {
    if let Some(tag) = tag
        && tag.core_suffix() != Some(allowed)
    {
        let message = format!(
            "the tag {} has no meaning here; remove it",
            quoted(&tag.original())
        );
        report.error(mark, String::new(), message);
    }
}

fn scalar(
    text: String,
    style: ScalarStyle,
    tag: Option<&Tag>,
    mark: Mark,
    report: &mut Report,
) -> Value {
    let plain = style == ScalarStyle::Plain;
    match tag.map(|tag| (tag.core_suffix(), tag)) {
        None if plain => resolve(text),
        None => Value::Text { text, plain },
        Some((Some("str"), _)) => Value::Text { text, plain: false },
        // What the tag says and what the text looks like have to agree.
        Some((Some(suffix), tag)) => {
            let value = resolve(text);
            let agree = match &value {
                Value::Null => suffix == "null",
                Value::Bool(_) => suffix == "bool",
                Value::Number(_) => suffix == "int" || suffix == "float",
                _ => false,
            };
            if !agree {
                let message = format!(
                    "{} does not fit its tag {}; remove the tag",
                    Node::scalar(mark, value, 0).describe(),
                    quoted(&tag.original())
                );
                report.error(mark, String::new(), message);
                return Value::Null;
            }
            value
        }
        Some((None, tag)) if tag.original() == "!" => Value::Text { text, plain: false },
        Some((None, _)) => {
            refuse_tag(tag, "str", mark, report);
            Value::Text { text, plain }
        }
    }
}

/// The type of a text without quotes: YAML 1.2 core schema.
fn resolve(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ if is_number(&text) => Value::Number(text),
        _ => Value::Text { text, plain: true },
    }
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if let Some(digits) = text.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    }
    if matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let whole = mantissa.split_once('.').map_or_else(
        || !mantissa.is_empty() && digits(mantissa),
        |(a, b)| digits(a) && digits(b) && !(a.is_empty() && b.is_empty()),
    );
    let power = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    whole && power
}
