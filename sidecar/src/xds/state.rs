//! What was asked for of each resource type, and what became of it. Writes requests; applies nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use outrigger_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use prost_types::Any;
use tokio::time::Instant;

/// A name that was asked for on a connected stream and is not answered counts as missing after this long (A57).
pub(crate) const MISSING_AFTER: Duration = Duration::from_secs(15);

/// The resource types that we use, in the order in which they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Cluster,
    Endpoint,
    Listener,
    Route,
    VirtualHost,
    Secret,
    /// Names for the DNS server; only where it is on.
    NameTable,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Cluster,
        Self::Endpoint,
        Self::Listener,
        Self::Route,
        Self::VirtualHost,
        Self::Secret,
        Self::NameTable,
    ];

    /// Message name, e.g. `envoy.config.cluster.v3.Cluster`.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Route => "envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "envoy.config.route.v3.VirtualHost",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::NameTable => "istio.networking.nds.v1.NameTable",
        }
    }

    /// Last part of the message name, for people.
    pub(crate) fn name(self) -> &'static str {
        let message = self.message();
        message.rsplit_once('.').map_or(message, |(_, name)| name)
    }

    pub(crate) fn type_url(self) -> String {
        format!("type.googleapis.com/{}", self.message())
    }

    pub(crate) fn from_type_url(url: &str) -> Option<Self> {
        let name = super::convert::fields::type_name(url);
        Self::ALL.into_iter().find(|kind| kind.message() == name)
    }
}

/// What became of a resource; the words of `envoy.admin.v3.ClientResourceStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Asked for, not answered yet.
    Requested,
    /// The server says that there is none.
    DoesNotExist,
    /// Not answered in time.
    Timeout,
    /// The newest version is in force.
    Acked,
    /// The newest version was refused; the last good one, if any, is in force.
    Nacked,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::DoesNotExist => "DOES_NOT_EXIST",
            Self::Timeout => "TIMEOUT",
            Self::Acked => "ACKED",
            Self::Nacked => "NACKED",
        }
    }
}

/// Why the newest version was refused.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) version: String,
    pub(crate) details: String,
    pub(crate) at: SystemTime,
}

/// One resource.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) status: Status,
    /// Version in force; empty if none is.
    pub(crate) version: String,
    /// The resource in force.
    pub(crate) accepted: Option<Any>,
    pub(crate) updated: SystemTime,
    pub(crate) refusal: Option<Refusal>,
    deadline: Option<Instant>,
}

/// One resource type.
#[derive(Debug)]
pub(crate) struct TypeState {
    kind: Kind,
    /// It is asked for as `*`, and not by names.
    wildcard: bool,
    /// Asked for on every stream.
    subscribed: bool,
    /// An answer came, on this stream or an earlier one.
    answered: bool,
    names: BTreeSet<String>,
    entries: BTreeMap<String, Entry>,
    /// Wildcard only: when a first answer is overdue, and that it was.
    deadline: Option<Instant>,
    overdue: bool,
}

impl TypeState {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            wildcard: matches!(kind, Kind::Cluster | Kind::Listener),
            subscribed: false,
            answered: false,
            names: BTreeSet::new(),
            entries: BTreeMap::new(),
            deadline: None,
            overdue: false,
        }
    }

    /// Asked for as a whole, whatever the type.
    pub(crate) fn whole(kind: Kind) -> Self {
        Self {
            wildcard: true,
            ..Self::new(kind)
        }
    }

    /// Asked for by names, whatever the type.
    pub(crate) fn by_name(kind: Kind) -> Self {
        Self {
            wildcard: false,
            ..Self::new(kind)
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.wildcard
    }

    pub(crate) fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Answered, or waited for long enough.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        let head = !self.wildcard
            || self.answered
            || self.overdue
            || self.deadline.is_some_and(|deadline| deadline <= now);
        head && self.entries.values().all(|e| e.status != Status::Requested)
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub(crate) fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    pub(crate) fn status(&self, name: &str) -> Option<Status> {
        self.entries.get(name).map(|entry| entry.status)
    }

    /// Starts a wildcard subscription.
    pub(crate) fn subscribe_all(&mut self, now: Instant) -> DeltaDiscoveryRequest {
        self.subscribed = true;
        self.overdue = false;
        self.deadline = Some(now + MISSING_AFTER);
        self.request(vec!["*".to_owned()], Vec::new())
    }

    /// Makes `wanted` the subscription; None if nothing changes. Entries that nobody wants are forgotten.
    pub(crate) fn subscribe(
        &mut self,
        wanted: &BTreeSet<String>,
        now: Option<Instant>,
    ) -> Option<DeltaDiscoveryRequest> {
        let added: Vec<String> = wanted.difference(&self.names).cloned().collect();
        let removed: Vec<String> = self.names.difference(wanted).cloned().collect();
        self.change(added, removed, now)
    }

    /// The same, by what changes.
    pub(crate) fn change(
        &mut self,
        added: Vec<String>,
        removed: Vec<String>,
        now: Option<Instant>,
    ) -> Option<DeltaDiscoveryRequest> {
        if added.is_empty() && removed.is_empty() {
            return None;
        }
        for name in &removed {
            self.entries.remove(name);
            self.names.remove(name);
        }
        for name in &added {
            let deadline = now.map(|now| now + MISSING_AFTER);
            self.entries
                .insert(name.clone(), Entry::requested(deadline));
            self.names.insert(name.clone());
        }
        self.subscribed = true;
        // Without a stream the names go out with the next first request.
        now.map(|_| self.request(added, removed))
    }

    /// The first request on a new stream: everything that is wanted, and what we hold of it.
    pub(crate) fn resume(&mut self, now: Instant) -> Option<DeltaDiscoveryRequest> {
        if !self.subscribed {
            return None;
        }
        let mut names: Vec<String> = self.names.iter().cloned().collect();
        if self.wildcard {
            names.push("*".to_owned());
            if !self.answered {
                self.overdue = false;
                self.deadline = Some(now + MISSING_AFTER);
            }
        }
        for entry in self.entries.values_mut() {
            if entry.status == Status::Requested {
                entry.deadline = Some(now + MISSING_AFTER);
            }
        }
        if names.is_empty() {
            return None;
        }
        let mut request = self.request(names, Vec::new());
        request.initial_resource_versions = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.accepted.is_some())
            .map(|(name, entry)| (name.clone(), entry.version.clone()))
            .collect();
        Some(request)
    }

    /// The stream is gone: nothing is overdue until it is asked for again.
    pub(crate) fn disconnected(&mut self) {
        self.deadline = None;
        for entry in self.entries.values_mut() {
            entry.deadline = None;
        }
    }

    pub(crate) fn answered(&mut self) {
        self.answered = true;
        self.deadline = None;
    }

    pub(crate) fn accept(&mut self, name: &str, version: String, resource: Any) {
        self.entries.insert(
            name.to_owned(),
            Entry {
                status: Status::Acked,
                version,
                accepted: Some(resource),
                updated: SystemTime::now(),
                refusal: None,
                deadline: None,
            },
        );
    }

    pub(crate) fn refuse(&mut self, name: &str, version: String, details: String) {
        let entry = self
            .entries
            .entry(name.to_owned())
            .or_insert_with(|| Entry::requested(None));
        entry.status = Status::Nacked;
        entry.deadline = None;
        entry.refusal = Some(Refusal {
            version,
            details,
            at: SystemTime::now(),
        });
    }

    /// The server says that `name` is gone or never was.
    pub(crate) fn remove(&mut self, name: &str) {
        if self.names.contains(name) {
            let mut entry = Entry::requested(None);
            entry.status = Status::DoesNotExist;
            self.entries.insert(name.to_owned(), entry);
        } else {
            self.entries.remove(name);
        }
    }

    /// A name that was asked for has been answered by a resource of another name.
    pub(crate) fn met(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name)
            && entry.status == Status::Requested
        {
            entry.status = Status::Acked;
            entry.deadline = None;
        }
    }

    /// What was held under a name that is not asked for by itself.
    pub(crate) fn forget(&mut self, name: &str) {
        if !self.names.contains(name) {
            self.entries.remove(name);
        }
    }

    /// Names that became overdue by `now`.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<String> {
        // Said once: a deadline that stays would be due for ever.
        self.overdue |= self.deadline.take_if(|deadline| *deadline <= now).is_some();
        let mut overdue = Vec::new();
        for (name, entry) in &mut self.entries {
            if entry.deadline.is_some_and(|deadline| deadline <= now) {
                entry.deadline = None;
                entry.status = Status::Timeout;
                overdue.push(name.clone());
            }
        }
        overdue
    }

    /// The next moment at which something becomes overdue.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.entries
            .values()
            .filter_map(|entry| entry.deadline)
            .chain(self.deadline)
            .min()
    }

    fn request(&self, subscribe: Vec<String>, unsubscribe: Vec<String>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: self.kind.type_url(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        }
    }
}

impl Entry {
    fn requested(deadline: Option<Instant>) -> Self {
        Self {
            status: Status::Requested,
            version: String::new(),
            accepted: None,
            updated: SystemTime::now(),
            refusal: None,
            deadline,
        }
    }
}
