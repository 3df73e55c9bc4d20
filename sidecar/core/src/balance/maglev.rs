//! The table of Envoy's `MAGLEV`: each endpoint fills places along its own permutation of the table, the
//! heaviest in every round, one of half its weight in every other. One load instead of a search per
//! request; a removed endpoint moves its own keys and a few per cent of the others'.
//!
//! Source: the Maglev paper, listing 1; weights and hashes as Envoy.

use xxhash_rust::xxh64::xxh64;

use super::ring::Keyed;

#[derive(Debug)]
pub(crate) struct Table {
    pub(super) owners: Vec<u32>,
}

/// Envoy's bound, a prime.
const LARGEST: u64 = 5_000_011;

struct Filler {
    owner: u32,
    offset: u64,
    skip: u64,
    next: u64,
    weight: f64,
    target: f64,
}

impl Table {
    #[expect(
        clippy::cast_precision_loss,
        reason = "Envoy computes in doubles; to differ in the last bit is to have another table"
    )]
    pub(super) fn new(endpoints: Vec<Keyed>, size: u64) -> Self {
        if endpoints.is_empty() {
            return Self { owners: Vec::new() };
        }
        let size = next_prime(size.clamp(2, LARGEST));
        let sum = endpoints.iter().map(|one| u64::from(one.weight.max(1)));
        let sum = sum.sum::<u64>() as f64;
        let mut fillers: Vec<Filler> = endpoints
            .into_iter()
            .map(|one| Filler {
                owner: one.place,
                offset: xxh64(one.address.as_bytes(), 0) % size,
                skip: xxh64(one.address.as_bytes(), 1) % (size - 1) + 1,
                next: 0,
                weight: f64::from(one.weight.max(1)) / sum,
                target: 0.0,
            })
            .collect();
        let most = fillers.iter().map(|one| one.weight).fold(0.0, f64::max);
        Self {
            owners: fill(&mut fillers, most, size),
        }
    }

    /// Where `key` is looked up.
    pub(super) fn place(&self, key: u64) -> usize {
        let size = u64::try_from(self.owners.len()).unwrap_or(u64::MAX);
        usize::try_from(key.checked_rem(size).unwrap_or(0)).unwrap_or(0)
    }
}

fn fill(fillers: &mut [Filler], most: f64, size: u64) -> Vec<u32> {
    let mut owners: Vec<Option<u32>> = vec![None; usize::try_from(size).unwrap_or(0)];
    let mut free = owners.len();
    let mut round = 0.0;
    while free > 0 {
        round += 1.0;
        for filler in fillers.iter_mut() {
            if free == 0 {
                break;
            }
            if round * filler.weight < filler.target {
                continue;
            }
            filler.target += most;
            // Ends: with a prime size every permutation visits every place, and one is free.
            loop {
                let at = (filler.offset + filler.skip * filler.next) % size;
                filler.next += 1;
                let place = usize::try_from(at).ok().and_then(|at| owners.get_mut(at));
                if let Some(place @ None) = place {
                    *place = Some(filler.owner);
                    free -= 1;
                    break;
                }
            }
        }
    }
    owners.into_iter().flatten().collect()
}

/// A size that is not prime would leave places that some endpoint never reaches.
fn next_prime(from: u64) -> u64 {
    let prime = |n: u64| {
        n == 2
            || (n % 2 == 1
                && (3..)
                    .step_by(2)
                    .take_while(|d| d * d <= n)
                    .all(|d| !n.is_multiple_of(d)))
    };
    (from..).find(|n| prime(*n)).unwrap_or(LARGEST)
}
