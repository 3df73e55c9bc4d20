//! What the streams of one node wait for of each other: a client may ask for clusters on one and for routes on another.
//!
//! ```text
//! CDS stream   make ──► done ─┐                  ┌─► break
//! RDS stream   (make: none)   └─► switch ──► done ┘
//! ```
//! Each stream says which state of the mesh it has brought through which step, and looks at what the others said. How long
//! it waits for them is its own business ([`super::stream`]). A stream that has everything itself waits for nobody.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use super::subscription::MAX_NAMES;

/// Streams of one node that wait for each other: one a type, and some that are about to end. More are each for itself.
const MAX_MEMBERS: usize = 16;

/// The nodes that have streams. As many as there are streams at most, which the listener bounds.
#[derive(Debug, Default)]
pub(crate) struct Together(Mutex<HashMap<Key, watch::Sender<Group>>>);

/// A node and who speaks for it: nobody is held up by who only claims to be the same.
type Key = (Box<str>, Option<Arc<str>>);

#[derive(Debug, Default)]
struct Group {
    members: BTreeMap<u64, Done>,
    next: u64,
    /// Clusters that one stream sent and whose endpoints another one has.
    owed: BTreeSet<Arc<str>>,
    /// When the state was seen that the newest of them are from.
    owed_of: Option<Instant>,
}

/// When the newest state of the mesh was seen that a stream has brought through a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    make: Option<Instant>,
    switch: Option<Instant>,
}

/// Which steps the other streams of the node have not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Others {
    pub(crate) make: bool,
    pub(crate) switch: bool,
}

/// One stream's place among those of its node. Dropping it lets the others go on.
#[derive(Debug)]
pub(crate) struct Member {
    together: Arc<Together>,
    key: Key,
    id: u64,
    group: watch::Sender<Group>,
    changes: watch::Receiver<Group>,
}

impl Together {
    /// Enters a stream. None if the node has too many.
    pub(crate) fn join(
        self: &Arc<Self>,
        node: &str,
        identity: Option<&Arc<str>>,
    ) -> Option<Member> {
        let key: Key = (node.into(), identity.cloned());
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let group = groups.entry(key.clone()).or_default();
        let mut id = None;
        group.send_if_modified(|group| {
            if group.members.len() < MAX_MEMBERS {
                group.next += 1;
                group.members.insert(group.next, Done::default());
                id = Some(group.next);
            }
            // Who was alone looks at every change from now on.
            id.is_some() && group.members.len() > 1
        });
        Some(Member {
            together: Arc::clone(self),
            id: id?,
            group: group.clone(),
            changes: group.subscribe(),
            key,
        })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Member {
    /// Ends when another stream of the node has got further.
    pub(crate) async fn changed(&mut self) {
        // It cannot end: this one is a sender, too.
        let _changed = self.changes.changed().await;
    }

    /// What the others have not done of the state that was seen at `since`.
    pub(crate) fn others(&mut self, since: Instant) -> Others {
        let group = self.changes.borrow_and_update();
        let others = group.members.iter().filter(|(id, _)| **id != self.id);
        let mut open = Others::default();
        for (_, done) in others {
            open.make |= done.make.is_none_or(|at| at < since);
            open.switch |= done.switch.is_none_or(|at| at < since);
        }
        open
    }

    /// Whether there are others.
    pub(crate) fn has_others(&self) -> bool {
        self.group.borrow().members.len() > 1
    }

    /// Says which steps are done of the state that was seen at `since`.
    pub(crate) fn tell(&self, since: Instant, open: Others) {
        let tell = |group: &mut Group| {
            let Some(done) = group.members.get_mut(&self.id) else {
                return false;
            };
            let before = *done;
            if !open.make {
                done.make = Some(since);
            }
            if !open.switch {
                done.switch = Some(since);
            }
            // Alone it need not hear of itself.
            before != *done && group.members.len() > 1
        };
        self.group.send_if_modified(tell);
    }

    /// Leaves clusters, of the state that was seen at `since`, to the stream that has their endpoints.
    pub(crate) fn owe(&self, clusters: BTreeSet<Arc<str>>, since: Instant) {
        let owe = |group: &mut Group| {
            group.owed.extend(clusters);
            group.owed_of = group.owed_of.max(Some(since));
            // A mesh has no more; that many are of a client that never asks for endpoints.
            if group.owed.len() > MAX_NAMES {
                group.owed.clear();
            }
            true
        };
        self.group.send_if_modified(owe);
    }

    /// Takes what was left to the stream that has endpoints, when it has seen what is newest of it.
    pub(crate) fn take_owed(&self, seen: Instant) -> BTreeSet<Arc<str>> {
        let early = |group: &Group| group.owed_of.is_some_and(|of| of > seen);
        {
            let group = self.group.borrow();
            if group.owed.is_empty() || early(&group) {
                return BTreeSet::new();
            }
        }
        let mut taken = BTreeSet::new();
        let take = |group: &mut Group| {
            taken = std::mem::take(&mut group.owed);
            false
        };
        self.group.send_if_modified(take);
        taken
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut groups = self
            .together
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.group.send_modify(|group| {
            group.members.remove(&self.id);
        });
        if self.group.borrow().members.is_empty() {
            groups.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
