//! What the kinds of `security.istio.io` share: which workloads they are for, and the annotation that makes them a
//! dry run.
//! Source: Istio `type/v1beta1` WorkloadSelector, PolicyTargetReference.

use std::collections::BTreeMap;

use crate::{
    At,
    decode::{Decoder, Fields, Item, Shape, at, label_map},
};

pub(in crate::parse) const SELECTOR: Shape = Shape {
    what: "a selector",
    fields: &["matchLabels"],
    not_yet: &[],
};

/// `selector`: its labels. None where it is absent or empty, which is every workload of the namespace.
pub(in crate::parse) fn selector(
    d: &mut Decoder,
    fields: &Fields<'_>,
) -> Option<At<BTreeMap<String, String>>> {
    fields
        .optional_at(d, "selector", |d, item| {
            let selector = Fields::open(d, item, &SELECTOR)?;
            Some(
                selector
                    .optional(d, "matchLabels", label_map)
                    .unwrap_or_default(),
            )
        })
        .filter(|labels| !labels.value.is_empty())
}

/// Where a list would be, `want` says what an empty one could be taken for.
pub(in crate::parse) fn some<T>(
    d: &mut Decoder,
    item: Item<'_>,
    decode: impl FnMut(&mut Decoder, Item<'_>) -> Option<T>,
) -> Option<Vec<At<T>>> {
    let mut decode = decode;
    crate::decode::filled_list(d, item, |d, item| at(d, item, &mut decode))
}
