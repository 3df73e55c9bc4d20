//! The small languages inside values: durations, hosts, names, labels, addresses.
//! Source: Istio's validation package; Kubernetes' names and labels; Go's durations.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{Decoder, Fields, Item, Shape, filled_text, integer32, map, text, unknown_word};
use crate::yaml::{Value, quoted};

const DURATION: &str = "a duration such as 30s, 1.5s, 500ms or 1h30m";

/// Go's duration syntax. Zero is allowed; anything else below 1 ms is not (Istio).
pub(crate) fn duration(d: &mut Decoder, item: Item<'_>) -> Option<Duration> {
    if let Value::Number(number) = &item.node.value {
        if number == "0" {
            return Some(Duration::ZERO);
        }
        d.mismatch(item, &format!("{DURATION}; which unit?"));
        return None;
    }
    let text = text(d, item)?;
    match go_duration(&text) {
        Some(value) if value.is_zero() || value >= Duration::from_millis(1) => Some(value),
        Some(_) => {
            let message = format!("found {}, want at least 1ms", quoted(&text));
            d.refuse(item, message);
            None
        }
        None => {
            let negative = text.starts_with('-').then_some(", not negative");
            d.mismatch(item, &format!("{DURATION}{}", negative.unwrap_or("")));
            None
        }
    }
}

/// A duration of at least 1 ms.
pub(crate) fn positive_duration(d: &mut Decoder, item: Item<'_>) -> Option<Duration> {
    let value = duration(d, item)?;
    if value.is_zero() {
        d.refuse(item, "found zero, want at least 1ms");
        return None;
    }
    Some(value)
}

/// Go's `time.ParseDuration`, without a sign, up to its 292 years. None if it is not one.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|&n| n > 0)?;
        let (figure, tail) = rest.split_at_checked(number)?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at_checked(end.unwrap_or(tail.len()))?;
        total = total.checked_add(nanoseconds(figure, unit)?)?;
        rest = tail;
    }
    let total = u64::try_from(total)
        .ok()
        .filter(|&n| i64::try_from(n).is_ok())?;
    (!text.is_empty()).then(|| Duration::from_nanos(total))
}

fn nanoseconds(figure: &str, unit: &str) -> Option<u128> {
    let unit: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = figure.split_once('.').unwrap_or((figure, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut total = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        // Digits below a nanosecond are cut, as Go does.
        place /= 10;
        total = total.checked_add(u128::from(digit - b'0') * place)?;
    }
    Some(total)
}

/// 1 to 65535.
pub(crate) fn port(d: &mut Decoder, item: Item<'_>) -> Option<u16> {
    integer32(d, item, 1..=65_535).and_then(|port| u16::try_from(port).ok())
}

/// A limit. Zero is refused: Istio takes it for "unlimited", a reader for "none".
pub(crate) fn positive(d: &mut Decoder, item: Item<'_>) -> Option<u32> {
    if matches!(&item.node.value, Value::Number(number) if number == "0") {
        d.refuse(
            item,
            "found 0, which could mean none or unlimited (to Istio, unlimited); remove the field for unlimited",
        );
        return None;
    }
    integer32(d, item, 1..=i32::MAX.unsigned_abs())
}

pub(crate) fn ip_address(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let text = text(d, item)?;
    if text.parse::<IpAddr>().is_ok() {
        return Some(text);
    }
    let message = if text.starts_with("unix:") {
        format!(
            "found {}; Unix sockets are not supported yet, want an IP address",
            quoted(&text)
        )
    } else if dns_fault(&text).is_none() && text.bytes().any(|b| b.is_ascii_alphabetic()) {
        format!(
            "found {}; a name as address is not supported yet, want an IP address",
            quoted(&text)
        )
    } else {
        format!(
            "found {}, want an IP address such as 10.0.0.7 or 2001:db8::7",
            quoted(&text)
        )
    };
    d.refuse(item, message);
    None
}

/// A host: short, full, or `*.suffix` where `wildcard`.
pub(crate) fn host(d: &mut Decoder, item: Item<'_>, wildcard: bool) -> Option<String> {
    let text = filled_text(d, item)?;
    let name = text.strip_suffix('.').unwrap_or(&text);
    let fault = if name == "*" {
        Some("\"*\" would be every host of the mesh; name the hosts, or write *.suffix".to_owned())
    } else if let Some(suffix) = name.strip_prefix("*.") {
        if wildcard {
            dns_fault(suffix)
        } else {
            Some("a wildcard is not supported yet here; name one host".to_owned())
        }
    } else if name.parse::<IpAddr>().is_ok() {
        Some("an IP address is not supported yet as a host; want a DNS name".to_owned())
    } else if name.contains("://") {
        Some("a host has no scheme; write only the name".to_owned())
    } else {
        dns_fault(name)
    };
    match fault {
        None => Some(text),
        Some(fault) => {
            d.refuse(item, format!("found {}: {fault}", quoted(&text)));
            None
        }
    }
}

/// What keeps `name` from being a DNS name, if anything.
pub(crate) fn dns_fault(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some("a DNS name has at most 253 characters".to_owned());
    }
    name.split('.').find_map(label_fault)
}

fn label_fault(label: &str) -> Option<String> {
    if label.is_empty() {
        return Some("a part between the dots is empty".to_owned());
    }
    if label.len() > 63 {
        return Some("a part of a DNS name has at most 63 characters".to_owned());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if let Some(wrong) = label.chars().find(|&c| !allowed(c)) {
        return Some(format!("{wrong:?} cannot be in a DNS name"));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Some("a part of a DNS name starts and ends with a letter or digit".to_owned());
    }
    None
}

/// A DNS label in lower case: names of namespaces, subsets, ports.
pub(crate) fn dns_label(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    lower_case_name(d, item, |name| {
        label_fault(name).or_else(|| {
            name.contains('.')
                .then(|| "a dot cannot be in it".to_owned())
        })
    })
}

/// A subset's name: a DNS label in any letter case (Istio).
pub(crate) fn subset_name(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let text = filled_text(d, item)?;
    let wrong = text
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || *c == '-'));
    let fault = wrong
        .map(|c| format!("{c:?} cannot be in it; letters, digits and - can"))
        .or_else(|| label_fault(&text));
    match fault {
        None => Some(text),
        Some(fault) => {
            d.refuse(item, format!("found {}: {fault}", quoted(&text)));
            None
        }
    }
}

/// Kubernetes' name of an object: a DNS name in lower case.
pub(crate) fn object_name(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    lower_case_name(d, item, dns_fault)
}

fn lower_case_name(
    d: &mut Decoder,
    item: Item<'_>,
    fault: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let text = filled_text(d, item)?;
    let wrong = text.chars().find(|c| c.is_ascii_uppercase() || *c == '_');
    let fault = wrong
        .map(|c| format!("{c:?} cannot be in it; lower-case letters, digits and - can"))
        .or_else(|| fault(&text));
    match fault {
        None => Some(text),
        Some(fault) => {
            d.refuse(item, format!("found {}: {fault}", quoted(&text)));
            None
        }
    }
}

/// Labels, as Kubernetes defines them.
pub(crate) fn label_map(d: &mut Decoder, item: Item<'_>) -> Option<BTreeMap<String, String>> {
    map(d, item, "labels: a mapping of texts", |d, key, value| {
        if let Some(fault) = label_key_fault(key.text) {
            key.refuse(d, format!("{} is no label: {fault}", quoted(key.text)));
        }
        let text = text(d, value)?;
        if !text.is_empty() && !is_qualified(&text) {
            let message = format!(
                "found {}; a label's value has at most 63 letters, digits, - _ . and starts and ends \
                 with a letter or digit",
                quoted(&text)
            );
            d.refuse(value, message);
        }
        Some((key.text.to_owned(), text))
    })
}

pub(crate) fn label_key_fault(key: &str) -> Option<String> {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
    if key.contains('/') && (prefix.is_empty() || dns_fault(prefix).is_some()) {
        return Some("what stands before / has to be a DNS name".to_owned());
    }
    (!is_qualified(name)).then(|| {
        "want 1 to 63 letters, digits, - _ . that start and end with a letter or digit".to_owned()
    })
}

fn is_qualified(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    (1..=63).contains(&text.len())
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

pub(crate) const SELECTOR: Shape = Shape {
    what: "a workload selector",
    fields: &["labels"],
    not_yet: &[],
};

/// `workloadSelector`: its labels. None where the field is absent.
pub(crate) fn workload_selector(
    d: &mut Decoder,
    fields: &Fields<'_>,
) -> Option<BTreeMap<String, String>> {
    fields.optional(d, "workloadSelector", |d, item| {
        let selector = Fields::open(d, item, &SELECTOR)?;
        let labels = selector.required(d, "labels", "labels to select by", label_map)?;
        if labels.is_empty() {
            selector.refuse(
                d,
                "labels",
                "found none, which would select everything; name one",
            );
        }
        Some(labels)
    })
}

/// One word of a closed set. `not_yet` are Istio's other words.
pub(crate) fn enumeration<T: Copy>(
    d: &mut Decoder,
    item: Item<'_>,
    what: &str,
    words: &[(&str, T)],
    not_yet: &[&str],
) -> Option<T> {
    let found = text(d, item)?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == found) {
        return Some(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let message = if not_yet.contains(&found.as_str()) {
        format!(
            "{found} is not supported yet; want {what}: {}",
            known.join(", ")
        )
    } else {
        unknown_word(&found, what, &known)
    };
    d.refuse(item, message);
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{dns_fault, go_duration, label_key_fault};

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1h", Some(3_600_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("5.s", Some(5_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("2us", Some(2_000)),
            ("2µs", Some(2_000)),
            ("1ns", Some(1)),
            ("0.0000000001s", Some(0)),
            ("292y", None),
            ("10", None),
            ("1.5.5s", None),
            (".s", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1 s", None),
            ("3000000h", None),
            ("99999999999999999999999999999999999999999999h", None),
        ] {
            assert_eq!(
                go_duration(text),
                expected.map(Duration::from_nanos),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_dns_name_has_labels_of_letters_digits_and_dashes() {
        let long = "a".repeat(64);
        let deep = vec!["a"; 130].join(".");
        for good in ["orders", "a.b.c", "Orders", "_x.y", "1a"] {
            assert_eq!(dns_fault(good), None, "{good}");
        }
        for bad in [
            "", "a..b", ".a", "-a", "a-", "a b", "ä", "a/b", &long, &deep,
        ] {
            assert!(dns_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_labels_key_may_have_a_dns_prefix() {
        for good in ["app", "app.kubernetes.io/name", "a_b.c-d"] {
            assert_eq!(label_key_fault(good), None, "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c d", "-a", "a b", "x y/z"] {
            assert!(label_key_fault(bad).is_some(), "{bad}");
        }
    }
}
