//! `DestinationPolicy` (`outrigger.dev/v1`): what Istio's DestinationRule has no word for.

use std::time::Duration;

use crate::{
    BreakerScope, CircuitBreaker, DestinationPolicy, Hedging, OwnBalancer, ServiceLimits,
    ZoneAware,
    decode::{
        Decoder, Fields, Item, Shape, enumeration, host, integer32, number, positive_duration,
        subset_name,
    },
};

pub(super) const DESTINATION_POLICY: Shape = Shape {
    what: "a DestinationPolicy's spec",
    fields: &[
        "host",
        "subset",
        "balancer",
        "zoneAware",
        "boundedLoad",
        "circuitBreaker",
        "limits",
        "hedging",
    ],
    not_yet: &[],
};
/// Of the fields, those that say something.
const PARTS: [&str; 6] = [
    "balancer",
    "zoneAware",
    "boundedLoad",
    "circuitBreaker",
    "limits",
    "hedging",
];

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<DestinationPolicy> {
    let fields = Fields::open(d, item, &DESTINATION_POLICY)?;
    let host = fields.required_at(d, "host", "the host that the policy is for", |d, item| {
        host(d, item, false)
    });
    if fields.present(&PARTS).is_empty() {
        let message = format!("says nothing; want one or more of {}", PARTS.join(", "));
        d.refuse(item, message);
    }
    Some(DestinationPolicy {
        subset: fields.optional_at(d, "subset", subset_name),
        balancer: fields.optional_at(d, "balancer", balancer),
        zone_aware: fields.optional_at(d, "zoneAware", zone_aware),
        bounded_load: fields.optional_at(d, "boundedLoad", bounded_load),
        circuit_breaker: fields.optional_at(d, "circuitBreaker", circuit_breaker),
        service_limits: fields.optional_at(d, "limits", limits),
        hedging: fields.optional_at(d, "hedging", hedging),
        host: host?,
    })
}

pub(super) const BALANCER: Shape = Shape {
    what: "a balancer",
    fields: &["peakEwma"],
    not_yet: &[],
};
pub(super) const PEAK_EWMA: Shape = Shape {
    what: "peakEwma",
    fields: &["decay"],
    not_yet: &[],
};

fn balancer(d: &mut Decoder, item: Item<'_>) -> Option<OwnBalancer> {
    let fields = Fields::open(d, item, &BALANCER)?;
    fields.required(d, "peakEwma", "peakEwma, possibly {}", |d, item| {
        let fields = Fields::open(d, item, &PEAK_EWMA)?;
        let decay = fields.optional(d, "decay", positive_duration);
        Some(OwnBalancer::PeakEwma {
            decay: decay.unwrap_or(Duration::from_secs(10)),
        })
    })
}

pub(super) const ZONE_AWARE: Shape = Shape {
    what: "zoneAware",
    fields: &["minimumEndpoints"],
    not_yet: &[],
};

fn zone_aware(d: &mut Decoder, item: Item<'_>) -> Option<ZoneAware> {
    let fields = Fields::open(d, item, &ZONE_AWARE)?;
    let minimum = fields.optional(d, "minimumEndpoints", |d, item| {
        integer32(d, item, 0..=i32::MAX.unsigned_abs())
    });
    Some(ZoneAware {
        minimum_endpoints: minimum.unwrap_or(6),
    })
}

pub(super) const BOUNDED_LOAD: Shape = Shape {
    what: "boundedLoad",
    fields: &["percent"],
    not_yet: &[],
};
/// Beyond ten times the average nothing is bounded any more.
const HIGHEST_LOAD: u32 = 1_000;

fn bounded_load(d: &mut Decoder, item: Item<'_>) -> Option<u32> {
    let fields = Fields::open(d, item, &BOUNDED_LOAD)?;
    let want = "a percentage of the average load, above 100";
    fields.required(d, "percent", want, |d, item| {
        integer32(d, item, 101..=HIGHEST_LOAD)
    })
}

pub(super) const CIRCUIT_BREAKER: Shape = Shape {
    what: "a circuit breaker",
    fields: &["consecutiveFailures", "resetTimeout", "scope"],
    not_yet: &[],
};

fn circuit_breaker(d: &mut Decoder, item: Item<'_>) -> Option<CircuitBreaker> {
    let words = [
        ("ENDPOINT", BreakerScope::Endpoint),
        ("SERVICE", BreakerScope::Service),
        ("BOTH", BreakerScope::Both),
    ];
    let fields = Fields::open(d, item, &CIRCUIT_BREAKER)?;
    let failures = fields.optional(d, "consecutiveFailures", |d, item| {
        integer32(d, item, 1..=i32::MAX.unsigned_abs())
    });
    let reset = fields.optional(d, "resetTimeout", positive_duration);
    let scope = fields.optional(d, "scope", |d, item| {
        enumeration(d, item, "a scope", &words, &[])
    });
    Some(CircuitBreaker {
        consecutive_failures: failures.unwrap_or(5),
        reset_timeout: reset.unwrap_or(Duration::from_secs(30)),
        scope: scope.unwrap_or(BreakerScope::Endpoint),
    })
}

pub(super) const LIMITS: Shape = Shape {
    what: "limits",
    fields: &["scope"],
    not_yet: &[],
};

/// `PROXY` is what holds without it.
fn limits(d: &mut Decoder, item: Item<'_>) -> Option<ServiceLimits> {
    let words = [("SERVICE", ServiceLimits)];
    let fields = Fields::open(d, item, &LIMITS)?;
    fields.required(d, "scope", "SERVICE", |d, item| {
        enumeration(d, item, "a scope", &words, &[])
    })
}

pub(super) const HEDGING: Shape = Shape {
    what: "hedging",
    fields: &["after", "budgetPercent"],
    not_yet: &[],
};

/// What sidecars take.
const SHORTEST_HEDGE: Duration = Duration::from_millis(1);
const LONGEST_HEDGE: Duration = Duration::from_secs(3600);

fn hedging(d: &mut Decoder, item: Item<'_>) -> Option<Hedging> {
    let fields = Fields::open(d, item, &HEDGING)?;
    let want = "how long to wait for the first answer";
    let after = fields.required(d, "after", want, |d, item| {
        let after = positive_duration(d, item)?;
        if !(SHORTEST_HEDGE..=LONGEST_HEDGE).contains(&after) {
            d.refuse(item, format!("found {after:?}, want 1ms to 1h"));
            return None;
        }
        Some(after)
    });
    let budget = fields.optional(d, "budgetPercent", |d, item| {
        let percent = number(d, item, 0.0..=100.0)?;
        if percent == 0.0 {
            d.refuse(
                item,
                "found 0, which would never send a copy; remove hedging",
            );
            return None;
        }
        Some(percent)
    });
    Some(Hedging {
        after: after?,
        budget_percent: budget.unwrap_or(10.0),
    })
}
