//! Shares by chi-squared over 100,000 picks, with a new seed in every run.

use super::*;

const PICKS: usize = 100_000;

/// Above these, chance alone would be one time in a million (degrees of freedom: 2, 3, 9).
fn critical(freedom: usize) -> f64 {
    match freedom {
        2 => 27.6,
        3 => 30.7,
        9 => 46.0,
        other => panic!("no critical value for {other}"),
    }
}

fn chi_squared(counts: &BTreeMap<u16, usize>, parts: &[(u16, f64)]) -> f64 {
    let total: f64 = parts.iter().map(|(_, part)| part).sum();
    parts
        .iter()
        .map(|(port, part)| {
            let want = part / total * PICKS as f64;
            let got = counts.get(port).copied().unwrap_or(0) as f64;
            (got - want).powi(2) / want
        })
        .sum()
}

#[test]
fn equal_endpoints_get_equal_shares_under_every_balancer() {
    let mut rng = seeded(seed());
    for policy in [
        LbPolicy::LeastRequest,
        LbPolicy::RoundRobin,
        LbPolicy::Random,
        EWMA,
    ] {
        let cluster = cluster(policy.clone(), 1..=10);
        if policy == EWMA {
            // All equally quick.
            for port in 1..=10 {
                let quick = Duration::from_millis(5);
                cluster.observe(&cluster.picked(port), quick, secs(1));
            }
        }
        let counts = cluster.spread(&mut rng, PICKS);
        let parts: Vec<(u16, f64)> = (1..=10).map(|port| (port, 1.0)).collect();
        let found = chi_squared(&counts, &parts);
        assert!(found < critical(9), "{policy:?}: {found} {counts:?}");
    }
}

#[test]
fn weights_are_exact_shares_where_nothing_else_decides() {
    let mut rng = seeded(seed());
    let weights = [(1, 1), (2, 2), (3, 3), (4, 10)];
    for policy in [LbPolicy::RoundRobin, LbPolicy::Random] {
        let cluster = Cluster::new(config(policy.clone()), weighted(&weights), None);
        let counts = cluster.spread(&mut rng, PICKS);
        let parts = weights.map(|(port, weight)| (port, f64::from(weight)));
        let found = chi_squared(&counts, &parts);
        assert!(found < critical(3), "{policy:?}: {found} {counts:?}");
    }
}

#[test]
fn least_request_draws_the_first_of_two_by_weight_and_the_second_among_the_others() {
    // All idle, so the first wins unless both are busy: shares are the weights.
    let mut rng = seeded(seed());
    let weights = [(1, 1), (2, 2), (3, 5)];
    let cluster = Cluster::new(config(LbPolicy::LeastRequest), weighted(&weights), None);
    let counts = cluster.spread(&mut rng, PICKS);
    let parts = weights.map(|(port, weight)| (port, f64::from(weight)));
    let found = chi_squared(&counts, &parts);
    assert!(found < critical(2), "{found} {counts:?}");
}

#[test]
fn keys_follow_the_places_that_endpoints_have() {
    // A ring or table is drawn once; given it, keys are even over its places.
    let mut rng = seeded(seed());
    let weights = [(1, 1), (2, 2), (3, 3), (4, 4)];
    for policy in [RING, MAGLEV] {
        let cluster = Cluster::new(config(policy.clone()), weighted(&weights), None);
        let reference = cluster.spread(&mut seeded(1), PICKS * 4);
        let parts: Vec<(u16, f64)> = reference
            .iter()
            .map(|(port, count)| (*port, *count as f64))
            .collect();
        // The reference is itself a sample of four times the size: a quarter more variance.
        let counts = cluster.spread(&mut rng, PICKS);
        let found = chi_squared(&counts, &parts) / 1.25;
        assert!(found < critical(3), "{policy:?}: {found} {counts:?}");
        // And the places themselves follow the weights.
        for (port, weight) in weights {
            let part = share(counts[&port], PICKS);
            let want = f64::from(weight) / 10.0;
            assert!(
                (part / want - 1.0).abs() < 0.15,
                "{policy:?} {port}: {part}"
            );
        }
    }
}

#[test]
fn every_window_of_a_period_has_the_weights_exactly() {
    let mut rng = seeded(seed());
    for _ in 0..100 {
        let count = rng.u16(2..8);
        let weights: Vec<(u16, u32)> = (1..=count).map(|port| (port, rng.u32(1..9))).collect();
        let cluster = Cluster::new(config(LbPolicy::RoundRobin), weighted(&weights), None);
        let divisor = weights
            .iter()
            .fold(0, |d, (_, w)| crate::balance::table::gcd(d, *w));
        let period: u32 = weights.iter().map(|(_, weight)| weight / divisor).sum();
        let period = period as usize;
        let picks: Vec<u16> = (0..period * 4).map(|_| cluster.next(&mut rng)).collect();
        for window in picks.windows(period) {
            for (port, weight) in &weights {
                let found = window.iter().filter(|one| *one == port).count();
                assert_eq!(found, (weight / divisor) as usize, "{weights:?} {window:?}");
            }
        }
    }
}
