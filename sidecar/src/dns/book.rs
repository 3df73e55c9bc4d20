//! The names that the mesh answers by itself, and what it answers. Filled by the xDS client, read by the DNS server.
//! Pure: it asks nobody.
//!
//! ```text
//! resource "orders"  ──► orders                                   (asked for by name)
//! resource "" or "h" ──► h.ns.svc.domain, h.ns.svc, h.ns, h, *.x  (sent as a whole)
//! name   ──► the first resource that has it ──► Record            address ──► host
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// What a name means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The whole name.
    pub(crate) host: String,
    pub(crate) v4: Vec<Ipv4Addr>,
    pub(crate) v6: Vec<Ipv6Addr>,
    /// By name; None = nobody said what ports it has.
    pub(crate) ports: Option<Vec<(String, u16)>>,
}

impl Record {
    /// The port that `_<port>._tcp.<host>` names.
    pub(crate) fn port(&self, wanted: &str) -> Option<u16> {
        let ports = self.ports.as_ref()?;
        let named = ports.iter().find(|(name, _)| name == wanted);
        let numbered = || ports.iter().find(|(_, port)| port.to_string() == wanted);
        named.or_else(numbered).map(|(_, port)| *port)
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().copied().map(IpAddr::from);
        v4.chain(self.v6.iter().copied().map(IpAddr::from))
    }
}

/// All names.
#[derive(Debug, Default)]
pub(crate) struct Book {
    resources: BTreeMap<Arc<str>, Given>,
    /// By resource, so that the same one wins in every sidecar.
    names: BTreeMap<String, BTreeMap<Arc<str>, Entry>>,
    hosts: BTreeMap<IpAddr, BTreeMap<Arc<str>, Arc<Record>>>,
}

/// What one resource gave.
#[derive(Debug, Default)]
struct Given {
    names: Vec<(String, Arc<Record>)>,
    used: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    used: Arc<AtomicBool>,
}

impl Book {
    /// Makes these the names of `resource`: lower-case, without a last dot. `*.` stands for any names before the rest.
    pub(crate) fn set(&mut self, resource: &str, names: Vec<(String, Arc<Record>)>) {
        if self
            .resources
            .get(resource)
            .is_some_and(|given| given.names == names)
        {
            return;
        }
        self.remove(resource);
        let resource: Arc<str> = resource.into();
        let used = Arc::new(AtomicBool::new(true));
        for (name, record) in &names {
            let entry = Entry {
                record: Arc::clone(record),
                used: Arc::clone(&used),
            };
            let of_name = self.names.entry(name.clone()).or_default();
            of_name.entry(Arc::clone(&resource)).or_insert(entry);
            for ip in record.addresses() {
                let of_ip = self.hosts.entry(ip).or_default();
                let first = of_ip.entry(Arc::clone(&resource));
                first.or_insert_with(|| Arc::clone(record));
            }
        }
        self.resources.insert(resource, Given { names, used });
    }

    pub(crate) fn remove(&mut self, resource: &str) {
        let Some(given) = self.resources.remove(resource) else {
            return;
        };
        for (name, record) in given.names {
            forget(&mut self.names, &name, resource);
            for ip in record.addresses() {
                forget(&mut self.hosts, &ip, resource);
            }
        }
    }

    /// What `name` (lower-case, without a last dot) means.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Record>> {
        let first = |name: &str| {
            let entry = self.names.get(name)?.values().next()?;
            entry.used.store(true, Relaxed);
            Some(Arc::clone(&entry.record))
        };
        if let Some(found) = first(name) {
            return Some(found);
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = first(&format!("*.{parent}")) {
                return Some(found);
            }
            rest = parent;
        }
        None
    }

    /// The host that has this address.
    pub(crate) fn host_of(&self, ip: IpAddr) -> Option<Arc<Record>> {
        self.hosts.get(&ip)?.values().next().cloned()
    }

    /// Whether a name of `resource` was looked up since the last call.
    pub(crate) fn take_used(&self, resource: &str) -> bool {
        let given = self.resources.get(resource);
        given.is_some_and(|given| given.used.swap(false, Relaxed))
    }

    /// Names and what they mean, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Arc<Record>)> {
        self.names.iter().filter_map(|(name, of_name)| {
            let entry = of_name.values().next()?;
            Some((name.as_str(), &entry.record))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

fn forget<K: Ord, V>(map: &mut BTreeMap<K, BTreeMap<Arc<str>, V>>, key: &K, resource: &str) {
    if let Some(of_key) = map.get_mut(key) {
        of_key.remove(resource);
        if of_key.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: &str, ip: &str) -> Arc<Record> {
        Arc::new(Record {
            host: host.to_owned(),
            v4: vec![ip.parse().unwrap()],
            ..Record::default()
        })
    }

    fn named(names: &[&str], record: &Arc<Record>) -> Vec<(String, Arc<Record>)> {
        let names = names.iter();
        names
            .map(|name| ((*name).to_owned(), Arc::clone(record)))
            .collect()
    }

    fn host(book: &Book, name: &str) -> Option<String> {
        book.find(name).map(|record| record.host.clone())
    }

    #[test]
    fn a_resource_is_replaced_as_a_whole_and_leaves_nothing_behind() {
        let mut book = Book::default();
        let before = record("orders.shop", "240.240.0.1");
        book.set("orders", named(&["orders", "orders.shop"], &before));
        let after = record("orders.shop", "240.240.0.2");
        book.set("orders", named(&["orders"], &after));
        assert_eq!(host(&book, "orders.shop"), None);
        assert_eq!(book.find("orders").unwrap().v4, after.v4);
        assert_eq!(book.host_of([240, 240, 0, 1].into()), None);
        book.remove("orders");
        assert_eq!(book.len(), 0);
        assert!(book.hosts.is_empty());
    }

    #[test]
    fn of_two_resources_with_one_name_the_first_by_name_has_it_whoever_came_first() {
        let mut book = Book::default();
        book.set("b", named(&["x"], &record("of-b", "240.240.0.2")));
        book.set("a", named(&["x"], &record("of-a", "240.240.0.2")));
        assert_eq!(host(&book, "x").as_deref(), Some("of-a"));
        assert_eq!(book.host_of([240, 240, 0, 2].into()).unwrap().host, "of-a");
        book.remove("a");
        assert_eq!(host(&book, "x").as_deref(), Some("of-b"));
    }

    #[test]
    fn a_wildcard_stands_for_all_that_has_no_name_of_its_own() {
        let mut book = Book::default();
        book.set(
            "w",
            named(&["*.example.com"], &record("any", "240.240.0.3")),
        );
        book.set(
            "o",
            named(&["own.example.com"], &record("own", "240.240.0.4")),
        );
        assert_eq!(host(&book, "a.b.example.com").as_deref(), Some("any"));
        assert_eq!(host(&book, "own.example.com").as_deref(), Some("own"));
        assert_eq!(host(&book, "example.com"), None);
    }

    #[test]
    fn what_was_looked_up_is_known_once() {
        let mut book = Book::default();
        book.set(
            "orders",
            named(&["orders"], &record("orders", "240.240.0.1")),
        );
        assert!(book.take_used("orders"), "it was asked for just now");
        assert!(!book.take_used("orders"));
        book.find("orders");
        assert!(book.take_used("orders"));
    }

    #[test]
    fn a_port_is_found_by_name_and_by_number() {
        let record = Record {
            ports: Some(vec![("http".to_owned(), 8080)]),
            ..Record::default()
        };
        assert_eq!(record.port("http"), Some(8080));
        assert_eq!(record.port("8080"), Some(8080));
        assert_eq!(record.port("08080"), None);
    }
}
