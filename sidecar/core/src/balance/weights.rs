//! Draws by weight.

use crate::route::split::scale;

/// Weights of a tier's members, in their order.
#[derive(Debug)]
pub(super) struct Weights {
    /// Sums up to and including each member; empty if all weights are equal.
    sums: Vec<u64>,
    count: usize,
    equal: u32,
}

impl Weights {
    pub(super) fn new(weights: impl ExactSizeIterator<Item = u32> + Clone) -> Self {
        let count = weights.len();
        let first = weights.clone().next().unwrap_or(1);
        let sums = if weights.clone().all(|weight| weight == first) {
            Vec::new()
        } else {
            weights
                .scan(0, |sum, weight| {
                    *sum += u64::from(weight);
                    Some(*sum)
                })
                .collect()
        };
        Self {
            sums,
            count,
            equal: first,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Weight of one member.
    pub(super) fn of(&self, at: usize) -> u32 {
        let Some(sum) = self.sums.get(at) else {
            return self.equal;
        };
        let before = at.checked_sub(1).and_then(|at| self.sums.get(at));
        u32::try_from(sum - before.unwrap_or(&0)).unwrap_or(u32::MAX)
    }

    /// The member at `fraction / 2^64` of the sum; None if there are none.
    pub(super) fn draw(&self, fraction: u64) -> Option<usize> {
        match (self.sums.last(), self.count) {
            (_, 0) => None,
            (Some(total), _) => {
                let point = scale(fraction, *total);
                Some(self.sums.partition_point(|sum| *sum <= point))
            }
            (None, count) => {
                usize::try_from(scale(fraction, u64::try_from(count).unwrap_or(u64::MAX))).ok()
            }
        }
    }

    /// Two different members if there are two.
    pub(super) fn draw_two(&self, rng: &mut fastrand::Rng) -> Option<(usize, usize)> {
        let first = self.draw(rng.u64(..))?;
        if self.count < 2 {
            return Some((first, first));
        }
        let second = self.draw(rng.u64(..))?;
        if second != first {
            return Some((first, second));
        }
        let other = rng.usize(..self.count - 1);
        Some((first, other + usize::from(other >= first)))
    }
}
