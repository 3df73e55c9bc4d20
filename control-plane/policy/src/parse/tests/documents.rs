//! Documents that are right, and what they become.

use std::{collections::BTreeMap, time::Duration};

use super::{EVERYTHING, document, one, spec_of};
use crate::{
    ConnectionPool, HashAlgorithm, HashKey, HttpAction, Kind, ParseLimits, Spec, StringMatch,
    parse, parse_again, parse_bytes,
};

/// The operator's own documents, as they are.
const OPERATORS: [(&str, &str); 4] = [
    (
        "consistent-hash.yaml",
        include_str!("../../../testdata/consistent-hash.yaml"),
    ),
    (
        "least-conn.yaml",
        include_str!("../../../testdata/least-conn.yaml"),
    ),
    (
        "header-canary.yaml",
        include_str!("../../../testdata/header-canary.yaml"),
    ),
    (
        "ninety-ten.yaml",
        include_str!("../../../testdata/ninety-ten.yaml"),
    ),
];

#[test]
fn the_operators_documents_are_read_unmodified() {
    for (file, text) in OPERATORS {
        let objects = parse(file, text, "default", &ParseLimits::default()).expect(file);
        assert_eq!(objects.len(), 1, "{file}");
        assert_eq!(&*objects[0].yaml, text, "{file}");
    }
}

#[test]
fn a_hash_by_header_and_pool_limits_are_read() {
    let rule = spec_of!(DestinationRule, one(OPERATORS[0].1));
    assert_eq!(rule.host.value, "order-service");
    assert_eq!(rule.host.position.to_string(), "f:6:9");
    let policy = rule.traffic_policy;
    assert_eq!(
        policy
            .load_balancer
            .expect("a load balancer")
            .value
            .algorithm,
        crate::Balancer::ConsistentHash {
            key: HashKey::Header("user-id".to_owned()),
            algorithm: HashAlgorithm::RingHash {
                minimum_ring_size: 1024
            },
        }
    );
    assert_eq!(
        policy.connection_pool.expect("a pool").value,
        ConnectionPool {
            max_connections: Some(100),
            http1_max_pending_requests: Some(50),
            max_requests_per_connection: Some(2),
            ..ConnectionPool::default()
        }
    );
    assert_eq!(rule.subsets.len(), 2);
    assert_eq!(rule.subsets[1].name.value, "v2");
    assert_eq!(
        rule.subsets[1].labels,
        BTreeMap::from([("version".to_owned(), "v2".to_owned())])
    );
}

#[test]
fn the_old_name_of_least_request_is_understood() {
    let rule = spec_of!(DestinationRule, one(OPERATORS[1].1));
    let balancer = rule.traffic_policy.load_balancer.expect("a load balancer");
    assert_eq!(balancer.value.algorithm, crate::Balancer::LeastRequest);
    assert_eq!(balancer.position.to_string(), "f:10:7");
}

#[test]
fn a_header_canary_is_read() {
    let service = spec_of!(VirtualService, one(OPERATORS[2].1));
    assert_eq!(
        service.http[0].matches[0].headers["canary"],
        StringMatch::Exact("true".to_owned())
    );
    assert!(service.http[1].matches.is_empty());
    assert_eq!(service.http[1].position.to_string(), "f:19:5");
}

#[test]
fn a_split_of_ninety_to_ten_is_read() {
    let service = spec_of!(VirtualService, one(OPERATORS[3].1));
    let HttpAction::Route(destinations) = &service.http[0].action else {
        panic!("want a route, found {:?}", service.http[0].action);
    };
    let split: Vec<(&str, u32)> = destinations
        .iter()
        .map(|to| {
            (
                to.subset.as_ref().expect("a subset").value.as_str(),
                to.weight,
            )
        })
        .collect();
    assert_eq!(split, [("v1", 90), ("v2", 10)]);
}

#[test]
fn every_effective_field_is_accepted() {
    let objects = parse("f", EVERYTHING, "default", &ParseLimits::default()).expect("no error");
    let kinds: Vec<Kind> = objects.iter().map(|object| object.key.kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::VirtualService,
            Kind::VirtualService,
            Kind::VirtualService,
            Kind::DestinationRule,
            Kind::DestinationPolicy,
            Kind::ServiceEntry,
            Kind::ServiceEntry,
            Kind::WorkloadEntry,
            Kind::Sidecar,
            Kind::PeerAuthentication,
            Kind::AuthorizationPolicy,
            Kind::AuthorizationPolicy,
            Kind::ExtensionProvider,
            Kind::ExtensionProvider,
            Kind::ExtensionProvider,
            Kind::RequestAuthentication,
        ]
    );
    let Spec::VirtualService(service) = &objects[0].spec else {
        panic!("want a VirtualService");
    };
    let timeout = service.http[0].timeout.as_ref().map(|at| at.value);
    assert_eq!(timeout, Some(Duration::from_millis(2500)));
    assert_eq!(
        service.http[0].matches[0].headers["user-agent"],
        StringMatch::Present
    );
    assert_eq!(objects[0].key.to_string(), "VirtualService shop/orders");
}

#[test]
fn a_document_read_again_has_its_old_positions() {
    let limits = ParseLimits::default();
    let objects = parse("mesh.yaml", EVERYTHING, "default", &limits).expect("no error");
    for object in objects {
        let again = parse_again(&object.text_position, &object.yaml, "default", &limits);
        assert_eq!(again.expect("no error"), [object]);
    }
    for text in ["--- ", "\u{feff}", "--- # a comment\r\n\r\n"] {
        let flow = "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: a}, \
                    spec: {address: 10.0.0.1}}";
        let objects = parse("f", &format!("{text}{flow}"), "default", &limits).expect(text);
        let start = &objects[0].text_position;
        let again = parse_again(start, &objects[0].yaml, "default", &limits);
        assert_eq!(again.expect("no error"), objects, "{text:?}");
    }
}

#[test]
fn the_callers_namespace_holds_where_the_document_names_none() {
    let text = document("WorkloadEntry", "{address: 10.0.0.1}");
    let objects = parse("f", &text, "shop", &ParseLimits::default()).expect("no error");
    assert_eq!(objects[0].key.namespace, "shop");
}

#[test]
fn null_is_absent_and_zero_is_no_timeout() {
    let spec = "{hosts: [a], gateways: null, http: [{match: ~, timeout: 0s, route: [{destination: \
                {host: a, subset: }}]}]}";
    let service = spec_of!(VirtualService, one(&document("VirtualService", spec)));
    assert_eq!(service.http[0].timeout, None);
    let HttpAction::Route(destinations) = &service.http[0].action else {
        panic!("want a route");
    };
    assert_eq!(destinations[0].weight, 100, "alone without a weight");
    assert_eq!(destinations[0].subset, None);
}

#[test]
fn a_destination_without_weight_beside_others_gets_nothing() {
    let spec = "{hosts: [a], http: [{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}}]}]}";
    let service = spec_of!(VirtualService, one(&document("VirtualService", spec)));
    let HttpAction::Route(destinations) = &service.http[0].action else {
        panic!("want a route");
    };
    assert_eq!(destinations[1].weight, 0);
}

#[test]
fn bytes_have_to_be_utf_8() {
    let limits = ParseLimits::default();
    let found = |bytes: &[u8]| {
        let errors = parse_bytes("f", bytes, "default", &limits).expect_err("an error");
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        found(b"a: 1\nb: \xc3\xa4\xff"),
        ["f:2:5: found the byte 0xff, want UTF-8 text"]
    );
    assert_eq!(
        found("ä".repeat(600_000).as_bytes()),
        [
            "f:1:524289: the text has 1200000 bytes, and this is where the limit of 1048576 is passed; split \
         it into several files, or remove what is not a policy"
        ]
    );
    assert!(parse_bytes("f", OPERATORS[0].1.as_bytes(), "default", &limits).is_ok());
}

#[test]
fn what_istio_takes_for_unset_or_for_a_label_is_taken() {
    let http = "{hosts: [a], http: [{route: [{destination: {host: a, subset: V1}, weight: 0}]}]}";
    let service = spec_of!(VirtualService, one(&document("VirtualService", http)));
    let HttpAction::Route(to) = &service.http[0].action else {
        panic!("want a route");
    };
    assert_eq!(to[0].weight, 100, "alone, a weight of 0 is none");
    assert_eq!(
        to[0].subset.as_ref().map(|at| at.value.as_str()),
        Some("V1")
    );
    let rule = "{host: a, subsets: [{name: V1, labels: {version: v1}}]}";
    let rule = spec_of!(DestinationRule, one(&document("DestinationRule", rule)));
    assert_eq!(rule.subsets[0].name.value, "V1");
}
