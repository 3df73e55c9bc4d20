//! A sorted map whose copies share what they have in common: thousands of entries, of which a change touches few.
//!
//! ```text
//! copy before ─┬─ chunk ─ chunk ─────── chunk     at most 64 entries each
//! copy after ──┴─ chunk ─ chunk' ────── chunk     only the touched one is another
//! ```
//! A copy costs a counter; the first change of a copy costs the list of chunks (one in 64 entries) and one chunk. What
//! differs between two copies is found without looking at the chunks that they share. Nobody who reads waits.

use std::{borrow::Borrow, cmp::Ordering, sync::Arc};

/// Entries of a chunk. Larger ones make a change dearer, smaller ones the list of chunks longer.
const CHUNK: usize = 64;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// See the file. Keys and values are cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SortedMap<K, V> {
    /// None is empty.
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Arc::default(),
            len: 0,
        }
    }
}

impl<K: Ord + Clone, V: Clone> SortedMap<K, V> {
    /// How many entries.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of `key`.
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = place(chunk, key).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    /// Whether there is a value of `key`.
    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// In order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        all.map(|(key, value)| (key, value))
    }

    /// In order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// In order of the keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Adds or replaces one.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let at = self.chunk_of(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return;
        };
        let entries = Arc::make_mut(chunk);
        match place(entries, &key) {
            Ok(found) => {
                if let Some((_, old)) = entries.get_mut(found) {
                    *old = value;
                }
            }
            Err(free) => {
                entries.insert(free, (key, value));
                self.len += 1;
                if entries.len() > CHUNK {
                    let rest = entries.split_off(CHUNK / 2);
                    chunks.insert(at + 1, Arc::new(rest));
                }
            }
        }
    }

    /// Takes one away, if it is there.
    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key);
        let Some(Ok(found)) = self.chunks.get(at).map(|chunk| place(chunk, key)) else {
            return;
        };
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at) else {
            return;
        };
        let entries = Arc::make_mut(chunk);
        entries.remove(found);
        self.len -= 1;
        if entries.is_empty() {
            chunks.remove(at);
        }
    }

    /// The keys that came, went, or whose values are not the `same`, since `before`. Cheap if this is a changed copy of it.
    pub(crate) fn changed_since(&self, before: &Self, same: impl Fn(&V, &V) -> bool) -> Vec<K> {
        let (mut old, mut new) = (Cursor::of(before), Cursor::of(self));
        let mut changed = Vec::new();
        loop {
            if old.skip_shared(&mut new) {
                continue;
            }
            let (before, after) = (old.entry(), new.entry());
            let order = match (before, after) {
                (None, None) => return changed,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((before, _)), Some((after, _))) => before.cmp(after),
            };
            match (order, before, after) {
                (Ordering::Equal, Some((key, before)), Some((_, after))) => {
                    if !same(before, after) {
                        changed.push(key.clone());
                    }
                }
                (Ordering::Less, Some((key, _)), _) | (_, _, Some((key, _))) => {
                    changed.push(key.clone());
                }
                (_, _, None) => {}
            }
            if order != Ordering::Greater {
                old.step();
            }
            if order != Ordering::Less {
                new.step();
            }
        }
    }

    /// The chunk that has `key`, or would have it. The last one takes what is larger than everything.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_after = |chunk: &Chunk<K, V>| {
            let first = chunk.first();
            first.is_some_and(|(first, _)| first.borrow() <= key)
        };
        self.chunks.partition_point(begins_after).saturating_sub(1)
    }
}

fn place<K: Borrow<Q>, V, Q: Ord + ?Sized>(chunk: &[(K, V)], key: &Q) -> Result<usize, usize> {
    chunk.binary_search_by(|(found, _)| found.borrow().cmp(key))
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SortedMap<K, V> {
    /// In any order; of two with one key the later holds.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        // Stable: what came later stays later.
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.reverse();
        entries.dedup_by(|(a, _), (b, _)| a == b);
        entries.reverse();
        let len = entries.len();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK / 2));
        let mut rest = entries.into_iter();
        loop {
            // Half full, so that a few more need no new chunk.
            let chunk: Vec<_> = rest.by_ref().take(CHUNK / 2).collect();
            if chunk.is_empty() {
                break;
            }
            chunks.push(Arc::new(chunk));
        }
        Self {
            chunks: Arc::new(chunks),
            len,
        }
    }
}

/// A place in a map.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    /// In the first of `chunks`.
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn of(map: &'a SortedMap<K, V>) -> Self {
        Self {
            chunks: &map.chunks,
            at: 0,
        }
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        self.chunks.first()?.get(self.at)
    }

    fn step(&mut self) {
        self.at += 1;
        if self
            .chunks
            .first()
            .is_some_and(|chunk| self.at >= chunk.len())
        {
            self.next_chunk();
        }
    }

    /// Both leave a chunk that they share behind.
    fn skip_shared(&mut self, other: &mut Self) -> bool {
        let (Some(own), Some(others)) = (self.chunks.first(), other.chunks.first()) else {
            return false;
        };
        let shared = self.at == 0 && other.at == 0 && Arc::ptr_eq(own, others);
        if shared {
            self.next_chunk();
            other.next_chunk();
        }
        shared
    }

    fn next_chunk(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }
}

#[cfg(test)]
impl<K: Ord + Clone, V: Clone> std::ops::Index<&K> for SortedMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_is_a_map_and_copies_do_not_change_with_the_original() {
        for seed in 0..50 {
            println!("seed {seed}");
            let mut random = fastrand::Rng::with_seed(seed);
            let size = random.u32(0..2000);
            let mut plain: BTreeMap<u32, u32> = BTreeMap::new();
            for _ in 0..size {
                plain.insert(random.u32(..1000), random.u32(..));
            }
            let mut map: SortedMap<u32, u32> = plain.clone().into_iter().collect();
            for _ in 0..200 {
                let (copy, before) = (map.clone(), plain.clone());
                for _ in 0..random.u32(0..10) {
                    let key = random.u32(..1000);
                    if random.bool() {
                        let value = random.u32(..3);
                        map.insert(key, value);
                        plain.insert(key, value);
                    } else {
                        map.remove(&key);
                        plain.remove(&key);
                    }
                }
                assert!(map.iter().eq(plain.iter()));
                assert!(copy.iter().eq(before.iter()));
                assert_eq!(map.len(), plain.len());
                let key = random.u32(..1000);
                assert_eq!(map.get(&key), plain.get(&key));
                let all: std::collections::BTreeSet<_> =
                    plain.keys().chain(before.keys()).copied().collect();
                let differs = all
                    .into_iter()
                    .filter(|key| plain.get(key) != before.get(key));
                assert_eq!(
                    map.changed_since(&copy, |a, b| a == b),
                    differs.collect::<Vec<_>>()
                );
            }
        }
    }

    #[test]
    fn of_two_values_of_a_key_the_later_holds() {
        let map: SortedMap<_, _> = [(2, 'a'), (1, 'b'), (2, 'c')].into_iter().collect();
        assert!(map.iter().eq([(&1, &'b'), (&2, &'c')]));
    }

    #[test]
    fn a_change_leaves_all_other_chunks_shared() {
        let before: SortedMap<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        let mut after = before.clone();
        after.insert(5000, 0);
        let shared = before.chunks.iter().zip(after.chunks.iter());
        let other = shared.filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(other, 1);
    }
}
