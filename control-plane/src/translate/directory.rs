//! What is known of all hosts but their endpoints, and which of them an address belongs to. It lives until a policy, a
//! port or an address changes.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use outrigger_policy::{HostName, Subnet};

use super::hosts::{Facts, Hosts};

/// All hosts.
#[derive(Debug, Default)]
pub(super) struct Directory {
    hosts: BTreeMap<HostName, Facts>,
    /// Whose each single address is: of several the first by name.
    by_address: BTreeMap<IpAddr, HostName>,
}

impl Directory {
    /// Of `hosts`.
    pub(super) fn of(hosts: &Hosts) -> Self {
        let hosts: BTreeMap<_, _> = hosts
            .iter()
            .map(|(name, host)| (name.clone(), host.facts.clone()))
            .collect();
        let mut by_address = BTreeMap::new();
        for (name, facts) in &hosts {
            for address in facts.addresses.iter().filter_map(Subnet::single) {
                if let Entry::Vacant(free) = by_address.entry(address) {
                    free.insert(name.clone());
                }
            }
        }
        Self { hosts, by_address }
    }

    pub(super) fn get(&self, host: &HostName) -> Option<&Facts> {
        self.hosts.get(host)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&HostName, &Facts)> {
        self.hosts.iter()
    }

    /// The host that has this address.
    pub(super) fn at(&self, address: IpAddr) -> Option<(&HostName, &Facts)> {
        self.hosts.get_key_value(self.by_address.get(&address)?)
    }

    /// The addresses by which a host is found: those that are nobody else's.
    pub(super) fn addresses_of(&self, host: &HostName) -> impl Iterator<Item = IpAddr> {
        let facts = self.hosts.get(host).into_iter();
        let all = facts.flat_map(|facts| facts.addresses.iter().filter_map(Subnet::single));
        all.filter(move |address| self.by_address.get(address) == Some(host))
    }
}
