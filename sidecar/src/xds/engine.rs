//! Every rule of the client: what is asked for and when, what is accepted, what is answered.
//!
//! ```text
//! CDS(*) ─► EDS as clusters name them ─► both settled or 15 s ─► LDS(*) ─► RDS and SDS as listeners name them
//! ```
//! An answer is taken resource by resource: good ones are applied, bad ones keep their last good version and are
//! named in the NACK. Dependent subscriptions go out before the ACK, so that a server that waits for both ACKs of a
//! stage sees them in order.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use outrigger_core::{Locality, LocalityPolicy, Snapshot};
use outrigger_proto::{
    envoy::{
        config::{
            cluster::v3::Cluster, core::v3::Node, endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener, route::v3::RouteConfiguration,
        },
        extensions::transport_sockets::tls::v3::Secret,
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    },
    google::rpc::Status as RpcStatus,
};
use prost_types::Any;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::{
    convert::{self, Converted, FieldError, fields, refuse},
    mesh::Mesh,
    state::{Kind, Status, TypeState},
};
use crate::tls::files::Allowed;

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
    types: [TypeState; 5],
    mesh: Mesh,
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
            types: Kind::ALL.map(TypeState::new),
            mesh: Mesh::default(),
            bundle: None,
            tls_files: Allowed::default(),
            tallies: BTreeMap::new(),
        }
    }

    /// Lets clusters name files below these directories.
    pub(crate) fn allowing(self, tls_files: Allowed) -> Self {
        Self { tls_files, ..self }
    }

    /// First requests of a new stream.
    pub(crate) fn connected(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        self.connected = true;
        let mut requests: Vec<_> = if self.state(Kind::Cluster).is_subscribed() {
            self.types
                .iter_mut()
                .filter_map(|state| state.resume(now))
                .collect()
        } else {
            vec![self.state_mut(Kind::Cluster).subscribe_all(now)]
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
            // Without a name it cannot be told whether it was asked for.
            if !name.is_empty() && !self.state(kind).wants(&name) {
                continue;
            }
            let version = resource.version.clone();
            let taken = if twice.contains(&name) {
                refuse("", "is in the answer twice")
            } else {
                self.take(kind, &resource)
            };
            match taken {
                Ok(any) => {
                    tally.accepted += 1;
                    self.state_mut(kind).accept(&name, version, any);
                }
                Err(error) => {
                    tally.refused += 1;
                    let details = format!("{} {name:?}: {error}", kind.name());
                    if !name.is_empty() && self.state(kind).entries().len() < MAX_RESOURCES {
                        self.state_mut(kind).refuse(&name, version, details.clone());
                    }
                    refusals.push(details);
                }
            }
        }
        for name in response.removed_resources {
            tally.removed += 1;
            self.state_mut(kind).remove(&name);
            self.missing(kind, &name, true);
        }
        self.state_mut(kind).answered();
        self.count(kind, tally);
        let mut requests = self.subscribe(now);
        requests.push(answer(kind.type_url(), response.nonce, &refusals));
        requests.extend(self.start_listeners(now));
        requests
    }

    /// To be called at [`Self::deadline`].
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        for kind in Kind::ALL {
            for name in self.state_mut(kind).expire(now) {
                tracing::warn!(kind = kind.name(), %name, "resource did not arrive in time");
                self.missing(kind, &name, false);
            }
        }
        let mut requests = self.subscribe(now);
        requests.extend(self.start_listeners(now));
        requests
    }

    /// When [`Self::tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.types.iter().filter_map(TypeState::next_deadline).min()
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
        self.state(Kind::Cluster).is_answered()
            && self.state(Kind::Listener).is_answered()
            && [Kind::Endpoint, Kind::Route].map(|kind| self.state(kind).is_settled(now))
                == [true; 2]
            && !self.mesh.is_looking_up()
    }

    /// Listeners that wait, and for what; for people.
    pub(crate) fn warming(&self) -> Vec<String> {
        self.mesh
            .warming()
            .map(|(listener, routes)| {
                let routes = routes.unwrap_or_default();
                let status = self
                    .state(Kind::Route)
                    .status(routes)
                    .map_or("", Status::name);
                format!("{listener} waits for routes {routes} ({status})")
            })
            .collect()
    }

    pub(crate) fn state(&self, kind: Kind) -> &TypeState {
        &self.types[kind as usize]
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

    /// Validates one resource and applies it.
    fn take(&mut self, kind: Kind, resource: &Resource) -> Converted<Any> {
        if resource.ttl.is_some() {
            return refuse("ttl", "not supported yet");
        }
        let Some(any) = &resource.resource else {
            return refuse("resource", "missing");
        };
        let states = self.state(kind).entries();
        if states.len() >= MAX_RESOURCES && !states.contains_key(&resource.name) {
            return refuse(
                "",
                format!("more than {MAX_RESOURCES} resources of this type"),
            );
        }
        if Kind::from_type_url(&any.type_url) != Some(kind) {
            return refuse("", format!("is a {:?}", any.type_url));
        }
        fields::check(any)?;
        self.apply(kind, &resource.name, any)?;
        Ok(any.clone())
    }

    fn apply(&mut self, kind: Kind, name: &str, any: &Any) -> Converted<()> {
        let message = kind.message();
        let mesh = &mut self.mesh;
        match kind {
            Kind::Cluster => {
                let cluster: Cluster = convert::unpack(any, message)?;
                same_name(name, "name", &cluster.name)?;
                let mut cluster = convert::cluster::convert(&cluster)?;
                convert::outside_tls::check_files(&cluster, &self.tls_files)?;
                if let LocalityPolicy::ZoneAware { .. } = cluster.config.localities {
                    cluster.config.own_locality = own_locality(&self.node);
                }
                mesh.set_cluster(cluster);
            }
            Kind::Endpoint => {
                let assignment: ClusterLoadAssignment = convert::unpack(any, message)?;
                same_name(name, "cluster_name", &assignment.cluster_name)?;
                mesh.set_endpoints(name, convert::endpoint::convert(&assignment)?);
            }
            Kind::Listener => {
                let listener: Listener = convert::unpack(any, message)?;
                same_name(name, "name", &listener.name)?;
                let listener = convert::listener::convert(&listener, &mut |name| mesh.slot(name))?;
                if listener.tls.is_some() && !self.has_identity {
                    return refuse(
                        "filter_chains[0].transport_socket",
                        "TLS needs an identity, and a sidecar on the plain-text port has none",
                    );
                }
                mesh.set_listener(listener);
            }
            Kind::Route => {
                let routes: RouteConfiguration = convert::unpack(any, message)?;
                same_name(name, "name", &routes.name)?;
                let mut unknown = None;
                let table = convert::route::convert(&routes, &mut |name| {
                    if !mesh.has_cluster(name) {
                        unknown.get_or_insert_with(|| name.to_owned());
                    }
                    mesh.slot(name)
                })?;
                if let (Some(true), Some(name)) = (routes.validate_clusters, unknown) {
                    let message = format!("a route leads to cluster {name:?}, which is not there");
                    return refuse("validate_clusters", message);
                }
                mesh.set_routes(table);
            }
            Kind::Secret => {
                let secret: Secret = convert::unpack(any, message)?;
                same_name(name, "name", &secret.name)?;
                self.bundle = Some(convert::tls::bundle(&secret)?);
            }
        }
        Ok(())
    }

    /// `name` is not there; `by_word` of the server, not only because it did not come.
    fn missing(&mut self, kind: Kind, name: &str, by_word: bool) {
        match kind {
            Kind::Cluster => self.mesh.remove_cluster(name),
            Kind::Listener => self.mesh.remove_listener(name),
            Kind::Endpoint if self.state(kind).wants(name) => self.mesh.endpoints_missing(name),
            Kind::Route => self.mesh.routes_missing(name),
            // The bundle that we hold stays: without one nobody could be verified.
            Kind::Secret => {
                if by_word {
                    tracing::warn!(%name, "control plane has no such secret; the trust bundle in force stays");
                }
            }
            Kind::Endpoint => {}
        }
    }

    /// Brings EDS, RDS and SDS subscriptions up to what is named now.
    fn subscribe(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        let now = self.connected.then_some(now);
        let wanted = [
            (Kind::Endpoint, self.mesh.wanted_endpoints()),
            (Kind::Route, self.mesh.wanted_routes()),
            (Kind::Secret, self.mesh.wanted_secrets()),
        ];
        self.mesh.forget_unused();
        wanted
            .into_iter()
            .filter_map(|(kind, names)| self.state_mut(kind).subscribe(names, now))
            .collect()
    }

    fn start_listeners(&mut self, now: Instant) -> Option<DeltaDiscoveryRequest> {
        let is_due = self.connected
            && !self.state(Kind::Listener).is_subscribed()
            && self.state(Kind::Cluster).is_settled(now)
            && self.state(Kind::Endpoint).is_settled(now)
            && !self.mesh.is_looking_up();
        is_due.then(|| self.state_mut(Kind::Listener).subscribe_all(now))
    }
}

fn own_locality(node: &Node) -> Locality {
    let own = node.locality.as_ref();
    own.map_or_else(Locality::default, |own| Locality {
        region: own.region.clone(),
        zone: own.zone.clone(),
        sub_zone: own.sub_zone.clone(),
    })
}

fn same_name(outer: &str, path: &str, inner: &str) -> Converted<()> {
    if outer != inner {
        return Err(FieldError::new(
            path,
            format!("{inner:?} differs from the resource's name"),
        ));
    }
    Ok(())
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
