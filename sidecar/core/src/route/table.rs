//! From an authority to its virtual host. Built once, read without allocation (an authority with upper
//! case longer than any DNS name excepted).

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use super::{NoRoute, RequestView, Route, RouteTable, VirtualHost, matching::split_path};

#[expect(
    clippy::disallowed_types,
    reason = "looked up per request, never iterated"
)]
type HostMap = std::collections::HashMap<Box<[u8]>, usize, foldhash::fast::FixedState>;

/// Domains in lower case, and the place of their virtual host.
#[derive(Clone, Debug, Default)]
pub(super) struct HostIndex {
    exact: HostMap,
    /// `*.example.com` without the star.
    suffixes: ByLength,
    /// `example.*` without the star.
    prefixes: ByLength,
    /// `*`
    any: Option<usize>,
}

/// Longest first; few lengths, however many domains.
#[derive(Clone, Debug, Default)]
struct ByLength(Vec<(usize, HostMap)>);

impl RouteTable {
    /// Compiles the host index. Duplicate domains: the first virtual host keeps it.
    #[must_use]
    pub fn new(name: String, virtual_hosts: Vec<VirtualHost>) -> Self {
        let mut index = HostIndex::default();
        for (place, host) in virtual_hosts.iter().enumerate() {
            for domain in &*host.domains {
                index.insert(&domain.to_ascii_lowercase(), place);
            }
        }
        index.suffixes.sort();
        index.prefixes.sort();
        Self {
            name,
            virtual_hosts,
            on_demand: false,
            index,
        }
    }

    /// The same, with virtual hosts that come as they are asked for.
    #[must_use]
    pub fn growing(name: String, virtual_hosts: Vec<VirtualHost>) -> Self {
        Self {
            on_demand: true,
            ..Self::new(name, virtual_hosts)
        }
    }

    /// The route for a request: the virtual host of its authority, and its first route that matches.
    ///
    /// The authority is looked up as sent (Envoy): a domain `reviews` does not serve `reviews:9080`, so
    /// that a port that nobody serves is a 404 and not another port's answer.
    ///
    /// # Errors
    /// [`NoRoute`], to be answered with 404.
    pub fn find(&self, request: &RequestView<'_>) -> Result<(&VirtualHost, &Route), NoRoute> {
        let host = self.virtual_host(request.authority).ok_or(NoRoute::Host)?;
        let (path, _) = split_path(request.path_and_query);
        host.routes
            .iter()
            .find(|route| route.matches.holds(request, path))
            .map(|route| (host, route))
            .ok_or(NoRoute::Path)
    }

    /// The virtual host of an authority.
    #[must_use]
    pub fn virtual_host(&self, authority: &str) -> Option<&VirtualHost> {
        let mut buffer = [0; LONGEST_AUTHORITY];
        let host = lower_case(authority.as_bytes(), &mut buffer);
        self.virtual_hosts.get(self.index.find(&host)?)
    }

    /// Whether `host` is the one for every authority that no other has.
    #[must_use]
    pub fn is_rest(&self, host: &VirtualHost) -> bool {
        self.rest().is_some_and(|rest| std::ptr::eq(rest, host))
    }

    /// The virtual host for every authority that no other has.
    #[must_use]
    pub fn rest(&self) -> Option<&VirtualHost> {
        self.virtual_hosts.get(self.index.any?)
    }

    /// The ports that `host` (an authority, whose own port does not count) is known at, in order. Looks at domains one
    /// by one, for an error's text: of large tables at the first thousand only, because others wait meanwhile.
    #[must_use]
    pub fn ports_of(&self, host: &str) -> BTreeSet<u16> {
        let host = host_and_port(host).0;
        let of_host = |domain: &String| {
            let (name, port) = host_and_port(domain);
            port.filter(|_| name.eq_ignore_ascii_case(host))
        };
        let domains = self.virtual_hosts.iter().flat_map(|each| &*each.domains);
        let mut ports: BTreeSet<u16> = domains.take(LOOKED_AT).filter_map(of_host).collect();
        if self.on_demand
            && let Some(bare) = self.virtual_host(host)
        {
            ports.extend(&*bare.ports);
        }
        ports
    }
}

impl VirtualHost {
    /// Compiles what is left to compile of its routes.
    #[must_use]
    pub fn new(name: &str, domains: Vec<String>, mut routes: Vec<Route>) -> Self {
        for route in &mut routes {
            route.matches.anchor();
        }
        Self {
            name: name.into(),
            domains: domains.into(),
            routes: routes.into(),
            ports: Arc::default(),
            uses: None,
        }
    }
}

/// Domains of a table that are looked at for an error's text: some ten microseconds.
const LOOKED_AT: usize = 1_000;

fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    authority
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, Some(port.parse().ok()?))))
        .unwrap_or((authority, None))
}

impl HostIndex {
    fn insert(&mut self, domain: &str, place: usize) {
        if domain == "*" {
            self.any.get_or_insert(place);
        } else if let Some(suffix) = domain.strip_prefix('*') {
            self.suffixes.insert(suffix, place);
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefixes.insert(prefix, place);
        } else {
            self.exact.entry(domain.as_bytes().into()).or_insert(place);
        }
    }

    fn find(&self, host: &[u8]) -> Option<usize> {
        self.exact
            .get(host)
            .copied()
            .or_else(|| self.suffixes.find(host, true))
            .or_else(|| self.prefixes.find(host, false))
            .or(self.any)
    }
}

impl ByLength {
    fn insert(&mut self, part: &str, place: usize) {
        let at = self.0.iter().position(|(length, _)| *length == part.len());
        let at = at.unwrap_or_else(|| {
            self.0.push((part.len(), HostMap::default()));
            self.0.len() - 1
        });
        if let Some((_, map)) = self.0.get_mut(at) {
            map.entry(part.as_bytes().into()).or_insert(place);
        }
    }

    fn sort(&mut self) {
        self.0.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    }

    /// The star stands for one character at least (Envoy).
    fn find(&self, host: &[u8], at_end: bool) -> Option<usize> {
        self.0
            .iter()
            .filter(|(length, _)| *length < host.len())
            .find_map(|(length, map)| {
                let part = if at_end {
                    host.get(host.len() - length..)
                } else {
                    host.get(..*length)
                };
                map.get(part?).copied()
            })
    }
}

/// A DNS name has 253 characters at most, a colon and a port 6.
const LONGEST_AUTHORITY: usize = 260;

fn lower_case<'a>(host: &'a [u8], buffer: &'a mut [u8]) -> Cow<'a, [u8]> {
    if !host.iter().any(u8::is_ascii_uppercase) {
        return Cow::Borrowed(host);
    }
    let Some(place) = buffer.get_mut(..host.len()) else {
        return Cow::Owned(host.to_ascii_lowercase());
    };
    place.copy_from_slice(host);
    place.make_ascii_lowercase();
    Cow::Borrowed(place)
}
