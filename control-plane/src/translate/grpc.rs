//! The dialect of proxyless gRPC: what a gRPC library takes of the mesh, and refuses nothing of.
//!
//! ```text
//! LDS  <any way to write a host>[:<port>]   made on demand ──► names the RDS of the host's port
//!      xds.istio.io/grpc/lds/inbound/<address>  for servers: whose calls they take
//! RDS  <host>:<port>                        every authority; its routes in words that gRPC has
//! CDS, EDS                                  the mesh's own, less what gRPC refuses
//! ```
//! A library asks for names, never for everything; the authority has been matched when it has its listener. What it
//! would refuse is withheld, and what it ignores is noted: both are in `outrigger status`.
//! Sources: gRFC A27, A28, A31, A33, A44, A50, A83, and what grpcio 1.85 and grpc-js-xds 1.14 do.

mod cluster;
mod endpoint;
mod listener;
mod route;
mod secure;
mod server;

use std::{collections::BTreeMap, sync::Arc};

use outrigger_proto::envoy::config::route::v3::{
    Route, RouteConfiguration, route_match::PathSpecifier,
};
use prost::Message as _;

pub(super) use secure::Secured;

use crate::snapshot::{Notes, OnDemand, Resources, Snapshot, TypeMap, View};

/// Where a library takes its certificates from, if its bootstrap file says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// It calls in plain text only.
    None,
    /// From the certificate provider instance [`PROVIDER`].
    Provider,
}

/// The certificate provider instance that a bootstrap file has to define (Istio's name).
pub(crate) const PROVIDER: &str = "default";

/// What the libraries of one scope share beside its clusters and endpoints.
#[derive(Debug)]
pub(super) struct GrpcScope {
    /// Listeners by every way to write a host, and of servers; by [`Credentials`].
    listeners: [Arc<OnDemand>; 2],
    routes: Arc<TypeMap>,
    /// What libraries do not do of them.
    notes: Arc<Notes>,
    /// What they were made from.
    from: Arc<TypeMap>,
}

impl GrpcScope {
    /// From a scope's route configurations; the very same as `before` if those are.
    pub(super) fn of(from: &Arc<TypeMap>, before: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.from, from)) {
            return Arc::clone(before);
        }
        let (mut domains, mut hosts) = (BTreeMap::new(), BTreeMap::new());
        for resource in from.iter() {
            // Our own bytes.
            let Ok(table) = RouteConfiguration::decode(resource.any.value.as_slice()) else {
                continue;
            };
            for mut host in table.virtual_hosts {
                // A library never asks for a tunnel.
                let tunnel = |route: &Route| {
                    let matched = route.r#match.as_ref();
                    let path = matched.and_then(|matched| matched.path_specifier.as_ref());
                    matches!(path, Some(PathSpecifier::ConnectMatcher(_)))
                };
                if !host.routes.iter().all(tunnel) {
                    host.routes.retain(|route| !tunnel(route));
                }
                let name: Arc<str> = host.name.as_str().into();
                for domain in host.domains.iter().filter(|domain| *domain != "*") {
                    domains
                        .entry(domain.clone())
                        .or_insert_with(|| Arc::clone(&name));
                }
                hosts.entry(name).or_insert(host);
            }
        }
        let (mut routes, mut notes) = (Vec::new(), BTreeMap::new());
        for (name, host) in hosts {
            let (resource, remarks) = route::of(host);
            routes.push(resource);
            if !remarks.is_empty() {
                notes.insert(name, remarks);
            }
        }
        let domains = Arc::new(domains);
        let listeners = [Credentials::None, Credentials::Provider].map(|credentials| {
            let domains = Arc::clone(&domains);
            OnDemand::new(from.generation(), move |name| {
                server::of(name, credentials).or_else(|| listener::of(&domains, name))
            })
        });
        Arc::new(Self {
            listeners,
            routes: TypeMap::following(before.map(|before| &before.routes), routes),
            notes: Arc::new(notes),
            from: Arc::clone(from),
        })
    }

    /// What one library sees, of a snapshot in the mesh's own words; one with certificates has `secured` clusters.
    pub(super) fn snapshot(&self, plain: Snapshot, secured: Option<Resources>) -> Snapshot {
        let [without, with] = &self.listeners;
        let (listeners, endpoints) = match &secured {
            None => (without, endpoint::WITHOUT_CERTIFICATES),
            Some(_) => (with, endpoint::WITH_CERTIFICATES),
        };
        let clusters = secured.unwrap_or(Resources {
            view: View::Adapted(cluster::WITHOUT_CERTIFICATES),
            ..plain.clusters
        });
        Snapshot {
            listeners: Resources {
                view: View::OnDemand(Arc::clone(listeners)),
                ..plain.listeners
            },
            routes: Resources {
                shared: Arc::clone(&self.routes),
                view: View::Noted(Arc::clone(&self.notes)),
                ..plain.routes
            },
            clusters,
            endpoints: Resources {
                view: View::Adapted(endpoints),
                ..plain.endpoints
            },
            secrets: plain.secrets,
            virtual_hosts: plain.virtual_hosts,
            names: plain.names,
        }
    }
}
