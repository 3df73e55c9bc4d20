//! Which authorities lead where: the tables of routes of a scope, as a whole or one authority at a time.
//!
//! ```text
//! hosts that are seen ─┬─ all their virtual hosts ─► RDS     made when the first client asks
//!                      └─ one authority ───────────► VHDS    found without making the others
//! ```
//! A whole table of a large mesh has megabytes, for each namespace other ones (`orders` is another service in each), so
//! that it is made for those only who want it whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use outrigger_policy::HostName;
use outrigger_proto::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};

use super::{listener::HTTP_PROXY, route::HostRoutes};
use crate::{
    snapshot::{ResourceBytes, ResourceType, TypeMap, next_generation},
    sorted::SortedMap,
};

/// All tables of a scope.
#[derive(Debug)]
pub(super) struct Tables {
    list: Vec<Table>,
    generation: u64,
    all: Lazy,
    without_proxy: Lazy,
}

/// One route configuration.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) domains: Domains,
}

/// Made when it is asked for.
#[derive(Debug)]
struct Lazy {
    made: OnceLock<Arc<TypeMap>>,
    /// What it was before.
    previous: Option<Arc<TypeMap>>,
}

impl Lazy {
    fn following(before: Option<&Self>) -> Self {
        Self {
            made: OnceLock::new(),
            previous: before.and_then(|before| before.made.get().cloned()),
        }
    }

    fn get<'t>(&self, tables: impl Iterator<Item = &'t Table>) -> &Arc<TypeMap> {
        self.made
            .get_or_init(|| TypeMap::following(self.previous.as_ref(), tables.map(Table::resource)))
    }
}

impl Tables {
    /// `before` is what they follow.
    pub(super) fn new(list: Vec<Table>, before: Option<&Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            list,
            generation: next_generation(),
            all: Lazy::following(before.map(|before| &before.all)),
            without_proxy: Lazy::following(before.map(|before| &before.without_proxy)),
        })
    }

    /// Another for each content.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// All, in full.
    pub(super) fn all(&self) -> &Arc<TypeMap> {
        self.all.get(self.list.iter())
    }

    /// All but the HTTP proxy's.
    pub(super) fn without_proxy(&self) -> &Arc<TypeMap> {
        let others = self.list.iter().filter(|table| table.name != HTTP_PROXY);
        self.without_proxy.get(others)
    }

    /// The routes of an authority in a table, and all ports that its host is known at there.
    pub(super) fn find(&self, table: &str, authority: &str) -> Option<(&[Route], BTreeSet<u16>)> {
        let table = self.list.iter().find(|known| known.name == table)?;
        let routes = table.domains.find(authority)?;
        Some((routes, table.domains.ports_of(authority)))
    }
}

impl Table {
    fn resource(&self) -> Arc<ResourceBytes> {
        let routes = RouteConfiguration {
            name: self.name.clone(),
            virtual_hosts: self.domains.virtual_hosts(),
            // A route may name a cluster that is on its way: 503 until then, not a refused configuration.
            validate_clusters: Some(false),
            ..RouteConfiguration::default()
        };
        ResourceBytes::new(ResourceType::Route, &self.name, &routes)
    }
}

/// Which authorities lead to which virtual host, for nodes of one namespace.
#[derive(Debug)]
pub(super) struct Domains {
    pub(super) namespace: String,
    pub(super) domain: Arc<str>,
    /// The egress listener's port; None for the HTTP proxy.
    pub(super) port: Option<u16>,
    pub(super) visible: SortedMap<HostName, Arc<HostRoutes>>,
}

impl Domains {
    /// Each domain is given once (Envoy refuses a table that has one twice): canonical names first, then the
    /// short forms that are still free.
    fn virtual_hosts(&self) -> Vec<VirtualHost> {
        let mut claimed = BTreeSet::new();
        let mut hosts = Vec::new();
        for (host, routes) in self.visible.iter() {
            let bare = self.bare(routes);
            for port in self.ports(routes) {
                let mut entry = VirtualHost {
                    name: format!("{host}:{port}"),
                    routes: routes.ports.get(&port).cloned().unwrap_or_default(),
                    ..VirtualHost::default()
                };
                claim(&mut claimed, &mut entry, host.as_str(), port, bare);
                hosts.push((host, port, bare, entry));
            }
            // Of other ports, CONNECT always names one.
            for (&port, routes) in self.connect(routes) {
                let mut entry = VirtualHost {
                    name: format!("{host}:{port}"),
                    routes: routes.clone(),
                    ..VirtualHost::default()
                };
                claim(&mut claimed, &mut entry, host.as_str(), port, None);
                hosts.push((host, port, None, entry));
            }
        }
        for (host, port, bare, entry) in &mut hosts {
            for short in self.short_forms(host.as_str()) {
                claim(&mut claimed, entry, &short, *port, *bare);
            }
        }
        if self.has_default() {
            let default = hosts
                .iter_mut()
                .find(|(_, port, bare, _)| Some(*port) == *bare);
            if let Some((_, _, _, entry)) = default.filter(|_| claimed.insert("*".to_owned())) {
                entry.domains.push("*".to_owned());
            }
        }
        // One without a domain would be refused; nobody could call it anyway.
        let hosts = hosts.into_iter().map(|(_, _, _, entry)| entry);
        hosts.filter(|entry| !entry.domains.is_empty()).collect()
    }

    /// The ports of a host that only CONNECT leads to, which only the HTTP proxy takes.
    const fn connect<'r>(&self, routes: &'r HostRoutes) -> &'r BTreeMap<u16, Vec<Route>> {
        const NONE: &BTreeMap<u16, Vec<Route>> = &BTreeMap::new();
        if self.port.is_none() {
            &routes.connect
        } else {
            NONE
        }
    }

    /// The ports of a host that are led to: an egress listener's own, if the service has it; else all of the service.
    fn ports(&self, routes: &HostRoutes) -> impl Iterator<Item = u16> {
        let only = self.port.filter(|port| routes.ports.contains_key(port));
        let ports = routes.ports.keys().copied();
        ports.filter(move |port| only.is_none_or(|only| only == *port))
    }

    /// The port that is meant where none is named.
    fn bare(&self, routes: &HostRoutes) -> Option<u16> {
        let mut ports = self.ports(routes);
        let first = ports.next();
        if first == Some(80) || ports.any(|port| port == 80) {
            Some(80)
        } else {
            first
        }
    }

    /// Every authority that is nobody's belongs to the only service of a listener of its own.
    fn has_default(&self) -> bool {
        self.port.is_some() && self.visible.len() == 1
    }

    /// The routes of an authority, as [`Self::virtual_hosts`] would lead it, without making these.
    fn find(&self, authority: &str) -> Option<&[Route]> {
        // Host names have no case.
        let authority = authority.to_ascii_lowercase();
        let suffixes = authority.match_indices('.').map(|(dot, _)| {
            let (_, suffix) = authority.split_at(dot);
            format!("*{suffix}")
        });
        let own = [authority.clone()].into_iter();
        let mut domains = own.chain(suffixes).chain(["*".to_owned()]);
        domains.find_map(|domain| self.of_domain(&domain))
    }

    /// The ports that the host of an authority is known at.
    fn ports_of(&self, authority: &str) -> BTreeSet<u16> {
        let authority = authority.to_ascii_lowercase();
        let name = match authority.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => name,
            _ => &authority,
        };
        // A lone star takes every port.
        let names = if name == "*" {
            Vec::new()
        } else {
            self.candidates(name)
        };
        let hosts = names.into_iter();
        let hosts = hosts.filter_map(|host| self.visible.get(host.as_str()));
        let connect = |routes| self.connect(routes).keys().copied();
        hosts
            .flat_map(|routes| self.ports(routes).chain(connect(routes)))
            .collect()
    }

    fn of_domain(&self, domain: &str) -> Option<&[Route]> {
        let (name, port) = match domain.rsplit_once(':') {
            Some((name, port)) => match port.parse::<u16>() {
                // A lone star takes every port.
                Ok(number) if name != "*" && port == number.to_string() => (name, Some(number)),
                Ok(_) | Err(_) => (domain, None),
            },
            None => (domain, None),
        };
        let claimed = self.candidates(name).into_iter().find_map(|host| {
            let routes = self.visible.get(host.as_str())?;
            if let Some(port) = port
                && let Some(connect) = self.connect(routes).get(&port)
            {
                return Some(connect);
            }
            let port = match port {
                Some(port) => self.ports(routes).find(|known| *known == port),
                None => self.bare(routes),
            };
            routes.ports.get(&port?)
        });
        let default = || {
            let routes = self.visible.values().next()?;
            routes.ports.get(&self.bare(routes)?)
        };
        let default = || if self.has_default() { default() } else { None };
        let found = match (claimed, domain) {
            (None, "*") => default(),
            (claimed, _) => claimed,
        };
        found.map(Vec::as_slice)
    }

    /// The hosts that `name` may be short for, in the order in which they claim it: first the host that is called so.
    fn candidates(&self, name: &str) -> Vec<String> {
        let (namespace, domain) = (&self.namespace, &self.domain);
        let mut long = vec![
            format!("{name}.{domain}"),
            format!("{name}.svc.{domain}"),
            format!("{name}.{namespace}.svc.{domain}"),
        ];
        long.retain(|host| self.short_forms(host).iter().any(|form| form == name));
        long.sort_unstable();
        std::iter::once(name.to_owned()).chain(long).collect()
    }

    /// `h.<ns>.svc`, `h.<ns>`, and `h` within the namespace, for `h.<ns>.svc.<domain>`.
    fn short_forms(&self, host: &str) -> Vec<String> {
        let suffix = format!(".svc.{}", self.domain);
        let Some(name) = host.strip_suffix(&suffix) else {
            return Vec::new();
        };
        let Some((service, namespace)) = name.rsplit_once('.') else {
            return Vec::new();
        };
        let mut forms = vec![format!("{name}.svc"), name.to_owned()];
        if namespace == self.namespace {
            forms.push(service.to_owned());
        }
        forms
    }
}

/// Gives `name` and `name:port` to `entry` if they are free; the bare one only on the port it belongs to.
fn claim(
    claimed: &mut BTreeSet<String>,
    entry: &mut VirtualHost,
    name: &str,
    port: u16,
    bare: Option<u16>,
) {
    let plain = (bare == Some(port)).then(|| name.to_owned());
    // "*:80" is no domain; a lone star takes every port.
    let with_port = (name != "*").then(|| format!("{name}:{port}"));
    for domain in plain.into_iter().chain(with_port) {
        if claimed.insert(domain.clone()) {
            entry.domains.push(domain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 11] = [
        "*",
        "*.example",
        "*.shop.svc.cluster.local",
        "a.b",
        "a.b.shop.svc.cluster.local",
        "a.b.svc.cluster.local",
        "a.example",
        "a.shop",
        "a.shop.svc.cluster.local",
        "a.svc.cluster.local",
        "b.bank.svc.cluster.local",
    ];
    const PORTS: [u16; 4] = [79, 80, 81, 8080];

    fn connect_to(host: &str) -> Route {
        Route {
            name: format!("{host}:5432"),
            ..Route::default()
        }
    }

    /// Hosts at random, each route with the name of its virtual host.
    fn domains(random: &mut fastrand::Rng) -> Domains {
        let hosts = HOSTS.iter().filter(|_| random.bool()).collect::<Vec<_>>();
        let hosts = hosts.into_iter().map(|host| {
            let ports = PORTS.iter().filter(|_| random.bool());
            let ports = ports.map(|port| {
                let route = Route {
                    name: format!("{host}:{port}"),
                    ..Route::default()
                };
                (*port, vec![route])
            });
            let routes = HostRoutes {
                ports: ports.collect(),
                connect: [(5432, vec![connect_to(host)])].into(),
                destinations: BTreeSet::new(),
            };
            (
                HostName::canonical(host, "any", "cluster.local"),
                Arc::new(routes),
            )
        });
        let visible: Vec<_> = hosts.collect();
        let visible = visible
            .into_iter()
            .filter(|(_, routes)| !routes.ports.is_empty());
        Domains {
            visible: visible.collect(),
            namespace: random.choice(["shop", "bank", "b"]).unwrap().to_owned(),
            domain: "cluster.local".into(),
            port: random.choice([None, Some(80), Some(8080)]).unwrap(),
        }
    }

    #[test]
    fn one_authority_is_found_where_the_whole_table_leads_it() {
        for seed in 0..2000 {
            println!("seed {seed}");
            let domains = domains(&mut fastrand::Rng::with_seed(seed));
            let whole: BTreeMap<String, String> = domains
                .virtual_hosts()
                .into_iter()
                .flat_map(|host| {
                    let name = host.name;
                    host.domains
                        .into_iter()
                        .map(move |domain| (domain, name.clone()))
                })
                .collect();
            let names = HOSTS.iter().copied().chain([
                "a",
                "b",
                "c",
                "a.b.shop",
                "a.b.bank",
                "x.example",
                "x.shop",
                "b.bank",
                "b.bank.svc",
            ]);
            for name in names {
                for port in ["", ":80", ":81", ":8080", ":080", ":5432"] {
                    let authority = format!("{name}{port}");
                    let known = whole.keys().filter_map(|domain| {
                        let port = domain.strip_prefix(name)?.strip_prefix(':')?;
                        port.parse::<u16>().ok()
                    });
                    let known: BTreeSet<u16> = known.collect();
                    assert_eq!(
                        domains.ports_of(&authority),
                        known,
                        "{authority} in {domains:?}"
                    );
                    let found = domains.find(&authority).and_then(<[Route]>::first);
                    let expected = super::super::on_demand::best(&whole, &authority);
                    assert_eq!(
                        found.map(|route| &route.name),
                        expected,
                        "{authority} in {domains:?}"
                    );
                }
            }
        }
    }
}
