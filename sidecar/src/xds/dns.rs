//! Names that clusters (STRICT_DNS, LOGICAL_DNS) stand for: when each is to be looked up, and what it last meant. Looks
//! nothing up itself; knows time only as an argument.
//!
//! ```text
//! due ──take_due──► in flight ──addresses──► due after the refresh rate
//!  ▲                    └──────failure──► the last good stays; due after the failure rate, doubling up to its cap
//! ```
//! Source: Envoy's service discovery (strict and logical DNS) for the meaning of each setting.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use outrigger_core::EndpointConfig;
use tokio::time::Instant;

/// Of one name; more are left out.
const MAX_ADDRESSES: usize = 1_000;

/// Endpoints that are names.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DnsSource {
    /// One endpoint, at the first address (LOGICAL_DNS); else one at each address (STRICT_DNS).
    pub(crate) logical: bool,
    pub(crate) family: Family,
    pub(crate) pace: Pace,
    pub(crate) hosts: Vec<NamedEndpoint>,
}

/// An endpoint whose address may be yet to be found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NamedEndpoint {
    /// None = the address is there already.
    pub(crate) name: Option<String>,
    /// With the port.
    pub(crate) config: EndpointConfig,
}

/// Which addresses count; Envoy's `DnsLookupFamily`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Of the sixth version, or of the fourth if there are none.
    Auto,
    V4,
    V6,
    V4Preferred,
    All,
}

/// How often a name is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pace {
    pub(crate) refresh: Duration,
    /// After a failure, doubling up to the next.
    pub(crate) failure: Duration,
    pub(crate) failure_cap: Duration,
}

/// All names in use.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<String, Name>);

#[derive(Debug)]
struct Name {
    pace: Pace,
    due: Due,
    failures: u32,
    /// Looked up at least once, whatever came of it.
    tried: bool,
    /// The last good.
    addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    At(Instant),
    InFlight,
}

impl DnsSource {
    /// Its endpoints; None while a name has not been looked up at all.
    pub(crate) fn endpoints(&self, names: &Names) -> Option<Vec<EndpointConfig>> {
        let mut endpoints: Vec<EndpointConfig> = Vec::with_capacity(self.hosts.len());
        let mut add = |config: &EndpointConfig, ip: IpAddr| {
            let address = SocketAddr::new(ip, config.address.port());
            // Two names may lead to one place.
            if !endpoints.iter().any(|known| known.address == address) {
                endpoints.push(EndpointConfig {
                    address,
                    ..config.clone()
                });
            }
        };
        for host in &self.hosts {
            let Some(name) = &host.name else {
                add(&host.config, host.config.address.ip());
                continue;
            };
            let known = names.0.get(name).filter(|known| known.tried)?;
            let addresses = self.family.of(&known.addresses);
            let most = if self.logical { 1 } else { MAX_ADDRESSES };
            for ip in addresses.into_iter().take(most) {
                add(&host.config, ip);
            }
        }
        Some(endpoints)
    }

    /// The names to look up.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter_map(|host| host.name.as_deref())
    }
}

impl Family {
    fn of(self, all: &[IpAddr]) -> Vec<IpAddr> {
        let only = |v4: bool| -> Vec<IpAddr> {
            all.iter()
                .filter(|ip| ip.is_ipv4() == v4)
                .copied()
                .collect()
        };
        let or = |first: Vec<IpAddr>, second: bool| {
            if first.is_empty() {
                only(second)
            } else {
                first
            }
        };
        match self {
            Self::All => all.to_vec(),
            Self::V4 => only(true),
            Self::V6 => only(false),
            Self::V4Preferred => or(only(true), false),
            Self::Auto => or(only(false), true),
        }
    }
}

impl Names {
    /// Makes these the names in use.
    pub(crate) fn want(&mut self, wanted: &BTreeMap<&str, Pace>) {
        self.0.retain(|name, _| wanted.contains_key(name.as_str()));
        for (name, pace) in wanted {
            let fresh = || Name {
                pace: *pace,
                due: Due::Now,
                failures: 0,
                tried: false,
                addresses: Vec::new(),
            };
            let name = self.0.entry((*name).to_owned()).or_insert_with(fresh);
            name.pace = *pace;
        }
    }

    /// Names to be looked up now, at most so many; each is to be answered with [`Self::found`].
    pub(crate) fn take_due(&mut self, now: Instant, most: usize) -> Vec<String> {
        let due = self.0.iter_mut().filter(|(_, name)| match name.due {
            Due::Now => true,
            Due::At(at) => at <= now,
            Due::InFlight => false,
        });
        due.take(most)
            .map(|(text, name)| {
                name.due = Due::InFlight;
                text.clone()
            })
            .collect()
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = self.0.values().filter_map(|name| match name.due {
            Due::Now => Some(now),
            Due::At(at) => Some(at),
            Due::InFlight => None,
        });
        due.min()
    }

    /// Whether a name has not been looked up yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.values().any(|name| !name.tried)
    }

    /// What a look-up gave. True if endpoints may have changed.
    pub(crate) fn found(
        &mut self,
        name: &str,
        result: Result<Vec<IpAddr>, String>,
        now: Instant,
    ) -> bool {
        let Some(entry) = self.0.get_mut(name) else {
            return false;
        };
        let was_tried = std::mem::replace(&mut entry.tried, true);
        let found = result.and_then(|found| match found.is_empty() {
            true => Err("it has no address".to_owned()),
            false => Ok(found),
        });
        match found {
            Ok(found) => {
                entry.failures = 0;
                entry.due = Due::At(now + entry.pace.refresh);
                let next = in_order(&entry.addresses, found);
                let changed = next != entry.addresses;
                entry.addresses = next;
                changed || !was_tried
            }
            Err(error) => {
                if entry.failures == 0 {
                    tracing::warn!(%name, %error, goes_on = !entry.addresses.is_empty(), "name cannot be looked up");
                }
                let doubled = 2u32.saturating_pow(entry.failures.min(16));
                let wait = entry.pace.failure.saturating_mul(doubled);
                entry.failures = entry.failures.saturating_add(1);
                entry.due = Due::At(now + wait.min(entry.pace.failure_cap));
                !was_tried
            }
        }
    }
}

/// The same set in the same order; the first stays first while it is there, as servers shuffle their answers.
fn in_order(before: &[IpAddr], mut found: Vec<IpAddr>) -> Vec<IpAddr> {
    found.truncate(MAX_ADDRESSES);
    let first = before.first().filter(|first| found.contains(first));
    let first = first.or_else(|| found.first()).copied();
    found.sort_unstable();
    found.dedup();
    found.retain(|ip| Some(*ip) != first);
    first.into_iter().chain(found).collect()
}

#[cfg(test)]
mod tests;
