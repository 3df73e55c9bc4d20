//! `docs/SECURITY.md` names a test for each threat, `docs/PROTOCOLS.md` one for each protocol: each of them is there.

use std::{collections::BTreeSet, fs, path::Path};

/// Rows of the table of what is claimed.
const CLAIMED: [u32; 32] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
    27, 28, 29, 31, 32, 33,
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Names of all functions of Rust sources below `dir`.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                functions(&path, found);
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let named = text.lines().filter_map(|line| {
                let (before, rest) = line.split_once("fn ")?;
                let keywords = ["", "async", "pub", "pub async"];
                keywords
                    .contains(&before.trim())
                    .then(|| rest.split(['(', '<']).next().unwrap_or_default())
            });
            found.extend(named.map(str::to_owned));
        }
    }
}

/// Names of all functions of ours.
fn all_functions() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for folder in ["cli", "control-plane", "sidecar", "tests"] {
        functions(&root().join(folder), &mut known);
    }
    known
}

/// What stands between backticks and looks like a test: several words, joined by underscores.
fn tests_named_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|word| {
        word.matches('_').count() >= 3
            && word
                .bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

#[test]
fn each_test_that_the_page_on_security_names_is_there() {
    let page = fs::read_to_string(root().join("docs/SECURITY.md")).expect("the page");
    let known = all_functions();
    let missing: Vec<&str> = tests_named_in(&page)
        .filter(|name| !known.contains(*name))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

#[test]
fn each_threat_that_is_claimed_has_a_row_with_a_test() {
    let page = fs::read_to_string(root().join("docs/SECURITY.md")).expect("the page");
    for number in CLAIMED {
        let start = format!("| {number} | ");
        let row = page.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("no row for threat {number}"));
        let test = row.trim_end_matches(" |").rsplit(" | ").next();
        let test = test.unwrap_or_default();
        assert!(
            test == "pending" || tests_named_in(test).next().is_some(),
            "threat {number} has no test: {test:?}"
        );
    }
}

#[test]
fn each_line_on_protocols_has_a_test_that_is_there_or_says_why_not() {
    let page = fs::read_to_string(root().join("docs/PROTOCOLS.md")).expect("the page");
    let known = all_functions();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|line| !line.starts_with("| what |"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let [_, how, test] = cells.as_slice() else {
            panic!("three cells: {row}");
        };
        let named = test.trim().trim_matches('`');
        assert!(
            known.contains(named) || (named == "none" && how.contains(':')),
            "no such test: {row}"
        );
        count += 1;
    }
    assert!(count >= 30, "{count} lines");
}
