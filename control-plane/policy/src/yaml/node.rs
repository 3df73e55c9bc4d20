//! The tree that YAML text becomes: values with their place, scalars with their type as YAML 1.2 sees it.

use std::{ops::Range, rc::Rc};

use crate::report::Mark;

/// One YAML document that is not empty.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) root: Rc<Node>,
    /// Its bytes in the text, without the `---`.
    pub(crate) text: Range<usize>,
    /// Where these bytes start.
    pub(crate) start: Mark,
    /// Its number among the documents of the text, empty ones counted.
    pub(crate) number: usize,
}

/// One value. Shared where an alias refers to it: its place is then where it was written.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) mark: Mark,
    pub(crate) value: Value,
    /// Values in it, itself included; long texts count for more.
    pub(crate) weight: usize,
    /// Levels below it.
    pub(crate) height: usize,
}

#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// As written, because `1.10` and `1.1` are different versions.
    Number(String),
    /// `plain` = without quotes.
    Text {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Rc<Node>>),
    /// In the order of the text, each key once.
    Mapping(Vec<Pair>),
}

/// One entry of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) key: Rc<str>,
    pub(crate) mark: Mark,
    pub(crate) value: Rc<Node>,
}

impl Node {
    pub(crate) fn scalar(mark: Mark, value: Value, length: usize) -> Self {
        Self {
            mark,
            value,
            weight: text_weight(length),
            height: 0,
        }
    }

    pub(crate) fn sequence(mark: Mark, items: Vec<Rc<Self>>) -> Self {
        Self {
            mark,
            weight: items.iter().fold(1, |sum, item| sum_up(sum, item.weight)),
            height: items.iter().map(|item| item.height + 1).max().unwrap_or(0),
            value: Value::Sequence(items),
        }
    }

    pub(crate) fn mapping(mark: Mark, pairs: Vec<Pair>) -> Self {
        let weight = pairs.iter().fold(1, |sum, pair| {
            sum_up(sum_up(sum, text_weight(pair.key.len())), pair.value.weight)
        });
        let height = pairs.iter().map(|pair| pair.value.height + 1).max();
        Self {
            mark,
            weight,
            height: height.unwrap_or(0),
            value: Value::Mapping(pairs),
        }
    }

    /// What stands there, for a message: `the text "abc"`, `a list`.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("{value}"),
            Value::Number(text) => format!("the number {}", shortened(text)),
            Value::Text { text, .. } => format!("the text {}", quoted(text)),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// A text in quotes, cut where it would fill the screen.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(LONGEST).collect();
    short.push('…');
    short
}

const fn text_weight(length: usize) -> usize {
    1 + length / 16
}

fn sum_up(a: usize, b: usize) -> usize {
    a.saturating_add(b)
}
