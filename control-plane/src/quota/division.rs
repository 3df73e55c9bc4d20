//! Arithmetic of shares: what is fair, and who gets what by what each wants. Deterministic; every sum is exact.

/// Equal parts of `limit` for `count`; the remainder goes to the first.
pub(super) fn fair(limit: u32, count: usize, place: usize) -> u32 {
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    limit / count + u32::from(place < limit % count)
}

/// There is less than one for each.
pub(super) fn is_scarce(limit: u32, count: usize) -> bool {
    limit > 0 && usize::try_from(limit).is_ok_and(|limit| limit < count)
}

/// What one of several should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// Its fair share.
    pub(super) fair: u32,
    /// By what all want: up to its fair share first, then what others leave over.
    pub(super) due: u32,
    /// With what nobody wants, in advance: up to the fair share. The sum over all is the limit.
    pub(super) spare: u32,
}

/// An idle sidecar keeps this part of its fair share, so that its next request need not wait for a share to come back.
const KEPT: u32 = 5;

/// Divides `limit` among sidecars by what they want; the order says who gets a remainder. Of less than one for each, who
/// does changes with every `turn`, so that everybody gets some now and then.
pub(super) fn divide(limit: u32, wanted: &[u32], turn: u64) -> Vec<Target> {
    let count = wanted.len();
    let shift = if is_scarce(limit, count) {
        let all = u64::try_from(count).unwrap_or(u64::MAX);
        let shift = (turn % all).saturating_mul(limit.into()) % all;
        usize::try_from(shift).unwrap_or(0)
    } else {
        0
    };
    let mut left = limit;
    let mut targets: Vec<Target> = (0..count)
        .zip(wanted)
        .map(|(place, wanted)| {
            let fair = fair(limit, count, (place + shift) % count);
            let due = (*wanted).max(fair / KEPT).min(fair);
            left -= due;
            Target {
                fair,
                due,
                spare: 0,
            }
        })
        .collect();
    let rooms = targets.iter().zip(wanted);
    let rooms: Vec<u32> = rooms.map(|(t, w)| w.saturating_sub(t.due)).collect();
    for (target, more) in targets.iter_mut().zip(fill(&mut left, &rooms)) {
        target.due += more;
    }
    let rooms = targets.iter().map(|t| t.fair.saturating_sub(t.due));
    let rooms: Vec<u32> = rooms.collect();
    for (target, more) in targets.iter_mut().zip(fill(&mut left, &rooms)) {
        target.spare = target.due + more;
    }
    targets
}

/// Gives out `left`, to all alike as far as each has room.
pub(super) fn fill(left: &mut u32, rooms: &[u32]) -> Vec<u32> {
    let mut given = vec![0; rooms.len()];
    let mut order: Vec<usize> = (0..rooms.len()).collect();
    // The smallest first: what it cannot take is there for the others.
    order.sort_by_key(|place| rooms.get(*place));
    let mut others = u32::try_from(order.len()).unwrap_or(u32::MAX);
    for place in order {
        if let (Some(room), Some(given)) = (rooms.get(place), given.get_mut(place)) {
            *given = (*left / others.max(1)).min(*room);
            *left -= *given;
        }
        others = others.saturating_sub(1);
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(limit: u32, wanted: &[u32]) -> Vec<u32> {
        divide(limit, wanted, 0).iter().map(|t| t.due).collect()
    }

    #[test]
    fn equal_wishes_get_equal_parts_and_the_first_the_remainder() {
        assert_eq!(due(10, &[100, 100, 100]), [4, 3, 3]);
        assert_eq!(due(2, &[100, 100, 100]), [1, 1, 0]);
        assert!(due(10, &[]).is_empty());
    }

    #[test]
    fn of_less_than_one_for_each_everybody_gets_some_in_turn() {
        for (limit, count) in [(5, 20), (3, 7), (1, 4), (6, 7)] {
            let wanted = vec![u32::MAX; count];
            let mut had = vec![0; count];
            for turn in 0..u64::try_from(count).unwrap() {
                for (had, target) in had.iter_mut().zip(divide(limit, &wanted, turn)) {
                    *had += target.due;
                }
            }
            assert_eq!(had, vec![limit; count], "{limit} of {count}");
        }
        let enough = divide(10, &[100, 100, 100], 1);
        assert_eq!(enough.iter().map(|t| t.due).collect::<Vec<_>>(), [4, 3, 3]);
    }

    #[test]
    fn what_one_does_not_want_goes_to_those_who_do() {
        assert_eq!(due(100, &[10, 1000, 10, 1000]), [10, 40, 10, 40]);
        assert_eq!(due(100, &[10, 60, 5, 5]), [10, 60, 5, 5]);
    }

    #[test]
    fn the_idle_keep_a_fifth_of_their_own() {
        assert_eq!(due(100, &[1000, 0]), [90, 10]);
        assert_eq!(
            due(8, &[1000, 0]),
            [8, 0],
            "of less than 5 there is no fifth"
        );
    }

    #[test]
    fn everything_is_given_out_and_nobody_gets_less_than_wanted_up_to_the_fair_share() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let limit = rng.u32(0..500);
            let wanted: Vec<u32> = (0..rng.usize(1..30))
                .map(|_| [0, rng.u32(0..20), rng.u32(0..1000), u32::MAX][rng.usize(0..4)])
                .collect();
            let targets = divide(limit, &wanted, rng.u64(..));
            let sum: u32 = targets.iter().map(|t| t.spare).sum();
            assert_eq!(sum, limit, "{wanted:?}");
            assert_eq!(targets.iter().map(|t| t.fair).sum::<u32>(), limit);
            for (target, wanted) in targets.iter().zip(&wanted) {
                assert!(
                    target.due >= target.fair.min(*wanted),
                    "{target:?} {wanted}"
                );
                assert!(target.spare >= target.due);
            }
        }
    }
}
