use super::super::{ClusterChoice, HeaderEdits, WeightedCluster};
use crate::ClusterSlot;

fn choice(weights: &[u32]) -> Option<ClusterChoice> {
    let clusters = (0..).zip(weights).map(|(slot, weight)| WeightedCluster {
        cluster: ClusterSlot(slot),
        name: slot.to_string().into(),
        weight: *weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    });
    ClusterChoice::new(clusters.collect())
}

fn shares(choice: &ClusterChoice, rng: &mut fastrand::Rng, n: usize) -> Vec<usize> {
    let mut counts = vec![0; choice.clusters.len()];
    for _ in 0..n {
        counts[choice.choose(rng).unwrap().cluster.0 as usize] += 1;
    }
    counts
}

#[test]
fn ten_thousand_requests_split_by_weight_within_half_a_point() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        for weights in [
            &[90, 10][..],
            &[99, 1],
            &[1, 1, 1],
            &[0, 1, 2],
            &[u32::MAX, 7],
        ] {
            let choice = choice(weights).unwrap();
            let counts = shares(&choice, &mut rng, 10_000);
            for (count, weight) in counts.iter().zip(weights) {
                let want = 10_000.0 * f64::from(*weight) / choice.total_weight as f64;
                let off = (*count as f64 - want).abs();
                assert!(off <= 50.0, "seed {seed}: {counts:?} of {weights:?}");
            }
        }
    }
}

#[test]
fn a_client_that_takes_turns_gets_the_split_on_each_of_its_pages() {
    let choice = choice(&[90, 10]).unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    for step in [2, 3, 10, 64, 128] {
        let picks: Vec<u32> = (0..10_000 * step)
            .map(|_| choice.choose(&mut rng).unwrap().cluster.0)
            .collect();
        let second = picks
            .iter()
            .step_by(step)
            .filter(|slot| **slot == 1)
            .count();
        assert!(second.abs_diff(1000) < 150, "every {step}th: {second}");
    }
}

#[test]
fn the_first_request_of_many_sidecars_splits_too() {
    let second = (0..10_000)
        .filter(|seed| {
            let mut rng = fastrand::Rng::with_seed(*seed);
            choice(&[90, 10]).unwrap().choose(&mut rng).unwrap().cluster == ClusterSlot(1)
        })
        .count();
    assert!(second.abs_diff(1000) < 150, "{second}");
}

#[test]
fn a_choice_of_nothing_cannot_be_made() {
    assert!(choice(&[]).is_none());
    assert!(choice(&[0, 0]).is_none());
    let one = choice(&[7]).unwrap();
    assert_eq!(shares(&one, &mut fastrand::Rng::with_seed(1), 3), [3]);
}
