//! Mappings with known keys: what may be in them, what is missing, what is there once too often.

use std::{collections::BTreeMap, rc::Rc};

use super::{Decoder, Item, at};
use crate::{
    At, Position,
    suggest::nearest,
    yaml::{Node, Pair, Value, quoted},
};

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
            // What is wrong with the rest would not be kept, and finding out is quadratic.
            if d.report.full() {
                break;
            }
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

/// What to write instead of fields that are not supported yet, where there is something.
const INSTEAD: [(&str, &str); 2] = [
    (
        "consecutiveErrors",
        "Istio has removed it; write consecutive5xxErrors",
    ),
    (
        "credentialName",
        "it names a Kubernetes Secret; write files: clientCertificate, privateKey, caCertificates",
    ),
];

/// What is wrong with a key, if anything.
fn objection(d: &Decoder, shape: &Shape, pairs: &[Pair], index: usize) -> Option<String> {
    let pair = pairs.get(index)?;
    let key = &*pair.key;
    if shape.fields.contains(&key) {
        return None;
    }
    if shape.not_yet.contains(&key) {
        let instead = INSTEAD.iter().find(|(field, _)| *field == key);
        let advice = instead.map_or("remove it, nothing would act on it", |(_, advice)| *advice);
        return Some(format!("not supported yet; {advice}"));
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
        if d.report.full() {
            break;
        }
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
