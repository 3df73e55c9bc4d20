use std::collections::BTreeMap;

use prost_types::{Struct, Value};

use super::*;

fn scope() -> Scope {
    Scope::of_node("sidecar~1.2.3.4~a.shop~shop.svc.cluster.local", true)
}

fn info(ips: &[&str], short: &str, namespace: &str) -> NameInfo {
    NameInfo {
        ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        registry: "Kubernetes".to_owned(),
        shortname: short.to_owned(),
        namespace: namespace.to_owned(),
        ..NameInfo::default()
    }
}

fn table(hosts: &[(&str, NameInfo)]) -> NameTable {
    let hosts = hosts.iter();
    NameTable {
        table: hosts
            .map(|(host, info)| ((*host).to_owned(), info.clone()))
            .collect(),
    }
}

fn metadata(fields: &[(&str, Kind)]) -> Metadata {
    let value = |kind: &Kind| Value {
        kind: Some(kind.clone()),
    };
    let fields = fields.iter();
    let fields = fields
        .map(|(key, kind)| ((*key).to_owned(), value(kind)))
        .collect();
    Metadata {
        filter_metadata: BTreeMap::from([("outrigger".to_owned(), Struct { fields })]),
        ..Metadata::default()
    }
}

fn ports(name: &str, port: Kind) -> (&'static str, Kind) {
    let port = Value { kind: Some(port) };
    let fields = BTreeMap::from([(name.to_owned(), port)]);
    ("ports", Kind::StructValue(Struct { fields }))
}

fn names(names: &Names) -> Vec<&str> {
    let mut all: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_host_of_a_whole_table_also_goes_by_its_shorter_names() {
    let table = table(&[
        (
            "orders.shop.svc.cluster.local",
            info(&["240.240.0.1"], "orders", "shop"),
        ),
        (
            "a.other.svc.cluster.local",
            info(&["240.240.0.2"], "a", "other"),
        ),
        (
            "b.other.svc.elsewhere.org",
            info(&["240.240.0.3"], "b", "other"),
        ),
        ("api.example.com.", info(&["240.240.0.4"], "", "")),
        ("*.wild.example.com", info(&["240.240.0.5"], "", "")),
    ]);
    let found = convert(&table, None, None, &scope()).unwrap();
    let expected = [
        "*.wild.example.com",
        "a.other",
        "a.other.svc",
        "a.other.svc.cluster.local",
        "api.example.com",
        "b.other.svc.elsewhere.org",
        "orders",
        "orders.shop",
        "orders.shop.svc",
        "orders.shop.svc.cluster.local",
    ];
    assert_eq!(names(&found), expected);
}

#[test]
fn what_was_asked_for_by_name_has_that_name_alone() {
    let table = table(&[(
        "orders",
        info(&["240.240.0.1", "2001:2::1"], "orders", "shop"),
    )]);
    let metadata = metadata(&[ports("http", Kind::NumberValue(8080.0))]);
    let found = convert(&table, Some(&metadata), Some("orders"), &scope()).unwrap();
    assert_eq!(names(&found), ["orders"]);
    let record = &found[0].1;
    assert_eq!(record.host, "orders.shop.svc.cluster.local");
    assert_eq!(record.v4.len() + record.v6.len(), 2);
    assert_eq!(record.ports, Some(vec![("http".to_owned(), 8080)]));
    let other = convert(&table, None, Some("orders.shop"), &scope()).unwrap();
    assert_eq!(names(&other), ["orders.shop"], "under the name of the host");
}

#[test]
fn what_cannot_be_is_refused_by_its_place() {
    let refused = |hosts: &[(&str, NameInfo)], metadata: Option<Metadata>, asked| {
        let error = convert(&table(hosts), metadata.as_ref(), asked, &scope()).unwrap_err();
        error.to_string()
    };
    let good = || ("orders", info(&["240.240.0.1"], "", ""));
    let bad_ip = [("orders", info(&["240.240.0.1", "nine"], "", ""))];
    assert_eq!(
        refused(&bad_ip, None, None),
        "table[\"orders\"].ips[1]: \"nine\" is no IP address"
    );
    for name in ["", "a..b", "a b", "*", "x*.y", &"a".repeat(64)] {
        let error = refused(&[(name, info(&[], "", ""))], None, None);
        assert!(error.ends_with("is no DNS name"), "{error}");
    }
    let error = refused(&[], None, Some("orders"));
    assert!(error.starts_with("table: has nothing on"), "{error}");
    for port in [
        Kind::NumberValue(0.0),
        Kind::NumberValue(80.5),
        Kind::NumberValue(65_536.0),
        Kind::StringValue("80".to_owned()),
    ] {
        let metadata = metadata(&[ports("http", port)]);
        let error = refused(&[good()], Some(metadata), None);
        assert!(
            error.starts_with("metadata.outrigger.ports[\"http\"]"),
            "{error}"
        );
    }
    let wrong = metadata(&[("ports", Kind::BoolValue(true))]);
    assert!(refused(&[good()], Some(wrong), None).starts_with("metadata.outrigger.ports"));
    let wrong = metadata(&[("host", Kind::BoolValue(true))]);
    assert!(refused(&[good()], Some(wrong), None).starts_with("metadata.outrigger.host"));
}
