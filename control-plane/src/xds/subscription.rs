//! What one client wants of one type, what it holds, and what it still has to be told.
//!
//! ```text
//!            request                    look(resources)
//!   names ──────────────► dirty ◄────────────────────── changed names
//!                           │ next(): at most one answer outstanding
//!                           ▼
//!   known ◄── answer ── outstanding ── ACK or NACK ──► (free for the next)
//! ```
//! Pure: no channel, no clock; the caller passes `now`. [`super::delta`] and [`super::sotw`] read requests
//! and make answers; here is what they share. A slow client costs no queue: names wait in `dirty`, each once,
//! and are answered with the latest state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::snapshot::{ResourceBytes, ResourceType, Resources, Seen};

/// Names that one client may subscribe to, of one type. Far above any mesh of today; a client past it is broken.
pub(crate) const MAX_NAMES: usize = 100_000;
/// One name, version or type URL.
pub(crate) const MAX_NAME_BYTES: usize = 1024;
/// Names that one client asks for or holds of one type, on average: [`MAX_NAMES`] usual ones have half of it.
pub(crate) const MAX_NAMES_BYTES: usize = 16 * 1024 * 1024;
/// What a client says about an answer that it refuses is cut to this length.
const MAX_NACK_BYTES: usize = 4096;
/// gRPC clients refuse a message of more than 4 MiB and end the stream, for ever. The rest is for framing.
pub(crate) const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// An answer that nobody acknowledges blocks its type for this long, then the latest state is sent anyway.
/// Longer than Envoy's 15 s wait for missing resources, which can hold back an ACK.
pub(super) const ACK_PATIENCE: Duration = Duration::from_secs(30);

/// What may be sent now. Removals wait until everything new is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Whatever is new or changed, and answers that a request demands.
    Updates,
    /// The rest.
    Removals,
}

/// What the client has of a name, as far as we told it.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// It was told that there is none.
    Absent,
    /// It holds this version. The bytes are missing where the client itself said so on reconnecting.
    Held {
        version: Arc<str>,
        resource: Option<Arc<ResourceBytes>>,
        /// When this version was sent first, if it was on this stream.
        sent: Option<Instant>,
    },
}

/// What has to be done about a name.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Work {
    /// Nothing.
    Clean,
    /// It is new, changed, or asked for again.
    Send(Arc<ResourceBytes>),
    /// It was asked for and there is none.
    TellAbsent,
    /// The client holds it and it is gone.
    Remove,
}

/// One response.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Type URL, as requested.
    pub(crate) type_url: Arc<str>,
    /// Unique on every stream there ever was.
    pub(crate) nonce: String,
    /// Of the whole answer (state of the world only).
    pub(crate) version: String,
    /// To set.
    pub(crate) resources: Vec<Arc<ResourceBytes>>,
    /// To remove (incremental only).
    pub(crate) removed: Vec<Arc<str>>,
    /// Of `resources`, what is gone from the mesh and still in use (state of the world only).
    pub(crate) kept: Vec<Arc<ResourceBytes>>,
    /// When it goes out: what is removed among updates was asked for and never there.
    pub(crate) stage: Stage,
}

/// What a request said about an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Took it; this long after it was sent.
    Ack { nonce: String, after: Duration },
    /// Refused it, in these words.
    Nack { nonce: String, words: String },
}

/// What a client has of a name, as the operator is told.
#[derive(Debug)]
pub(crate) enum Holding<'a> {
    /// It asked, and was told nothing yet.
    NotSent,
    /// It was told that there is none.
    Absent,
    /// It was sent this version.
    Sent { known: &'a Known, acked: bool },
    /// It refused the answer that this version came with.
    Refused { known: &'a Known, words: &'a str },
}

impl<'a> Holding<'a> {
    /// When that was sent.
    pub(super) fn sent(&self) -> Option<Instant> {
        match self {
            Self::Sent { known, .. } | Self::Refused { known, .. } => match known {
                Known::Held { sent, .. } => *sent,
                Known::Absent => None,
            },
            Self::NotSent | Self::Absent => None,
        }
    }

    /// Version and content of what was sent last, as far as they are known.
    pub(super) fn resource(&self) -> (Option<&'a Arc<str>>, Option<&'a Arc<ResourceBytes>>) {
        match self {
            Self::Sent {
                known: Known::Held {
                    version, resource, ..
                },
                ..
            }
            | Self::Refused {
                known: Known::Held {
                    version, resource, ..
                },
                ..
            } => (Some(version), resource.as_ref()),
            _ => (None, None),
        }
    }
}

#[derive(Debug)]
struct Outstanding {
    nonce: String,
    /// What it sets.
    names: Vec<Arc<str>>,
    since: Instant,
    /// Brings something new, which others may have to wait for.
    brings: bool,
}

/// State of one type on one stream.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// None = a type that is not served: every name of it is absent.
    pub(super) kind: Option<ResourceType>,
    pub(super) type_url: Arc<str>,
    nonce_prefix: Arc<str>,
    /// The first request has been read.
    pub(super) started: bool,
    pub(super) wildcard: bool,
    /// Some name has been sent on this stream (then an empty list no longer means "everything").
    pub(super) named: bool,
    pub(super) names: BTreeSet<Arc<str>>,
    /// Names that stale requests lacked (state of the world only).
    pub(super) dropped: BTreeSet<Arc<str>>,
    pub(super) known: BTreeMap<Arc<str>, Known>,
    /// Names to look at.
    pub(super) dirty: BTreeSet<Arc<str>>,
    /// Names to answer even if the client holds them.
    pub(super) forced: BTreeSet<Arc<str>>,
    /// An answer is due even if it is empty.
    pub(super) owes_answer: bool,
    seen: Seen,
    sent: u64,
    outstanding: Option<Outstanding>,
    /// Set by answers that were refused, and not sent since; with the client's words.
    refused: BTreeMap<Arc<str>, Arc<str>>,
    pub(super) last_nonce: String,
}

impl Subscription {
    /// Nothing asked for yet. `nonce_prefix` is the stream's own.
    pub(crate) fn new(type_url: &str, nonce_prefix: &Arc<str>) -> Self {
        Self {
            kind: ResourceType::from_url(type_url),
            type_url: type_url.into(),
            nonce_prefix: Arc::clone(nonce_prefix),
            started: false,
            wildcard: false,
            named: false,
            names: BTreeSet::new(),
            dropped: BTreeSet::new(),
            known: BTreeMap::new(),
            dirty: BTreeSet::new(),
            forced: BTreeSet::new(),
            owes_answer: false,
            seen: Seen::default(),
            sent: 0,
            outstanding: None,
            refused: BTreeMap::new(),
            last_nonce: String::new(),
        }
    }

    /// Every name that the client asked for or holds.
    pub(crate) fn holdings(&self) -> impl Iterator<Item = (&Arc<str>, Holding<'_>)> {
        let waiting = self.outstanding.as_ref();
        let known = self.known.iter().map(move |(name, known)| {
            let holding = match (known, self.refused.get(name)) {
                (Known::Absent, _) => Holding::Absent,
                (known, Some(words)) => Holding::Refused { known, words },
                (known, None) => Holding::Sent {
                    known,
                    acked: waiting.is_none_or(|answer| !answer.names.contains(name)),
                },
            };
            (name, holding)
        });
        let asked = self
            .names
            .iter()
            .filter(|name| !self.known.contains_key(*name));
        known.chain(asked.map(|name| (name, Holding::NotSent)))
    }

    /// Which version of `name` the client has accepted, if it asked for it at all.
    pub(crate) fn accepted(&self, name: &str) -> Option<Option<&Arc<str>>> {
        if !self.started || !self.concerns(name) {
            return None;
        }
        let open = self.outstanding.as_ref();
        let open = open.is_some_and(|answer| answer.names.iter().any(|sent| &**sent == name));
        Some(match self.known.get(name) {
            Some(Known::Held { version, .. }) if !open && !self.refused.contains_key(name) => {
                Some(version)
            }
            _ => None,
        })
    }

    /// Whether something new has been sent and not been acknowledged.
    pub(crate) fn is_waiting(&self) -> bool {
        self.outstanding
            .as_ref()
            .is_some_and(|outstanding| outstanding.brings)
    }

    /// Whether something new (`forced`: of what has to be answered) waits behind an unacknowledged answer.
    pub(crate) fn is_queueing(&self, resources: &Resources, forced: bool, now: Instant) -> bool {
        let queue = if forced { &self.forced } else { &self.dirty };
        !self.is_free(now)
            && queue
                .iter()
                .any(|name| matches!(self.work(name, Some(resources)), Work::Send(_)))
    }

    /// Whether nothing is to be sent and nothing to be answered.
    pub(crate) fn is_settled(&self) -> bool {
        self.outstanding.is_none() && self.dirty.is_empty() && !self.owes_answer
    }

    /// When something that waits behind an unacknowledged answer is sent anyway.
    pub(crate) fn patience_ends(&self) -> Option<Instant> {
        let outstanding = self.outstanding.as_ref()?;
        (!self.dirty.is_empty() || self.owes_answer).then_some(outstanding.since + ACK_PATIENCE)
    }

    /// How many resources the client holds as far as we know.
    pub(crate) fn held(&self) -> usize {
        self.known
            .values()
            .filter(|known| matches!(known, Known::Held { .. }))
            .count()
    }

    /// Whether the client has named more than any client needs.
    pub(crate) fn is_too_large(&self) -> bool {
        let most = self.names.len().max(self.known.len());
        let names = self.names.iter().map(|name| name.len());
        let known = self.known.iter().map(|(name, known)| match known {
            Known::Held { version, .. } => name.len() + version.len(),
            Known::Absent => name.len(),
        });
        // Bytes are not worth counting below that.
        let large = most > MAX_NAMES_BYTES / MAX_NAME_BYTES / 4;
        most > MAX_NAMES || large && names.chain(known).sum::<usize>() > 2 * MAX_NAMES_BYTES
    }

    /// Whether the client asked for this very name.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether the client asked for everything.
    pub(crate) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Names that are answered next even if the client holds them.
    pub(crate) const fn forced(&self) -> &BTreeSet<Arc<str>> {
        &self.forced
    }

    /// Has `name` answered even if the client holds it.
    pub(crate) fn force(&mut self, name: &Arc<str>) {
        self.forced.insert(Arc::clone(name));
        self.dirty.insert(Arc::clone(name));
    }

    /// Notes that a client that has just come back holds `set`, as far as it asks for it.
    pub(super) fn resume(&mut self, set: impl IntoIterator<Item = Arc<ResourceBytes>>) {
        for resource in set {
            if self.concerns(&resource.name) {
                let held = Known::Held {
                    version: Arc::clone(&resource.version),
                    resource: Some(Arc::clone(&resource)),
                    sent: None,
                };
                self.known.insert(Arc::clone(&resource.name), held);
            }
        }
    }

    /// Everything has to be looked at again, because a wildcard came or went.
    pub(super) fn look_at_all(&mut self) {
        self.seen = Seen::default();
    }

    /// Takes notice of what differs from what it looked at last.
    pub(crate) fn look(&mut self, resources: &Resources) {
        if !self.started {
            return;
        }
        match resources.changed_since(self.seen) {
            Some(changed) => {
                let concerned = changed.into_iter().filter(|name| self.concerns(name));
                let concerned: Vec<_> = concerned.collect();
                self.dirty.extend(concerned);
            }
            None => {
                if self.wildcard {
                    self.dirty
                        .extend(resources.iter().map(|resource| Arc::clone(&resource.name)));
                }
                self.dirty.extend(self.names.iter().cloned());
                self.dirty.extend(self.known.keys().cloned());
            }
        }
        self.seen = resources.seen();
    }

    fn concerns(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name) || self.known.contains_key(name)
    }

    /// What `name` needs. Names of a type that is not served are all absent.
    pub(super) fn work(&self, name: &Arc<str>, resources: Option<&Resources>) -> Work {
        let named = self.names.contains(name);
        let current = resources.and_then(|all| {
            // What is made for who asks for it is not among everything.
            let subscribed = named || self.wildcard && all.lists(name);
            if subscribed { all.get(name) } else { None }
        });
        let forced = self.forced.contains(name);
        match (current, self.known.get(name)) {
            (Some(current), Some(Known::Held { version, .. }))
                if *version == current.version && !forced =>
            {
                Work::Clean
            }
            (Some(current), _) => Work::Send(current),
            (None, _) if forced => Work::TellAbsent,
            (None, Some(Known::Held { .. })) => Work::Remove,
            (None, None) if self.names.contains(name) => Work::TellAbsent,
            (None, None | Some(Known::Absent)) => Work::Clean,
        }
    }

    /// Whether an answer may go out. A stage's own answer is never sent twice at a time.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.started
            && self.outstanding.as_ref().is_none_or(|outstanding| {
                now.saturating_duration_since(outstanding.since) >= ACK_PATIENCE
            })
    }

    /// Notes that the client now holds `resource`.
    pub(super) fn hold(&mut self, resource: &Arc<ResourceBytes>, now: Instant) {
        let before = match self.known.get(&resource.name) {
            Some(Known::Held { version, sent, .. }) if *version == resource.version => *sent,
            Some(_) | None => None,
        };
        self.dirty.remove(&resource.name);
        self.forced.remove(&resource.name);
        self.refused.remove(&resource.name);
        let held = Known::Held {
            version: Arc::clone(&resource.version),
            resource: Some(Arc::clone(resource)),
            sent: before.or(Some(now)),
        };
        self.known.insert(Arc::clone(&resource.name), held);
    }

    /// Notes that the client knows that there is no `name`.
    pub(super) fn drop_held(&mut self, name: &Arc<str>) {
        self.dirty.remove(name);
        self.forced.remove(name);
        self.refused.remove(name);
        if self.names.contains(name) {
            self.known.insert(Arc::clone(name), Known::Absent);
        } else {
            self.known.remove(name);
        }
    }

    /// Forgets all about `name`: what the client does not want it will drop.
    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.dirty.remove(name);
        self.forced.remove(name);
        self.refused.remove(name);
    }

    /// Drops what only the wildcard asked for.
    pub(super) fn end_wildcard(&mut self) {
        self.wildcard = false;
        let names = &self.names;
        self.known.retain(|name, _| names.contains(name));
        self.dirty.retain(|name| names.contains(name));
        self.forced.retain(|name| names.contains(name));
        self.refused.retain(|name, _| names.contains(name));
    }

    /// Makes the answer the outstanding one.
    pub(super) fn answer(
        &mut self,
        version: String,
        resources: Vec<Arc<ResourceBytes>>,
        removed: Vec<Arc<str>>,
        sent: (Stage, Instant),
    ) -> Answer {
        self.owes_answer = false;
        self.sent += 1;
        let nonce = format!("{}-{}", self.nonce_prefix, self.sent);
        self.last_nonce.clone_from(&nonce);
        let (stage, since) = sent;
        let brings = stage == Stage::Updates && !resources.is_empty();
        self.outstanding = Some(Outstanding {
            nonce: nonce.clone(),
            names: resources
                .iter()
                .map(|resource| Arc::clone(&resource.name))
                .collect(),
            since,
            brings,
        });
        Answer {
            type_url: Arc::clone(&self.type_url),
            nonce,
            version,
            resources,
            removed,
            kept: Vec::new(),
            stage,
        }
    }

    /// Reads the ACK or NACK in a request. `error_detail` alone decides: versions do not tell (gRPC's NACK of
    /// a partly bad answer carries the new one). A refused answer counts as held: only a change is sent again.
    pub(super) fn verdict(
        &mut self,
        nonce: &str,
        error: Option<&str>,
        now: Instant,
    ) -> Option<Verdict> {
        let outstanding = self
            .outstanding
            .take_if(|outstanding| outstanding.nonce == nonce)?;
        let nonce = outstanding.nonce;
        Some(match error {
            Some(words) => {
                let words = words.get(..words.floor_char_boundary(MAX_NACK_BYTES));
                let words = words.unwrap_or_default();
                let shared: Arc<str> = words.into();
                let names = outstanding.names.into_iter();
                self.refused
                    .extend(names.map(|name| (name, Arc::clone(&shared))));
                Verdict::Nack {
                    nonce,
                    words: words.to_owned(),
                }
            }
            None => Verdict::Ack {
                nonce,
                after: now.saturating_duration_since(outstanding.since),
            },
        })
    }
}

/// About how much a resource takes in an answer.
pub(super) fn cost(resource: &ResourceBytes) -> usize {
    // Tags, lengths, and the type URL, which is repeated for each.
    const OVERHEAD: usize = 64;
    let any = resource.any.type_url.len() + resource.any.value.len();
    any + resource.name.len() + resource.version.len() + OVERHEAD
}
