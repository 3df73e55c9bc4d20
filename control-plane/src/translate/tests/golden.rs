//! Policy in, xDS out: `testdata/golden/<name>.yaml` beside `<name>.json`. Set `UPDATE_GOLDEN=1` to write the JSON,
//! and read it before you accept it.

use std::{fs, path::PathBuf};

use super::*;

/// Applies `documents` in this order and compares with `<name>.json`.
fn check(name: &str, documents: &[&str]) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let given = documents.iter().fold(Given::default(), |given, document| {
        let file = format!("{document}.yaml");
        given.policy(&file, &fs::read_to_string(dir.join(&file)).unwrap())
    });
    let found = serde_json::to_string_pretty(&given.seen_by(&node()).all()).unwrap() + "\n";
    envoy::accepts(&given);
    let path = dir.join(format!("{name}.json"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let differs = found
        .lines()
        .zip(expected.lines())
        .position(|(found, wanted)| found != wanted);
    assert!(
        found == expected,
        "{name}.json differs from line {:?} on:\n{found}",
        differs.map(|n| n + 1)
    );
}

#[test]
fn a_rule_with_consistent_hash_and_connection_pool() {
    check("consistent-hash", &["consistent-hash"]);
}

#[test]
fn a_rule_with_least_conn() {
    check("least-conn", &["least-conn"]);
}

#[test]
fn a_header_that_chooses_the_canary() {
    check("header-canary", &["least-conn", "header-canary"]);
}

#[test]
fn a_split_by_weight_of_a_hashed_service() {
    check("weights", &["consistent-hash", "weights"]);
}

#[test]
fn everything_that_may_be_written_for_one_service() {
    check("traffic-policy", &["traffic-policy"]);
}
