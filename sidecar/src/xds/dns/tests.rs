//! Names, in virtual time.

use std::collections::BTreeMap;

use outrigger_core::{Health, Locality};

use super::*;

const PACE: Pace = Pace {
    refresh: Duration::from_secs(5),
    failure: Duration::from_secs(1),
    failure_cap: Duration::from_secs(3),
};

fn source(logical: bool, names: &[&str]) -> DnsSource {
    let host = |name: &&str| NamedEndpoint {
        name: Some((*name).to_owned()),
        config: EndpointConfig {
            address: ([0, 0, 0, 0], 80).into(),
            weight: 1,
            health: Health::Healthy,
            priority: 0,
            locality: Locality::default(),
            locality_weight: 0,
            mtls: false,
            labels: BTreeMap::new(),
        },
    };
    DnsSource {
        logical,
        family: Family::Auto,
        pace: PACE,
        hosts: names.iter().map(host).collect(),
    }
}

fn names(wanted: &[&str]) -> Names {
    let mut names = Names::default();
    names.want(&wanted.iter().map(|name| (*name, PACE)).collect());
    names
}

fn ips(last: &[u8]) -> Vec<IpAddr> {
    last.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect()
}

fn addresses(source: &DnsSource, names: &Names) -> Option<Vec<String>> {
    let endpoints = source.endpoints(names)?;
    Some(endpoints.iter().map(|e| e.address.to_string()).collect())
}

#[tokio::test(start_paused = true)]
async fn a_cluster_of_names_waits_until_each_was_looked_up_once() {
    let (source, now) = (source(false, &["a", "b"]), Instant::now());
    let mut names = names(&["a", "b"]);
    assert_eq!(names.take_due(now, 8), ["a", "b"]);
    assert!(names.found("a", Ok(ips(&[2, 1])), now));
    assert_eq!(addresses(&source, &names), None);
    assert!(names.found("b", Err("nobody knows it".to_owned()), now));
    assert!(!names.is_waiting());
    assert_eq!(
        addresses(&source, &names).unwrap(),
        ["10.0.0.2:80", "10.0.0.1:80"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_look_up_keeps_the_last_good_addresses_and_is_tried_again_ever_later() {
    let (source, now) = (source(false, &["a"]), Instant::now());
    let mut names = names(&["a"]);
    names.take_due(now, 8);
    names.found("a", Ok(ips(&[1])), now);
    let mut at = now + PACE.refresh;
    for wait in [1, 2, 3, 3] {
        assert_eq!(names.next_due(at), Some(at));
        assert_eq!(names.take_due(at, 8), ["a"]);
        assert!(!names.found("a", Err("server is away".to_owned()), at));
        assert_eq!(addresses(&source, &names).unwrap(), ["10.0.0.1:80"]);
        at += Duration::from_secs(wait);
    }
    names.take_due(at, 8);
    assert!(names.found("a", Ok(ips(&[7])), at));
    assert_eq!(addresses(&source, &names).unwrap(), ["10.0.0.7:80"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_another_order_changes_nothing() {
    let now = Instant::now();
    let mut names = names(&["a"]);
    names.found("a", Ok(ips(&[3, 1, 2])), now);
    assert!(!names.found("a", Ok(ips(&[2, 3, 1])), now));
    let logical = source(true, &["a"]);
    assert_eq!(addresses(&logical, &names).unwrap(), ["10.0.0.3:80"]);
    assert!(names.found("a", Ok(ips(&[2, 1])), now));
    assert_eq!(addresses(&logical, &names).unwrap(), ["10.0.0.2:80"]);
}

#[tokio::test(start_paused = true)]
async fn no_more_names_are_looked_up_at_once_than_allowed_and_unused_ones_not_at_all() {
    let now = Instant::now();
    let mut names = names(&["a", "b", "c"]);
    assert_eq!(names.take_due(now, 2), ["a", "b"]);
    names.want(&BTreeMap::from([("b", PACE)]));
    assert_eq!(names.take_due(now, 2), [""; 0]);
    assert!(!names.found("a", Ok(ips(&[1])), now));
}

#[test]
fn families_are_as_envoy_has_them() {
    let four = IpAddr::from([10, 0, 0, 1]);
    let six = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
    for (family, expected) in [
        (Family::Auto, vec![six]),
        (Family::V4, vec![four]),
        (Family::V6, vec![six]),
        (Family::V4Preferred, vec![four]),
        (Family::All, vec![four, six]),
    ] {
        assert_eq!(family.of(&[four, six]), expected, "{family:?}");
    }
    assert_eq!(Family::Auto.of(&[four]), [four]);
    assert!(Family::V6.of(&[four]).is_empty());
}
