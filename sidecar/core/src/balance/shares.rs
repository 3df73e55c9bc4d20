//! Which part of the requests each priority, locality or zone gets.
//!
//! Parts follow health, so they are computed anew when an endpoint is ejected or comes back, and every
//! [`REFRESH_MS`] as time alone may change it; a request only draws. Source: Envoy, "priority levels" and "locality
//! weighted load balancing", with its overprovisioning factor of 140 %: as long as 72 % of the endpoints are in
//! service, nothing spills.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Moment;

/// Parts of one.
pub(crate) const ONE: u64 = 1 << 32;
const OVERPROVISIONING_PERCENT: u64 = 140; // Envoy's default
const REFRESH_MS: u64 = 100;

/// Upper ends of the parts, in sum [`ONE`].
#[derive(Debug)]
pub(super) struct Shares {
    ends: Vec<AtomicU64>,
    /// Of which changes the parts know, plus 1; 0 = they were never computed.
    seen: AtomicU64,
    until: AtomicU64,
}

impl Shares {
    pub(super) fn new(count: usize) -> Self {
        Self {
            ends: (0..count).map(|_| AtomicU64::new(0)).collect(),
            seen: AtomicU64::new(0),
            until: AtomicU64::new(0),
        }
    }

    pub(super) fn is_stale(&self, changes: u64, now: Moment) -> bool {
        self.seen.load(Relaxed) != changes.wrapping_add(1) || self.until.load(Relaxed) <= now.0
    }

    /// Sets the parts, given in any unit. A worker that draws meanwhile may meet old and new ends side by side; its
    /// request goes to a part that one of them names.
    pub(super) fn set(&self, parts: &[u64], changes: u64, now: Moment) {
        let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
        let mut end = 0_u128;
        for (place, part) in self.ends.iter().zip(parts) {
            end += u128::from(*part);
            let scaled = (end * u128::from(ONE)).checked_div(sum).unwrap_or(0);
            place.store(u64::try_from(scaled).unwrap_or(ONE), Relaxed);
        }
        self.until.store(now.0.saturating_add(REFRESH_MS), Relaxed);
        self.seen.store(changes.wrapping_add(1), Relaxed);
    }

    /// The part at `fraction / 2^64`; the first if all are empty.
    pub(super) fn draw(&self, fraction: u64) -> usize {
        let point = fraction >> 32;
        self.ends
            .iter()
            .position(|end| point < end.load(Relaxed))
            .unwrap_or(0)
    }
}

/// How much of its load a group can take of which so many are in service.
pub(super) fn capability(in_service: usize, all: usize) -> u64 {
    let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let part = wide(in_service).saturating_mul(ONE / 100 * OVERPROVISIONING_PERCENT);
    part.checked_div(wide(all)).unwrap_or(0).min(ONE)
}

/// Loads of priorities, from the capability of each: as much as it can take of what is left by those before it; if all
/// together cannot take everything, in proportion.
pub(super) fn by_priority(capabilities: &[u64]) -> Vec<u64> {
    let total = capabilities.iter().sum::<u64>().min(ONE);
    let mut left = ONE;
    capabilities
        .iter()
        .map(|one| {
            let scaled = u128::from(*one) * u128::from(ONE);
            let load = scaled.checked_div(total.into()).unwrap_or(0);
            let load = u64::try_from(load).unwrap_or(ONE).min(left);
            left -= load;
            load
        })
        .collect()
}

/// Loads of zones by what their endpoints in service can bear. The own one, `own`, gets its share times the number of
/// zones, as every zone is assumed to call as much; the others get the rest in proportion.
pub(super) fn by_zone(capacities: &[u64], own: usize) -> Vec<u64> {
    let total: u64 = capacities.iter().sum();
    let zones = capacities.iter().filter(|one| **one > 0).count();
    let zones = u128::try_from(zones).unwrap_or(0);
    let mine = capacities.get(own).copied().unwrap_or(0);
    let others = total - mine;
    let scaled = u128::from(mine) * zones * u128::from(ONE);
    let first = scaled.checked_div(total.into()).unwrap_or(0);
    let first = u64::try_from(first).unwrap_or(ONE).min(ONE);
    capacities
        .iter()
        .enumerate()
        .map(|(at, capacity)| {
            if at == own {
                return first;
            }
            let rest = u128::from(*capacity) * u128::from(ONE - first);
            u64::try_from(rest.checked_div(others.into()).unwrap_or(0)).unwrap_or(ONE)
        })
        .collect()
}
