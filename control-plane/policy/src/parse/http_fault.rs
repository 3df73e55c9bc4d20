//! `fault`: delays and failures that are put in on purpose.
//! Source: Istio `networking/v1` HTTPFaultInjection.

use super::share::share;
use crate::{
    AbortStatus, Fault, FaultAbort, FaultDelay,
    decode::{
        Decoder, Fields, Item, Shape, filled_text, integer32, positive_duration, unknown_word,
    },
    yaml::Value,
};

pub(super) const FAULT: Shape = Shape {
    what: "a fault",
    fields: &["delay", "abort"],
    not_yet: &[],
};
pub(super) const DELAY: Shape = Shape {
    what: "a delay",
    fields: &["fixedDelay", "percentage", "percent"],
    not_yet: &["exponentialDelay"],
};
pub(super) const ABORT: Shape = Shape {
    what: "an abort",
    fields: &["httpStatus", "grpcStatus", "percentage", "percent"],
    not_yet: &["http2Error"],
};

const SHARES: [&str; 2] = ["percentage", "percent"];

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<Fault> {
    let fields = Fields::open(d, item, &FAULT)?;
    if fields.present(FAULT.fields).is_empty() {
        d.refuse(item, "does nothing; want delay, abort or both");
    }
    Some(Fault {
        delay: fields.optional(d, "delay", delay),
        abort: fields.optional(d, "abort", abort),
    })
}

fn delay(d: &mut Decoder, item: Item<'_>) -> Option<FaultDelay> {
    let fields = Fields::open(d, item, &DELAY)?;
    let want = "how long to wait, such as 5s";
    let fixed_delay = fields.required(d, "fixedDelay", want, positive_duration);
    Some(FaultDelay {
        share: share(d, &fields, &SHARES),
        fixed_delay: fixed_delay?,
    })
}

fn abort(d: &mut Decoder, item: Item<'_>) -> Option<FaultAbort> {
    let fields = Fields::open(d, item, &ABORT)?;
    let one = fields.has("http2Error") || fields.exactly_one(d, &["httpStatus", "grpcStatus"]);
    let http = fields.optional(d, "httpStatus", |d, item| {
        let status = integer32(d, item, 200..=599)?;
        u16::try_from(status).ok().map(AbortStatus::Http)
    });
    let grpc = fields.optional(d, "grpcStatus", grpc_status);
    let share = share(d, &fields, &SHARES);
    let status = http.or(grpc).filter(|_| one)?;
    Some(FaultAbort { share, status })
}

/// By number (gRPC's `statuscodes`).
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A name, or a number with or without quotes.
fn grpc_status(d: &mut Decoder, item: Item<'_>) -> Option<AbortStatus> {
    if matches!(item.node.value, Value::Number(_)) {
        let number = integer32(d, item, 0..=16)?;
        return u16::try_from(number).ok().map(AbortStatus::Grpc);
    }
    let found = filled_text(d, item)?;
    let number = found.parse::<usize>().ok().filter(|n| *n < GRPC.len());
    let number = number.or_else(|| GRPC.iter().position(|name| *name == found));
    if number.is_none() {
        let what = "a gRPC status by name, or by number from 0 to 16";
        d.refuse(item, unknown_word(&found, what, &GRPC));
    }
    u16::try_from(number?).ok().map(AbortStatus::Grpc)
}
