//! Texts, numbers, lists and maps with free keys: what every field is made of.

use std::{collections::BTreeMap, ops::RangeInclusive, rc::Rc};

use super::{Decoder, Item, Path};
use crate::{
    At,
    report::Mark,
    suggest::hint,
    yaml::{Node, Value, quoted},
};

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

/// A number in a range, with decimals or without.
pub(crate) fn number(d: &mut Decoder, item: Item<'_>, range: RangeInclusive<f64>) -> Option<f64> {
    let value = match &item.node.value {
        Value::Number(number) => number.parse::<f64>().ok(),
        _ => None,
    };
    let value = value.filter(|value| range.contains(value));
    if value.is_none() {
        let want = format!("a number from {} to {}", range.start(), range.end());
        d.mismatch(item, &want);
    }
    value
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

/// `; did you mean` for a value out of a closed set.
pub(crate) fn unknown_word(found: &str, what: &str, known: &[&str]) -> String {
    format!(
        "found {}, want {what}: {}{}",
        quoted(found),
        known.join(", "),
        hint(found, known.iter().copied())
    )
}
