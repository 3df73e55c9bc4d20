//! Documents by chance: what a client sees is what a plain reading of the rules says, in whatever order they came.

use super::{World, drawn, labels, name, world};
use crate::{Client, HostName, Mesh, random::Random};

const NAMESPACES: [&str; 3] = ["ops", "shop", "web"];
const APPS: [&str; 2] = ["cart", "till"];
const HOSTS: [&str; 3] = ["a.shop.svc.cluster.local", "b.example.com", "*.example.com"];

/// One document, as the plain reading knows it.
#[derive(Clone, Debug)]
struct Document {
    rule: bool,
    name: String,
    namespace: &'static str,
    host: &'static str,
    /// None = all.
    export: Option<Vec<&'static str>>,
    /// A rule's `workloadSelector`, or a match's `sourceLabels`.
    app: Option<&'static str>,
    /// A match's `sourceNamespace`.
    from: Option<&'static str>,
}

impl Document {
    fn by_chance(random: &mut Random, number: usize) -> Self {
        let some = |random: &mut Random| {
            NAMESPACES
                .into_iter()
                .filter(|_| random.below(2) == 0)
                .collect()
        };
        let export = (random.below(2) == 0).then(|| some(random));
        Self {
            rule: random.below(2) == 0,
            name: format!("d{number}"),
            namespace: random.of(&NAMESPACES),
            host: random.of(&HOSTS),
            export,
            app: (random.below(3) == 0).then(|| random.of(&APPS)),
            from: (random.below(4) == 0).then(|| random.of(&NAMESPACES)),
        }
    }

    fn apply(&self, world: World) -> World {
        let export = match &self.export {
            None => "'*'".to_owned(),
            Some(none) if none.is_empty() => "'~'".to_owned(),
            Some(some) => some.join(", "),
        };
        let (host, name) = (self.host, &self.name);
        let (kind, spec) = if self.rule {
            // parse refuses a selector that takes nobody.
            let selector = self.app.filter(|_| self.includes(self.namespace));
            let selector = selector.map_or_else(String::new, |app| {
                format!(", workloadSelector: {{matchLabels: {{app: {app}}}}}")
            });
            let spec = format!(
                "{{host: '{host}', exportTo: [{export}]{selector}, subsets: [{{name: {name}}}]}}"
            );
            ("DestinationRule", spec)
        } else {
            let from = self.from.map(|from| format!(", sourceNamespace: {from}"));
            let app = self
                .app
                .map(|app| format!(", sourceLabels: {{app: {app}}}"));
            let ask = [from, app].map(Option::unwrap_or_default).concat();
            let spec = format!(
                "{{hosts: ['{host}'], exportTo: [{export}], http: [{{match: [{{uri: {{prefix: /{name}}}{ask}}}], \
                 route: [{{destination: {{host: b.example.com}}}}]}}]}}"
            );
            ("VirtualService", spec)
        };
        world.apply(name, kind, &format!("{}/{name}", self.namespace), &spec)
    }

    fn includes(&self, namespace: &str) -> bool {
        self.export
            .as_ref()
            .is_none_or(|some| some.contains(&namespace))
    }

    /// As it is applied: see [`Self::apply`].
    fn selector(&self) -> Option<&'static str> {
        self.app.filter(|_| self.includes(self.namespace))
    }
}

/// The names of the documents that make the rule for a client, read plainly.
fn expected_rule(all: &[Document], host: &str, namespace: &str, app: Option<&str>) -> Vec<String> {
    let spellings = ["a.shop.svc.cluster.local", "b.example.com", "*.example.com"]
        .into_iter()
        .filter(|each| *each == host || host == "b.example.com" && *each == "*.example.com");
    let spellings: Vec<&str> = spellings.collect();
    let of = |home: &str, host: &str| -> Vec<&Document> {
        let rules = all
            .iter()
            .filter(|each| each.rule && each.namespace == home);
        let mut rules: Vec<&Document> = rules
            .filter(|each| each.host == host && each.includes(namespace))
            .collect();
        rules.sort_by_key(|each| each.name.clone());
        rules
    };
    let plain = |home: &str, host: &str| -> Vec<String> {
        let rules = of(home, host).into_iter();
        let rules = rules.filter(|each| each.selector().is_none());
        rules.map(|each| each.name.clone()).collect()
    };
    let service = if host.ends_with(".local") { "shop" } else { "" };
    for home in [namespace, service] {
        for host in &spellings {
            if home == namespace && app.is_some() {
                let selecting = of(home, host).into_iter();
                let selecting = selecting.filter(|each| each.selector() == app);
                let names: Vec<String> = selecting.map(|each| each.name.clone()).collect();
                if !names.is_empty() {
                    return names;
                }
            }
            let names = plain(home, host);
            if !names.is_empty() {
                return names;
            }
        }
    }
    if !service.is_empty() {
        return Vec::new();
    }
    let mut rest = spellings
        .iter()
        .flat_map(|host| NAMESPACES.map(|home| plain(home, host)));
    rest.find(|names| !names.is_empty()).unwrap_or_default()
}

/// The names of the documents whose rules a client tries, read plainly.
fn expected_routes(
    all: &[Document],
    host: &str,
    namespace: &str,
    app: Option<&str>,
) -> Vec<String> {
    let for_client = |each: &&Document| {
        !each.rule
            && each.includes(namespace)
            && each.from.is_none_or(|from| from == namespace)
            && each.app.is_none_or(|wanted| app == Some(wanted))
    };
    for spelling in [host, "*.example.com"] {
        let mut found: Vec<&Document> = all.iter().filter(for_client).collect();
        found.retain(|each| each.host == spelling);
        found.sort_by_key(|each| (each.namespace, each.name.clone()));
        if !found.is_empty() && (spelling == host || host == "b.example.com") {
            return found.iter().map(|each| each.name.clone()).collect();
        }
    }
    Vec::new()
}

fn sources(mesh: &Mesh, host: &HostName, client: Client<'_>) -> Vec<String> {
    let rule = mesh.destination_rule_for(host, client);
    let sources = rule.into_iter().flat_map(|rule| &rule.sources);
    sources.map(|object| object.key.name.clone()).collect()
}

fn routes(mesh: &Mesh, host: &HostName, client: Client<'_>) -> Vec<String> {
    let merged = mesh.virtual_service_for(host, client);
    let rules = merged.iter().flat_map(|merged| &merged.http);
    rules.map(|(object, _)| object.key.name.clone()).collect()
}

#[test]
fn a_client_sees_what_a_plain_reading_says() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let count = 1 + random.below(7);
        let all: Vec<Document> = (0..count)
            .map(|number| Document::by_chance(&mut random, number))
            .collect();
        let mut world = world().registered(&["a", "b.example.com"]);
        for document in &all {
            world = document.apply(world);
        }
        let (mesh, found) = world.build();
        assert!(
            found.iter().all(|each| each.starts_with("Warning")),
            "seed {seed}: {found:#?}"
        );
        for host in ["a.shop.svc.cluster.local", "b.example.com"] {
            for namespace in ["ops", "shop", "web", "third"] {
                for app in [None, Some("cart"), Some("till"), Some("other")] {
                    let labels =
                        labels(&app.map(|app| ("app", app)).into_iter().collect::<Vec<_>>());
                    let client = Client {
                        namespace,
                        labels: &labels,
                    };
                    let place = format!("seed {seed}: {host} {namespace} {app:?} {all:#?}");
                    let rule = sources(&mesh, &name(host), client);
                    assert_eq!(rule, expected_rule(&all, host, namespace, app), "{place}");
                    let seen = routes(&mesh, &name(host), client);
                    assert_eq!(seen, expected_routes(&all, host, namespace, app), "{place}");
                }
            }
        }
        let first = drawn(&mesh);
        world.objects.reverse();
        assert_eq!(drawn(&world.build().0), first, "seed {seed}");
    }
}
