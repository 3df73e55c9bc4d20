//! `headers` of a rule or a destination: what is removed, set and added on the way there and back.

use std::collections::BTreeMap;

use crate::{
    HeaderEdits, HeaderOps,
    decode::{
        Decoder, Fields, Item, Shape, Way, check_header_name, check_header_value, edit_fault,
        filled_text, header_name_fault, list, map,
    },
    yaml::quoted,
};

pub(super) const HEADERS: Shape = Shape {
    what: "headers",
    fields: &["request", "response"],
    not_yet: &[],
};
pub(super) const OPERATIONS: Shape = Shape {
    what: "header operations",
    fields: &["set", "add", "remove"],
    not_yet: &[],
};

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<HeaderEdits> {
    let fields = Fields::open(d, item, &HEADERS)?;
    let mut ops = |name: &str, way: Way| {
        fields
            .optional(d, name, |d, item| header_ops(d, item, way))
            .unwrap_or_default()
    };
    Some(HeaderEdits {
        request: ops("request", Way::Request),
        response: ops("response", Way::Response),
    })
}

fn header_ops(d: &mut Decoder, item: Item<'_>, way: Way) -> Option<HeaderOps> {
    let fields = Fields::open(d, item, &OPERATIONS)?;
    let mut values = |name: &str| {
        fields
            .optional(d, name, |d, item| header_values(d, item, way))
            .unwrap_or_default()
    };
    let (set, add) = (values("set"), values("add"));
    let remove = fields.optional(d, "remove", |d, item| {
        list(d, item, |d, item| {
            let name = filled_text(d, item)?;
            if let Some(fault) = header_name_fault(&name).or_else(|| edit_fault(&name)) {
                d.refuse(item, fault);
                return None;
            }
            Some(name)
        })
    });
    Some(HeaderOps {
        set,
        add,
        remove: remove.unwrap_or_default(),
    })
}

/// Names keep their letter case: it survives on HTTP/1.1.
fn header_values(d: &mut Decoder, item: Item<'_>, way: Way) -> Option<BTreeMap<String, String>> {
    let mut lower = BTreeMap::new();
    map(d, item, "header names and values", |d, key, value| {
        if !check_header_name(d, key) {
            return None;
        }
        if let Some(fault) = edit_fault(key.text) {
            key.refuse(d, fault);
            return None;
        }
        if let Some(other) = lower.insert(key.text.to_ascii_lowercase(), key.text.to_owned()) {
            key.refuse(
                d,
                format!("is the same header as {}; keep one", quoted(&other)),
            );
        }
        Some((key.text.to_owned(), check_header_value(d, value, way)?))
    })
}
