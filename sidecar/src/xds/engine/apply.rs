//! One resource: validated, and put where it belongs.

use std::sync::Arc;

use outrigger_core::{Locality, LocalityPolicy};
use outrigger_proto::{
    envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::Node,
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener,
            route::v3::{RouteConfiguration, VirtualHost},
        },
        extensions::transport_sockets::tls::v3::Secret,
        service::discovery::v3::Resource,
    },
    istio::networking::nds::v1::NameTable,
};
use prost_types::Any;
use tokio::time::Instant;

use super::{Engine, MAX_RESOURCES};
use crate::xds::{
    asked,
    convert::{self, Converted, FieldError, fields, refuse},
    mesh::Clusters,
    state::Kind,
};

impl Engine {
    /// Validates one resource and applies it.
    pub(super) fn take(
        &mut self,
        kind: Kind,
        resource: &Resource,
        of: &[String],
        now: Instant,
    ) -> Converted<Any> {
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
        if kind == Kind::NameTable {
            self.take_names(resource, any)?;
            return Ok(any.clone());
        }
        self.apply(kind, (&resource.name, of), any, now)?;
        Ok(any.clone())
    }

    /// Puts the names of one table into the book.
    fn take_names(&mut self, resource: &Resource, any: &Any) -> Converted<()> {
        let (Some(names), Some(scope)) = (&self.names, self.scope()) else {
            return refuse("", "was not asked for");
        };
        let name = resource.name.as_str();
        let table: NameTable = convert::unpack(any, Kind::NameTable.message())?;
        let asked = scope.on_demand.then_some(name);
        let metadata = resource.metadata.as_ref();
        let converted = convert::names::convert(&table, metadata, asked, scope)?;
        names.book().set(name, converted);
        if asked.is_some() {
            self.asked_names.held(name, name);
        }
        Ok(())
    }

    /// The names under which a resource was asked for.
    pub(super) fn meant(&self, kind: Kind, resource: &Resource) -> Vec<String> {
        let name = &resource.name;
        if kind != Kind::VirtualHost {
            // Without a name it cannot be told whether it was asked for.
            let is_meant = name.is_empty() || self.state(kind).wants(name);
            return is_meant.then(|| name.clone()).into_iter().collect();
        }
        let mut of = self.asked.names_of(name);
        let named = std::iter::once(name).chain(&resource.aliases);
        of.extend(named.filter(|name| self.state(kind).wants(name)).cloned());
        of.sort_unstable();
        of.dedup();
        of
    }

    /// `of`: the names that it was asked for by.
    fn apply(
        &mut self,
        kind: Kind,
        (name, of): (&str, &[String]),
        any: &Any,
        now: Instant,
    ) -> Converted<()> {
        let message = kind.message();
        let mesh = &mut self.mesh;
        let on_demand = self.on_demand;
        let mut led = Clusters::new();
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
                let mut listener = convert::listener::convert(&listener, &mut |name| {
                    if on_demand {
                        led.insert(name.to_owned());
                    }
                    mesh.slot(name)
                })?;
                if !on_demand {
                    // Everything comes by itself.
                    listener.capture.mesh_addresses = Arc::default();
                }
                let with_tls = listener.chains.iter().position(|chain| chain.tls.is_some());
                if let (Some(index), false) = (with_tls, self.has_identity) {
                    return refuse(
                        format!("filter_chains[{index}].transport_socket"),
                        "TLS needs an identity, and a sidecar on the plain-text port has none",
                    );
                }
                mesh.set_listener(listener, led);
            }
            Kind::Route => {
                let routes: RouteConfiguration = convert::unpack(any, message)?;
                same_name(name, "name", &routes.name)?;
                let mut unknown = None;
                let table = convert::route::convert(&routes, &mut |name| {
                    if !mesh.has_cluster(name) {
                        unknown.get_or_insert_with(|| name.to_owned());
                    }
                    if on_demand {
                        led.insert(name.to_owned());
                    }
                    mesh.slot(name)
                })?;
                if table.on_demand && !self.incremental {
                    let message = "virtual hosts on demand need the incremental form of xDS";
                    return refuse("vhds", message);
                }
                if let (Some(true), Some(name)) = (routes.validate_clusters, unknown) {
                    let message = format!("a route leads to cluster {name:?}, which is not there");
                    return refuse("validate_clusters", message);
                }
                mesh.set_routes(table, led, now);
            }
            Kind::VirtualHost => {
                let host: VirtualHost = convert::unpack(any, message)?;
                let host = convert::route::convert_alone(&host, &mut |name| {
                    if on_demand {
                        led.insert(name.to_owned());
                    }
                    mesh.slot(name)
                })?;
                let mut routes: Vec<&str> = of.iter().map(|name| asked::split(name).0).collect();
                routes.dedup();
                for routes in routes {
                    mesh.set_host(routes, name, (host.clone(), led.clone()), now);
                }
                for asked in of {
                    self.asked.held(asked, name);
                }
            }
            // Taken elsewhere: it is about no snapshot.
            Kind::NameTable => {}
            Kind::Secret => {
                let secret: Secret = convert::unpack(any, message)?;
                same_name(name, "name", &secret.name)?;
                self.bundle = Some(convert::tls::bundle(&secret)?);
            }
        }
        Ok(())
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
