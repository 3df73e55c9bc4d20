//! Documents that cannot be right are refused with file, line, column and what would be right; nothing is applied.

use std::fs;

use outrigger_tests::Mesh;

const GOOD: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: good
spec:
  hosts: [reviews]
  http:
  - route:
    - destination:
        host: reviews
";

fn with(line: &str, instead_of: &str) -> String {
    assert!(GOOD.contains(instead_of));
    GOOD.replace(instead_of, line)
}

/// Name, text, the place that must be named, words that must be said.
fn cases() -> Vec<(&'static str, String, &'static str, &'static str)> {
    let weights = "  - route:\n    - destination: {host: reviews}\n      weight: 0\n    - destination: {host: ratings}\n      weight: 0\n";
    let route = "  - route:\n    - destination:\n        host: reviews\n";
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (next, last) in ('b'..='i').zip('a'..) {
        bomb += &format!(
            "{next}: &{next} [{}]\n",
            vec![format!("*{last}"); 10].join(", ")
        );
    }
    vec![
        ("typing-error", with("  htpp:", "  http:"), "7:3", "http"),
        (
            "wrong-type",
            with("  hosts: 3", "  hosts: [reviews]"),
            "6:10",
            "list",
        ),
        ("weights", with(weights, route), "9:7", "weight"),
        (
            "subset",
            GOOD.to_owned() + "        subset: v9\n",
            "11:17",
            "v9",
        ),
        (
            "duplicate",
            GOOD.replace("  http:", "  hosts: [other]\n  http:"),
            "7:3",
            "hosts",
        ),
        (
            "syntax",
            with("  hosts: [reviews", "  hosts: [reviews]"),
            "",
            "",
        ),
        ("bomb", bomb, "", ""),
        (
            "later",
            with("  gateways: [ingress]\n  http:", "  http:"),
            "7:",
            "not supported yet",
        ),
        (
            "huge",
            format!("# {}\n{GOOD}", "x".repeat(20 << 20)),
            "1:1",
            "limit",
        ),
    ]
}

fn has_line_and_column(message: &str, path: &str) -> bool {
    let after = message
        .split_once(path)
        .map(|(_, after)| after)
        .unwrap_or_default();
    let numbers: Vec<&str> = after.split(':').skip(1).take(2).collect();
    numbers.len() == 2
        && numbers
            .iter()
            .all(|part| part.parse::<u32>().is_ok_and(|n| n > 0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_document_is_refused_with_its_place_and_nothing_is_applied() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let revision = mesh.status()["revision"].clone();
    for (name, text, place, words) in cases() {
        let file = dir.path().join(format!("{name}.yaml"));
        fs::write(&file, text.replace("name: good", "name: bad")).unwrap();
        let path = file.to_str().unwrap();
        // With a good one beside it, which must not be applied either.
        let good = dir.path().join("good.yaml");
        fs::write(&good, GOOD).unwrap();

        let refused = mesh.cli(&["apply", "-f", good.to_str().unwrap(), "-f", path]);

        assert_eq!(refused.status, 1, "{name}: {}", refused.stderr);
        let at = format!("{path}:{place}");
        let lines: Vec<&str> = refused
            .stderr
            .lines()
            .filter(|line| line.contains(&at))
            .collect();
        assert!(
            lines
                .iter()
                .any(|line| line.contains(words) && has_line_and_column(line, path)),
            "{name}: no line says \"{words}\" at {place}: {}",
            refused.stderr
        );
        assert!(refused.stdout.is_empty(), "{name}: {}", refused.stdout);
        assert_eq!(mesh.status()["revision"], revision, "{name}");
    }
    let held = mesh.cli(&["get", "-o", "json"]);
    assert!(!held.stdout.contains("good"), "{}", held.stdout);

    // And it goes on.
    let applied = mesh.apply(GOOD);
    assert!(
        applied.contains("virtualservice.networking.istio.io/good created"),
        "{applied}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_checks_and_changes_nothing() {
    let mesh = Mesh::start().await;
    let before = mesh.status()["revision"].clone();

    let output = mesh.cli_with_input(&["apply", "--dry-run", "-f", "-"], GOOD);

    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(
        output.stdout.contains("good created (dry run)"),
        "{}",
        output.stdout
    );
    assert_eq!(mesh.status()["revision"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_is_given_back_byte_for_byte_and_can_be_deleted() {
    let mesh = Mesh::start().await;
    mesh.apply(&format!("# a comment\n{GOOD}"));

    let yaml = mesh.cli(&["get", "vs", "good", "-o", "yaml"]).stdout;
    assert!(yaml.contains(GOOD), "{yaml}");
    let deleted = mesh.cli(&["delete", "virtualservice", "good"]);
    assert!(
        deleted
            .stdout
            .contains("virtualservice.networking.istio.io/good deleted"),
        "{deleted:?}"
    );
    assert_eq!(mesh.cli(&["get", "vs", "good"]).status, 1);
    let history = mesh.cli(&["get", "vs", "good", "--history"]).stdout;
    assert!(history.contains("(deleted)"), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_not_there_is_named_with_a_way_out() {
    let mesh = Mesh::start().await;
    mesh.kill_control_plane();

    let output = mesh.cli(&["status"]);

    assert_eq!(output.status, 1);
    for words in [mesh.url().as_str(), "refused", "outrigger control-plane"] {
        assert!(output.stderr.contains(words), "{words}: {}", output.stderr);
    }
}
