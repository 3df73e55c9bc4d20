//! Every rule of the client: what is asked for and when, what is accepted, what is answered.
//!
//! ```text
//! CDS(*) ─► EDS as clusters name them ─► both settled or 15 s ─► LDS(*) ─► RDS and SDS as listeners name them
//!
//! on demand:  LDS(*) ─► RDS, SDS as listeners name them ─► CDS and EDS as they are led to
//!             a request to a host that is not there ─► VHDS ─► CDS ─► EDS ─► in the snapshot as a whole
//! ```
//! A route configuration with `vhds` has its virtual hosts asked for in either order.
//! An answer is taken resource by resource: good ones are applied, bad ones keep their last good version and are
//! named in the NACK. Dependent subscriptions go out before the ACK, so that a server that waits for both ACKs of a
//! stage sees them in order.

mod apply;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use outrigger_core::{Snapshot, jwt::RemoteKeys};
use outrigger_proto::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    },
    google::rpc::Status as RpcStatus,
};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::{
    asked::{Answer, Asked},
    convert::refuse,
    mesh::{Mesh, Told},
    state::{Kind, Status, TypeState},
};
use crate::{
    dns::names::{Names, Scope},
    tls::files::Allowed,
};

/// Resources of one type.
const MAX_RESOURCES: usize = 100_000;
/// Text of one NACK.
const MAX_NACK: usize = 4096;
const INVALID_ARGUMENT: i32 = 3;

/// What happened to the resources of one answer, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) removed: u64,
}

#[derive(Debug)]
pub(crate) struct Engine {
    node: Node,
    /// A listener with TLS needs a certificate, which only a sidecar with an identity has. (Clusters may name TLS:
    /// their endpoints without it can be called.)
    has_identity: bool,
    connected: bool,
    /// Clusters are asked for as something leads to them.
    on_demand: bool,
    /// The server can be asked for virtual hosts one by one.
    incremental: bool,
    types: [TypeState; 7],
    mesh: Mesh,
    asked: Asked,
    /// Listeners of single addresses that connections were going to.
    asked_listeners: Asked,
    /// Where names go; None = nobody looks them up.
    names: Option<Arc<Names>>,
    asked_names: Asked,
    bundle: Option<Vec<CertificateDer<'static>>>,
    tls_files: Allowed,
    tallies: BTreeMap<Kind, Tally>,
}

impl Engine {
    pub(crate) fn new(node: Node, has_identity: bool) -> Self {
        Self {
            node,
            has_identity,
            connected: false,
            on_demand: false,
            incremental: true,
            types: Kind::ALL.map(TypeState::new),
            mesh: Mesh::default(),
            asked: Asked::default(),
            asked_listeners: Asked::default(),
            names: None,
            asked_names: Asked::default(),
            bundle: None,
            tls_files: Allowed::default(),
            tallies: BTreeMap::new(),
        }
    }

    /// Lets clusters name files below these directories.
    pub(crate) fn allowing(self, tls_files: Allowed) -> Self {
        Self { tls_files, ..self }
    }

    /// Asks for clusters only as something leads to them.
    pub(crate) fn on_demand(mut self) -> Self {
        self.on_demand = true;
        *self.state_mut(Kind::Cluster) = TypeState::by_name(Kind::Cluster);
        self
    }

    /// Speaks to a server that knows the State of the World only, which has no virtual hosts on demand.
    pub(crate) fn whole(self) -> Self {
        Self {
            incremental: false,
            ..self
        }
    }

    /// Has names come: as they are asked for, or all at once.
    pub(crate) fn naming(mut self, names: Arc<Names>) -> Self {
        if names.scope().is_some_and(|scope| !scope.on_demand) {
            *self.state_mut(Kind::NameTable) = TypeState::whole(Kind::NameTable);
        }
        self.names = Some(names);
        self
    }

    /// First requests of a new stream.
    pub(crate) fn connected(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        self.connected = true;
        let head = if self.on_demand {
            Kind::Listener
        } else {
            Kind::Cluster
        };
        let mut requests: Vec<_> = if self.state(head).is_subscribed() {
            self.types
                .iter_mut()
                .filter_map(|state| state.resume(now))
                .collect()
        } else {
            let mut first = vec![self.state_mut(head).subscribe_all(now)];
            if self.has_all_names() {
                first.push(self.state_mut(Kind::NameTable).subscribe_all(now));
            }
            first
        };
        if let Some(first) = requests.first_mut() {
            first.node = Some(self.node.clone());
        }
        requests
    }

    /// The stream is gone. Everything goes on as it was.
    pub(crate) fn disconnected(&mut self) {
        self.connected = false;
        self.types.iter_mut().for_each(TypeState::disconnected);
    }

    /// Takes an answer; the last of the returned requests but for the first LDS is its ACK or NACK.
    pub(crate) fn response(
        &mut self,
        response: DeltaDiscoveryResponse,
        now: Instant,
    ) -> Vec<DeltaDiscoveryRequest> {
        let Some(kind) = Kind::from_type_url(&response.type_url) else {
            let message = format!("{:?} was not asked for", response.type_url);
            return vec![answer(response.type_url, response.nonce, &[message])];
        };
        let mut refusals = Vec::new();
        let mut tally = Tally::default();
        let twice = names_there_twice(&response.resources);
        for resource in response.resources {
            let name = resource.name.clone();
            let of = self.meant(kind, &resource);
            if of.is_empty() {
                continue;
            }
            if matches!(kind, Kind::VirtualHost | Kind::NameTable) && resource.resource.is_none() {
                // "There is none", in Envoy's words.
                tally.removed += 1;
                for name in &of {
                    self.state_mut(kind).remove(name);
                    self.absent(kind, name);
                }
                continue;
            }
            let version = resource.version.clone();
            let taken = if twice.contains(&name) {
                refuse("", "is in the answer twice")
            } else {
                self.take(kind, &resource, &of, now)
            };
            match taken {
                Ok(any) => {
                    tally.accepted += 1;
                    if kind == Kind::Listener {
                        for asked in std::iter::once(&name).chain(&resource.aliases) {
                            self.asked_listeners.held(asked, &name);
                            self.state_mut(kind).met(asked);
                        }
                    }
                    for name in &of {
                        self.state_mut(kind)
                            .accept(name, version.clone(), any.clone());
                    }
                }
                Err(error) => {
                    tally.refused += 1;
                    let details = format!("{} {name:?}: {error}", kind.name());
                    for name in of.iter().filter(|name| !name.is_empty()) {
                        if self.state(kind).entries().len() < MAX_RESOURCES {
                            let (version, details) = (version.clone(), details.clone());
                            self.state_mut(kind).refuse(name, version, details);
                        }
                        match kind {
                            Kind::VirtualHost => self.asked.refused(name, &details),
                            Kind::Listener => {
                                for asked in std::iter::once(name).chain(&resource.aliases) {
                                    self.asked_listeners.refused(asked, &details);
                                }
                            }
                            Kind::NameTable => self.asked_names.refused(name, &details),
                            _ => {}
                        }
                    }
                    refusals.push(details);
                }
            }
        }
        for name in response.removed_resources {
            tally.removed += 1;
            self.state_mut(kind).remove(&name);
            self.missing(kind, &name, (true, now));
        }
        self.state_mut(kind).answered();
        self.count(kind, tally);
        let mut requests = self.settle(now);
        requests.push(answer(kind.type_url(), response.nonce, &refusals));
        requests.extend(self.start_listeners(now));
        requests
    }

    /// To be called at [`Self::deadline`].
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        for kind in Kind::ALL {
            for name in self.state_mut(kind).expire(now) {
                tracing::warn!(kind = kind.name(), %name, "resource did not arrive in time");
                self.missing(kind, &name, (false, now));
            }
        }
        if self.connected && self.asked.sweep_due().is_some_and(|due| due <= now) {
            let mesh = &self.mesh;
            self.asked
                .sweep(now, |routes, host| mesh.host_is_used(routes, host));
        }
        let listeners = &mut self.asked_listeners;
        if self.connected && listeners.sweep_due().is_some_and(|due| due <= now) {
            let mesh = &self.mesh;
            listeners.sweep(now, |_, listener| mesh.listener_is_used(listener));
        }
        if let (true, Some(names)) = (self.connected, &self.names)
            && self.asked_names.sweep_due().is_some_and(|due| due <= now)
        {
            let book = names.book();
            self.asked_names.sweep(now, |_, name| book.take_used(name));
        }
        let mut requests = self.settle(now);
        requests.extend(self.start_listeners(now));
        requests
    }

    /// When [`Self::tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let overdue = self.types.iter().filter_map(TypeState::next_deadline);
        let held = self.mesh.held_until();
        let sweeps = [
            self.asked.sweep_due(),
            self.asked_listeners.sweep_due(),
            self.asked_names.sweep_due(),
        ];
        let sweeps = sweeps.into_iter().flatten();
        overdue.chain(sweeps).chain(held).min()
    }

    /// Requests wait for the virtual hosts of these names (`<route configuration>/<authority>`), connections for the
    /// listeners of these (`<address>_<port>`).
    pub(crate) fn ask(&mut self, names: &[String], now: Instant) -> Vec<DeltaDiscoveryRequest> {
        for name in names {
            let mesh = &self.mesh;
            if is_of_listener(name) {
                let listeners = &mut self.asked_listeners;
                listeners.ask(name, now, |_, listener| mesh.listener_is_used(listener));
            } else {
                self.asked
                    .ask(name, now, |routes, host| mesh.host_is_used(routes, host));
            }
        }
        self.settle(now)
    }

    /// Queries wait for what these names mean.
    pub(crate) fn ask_names(
        &mut self,
        wanted: &[String],
        now: Instant,
    ) -> Vec<DeltaDiscoveryRequest> {
        if let Some(names) = &self.names {
            let book = names.book();
            for name in wanted {
                self.asked_names
                    .ask(name, now, |_, name| book.take_used(name));
            }
        }
        self.settle(now)
    }

    /// Queries were answered from what is remembered of names that mean nothing.
    pub(crate) fn used_names(&mut self, names: &[String], now: Instant) {
        for name in names {
            self.asked_names.used(name, now);
        }
    }

    /// The same as [`Self::take_answers`], of names that queries wait for.
    pub(crate) fn take_named(&mut self) -> Vec<(String, Answer)> {
        self.asked_names.take_answers()
    }

    /// Names that mean something, names that do not, names without an answer.
    pub(crate) fn named(&self) -> [usize; 3] {
        self.asked_names.counts()
    }

    /// Requests were answered from what is remembered of these names.
    pub(crate) fn used(&mut self, names: &[String], now: Instant) {
        for name in names {
            let asked = if is_of_listener(name) {
                &mut self.asked_listeners
            } else {
                &mut self.asked
            };
            asked.used(name, now);
        }
    }

    /// What became of names that were asked for. To be passed on after the snapshot was published.
    pub(crate) fn take_answers(&mut self) -> Vec<(String, Answer)> {
        let mut answers = self.asked.take_answers();
        answers.extend(self.asked_listeners.take_answers());
        answers
    }

    /// Virtual hosts and listeners that are held, names that have none, names without an answer.
    pub(crate) fn asked(&self) -> [usize; 3] {
        let [one, two, three] = self.asked.counts();
        let [more, and, others] = self.asked_listeners.counts();
        [one + more, two + and, three + others]
    }

    /// Shares were given out for the clusters of `snapshot`.
    pub(crate) fn grant(&mut self, snapshot: &Snapshot, now: Instant) {
        self.mesh.grant(snapshot);
        self.warm(now);
    }

    /// Whether something waits for [`Self::grant`].
    pub(crate) fn awaits_shares(&self) -> bool {
        self.on_demand && self.mesh.awaits_shares()
    }

    /// Keys that are to be fetched from now on.
    pub(crate) fn take_new_keys(&mut self) -> Vec<Arc<RemoteKeys>> {
        self.mesh.take_new_keys()
    }

    /// The next snapshot, if anything changed.
    pub(crate) fn take_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        self.mesh.take_snapshot()
    }

    /// A trust bundle that arrived.
    pub(crate) fn take_bundle(&mut self) -> Option<Vec<CertificateDer<'static>>> {
        self.bundle.take()
    }

    /// The first configuration is complete: all clusters and listeners are here, with everything they name that exists.
    pub(crate) fn is_configured(&self, now: Instant) -> bool {
        (self.on_demand || self.state(Kind::Cluster).is_answered())
            && self.state(Kind::Listener).is_answered()
            && [Kind::Cluster, Kind::Endpoint, Kind::Route]
                .map(|kind| self.state(kind).is_settled(now))
                == [true; 3]
            && (!self.has_all_names() || self.state(Kind::NameTable).is_settled(now))
            && !self.mesh.is_looking_up()
            && !self.awaits_shares()
    }

    fn has_all_names(&self) -> bool {
        self.names.is_some() && self.state(Kind::NameTable).is_whole()
    }

    /// Listeners that wait, and for what; for people.
    pub(crate) fn warming(&self) -> Vec<String> {
        self.mesh
            .warming()
            .map(|(listener, routes)| {
                let status = |name: &String| {
                    let status = self.state(Kind::Route).status(name);
                    format!("{name} ({})", status.map_or("", Status::name))
                };
                let routes: Vec<String> = routes.iter().map(status).collect();
                format!("{listener} waits for routes {}", routes.join(", "))
            })
            .chain(
                self.mesh
                    .waiting_routes()
                    .map(|name| format!("{name} waits for its clusters")),
            )
            .collect()
    }

    pub(crate) fn state(&self, kind: Kind) -> &TypeState {
        &self.types[kind as usize]
    }

    /// Whose names are asked for.
    fn scope(&self) -> Option<&Scope> {
        self.names.as_ref()?.scope()
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Names that are to be looked up now, at most so many. Each is to be answered with [`Self::name_found`].
    pub(crate) fn due_names(&mut self, now: Instant, most: usize) -> Vec<String> {
        self.mesh.names().take_due(now, most)
    }

    /// When [`Self::due_names`] has the next one.
    pub(crate) fn next_name_due(&mut self, now: Instant) -> Option<Instant> {
        self.mesh.names().next_due(now)
    }

    /// What looking up a name gave.
    pub(crate) fn name_found(
        &mut self,
        name: &str,
        result: Result<Vec<IpAddr>, String>,
        now: Instant,
    ) {
        self.mesh.name_found(name, result, now);
        self.warm(now);
    }

    /// Takes what was counted since the last call.
    pub(crate) fn take_tallies(&mut self) -> BTreeMap<Kind, Tally> {
        std::mem::take(&mut self.tallies)
    }

    fn state_mut(&mut self, kind: Kind) -> &mut TypeState {
        &mut self.types[kind as usize]
    }

    fn count(&mut self, kind: Kind, tally: Tally) {
        let sum = self.tallies.entry(kind).or_default();
        sum.accepted += tally.accepted;
        sum.refused += tally.refused;
        sum.removed += tally.removed;
    }

    /// `name` is not there; `by_word` of the server, not only because it did not come.
    fn missing(&mut self, kind: Kind, name: &str, (by_word, now): (bool, Instant)) {
        match kind {
            Kind::Cluster => self.mesh.remove_cluster(name, now),
            Kind::Listener => {
                self.mesh.remove_listener(name);
                // By either of its names. One that does not come may come yet.
                if by_word {
                    let mut of = self.asked_listeners.names_of(name);
                    of.push(name.to_owned());
                    of.iter().for_each(|name| self.asked_listeners.absent(name));
                }
            }
            Kind::Endpoint if self.state(kind).wants(name) => {
                self.mesh.endpoints_missing(name, now);
            }
            Kind::Route => self.mesh.routes_missing(name),
            // The bundle that we hold stays: without one nobody could be verified.
            Kind::Secret => {
                if by_word {
                    tracing::warn!(%name, "control plane has no such secret; the trust bundle in force stays");
                }
            }
            // By either of its names. One that does not come may come yet, and nothing serves without it.
            Kind::VirtualHost if by_word => {
                let mut of: BTreeSet<String> = self.asked.names_of(name).into_iter().collect();
                of.insert(name.to_owned());
                for name in &of {
                    self.state_mut(kind).remove(name);
                    self.absent(kind, name);
                }
            }
            Kind::NameTable if by_word => self.absent(kind, name),
            Kind::Endpoint | Kind::VirtualHost | Kind::NameTable => {}
        }
    }

    /// The server says that there is nothing by a name that was asked for.
    fn absent(&mut self, kind: Kind, name: &str) {
        if kind == Kind::VirtualHost {
            self.asked.absent(name);
        } else if let Some(names) = &self.names {
            names.book().remove(name);
            self.asked_names.absent(name);
        }
    }

    /// Puts into force what can be, and brings subscriptions up to that.
    fn settle(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        let mesh = &self.mesh;
        self.asked.keep_tables(|routes| mesh.grows(routes));
        for (routes, host) in self.asked.take_loose() {
            self.mesh.remove_host(&routes, &host);
        }
        for (_, listener) in self.asked_listeners.take_loose() {
            self.mesh.remove_listener(&listener);
            self.state_mut(Kind::Listener).forget(&listener);
        }
        for (_, name) in self.asked_names.take_loose() {
            if let Some(names) = &self.names {
                names.book().remove(&name);
            }
        }
        self.warm(now);
        self.subscribe(now)
    }

    fn warm(&mut self, now: Instant) {
        let [clusters, endpoints, ..] = &self.types;
        let told = self.on_demand.then_some(Told {
            clusters,
            endpoints,
        });
        self.mesh.warm(told, now);
        let mesh = &self.mesh;
        self.asked
            .tell(|routes, host| mesh.host_serves(routes, host));
        self.asked_listeners
            .tell(|_, listener| mesh.listener_serves(listener));
        // Nothing of the snapshot has to be there for a name.
        self.asked_names.tell(|_, _| true);
    }

    /// Brings the subscriptions of everything that is asked for by name up to what is named now.
    fn subscribe(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        let (clock, now) = (now, self.connected.then_some(now));
        let mut requests = Vec::new();
        if self.on_demand {
            let wanted = self.mesh.wanted_clusters();
            let held = self.state(Kind::Cluster).entries().keys();
            let unwanted: Vec<String> = held.filter(|n| !wanted.contains(*n)).cloned().collect();
            for name in unwanted {
                self.mesh.remove_cluster(&name, clock);
            }
            requests.extend(self.state_mut(Kind::Cluster).subscribe(&wanted, now));
        }
        let wanted = [
            (Kind::Endpoint, self.mesh.wanted_endpoints()),
            (Kind::Route, self.mesh.wanted_routes()),
            (Kind::Secret, self.mesh.wanted_secrets()),
        ];
        self.mesh.forget_unused();
        let named = wanted.into_iter();
        requests
            .extend(named.filter_map(|(kind, names)| self.state_mut(kind).subscribe(&names, now)));
        let [new, gone] = self.asked.take_changes();
        requests.extend(self.state_mut(Kind::VirtualHost).change(new, gone, now));
        if self.state(Kind::Listener).is_subscribed() {
            let [new, gone] = self.asked_listeners.take_changes();
            requests.extend(self.state_mut(Kind::Listener).change(new, gone, now));
        }
        let [new, gone] = self.asked_names.take_changes();
        requests.extend(self.state_mut(Kind::NameTable).change(new, gone, now));
        requests
    }

    fn start_listeners(&mut self, now: Instant) -> Option<DeltaDiscoveryRequest> {
        let is_due = self.connected
            && !self.state(Kind::Listener).is_subscribed()
            && (self.on_demand || self.state(Kind::Cluster).is_settled(now))
            && self.state(Kind::Endpoint).is_settled(now)
            && !self.mesh.is_looking_up();
        is_due.then(|| self.state_mut(Kind::Listener).subscribe_all(now))
    }
}

fn names_there_twice(resources: &[Resource]) -> Vec<String> {
    let mut counts = BTreeMap::new();
    for resource in resources {
        *counts.entry(resource.name.as_str()).or_insert(0u32) += 1;
    }
    counts
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// The ACK, or the NACK if anything was refused.
fn answer(type_url: String, nonce: String, refusals: &[String]) -> DeltaDiscoveryRequest {
    let error_detail = (!refusals.is_empty()).then(|| RpcStatus {
        code: INVALID_ARGUMENT,
        message: joined(refusals),
        details: Vec::new(),
    });
    DeltaDiscoveryRequest {
        type_url,
        response_nonce: nonce,
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}

fn joined(refusals: &[String]) -> String {
    let mut text = String::new();
    for (index, refusal) in refusals.iter().enumerate() {
        if index > 0 && text.len() + refusal.len() > MAX_NACK {
            text.push_str(&format!("; and {} more", refusals.len() - index));
            break;
        }
        if index > 0 {
            text.push_str("; ");
        }
        text.extend(refusal.chars().take(MAX_NACK));
    }
    text
}

/// Of what is asked for by name, virtual hosts alone have a slash.
fn is_of_listener(name: &str) -> bool {
    !name.contains('/')
}
