//! Who holds which certificate until when: what `outrigger certs` shows, and what finds a client that does not renew.
//!
//! In memory: after a restart the holders that are connected are known again by their connections, the rest when they
//! come. Nothing that keeps the mesh safe is decided by it. Bounded: at [`MAX`] the record that ends first goes, counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use crate::spiffe::SpiffeId;

/// Records kept. A mesh of 25,000 workloads has twice as many live certificates (renewal is at half life).
const MAX: usize = 50_000;
/// Of its life must be over for a certificate to count as late, in percent.
const LATE_PERCENT: u64 = 80;

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: SpiffeId,
    /// Hex SHA-256 of the root that it leads to; empty: not known since the restart.
    pub(crate) root: Arc<str>,
    pub(crate) issued_ms: u64,
    pub(crate) not_after_ms: u64,
    /// Another took its place at that time.
    pub(crate) renewed_ms: Option<u64>,
    /// The one before it, if it was a renewal.
    pub(crate) renews: Option<Arc<str>>,
}

impl Held {
    /// Whether it should have been renewed by now.
    pub(crate) const fn is_late(&self, now_ms: u64) -> bool {
        let life = self.not_after_ms.saturating_sub(self.issued_ms);
        self.renewed_ms.is_none()
            && now_ms >= self.issued_ms + life / 100 * LATE_PERCENT
            && now_ms < self.not_after_ms
    }
}

/// By serial number.
#[derive(Debug, Default)]
pub(crate) struct Records(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    all: BTreeMap<Arc<str>, Held>,
    /// The same by their end.
    ends: BTreeSet<(u64, Arc<str>)>,
    dropped: u64,
}

impl Records {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A certificate that was issued just now.
    pub(crate) fn issued(&self, serial: &str, held: Held) {
        let mut inner = self.lock();
        if let Some(before) = &held.renews
            && let Some(before) = inner.all.get_mut(before)
        {
            before.renewed_ms = Some(held.issued_ms);
        }
        inner.insert(serial.into(), held);
    }

    /// A certificate that was shown: of before the restart, maybe.
    pub(crate) fn seen(&self, serial: &str, held: Held) {
        let mut inner = self.lock();
        if !inner.all.contains_key(serial) {
            inner.insert(serial.into(), held);
        }
    }

    /// Whether another has taken its place.
    pub(crate) fn is_renewed(&self, serial: &str) -> bool {
        let inner = self.lock();
        let held = inner.all.get(serial);
        held.is_some_and(|held| held.renewed_ms.is_some())
    }

    /// Those that have not ended, by identity and end.
    pub(crate) fn live(&self, now_ms: u64) -> Vec<(Arc<str>, Held)> {
        let mut inner = self.lock();
        inner.forget_ended(now_ms);
        let all = inner.all.iter();
        let mut all: Vec<_> = all
            .map(|(serial, held)| (Arc::clone(serial), held.clone()))
            .collect();
        all.sort_by(|(_, a), (_, b)| (&a.id, a.not_after_ms).cmp(&(&b.id, b.not_after_ms)));
        all
    }

    /// One of them.
    pub(crate) fn get(&self, serial: &str) -> Option<Held> {
        self.lock().all.get(serial).cloned()
    }

    /// How many there are, and how many were let go of before their end.
    pub(crate) fn counts(&self) -> (usize, u64) {
        let inner = self.lock();
        (inner.all.len(), inner.dropped)
    }
}

impl Inner {
    fn insert(&mut self, serial: Arc<str>, held: Held) {
        self.forget_ended(held.issued_ms);
        if self.all.len() >= MAX
            && let Some((_, first)) = self.ends.pop_first()
        {
            self.all.remove(&first);
            self.dropped += 1;
        }
        self.ends.insert((held.not_after_ms, Arc::clone(&serial)));
        self.all.insert(serial, held);
    }

    fn forget_ended(&mut self, now_ms: u64) {
        while let Some((end, _)) = self.ends.first()
            && *end <= now_ms
            && let Some((_, serial)) = self.ends.pop_first()
        {
            self.all.remove(&serial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(issued_ms: u64, not_after_ms: u64, renews: Option<&str>) -> Held {
        Held {
            id: SpiffeId::new("cluster.local", "default", "reviews").unwrap(),
            root: "aa".into(),
            issued_ms,
            not_after_ms,
            renewed_ms: None,
            renews: renews.map(Into::into),
        }
    }

    #[test]
    fn a_renewal_takes_the_place_of_the_one_before_and_ended_ones_are_forgotten() {
        let records = Records::default();
        records.issued("1", held(0, 1000, None));
        records.issued("2", held(500, 1500, Some("1")));
        assert!(records.is_renewed("1") && !records.is_renewed("2"));
        assert_eq!(records.live(999).len(), 2);
        let left: Vec<_> = records.live(1000).into_iter().map(|(s, _)| s).collect();
        assert_eq!(left, ["2".into()]);
    }

    #[test]
    fn a_certificate_is_late_after_four_fifths_of_its_life_unless_renewed() {
        let one = held(0, 1000, None);
        assert!(!one.is_late(799) && one.is_late(800) && !one.is_late(1000));
        let renewed = Held {
            renewed_ms: Some(500),
            ..one
        };
        assert!(!renewed.is_late(900));
    }

    #[test]
    fn at_the_limit_the_first_to_end_is_let_go_of_and_counted() {
        let records = Records::default();
        for n in 0..=MAX {
            let end = 10_000 + u64::try_from(n).unwrap();
            records.issued(&n.to_string(), held(0, end, None));
        }
        assert_eq!(records.counts(), (MAX, 1));
        assert!(records.get("0").is_none() && records.get("1").is_some());
    }
}
