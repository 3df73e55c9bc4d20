//! Each code's story is a test: its wrong document has the finding, its right one nothing worse than a remark.

mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Analysis, ClientFacts, Effective, EndpointFacts, Inventory, ServiceFacts, analyze, effects,
};
use crate::{
    Code, Diagnostic, HostName, Mesh, MeshInput, Object, ParseLimits, Protocol, Severity, parse,
};

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// `reviews` has three endpoints with mutual TLS, `ratings` one; those of `orders` are plain. `payments` is in `bank`.
fn inventory() -> Inventory {
    let mut inventory = Inventory::default();
    let services = [
        (
            "reviews.default",
            9080,
            true,
            [
                "app=reviews version=v1",
                "app=reviews version=v1",
                "app=reviews version=v2",
            ]
            .as_slice(),
        ),
        ("ratings.default", 9080, true, &["app=ratings version=v1"]),
        (
            "orders.default",
            8080,
            false,
            &["app=orders version=v1", "app=orders version=v2"],
        ),
        ("payments.bank", 80, true, &["app=payments", "app=payments"]),
        ("cache.default", 6379, true, &["app=cache"]),
    ];
    for (host, port, mtls, endpoints) in services {
        let endpoints = endpoints
            .iter()
            .enumerate()
            .map(|(index, text)| EndpointFacts {
                address: format!("10.1.0.{index}:{port}"),
                labels: labels(text),
                mtls,
            });
        let protocol = match port {
            6379 => Protocol::Tcp,
            _ => Protocol::Http,
        };
        let service = ServiceFacts {
            ports: [(port, Some(protocol))].into(),
            endpoints: endpoints.collect(),
        };
        let host = HostName::canonical(
            &format!("{host}.svc.cluster.local"),
            "default",
            "cluster.local",
        );
        inventory.services.insert(host, service);
    }
    inventory.clients = [
        ("default", "app=web"),
        ("default", "app=reviews version=v1"),
        ("bank", "app=payments"),
    ]
    .map(|(namespace, text)| ClientFacts {
        namespace: namespace.to_owned(),
        labels: Some(labels(text)),
    })
    .into();
    inventory
}

fn found_in(text: &str, inventory: Option<&Inventory>) -> (Vec<Arc<Object>>, Vec<Diagnostic>) {
    let objects: Vec<Arc<Object>> = match parse("f.yaml", text, "default", &ParseLimits::default())
    {
        Ok(objects) => objects.into_iter().map(Arc::new).collect(),
        Err(errors) => return (Vec::new(), errors),
    };
    let registered: BTreeSet<HostName> = inventory
        .into_iter()
        .flat_map(|all| all.services.keys().cloned())
        .collect();
    let input = MeshInput {
        objects: &objects,
        domain: "cluster.local",
        root_namespace: "istio-system",
        registered: &registered,
    };
    let (mesh, mut found) = Mesh::build(&input);
    found.extend(analyze(&Analysis {
        mesh: &mesh,
        objects: &objects,
        inventory,
        only: None,
    }));
    (objects, found)
}

/// Codes that no document here can have: what only others find, and what fits no narrower code.
const WITHOUT_DOCUMENT: [Code; 4] = [
    Code::Contradiction,
    Code::NotInForce,
    Code::NotByClient,
    Code::NotCompared,
];

#[test]
fn every_story_has_a_document_in_which_its_mistake_is_found() {
    let inventory = inventory();
    let mut missing = Vec::new();
    for &code in Code::ALL
        .iter()
        .filter(|code| !WITHOUT_DOCUMENT.contains(code))
    {
        let text = code.story().wrong.yaml();
        let (_, found) = found_in(&text, Some(&inventory));
        if !found.iter().any(|one| one.code == code) {
            missing.push(format!(
                "{code} {}\n{text}\n{}",
                code.title(),
                drawn(&found)
            ));
        }
    }
    assert!(
        missing.is_empty(),
        "{} of {}:\n{}",
        missing.len(),
        Code::ALL.len(),
        missing.join("\n----\n")
    );
}

#[test]
fn every_story_has_a_document_without_mistakes() {
    let inventory = inventory();
    let mut wrong = Vec::new();
    for &code in Code::ALL
        .iter()
        .filter(|&&code| code != Code::Contradiction)
    {
        let text = code.story().right.yaml();
        let (_, found) = found_in(&text, Some(&inventory));
        let bad: Vec<Diagnostic> = found
            .into_iter()
            .filter(|one| one.code == code || one.severity != Severity::Info)
            .collect();
        if !bad.is_empty() || text.is_empty() {
            wrong.push(format!("{code} {}\n{text}\n{}", code.title(), drawn(&bad)));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        Code::ALL.len(),
        wrong.join("\n----\n")
    );
}

#[test]
fn every_story_says_what_it_means_and_how_it_hurts() {
    for &code in Code::ALL {
        let story = code.story();
        assert!(
            story.meaning.ends_with(['.', ':']),
            "{code}: {:?}",
            story.meaning
        );
        assert!(story.hurts.ends_with('.'), "{code}: {:?}", story.hurts);
    }
}

/// The documents of the examples, and those that operators brought, each with what stands in the same place.
const OPERATORS: [(&str, &str); 8] = [
    (
        "consistent-hash.yaml",
        include_str!("../../testdata/consistent-hash.yaml"),
    ),
    (
        "least-conn.yaml",
        include_str!("../../testdata/least-conn.yaml"),
    ),
    (
        "header-canary.yaml",
        include_str!("../../testdata/header-canary.yaml"),
    ),
    (
        "ninety-ten.yaml",
        include_str!("../../testdata/ninety-ten.yaml"),
    ),
    (
        "testers.yaml",
        include_str!("../../../../examples/canary/testers.yaml"),
    ),
    (
        "tenth.yaml",
        include_str!("../../../../examples/canary/tenth.yaml"),
    ),
    (
        "all.yaml",
        include_str!("../../../../examples/canary/all.yaml"),
    ),
    (
        "hello.yaml",
        include_str!("../../../../examples/hello/hello.yaml"),
    ),
];

#[test]
fn the_operators_documents_are_left_in_peace() {
    let subsets = include_str!("../../../../examples/canary/subsets.yaml");
    for (file, text) in OPERATORS {
        let (objects, found) = found_in(text, None);
        assert!(!objects.is_empty(), "{file}: {}", drawn(&found));
        // Which subsets there are is said in another file.
        let alone = [
            Code::UnknownSubset,
            Code::UnknownHost,
            Code::OldApiVersion,
            Code::OldBalancerName,
        ];
        let found: Vec<Diagnostic> = found
            .into_iter()
            .filter(|one| !alone.contains(&one.code))
            .collect();
        assert_eq!(drawn(&found), "", "{file}");
    }
    for (file, text) in &OPERATORS[4..7] {
        let (_, found) = found_in(&format!("{subsets}---\n{text}"), Some(&inventory()));
        let found: Vec<Diagnostic> = found
            .into_iter()
            .filter(|one| one.code != Code::SubsetUnused)
            .collect();
        assert_eq!(drawn(&found), "", "{file}");
    }
}

#[test]
fn a_document_is_in_force_unless_something_takes_it_away() {
    let inventory = inventory();
    let effect_of = |text: &str| {
        let (objects, found) = found_in(text, Some(&inventory));
        assert!(!objects.is_empty(), "{}", drawn(&found));
        effects(&objects, &found)
            .pop()
            .expect("one document")
            .effective
    };
    let table = [
        (Code::AfterCatchAll, true, Effective::Partly),
        (Code::AfterCatchAll, false, Effective::Yes),
        (Code::RuleShadowed, true, Effective::Partly),
        (Code::NoEndpoints, true, Effective::MatchesNothing),
        (Code::WorkloadUnselected, true, Effective::MatchesNothing),
        (Code::SidecarSelectsNothing, true, Effective::MatchesNothing),
        (Code::SubsetWithoutEndpoints, false, Effective::Yes),
        (Code::MethodCase, true, Effective::MatchesNothing),
        (Code::ExportToNowhere, true, Effective::MatchesNothing),
        (Code::WildcardOfNothing, true, Effective::MatchesNothing),
        (Code::DelegateUnused, true, Effective::MatchesNothing),
        (Code::PrefixWithinWord, true, Effective::Yes),
    ];
    for (code, wrong, expected) in table {
        let story = code.story();
        let text = if wrong { story.wrong } else { story.right }.yaml();
        assert_eq!(effect_of(&text), expected, "{code}");
    }
    let story = Code::SameMatch.story();
    let nothing = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: z}\nspec:\n  hosts: [reviews]\n  http:\n";
    let twice = format!(
        "{}---\n{nothing}  - match: [{{uri: {{prefix: /api/}}}}]\n    directResponse: {{status: 200}}\n",
        story.right.yaml()
    );
    assert_eq!(effect_of(&twice), Effective::Shadowed);
    let nobody = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: z}\nspec: {host: nobody}\n";
    assert_eq!(effect_of(nobody), Effective::MatchesNothing);
}

fn drawn(found: &[Diagnostic]) -> String {
    let lines = found
        .iter()
        .map(|one| format!("{} {:?} {one}", one.code, one.severity));
    lines.collect::<Vec<_>>().join("\n")
}
