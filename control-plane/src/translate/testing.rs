//! Worlds from YAML and a few instances, and resources as JSON that a person can read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use outrigger_policy::{
    At, DestinationPolicy, DestinationRule, HostName, HttpRoute, Mesh, MeshInput, Object,
    ParseLimits, Position, Protocol, Severity, Spec, parse,
};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

use super::{Dialect, NodeInfo, NodeResources, Shared};
use crate::{
    config::{OutboundTrafficPolicy, PathNormalization, VipPools},
    snapshot::{ResourceType, Snapshot},
    vips::{self, Pool, Vips},
    world::{Instance, InstanceHealth, Service, World},
};

pub(crate) const DOMAIN: &str = "cluster.local";
pub(crate) const ROOT_NAMESPACE: &str = "istio-system";

/// Builds a [`World`].
#[derive(Clone, Default)]
pub(crate) struct Given {
    objects: Vec<Arc<Object>>,
    services: BTreeMap<HostName, Arc<Service>>,
    revision: u64,
    normalization: PathNormalization,
    outbound: OutboundTrafficPolicy,
}

pub(crate) fn host(name: &str) -> HostName {
    HostName::canonical(name, "default", DOMAIN)
}

/// `value`, as if written in that line of `f.yaml`.
pub(crate) fn at<T>(line: u32, value: T) -> At<T> {
    let position = Position {
        file: "f.yaml".into(),
        line,
        column: 5,
    };
    At { value, position }
}

impl Given {
    /// Documents of namespace `default`, in a file of that name.
    pub(crate) fn policy(mut self, file: &str, yaml: &str) -> Self {
        let objects = parse(file, yaml, "default", &ParseLimits::default()).unwrap();
        assert!(!objects.is_empty(), "no document in {yaml}");
        self.objects.extend(objects.into_iter().map(Arc::new));
        self.revision += 1;
        self
    }

    /// The first rule of the last document, a VirtualService, changed by hand.
    pub(crate) fn rule(mut self, edit: impl Fn(&mut HttpRoute)) -> Self {
        let object = Arc::make_mut(self.objects.last_mut().unwrap());
        let Spec::VirtualService(spec) = &mut object.spec else {
            panic!("want a VirtualService");
        };
        edit(&mut spec.http[0]);
        self
    }

    /// A DestinationRule for `service` with a subset `v1`, changed by hand.
    pub(crate) fn destination_rule(
        self,
        service: &'static str,
        edit: impl Fn(&mut DestinationRule),
    ) -> Self {
        let name = format!("{service}-{}", self.objects.len());
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\n\
             spec: {{host: {service}, subsets: [{{name: v1, labels: {{version: v1}}}}]}}\n"
        );
        let mut given = self.policy("rule.yaml", &yaml);
        let object = Arc::make_mut(given.objects.last_mut().unwrap());
        let Spec::DestinationRule(spec) = &mut object.spec else {
            panic!("want a DestinationRule");
        };
        edit(spec);
        given
    }

    /// A DestinationPolicy for `service`, or its `subset` (`""` = all of it).
    pub(crate) fn destination_policy(
        self,
        service: &'static str,
        subset: &'static str,
        edit: impl Fn(&mut DestinationPolicy),
    ) -> Self {
        let name = format!("{service}-{subset}")
            .trim_end_matches('-')
            .to_owned();
        let yaml = format!(
            "apiVersion: outrigger.dev/v1\nkind: DestinationPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{host: {service}, zoneAware: {{}}}}\n"
        );
        let mut given = self.policy("policy.yaml", &yaml);
        let object = Arc::make_mut(given.objects.last_mut().unwrap());
        let Spec::DestinationPolicy(spec) = &mut object.spec else {
            panic!("want a DestinationPolicy");
        };
        spec.zone_aware = None;
        spec.subset = (!subset.is_empty()).then(|| at(1, subset.to_owned()));
        edit(spec);
        given
    }

    /// A registered instance of `service` (port as clients name it) at `address`, with an identity.
    pub(crate) fn instance(self, service: &str, port: u16, version: &str, address: &str) -> Self {
        let name = service.split('.').next().unwrap();
        let identity = format!("spiffe://{DOMAIN}/ns/default/sa/{name}");
        self.instance_with(service, port, version, address, Some(&identity))
    }

    /// The same without a sidecar.
    pub(crate) fn plain(self, service: &str, port: u16, version: &str, address: &str) -> Self {
        self.instance_with(service, port, version, address, None)
    }

    fn instance_with(
        mut self,
        service: &str,
        port: u16,
        version: &str,
        address: &str,
        identity: Option<&str>,
    ) -> Self {
        let socket: std::net::SocketAddr = address.parse().unwrap();
        let host = host(service);
        let namespace = host.as_str().split('.').nth(1).unwrap().to_owned();
        let known = self
            .services
            .get(&host)
            .map(|service| Service::clone(service));
        let mut known = known.unwrap_or_else(|| Service {
            host: host.clone(),
            namespace,
            ports: BTreeMap::new(),
            instances: BTreeMap::new(),
        });
        known.ports.insert(port, Protocol::Http);
        let labels = [("version".to_owned(), version.to_owned())];
        let labels = labels
            .into_iter()
            .chain([("app".to_owned(), service.to_owned())]);
        let instance = Instance {
            id: address.to_owned(),
            address: socket.ip(),
            target_port: socket.port(),
            port,
            labels: labels.collect(),
            locality: Default::default(),
            weight: 1,
            health: InstanceHealth::Healthy,
            identity: identity.map(Into::into),
        };
        known
            .instances
            .insert(instance.id.clone(), Arc::new(instance));
        self.services.insert(host, Arc::new(known));
        self
    }

    /// The port of `service` is for another protocol.
    pub(crate) fn speaking(mut self, service: &str, port: u16, protocol: Protocol) -> Self {
        let service = self.services.get_mut(&host(service)).unwrap();
        Arc::make_mut(service).ports.insert(port, protocol);
        self
    }

    /// The instance at `address` stands there: `region/zone/sub_zone`.
    pub(crate) fn located(self, service: &str, address: &str, locality: &str) -> Self {
        self.changed(service, address, |instance| {
            let mut parts = locality.split('/').map(str::to_owned);
            instance.locality = std::array::from_fn(|_| parts.next().unwrap_or_default());
        })
    }

    /// The instance at `address`, changed by hand.
    pub(crate) fn changed(
        mut self,
        service: &str,
        address: &str,
        edit: impl Fn(&mut Instance),
    ) -> Self {
        let service = Arc::make_mut(self.services.get_mut(&host(service)).unwrap());
        edit(Arc::make_mut(service.instances.get_mut(address).unwrap()));
        self
    }

    /// The instance at `address` is gone.
    pub(crate) fn without(mut self, service: &str, address: &str) -> Self {
        let service = self.services.get_mut(&host(service)).unwrap();
        Arc::make_mut(service).instances.remove(address);
        self
    }

    /// Redirected connections that are for no service are closed.
    pub(crate) fn registry_only(self) -> Self {
        Self {
            outbound: OutboundTrafficPolicy::RegistryOnly,
            ..self
        }
    }

    pub(crate) fn normalizing(self, normalization: PathNormalization) -> Self {
        Self {
            normalization,
            ..self
        }
    }

    pub(crate) fn world(&self) -> World {
        self.world_with(self.mesh())
    }

    /// A world on policies of before.
    pub(crate) fn world_with(&self, mesh: Arc<Mesh>) -> World {
        World {
            revision: self.revision,
            services: self.services.clone().into_iter().collect(),
            roots_pem: "-----BEGIN CERTIFICATE-----".into(),
            trust_domain: DOMAIN.into(),
            domain: DOMAIN.into(),
            path_normalization: self.normalization,
            outbound_traffic_policy: self.outbound,
            vip_pools: VipPools::default(),
            vips: self.vips(&mesh),
            mesh,
        }
    }

    /// Those that a new control plane gives.
    fn vips(&self, mesh: &Mesh) -> Vips {
        let services = self.services.clone().into_iter().collect();
        let mut pool = Pool::new(VipPools::default(), []);
        pool.settle(&vips::wanted(&services, mesh), 0);
        pool.given()
    }

    pub(crate) fn mesh(&self) -> Arc<Mesh> {
        let registered: BTreeSet<_> = self.services.keys().cloned().collect();
        let input = MeshInput {
            objects: &self.objects,
            domain: DOMAIN,
            root_namespace: ROOT_NAMESPACE,
            registered: &registered,
        };
        let (mesh, diagnostics) = Mesh::build(&input);
        let errors: Vec<_> = diagnostics
            .iter()
            .filter(|one| one.severity == Severity::Error)
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
        Arc::new(mesh)
    }

    pub(crate) fn shared(&self) -> Shared {
        Shared::translate(Arc::new(self.world()), None)
    }

    /// What `node` sees.
    pub(crate) fn seen_by(&self, node: &NodeInfo) -> Seen {
        Seen(self.shared().snapshot(node, &NodeResources::of(node)))
    }
}

/// A sidecar of namespace `default` with an HTTP proxy port and no application.
pub(crate) fn node() -> NodeInfo {
    NodeInfo {
        id: "sidecar~10.0.0.9~frontend.default~default.svc.cluster.local".into(),
        dialect: Dialect::Outrigger,
        namespace: "default".into(),
        service_account: Some("frontend".into()),
        service: Some("frontend.default.svc.cluster.local".into()),
        labels: [("app".to_owned(), "frontend".to_owned())].into(),
        locality: None,
        http_proxy: Some("127.0.0.1:15080".parse().unwrap()),
        on_demand: false,
        sds_cluster: false,
        inbound: None,
        capture: None,
        dns: None,
    }
}

/// A node's resources.
pub(crate) struct Seen(pub(super) Snapshot);

impl Seen {
    pub(crate) fn names(&self, kind: ResourceType) -> Vec<String> {
        let mut names: Vec<_> = self
            .0
            .of(kind)
            .iter()
            .map(|one| one.name.to_string())
            .collect();
        names.sort();
        names
    }

    /// One resource as JSON.
    pub(crate) fn json(&self, kind: ResourceType, name: &str) -> Value {
        let names = || self.names(kind);
        let resource = self.0.of(kind).get(name);
        let resource = resource.unwrap_or_else(|| panic!("no {name:?} in {:?}", names()));
        json(&resource.any)
    }

    /// All resources as JSON by type and name.
    pub(crate) fn all(&self) -> Value {
        let of = |kind: ResourceType| {
            let all = self.names(kind).into_iter().map(|name| {
                let value = self.json(kind, &name);
                (name, value)
            });
            (kind.short().to_owned(), Value::Object(all.collect()))
        };
        let listed = ResourceType::ALL.into_iter();
        let made = [ResourceType::VirtualHost, ResourceType::NameTable];
        let listed = listed.filter(|kind| !made.contains(kind));
        Value::Object(listed.map(of).collect())
    }

    /// Domains by virtual host.
    pub(crate) fn domains(&self, routes: &str) -> BTreeMap<String, Vec<String>> {
        let hosts = self.json(ResourceType::Route, routes);
        let hosts = hosts["virtualHosts"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let domains = |host: &Value| {
            host["domains"]
                .as_array()
                .unwrap()
                .iter()
                .map(text)
                .collect()
        };
        hosts
            .iter()
            .map(|host| (text(&host["name"]), domains(host)))
            .collect()
    }

    /// `address:port` of every endpoint of `cluster`.
    pub(crate) fn endpoints(&self, cluster: &str) -> Vec<String> {
        let all = self.json(ResourceType::Endpoint, cluster);
        let localities = all["endpoints"].as_array().cloned().unwrap_or_default();
        let members = localities
            .iter()
            .flat_map(|one| one["lbEndpoints"].as_array().unwrap());
        let socket = |member: &Value| {
            let socket = &member["endpoint"]["address"]["socketAddress"];
            format!(
                "{}:{}",
                socket["address"].as_str().unwrap(),
                socket["portValue"]
            )
        };
        members.map(socket).collect()
    }

    /// The routes of a virtual host.
    pub(crate) fn routes(&self, routes: &str, host: &str) -> Vec<Value> {
        let all = self.json(ResourceType::Route, routes);
        let hosts = all["virtualHosts"].as_array().unwrap();
        let host = hosts.iter().find(|one| one["name"] == host).unwrap();
        host["routes"].as_array().unwrap().clone()
    }
}

fn json(any: &prost_types::Any) -> Value {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(outrigger_proto::DESCRIPTORS).unwrap());
    let name = any.type_url.strip_prefix("type.googleapis.com/").unwrap();
    let descriptor = POOL.get_message_by_name(name).unwrap();
    let message = DynamicMessage::decode(descriptor, any.value.as_slice()).unwrap();
    serde_json::to_value(message).unwrap()
}
