//! Trace context in headers: W3C and B3 in, W3C always out, and the form that came in.
//!
//! A malformed, all-zero or version `ff` traceparent starts a new trace; a later version is continued. Of the flags
//! only bit 0 is ours. Sources: W3C Trace Context level 1; the B3 specification.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Where a span hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) sampled: bool,
}

/// How the context came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    #[default]
    W3c,
    B3Single,
    B3Multi,
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What headers say about the trace they belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extracted {
    pub(crate) parent: Option<TraceContext>,
    /// A decision without a trace (B3 `0`, or `x-b3-sampled` alone).
    pub(crate) sampled: Option<bool>,
    pub(crate) form: Form,
}

/// Reads W3C, else B3 single, else B3 multi.
pub(crate) fn extract(headers: &HeaderMap) -> Extracted {
    if let Some(parent) = single(headers, &TRACEPARENT).and_then(traceparent) {
        return Extracted {
            parent: Some(parent),
            sampled: Some(parent.sampled),
            form: Form::W3c,
        };
    }
    if let Some(value) = single(headers, &B3) {
        let (parent, sampled) = b3_single(value);
        return Extracted {
            parent,
            sampled,
            form: Form::B3Single,
        };
    }
    if [&B3_TRACE, &B3_SAMPLED, &B3_FLAGS]
        .iter()
        .any(|name| headers.contains_key(*name))
    {
        let (parent, sampled) = b3_multi(headers);
        return Extracted {
            parent,
            sampled,
            form: Form::B3Multi,
        };
    }
    Extracted::default()
}

/// Writes `context`. `continued` = it is of the trace that came in, whose `tracestate` stays then.
pub(crate) fn inject(headers: &mut HeaderMap, context: TraceContext, form: Form, continued: bool) {
    let TraceContext {
        trace_id,
        span_id,
        sampled,
    } = context;
    let flag = u8::from(sampled);
    set(
        headers,
        TRACEPARENT,
        &format!("00-{trace_id:032x}-{span_id:016x}-{flag:02x}"),
    );
    if !continued || form != Form::W3c {
        headers.remove(TRACESTATE);
    }
    match form {
        Form::W3c => {}
        Form::B3Single => set(
            headers,
            B3,
            &format!("{trace_id:032x}-{span_id:016x}-{flag}"),
        ),
        Form::B3Multi => {
            set(headers, B3_TRACE, &format!("{trace_id:032x}"));
            set(headers, B3_SPAN, &format!("{span_id:016x}"));
            headers.remove(B3_PARENT);
            if headers.get(B3_FLAGS).is_none() {
                set(headers, B3_SAMPLED, if sampled { "1" } else { "0" });
            }
        }
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The value of a header that occurs exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

fn traceparent(value: &str) -> Option<TraceContext> {
    let mut parts = value.trim().split('-');
    let version = parts.next()?;
    let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let more = parts.next().is_some();
    if hex(version, 2)? == 0xff || (version == "00" && more) {
        return None;
    }
    let trace_id = hex(trace, 32)?;
    let span_id = u64::try_from(hex(span, 16)?).ok()?;
    let flags = hex(flags, 2)?;
    (trace_id != 0 && span_id != 0).then_some(TraceContext {
        trace_id,
        span_id,
        sampled: flags & 1 == 1,
    })
}

fn b3_single(value: &str) -> (Option<TraceContext>, Option<bool>) {
    let mut parts = value.trim().split('-');
    let Some(trace) = parts.next() else {
        return (None, None);
    };
    let (Some(span), state) = (parts.next(), parts.next()) else {
        return (None, b3_sampled(trace));
    };
    let sampled = state.and_then(b3_sampled);
    (b3_context(trace, span, sampled), sampled)
}

fn b3_multi(headers: &HeaderMap) -> (Option<TraceContext>, Option<bool>) {
    let debug = single(headers, &B3_FLAGS).is_some_and(|flags| flags.trim() == "1");
    let sampled = if debug {
        Some(true)
    } else {
        single(headers, &B3_SAMPLED).and_then(b3_sampled)
    };
    let context = single(headers, &B3_TRACE)
        .zip(single(headers, &B3_SPAN))
        .and_then(|(trace, span)| b3_context(trace, span, sampled));
    (context, sampled)
}

/// An undecided B3 parent counts as sampled: its caller left the decision to us, and a trace with a hole helps nobody.
fn b3_context(trace: &str, span: &str, sampled: Option<bool>) -> Option<TraceContext> {
    let trace_id = match trace.len() {
        16 => hex(trace, 16)?,
        _ => hex(trace, 32)?,
    };
    let span_id = u64::try_from(hex(span, 16)?).ok()?;
    (trace_id != 0 && span_id != 0).then_some(TraceContext {
        trace_id,
        span_id,
        sampled: sampled.unwrap_or(true),
    })
}

fn b3_sampled(text: &str) -> Option<bool> {
    match text.trim() {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != digits || !text.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn map(pairs: &[(&'static str, String)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn sampled_parent(pairs: &[(&'static str, String)]) -> Option<bool> {
        extract(&map(pairs)).parent.map(|parent| {
            assert_eq!(format!("{:032x}", parent.trace_id), TRACE);
            assert_eq!(format!("{:016x}", parent.span_id), SPAN);
            parent.sampled
        })
    }

    #[test]
    fn w3c_parents_are_read_by_its_rules() {
        for (value, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            (format!("00-{TRACE}-{SPAN}-03"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01-more"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            ("x".to_owned(), None),
        ] {
            assert_eq!(
                sampled_parent(&[("traceparent", value.clone())]),
                sampled,
                "{value}"
            );
        }
    }

    #[test]
    fn b3_parents_are_read_in_both_forms() {
        assert_eq!(
            sampled_parent(&[("b3", format!("{TRACE}-{SPAN}-1"))]),
            Some(true)
        );
        assert_eq!(
            sampled_parent(&[("b3", format!("{TRACE}-{SPAN}-0-{SPAN}"))]),
            Some(false)
        );
        let multi = |sampled: &str| {
            sampled_parent(&[
                ("x-b3-traceid", TRACE.to_owned()),
                ("x-b3-spanid", SPAN.to_owned()),
                ("x-b3-sampled", sampled.to_owned()),
            ])
        };
        assert_eq!(multi("1"), Some(true));
        assert_eq!(multi("0"), Some(false));
        let denied = extract(&map(&[("b3", "0".to_owned())]));
        assert_eq!((denied.parent, denied.sampled), (None, Some(false)));
    }

    #[test]
    fn the_form_that_came_in_goes_out_beside_w3c() {
        let context = TraceContext {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 7,
            sampled: false,
        };
        let mut headers = map(&[("tracestate", "a=b".to_owned())]);
        inject(&mut headers, context, Form::B3Single, true);
        assert_eq!(
            headers["traceparent"],
            format!("00-{TRACE}-0000000000000007-00")
        );
        assert_eq!(headers["b3"], format!("{TRACE}-0000000000000007-0"));
        assert!(!headers.contains_key("tracestate"));
    }

    #[test]
    fn tracestate_stays_with_its_trace_and_goes_with_a_broken_one() {
        let context = TraceContext {
            trace_id: 1,
            span_id: 7,
            sampled: true,
        };
        for continued in [true, false] {
            let mut headers = map(&[("tracestate", "a=b".to_owned())]);
            inject(&mut headers, context, Form::W3c, continued);
            assert_eq!(headers.contains_key("tracestate"), continued);
        }
    }
}
