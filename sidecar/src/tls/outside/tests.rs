//! Servers outside of the mesh, with certificates of authorities that the tests make, on real sockets.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
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
/// Longer than anything here takes.
const WITHIN: Duration = Duration::from_secs(60);

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
        assert!(self.sidecar.shared.tls_files.follow(&snapshot, WITHIN));
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
    let past = std::time::SystemTime::now() - Duration::from_secs(30);
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
    assert!(files.follow(&builder.build(), WITHIN));
    let first = files.material(&outside).unwrap().generation;
    assert!(files.follow(&builder.build(), WITHIN));
    assert_eq!(
        files.material(&outside).unwrap().generation,
        first,
        "nothing changed"
    );
    builder.set_cluster(&name, None);
    assert!(files.follow(&builder.build(), WITHIN));
    assert!(files.material(&outside).is_err());
}

#[tokio::test]
async fn what_could_not_be_read_is_read_again_though_no_file_has_changed() {
    let authority = Authority::new();
    let (files, elsewhere) = (Files::new(), Files::new());
    let server = serve(&authority, Terms::default()).await;
    // One file with a name inside and one outside of what may be read: nothing of the file tells them apart.
    let inside = files.write("real.pem", &authority.pem());
    let outside = elsewhere.path("ca.pem");
    fs::hard_link(&inside, &outside).unwrap();
    let link = files.path("ca.pem");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let caller = Caller::new(&files, &server, simple(&link), &[]).await;
    assert_refused(&caller.get().await, &["which is not below a directory"]);
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&inside, &link).unwrap();
    caller.reread();
    assert_eq!(caller.get().await.status, 200);
}

#[tokio::test]
async fn a_revocation_list_that_has_expired_is_not_trusted() {
    let authority = Authority::new();
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    let terms = |serial: u64| Terms {
        leaf: Leaf::named(NAME).and(|params| params.serial_number = Some(serial.into())),
        ..Terms::default()
    };
    let (good, bad) = (
        serve(&authority, terms(1)).await,
        serve(&authority, terms(2)).await,
    );
    let hour = Duration::from_secs(3600);
    let now = std::time::SystemTime::now();
    let lists = files.path("crl.pem");
    let outside = OutsideTls {
        revoked: Some(lists.clone()),
        ..simple(&ca)
    };
    files.write("crl.pem", &authority.revokes(&[2], now + hour));
    let caller = Caller::new(&files, &good, outside.clone(), &[]).await;
    assert_eq!(caller.get().await.status, 200);
    let revoked = Caller::new(&files, &bad, outside.clone(), &[]).await;
    assert_refused(&revoked.get().await, &["it is revoked"]);
    files.write("crl.pem", &authority.revokes(&[2], now - hour));
    let caller = Caller::new(&files, &good, outside.clone(), &[]).await;
    assert_refused(
        &caller.get().await,
        &["revocation list", "crl.pem has expired"],
    );
    // All authorities here have one name: this list is one that somebody else signed in it.
    files.write("crl.pem", &Authority::new().revokes(&[2], now + hour));
    let caller = Caller::new(&files, &good, outside, &[]).await;
    assert_refused(&caller.get().await, &[]);
}

#[test]
fn what_is_no_file_is_not_opened() {
    let files = Files::new();
    fs::create_dir(files.path("ca.pem")).unwrap();
    let outside = simple(&files.path("ca.pem"));
    let read = TlsFiles::new(Allowed::new(&[files.0.path().to_owned()]));
    let mut config = cluster("pay");
    config.tls = Some(UpstreamTls {
        outside: Some(Arc::new(outside.clone())),
        ..UpstreamTls::default()
    });
    let mut builder = outrigger_core::SnapshotBuilder::default();
    builder.put_cluster(config, Vec::new());
    assert!(read.follow(&builder.build(), WITHIN));
    let why = read.material(&outside).unwrap_err();
    assert!(why.contains("is not a regular file"), "{why}");
}

#[tokio::test]
async fn an_idle_connection_of_files_that_have_changed_is_not_used() {
    let authority = Authority::new();
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    let server = serve(&authority, Terms::default()).await;
    let caller = Caller::new(&files, &server, simple(&ca), &[]).await;
    for _ in 0..2 {
        assert_eq!(caller.get().await.status, 200);
    }
    assert_eq!(server.app.connections(), 1);
    files.write("ca.pem", &Authority::new().pem());
    caller.reread();
    let until_refused = async {
        while caller.get().await.status == 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WITHIN, until_refused).await.unwrap();
    assert_refused(&caller.get().await, &["no root of its issuer's name"]);
}
