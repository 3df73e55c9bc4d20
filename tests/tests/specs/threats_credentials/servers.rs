//! Servers that are not the control plane, and what a management server may not make a sidecar do.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use outrigger_tests::ForeignRoot;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A TLS server that shows this certificate, perhaps with a root behind it, and counts who says anything to it.
struct Impostor {
    url: String,
    heard: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Impostor {
    async fn start(identity: &WorkloadIdentity, root: Option<&std::path::Path>) -> Self {
        let mut chain: Vec<_> = CertificateDer::pem_file_iter(&identity.certificate)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        if let Some(root) = root {
            chain.push(CertificateDer::from_pem_file(root).unwrap());
        }
        let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (heard, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&heard), Arc::clone(&refused));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let read = match acceptor.accept(stream).await {
                    Ok(mut tls) => tls.read(&mut [0; 64]).await.unwrap_or(0),
                    Err(_) => 0,
                };
                let count = if read > 0 { &counts.0 } else { &counts.1 };
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            url,
            heard,
            refused,
        }
    }

    /// A sidecar with this credential is sent there; gives what it logs.
    async fn tempts(&self, credential: &[&str]) -> String {
        let free = [
            "--outbound",
            "--inbound",
            "--admin",
            "--metrics",
            "--readiness",
        ];
        let mut args = [
            "sidecar",
            "--service",
            "reviews",
            "--control-plane",
            &self.url,
        ]
        .map(str::to_owned)
        .to_vec();
        args.extend(credential.iter().map(|word| (*word).to_owned()));
        for flag in free {
            args.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
        }
        args.push("--exit-with-parent".to_owned());
        let process = outrigger_tests::Process::spawn("tempted sidecar", &args, &[]);
        outrigger_tests::eventually("it has tried twice", async || {
            let tried = self.refused.load(Ordering::SeqCst) + self.heard.load(Ordering::SeqCst);
            (tried >= 2).then_some(()).ok_or_else(|| tried.to_string())
        })
        .await;
        outrigger_tests::eventually("it says why", async || {
            let log = process.log();
            log.contains("no certificate yet").then_some(()).ok_or(log)
        })
        .await;
        process.log()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_to_no_server_without_the_pinned_root_and_the_control_planes_name() {
    let mesh = Mesh::start().await;
    let token = mesh.join_token("default", "reviews");
    let root = mesh.data_dir().join("root.pem");
    let name = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";
    // Somebody else's root with the right name; a workload of the mesh with the right root.
    let foreign = ForeignRoot::new().issue(name);
    let workload = WorkloadIdentity::join(&mesh, "shopper").await;
    for (identity, root, why) in [
        (
            &foreign,
            None,
            "does not include the root that the join token pins",
        ),
        (&workload, Some(root.as_path()), "is not the control plane"),
    ] {
        let impostor = Impostor::start(identity, root).await;
        let log = impostor.tempts(&["--join-token", &token]).await;
        assert!(log.contains(why), "{log}");
        assert_eq!(impostor.heard.load(Ordering::SeqCst), 0, "{why}");
    }
    // The token is unused.
    ask(&mesh, &token, csr()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_is_shown_to_no_server_without_the_root_that_was_given() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "a.b.c").unwrap();
    let root = mesh.data_dir().join("root.pem").display().to_string();
    let name = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";
    let foreign = ForeignRoot::new().issue(name);
    let impostor = Impostor::start(&foreign, None).await;
    let token = file.display().to_string();
    let credential = ["--token-file", token.as_str(), "--root-ca", root.as_str()];
    let log = impostor.tempts(&credential).await;
    assert!(log.contains("control plane's certificate refused"), "{log}");
    assert_eq!(impostor.heard.load(Ordering::SeqCst), 0);
}
