//! Smooth weighted round robin without a lock: the order is computed beforehand, and a turn number says
//! where in it a request is.
//!
//! Source of the order: nginx's smooth weighted round robin (weights 3, 1, 1: a a b a c).

use super::{table::gcd, weights::Weights};

#[derive(Debug)]
pub(super) enum Rotation {
    /// All weights equal.
    Plain(u64),
    /// The members of one whole period.
    Sequence(Vec<u32>),
    /// A period too long to write down: places of the golden ratio's multiples, which fill the sum of
    /// weights evenly at every length.
    Golden(Weights),
}

/// Steps of work that a sequence may cost to build, and so a bound on its length.
const MOST_STEPS: u64 = 1 << 20;

impl Rotation {
    pub(super) fn new(weights: &Weights) -> Self {
        let all: Vec<u32> = (0..weights.len()).map(|at| weights.of(at)).collect();
        let divisor = all.iter().fold(0, |divisor, weight| gcd(divisor, *weight));
        let reduced: Vec<i64> = all
            .iter()
            .map(|weight| i64::from(weight / divisor.max(1)))
            .collect();
        if reduced.iter().all(|weight| *weight == 1) {
            return Self::Plain(u64::try_from(reduced.len()).unwrap_or(u64::MAX));
        }
        let total: i64 = reduced.iter().sum();
        let steps = u64::try_from(total)
            .unwrap_or(u64::MAX)
            .saturating_mul(u64::try_from(reduced.len()).unwrap_or(u64::MAX));
        if steps > MOST_STEPS {
            return Self::Golden(Weights::new(all.iter().copied()));
        }
        Self::Sequence(smooth(&reduced, total))
    }

    /// The member whose turn it is; None if there are none.
    pub(super) fn at(&self, turn: u64) -> Option<usize> {
        match self {
            Self::Plain(count) => usize::try_from(turn.checked_rem(*count)?).ok(),
            Self::Sequence(order) => {
                let length = u64::try_from(order.len()).ok()?;
                let at = usize::try_from(turn.checked_rem(length)?).ok()?;
                usize::try_from(*order.get(at)?).ok()
            }
            Self::Golden(weights) => weights.draw(turn.wrapping_mul(GOLDEN)),
        }
    }
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn smooth(weights: &[i64], total: i64) -> Vec<u32> {
    let mut current = vec![0_i64; weights.len()];
    let mut order = Vec::new();
    for _ in 0..total {
        let mut best = (i64::MIN, 0);
        for (at, (value, weight)) in current.iter_mut().zip(weights).enumerate() {
            *value += weight;
            if *value > best.0 {
                best = (*value, at);
            }
        }
        if let Some(value) = current.get_mut(best.1) {
            *value -= total;
        }
        order.push(u32::try_from(best.1).unwrap_or(u32::MAX));
    }
    order
}
