//! Clusters of clusters: which member a request belongs to.
//!
//! The priorities of all members stand one after the other, and a request goes to one of them as among the priorities of
//! one cluster: the first as long as 72 % of its endpoints are in service, then more and more to those after it. Balancing,
//! limits, TLS and ejection are the member's. Source: Envoy, "aggregate cluster".

use std::{ops::ControlFlow, sync::Arc};

use crate::{Cluster, ClusterSlot, Moment, Snapshot, balance::ONE};

/// Aggregates inside aggregates, so that one that holds itself comes to an end.
const DEPTH: u32 = 8;

impl Snapshot {
    /// The cluster that serves a request to `slot`: itself, or of an aggregate one of its members. An aggregate all of
    /// whose members are away or have no endpoint in service is represented by its first member that is there, which
    /// says what is wrong; without members, by itself. None if `slot` is not there.
    #[must_use]
    #[inline]
    pub fn serving(
        &self,
        slot: ClusterSlot,
        now: impl FnOnce() -> Moment,
        rng: &mut fastrand::Rng,
    ) -> Option<(ClusterSlot, &Arc<Cluster>)> {
        let cluster = self.cluster(slot)?;
        if cluster.config.members.is_empty() {
            return Some((slot, cluster));
        }
        Some(self.member(cluster, now(), rng).unwrap_or((slot, cluster)))
    }

    fn member(
        &self,
        aggregate: &Cluster,
        now: Moment,
        rng: &mut fastrand::Rng,
    ) -> Option<(ClusterSlot, &Arc<Cluster>)> {
        let mut total = 0_u64;
        let mut first = None;
        let mut add = |slot, cluster, able: u64| {
            first.get_or_insert((slot, cluster));
            total = (total + able).min(ONE);
            if total == ONE {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        // What comes after a whole load gets none.
        let _whole = self.levels(aggregate, now, DEPTH, &mut add);
        // Of the whole load, or of all that can be taken.
        let point = if total == 0 { 0 } else { rng.u64(..total) };
        let mut sum = 0_u64;
        let mut found = None;
        let mut look = |slot, cluster, able: u64| {
            sum = sum.saturating_add(able);
            if point < sum {
                found = Some((slot, cluster));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let _found = self.levels(aggregate, now, DEPTH, &mut look);
        found.or(first)
    }

    /// Each priority of each member, with what it can take of the load.
    fn levels<'a>(
        &'a self,
        aggregate: &Cluster,
        now: Moment,
        depth: u32,
        visit: &mut impl FnMut(ClusterSlot, &'a Arc<Cluster>, u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return ControlFlow::Continue(());
        };
        for slot in &aggregate.config.members {
            let Some(cluster) = self.cluster(*slot) else {
                continue;
            };
            if !cluster.config.members.is_empty() {
                self.levels(cluster, now, depth, visit)?;
                continue;
            }
            if cluster.endpoints.is_empty() {
                visit(*slot, cluster, 0)?;
            }
            for able in cluster.capabilities(now) {
                visit(*slot, cluster, able)?;
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::{
        ClusterConfig, LbPolicy, SnapshotBuilder,
        fixture::{config, endpoint, outlier, secs},
    };

    /// `all` of `a`, `b`, in this order, with so many endpoints each, of which so many are in service.
    fn shares(members: &[(&str, usize, usize)], names: &[&str]) -> BTreeMap<String, usize> {
        let mut builder = SnapshotBuilder::default();
        for (name, all, healthy) in members {
            let endpoints = (0..*all).map(|at| {
                let mut one = endpoint(u16::try_from(at).unwrap() + 1);
                if at >= *healthy {
                    one.health = crate::Health::Unhealthy;
                }
                one
            });
            let config = ClusterConfig {
                name: (*name).to_owned(),
                outlier: Some(outlier()),
                ..config(LbPolicy::Random)
            };
            builder.put_cluster(config, endpoints.collect());
        }
        let members = names.iter().map(|name| builder.cluster_slot(name));
        let all = ClusterConfig {
            name: "all".to_owned(),
            members: members.collect(),
            ..config(LbPolicy::Random)
        };
        let slot = builder.cluster_slot("all");
        builder.put_cluster(all, Vec::new());
        let snapshot = builder.build();
        let mut rng = fastrand::Rng::with_seed(11);
        let mut counts = BTreeMap::new();
        for _ in 0..1000 {
            let (_, cluster) = snapshot.serving(slot, || secs(1), &mut rng).unwrap();
            *counts.entry(cluster.config.name.clone()).or_insert(0) += 1;
        }
        counts
    }

    fn only(name: &str) -> BTreeMap<String, usize> {
        BTreeMap::from([(name.to_owned(), 1000)])
    }

    #[test]
    fn the_first_member_gets_everything_while_72_percent_of_it_are_in_service() {
        assert_eq!(shares(&[("a", 4, 4), ("b", 4, 4)], &["a", "b"]), only("a"));
        assert_eq!(shares(&[("a", 4, 3), ("b", 4, 4)], &["a", "b"]), only("a"));
        assert_eq!(shares(&[("a", 4, 4), ("b", 4, 4)], &["b", "a"]), only("b"));
    }

    #[test]
    fn the_next_member_gets_what_the_first_cannot_take() {
        let half = shares(&[("a", 4, 2), ("b", 4, 4)], &["a", "b"]);
        let a = half["a"];
        assert!((660..740).contains(&a), "{half:?}");
        assert_eq!(shares(&[("a", 4, 0), ("b", 4, 4)], &["a", "b"]), only("b"));
        assert_eq!(shares(&[("a", 0, 0), ("b", 4, 4)], &["a", "b"]), only("b"));
    }

    #[test]
    fn members_that_are_not_enough_together_share_in_proportion() {
        let weak = shares(&[("a", 10, 1), ("b", 10, 3)], &["a", "b"]);
        let a = weak["a"];
        assert!((210..290).contains(&a), "{weak:?}");
    }

    #[test]
    fn a_member_that_is_not_there_is_passed_over_and_one_in_a_circle_ends() {
        assert_eq!(shares(&[("b", 4, 4)], &["a", "b"]), only("b"));
        assert_eq!(shares(&[("b", 4, 4)], &["all", "b"]), only("b"));
        assert_eq!(shares(&[], &["a", "all"]), only("all"));
    }

    #[test]
    fn without_anyone_in_service_the_first_member_says_what_is_wrong() {
        assert_eq!(shares(&[("a", 4, 0), ("b", 0, 0)], &["a", "b"]), only("a"));
    }
}
