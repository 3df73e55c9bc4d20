//! The way to a management server, as a bootstrap file says it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_file_with_what_we_do_not_do_ends_with_its_field() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "node: {id: a}\nadmin: {}\n").unwrap();
    let output = std::process::Command::new(outrigger_tests::outrigger())
        .args(["sidecar", "--bootstrap"])
        .arg(file.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = format!(
        "{}: admin: not supported yet; use --admin",
        file.path().display()
    );
    assert!(said.contains(&expected), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_server_at_a_unix_socket_hears_the_metadata_of_the_bootstrap() {
    let mut server = ForeignServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("XDS");
    server.listen_at(&path);
    let file = bootstrap(XdsForm::Delta, 1, "");
    let text = fs::read_to_string(file.path()).unwrap();
    let text = text
        .replace(
            "socket_address: {address: 127.0.0.1, port_value: 1}",
            &format!("pipe: {{path: {}}}", path.display()),
        )
        .replace(
            "{envoy_grpc: {cluster_name: xds}}",
            "{envoy_grpc: {cluster_name: xds}, initial_metadata: [{key: x-token, value: secret}]}",
        );
    fs::write(file.path(), text).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let args = arguments(file.path(), any);
    let sidecar = tokio::spawn(async move { Process::start("piped sidecar", &args, &[]).await });
    let mut stream = server.accept().await;
    assert_eq!(stream.metadata("x-token"), Some("secret"));
    assert_eq!(stream.heard().await.kind, "Cluster");
    sidecar.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_server_proves_its_name_and_asks_for_the_certificate_that_the_bootstrap_names() {
    let dir = tempfile::tempdir().unwrap();
    let ours = rcgen::generate_simple_self_signed(["caller.example".to_owned()]).unwrap();
    let (mut server, tls_port, root) =
        ForeignServer::start_with_tls("xds.example", &ours.cert.pem()).await;
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (root, chain, key) = (
        file("ca.pem", &root),
        file("me.pem", &ours.cert.pem()),
        file("me.key", &ours.signing_key.serialize_pem()),
    );
    let tls = |expected: &str| {
        format!(
            "    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: xds.example
        common_tls_context:
          validation_context:
            trusted_ca: {{filename: {root}}}
            match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {expected}}}}}]
          tls_certificates: [{{certificate_chain: {{filename: {chain}}}, private_key: {{filename: {key}}}}}]
"
        )
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let other = bootstrap(XdsForm::Delta, tls_port, &tls("other.example"));
    let refuses = Process::spawn("refusing sidecar", &arguments(other.path(), any), &[]);
    eventually("the server is refused by its name", async || {
        let log = refuses.log();
        if log.contains("other.example") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    drop(refuses);
    let right = bootstrap(XdsForm::Delta, tls_port, &tls("xds.example"));
    let _sidecar = Process::spawn("foreign sidecar", &arguments(right.path(), any), &[]);
    let mut stream = server.accept().await;
    assert_eq!(stream.heard().await.node.as_deref(), Some("foreign-1"));
}
