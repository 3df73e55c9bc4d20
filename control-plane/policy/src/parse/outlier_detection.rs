//! `outlierDetection`: when an endpoint is taken out for a while.
//! Source: Istio `networking/v1` OutlierDetection and its validation.

use std::time::Duration;

use crate::{
    OutlierDetection,
    decode::{Decoder, Fields, Item, Shape, boolean, integer32, positive_duration},
};

pub(super) const OUTLIER_DETECTION: Shape = Shape {
    what: "an outlier detection",
    fields: &[
        "consecutive5xxErrors",
        "consecutiveGatewayErrors",
        "splitExternalLocalOriginErrors",
        "consecutiveLocalOriginFailures",
        "interval",
        "baseEjectionTime",
        "maxEjectionPercent",
        "minHealthPercent",
    ],
    not_yet: &["consecutiveErrors"],
};

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<OutlierDetection> {
    let fields = Fields::open(d, item, &OUTLIER_DETECTION)?;
    let count = |d: &mut Decoder, item: Item<'_>| integer32(d, item, 0..=i32::MAX.unsigned_abs());
    let percent = |d: &mut Decoder, item: Item<'_>| integer32(d, item, 0..=100);
    let time = |d: &mut Decoder, name: &str, default: u64| {
        fields
            .optional(d, name, positive_duration)
            .unwrap_or_else(|| Duration::from_secs(default))
    };
    let split = fields.optional(d, "splitExternalLocalOriginErrors", boolean);
    let split = split.unwrap_or(false);
    if !split {
        let message =
            "has no effect without splitExternalLocalOriginErrors: true; add that, or remove it";
        fields.refuse_if_present(d, "consecutiveLocalOriginFailures", message);
    }
    Some(OutlierDetection {
        interval: time(d, "interval", 10),
        base_ejection_time: time(d, "baseEjectionTime", 30),
        consecutive_5xx_errors: fields
            .optional(d, "consecutive5xxErrors", count)
            .unwrap_or(5),
        consecutive_gateway_errors: fields
            .optional(d, "consecutiveGatewayErrors", count)
            .unwrap_or(0),
        max_ejection_percent: fields
            .optional(d, "maxEjectionPercent", percent)
            .unwrap_or(10),
        min_health_percent: fields.optional(d, "minHealthPercent", percent).unwrap_or(0),
        split_external_local_origin_errors: split,
        consecutive_local_origin_failures: fields
            .optional(d, "consecutiveLocalOriginFailures", count)
            .unwrap_or(5),
    })
}
