//! The state-of-the-world view of a [`Subscription`].
//!
//! LDS and CDS answers are always the full set, and what is absent is deleted. RDS, EDS and SDS answers
//! carry what changed; nothing of these can be deleted. A client that comes back is sent everything: its
//! version says what it once accepted, not what it still holds (gRPC keeps the version of what it dropped).
//! What is gone of that stays in the first answer, so that it is not deleted before its routes are new.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc, time::Instant};

use outrigger_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use xxhash_rust::xxh64::xxh64;

use super::subscription::{
    Answer, Known, MAX_ANSWER_BYTES, Stage, Subscription, Verdict, Work, cost,
};
use crate::{
    snapshot::{ResourceBytes, ResourceType, Resources},
    translate::ALL_NAMES,
};

impl Subscription {
    /// Reads a request. One whose nonce is not the last sent is stale and ignored as a whole: the client's
    /// next one repeats the list. An empty nonce is never stale (gRPC grows its lists that way). Of a stale one it is
    /// remembered which names it lacks: if they are back in the next, the client has dropped what it had of them.
    pub(crate) fn sotw_request(
        &mut self,
        request: &DiscoveryRequest,
        now: Instant,
    ) -> Option<Verdict> {
        let nonce = request.response_nonce.as_str();
        if self.started && !nonce.is_empty() && nonce != self.last_nonce {
            let listed: BTreeSet<&str> =
                request.resource_names.iter().map(String::as_str).collect();
            let names = self.names.iter();
            let lacking = names.filter(|name| !listed.contains(&***name));
            self.dropped.extend(lacking.cloned());
            return None;
        }
        self.started = true;
        let error = request
            .error_detail
            .as_ref()
            .map(|error| error.message.as_str());
        let verdict = self.verdict(nonce, error, now);
        self.list(&request.resource_names);
        verdict
    }

    fn list(&mut self, names: &[String]) {
        let full = self.is_full_state();
        let star = names.iter().any(|name| name == "*");
        let mut wanted: BTreeSet<Arc<str>> = names
            .iter()
            .filter(|name| *name != "*")
            .map(|name| name.as_str().into())
            .collect();
        let table = self.kind == Some(ResourceType::NameTable);
        // Istio's clients read the first resource of an answer: for everything, there is one with everything.
        let star = if table && (star || wanted.is_empty()) {
            wanted.insert(ALL_NAMES.into());
            false
        } else {
            star
        };
        self.named |= !names.is_empty();
        let wildcard = star || (full && !self.named);

        let gone: Vec<_> = self.names.difference(&wanted).cloned().collect();
        let mut new: Vec<_> = wanted.difference(&self.names).cloned().collect();
        for name in std::mem::take(&mut self.dropped) {
            if wanted.contains(&name) && self.names.contains(&name) {
                self.forget(&name);
                new.push(name);
            }
        }
        self.names = wanted;
        for name in gone.iter().filter(|_| !wildcard) {
            self.forget(name);
        }
        if wildcard && !self.wildcard {
            self.wildcard = true;
            self.owes_answer = true;
            self.look_at_all();
        } else if self.wildcard && !wildcard {
            self.end_wildcard();
        }
        // Where absence means something, a new name is answered even if there is none.
        self.owes_answer |= full && !new.is_empty();
        self.dirty.extend(new);
    }

    fn is_full_state(&self) -> bool {
        self.kind.is_some_and(ResourceType::is_full_state)
    }

    /// The next answer, if one is due and none is outstanding.
    pub(crate) fn sotw_next(
        &mut self,
        resources: Option<&Resources>,
        stage: Stage,
        now: Instant,
    ) -> Option<Answer> {
        if !self.is_free(now) {
            None
        } else if self.is_full_state() {
            self.full(resources?, stage, now)
        } else {
            self.partial(resources?, stage, now)
        }
    }

    fn full(&mut self, resources: &Resources, stage: Stage, now: Instant) -> Option<Answer> {
        let (mut due, mut leaving) = (self.owes_answer && stage == Stage::Updates, Vec::new());
        let dirty: Vec<_> = self.dirty.iter().cloned().collect();
        for name in &dirty {
            match self.work(name, Some(resources)) {
                Work::Clean | Work::TellAbsent => self.drop_if_absent(name, resources),
                Work::Send(_) => due |= stage == Stage::Updates,
                Work::Remove => {
                    due |= stage == Stage::Removals;
                    leaving.push(Arc::clone(name));
                }
            }
        }
        if !due {
            return None;
        }
        let mut kept = Vec::new();
        let mut set: Vec<_> = if self.wildcard {
            resources.iter().collect()
        } else {
            self.names
                .iter()
                .filter_map(|name| resources.get(name))
                .collect()
        };
        for name in &leaving {
            match self.known.get(name) {
                // Still in use until the new routes are: it stays in the set for now.
                Some(Known::Held {
                    resource: Some(resource),
                    ..
                }) if stage == Stage::Updates => {
                    kept.push(Arc::clone(resource));
                }
                Some(_) | None => self.drop_held(name),
            }
        }
        set.iter().for_each(|resource| self.hold(resource, now));
        set.extend(kept.iter().cloned());
        set.sort_by(|a, b| a.name.cmp(&b.name));
        let answer = self.answer(version_of(&set), set, Vec::new(), (stage, now));
        Some(Answer { kept, ..answer })
    }

    fn partial(&mut self, resources: &Resources, stage: Stage, now: Instant) -> Option<Answer> {
        if stage == Stage::Removals {
            return None;
        }
        let (mut set, mut bytes) = (Vec::new(), 0);
        let dirty: Vec<_> = self.dirty.iter().cloned().collect();
        for name in &dirty {
            match self.work(name, Some(resources)) {
                Work::Clean => self.drop_if_absent(name, resources),
                Work::Send(resource) => {
                    bytes += cost(&resource);
                    if bytes > MAX_ANSWER_BYTES && !set.is_empty() {
                        break; // The rest follows the ACK.
                    }
                    set.push(resource);
                }
                // There is no way to say it: the client keeps what it has until it asks no more.
                Work::TellAbsent | Work::Remove => self.forget(name),
            }
        }
        if set.is_empty() {
            return None;
        }
        set.iter().for_each(|resource| self.hold(resource, now));
        let held = self.known.iter().filter_map(|(name, known)| match known {
            Known::Held { version, .. } => Some((name, version)),
            Known::Absent => None,
        });
        let version = version(held);
        Some(self.answer(version, set, Vec::new(), (stage, now)))
    }

    fn drop_if_absent(&mut self, name: &Arc<str>, resources: &Resources) {
        self.dirty.remove(name);
        self.forced.remove(name);
        if resources.get(name).is_none() {
            self.known.remove(name);
        }
    }
}

/// The version of a set, which has to be sorted by name.
pub(super) fn version_of(set: &[Arc<ResourceBytes>]) -> String {
    version(set.iter().map(|one| (&one.name, &one.version)))
}

/// Belongs to the set, not to the stream: the same after a restart.
fn version<'a>(set: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>) -> String {
    let mut text = String::new();
    for (name, version) in set {
        // Writing to a string does not fail.
        let _written = writeln!(text, "{name} {version}");
    }
    format!("{:016x}", xxh64(text.as_bytes(), 0))
}

/// An answer as it goes over the wire.
pub(crate) fn response(answer: Answer) -> DiscoveryResponse {
    let any = |resource: &Arc<ResourceBytes>| resource.any.clone();
    DiscoveryResponse {
        version_info: answer.version,
        resources: answer.resources.iter().map(any).collect(),
        type_url: answer.type_url.to_string(),
        nonce: answer.nonce,
        ..DiscoveryResponse::default()
    }
}

#[cfg(test)]
mod tests;
