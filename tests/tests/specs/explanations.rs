//! What a sidecar would do is told without sending anything, with the lines that decide; what is odd is told with codes.

use http::Method;
use outrigger_tests::{HttpRegistry, Mesh};
use serde_json::{Value, json};

const RULES: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews
  subsets:
  - name: v1
    labels: {version: v1}
  - name: v2
    labels: {version: v2}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews]
  http:
  - match:
    - headers:
        canary:
          exact: 'true'
    route:
    - destination: {host: reviews, subset: v2}
  - timeout: 3s
    route:
    - destination: {host: reviews, subset: v1}
";

async fn mesh() -> Mesh {
    let mesh = Mesh::start().await;
    let registry = HttpRegistry::of(&mesh);
    for (id, version, port) in [("a", "v1", 18_081), ("b", "v1", 18_082)] {
        let body = json!({
            "address": "127.0.0.1", "port": 9080, "target_port": port, "labels": {"version": version}, "ttl": 300
        });
        let path = format!("/v1/services/reviews/instances/{id}");
        let reply = registry.call(Method::PUT, &path, &body).await;
        assert!(reply.status.is_success(), "{}", reply.text());
    }
    mesh
}

fn why(mesh: &Mesh, args: &[&str]) -> Value {
    let mut all = vec!["why", "-o", "json"];
    all.extend(args);
    let output = mesh.cli(&all);
    assert_eq!(output.status, 0, "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn why_names_the_lines_that_decide_and_the_condition_that_fails() {
    let mesh = mesh().await;
    mesh.apply(RULES);
    let found = why(&mesh, &["GET", "http://reviews:9080/1"]);
    let routes = found["routes"].as_array().unwrap();
    assert_eq!(routes[0]["position"], "-:20:5");
    assert_eq!(
        routes[0]["why_not"],
        "the header canary is missing; wanted \"true\""
    );
    assert_eq!(routes[1]["position"], "-:26:5");
    assert_eq!(routes[1]["matches"], true);
    assert!(
        found["policy"]["timeout"]
            .as_str()
            .unwrap()
            .starts_with("3s"),
        "{found}"
    );
    let cluster = &found["clusters"][0];
    assert_eq!(
        cluster["name"],
        "outbound|9080|v1|reviews.default.svc.cluster.local"
    );
    assert_eq!(cluster["endpoints"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(found["refused"], json!([]));

    let canary = why(
        &mesh,
        &["GET", "http://reviews:9080/1", "-H", "canary: true"],
    );
    assert_eq!(
        canary["clusters"][0]["answer"]["code"], "no_endpoints",
        "{canary}"
    );
    let nobody = why(&mesh, &["GET", "http://nobody/"]);
    assert_eq!(nobody["outcome"]["code"], "no_route_host", "{nobody}");
    let text = mesh.cli(&["why", "GET", "http://reviews:9080/1"]).stdout;
    assert!(
        text.contains("  1 no   -:20:5: the header canary is missing"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn analyze_finds_with_the_cluster_what_the_documents_alone_do_not_show() {
    let mesh = mesh().await;
    let offline = mesh.cli_with_input(&["analyze", "-f", "-", "--fail-on", "warning"], RULES);
    assert_eq!(offline.status, 0, "{offline:?}");
    let args = [
        "analyze",
        "-f",
        "-",
        "--with-cluster",
        "--fail-on",
        "warning",
        "-o",
        "json",
    ];
    let found = mesh.cli_with_input(&args, RULES);
    assert_eq!(found.status, 1, "{found:?}");
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["findings"][0]["code"], "OUT0309", "{found}");
    assert_eq!(found["findings"][0]["line"], 11, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_says_what_of_a_document_is_not_in_force() {
    let mesh = mesh().await;
    // Nobody who runs has the second subset; all else is in force.
    let first = mesh.cli_with_input(&["apply", "-f", "-"], RULES);
    let remarks: Vec<_> = first
        .stdout
        .lines()
        .filter(|line| line.contains("in force"))
        .collect();
    let subset = "  in force in part: OUT0309 spec.subsets[1].labels (-:11:13)";
    assert_eq!(remarks, [subset], "{first:?}");
    let behind = RULES.replace("  - timeout: 3s\n", "  - timeout: 3s\n    name: all\n")
        + "  - route:\n    - destination: {host: reviews, subset: v2}\n";
    let told = mesh.cli_with_input(&["apply", "-f", "-"], &behind);
    assert_eq!(told.status, 0, "{told:?}");
    assert!(
        told.stdout
            .contains("  in force in part: OUT0401 spec.http[2] (-:30:5)"),
        "{told:?}"
    );
    assert!(told.stderr.contains("[OUT0401]"), "{told:?}");
}
