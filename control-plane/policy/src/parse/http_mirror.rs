//! `mirrors`, and `mirror` with its three spellings of a share: copies of requests.

use super::{
    destination::destination,
    share::{percentage, share},
};
use crate::{
    Mirror, Share,
    decode::{Decoder, Fields, Item, Shape, filled_list},
};

pub(super) const MIRROR: Shape = Shape {
    what: "a mirror",
    fields: &["destination", "percentage"],
    not_yet: &[],
};

/// Shares of `mirror`, the newest spelling first.
pub(super) const SHARES: [&str; 3] = ["mirrorPercentage", "mirrorPercent", "mirror_percent"];

/// Reads them from a rule.
pub(super) fn of_rule(d: &mut Decoder, rule: &Fields<'_>) -> Vec<Mirror> {
    let both = ["mirror", "mirrors"];
    if rule.present(&both).len() > 1 {
        rule.exactly_one(d, &both);
    }
    let one = rule.optional(d, "mirror", |d, item| {
        let (host, subset, port) = destination(d, item)?;
        Some(Mirror {
            position: d.position(item),
            host,
            subset,
            port,
            share: Share::ALL,
            path: "mirror".to_owned(),
        })
    });
    let share = share(d, rule, &SHARES);
    if !rule.has("mirror") {
        for name in SHARES {
            rule.refuse_if_present(d, name, "has no effect without mirror; remove it");
        }
    }
    if rule.has("mirror") {
        return one.map(|one| Mirror { share, ..one }).into_iter().collect();
    }
    let mut index = 0;
    let several = rule.optional(d, "mirrors", |d, item| {
        filled_list(d, item, |d, item| {
            let path = format!("mirrors[{index}].destination");
            index += 1;
            mirror(d, item, path)
        })
    });
    several.unwrap_or_default()
}

fn mirror(d: &mut Decoder, item: Item<'_>, path: String) -> Option<Mirror> {
    let fields = Fields::open(d, item, &MIRROR)?;
    let to = fields.required(d, "destination", "where copies go", destination);
    let share = fields.optional(d, "percentage", percentage);
    let (host, subset, port) = to?;
    Some(Mirror {
        position: d.position(item),
        host,
        subset,
        port,
        share: share.unwrap_or(Share::ALL),
        path,
    })
}
