//! Which of a listener's filter chains a connection gets, by where it was going and what its first bytes say.
//!
//! ```text
//! destination port ──► destination (longest range) ──► server name (exact, longest *.suffix, any) ──► TLS or not
//!     ──► application protocols (the client's first that is named; of plain text, what was detected)
//! ```
//! At each step the most specific match is taken, and nothing else is tried afterwards: a TLS connection whose
//! protocols no chain names does not fall back to a chain for everybody, if some chain asks for TLS. What no chain
//! matches gets the default chain, if there is one.
//! Source: Envoy `FilterChainMatch`.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use crate::{Cidr, DownstreamTls, HttpSettings, ProxyProtocol, RouteSource};

/// What is done with connections that match.
#[derive(Clone, Debug)]
pub struct FilterChain {
    /// None = plain text, or TLS that is not ended here.
    pub tls: Option<DownstreamTls>,
    /// Where they lead.
    pub routes: RouteSource,
    /// What is done to requests; None = CORS and faults, as routes say.
    pub settings: Option<Arc<HttpSettings>>,
    /// Where the policies of its access rules were written.
    pub policies: PolicyPositions,
}

/// The line of YAML of each policy, e.g. `ns[default]-policy[viewers]-rule[0]` → `viewers.yaml:12:5`.
#[derive(Clone, Debug, Default)]
pub struct PolicyPositions(Option<Arc<BTreeMap<Box<str>, Arc<str>>>>);

impl PolicyPositions {
    /// By name of the policy.
    #[must_use]
    pub fn new(all: BTreeMap<Box<str>, Arc<str>>) -> Self {
        Self((!all.is_empty()).then(|| Arc::new(all)))
    }

    /// The line of a policy.
    #[must_use]
    pub fn of(&self, policy: &str) -> Option<&Arc<str>> {
        self.0.as_ref()?.get(policy)
    }
}

/// What a connection must be like to get a chain. Default: anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// Where it was going; None = any port.
    pub destination_port: Option<u16>,
    /// Ranges, of which one has the address that it was going to; none = any.
    pub prefix_ranges: Vec<Cidr>,
    /// In lower case, `*.suffix` too; none = any, and none at all.
    pub server_names: Vec<String>,
    /// TLS, or not.
    pub tls: Option<bool>,
    /// Of which the client offers one, or which were detected in plain text; none = any.
    pub application_protocols: Vec<String>,
}

/// How long a listener looks at first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// A connection has to say by then what it is.
    pub within: Duration,
    /// One that has said nothing at all by then counts as plain text: the server may be the one to speak first.
    /// If not, it is closed.
    pub silence_is_plain: bool,
    /// TLS is told from plain text.
    pub tls: bool,
    /// Of plain text, HTTP is told from the rest: [`HTTP1`], [`HTTP2`].
    pub http: bool,
}

impl Default for Inspect {
    /// TLS only, for 5 s.
    fn default() -> Self {
        Self {
            within: Duration::from_secs(5),
            silence_is_plain: false,
            tls: true,
            http: false,
        }
    }
}

/// What HTTP/1 in plain text counts as (Envoy's HTTP inspector): both versions, as rules for one are meant for both.
pub const HTTP1: &[&[u8]] = &[b"http/1.1", b"http/1.0"];
/// The same of HTTP/2.
pub const HTTP2: &[&[u8]] = &[b"h2c"];

/// What a connection's first bytes say. Default: plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// They are those of TLS.
    pub tls: bool,
    /// In lower case.
    pub server_name: Option<Box<str>>,
    /// Application protocols that TLS offers, in order; of plain text, the one that was detected.
    pub alpn: Box<[Box<[u8]>]>,
}

impl Greeting {
    /// Plain text in which [`HTTP1`], [`HTTP2`] or nothing was detected.
    #[must_use]
    pub fn plain(protocols: &[&[u8]]) -> Self {
        Self {
            alpn: protocols.iter().map(|name| Box::from(*name)).collect(),
            ..Self::default()
        }
    }
}

/// All filter chains of a listener.
#[derive(Clone, Debug)]
pub struct FilterChains {
    chains: Vec<FilterChain>,
    lookup: Option<ChainLookup>,
    proxied: Option<ProxyProtocol>,
}

/// Finds the number of a chain.
#[derive(Clone, Debug)]
pub struct ChainLookup {
    inspect: Option<Inspect>,
    /// By destination port.
    ports: BTreeMap<u16, Destinations>,
    any_port: Destinations,
    fallback: Option<usize>,
}

/// The chains for one destination port.
#[derive(Clone, Debug, Default)]
struct Destinations {
    /// Longest first.
    ranges: Vec<(Cidr, Names)>,
    any: Names,
}

/// The chains for one destination.
#[derive(Clone, Debug, Default)]
struct Names {
    exact: BTreeMap<Box<str>, Transports>,
    /// By what follows the star, dot included.
    suffixes: BTreeMap<Box<str>, Transports>,
    any: Transports,
}

/// Two chains for the same connections: the second's index, and what both match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedTwice(pub usize, pub String);

/// The chains for one server name.
#[derive(Clone, Debug, Default)]
struct Transports {
    tls: Option<Protocols>,
    plain: Option<Protocols>,
    either: Option<Protocols>,
}

#[derive(Clone, Debug, Default)]
struct Protocols {
    named: Vec<(Box<[u8]>, usize)>,
    any: Option<usize>,
}

impl FilterChains {
    /// One chain for every connection, whatever its first bytes are.
    #[must_use]
    pub fn one(chain: FilterChain) -> Self {
        Self {
            chains: vec![chain],
            lookup: None,
            proxied: None,
        }
    }

    /// Chains in the order that `lookup` was made of; without one, the first takes every connection.
    #[must_use]
    pub fn new(chains: Vec<FilterChain>, lookup: Option<ChainLookup>) -> Self {
        Self {
            chains,
            lookup,
            proxied: None,
        }
    }

    /// For connections that begin with a PROXY protocol header.
    #[must_use]
    pub fn behind_proxy(self, proxied: Option<ProxyProtocol>) -> Self {
        Self { proxied, ..self }
    }

    /// Set if connections begin with a PROXY protocol header.
    #[must_use]
    pub fn proxied(&self) -> Option<ProxyProtocol> {
        self.proxied
    }

    /// The chain that takes every connection, if first bytes do not matter.
    #[must_use]
    pub fn only(&self) -> Option<&FilterChain> {
        match self.lookup {
            None => self.chains.first(),
            Some(_) => None,
        }
    }

    /// Set if a connection's first bytes have to be looked at.
    #[must_use]
    pub fn inspect(&self) -> Option<Inspect> {
        self.lookup.as_ref().and_then(|lookup| lookup.inspect)
    }

    /// The chain for a connection that begins with `greeting`, and was going nowhere else.
    #[must_use]
    pub fn find(&self, greeting: &Greeting) -> Option<&FilterChain> {
        self.find_for(greeting, None)
    }

    /// The chain for a connection to `destination` that begins with `greeting`.
    #[must_use]
    pub fn find_for(
        &self,
        greeting: &Greeting,
        destination: Option<SocketAddr>,
    ) -> Option<&FilterChain> {
        match &self.lookup {
            None => self.chains.first(),
            Some(lookup) => self.chains.get(lookup.find_for(greeting, destination)?),
        }
    }

    /// Whether anything matches connections that are not TLS.
    #[must_use]
    pub fn take_plain_text(&self) -> bool {
        self.find(&Greeting::default()).is_some()
    }

    /// All chains.
    pub fn iter(&self) -> impl Iterator<Item = &FilterChain> {
        self.chains.iter()
    }
}

impl ChainLookup {
    /// Of chains with `matches`.
    ///
    /// # Errors
    /// [`MatchedTwice`].
    pub fn new(
        matches: &[ChainMatch],
        inspect: impl Into<Option<Inspect>>,
    ) -> Result<Self, MatchedTwice> {
        let mut made = Self {
            inspect: inspect.into(),
            ports: BTreeMap::new(),
            any_port: Destinations::default(),
            fallback: None,
        };
        for (index, wanted) in matches.iter().enumerate() {
            let port = match wanted.destination_port {
                None => &mut made.any_port,
                Some(port) => made.ports.entry(port).or_default(),
            };
            port.put(wanted, index)?;
        }
        let all = made.ports.values_mut().chain([&mut made.any_port]);
        all.for_each(Destinations::sort);
        Ok(made)
    }

    /// The same, with the chain of this index for what no other takes.
    #[must_use]
    pub fn or_else(self, fallback: Option<usize>) -> Self {
        Self { fallback, ..self }
    }

    /// The index of the chain for a connection that begins with `greeting`, and was going nowhere else.
    #[must_use]
    pub fn find(&self, greeting: &Greeting) -> Option<usize> {
        self.find_for(greeting, None)
    }

    /// The index of the chain for a connection to `destination` that begins with `greeting`.
    #[must_use]
    pub fn find_for(&self, greeting: &Greeting, destination: Option<SocketAddr>) -> Option<usize> {
        let port = destination.and_then(|to| self.ports.get(&to.port()));
        let found = port.unwrap_or(&self.any_port).find(greeting, destination);
        found.or(self.fallback)
    }
}

impl Destinations {
    fn put(&mut self, wanted: &ChainMatch, index: usize) -> Result<(), MatchedTwice> {
        if wanted.prefix_ranges.is_empty() {
            return self.any.put(wanted, index);
        }
        for range in &wanted.prefix_ranges {
            let known = self.ranges.iter().position(|(known, _)| known == range);
            let at = known.unwrap_or_else(|| {
                self.ranges.push((*range, Names::default()));
                self.ranges.len() - 1
            });
            if let Some((_, names)) = self.ranges.get_mut(at) {
                names.put(wanted, index)?;
            }
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.ranges
            .sort_by_key(|(range, _)| std::cmp::Reverse(range.bits()));
    }

    fn find(&self, greeting: &Greeting, destination: Option<SocketAddr>) -> Option<usize> {
        let within = destination.and_then(|to| {
            let mut ranges = self.ranges.iter();
            ranges.find(|(range, _)| range.contains(to.ip()))
        });
        within.map_or(&self.any, |(_, names)| names).find(greeting)
    }
}

impl Names {
    fn put(&mut self, wanted: &ChainMatch, index: usize) -> Result<(), MatchedTwice> {
        let twice = |name: &str| MatchedTwice(index, name.to_owned());
        if wanted.server_names.is_empty() {
            self.any.put(wanted, index).map_err(|()| twice("*"))?;
        }
        for name in &wanted.server_names {
            let (map, key) = match name.strip_prefix('*') {
                Some(suffix) => (&mut self.suffixes, suffix),
                None => (&mut self.exact, name.as_str()),
            };
            let place = map.entry(key.into()).or_default();
            place.put(wanted, index).map_err(|()| twice(name))?;
        }
        Ok(())
    }

    fn find(&self, greeting: &Greeting) -> Option<usize> {
        let named = greeting.server_name.as_deref().and_then(|name| {
            self.exact
                .get(name)
                .or_else(|| suffixes(name).find_map(|suffix| self.suffixes.get(suffix)))
        });
        named.unwrap_or(&self.any).find(greeting)
    }
}

impl Transports {
    fn put(&mut self, wanted: &ChainMatch, index: usize) -> Result<(), ()> {
        let place = match wanted.tls {
            Some(true) => &mut self.tls,
            Some(false) => &mut self.plain,
            None => &mut self.either,
        };
        let place = place.get_or_insert_default();
        if wanted.application_protocols.is_empty() {
            return place.any.replace(index).map_or(Ok(()), |_taken| Err(()));
        }
        for name in &wanted.application_protocols {
            if place
                .named
                .iter()
                .any(|(taken, _)| **taken == *name.as_bytes())
            {
                return Err(());
            }
            place.named.push((name.as_bytes().into(), index));
        }
        Ok(())
    }

    fn find(&self, greeting: &Greeting) -> Option<usize> {
        let own = if greeting.tls { &self.tls } else { &self.plain };
        let protocols = own.as_ref().or(self.either.as_ref())?;
        let offered = greeting.alpn.iter();
        let mut named = offered.filter_map(|name| {
            let mut all = protocols.named.iter();
            all.find_map(|(known, index)| (known == name).then_some(*index))
        });
        named.next().or(protocols.any)
    }
}

/// `.b.c`, `.c` of `a.b.c`: the longest first.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.')
        .filter_map(|(at, _)| name.get(at..))
        .filter(|suffix| suffix.len() < name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSPECT: Inspect = Inspect {
        within: Duration::from_secs(5),
        silence_is_plain: false,
        tls: true,
        http: false,
    };

    fn wanted(names: &[&str], tls: Option<bool>, protocols: &[&str]) -> ChainMatch {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        ChainMatch {
            server_names: owned(names),
            tls,
            application_protocols: owned(protocols),
            ..ChainMatch::default()
        }
    }

    fn to(port: Option<u16>, ranges: &[(&str, u32)]) -> ChainMatch {
        let ranges = ranges
            .iter()
            .map(|(ip, bits)| Cidr::new(ip.parse().unwrap(), *bits).unwrap());
        ChainMatch {
            destination_port: port,
            prefix_ranges: ranges.collect(),
            ..ChainMatch::default()
        }
    }

    fn names(all: &[&[&str]]) -> Vec<ChainMatch> {
        all.iter()
            .map(|names| wanted(names, Some(true), &[]))
            .collect()
    }

    fn tls(name: Option<&str>, alpn: &[&str]) -> Greeting {
        Greeting {
            tls: true,
            server_name: name.map(Box::from),
            alpn: alpn.iter().map(|name| name.as_bytes().into()).collect(),
        }
    }

    #[test]
    fn the_most_specific_server_name_wins() {
        let all = names(&[
            &["*.example.com"],
            &["*.b.example.com"],
            &["a.b.example.com", "other.net"],
        ]);
        let lookup = ChainLookup::new(&all, INSPECT).unwrap();
        for (name, expected) in [
            (Some("a.b.example.com"), Some(2)),
            (Some("other.net"), Some(2)),
            (Some("c.b.example.com"), Some(1)),
            (Some("b.example.com"), Some(0)),
            (Some("x.y.example.com"), Some(0)),
            (Some("example.com"), None),
            (Some(".example.com"), None),
            (Some("xexample.com"), None),
            (Some("x.other.net"), None),
            (None, None),
        ] {
            assert_eq!(lookup.find(&tls(name, &[])), expected, "{name:?}");
        }
        let lookup = ChainLookup::new(&names(&[&[], &["a.net"]]), INSPECT).unwrap();
        for (name, expected) in [(None, 0), (Some("b.net"), 0), (Some("a.net"), 1)] {
            assert_eq!(lookup.find(&tls(name, &[])), Some(expected), "{name:?}");
        }
    }

    #[test]
    fn one_connection_gets_one_chain_only() {
        let twice = |index, name: &str| Some(MatchedTwice(index, name.to_owned()));
        let found = |all: &[ChainMatch]| ChainLookup::new(all, INSPECT).err();
        assert_eq!(found(&names(&[&["x.net"], &["x.net"]])), twice(1, "x.net"));
        assert_eq!(found(&names(&[&["*.net", "*.net"]])), twice(0, "*.net"));
        assert_eq!(found(&names(&[&[], &["x"], &[]])), twice(2, "*"));
        assert_eq!(found(&names(&[&["*.net"], &["x.net"]])), None);
        let istio = wanted(&[], Some(true), &["istio"]);
        assert_eq!(found(&[istio.clone(), istio]), twice(1, "*"));
    }

    #[test]
    fn transport_and_protocols_tell_chains_apart_without_a_way_back() {
        let all = [
            wanted(&[], Some(true), &["h2", "http/1.1"]),
            wanted(&[], Some(false), &[]),
        ];
        let lookup = ChainLookup::new(&all, INSPECT).unwrap();
        assert_eq!(lookup.find(&Greeting::default()), Some(1));
        assert_eq!(lookup.find(&tls(None, &["x", "http/1.1"])), Some(0));
        assert_eq!(lookup.find(&tls(None, &["x"])), None);
        assert_eq!(lookup.find(&tls(None, &[])), None);

        let all = [
            wanted(&[], Some(true), &["istio"]),
            wanted(&[], Some(false), &[]),
            wanted(&[], Some(true), &[]),
        ];
        let lookup = ChainLookup::new(&all, INSPECT).unwrap();
        assert_eq!(lookup.find(&tls(None, &["istio"])), Some(0));
        assert_eq!(lookup.find(&Greeting::default()), Some(1));
        assert_eq!(lookup.find(&tls(Some("x"), &["h2"])), Some(2));

        // As Envoy's: who asks for TLS takes it from who asks for nothing.
        let all = [wanted(&[], Some(true), &["istio"]), wanted(&[], None, &[])];
        let lookup = ChainLookup::new(&all, INSPECT).unwrap();
        assert_eq!(lookup.find(&tls(None, &["h2"])), None);
        assert_eq!(lookup.find(&Greeting::default()), Some(1));
    }

    #[test]
    fn the_destination_comes_first_and_the_longest_range_wins() {
        let all = [
            to(Some(15001), &[]),
            to(None, &[("10.0.0.0", 8)]),
            to(None, &[("10.1.0.0", 16), ("2001:2::", 48)]),
            to(Some(443), &[("10.1.0.0", 16)]),
        ];
        let lookup = ChainLookup::new(&all, None).unwrap();
        assert_eq!(lookup.inspect, None);
        for (destination, expected) in [
            (Some("1.2.3.4:15001"), Some(0)),
            (Some("10.9.9.9:80"), Some(1)),
            (Some("10.1.9.9:80"), Some(2)),
            (Some("[2001:2::9]:80"), Some(2)),
            (Some("10.1.9.9:443"), Some(3)),
            // As in Envoy: who asks for the port takes it from who asks for none.
            (Some("10.9.9.9:443"), None),
            (Some("11.0.0.1:80"), None),
            (None, None),
        ] {
            let to = destination.map(|to: &str| to.parse().unwrap());
            let found = lookup.find_for(&Greeting::default(), to);
            assert_eq!(found, expected, "{destination:?}");
            let or_else = lookup.clone().or_else(Some(7));
            let found = or_else.find_for(&Greeting::default(), to);
            assert_eq!(found, expected.or(Some(7)), "{destination:?}");
        }
        let twice = [
            to(Some(80), &[("10.0.0.0", 8)]),
            to(Some(80), &[("10.0.0.0", 8)]),
        ];
        assert!(ChainLookup::new(&twice, None).is_err());
    }

    #[test]
    fn what_was_detected_in_plain_text_leads_to_the_chain_that_names_it() {
        let http = wanted(&[], Some(false), &["http/1.1", "h2c"]);
        let lookup = ChainLookup::new(&[http], INSPECT).unwrap().or_else(Some(1));
        assert_eq!(lookup.find(&Greeting::plain(HTTP1)), Some(0));
        assert_eq!(lookup.find(&Greeting::plain(HTTP2)), Some(0));
        assert_eq!(lookup.find(&Greeting::plain(&[])), Some(1));
        assert_eq!(lookup.find(&tls(None, &["http/1.1"])), Some(1));
    }
}
