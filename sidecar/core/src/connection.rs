//! Where a connection goes that is not HTTP, by the server name that its TLS asks for, if that is looked at.
//!
//! The most specific name wins, as in Envoy's filter chain match: the name itself, then the longest `*.suffix`, then
//! a route without names. Nothing else is tried once a name was found.
//! Source: Envoy `FilterChainMatch.server_names`, `TcpProxy`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use xxhash_rust::xxh64::xxh64;

use crate::{ClusterChoice, ClusterSlot, HeaderEdits, Rbac, WeightedCluster};

/// Where one connection goes.
#[derive(Clone, Debug)]
pub struct ConnectionRoute {
    /// The line of YAML that decided, if a document did.
    pub position: Option<Arc<str>>,
    /// Where to.
    pub clusters: ClusterChoice,
    /// Ends a connection on which nothing has moved for so long; None = never.
    pub idle_timeout: Option<Duration>,
    /// Ends a connection of this age; None = never.
    pub max_duration: Option<Duration>,
    /// Tries to connect, each to another endpoint. At least 1.
    pub attempts: u32,
    /// The source's address is what a consistent hash takes.
    pub hash_source_ip: bool,
    /// Who may connect: all of them have to agree.
    pub rbac: Vec<Rbac>,
}

/// All routes of a listener.
#[derive(Clone, Debug)]
pub struct ConnectionRoutes {
    routes: Vec<Arc<ConnectionRoute>>,
    exact: BTreeMap<Box<str>, usize>,
    /// By what follows the star, dot included.
    suffixes: BTreeMap<Box<str>, usize>,
    any: Option<usize>,
    hello_timeout: Option<Duration>,
}

/// Two routes for one name: the second route's index, and the name (`*` = any).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTwice(pub usize, pub String);

impl ConnectionRoutes {
    /// One route for every connection, whatever its first bytes are.
    #[must_use]
    pub fn one(route: ConnectionRoute) -> Self {
        Self {
            routes: vec![Arc::new(route)],
            exact: BTreeMap::new(),
            suffixes: BTreeMap::new(),
            any: Some(0),
            hello_timeout: None,
        }
    }

    /// Routes by server name: in lower case, `*.suffix` too; a route without names takes what no other has. A
    /// connection has to say its name within `hello_timeout`.
    ///
    /// # Errors
    /// [`NameTwice`].
    pub fn by_server_name(
        routes: Vec<(Vec<String>, ConnectionRoute)>,
        hello_timeout: Duration,
    ) -> Result<Self, NameTwice> {
        let mut made = Self {
            routes: Vec::with_capacity(routes.len()),
            exact: BTreeMap::new(),
            suffixes: BTreeMap::new(),
            any: None,
            hello_timeout: Some(hello_timeout),
        };
        for (index, (names, route)) in routes.into_iter().enumerate() {
            made.routes.push(Arc::new(route));
            if names.is_empty() && made.any.replace(index).is_some() {
                return Err(NameTwice(index, "*".to_owned()));
            }
            for name in names {
                let taken = match name.strip_prefix('*') {
                    Some(suffix) => made.suffixes.insert(suffix.into(), index),
                    None => made.exact.insert(name.as_str().into(), index),
                };
                if taken.is_some() {
                    return Err(NameTwice(index, name));
                }
            }
        }
        Ok(made)
    }

    /// Set if a connection has to begin with a TLS client's greeting, which says its server name.
    #[must_use]
    pub fn hello_timeout(&self) -> Option<Duration> {
        self.hello_timeout
    }

    /// The route of a connection that asked for `server_name`, in lower case.
    #[must_use]
    pub fn find(&self, server_name: Option<&str>) -> Option<&Arc<ConnectionRoute>> {
        let named = server_name.and_then(|name| {
            self.exact
                .get(name)
                .or_else(|| suffixes(name).find_map(|suffix| self.suffixes.get(suffix)))
        });
        self.routes.get(*named.or(self.any.as_ref())?)
    }

    /// All routes.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ConnectionRoute>> {
        self.routes.iter()
    }
}

/// `.b.c`, `.c` of `a.b.c`: the longest first.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.')
        .filter_map(|(at, _)| name.get(at..))
        .filter(|suffix| suffix.len() < name.len())
}

impl ConnectionRoute {
    /// What a consistent hash takes of a connection from `source`, equal to Envoy's; None = chance.
    #[must_use]
    pub fn hash(&self, source: IpAddr) -> Option<u64> {
        self.hash_source_ip
            .then(|| xxh64(source.to_string().as_bytes(), 0))
    }
}

impl WeightedCluster {
    /// A share without edits of headers.
    #[must_use]
    pub fn plain(cluster: ClusterSlot, name: &str, weight: u32) -> Self {
        Self {
            cluster,
            name: name.into(),
            weight,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(position: &str) -> ConnectionRoute {
        let cluster = WeightedCluster::plain(ClusterSlot(0), "db", 1);
        ConnectionRoute {
            position: Some(position.into()),
            clusters: ClusterChoice::new(vec![cluster]).unwrap(),
            idle_timeout: None,
            max_duration: None,
            attempts: 1,
            hash_source_ip: true,
            rbac: Vec::new(),
        }
    }

    fn routes(all: &[(&str, &[&str])]) -> Result<ConnectionRoutes, NameTwice> {
        let all = all.iter().map(|(position, names)| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            (names, route(position))
        });
        ConnectionRoutes::by_server_name(all.collect(), Duration::from_secs(5))
    }

    #[test]
    fn the_most_specific_server_name_wins() {
        let some = routes(&[
            ("suffix", &["*.example.com"]),
            ("deep", &["*.b.example.com"]),
            ("exact", &["a.b.example.com", "other.net"]),
        ])
        .unwrap();
        let found = |name| {
            let route = some.find(name)?;
            route.position.as_deref()
        };
        for (name, expected) in [
            (Some("a.b.example.com"), Some("exact")),
            (Some("other.net"), Some("exact")),
            (Some("c.b.example.com"), Some("deep")),
            (Some("b.example.com"), Some("suffix")),
            (Some("x.y.example.com"), Some("suffix")),
            (Some("example.com"), None),
            (Some(".example.com"), None),
            (Some("xexample.com"), None),
            (Some("x.other.net"), None),
            (None, None),
        ] {
            assert_eq!(found(name), expected, "{name:?}");
        }
        let all = routes(&[("any", &[]), ("exact", &["a.net"])]).unwrap();
        let found = |name| all.find(name).and_then(|route| route.position.clone());
        assert_eq!(found(None).as_deref(), Some("any"));
        assert_eq!(found(Some("b.net")).as_deref(), Some("any"));
        assert_eq!(found(Some("a.net")).as_deref(), Some("exact"));
    }

    #[test]
    fn a_name_leads_one_way_only() {
        let twice = |index, name: &str| Some(NameTwice(index, name.to_owned()));
        let found = |all: &[(&str, &[&str])]| routes(all).err();
        assert_eq!(
            found(&[("a", &["x.net"]), ("b", &["x.net"])]),
            twice(1, "x.net")
        );
        assert_eq!(found(&[("a", &["*.net", "*.net"])]), twice(0, "*.net"));
        assert_eq!(
            found(&[("a", &[]), ("b", &["x"]), ("c", &[])]),
            twice(2, "*")
        );
        assert_eq!(found(&[("a", &["*.net"]), ("b", &["x.net"])]), None);
    }

    #[test]
    fn one_source_is_one_hash() {
        let route = route("a");
        let of = |ip: [u8; 4]| route.hash(IpAddr::from(ip));
        assert_eq!(of([10, 0, 0, 1]), Some(xxh64(b"10.0.0.1", 0)));
        assert_ne!(of([10, 0, 0, 1]), of([10, 0, 0, 2]));
    }
}
