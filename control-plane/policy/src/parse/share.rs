//! `percentage: {value: 0.5}` and the old whole `percent`: a share of requests.

use crate::{
    Share,
    decode::{Decoder, Fields, Item, Shape, integer32, number},
};

pub(super) const PERCENTAGE: Shape = Shape {
    what: "a percentage",
    fields: &["value"],
    not_yet: &[],
};

/// Millionths in one percent.
const OF_ONE_PERCENT: f64 = 10_000.0;

/// `{value: 0.5}`.
pub(super) fn percentage(d: &mut Decoder, item: Item<'_>) -> Option<Share> {
    let fields = Fields::open(d, item, &PERCENTAGE)?;
    fields.required(d, "value", "a number from 0 to 100", |d, item| {
        let percent = number(d, item, 0.0..=100.0)?;
        let millionths = (percent * OF_ONE_PERCENT).round();
        if percent > 0.0 && millionths < 1.0 {
            d.refuse(
                item,
                "is less than one request in a million; want 0.0001 or more, or 0",
            );
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 1,000,000, rounded"
        )]
        Some(Share(millionths as u32))
    })
}

/// A whole percentage, as old documents have it.
pub(super) fn percent(d: &mut Decoder, item: Item<'_>) -> Option<Share> {
    integer32(d, item, 0..=100).map(|percent| Share(percent * 10_000))
}

/// One of several spellings of the same share; all requests where there is none.
pub(super) fn share(d: &mut Decoder, fields: &Fields<'_>, names: &[&'static str]) -> Share {
    if fields.present(names).len() > 1 {
        fields.exactly_one(d, names);
    }
    let mut found = None;
    for name in names {
        let decode = if name.ends_with("ercentage") {
            percentage
        } else {
            percent
        };
        found = found.or_else(|| fields.optional(d, name, decode));
    }
    found.unwrap_or(Share::ALL)
}
