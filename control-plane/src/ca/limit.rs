//! How many certificates one identity may ask for: a bucket of [`BURST`], refilled at [`PER_SECOND`].
//!
//! Generous, because all replicas of a service share an identity and start together; signing one costs
//! tens of microseconds. Pure: the caller passes `now`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::spiffe::SpiffeId;

/// At once.
pub(crate) const BURST: u32 = 100;
/// In the long run.
pub(crate) const PER_SECOND: u32 = 10;
/// Identities remembered; a bucket that is full again need not be.
const MAX_BUCKETS: usize = 10_000;

/// When each identity's bucket is full again.
#[derive(Debug, Default)]
pub(crate) struct IssueLimit {
    full_at: Mutex<BTreeMap<SpiffeId, Instant>>,
}

impl IssueLimit {
    /// Takes one from the bucket of `id`; else says how long to wait.
    pub(crate) fn take(&self, id: &SpiffeId, now: Instant) -> Result<(), Duration> {
        let one = Duration::from_secs(1) / PER_SECOND;
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if full_at.len() >= MAX_BUCKETS && !full_at.contains_key(id) {
            full_at.retain(|_, at| *at > now);
            if full_at.len() >= MAX_BUCKETS {
                return Err(one);
            }
        }
        let at = full_at.get(id).copied().unwrap_or(now).max(now);
        let missing = at - now;
        let most = one * (BURST - 1);
        if missing > most {
            return Err(missing - most);
        }
        full_at.insert(id.clone(), at + one);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "default", name).unwrap()
    }

    #[test]
    fn an_identity_gets_a_burst_and_then_ten_a_second() {
        let (limit, start) = (IssueLimit::default(), Instant::now());
        for _ in 0..BURST {
            limit.take(&id("a"), start).unwrap();
        }
        assert_eq!(limit.take(&id("a"), start), Err(Duration::from_millis(100)));
        limit
            .take(&id("a"), start + Duration::from_millis(100))
            .unwrap();
        limit
            .take(&id("a"), start + Duration::from_millis(100))
            .unwrap_err();
    }

    #[test]
    fn one_identity_does_not_starve_another() {
        let (limit, start) = (IssueLimit::default(), Instant::now());
        while limit.take(&id("a"), start).is_ok() {}
        limit.take(&id("b"), start).unwrap();
    }
}
