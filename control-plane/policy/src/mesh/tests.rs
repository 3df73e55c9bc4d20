mod clients;
mod delegates;
mod effects;
mod property;
mod security;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{HostName, HttpAction, Mesh, MeshInput, Object, ParseLimits, Position, Spec, parse};

/// Documents in the order of their application, and hosts that have registered.
#[derive(Default)]
struct World {
    objects: Vec<Arc<Object>>,
    registered: BTreeSet<HostName>,
}

impl World {
    /// Applies a file of documents whose namespace is `shop` unless they say so.
    fn with(mut self, file: &str, text: &str) -> Self {
        let objects = parse(file, text, "shop", &ParseLimits::default()).expect(file);
        self.objects.extend(objects.into_iter().map(Arc::new));
        self
    }

    /// A short document: kind, namespace/name and spec, of which the latter starts at 4:7.
    fn apply(self, file: &str, kind: &str, name: &str, spec: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
        let version = match kind {
            "DestinationPolicy" | "ExtensionProvider" => "outrigger.dev/v1",
            "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => {
                "security.istio.io/v1"
            }
            _ => "networking.istio.io/v1",
        };
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        );
        self.with(file, &text)
    }

    fn registered(mut self, hosts: &[&str]) -> Self {
        self.registered.extend(hosts.iter().map(|host| name(host)));
        self
    }

    fn build(&self) -> (Mesh, Vec<String>) {
        let (mesh, diagnostics) = Mesh::build(&MeshInput {
            objects: &self.objects,
            domain: "cluster.local",
            root_namespace: "istio-system",
            registered: &self.registered,
        });
        let drawn = diagnostics.iter().map(|d| format!("{:?} {d}", d.severity));
        (mesh, drawn.collect())
    }

    fn diagnostics(&self) -> Vec<String> {
        self.build().1
    }

    fn mesh(&self) -> Mesh {
        let (mesh, diagnostics) = self.build();
        assert_eq!(diagnostics, Vec::<String>::new());
        mesh
    }
}

fn world() -> World {
    World::default()
}

/// In the namespace shop.
fn name(host: &str) -> HostName {
    HostName::canonical(host, "shop", "cluster.local")
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

const TO_A: &str = "route: [{destination: {host: a}}]";

fn rules(mesh: &Mesh, host: &str) -> Vec<String> {
    let rules = &mesh.virtual_services[&name(host)].http;
    rules
        .iter()
        .map(|(object, rule)| {
            let name = rule.name.as_deref().unwrap_or("-");
            format!("{}:{name}", object.key.name)
        })
        .collect()
}

#[test]
fn a_short_name_belongs_to_its_namespace() {
    let mesh = world()
        .registered(&["a", "b.other.svc.cluster.local", "b.literal"])
        .mesh();
    for (written, expected) in [
        ("a", "a.shop.svc.cluster.local"),
        ("A.", "a.shop.svc.cluster.local"),
        ("b.other", "b.other.svc.cluster.local"),
        ("b.other.svc", "b.other.svc.cluster.local"),
        ("b.other.svc.cluster.local", "b.other.svc.cluster.local"),
        ("b.unknown", "b.unknown"),
        ("b.literal", "b.literal"),
        ("api.example.com", "api.example.com"),
        ("*.other", "*.other"),
    ] {
        assert_eq!(mesh.host(written, "shop").as_str(), expected, "{written}");
    }
}

#[test]
fn a_name_of_the_outside_stays_as_it_is_written_whatever_namespaces_there_are() {
    let entry = "{hosts: [pkg.dev], ports: [{number: 443, name: tls, protocol: TLS}], resolution: STATIC, endpoints: \
                 [{address: 10.0.0.1}]}";
    let rule = "{host: PKG.dev., trafficPolicy: {tls: {mode: SIMPLE}}}";
    let mesh = world()
        .apply("e", "ServiceEntry", "pkg", entry)
        .apply("r", "DestinationRule", "pkg", rule)
        .apply("s", "Sidecar", "dev/other", "{egress: [{hosts: ['./*']}]}")
        .registered(&["a.dev.svc.cluster.local"])
        .mesh();
    assert_eq!(mesh.host("pkg.dev", "shop").as_str(), "pkg.dev");
    assert_eq!(
        mesh.host("a.dev", "shop").as_str(),
        "a.dev.svc.cluster.local"
    );
    let host = mesh.host("pkg.dev", "shop");
    assert!(mesh.destination_rule(&host).is_some());
}

#[test]
fn a_typing_error_is_looked_for_in_the_name_not_in_what_all_names_end_with() {
    let to = |host: &str| {
        let spec =
            format!("{{hosts: [a], http: [{{route: [{{destination: {{host: {host}}}}}]}}]}}");
        let world = world().registered(&["a", "reviews.prod.svc.cluster.local"]);
        world
            .apply("f", "VirtualService", "x", &spec)
            .diagnostics()
            .join("\n")
    };
    assert!(!to("orders").contains("did you mean"), "{}", to("orders"));
    let near = to("review.prod.svc.cluster.local");
    assert!(
        near.contains("did you mean \"reviews.prod.svc.cluster.local\"?"),
        "{near}"
    );
}

#[test]
fn the_operators_canary_needs_its_subsets() {
    let service = include_str!("../../testdata/header-canary.yaml");
    let rule = include_str!("../../testdata/least-conn.yaml");
    let hosts = ["product-service"];
    let alone = world()
        .with("vs.yaml", service)
        .registered(&hosts)
        .diagnostics();
    assert_eq!(alone.len(), 3);
    assert_eq!(
        alone[0],
        "Error vs.yaml:17:17: spec.http[0].route[0].destination.subset: unknown subset \"v2\": no \
         DestinationRule defines subsets of product-service.shop.svc.cluster.local; apply one together \
         with this document"
    );
    world()
        .with("vs.yaml", service)
        .with("dr.yaml", rule)
        .registered(&hosts)
        .mesh();
}

#[test]
fn an_unknown_subset_names_those_that_there_are() {
    let world = world()
        .registered(&["a"])
        .apply(
            "dr",
            "DestinationRule",
            "a",
            "{host: a, subsets: [{name: v1}, {name: v2}]}",
        )
        .apply(
            "vs",
            "VirtualService",
            "a",
            "{hosts: [a], http: [{route: [{destination: {host: a, subset: v11}}]}]}",
        );
    assert_eq!(
        world.diagnostics(),
        [
            "Error vs:4:68: spec.http[0].route[0].destination.subset: unknown subset \"v11\" of \
         a.shop.svc.cluster.local, which has v1, v2; did you mean \"v1\"?"
        ]
    );
}

#[test]
fn taking_a_subset_away_is_the_newer_rules_error() {
    let world = world()
        .registered(&["a"])
        .apply(
            "vs",
            "VirtualService",
            "a",
            "{hosts: [a], http: [{route: [{destination: {host: a, subset: v1}}]}]}",
        )
        .apply(
            "dr",
            "DestinationRule",
            "a",
            "{host: a, subsets: [{name: v2}]}",
        );
    assert_eq!(
        world.diagnostics(),
        [
            "Error dr:4:14: spec.subsets: a.shop.svc.cluster.local would be left without the subset \"v1\", to \
         which VirtualService shop/a routes at vs:4:68; it has v2"
        ]
    );
}

#[test]
fn a_host_that_nobody_serves_is_only_remarked_upon() {
    let world = world()
        .registered(&["orders"])
        .apply(
            "vs",
            "VirtualService",
            "a",
            "{hosts: [b], http: [{route: [{destination: {host: order}}]}]}",
        )
        .apply("dr", "DestinationRule", "a", "{host: nothing.like.it}")
        .apply(
            "sc",
            "Sidecar",
            "a",
            "{egress: [{hosts: [./orders, ./order, '*/*', other/orders.shop.svc.cluster.local]}]}",
        );
    assert_eq!(
        world.diagnostics(),
        [
            "Warning dr:4:14: spec.host: nobody serves nothing.like.it yet: no instance has registered, and no \
         ServiceEntry names it",
            "Warning sc:4:36: spec.egress[0].hosts[1]: nobody serves order.shop.svc.cluster.local yet: no \
         instance has registered, and no ServiceEntry names it",
            "Warning sc:4:52: spec.egress[0].hosts[3]: orders.shop.svc.cluster.local is not in the namespace \
         other; write */orders.shop.svc.cluster.local",
            "Warning vs:4:57: spec.http[0].route[0].destination.host: nobody serves \
         order.shop.svc.cluster.local yet: no instance has registered, and no ServiceEntry names it; did \
         you mean \"orders.shop.svc.cluster.local\"?",
        ]
    );
}

#[test]
fn a_port_that_no_entry_has_is_remarked_upon() {
    let world = world()
        .apply(
            "se",
            "ServiceEntry",
            "a",
            "{hosts: [a], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}]}",
        )
        .apply(
            "vs",
            "VirtualService",
            "a",
            "{hosts: [a], http: [{route: [{destination: {host: a, port: {number: 81}}}]}]}",
        );
    assert_eq!(
        world.diagnostics(),
        [
            "Warning vs:4:57: spec.http[0].route[0].destination.port.number: a.shop.svc.cluster.local has no \
         port 81; it has 80"
        ]
    );
}

#[test]
fn rules_of_several_documents_are_tried_by_name_the_catch_all_last() {
    let matched = |name: &str| {
        format!(
            "{{hosts: [a], http: [{{name: {name}, match: [{{uri: {{prefix: /{name}}}}}], {TO_A}}}]}}"
        )
    };
    let base = format!(
        "{{hosts: [a.shop], http: [{{name: x, match: [{{port: 1}}], {TO_A}}}, {{name: w, {TO_A}}}]}}"
    );
    let world = world()
        .registered(&["a"])
        .apply("1", "VirtualService", "z", &matched("z"))
        .apply("2", "VirtualService", "a-base", &base)
        .apply("3", "VirtualService", "m", &matched("m"));
    assert_eq!(
        rules(&world.mesh(), "a"),
        ["m:m", "z:z", "a-base:x", "a-base:w"]
    );
    let mut reversed = world;
    reversed.objects.reverse();
    assert_eq!(
        rules(&reversed.mesh(), "a"),
        ["m:m", "z:z", "a-base:x", "a-base:w"]
    );
}

#[test]
fn two_documents_that_take_every_request_contradict_each_other() {
    let all = format!("{{hosts: [a], http: [{{{TO_A}}}]}}");
    let root = format!("{{hosts: [a], http: [{{match: [{{uri: {{prefix: /}}}}], {TO_A}}}]}}");
    let world = world()
        .registered(&["a"])
        .apply("new-name-first", "VirtualService", "z", &all)
        .apply("newest", "VirtualService", "a", &root);
    let (mesh, diagnostics) = world.build();
    assert_eq!(
        diagnostics,
        [
            "Error newest:4:27: spec.http[0]: takes every request to a.shop.svc.cluster.local, and so does \
         VirtualService shop/z (new-name-first:1:1); give one a match, or put both into one document"
        ]
    );
    assert_eq!(rules(&mesh, "a"), ["z:-"], "the older one stays in force");
}

#[test]
fn a_rule_behind_a_catch_all_is_remarked_upon() {
    let spec = format!("{{hosts: [a], http: [{{{TO_A}}}, {{match: [{{port: 1}}], {TO_A}}}]}}");
    let world = world()
        .registered(&["a"])
        .apply("vs", "VirtualService", "a", &spec);
    assert_eq!(
        world.diagnostics(),
        [
            "Warning vs:4:64: spec.http[1]: is never tried: the rule in line 4 takes every request; put this one \
         before it"
        ]
    );
}

#[test]
fn destination_rules_for_one_host_add_their_subsets() {
    let world = world()
        .registered(&["a"])
        .apply(
            "1",
            "DestinationRule",
            "w",
            "{host: a, subsets: [{name: v2}]}",
        )
        .apply(
            "2",
            "DestinationRule",
            "x",
            "{host: a.shop.svc, subsets: [{name: v1}], trafficPolicy: {tls: {mode: DISABLE}}}",
        );
    let mesh = world.mesh();
    let merged = mesh.destination_rule(&name("a")).expect("a rule");
    let subsets: Vec<&str> = merged
        .rule
        .subsets
        .iter()
        .map(|s| s.name.value.as_str())
        .collect();
    assert_eq!(subsets, ["v1", "v2"]);
    let sources: Vec<&str> = merged.sources.iter().map(|o| o.key.name.as_str()).collect();
    assert_eq!(sources, ["w", "x"]);
    assert!(merged.rule.traffic_policy.tls.is_some());
}

#[test]
fn destination_rules_that_contradict_each_other_are_refused_naming_both() {
    let world = world()
        .registered(&["a"])
        .apply(
            "old",
            "DestinationRule",
            "z",
            "{host: a, subsets: [{name: v1}], trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
        )
        .apply(
            "new",
            "DestinationRule",
            "a",
            "{host: a, subsets: [{name: v0}, {name: v1}], trafficPolicy: {loadBalancer: {}}}",
        );
    let (mesh, diagnostics) = world.build();
    assert_eq!(
        diagnostics,
        [
            "Error new:4:46: spec.subsets[1].name: a.shop.svc.cluster.local has a subset \"v1\" already, in \
         DestinationRule shop/z (old:1:1); rename or remove one",
            "Error new:4:82: spec.trafficPolicy: a.shop.svc.cluster.local has a traffic policy already, in \
         DestinationRule shop/z (old:1:1); keep one of them",
        ]
    );
    let balancer = mesh
        .traffic_policy(&name("a"), None)
        .load_balancer
        .expect("the older one");
    assert_eq!(balancer.value.algorithm, crate::Balancer::Random);
}

#[test]
fn entries_for_one_host_have_to_agree() {
    let entry = |rest: &str| format!("{{hosts: [a], resolution: STATIC, {rest}}}");
    let http = "ports: [{number: 80, name: http, protocol: HTTP}]";
    let good = world()
        .apply("1", "ServiceEntry", "one", &entry(http))
        .apply(
            "2",
            "ServiceEntry",
            "two",
            &entry(&format!("{http}, endpoints: [{{address: 10.0.0.1}}]")),
        );
    assert_eq!(good.mesh().service_entries[&name("a")].len(), 2);
    let bad = world()
        .apply("1", "ServiceEntry", "z", &entry(http))
        .apply(
            "2",
            "ServiceEntry",
            "b",
            &entry("ports: [{number: 80, name: grpc, protocol: GRPC}]"),
        )
        .apply(
            "3",
            "ServiceEntry",
            "c",
            &entry(&format!("{http}, location: MESH_INTERNAL")),
        );
    assert_eq!(
        bad.diagnostics(),
        [
            "Error 2:4:16: spec.ports[0]: a.shop.svc.cluster.local has the port 80 (grpc Grpc) here and 80 (http \
         Http) in ServiceEntry shop/z (1:1:1); make them agree",
            "Error 3:4:16: spec.location: a.shop.svc.cluster.local is MESH_INTERNAL here and MESH_EXTERNAL in \
         ServiceEntry shop/z (1:1:1); make them agree",
        ]
    );
}

#[test]
fn a_subsets_policy_replaces_the_hosts_part_by_part() {
    let world = world().registered(&["a"]).apply("dr", "DestinationRule", "a",
        "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 1}}}, \
         subsets: [{name: v1, trafficPolicy: {connectionPool: {http: {maxRetries: 2}}}}, {name: v2}]}");
    let mesh = world.mesh();
    let host = name("a");
    let pool = |subset| {
        mesh.traffic_policy(&host, subset)
            .connection_pool
            .expect("a pool")
            .value
    };
    assert_eq!(pool(None).max_connections, Some(1));
    assert_eq!(
        pool(Some("v1")).max_connections,
        None,
        "not merged below the first level"
    );
    assert_eq!(pool(Some("v1")).max_retries, Some(2));
    assert_eq!(pool(Some("v2")), pool(None));
    let v1 = mesh.traffic_policy(&host, Some("v1"));
    assert_eq!(
        v1.load_balancer.expect("the host's").value.algorithm,
        crate::Balancer::Random
    );
    assert!(mesh.traffic_policy(&name("b"), None).is_empty());
}

#[test]
fn the_longest_wildcard_holds_for_a_host_without_rules_of_its_own() {
    let rule = |host: &str| format!("{{host: '{host}'}}");
    let world = world()
        .registered(&["c.b.example.com"])
        .apply("1", "DestinationRule", "a", &rule("*.example.com"))
        .apply("2", "DestinationRule", "b", &rule("*.b.example.com"))
        .apply("3", "DestinationRule", "c", &rule("c.b.example.com"));
    let mesh = world.mesh();
    for (host, expected) in [
        ("c.b.example.com", Some("c.b.example.com")),
        ("d.b.example.com", Some("*.b.example.com")),
        ("b.example.com", Some("*.example.com")),
        ("example.com", None),
    ] {
        let found = mesh
            .destination_rule(&name(host))
            .map(|rule| rule.host.as_str());
        assert_eq!(found, expected, "{host}");
    }
}

const EGRESS: &str = "egress: [{hosts: ['*/*']}]";

#[test]
fn a_sidecar_that_selects_a_workload_beats_the_namespaces() {
    let select = |label: &str| format!("{{workloadSelector: {{labels: {{{label}}}}}, {EGRESS}}}");
    let world = world()
        .apply("1", "Sidecar", "all", &format!("{{{EGRESS}}}"))
        .apply("2", "Sidecar", "orders", &select("app: orders"))
        .apply("3", "Sidecar", "other/all", &format!("{{{EGRESS}}}"))
        .apply("4", "Sidecar", "canary", &select("track: canary"));
    let (mesh, diagnostics) = world.build();
    assert_eq!(
        diagnostics,
        [
            "Warning 4:1:1: spec.workloadSelector: may select the same workload as Sidecar shop/orders (2:1:1); \
         Sidecar shop/canary would then win by its name"
        ]
    );
    let found = |namespace: &str, pairs: &[(&str, &str)]| {
        mesh.sidecar_for(namespace, &labels(pairs))
            .map(|(object, _)| object.key.to_string())
    };
    assert_eq!(
        found("shop", &[("app", "orders")]).as_deref(),
        Some("Sidecar shop/orders")
    );
    assert_eq!(
        found("shop", &[("app", "x")]).as_deref(),
        Some("Sidecar shop/all")
    );
    assert_eq!(
        found("other", &[("app", "orders")]).as_deref(),
        Some("Sidecar other/all")
    );
    assert_eq!(
        found("shop", &[("app", "orders"), ("track", "canary")]).as_deref(),
        Some("Sidecar shop/canary")
    );
    assert_eq!(found("third", &[]), None);
}

#[test]
fn two_sidecars_for_the_same_workloads_are_refused() {
    let select = format!("{{workloadSelector: {{labels: {{app: a}}}}, {EGRESS}}}");
    let world = world()
        .apply("1", "Sidecar", "all", &format!("{{{EGRESS}}}"))
        .apply("2", "Sidecar", "again", &format!("{{{EGRESS}}}"))
        .apply("3", "Sidecar", "x", &select)
        .apply("4", "Sidecar", "b", &select);
    assert_eq!(
        world.diagnostics(),
        [
            "Error 2:1:1: spec.workloadSelector: is for every workload of the namespace, and so is Sidecar \
         shop/all (1:1:1); give one a selector",
            "Error 4:1:1: spec.workloadSelector: selects the same workloads as Sidecar shop/x (3:1:1); keep one \
         of them",
        ]
    );
}

#[test]
fn an_egress_host_admits_what_it_names() {
    let world = world()
        .registered(&["orders", "pay.bank.svc.cluster.local"])
        .apply("se", "ServiceEntry", "bank/api",
            "{hosts: [api.example.com], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}]}");
    let mesh = world.mesh();
    let table = [
        ("*/*", "orders", true),
        ("./*", "orders", true),
        ("./*", "pay.bank.svc.cluster.local", false),
        ("bank/*", "pay.bank.svc.cluster.local", true),
        ("bank/*", "api.example.com", true),
        ("./*", "api.example.com", false),
        ("~/*", "orders", false),
        ("./orders", "orders", true),
        ("bank/pay", "pay.bank.svc.cluster.local", true),
        ("*/orders.shop.svc.cluster.local", "orders", true),
        ("*/pay.bank", "pay.bank.svc.cluster.local", true),
        ("*/*.example.com", "api.example.com", true),
        ("*/*.example.com", "orders", false),
        ("./pay", "orders", false),
    ];
    for (pattern, host, expected) in table {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: a}}\n\
             spec: {{egress: [{{hosts: ['{pattern}']}}]}}\n"
        );
        let objects = parse("f", &text, "shop", &ParseLimits::default()).expect(pattern);
        let Spec::Sidecar(sidecar) = &objects[0].spec else {
            panic!("want a Sidecar");
        };
        assert_eq!(
            mesh.sees("shop", sidecar, &name(host)),
            expected,
            "{pattern} {host}"
        );
    }
}

#[test]
fn a_selector_takes_the_workloads_of_its_namespace() {
    let workload =
        |app: &str| format!("{{address: 10.0.0.1, labels: {{app: {app}, version: v1}}}}");
    let world = world()
        .apply("1", "WorkloadEntry", "in", &workload("ratings"))
        .apply("2", "WorkloadEntry", "out", &workload("reviews"))
        .apply("3", "WorkloadEntry", "other/in", &workload("ratings"))
        .apply(
            "se",
            "ServiceEntry",
            "ratings",
            "{hosts: [ratings], resolution: STATIC, workloadSelector: {labels: {app: ratings}}, \
             ports: [{number: 80, name: http, protocol: HTTP}]}",
        );
    let (mesh, diagnostics) = world.build();
    assert_eq!(
        diagnostics,
        [
            "Warning 2:4:17: spec.labels: gets no traffic: no ServiceEntry of the namespace shop selects its labels",
            "Warning 3:4:17: spec.labels: gets no traffic: no ServiceEntry of the namespace other selects its labels",
        ]
    );
    let (_, entry) = &mesh.service_entries[&name("ratings")][0];
    let selected: Vec<&str> = mesh
        .selected_workloads("shop", entry)
        .map(|(object, _)| object.key.name.as_str())
        .collect();
    assert_eq!(selected, ["in"]);
}

/// All positions and rules of a mesh, to compare two.
fn drawn(mesh: &Mesh) -> String {
    format!("{mesh:?}")
}

#[test]
fn the_order_of_documents_does_not_change_the_mesh() {
    let mut world = world().registered(&["orders", "ratings"]).with(
        "everything.yaml",
        include_str!("../../testdata/everything.yaml"),
    );
    world = world.apply(
        "dr",
        "DestinationRule",
        "more",
        "{host: orders, subsets: [{name: v9}]}",
    );
    let first = drawn(&world.build().0);
    for turn in 0..world.objects.len() {
        world.objects.rotate_left(1);
        assert_eq!(drawn(&world.build().0), first, "turn {turn}");
    }
    world.objects.reverse();
    assert_eq!(drawn(&world.build().0), first);
}

#[test]
fn a_rule_keeps_the_place_that_it_came_from() {
    let text = include_str!("../../testdata/ninety-ten.yaml");
    let rule = include_str!("../../testdata/consistent-hash.yaml");
    let world = world()
        .with("canary.yaml", text)
        .with("dr.yaml", rule)
        .registered(&["order-service"]);
    let mesh = world.mesh();
    let (object, route) = &mesh.virtual_services[&name("order-service")].http[0];
    assert_eq!(object.key.name, "order-service");
    let place = |position: &Position| position.to_string();
    assert_eq!(place(&route.position), "canary.yaml:10:5");
    let HttpAction::Route(to) = &route.action else {
        panic!("want a route");
    };
    assert_eq!(place(&to[1].host.position), "canary.yaml:16:15");
}
