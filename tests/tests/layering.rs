//! Who may depend on whom, as `docs/ARCHITECTURE.md` says. The compiler forbids cycles; this forbids shortcuts.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// Crate → the crates of ours below it. What the table calls "everything" is every crate.
const ALLOWED: &[(&str, &[&str])] = &[
    ("outrigger-proto", &[]),
    ("outrigger-policy", &[]),
    (
        "outrigger-control-plane",
        &["outrigger-policy", "outrigger-proto"],
    ),
    ("outrigger-core", &[]),
    ("outrigger-sidecar", &["outrigger-core", "outrigger-proto"]),
    (
        "outrigger",
        &[
            "outrigger-control-plane",
            "outrigger-policy",
            "outrigger-proto",
            "outrigger-shop",
            "outrigger-sidecar",
        ],
    ),
    ("outrigger-shop", &[]),
    (
        "outrigger-tests",
        &[
            "outrigger-policy",
            "outrigger-proto",
            "outrigger-core",
            "outrigger-sidecar",
        ],
    ),
    ("outrigger-bench", &["outrigger-core", "outrigger-proto"]),
];

/// Crate → the crates of ours that it depends on, tests and build scripts included.
fn edges() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let names: Vec<String> = packages
        .iter()
        .map(|package| text(&package["name"]))
        .collect();
    packages
        .iter()
        .map(|package| {
            let below = package["dependencies"].as_array().expect("dependencies");
            let below = below.iter().map(|dependency| text(&dependency["name"]));
            (
                text(&package["name"]),
                below.filter(|name| names.contains(name)).collect(),
            )
        })
        .collect()
}

#[test]
fn each_crate_depends_only_on_the_crates_below_it() {
    for (name, below) in edges() {
        let allowed = ALLOWED.iter().find(|(known, _)| *known == name);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{name} is new: give it a line here"));
        for dependency in below {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} may not depend on {dependency}"
            );
        }
    }
}

#[test]
fn the_two_halves_meet_only_on_the_wire() {
    let edges = edges();
    let mut reached = vec!["outrigger-sidecar".to_owned()];
    while let Some(name) = reached.pop() {
        assert_ne!(name, "outrigger-control-plane");
        reached.extend(edges[&name].iter().cloned());
    }
}

#[test]
fn the_map_in_the_docs_names_every_crate() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ARCHITECTURE.md");
    let text = fs::read_to_string(docs).expect("docs/ARCHITECTURE.md");
    for name in edges().keys() {
        assert!(text.contains(&format!("| `{name}` |")), "no row for {name}");
    }
}
