//! Whether what the documents refer to is there: subsets, hosts, ports, workloads.

mod effects;
mod security;
mod token;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    HostName, Mesh, MeshInput,
    merge::{Found, named, takes_all, takes_all_tcp},
};
use crate::{
    At, Code, DestinationPolicy, EgressHost, ExportTo, HttpAction, Kind, Object, ObjectKey,
    Position, RouteDestination, ServiceEntry, Sidecar, Spec, VirtualService, suggest::hint,
};

/// Unknown hosts for which a similar one is looked for: each costs a look at all that are known.
const MAX_HINTS: usize = 10;

pub(super) fn check(mesh: &Mesh, input: &MeshInput<'_>, found: &mut Found) {
    let mut checker = Checker {
        mesh,
        found,
        hints: 0,
    };
    let roots = roots(input.objects);
    for object in input.objects {
        match &object.spec {
            Spec::VirtualService(spec) => checker.virtual_service(object, spec, &roots),
            Spec::DestinationRule(spec) => checker.destination_rule(object, spec),
            Spec::DestinationPolicy(spec) => checker.destination_policy(object, spec),
            Spec::Sidecar(spec) => checker.sidecar(object, spec),
            Spec::PeerAuthentication(spec) => checker.peer_authentication(object, spec),
            Spec::AuthorizationPolicy(spec) => checker.authorization_policy(object, spec),
            Spec::ExtensionProvider(spec) => checker.extension_provider(object, spec),
            Spec::RequestAuthentication(spec) => checker.request_authentication(object, spec),
            Spec::ServiceEntry(_) | Spec::WorkloadEntry(_) => {}
        }
    }
    checker.workloads();
    checker.sidecars();
}

struct Checker<'a> {
    mesh: &'a Mesh,
    found: &'a mut Found,
    hints: usize,
}

/// A document that leads somewhere, and whose requests come to it.
#[derive(Clone, Copy)]
struct Origin<'a> {
    object: &'a Arc<Object>,
    /// Its own callers; of a delegate, those of each document that delegates to it.
    callers: &'a [Callers<'a>],
}

/// Whom a VirtualService with hosts is for.
#[derive(Clone, Copy)]
struct Callers<'a> {
    home: &'a str,
    export_to: &'a ExportTo,
}

/// Documents that delegate, by those that they name.
type Roots<'a> = BTreeMap<ObjectKey, Vec<Callers<'a>>>;

fn roots<'a>(objects: &'a [Arc<Object>]) -> Roots<'a> {
    let mut roots = Roots::new();
    for object in objects {
        let Spec::VirtualService(spec) = &object.spec else {
            continue;
        };
        for root in &spec.delegations {
            let delegate = ObjectKey {
                kind: Kind::VirtualService,
                namespace: root
                    .namespace
                    .as_ref()
                    .unwrap_or(&object.key.namespace)
                    .clone(),
                name: root.name.value.clone(),
            };
            roots.entry(delegate).or_default().push(Callers {
                home: &object.key.namespace,
                export_to: &spec.export_to,
            });
        }
    }
    roots
}

impl<'a> Origin<'a> {
    /// Namespaces whose workloads see it, as far as they are named: its own where it is for all.
    fn clients(self) -> BTreeSet<&'a str> {
        let named = self.callers.iter().flat_map(|callers| {
            let (own, only) = match callers.export_to {
                ExportTo::All => (Some(callers.home), None),
                ExportTo::Only(names) => (None, Some(names.iter().map(String::as_str))),
            };
            own.into_iter().chain(only.into_iter().flatten())
        });
        named.collect()
    }

    /// Whether it is for every namespace there is.
    fn is_for_all(self) -> bool {
        let mut callers = self.callers.iter();
        callers.any(|callers| *callers.export_to == ExportTo::All)
    }
}

impl Checker<'_> {
    fn virtual_service(&mut self, object: &Arc<Object>, spec: &VirtualService, roots: &Roots<'_>) {
        let own = [Callers {
            home: &object.key.namespace,
            export_to: &spec.export_to,
        }];
        // Without hosts, exportTo says who may delegate, not who calls.
        let callers = match roots.get(&object.key) {
            Some(roots) if spec.hosts.is_empty() => roots.as_slice(),
            _ if spec.hosts.is_empty() => &[],
            _ => &own,
        };
        let from = Origin { object, callers };
        for (index, rule) in spec.rules() {
            self.retries(
                object,
                rule.retries.as_ref(),
                &format!("spec.http[{index}]"),
            );
            if let HttpAction::Route(destinations) = &rule.action {
                for (number, to) in destinations.iter().enumerate() {
                    let path = format!("spec.http[{index}].route[{number}].destination");
                    self.destination(from, (&to.host, to.subset.as_ref(), to.port), &path);
                }
            }
            for to in &rule.mirrors {
                let path = format!("spec.http[{index}].{}", to.path);
                self.destination(from, (&to.host, to.subset.as_ref(), to.port), &path);
            }
        }
        for rule in &spec.delegations {
            let path = format!("spec.http[{}]", rule.index);
            self.retries(object, rule.settings.retries.as_ref(), &path);
            for to in &rule.settings.mirrors {
                let path = format!("spec.http[{}].{}", rule.index, to.path);
                self.destination(from, (&to.host, to.subset.as_ref(), to.port), &path);
            }
        }
        for (index, rule) in spec.tls.iter().enumerate() {
            let path = format!("spec.tls[{index}]");
            self.connections(from, &rule.route, &path);
            let matches = rule.matches.iter().map(|one| &one.common);
            self.subnets(object, matches, &rule.position, &path);
        }
        for (index, rule) in spec.tcp.iter().enumerate() {
            let path = format!("spec.tcp[{index}]");
            self.connections(from, &rule.route, &path);
            self.subnets(object, rule.matches.iter(), &rule.position, &path);
        }
        self.never_tried(object, spec);
    }

    fn connections(&mut self, from: Origin<'_>, route: &[RouteDestination], rule: &str) {
        for (number, to) in route.iter().enumerate() {
            let path = format!("{rule}.route[{number}].destination");
            self.destination(from, (&to.host, to.subset.as_ref(), to.port), &path);
        }
    }

    /// Rules behind one that takes everything.
    fn never_tried(&mut self, object: &Object, spec: &VirtualService) {
        let own = spec
            .rules()
            .map(|(index, rule)| (index, &rule.position, takes_all(rule)));
        // What is left of everything is the delegate's decision.
        let delegated = spec
            .delegations
            .iter()
            .map(|rule| (rule.index, &rule.settings.position, false));
        let mut http: Vec<(usize, &Position, bool)> = own.chain(delegated).collect();
        http.sort_by_key(|(index, ..)| *index);
        self.behind(object, "http", "request", &http);
        let tcp = spec.tcp.iter().enumerate();
        let tcp: Vec<(usize, &Position, bool)> = tcp
            .map(|(index, rule)| (index, &rule.position, takes_all_tcp(rule)))
            .collect();
        self.behind(object, "tcp", "connection", &tcp);
    }

    fn behind(
        &mut self,
        object: &Object,
        list: &str,
        what: &str,
        rules: &[(usize, &Position, bool)],
    ) {
        let mut rules = rules.iter();
        let Some((_, taker, _)) = rules.find(|(.., takes_all)| *takes_all) else {
            return;
        };
        for (index, position, _) in rules {
            let message = format!(
                "is never tried: the rule in line {} takes every {what}; put this one before it",
                taker.line
            );
            let path = format!("spec.{list}[{index}]");
            self.found
                .warn(Code::AfterCatchAll, object, position, path, message);
        }
    }

    fn destination(
        &mut self,
        from: Origin<'_>,
        (written, subset, port): (&At<String>, Option<&At<String>>, Option<u16>),
        path: &str,
    ) {
        let object = from.object;
        self.known(object, written, &format!("{path}.host"));
        let host = self.mesh.host(&written.value, &object.key.namespace);
        if let Some(subset) = subset {
            self.subset(from, &host, subset, &format!("{path}.subset"));
        }
        if let Some(port) = port {
            let path = format!("{path}.port.number");
            self.port((Code::UnknownPort, object), &host, port, written, &path);
        }
    }

    fn destination_policy(&mut self, object: &Arc<Object>, spec: &DestinationPolicy) {
        self.known(object, &spec.host, "spec.host");
        self.beside_rules(object, spec);
        let host = self.mesh.host(&spec.host.value, &object.key.namespace);
        let Some(subset) = &spec.subset else {
            return;
        };
        let defined = |name: &str| {
            let mut rules = self.mesh.destination_rules_of(&host);
            rules.any(|merged| merged.rule.subset(name).is_some())
        };
        if !defined(&subset.value) {
            self.unknown_subset(object, &host, subset, "spec.subset");
        }
    }

    /// A subset that no rule defines is refused; so is one that the rule of a client lacks whose namespace is known.
    fn subset(&mut self, from: Origin<'_>, host: &HostName, subset: &At<String>, path: &str) {
        let name = subset.value.as_str();
        let object = from.object;
        let mut rules = self.mesh.destination_rules_of(host);
        if !rules.any(|merged| merged.rule.subset(name).is_some()) {
            drop(rules);
            return self.unknown_subset(object, host, subset, path);
        }
        drop(rules);
        for client in from.clients() {
            if self.mesh.has_subset(host, name, client) {
                continue;
            }
            let message = format!(
                "clients of {client} have no subset {name:?} of {host}: no DestinationRule that they see defines it; \
                 look at its exportTo, or define it in {client}"
            );
            let code = Code::UnknownSubset;
            self.found
                .error(code, object, &subset.position, path, message);
        }
        if !from.is_for_all() {
            return;
        }
        let clients = from.clients();
        let code = Code::SubsetNotForAll;
        for client in self.mesh.namespaces_with_rules(host) {
            if clients.contains(client) || self.mesh.has_subset(host, name, client) {
                continue;
            }
            let message = if self.mesh.has_rule_of(host, client) {
                format!(
                    "clients of {client} have no subset {name:?} of {host}: a DestinationRule of {client} holds for them and \
                     does not define it; define it there too, or leave {client} out of exportTo"
                )
            } else {
                format!(
                    "clients of {client} have no subset {name:?} of {host}, though its DestinationRule stands there: it is \
                     not exported to its own namespace; look at its exportTo"
                )
            };
            self.found
                .warn(code, object, &subset.position, path, message);
        }
        // A namespace without documents has no name of its own here.
        if !self.mesh.has_subset(host, name, "") {
            let message = format!(
                "clients of other namespaces than {} have no subset {name:?} of {host}, and this rule is for them, too: their \
                 requests get 503; export the DestinationRule that defines it to all (one of a third namespace is for its \
                 own clients alone), or this document to those that have it",
                list(self.mesh.clients_with_subset(host, name))
            );
            self.found
                .warn(code, object, &subset.position, path, message);
        }
    }

    fn unknown_subset(
        &mut self,
        object: &Arc<Object>,
        host: &HostName,
        subset: &At<String>,
        path: &str,
    ) {
        let name = subset.value.as_str();
        let code = Code::UnknownSubset;
        let rules: Vec<_> = self.mesh.destination_rules_of(host).collect();
        if rules.is_empty() {
            let message = format!(
                "unknown subset {name:?}: no DestinationRule defines subsets of {host}; apply one \
                 together with this document"
            );
            return self
                .found
                .error(code, object, &subset.position, path, message);
        }
        let mut known: Vec<&str> = rules
            .iter()
            .flat_map(|merged| &merged.rule.subsets)
            .map(|subset| subset.name.value.as_str())
            .collect();
        known.sort_unstable();
        known.dedup();
        let list = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        let newer = rules
            .iter()
            .flat_map(|merged| &merged.sources)
            .filter(|rule| self.found.newer(rule, object));
        if let Some(rule) = newer.reduce(|a, b| if self.found.newer(b, a) { b } else { a }) {
            let message = format!(
                "{host} would be left without the subset {name:?}, to which {} routes at {}; it has {list}",
                object.key, subset.position
            );
            let Spec::DestinationRule(spec) = &rule.spec else {
                return;
            };
            let place = &spec.host.position;
            let code = Code::SubsetTakenAway;
            return self.found.error(code, rule, place, "spec.subsets", message);
        }
        let message = format!(
            "unknown subset {name:?} of {host}, which has {list}{}",
            hint(name, known)
        );
        self.found
            .error(code, object, &subset.position, path, message);
    }

    /// Ports of registered instances are not known here: only what ServiceEntries alone define.
    fn port(
        &mut self,
        (code, object): (Code, &Object),
        host: &HostName,
        port: u16,
        to: &At<String>,
        path: &str,
    ) {
        let Some(entries) = self.mesh.service_entries.get(host) else {
            return;
        };
        let ports = || entries.iter().flat_map(|(_, entry)| &entry.ports);
        if self.mesh.names.is_registered(host) || ports().any(|known| known.number == port) {
            return;
        }
        let mut list: Vec<u16> = ports().map(|port| port.number).collect();
        list.sort_unstable();
        list.dedup();
        let list: Vec<String> = list.iter().map(u16::to_string).collect();
        let message = format!("{host} has no port {port}; it has {}", list.join(", "));
        self.found.warn(code, object, &to.position, path, message);
    }

    /// Warns about a host that neither a registration nor a ServiceEntry knows.
    fn known(&mut self, object: &Object, written: &At<String>, path: &str) {
        let host = self.mesh.host(&written.value, &object.key.namespace);
        if host.is_wildcard() || self.mesh.knows(&host) {
            return;
        }
        self.hints += 1;
        let near = if self.hints <= MAX_HINTS {
            let near = self.mesh.served_like(&host);
            near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
        } else {
            String::new()
        };
        let message = format!(
            "nobody serves {host} yet: no instance has registered, and no ServiceEntry names it{near}"
        );
        let code = Code::UnknownHost;
        self.found
            .warn(code, object, &written.position, path, message);
    }

    fn sidecar(&mut self, object: &Arc<Object>, spec: &Sidecar) {
        for (index, listener) in spec.egress.iter().enumerate() {
            for (number, host) in listener.hosts.iter().enumerate() {
                let path = format!("spec.egress[{index}].hosts[{number}]");
                self.egress_host(object, host, &path);
            }
        }
    }

    fn egress_host(&mut self, object: &Object, pattern: &At<EgressHost>, path: &str) {
        let EgressHost { namespace, host } = &pattern.value;
        if namespace == "~" || host.starts_with('*') {
            return;
        }
        let own = object.key.namespace.as_str();
        let home = if namespace == "." || namespace == "*" {
            own
        } else {
            namespace
        };
        let canonical = self.mesh.host(host, home);
        let (code, message) = if !self.mesh.knows(&canonical) {
            let message = format!(
                "nobody serves {canonical} yet: no instance has registered, and no ServiceEntry names it"
            );
            (Code::EgressHostUnknown, message)
        } else if !self.mesh.admits(own, &pattern.value, &canonical) {
            let message = format!("{canonical} is not in the namespace {home}; write */{host}");
            (Code::EgressOtherNamespace, message)
        } else {
            return;
        };
        self.found
            .warn(code, object, &pattern.position, path, message);
    }

    /// A WorkloadEntry that no service selects gets no traffic.
    fn workloads(&mut self) {
        let mut selecting: BTreeMap<&str, Vec<&ServiceEntry>> = BTreeMap::new();
        for (object, entry) in self.mesh.service_entries.values().flatten() {
            if entry.workload_selector.is_some() {
                selecting
                    .entry(&object.key.namespace)
                    .or_default()
                    .push(entry);
            }
        }
        for (key, (object, workload)) in &self.mesh.workload_entries {
            let entries = selecting.get(key.namespace.as_str());
            let selected = entries
                .into_iter()
                .flatten()
                .any(|entry| entry.selects(&workload.labels));
            if !selected {
                let message = format!(
                    "gets no traffic: no ServiceEntry of the namespace {} selects its labels",
                    key.namespace
                );
                let (code, place) = (Code::WorkloadUnselected, &workload.address.position);
                self.found.warn(code, object, place, "spec.labels", message);
            }
        }
    }

    /// Two Sidecars for one workload: refused if they are for the same workloads, remarked upon if one
    /// workload could have the labels of both. True if something was said.
    fn sidecars(&mut self) {
        let mut by_namespace: BTreeMap<&str, Vec<&(Arc<Object>, Sidecar)>> = BTreeMap::new();
        for (key, entry) in &self.mesh.sidecars {
            by_namespace.entry(&key.namespace).or_default().push(entry);
        }
        for entries in by_namespace.values() {
            for (index, a) in entries.iter().enumerate() {
                for b in entries.iter().skip(index + 1) {
                    // One remark each: with many selectors there could be a million pairs.
                    if self.two_sidecars(a, b) {
                        break;
                    }
                }
            }
        }
    }

    fn two_sidecars(&mut self, a: &(Arc<Object>, Sidecar), b: &(Arc<Object>, Sidecar)) -> bool {
        let (newest, oldest) = if self.found.newer(&a.0, &b.0) {
            (a, b)
        } else {
            (b, a)
        };
        let (object, position) = (&newest.0, &newest.0.position);
        let path = "spec.workloadSelector";
        match (&a.1.workload_selector, &b.1.workload_selector) {
            (None, None) => {
                let message = format!(
                    "is for every workload of the namespace, and so is {}; give one a selector",
                    named(&oldest.0)
                );
                self.found
                    .error(Code::SameSidecars, object, position, path, message);
            }
            (Some(x), Some(y)) if x == y => {
                let message = format!(
                    "selects the same workloads as {}; keep one of them",
                    named(&oldest.0)
                );
                self.found
                    .error(Code::SameSidecars, object, position, path, message);
            }
            (Some(x), Some(y)) if x.iter().all(|(k, v)| y.get(k).is_none_or(|w| v == w)) => {
                let message = format!(
                    "may select the same workload as {}; {} would then win by its name",
                    named(&oldest.0),
                    a.0.key
                );
                let code = Code::OverlappingSidecars;
                self.found.warn(code, object, position, path, message);
            }
            _ => return false,
        }
        true
    }
}

/// `a, b`.
fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    names.join(", ")
}
