//! `loadBalancer`: how an endpoint is chosen, among localities too, and how fast a new one gets its share.
//! Source: Istio `networking/v1` LoadBalancerSettings and its validation.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::consistent_hash;
use crate::{
    Balancer, Distribute, LoadBalancer, LocalitySetting, Warmup,
    decode::{
        Decoder, Fields, Item, Shape, boolean, enumeration, filled_text, integer32,
        label_key_fault, list, map, number, positive_duration, text,
    },
    yaml::quoted,
};

pub(super) const LOAD_BALANCER: Shape = Shape {
    what: "a load balancer",
    fields: &[
        "simple",
        "consistentHash",
        "localityLbSetting",
        "warmup",
        "warmupDurationSecs",
    ],
    not_yet: &[],
};
const ALGORITHMS: [&str; 2] = ["simple", "consistentHash"];
const WARMUPS: [&str; 2] = ["warmup", "warmupDurationSecs"];

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<LoadBalancer> {
    let fields = Fields::open(d, item, &LOAD_BALANCER)?;
    if fields.present(&ALGORITHMS).len() > 1 {
        fields.exactly_one(d, &ALGORITHMS);
    }
    let words = [
        ("UNSPECIFIED", 0),
        ("LEAST_REQUEST", 0),
        ("LEAST_CONN", 0),
        ("ROUND_ROBIN", 1),
        ("RANDOM", 2),
    ];
    let simple = fields.optional(d, "simple", |d, item| {
        enumeration(d, item, "a load balancer", &words, &["PASSTHROUGH"])
    });
    let hash = fields.optional(d, "consistentHash", consistent_hash::decode);
    let locality = fields.optional(d, "localityLbSetting", locality_setting);
    let warmup = warmup(d, &fields);
    if fields.has("consistentHash") || simple == Some(2) {
        for name in WARMUPS {
            let message = "has no effect: only ROUND_ROBIN and LEAST_REQUEST warm up; remove it";
            fields.refuse_if_present(d, name, message);
        }
    }
    let algorithm = match simple {
        _ if fields.has("consistentHash") => hash?,
        Some(1) => Balancer::RoundRobin,
        Some(2) => Balancer::Random,
        _ => Balancer::LeastRequest,
    };
    Some(LoadBalancer {
        algorithm,
        locality,
        warmup,
    })
}

pub(super) const WARMUP: Shape = Shape {
    what: "a warmup",
    fields: &["duration", "minimumPercent", "aggression"],
    not_yet: &[],
};

fn warmup(d: &mut Decoder, fields: &Fields<'_>) -> Option<Warmup> {
    if fields.present(&WARMUPS).len() > 1 {
        fields.exactly_one(d, &WARMUPS);
    }
    let old = fields.optional(d, "warmupDurationSecs", positive_duration);
    let new = fields.optional(d, "warmup", |d, item| {
        let fields = Fields::open(d, item, &WARMUP)?;
        let want = "how long a new endpoint warms up";
        let duration = fields.required(d, "duration", want, positive_duration);
        let percent = fields.optional(d, "minimumPercent", |d, item| number(d, item, 0.0..=100.0));
        let aggression = fields.optional(d, "aggression", |d, item| number(d, item, 1.0..=1e6));
        Some(warmed_up(
            duration?,
            percent.unwrap_or(10.0),
            aggression.unwrap_or(1.0),
        ))
    });
    new.or_else(|| old.map(|duration| warmed_up(duration, 10.0, 1.0)))
}

const fn warmed_up(duration: Duration, minimum_percent: f64, aggression: f64) -> Warmup {
    Warmup {
        duration,
        minimum_percent,
        aggression,
    }
}

pub(super) const LOCALITY: Shape = Shape {
    what: "a locality setting",
    fields: &["enabled", "distribute", "failover", "failoverPriority"],
    not_yet: &[],
};
pub(super) const DISTRIBUTE: Shape = Shape {
    what: "a distribution",
    fields: &["from", "to"],
    not_yet: &[],
};
pub(super) const FAILOVER: Shape = Shape {
    what: "a failover",
    fields: &["from", "to"],
    not_yet: &[],
};

fn locality_setting(d: &mut Decoder, item: Item<'_>) -> Option<LocalitySetting> {
    let fields = Fields::open(d, item, &LOCALITY)?;
    for other in ["failover", "failoverPriority"] {
        if fields.has("distribute") {
            let message = "beside distribute, which says where requests go; remove one of them";
            fields.refuse_if_present(d, other, message);
        }
    }
    let distribute = fields.optional(d, "distribute", |d, item| {
        let mut seen = Vec::new();
        list(d, item, |d, item| distribute(d, item, &mut seen))
    });
    let failover = fields.optional(d, "failover", |d, item| {
        let mut seen = BTreeSet::new();
        list(d, item, |d, item| failover(d, item, &mut seen))
    });
    let priority = fields.optional(d, "failoverPriority", |d, item| {
        let mut seen = BTreeSet::new();
        list(d, item, |d, item| priority_label(d, item, &mut seen))
    });
    Some(LocalitySetting {
        enabled: fields.optional(d, "enabled", boolean).unwrap_or(true),
        distribute: distribute.unwrap_or_default(),
        failover: failover.unwrap_or_default(),
        failover_priority: priority.unwrap_or_default(),
    })
}

/// Each is compared with all others.
const MOST_LOCALITIES: usize = 1_000;

fn too_many() -> String {
    format!("more than {MOST_LOCALITIES} localities are not supported yet")
}

fn distribute(d: &mut Decoder, item: Item<'_>, seen: &mut Vec<String>) -> Option<Distribute> {
    let fields = Fields::open(d, item, &DISTRIBUTE)?;
    let from = fields.required(d, "from", "the callers' locality", |d, item| {
        let from = text(d, item)?;
        if let Some(fault) = locality_fault(&from) {
            d.refuse(item, fault);
            return None;
        }
        if seen.len() >= MOST_LOCALITIES {
            d.refuse(item, too_many());
            return None;
        }
        if let Some(other) = seen.iter().find(|other| overlap(other, &from)) {
            let message = format!(
                "{} and {} have callers in common; make them disjoint",
                quoted(other),
                quoted(&from)
            );
            d.refuse(item, message);
        }
        seen.push(from.clone());
        Some(from)
    });
    let to = fields.required(d, "to", "localities and percentages", |d, item| {
        let to = map(d, item, "localities and percentages", |d, key, value| {
            if let Some(fault) = locality_fault(key.text) {
                key.refuse(d, fault);
            }
            Some((key.text.to_owned(), integer32(d, value, 1..=100)?))
        })?;
        if to.len() > MOST_LOCALITIES {
            d.refuse(item, too_many());
            return None;
        }
        let mut names = to.keys().enumerate();
        let twice = names.find_map(|(index, a)| {
            let mut others = to.keys().skip(index + 1);
            Some((a, others.find(|b| overlap(a, b))?))
        });
        if let Some((a, b)) = twice {
            let message = format!(
                "{} and {} have endpoints in common; make them disjoint",
                quoted(a),
                quoted(b)
            );
            d.refuse(item, message);
        }
        let sum: u32 = to.values().sum();
        let complete = matches!(&item.node.value, crate::yaml::Value::Mapping(pairs) if pairs.len() == to.len());
        if complete && sum != 100 {
            d.refuse(item, format!("the percentages sum to {sum}, want 100"));
        }
        Some::<BTreeMap<String, u32>>(to)
    });
    Some(Distribute {
        from: from?,
        to: to?,
    })
}

fn failover(
    d: &mut Decoder,
    item: Item<'_>,
    seen: &mut BTreeSet<String>,
) -> Option<(String, String)> {
    let fields = Fields::open(d, item, &FAILOVER)?;
    let region = |d: &mut Decoder, item: Item<'_>| {
        let region = filled_text(d, item)?;
        if region.contains(['/', '*']) {
            let message = format!("found {}, want a region alone, such as eu", quoted(&region));
            d.refuse(item, message);
            return None;
        }
        Some(region)
    };
    let from = fields.required(d, "from", "the callers' region", region);
    let to = fields.required(d, "to", "the region to go to", region);
    let (from, to) = (from?, to?);
    if from == to {
        fields.refuse(d, "to", "is the region that it comes from; want another");
    }
    if !seen.insert(from.clone()) {
        let message = format!("{} is there already; keep one", quoted(&from));
        fields.refuse(d, "from", message);
    }
    Some((from, to))
}

/// `label` or `label=value`.
fn priority_label(d: &mut Decoder, item: Item<'_>, seen: &mut BTreeSet<String>) -> Option<String> {
    let found = filled_text(d, item)?;
    let name = found
        .split_once('=')
        .map_or(found.as_str(), |(name, _)| name);
    if let Some(fault) = label_key_fault(name) {
        d.refuse(item, format!("{} is no label: {fault}", quoted(name)));
        return None;
    }
    if !seen.insert(name.to_owned()) {
        d.refuse(item, format!("{} is there already; keep one", quoted(name)));
    }
    Some(found)
}

/// `region`, `region/zone`, `region/zone/subzone`; `*` for all of what is left, or alone.
fn locality_fault(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split('/').collect();
    let star = parts.iter().position(|part| *part == "*");
    let fault = parts.len() > 3
        || parts
            .iter()
            .any(|part| part.is_empty() || part.len() > 1 && part.contains('*'))
        || star.is_some_and(|star| star + 1 < parts.len());
    fault.then(|| {
        format!(
            "found {}, want region, region/zone or region/zone/subzone, of which the last may be *",
            quoted(text)
        )
    })
}

/// Whether one is part of the other.
fn overlap(a: &str, b: &str) -> bool {
    let parts = |text: &str| -> Vec<String> {
        let parts = text.split('/').take_while(|part| *part != "*");
        parts.map(str::to_owned).collect()
    };
    let (a, b) = (parts(a), parts(b));
    a.iter().zip(&b).all(|(a, b)| a == b)
}
