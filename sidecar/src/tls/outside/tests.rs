//! Servers outside of the mesh, with certificates of authorities that the tests make, on real sockets.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_core::{OutsideTls, UpstreamProtocol, UpstreamTls};
use rustls::{
    RootCertStore, ServerConfig,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    testing::{
        Authority, Leaf, Sidecar,
        app::{Answer, App, get},
        cluster, config, endpoint,
    },
    tls::files::{Allowed, TlsFiles},
};

const NAME: &str = "pay.example.com";

/// A server with TLS in front of an application.
struct Server {
    address: SocketAddr,
    app: App,
}

/// What is particular to a server.
struct Terms {
    leaf: Leaf,
    clients: Arc<dyn ClientCertVerifier>,
    alpn: Vec<&'static str>,
    versions: Vec<&'static rustls::SupportedProtocolVersion>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            leaf: Leaf::named(NAME),
            clients: Arc::new(NoClientAuth),
            alpn: Vec::new(),
            versions: vec![&rustls::version::TLS13, &rustls::version::TLS12],
        }
    }
}

/// Lets in whoever this authority knows.
fn only(authority: &Authority) -> Arc<dyn ClientCertVerifier> {
    let roots = RootCertStore::clone(&authority.roots());
    let provider = crate::tls::provider();
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap()
}

async fn serve(authority: &Authority, terms: Terms) -> Server {
    let app = App::start("pay").await;
    let mut config = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&terms.versions)
        .unwrap()
        .with_client_cert_verifier(terms.clients)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(
            authority.sign(&terms.leaf),
        )));
    config.alpn_protocols = terms
        .alpn
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let to = app.address;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(stream).await else {
                    return;
                };
                let mut app = TcpStream::connect(to).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut tls, &mut app).await);
            });
        }
    });
    Server { address, app }
}

/// A directory of files that may be named.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        // Beside it and then renamed, as whoever rotates certificates should.
        let (path, new) = (self.path(name), self.path("new"));
        fs::write(&new, content).unwrap();
        fs::rename(new, &path).unwrap();
        path
    }
}

/// What a caller gets whose sidecar has these files.
struct Caller {
    sidecar: Sidecar,
    proxy: SocketAddr,
}

impl Caller {
    async fn new(files: &Files, to: &Server, outside: OutsideTls, names: &[&str]) -> Self {
        let protocol = UpstreamProtocol::AsDownstream;
        Self::speaking(protocol, files, to, outside, names).await
    }

    async fn speaking(
        protocol: UpstreamProtocol,
        files: &Files,
        to: &Server,
        outside: OutsideTls,
        names: &[&str],
    ) -> Self {
        let mut pay = cluster("reviews");
        pay.protocol = protocol;
        pay.tls = Some(UpstreamTls {
            subject_alt_names: names.iter().map(|name| (*name).to_owned()).collect(),
            sni: NAME.to_owned(),
            outside: Some(Arc::new(outside)),
            ..UpstreamTls::default()
        });
        let mut settings = config();
        settings.tls_files = vec![files.0.path().to_owned()];
        // Each worker has connections of its own.
        settings.workers = 1;
        let endpoints = vec![endpoint(to.address, true)];
        let (sidecar, proxy) = Sidecar::outbound(&settings, None, pay, endpoints, |_| {}).await;
        let caller = Self { sidecar, proxy };
        caller.reread();
        caller
    }

    /// What happens every few seconds.
    fn reread(&self) {
        let snapshot = self.sidecar.shared.snapshot.load();
        self.sidecar.shared.tls_files.follow(&snapshot);
    }

    async fn get(&self) -> Answer {
        get(self.proxy, "/").await
    }
}

fn simple(roots: &Path) -> OutsideTls {
    OutsideTls {
        roots: Some(roots.to_owned()),
        tls12: true,
        ..OutsideTls::default()
    }
}

fn assert_refused(answer: &Answer, told: &[&str]) {
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains("tls_failed"), "{}", answer.body);
    for told in told {
        assert!(answer.body.contains(told), "{told:?} in {}", answer.body);
    }
}

#[tokio::test]
async fn a_server_is_known_by_its_name_and_its_root() {
    let authority = Authority::new();
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    let server = serve(&authority, Terms::default()).await;
    let caller = Caller::new(&files, &server, simple(&ca), &[]).await;
    for _ in 0..3 {
        let answer = caller.get().await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "pay"));
    }
    assert_eq!(server.app.connections(), 1, "connections are kept");

    let named = Caller::new(&files, &server, simple(&ca), &["else.example", NAME]).await;
    assert_eq!(named.get().await.status, 200, "one of the names is enough");

    let other = Caller::new(&files, &server, simple(&ca), &["else.example"]).await;
    let told = ["DNSName(pay.example.com)", "expected else.example"];
    assert_refused(&other.get().await, &told);

    let stranger = Authority::new();
    let strange = files.write("strange.pem", &stranger.pem());
    let caller = Caller::new(&files, &server, simple(&strange), &[]).await;
    let told = [
        "no root of its issuer's name has signed it",
        "DNSName(pay.example.com)",
        "strange.pem",
    ];
    assert_refused(&caller.get().await, &told);

    let any = OutsideTls {
        unverified: true,
        tls12: true,
        ..OutsideTls::default()
    };
    let credulous = Caller::new(&files, &server, any, &[]).await;
    assert_eq!(credulous.get().await.status, 200, "nothing is asked for");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_its_reason() {
    let authority = Authority::new();
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(30);
    let terms = Terms {
        leaf: Leaf::named(NAME).and(|params| params.not_after = past.into()),
        ..Terms::default()
    };
    let server = serve(&authority, terms).await;
    let caller = Caller::new(&files, &server, simple(&ca), &[]).await;
    assert_refused(&caller.get().await, &["it has expired"]);
}

#[tokio::test]
async fn a_client_certificate_is_shown_only_where_it_is_said() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    let (chain, key) = clients.sign_pem(&Leaf::named("shop.example"));
    let (chain, key) = (
        files.write("shop.pem", &chain),
        files.write("shop.key", &key),
    );
    let terms = Terms {
        clients: only(&clients),
        ..Terms::default()
    };
    let server = serve(&authority, terms).await;
    let mutual = OutsideTls {
        client: Some((chain.clone(), key)),
        ..simple(&ca)
    };
    let caller = Caller::new(&files, &server, mutual, &[]).await;
    assert_eq!(caller.get().await.status, 200);
    let caller = Caller::new(&files, &server, simple(&ca), &[]).await;
    assert_eq!(caller.get().await.status, 503);

    let (_, wrong) = clients.sign_pem(&Leaf::named("shop.example"));
    let wrong = files.write("wrong.key", &wrong);
    let mixed = OutsideTls {
        client: Some((chain, wrong)),
        ..simple(&ca)
    };
    let caller = Caller::new(&files, &server, mixed, &[]).await;
    let told = ["wrong.key", "is not that of the certificate in"];
    assert_refused(&caller.get().await, &told);
}

#[tokio::test]
async fn files_are_read_again_when_they_change_and_the_last_good_goes_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new();
    let server = serve(&new, Terms::default()).await;
    let ca = files.path("ca.pem");
    let caller = Caller::new(&files, &server, simple(&ca), &[]).await;
    assert_refused(&caller.get().await, &["ca.pem", "No such file"]);
    for (content, status) in [
        (old.pem(), 503),
        (new.pem(), 200),
        ("not PEM".to_owned(), 200),
        (String::new(), 200),
        (format!("{}{}", old.pem(), new.pem()), 200),
    ] {
        files.write("ca.pem", &content);
        caller.reread();
        assert_eq!(caller.get().await.status, status, "{content}");
    }
    fs::remove_file(&ca).unwrap();
    caller.reread();
    assert_eq!(caller.get().await.status, 200);
}

#[tokio::test]
async fn http2_is_spoken_where_the_port_says_so_and_the_server_agrees() {
    let authority = Authority::new();
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    for (alpn, status) in [
        (&["h2", "http/1.1"][..], 200),
        (&["h2"], 200),
        (&["http/1.1"], 503),
        (&[], 503),
    ] {
        let terms = Terms {
            alpn: alpn.to_vec(),
            ..Terms::default()
        };
        let server = serve(&authority, terms).await;
        let h2 = UpstreamProtocol::Http2;
        let caller = Caller::speaking(h2, &files, &server, simple(&ca), &[]).await;
        let answer = caller.get().await;
        assert_eq!(answer.status, status, "{alpn:?}: {}", answer.body);
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_where_it_is_allowed() {
    let authority = Authority::new();
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    let terms = Terms {
        versions: vec![&rustls::version::TLS12],
        ..Terms::default()
    };
    let server = serve(&authority, terms).await;
    for (tls12, status) in [(true, 200), (false, 503)] {
        let outside = OutsideTls {
            tls12,
            ..simple(&ca)
        };
        let caller = Caller::new(&files, &server, outside, &[]).await;
        assert_eq!(caller.get().await.status, status);
    }
}

#[tokio::test]
async fn a_file_outside_of_the_directories_is_not_read_by_any_way() {
    let authority = Authority::new();
    let (inside, outside) = (Files::new(), Files::new());
    let secret = outside.write("ca.pem", &authority.pem());
    let link = inside.path("ca.pem");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    let server = serve(&authority, Terms::default()).await;
    let caller = Caller::new(&inside, &server, simple(&link), &[]).await;
    let told = ["which is not below a directory of --tls-files"];
    assert_refused(&caller.get().await, &told);

    let allowed = Allowed::new(&[PathBuf::from("/etc/shop")]);
    let said = |path: &str| allowed.objection(Path::new(path)).unwrap_or_default();
    assert_eq!(said("/etc/shop/ca.pem"), "");
    assert_eq!(said("/etc/shop/more/ca.pem"), "");
    assert!(said("/etc/shopping/ca.pem").contains("below /etc/shop only"));
    assert!(said("/etc/shop/../passwd").contains("without .."));
    assert!(said("ca.pem").contains("absolute"));
    let none = Allowed::default().objection(Path::new("/a")).unwrap();
    assert!(none.contains("without --tls-files DIR"), "{none}");
}

#[test]
fn what_no_cluster_names_is_forgotten() {
    let files = TlsFiles::default();
    let outside = OutsideTls {
        unverified: true,
        ..OutsideTls::default()
    };
    let mut builder = outrigger_core::SnapshotBuilder::default();
    let mut config = cluster("pay");
    let name = config.name.clone();
    config.tls = Some(UpstreamTls {
        outside: Some(Arc::new(outside.clone())),
        ..UpstreamTls::default()
    });
    let pay = outrigger_core::Cluster::new(config, Vec::new(), None);
    builder.set_cluster(&name, Some(Arc::new(pay)));
    files.follow(&builder.build());
    let first = files.material(&outside).unwrap().generation;
    files.follow(&builder.build());
    assert_eq!(
        files.material(&outside).unwrap().generation,
        first,
        "nothing changed"
    );
    builder.set_cluster(&name, None);
    files.follow(&builder.build());
    assert!(files.material(&outside).is_err());
}
