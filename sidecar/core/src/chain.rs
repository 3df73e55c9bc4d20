//! Which of a listener's filter chains a connection gets, by what its first bytes say.
//!
//! ```text
//! server name (exact, longest *.suffix, any) ──► TLS or not ──► application protocols (the client's first that is named)
//! ```
//! At each step the most specific match is taken, and nothing else is tried afterwards: a TLS connection whose
//! protocols no chain names does not fall back to a chain for everybody, if some chain asks for TLS.
//! Source: Envoy `FilterChainMatch`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{DownstreamTls, HttpSettings, RouteSource};

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
    /// In lower case, `*.suffix` too; none = any, and none at all.
    pub server_names: Vec<String>,
    /// TLS, or not.
    pub tls: Option<bool>,
    /// Of which the client offers one; none = any.
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
}

/// What a connection's first bytes say. Default: plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// They are those of TLS.
    pub tls: bool,
    /// In lower case.
    pub server_name: Option<Box<str>>,
    /// Application protocols that TLS offers, in order.
    pub alpn: Box<[Box<[u8]>]>,
}

/// All filter chains of a listener.
#[derive(Clone, Debug)]
pub struct FilterChains {
    chains: Vec<FilterChain>,
    lookup: Option<ChainLookup>,
}

/// Finds the number of a chain.
#[derive(Clone, Debug)]
pub struct ChainLookup {
    inspect: Inspect,
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
        }
    }

    /// Chains in the order that `lookup` was made of; without one, the first takes every connection.
    #[must_use]
    pub fn new(chains: Vec<FilterChain>, lookup: Option<ChainLookup>) -> Self {
        Self { chains, lookup }
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
        self.lookup.as_ref().map(|lookup| lookup.inspect)
    }

    /// The chain for a connection that begins with `greeting`.
    #[must_use]
    pub fn find(&self, greeting: &Greeting) -> Option<&FilterChain> {
        match &self.lookup {
            None => self.chains.first(),
            Some(lookup) => self.chains.get(lookup.find(greeting)?),
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
    pub fn new(matches: &[ChainMatch], inspect: Inspect) -> Result<Self, MatchedTwice> {
        let mut made = Self {
            inspect,
            exact: BTreeMap::new(),
            suffixes: BTreeMap::new(),
            any: Transports::default(),
        };
        for (index, wanted) in matches.iter().enumerate() {
            let twice = |name: &str| MatchedTwice(index, name.to_owned());
            if wanted.server_names.is_empty() {
                made.any.put(wanted, index).map_err(|()| twice("*"))?;
            }
            for name in &wanted.server_names {
                let (map, key) = match name.strip_prefix('*') {
                    Some(suffix) => (&mut made.suffixes, suffix),
                    None => (&mut made.exact, name.as_str()),
                };
                let place = map.entry(key.into()).or_default();
                place.put(wanted, index).map_err(|()| twice(name))?;
            }
        }
        Ok(made)
    }

    /// The index of the chain for a connection that begins with `greeting`.
    #[must_use]
    pub fn find(&self, greeting: &Greeting) -> Option<usize> {
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
    };

    fn wanted(names: &[&str], tls: Option<bool>, protocols: &[&str]) -> ChainMatch {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        ChainMatch {
            server_names: owned(names),
            tls,
            application_protocols: owned(protocols),
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
}
