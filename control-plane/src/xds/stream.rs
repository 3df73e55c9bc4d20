//! One stream: a subscription a type, and the order in which their answers go out.
//!
//! ```text
//!   make:    CDS, EDS, SDS   new and changed ──► wait for ACKs of CDS and EDS (at most 1 s)
//!   switch:  LDS, RDS, VHDS, NDS  new and changed ──► wait for ACKs (at most 1 s)
//!   break:   all             removals
//! ```
//! So a route never leads to a cluster that the client has not got, and nothing is taken away that is still in
//! use. A step with nothing to send takes no time: new endpoints or weights alone go out at once. The second
//! counts from the last answer that the step sent; what cannot be sent yet, because an earlier answer of its type
//! is outstanding, is waited for until that one's patience ends. A stream without clusters, or without listeners, waits for
//! the node's other streams as for its own ACKs ([`super::together`]).
//! Pure: the caller passes `now`, sends what [`StreamState::poll`] gives, and comes back at `deadline`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::{
    sets::{Set, Sets},
    subscription::{
        ACK_PATIENCE, Answer, Holding, MAX_NAME_BYTES, MAX_NAMES, MAX_NAMES_BYTES, Stage,
        Subscription, Verdict,
    },
    together::Others,
};
use crate::{
    snapshot::{ResourceType, Resources, Snapshot},
    translate::BUNDLE,
};

/// How long a step waits for its ACKs. Envoy acknowledges clusters when they are warm, which may take long.
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// How long a step holds the next one in all, if it always has something new to send.
const GATE_LIMIT: Duration = ACK_PATIENCE.saturating_add(STEP_LIMIT);
/// Types that are not served but asked for all the same (RTDS, ECDS, ...): tolerated, up to this many.
const MAX_UNKNOWN_TYPES: usize = 16;

/// Which of the two protocols the stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// Why a stream has to end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// More names than any mesh has.
    #[error(
        "more than {MAX_NAMES} resource names of one type on one stream, or {MAX_NAMES_BYTES} bytes of them"
    )]
    TooManyNames,
    /// A name that no resource has.
    #[error("a resource name or version has {0} bytes; at most {MAX_NAME_BYTES}")]
    LongName(usize),
    /// A client that makes up types.
    #[error("more than {MAX_UNKNOWN_TYPES} types that are not served here on one stream")]
    TooManyTypes,
}

/// State of one stream.
#[derive(Debug)]
pub(crate) struct StreamState {
    protocol: Protocol,
    nonce_prefix: Arc<str>,
    /// What clients of the state of the world hold that come back.
    sets: Arc<Sets>,
    served: BTreeMap<ResourceType, Subscription>,
    unknown: BTreeMap<String, Subscription>,
    snapshot: Option<Snapshot>,
    /// Clusters that were sent and whose endpoints have to follow, asked for already or about to be.
    owed: BTreeSet<Arc<str>>,
    make: Gate,
    switch: Gate,
    /// What the node's other streams have not done of this snapshot, and how long that is waited for.
    others: Others,
    others_make: Gate,
    others_switch: Gate,
    /// A snapshot that has not been looked at.
    fresh: bool,
    /// What this one has not done.
    open: Others,
    /// What it asks for may be other than when it was last said.
    renamed: bool,
}

/// The hosts whose clusters or endpoints a client asks for, as far as it names them.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) hosts: BTreeSet<Arc<str>>,
    /// It asks for everything as well.
    pub(crate) everything: bool,
}

/// The waiting of one step.
#[derive(Debug, Default)]
struct Gate {
    busy: Option<Busy>,
}

#[derive(Clone, Copy, Debug)]
struct Busy {
    /// The last answer that the step sent.
    sent: Instant,
    /// Since then the next step has not been let through.
    since: Instant,
    holds: bool,
}

/// How far a step has got.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Something was sent just now.
    sent: bool,
    /// Something sent has not been answered.
    unanswered: bool,
    /// Something could not be sent yet.
    queued: bool,
}

impl Gate {
    /// Whether the next step has to wait longer.
    fn holds(&mut self, step: Progress, now: Instant) -> bool {
        if !step.unanswered && !step.queued {
            self.busy = None;
            return false;
        }
        let mut busy = self.busy.unwrap_or(Busy {
            sent: now,
            since: now,
            holds: false,
        });
        if step.sent {
            busy.sent = now;
        }
        let waits = step.queued || now.saturating_duration_since(busy.sent) < STEP_LIMIT;
        busy.holds = waits && now.saturating_duration_since(busy.since) < GATE_LIMIT;
        if !busy.holds {
            busy.since = now;
        }
        self.busy = Some(busy);
        busy.holds
    }

    fn opens(&self) -> impl Iterator<Item = Instant> {
        let busy = self.busy.filter(|busy| busy.holds);
        busy.into_iter()
            .flat_map(|busy| [busy.sent + STEP_LIMIT, busy.since + GATE_LIMIT])
    }
}

impl StreamState {
    /// A stream that nothing was asked on. `nonce_prefix` must never have been used before.
    pub(crate) fn new(protocol: Protocol, nonce_prefix: &str, sets: Arc<Sets>) -> Self {
        Self {
            protocol,
            nonce_prefix: nonce_prefix.into(),
            sets,
            served: BTreeMap::new(),
            unknown: BTreeMap::new(),
            snapshot: None,
            owed: BTreeSet::new(),
            make: Gate::default(),
            switch: Gate::default(),
            others: Others::default(),
            others_make: Gate::default(),
            others_switch: Gate::default(),
            fresh: true,
            open: Others::default(),
            renamed: false,
        }
    }

    /// What the client may be sent from now on.
    pub(crate) fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
        self.fresh = true;
    }

    /// The same that was let go of by [`Self::rest`].
    pub(crate) fn set_snapshot_again(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// What the node's other streams have not done of what this one may send.
    pub(crate) fn set_others(&mut self, others: Others) {
        self.others = others;
    }

    /// Which steps are not done, as of the last [`Self::poll`].
    pub(crate) const fn open(&self) -> Others {
        self.open
    }

    /// Clusters whose endpoints are for another stream to send, if this one has none. Of clusters that are asked for by
    /// name nobody knows whether their endpoints are.
    pub(crate) fn take_owed(&mut self) -> BTreeSet<Arc<str>> {
        if self.is_started(ResourceType::Endpoint) || !self.has_all_clusters() {
            return BTreeSet::new();
        }
        std::mem::take(&mut self.owed)
    }

    fn has_all_clusters(&self) -> bool {
        let clusters = self.served.get(&ResourceType::Cluster);
        clusters.is_some_and(Subscription::is_wildcard)
    }

    /// Clusters that another stream has sent.
    pub(crate) fn owe_too(&mut self, clusters: BTreeSet<Arc<str>>) {
        self.owed.extend(clusters);
    }

    /// Whether there is one.
    pub(crate) const fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Lets go of it: another has to be set before the next [`Self::poll`].
    pub(crate) fn rest(&mut self) {
        self.snapshot = None;
    }

    /// What the client asks for, if that may have changed since the last time.
    pub(crate) fn renamed(&mut self) -> Option<Named> {
        if !std::mem::take(&mut self.renamed) {
            return None;
        }
        let mut named = Named::default();
        for kind in [ResourceType::Cluster, ResourceType::Endpoint] {
            let Some(subscription) = self.served.get(&kind) else {
                continue;
            };
            named.everything |= subscription.is_wildcard();
            for name in &subscription.names {
                let host = name.rsplit_once('|').map_or(&**name, |(_, host)| host);
                if !named.hosts.contains(host) {
                    named.hosts.insert(host.into());
                }
            }
        }
        Some(named)
    }

    /// Reads an incremental request.
    pub(crate) fn delta_request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        now: Instant,
    ) -> Result<Option<Verdict>, Refusal> {
        let held = request.initial_resource_versions.iter();
        let held = held.flat_map(|(name, version)| [name, version]);
        let names = request.resource_names_subscribe.iter();
        check_lengths(names.chain(held))?;
        let subscription = self.subscription(&request.type_url)?;
        let renamed = !subscription.started
            || !request.resource_names_subscribe.is_empty()
            || !request.resource_names_unsubscribe.is_empty();
        let verdict = subscription.delta_request(request, now);
        self.renamed |= renamed;
        self.check(&request.type_url, verdict)
    }

    /// Reads a state-of-the-world request.
    pub(crate) fn sotw_request(
        &mut self,
        request: &DiscoveryRequest,
        now: Instant,
    ) -> Result<Option<Verdict>, Refusal> {
        let version = Some(&request.version_info);
        check_lengths(request.resource_names.iter().chain(version))?;
        let sets = Arc::clone(&self.sets);
        let subscription = self.subscription(&request.type_url)?;
        let first = !subscription.started;
        let verdict = subscription.sotw_request(request, now);
        let kind = subscription.kind.filter(|kind| kind.is_full_state());
        if let Some(kind) = kind.filter(|_| first && !request.version_info.is_empty()) {
            let held = sets.get(kind, &request.version_info);
            subscription.resume(held.map(Set::into_resources).unwrap_or_default());
        }
        // Each request repeats all names.
        self.renamed = true;
        self.check(&request.type_url, verdict)
    }

    /// Whether the client has asked for something of this type.
    pub(crate) fn is_started(&self, kind: ResourceType) -> bool {
        self.served.get(&kind).is_some_and(|one| one.started)
    }

    /// How many resources of a type the client holds as far as we know.
    pub(crate) fn held(&self, kind: ResourceType) -> usize {
        self.served.get(&kind).map_or(0, Subscription::held)
    }

    /// What the client does not do of the resources that it asks for by name, or why they are withheld.
    pub(crate) fn notes(&self) -> impl Iterator<Item = (ResourceType, &Arc<str>, &str)> {
        let served = self.snapshot.iter().flat_map(|snapshot| {
            let served = self.served.iter();
            served.map(|(kind, one)| (*kind, one, snapshot.of(*kind)))
        });
        served.flat_map(|(kind, one, resources)| {
            one.names.iter().flat_map(move |name| {
                let notes = resources.notes(name).iter();
                notes.map(move |note| (kind, name, note.as_str()))
            })
        })
    }

    /// Which version of the trust bundle the client has accepted, if it asked for it at all.
    pub(crate) fn bundle(&self) -> Option<Option<&Arc<str>>> {
        let secrets = self.served.get(&ResourceType::Secret)?;
        secrets.accepted(BUNDLE)
    }

    /// What the client holds of the types that are served.
    pub(crate) fn holdings(&self) -> impl Iterator<Item = (ResourceType, &Arc<str>, Holding<'_>)> {
        self.served.iter().flat_map(|(kind, one)| {
            one.holdings()
                .map(move |(name, holding)| (*kind, name, holding))
        })
    }

    /// Whether everything was sent and answered, as of the last [`Self::poll`].
    pub(crate) fn is_settled(&self) -> bool {
        self.owed.is_empty() && self.served.values().all(Subscription::is_settled)
    }

    /// Whether all endpoints were sent and answered, as of the last [`Self::poll`].
    pub(crate) fn has_all_endpoints(&self) -> bool {
        let endpoints = self.served.get(&ResourceType::Endpoint);
        endpoints.is_none_or(Subscription::is_settled)
    }

    fn check(
        &mut self,
        type_url: &str,
        verdict: Option<Verdict>,
    ) -> Result<Option<Verdict>, Refusal> {
        if matches!(verdict, Some(Verdict::Nack { .. })) {
            // Endpoints of clusters that were refused will not be asked for.
            self.owed.clear();
        }
        if self.subscription(type_url)?.is_too_large() {
            return Err(Refusal::TooManyNames);
        }
        Ok(verdict)
    }

    fn subscription(&mut self, type_url: &str) -> Result<&mut Subscription, Refusal> {
        let new = || Subscription::new(type_url, &self.nonce_prefix);
        if let Some(kind) = ResourceType::from_url(type_url) {
            return Ok(self.served.entry(kind).or_insert_with(new));
        }
        if self.unknown.len() >= MAX_UNKNOWN_TYPES && !self.unknown.contains_key(type_url) {
            return Err(Refusal::TooManyTypes);
        }
        Ok(self.unknown.entry(type_url.to_owned()).or_insert_with(new))
    }

    /// Everything that is to be sent now, in this order.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Answer> {
        use ResourceType::{Cluster, Endpoint, Listener, NameTable, Route, Secret, VirtualHost};

        let mut out = Vec::new();
        if self.protocol == Protocol::Delta {
            let unknown = self.unknown.values_mut();
            out.extend(unknown.filter_map(|one| one.delta_next(None, Stage::Updates, now)));
        }
        let Some(snapshot) = self.snapshot.take() else {
            return out;
        };
        for (kind, subscription) in &mut self.served {
            subscription.look(snapshot.of(*kind));
        }

        self.send(&[Cluster], Stage::Updates, &snapshot, now, &mut out);
        self.owe(&out, &snapshot);
        self.pay(&snapshot);
        let awaited = self.served.get(&Endpoint);
        let awaited = awaited.map(|one| one.forced().clone()).unwrap_or_default();
        self.send(
            &[Endpoint, Secret],
            Stage::Updates,
            &snapshot,
            now,
            &mut out,
        );
        let make = Progress {
            sent: brings(&out, Cluster, |_| true)
                || brings(&out, Endpoint, |name| awaited.contains(name)),
            unanswered: self.waits(&[Cluster, Endpoint]) || !self.owed.is_empty(),
            queued: self.queues(Cluster, &snapshot, now) || self.queues(Endpoint, &snapshot, now),
        };
        self.open.make = make.unanswered || make.queued;
        self.open.switch = true;
        // Others have a second a step, too, from when there is something new.
        let others_make = waiting(self.others.make, self.fresh);
        let others_make = self.others_make.holds(others_make, now);
        // A stream that has clusters of its own has its own order.
        if !self.make.holds(make, now) && (!others_make || self.is_started(Cluster)) {
            self.owed.clear();
            let kinds = [Listener, Route, VirtualHost, NameTable];
            self.send(&kinds, Stage::Updates, &snapshot, now, &mut out);
            let switch = Progress {
                sent: kinds.iter().any(|kind| brings(&out, *kind, |_| true)),
                unanswered: self.waits(&kinds),
                queued: kinds.iter().any(|kind| self.queues(*kind, &snapshot, now)),
            };
            self.open.switch = switch.unanswered || switch.queued;
            let others = waiting(self.others.switch, self.fresh || others_make);
            let others = self.others_switch.holds(others, now);
            if !self.switch.holds(switch, now) && (!others || self.is_started(Listener)) {
                let order = [
                    Listener,
                    Route,
                    VirtualHost,
                    NameTable,
                    Cluster,
                    Endpoint,
                    Secret,
                ];
                self.send(&order, Stage::Removals, &snapshot, now, &mut out);
            }
        }
        self.snapshot = Some(snapshot);
        self.fresh = false;
        out
    }

    /// When [`Self::poll`] may have something to give without a request or a change.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let gates = self.make.opens().chain(self.switch.opens());
        let others = self.others_make.opens().chain(self.others_switch.opens());
        let gates = gates.chain(others);
        let all = self.served.values().chain(self.unknown.values());
        let ends = gates.chain(all.filter_map(Subscription::patience_ends));
        // What lies behind has had its poll.
        ends.filter(|at| *at > now).min()
    }

    fn send(
        &mut self,
        kinds: &[ResourceType],
        stage: Stage,
        snapshot: &Snapshot,
        now: Instant,
        out: &mut Vec<Answer>,
    ) {
        for kind in kinds {
            let Some(subscription) = self.served.get_mut(kind) else {
                continue;
            };
            let resources = snapshot.of(*kind);
            out.extend(match self.protocol {
                Protocol::Delta => subscription.delta_next(Some(resources), stage, now),
                Protocol::Sotw => {
                    let answer = subscription.sotw_next(Some(resources), stage, now);
                    if let Some(answer) = answer.as_ref().filter(|_| kind.is_full_state()) {
                        let set = || set_of(answer, subscription, resources);
                        self.sets.keep(*kind, &answer.version, set);
                    }
                    answer
                }
            });
        }
    }

    /// The endpoints of every cluster that is sent are to be sent (again), because a changed cluster warms anew.
    fn owe(&mut self, sent: &[Answer], snapshot: &Snapshot) {
        let clusters = sent
            .iter()
            .filter(|answer| &*answer.type_url == ResourceType::Cluster.url());
        for cluster in clusters.flat_map(|answer| &answer.resources) {
            if snapshot.endpoints.get(&cluster.name).is_some() {
                self.owed.insert(Arc::clone(&cluster.name));
            }
        }
    }

    fn pay(&mut self, snapshot: &Snapshot) {
        // Without clusters of its own they are another stream's, which has everything.
        let everything = self.has_all_clusters() || !self.is_started(ResourceType::Cluster);
        let Some(endpoints) = self.served.get_mut(&ResourceType::Endpoint) else {
            // A client without EDS on this stream (a per-type stream, or one that has not come so far).
            return;
        };
        self.owed.retain(|name| {
            let asked = endpoints.is_named(name) || endpoints.is_wildcard();
            if asked {
                endpoints.force(name);
            }
            // Who subscribes to clusters by name may leave endpoints alone; do not wait for it.
            !asked && everything && snapshot.endpoints.get(name).is_some()
        });
    }

    fn waits(&self, kinds: &[ResourceType]) -> bool {
        let of = |kind| self.served.get(kind);
        kinds.iter().filter_map(of).any(Subscription::is_waiting)
    }

    /// Whether something new of the type is to be sent and cannot be yet. New endpoints of a cluster that the
    /// client has do not count: only those that a cluster waits for.
    fn queues(&self, kind: ResourceType, snapshot: &Snapshot, now: Instant) -> bool {
        let forced = kind == ResourceType::Endpoint;
        self.served
            .get(&kind)
            .is_some_and(|one| one.is_queueing(snapshot.of(kind), forced, now))
    }
}

fn check_lengths<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
    match names.find(|name| name.len() > MAX_NAME_BYTES) {
        Some(long) => Err(Refusal::LongName(long.len())),
        None => Ok(()),
    }
}

/// For others that have not done a step, whose time begins now if it is `new`.
const fn waiting(unanswered: bool, new: bool) -> Progress {
    Progress {
        sent: new,
        unanswered,
        queued: false,
    }
}

/// What the client holds after an answer with the full set.
fn set_of(answer: &Answer, to: &Subscription, resources: &Resources) -> Set {
    if to.is_wildcard() {
        Set::All(resources.clone(), answer.kept.clone())
    } else {
        Set::Named(answer.resources.clone())
    }
}

/// Whether one of `answers` sets one of these resources.
fn brings(answers: &[Answer], kind: ResourceType, which: impl Fn(&str) -> bool) -> bool {
    answers
        .iter()
        .filter(|answer| &*answer.type_url == kind.url())
        .flat_map(|answer| &answer.resources)
        .any(|resource| which(&resource.name))
}

#[cfg(test)]
mod tests;
