//! Typed values out of YAML nodes, with the field path of whatever is wrong.
//!
//! Every function reports and returns None instead of stopping, so that one call finds all errors of a
//! file; a value that was refused leaves a hole that nobody sees, because a file with an error is not
//! applied. `null` counts as absent in a field (as in Kubernetes), never in a list or a map.

mod values;

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, rc::Rc};

pub(crate) use self::values::{
    SELECTOR, check_header_name, check_header_value, dns_fault, dns_label, duration, enumeration,
    header_name, header_name_fault, host, ip_address, label_key_fault, label_map, object_name,
    port, positive, positive_duration, regex, workload_selector,
};
use crate::{
    At, Position,
    report::{Mark, Report},
    suggest::{hint, nearest},
    yaml::{Node, Pair, Value, quoted},
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
    parent: Option<&'a Path<'a>>,
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

/// What a mapping may hold.
pub(crate) struct Shape {
    /// With its article, for messages: `a route`.
    pub(crate) what: &'static str,
    pub(crate) fields: &'static [&'static str],
    /// Istio has these, this program does not act on them.
    pub(crate) not_yet: &'static [&'static str],
}

/// An opened mapping whose keys are all known.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) item: Item<'a>,
    pairs: &'a [Pair],
}

impl<'a> Fields<'a> {
    /// The pairs of a mapping, before it is known what may be in it.
    pub(crate) fn peek(item: Item<'a>) -> Option<Self> {
        let Value::Mapping(pairs) = &item.node.value else {
            return None;
        };
        Some(Self { item, pairs })
    }

    /// Refuses what is no mapping, and every key that `shape` does not know.
    pub(crate) fn open(d: &mut Decoder, item: Item<'a>, shape: &Shape) -> Option<Self> {
        let Value::Mapping(pairs) = &item.node.value else {
            let want = format!("{}: a mapping with {}", shape.what, shape.fields.join(", "));
            d.mismatch(item, &want);
            return None;
        };
        for (index, pair) in pairs.iter().enumerate() {
            if let Some(message) = objection(d, shape, pairs, index) {
                let path = item.path.field(&pair.key).to_string();
                d.report.error(pair.mark, path, message);
            }
        }
        Some(Self { item, pairs })
    }

    /// The pair, unless absent or null.
    fn pair(&self, name: &str) -> Option<&'a Pair> {
        let pair = self.pairs.iter().find(|pair| &*pair.key == name)?;
        (!matches!(pair.value.value, Value::Null)).then_some(pair)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.pair(name).is_some()
    }

    /// Which of `names` are there.
    pub(crate) fn present(&self, names: &[&'static str]) -> Vec<&'static str> {
        names
            .iter()
            .copied()
            .filter(|name| self.has(name))
            .collect()
    }

    /// The field, decoded; None if absent or refused.
    pub(crate) fn optional<T>(
        &self,
        d: &mut Decoder,
        name: &str,
        decode: impl FnOnce(&mut Decoder, Item<'_>) -> Option<T>,
    ) -> Option<T> {
        let pair = self.pair(name)?;
        let path = self.item.path.field(name);
        let item = Item {
            node: &pair.value,
            path: &path,
        };
        decode(d, item)
    }

    /// The field, decoded, with its place.
    pub(crate) fn optional_at<T>(
        &self,
        d: &mut Decoder,
        name: &str,
        decode: impl FnOnce(&mut Decoder, Item<'_>) -> Option<T>,
    ) -> Option<At<T>> {
        self.optional(d, name, |d, item| at(d, item, decode))
    }

    /// As [`Self::optional`]; an absent field is an error that says what is wanted.
    pub(crate) fn required<T>(
        &self,
        d: &mut Decoder,
        name: &str,
        want: &str,
        decode: impl FnOnce(&mut Decoder, Item<'_>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(name) {
            self.refuse(d, name, format!("missing; want {want}"));
            return None;
        }
        self.optional(d, name, decode)
    }

    /// As [`Self::required`], with its place.
    pub(crate) fn required_at<T>(
        &self,
        d: &mut Decoder,
        name: &str,
        want: &str,
        decode: impl FnOnce(&mut Decoder, Item<'_>) -> Option<T>,
    ) -> Option<At<T>> {
        self.required(d, name, want, |d, item| at(d, item, decode))
    }

    /// Reports about a field: at its value, or at the mapping where it is absent.
    pub(crate) fn refuse(&self, d: &mut Decoder, name: &str, message: impl Into<String>) {
        // A key without a value is a better place than the mapping that it is in.
        let pair = self.pairs.iter().find(|pair| &*pair.key == name);
        let mark = pair.map_or(self.item.node.mark, |pair| match pair.value.value {
            Value::Null => pair.mark,
            _ => pair.value.mark,
        });
        d.report
            .error(mark, self.item.path.field(name).to_string(), message);
    }

    /// Refuses `name` where it is there.
    pub(crate) fn refuse_if_present(&self, d: &mut Decoder, name: &str, message: &str) {
        if self.has(name) {
            self.refuse(d, name, message);
        }
    }

    /// True if exactly one of `names` is there; else reports.
    pub(crate) fn exactly_one(&self, d: &mut Decoder, names: &[&'static str]) -> bool {
        let present = self.present(names);
        match present.as_slice() {
            [_] => true,
            [] => {
                let message = format!("missing: want one of {}", names.join(", "));
                d.refuse(self.item, message);
                false
            }
            [_, second, ..] => {
                let message = format!("found {}; only one of them can be", present.join(" and "));
                self.refuse(d, second, message);
                false
            }
        }
    }
}

/// What is wrong with a key, if anything.
fn objection(d: &Decoder, shape: &Shape, pairs: &[Pair], index: usize) -> Option<String> {
    let pair = pairs.get(index)?;
    let key = &*pair.key;
    if shape.fields.contains(&key) {
        return None;
    }
    if shape.not_yet.contains(&key) {
        return Some("not supported yet; remove it, nothing would act on it".to_owned());
    }
    let known = shape.fields.iter().chain(shape.not_yet).copied();
    if let Some(near) = nearest(key, known) {
        return Some(format!("unknown field; did you mean {near:?}?"));
    }
    // `metadata:` with nothing under it, then `name:` beside it: the indentation is gone.
    let empty = pairs.iter().take(index).rev();
    let hollow = empty.take_while(|p| p.mark.column == pair.mark.column);
    if let Some(parent) = hollow
        .filter(|p| shape.fields.contains(&&*p.key))
        .find(|p| matches!(p.value.value, Value::Null))
    {
        return Some(format!(
            "unknown field; if it belongs to the empty {:?} of {}, indent it",
            &*parent.key,
            d.report.place(parent.mark)
        ));
    }
    Some(format!(
        "unknown field; {} has {}",
        shape.what,
        shape.fields.join(", ")
    ))
}

/// With its place.
pub(crate) fn at<T>(
    d: &mut Decoder,
    item: Item<'_>,
    decode: impl FnOnce(&mut Decoder, Item<'_>) -> Option<T>,
) -> Option<At<T>> {
    let position = d.position(item);
    decode(d, item).map(|value| At { value, position })
}

/// Words that other readers of YAML (1.1, among them kubectl) take for a boolean.
const OLD_BOOLEANS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];

/// A text; a number or boolean is refused, because `1.10` would become `1.1` elsewhere.
pub(crate) fn text(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    match &item.node.value {
        Value::Text { text, plain } => {
            if *plain
                && OLD_BOOLEANS
                    .iter()
                    .any(|word| text.eq_ignore_ascii_case(word))
            {
                let message = format!(
                    "found {text} without quotes, which kubectl reads as a boolean; write \"{text}\""
                );
                d.refuse(item, message);
                return None;
            }
            Some(text.clone())
        }
        Value::Bool(value) => {
            d.mismatch(item, &format!("a text; write \"{value}\" in quotes"));
            None
        }
        Value::Number(number) => {
            d.mismatch(item, &format!("a text; write {} in quotes", quoted(number)));
            None
        }
        _ => {
            d.mismatch(item, "a text");
            None
        }
    }
}

/// A text of at least one character.
pub(crate) fn filled_text(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let text = text(d, item)?;
    if text.is_empty() {
        d.refuse(item, "found an empty text; write one, or remove the field");
        return None;
    }
    Some(text)
}

pub(crate) fn boolean(d: &mut Decoder, item: Item<'_>) -> Option<bool> {
    if let Value::Bool(value) = item.node.value {
        return Some(value);
    }
    d.mismatch(item, "true or false");
    None
}

/// A whole number in a range.
pub(crate) fn integer(d: &mut Decoder, item: Item<'_>, range: RangeInclusive<u64>) -> Option<u64> {
    let want = format!("a whole number from {} to {}", range.start(), range.end());
    let Value::Number(number) = &item.node.value else {
        if let Value::Text { text, plain: false } = &item.node.value
            && text.parse::<u64>().is_ok()
        {
            d.mismatch(item, &format!("{want}; remove the quotes"));
        } else {
            d.mismatch(item, &want);
        }
        return None;
    };
    if number.len() > 1 && number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit()) {
        // kubectl reads it as octal.
        d.mismatch(item, &format!("{want}, without leading zeros"));
        return None;
    }
    let parsed = match (number.strip_prefix("0x"), number.strip_prefix("0o")) {
        (Some(digits), _) => u64::from_str_radix(digits, 16).ok(),
        (_, Some(digits)) => u64::from_str_radix(digits, 8).ok(),
        _ => number.parse::<u64>().ok(),
    };
    let value = parsed.filter(|value| range.contains(value));
    if value.is_none() {
        d.mismatch(item, &want);
    }
    value
}

/// A whole number in a range that fits 32 bits.
pub(crate) fn integer32(
    d: &mut Decoder,
    item: Item<'_>,
    range: RangeInclusive<u32>,
) -> Option<u32> {
    let wide = u64::from(*range.start())..=u64::from(*range.end());
    integer(d, item, wide).and_then(|value| u32::try_from(value).ok())
}

/// A list, each item decoded; refused items are left out.
pub(crate) fn list<T>(
    d: &mut Decoder,
    item: Item<'_>,
    mut decode: impl FnMut(&mut Decoder, Item<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let Value::Sequence(nodes) = &item.node.value else {
        d.mismatch(item, "a list (lines that start with \"- \")");
        return None;
    };
    Some(
        elements(item.path, nodes, |element| decode(d, element))
            .into_iter()
            .flatten()
            .collect(),
    )
}

/// A list with at least one item.
pub(crate) fn filled_list<T>(
    d: &mut Decoder,
    item: Item<'_>,
    decode: impl FnMut(&mut Decoder, Item<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    if matches!(&item.node.value, Value::Sequence(nodes) if nodes.is_empty()) {
        d.refuse(item, "found an empty list, want at least one item");
        return None;
    }
    list(d, item, decode)
}

fn elements<T>(
    path: &Path<'_>,
    nodes: &[Rc<Node>],
    mut decode: impl FnMut(Item<'_>) -> T,
) -> Vec<T> {
    let decode = |(index, node): (usize, &Rc<Node>)| {
        let path = path.index(index);
        decode(Item { node, path: &path })
    };
    nodes.iter().enumerate().map(decode).collect()
}

/// A mapping with free keys. `decode` gets the key, an item for messages about the key, and the value.
pub(crate) fn map<T>(
    d: &mut Decoder,
    item: Item<'_>,
    want: &str,
    mut decode: impl FnMut(&mut Decoder, Key<'_>, Item<'_>) -> Option<(String, T)>,
) -> Option<BTreeMap<String, T>> {
    let Value::Mapping(pairs) = &item.node.value else {
        d.mismatch(item, want);
        return None;
    };
    let mut entries = BTreeMap::new();
    for pair in pairs {
        let path = item.path.field(&pair.key);
        let key = Key {
            text: &pair.key,
            mark: pair.mark,
            path: &path,
        };
        let value = Item {
            node: &pair.value,
            path: &path,
        };
        let Some((name, entry)) = decode(d, key, value) else {
            continue;
        };
        if entries.contains_key(&name) {
            key.refuse(
                d,
                format!(
                    "{} is there twice in another letter case; keep one",
                    quoted(&name)
                ),
            );
        }
        entries.insert(name, entry);
    }
    Some(entries)
}

/// A key of a mapping with free keys.
#[derive(Clone, Copy)]
pub(crate) struct Key<'a> {
    pub(crate) text: &'a str,
    mark: Mark,
    path: &'a Path<'a>,
}

impl Key<'_> {
    pub(crate) fn refuse(&self, d: &mut Decoder, message: impl Into<String>) {
        d.report.error(self.mark, self.path.to_string(), message);
    }
}

/// Refuses each item that was there before. `name` gives what has to differ and where it stands; `list`
/// and `field` make the path.
pub(crate) fn refuse_twice<T>(
    d: &mut Decoder,
    fields: &Fields<'_>,
    (list, field): (&str, &str),
    items: &[T],
    name: impl Fn(&T) -> (String, Position),
    advice: &str,
) {
    let mut seen: BTreeMap<String, Position> = BTreeMap::new();
    for item in items {
        let (text, position) = name(item);
        if let Some(first) = seen.get(&text) {
            let message = format!(
                "{} is used twice, first in line {}, column {}; {advice}",
                quoted(&text),
                first.line,
                first.column
            );
            let index = index_of(d, fields, list, &position);
            let path = format!("{}[{index}]{field}", fields.item.path.field(list));
            d.report.error_at(position, path, message);
        } else {
            seen.insert(text, position);
        }
    }
}

/// The item of `list` in which `position` stands. Counted in the text, because items that were refused are
/// not among the decoded ones.
fn index_of(d: &Decoder, fields: &Fields<'_>, list: &str, position: &Position) -> usize {
    let Some(Value::Sequence(nodes)) = fields.pair(list).map(|pair| &pair.value.value) else {
        return 0;
    };
    let before = |node: &Rc<Node>| d.report.position(node.mark) <= *position;
    nodes.iter().rposition(before).unwrap_or(0)
}

/// `; did you mean` for a value out of a closed set.
pub(crate) fn unknown_word(found: &str, what: &str, known: &[&str]) -> String {
    format!(
        "found {}, want {what}: {}{}",
        quoted(found),
        known.join(", "),
        hint(found, known.iter().copied())
    )
}
