//! Programs that know nothing of a mesh, over mutual TLS between their hosts: HTTP.

use outrigger_tests::{APPLICATION, CapturedMesh, TestApp, within};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn curl_reaches_a_service_by_its_name_over_both_families_and_nobody_reads_along() {
    let Some(mesh) = CapturedMesh::start().await else {
        return;
    };
    let wire = mesh.network.wire("telling-word");
    let mut members = Vec::new();
    let mut apps = Vec::new();
    for (n, name) in ["orders", "orders6"].into_iter().enumerate() {
        let host = mesh.network.host(name);
        apps.push(TestApp::start_on(
            name,
            host.listen("[::]:8080".parse().unwrap()),
        ));
        let at = host.addresses()[n];
        members.push(
            mesh.server(name, &host, at, 8080, &["--protocol", "auto"])
                .await,
        );
    }
    let shopper = mesh.client("shopper", "").await;
    let app = shopper.host.as_user(APPLICATION);
    for name in ["orders", "orders6"] {
        for family in ["-4", "-6"] {
            for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
                let url = format!("http://{name}:8080/telling-word");
                let words = [
                    "curl",
                    "-sS",
                    "-i",
                    "--max-time",
                    "10",
                    family,
                    version,
                    &url,
                ];
                within(Duration::from_secs(30), &url, async || {
                    let output = app.run(&words);
                    match output.status == 0
                        && output.stdout.contains(&format!("\"name\":\"{name}\""))
                    {
                        true => Ok(()),
                        false => Err(format!("{words:?}: {} {}", output.stdout, output.stderr)),
                    }
                })
                .await;
            }
        }
    }
    assert!(wire.frames() > 0);
    assert_eq!(wire.readable(), 0, "somebody could read along");
}
