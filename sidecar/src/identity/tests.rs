//! Against a certificate authority over real TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use outrigger_proto::outrigger::v1::IssueCertificateResponse;
use outrigger_proto::outrigger::v1::identity_server::{
    Identity as IdentityService, IdentityServer,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{ServerConfig, client::danger::ServerCertVerifier as _, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateSigningRequestDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Response, Status, transport::server::Connected};

use super::{
    verify::{ControlPlaneVerifier, Trust, sha256},
    *,
};
use crate::{Config, settings_for_tests::config};

const US: &str = "spiffe://cluster.local/ns/default/sa/reviews";
const THEM: &str = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(ids: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = ids
        .iter()
        .map(|id| SanType::URI((*id).try_into().unwrap()))
        .collect();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

/// A connection that tells its handler who called.
struct Io(TlsStream<TcpStream>);

impl Connected for Io {
    /// Certificate of the client.
    type ConnectInfo = Option<Vec<u8>>;

    fn connect_info(&self) -> Option<Vec<u8>> {
        let leaf = self.0.get_ref().1.peer_certificates()?.first()?;
        Some(leaf.to_vec())
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Issues to who shows the token `secret.<hash>` or a certificate.
struct Signer {
    authority: Arc<Authority>,
    /// Written into certificates; [`US`] in an honest one.
    id: String,
}

#[tonic::async_trait]
impl IdentityService for Signer {
    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned());
        let peer = request
            .extensions()
            .get::<Option<Vec<u8>>>()
            .cloned()
            .flatten();
        match (token, peer) {
            (Some(token), None) if token.starts_with("Bearer secret.") => {}
            (None, Some(_)) => {}
            other => return Err(Status::unauthenticated(format!("{other:?}"))),
        }
        let der = CertificateSigningRequestDer::from(request.into_inner().csr_der);
        let mut csr = CertificateSigningRequestParams::from_der(&der).unwrap();
        csr.params = leaf(&[&self.id]);
        let certificate = csr.signed_by(&*self.authority).unwrap();
        let not_after = i64::try_from(unix_now() + 3600).unwrap();
        Ok(Response::new(IssueCertificateResponse {
            chain_der: vec![certificate.der().to_vec()],
            roots_der: vec![self.authority.der().to_vec()],
            spiffe_id: US.to_owned(),
            not_after: Some(prost_types::Timestamp {
                seconds: not_after,
                nanos: 0,
            }),
        }))
    }
}

/// Starts a control plane; `server_id` is what its certificate says.
async fn control_plane(authority: &Arc<Authority>, server_id: &str, issued_id: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf(&[server_id]).signed_by(&key, &**authority).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
    let chain = vec![certificate.der().clone(), authority.der().clone()];
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming =
        futures_util::stream::unfold((listener, acceptor), |(listener, acceptor)| async {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                if let Ok(tls) = acceptor.accept(tcp).await {
                    return Some((Ok::<_, io::Error>(Io(tls)), (listener, acceptor)));
                }
            }
        });
    let signer = Signer {
        authority: Arc::clone(authority),
        id: issued_id.to_owned(),
    };
    let server = tonic::transport::Server::builder()
        .add_service(IdentityServer::new(signer))
        .serve_with_incoming(incoming);
    tokio::spawn(Box::pin(server));
    format!("https://{address}")
}

fn token(secret: &str, pinned: &Authority) -> String {
    let hash: String = sha256(pinned.der())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{secret}.{hash}")
}

fn issuer(url: String, join_token: String) -> (Issuer, Arc<Shared>) {
    let shared = Shared::new(crate::tls::files::Allowed::default());
    let config = Config {
        control_plane: url,
        join_token: Some(join_token.clone()),
        ..config()
    };
    let issuer = Issuer {
        control: Arc::new(Control::new(&config, Arc::clone(&shared)).unwrap()),
        store: Arc::new(IdentityStore::new(Arc::clone(&shared))),
        vitals: Arc::new(Vitals::new(&prometheus::Registry::new(), false, true)),
        credential: Credential {
            join_token: Some(join_token),
            token_file: None,
        },
        workload: config.workload,
        ttl: config.certificate_ttl,
    };
    (issuer, shared)
}

fn reason(result: Result<Issued, IssueError>) -> String {
    result.map_or_else(|error| chain(&error), |_| "issued".to_owned())
}

#[tokio::test]
async fn a_join_token_gives_the_first_certificate_and_that_one_the_next() {
    let authority = Arc::new(authority());
    let url = control_plane(&authority, THEM, US).await;
    let (issuer, shared) = issuer(url, token("secret", &authority));
    let mut renewals = issuer.store.renewals();
    issuer.first().await.unwrap();
    let first = shared.identity.load_full().unwrap();
    assert_eq!((&*first.spiffe_id, first.generation), (US, 1));
    assert_eq!(first.roots.roots.len(), 1);
    assert!(renewals.has_changed().unwrap());
    renewals.mark_unchanged();
    // Without a token: only the certificate can speak for us.
    issuer.again(&Key::generate().unwrap()).await.unwrap();
    let second = shared.identity.load_full().unwrap();
    assert_eq!(second.generation, 2);
    assert!(renewals.has_changed().unwrap());
    let der = |identity: &Identity| identity.certified_key.cert[0].to_vec();
    assert_ne!(der(&first), der(&second));
}

#[tokio::test]
async fn who_hands_certificates_over_can_go_on_with_them_without_a_token() {
    let authority = Arc::new(authority());
    let url = control_plane(&authority, THEM, US).await;
    let (mut issuer, shared) = issuer(url.clone(), token("secret", &authority));
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(CertificateFiles::open(dir.path()).unwrap());
    issuer.store = Arc::new(IdentityStore::new(Arc::clone(&shared)).writing(Arc::clone(&files)));
    issuer.first().await.unwrap();
    let written = shared.identity.load_full().unwrap();

    let kept = files.kept().unwrap().unwrap();
    assert_eq!(&*kept.spiffe_id, US);
    assert_eq!(kept.certified_key.cert, written.certified_key.cert);
    let later = Shared::new(crate::tls::files::Allowed::default());
    let store = IdentityStore::new(Arc::clone(&later)).writing(Arc::clone(&files));
    store.install(kept);
    let nothing = crate::control::First {
        join_token: None,
        token_file: false,
        spiffe: false,
        root_ca: None,
    };
    issuer.control = Arc::new(Control::ours(&url, nothing, Arc::clone(&later)).unwrap());
    issuer.store = Arc::new(store);
    issuer.again(&Key::generate().unwrap()).await.unwrap();
    let renewed = later.identity.load_full().unwrap();
    let there = files.kept().unwrap().unwrap();
    assert_ne!(renewed.certified_key.cert, written.certified_key.cert);
    assert_eq!(there.certified_key.cert, renewed.certified_key.cert);
}

#[tokio::test]
async fn what_cannot_be_written_is_not_used_either() {
    let authority = Arc::new(authority());
    let url = control_plane(&authority, THEM, US).await;
    let (mut issuer, shared) = issuer(url, token("secret", &authority));
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(CertificateFiles::open(dir.path()).unwrap());
    // Where the link is switched.
    std::fs::create_dir(dir.path().join("..new-data")).unwrap();
    issuer.store = Arc::new(IdentityStore::new(Arc::clone(&shared)).writing(files));
    let error = chain(&issuer.first().await.unwrap_err());
    assert!(
        error.starts_with("certificate could not be written: cannot write"),
        "{error}"
    );
    assert!(shared.identity.load().is_none());
}

#[tokio::test]
async fn a_control_plane_with_another_root_than_the_pinned_one_is_not_talked_to() {
    let theirs = Arc::new(authority());
    let url = control_plane(&theirs, THEM, US).await;
    let (issuer, _) = issuer(url, token("secret", &authority()));
    let found = reason(
        issuer
            .issue(
                &Key::generate().unwrap(),
                issuer.credential.join_token.as_deref(),
            )
            .await,
    );
    assert!(
        found.contains("does not include the root that the join token pins"),
        "{found}"
    );
}

#[tokio::test]
async fn a_workload_cannot_play_the_control_plane() {
    let authority = Arc::new(authority());
    let url = control_plane(&authority, US, US).await;
    let (issuer, _) = issuer(url, token("secret", &authority));
    let found = reason(
        issuer
            .issue(
                &Key::generate().unwrap(),
                issuer.credential.join_token.as_deref(),
            )
            .await,
    );
    assert!(
        found.contains(&format!("{US} is not the control plane")),
        "{found}"
    );
}

#[tokio::test]
async fn a_token_that_is_refused_is_not_tried_again() {
    let authority = Arc::new(authority());
    let url = control_plane(&authority, THEM, US).await;
    let (issuer, shared) = issuer(url, token("stolen", &authority));
    assert!(matches!(issuer.first().await, Err(IssueError::Refused(_))));
    assert!(shared.identity.load().is_none());
}

#[tokio::test]
async fn a_token_of_another_workload_is_not_taken_for_ours() {
    let authority = Arc::new(authority());
    let url = control_plane(&authority, THEM, US).await;
    let (mut issuer, shared) = issuer(url, token("secret", &authority));
    issuer.workload.service_account = "ratings".to_owned();
    let error = issuer.first().await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("the token is for {US}"))
            && error.contains("service account ratings of namespace default"),
        "{error}"
    );
    assert!(shared.identity.load().is_none());
}

#[tokio::test]
async fn a_certificate_for_another_identity_or_key_is_not_used() {
    let authority = Arc::new(authority());
    let url = control_plane(
        &authority,
        THEM,
        "spiffe://cluster.local/ns/default/sa/other",
    )
    .await;
    let (issuer, _) = issuer(url, token("secret", &authority));
    let found = reason(
        issuer
            .issue(
                &Key::generate().unwrap(),
                issuer.credential.join_token.as_deref(),
            )
            .await,
    );
    assert!(found.contains("instead of"), "{found}");

    let key = KeyPair::generate().unwrap();
    let foreign = leaf(&[US]).signed_by(&key, &*authority).unwrap();
    let response = IssueCertificateResponse {
        chain_der: vec![foreign.der().to_vec()],
        roots_der: vec![authority.der().to_vec()],
        spiffe_id: US.to_owned(),
        not_after: Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        }),
    };
    let found = reason(Key::generate().unwrap().usable(response));
    assert!(found.contains("another key"), "{found}");
}

#[tokio::test]
async fn another_bundle_leaves_the_certificate_as_it_is() {
    let ours = Arc::new(authority());
    let url = control_plane(&ours, THEM, US).await;
    let (issuer, shared) = issuer(url, token("secret", &ours));
    issuer.first().await.unwrap();
    let before = shared.identity.load_full().unwrap();
    issuer.store.set_bundle(vec![ours.der().clone()]);
    assert_eq!(
        shared.identity.load_full().unwrap().generation,
        before.generation,
        "the same bundle is no change"
    );
    issuer
        .store
        .set_bundle(vec![ours.der().clone(), authority().der().clone()]);
    let after = shared.identity.load_full().unwrap();
    assert_eq!(
        (after.generation, after.roots.roots.len()),
        (before.generation + 1, 2)
    );
    assert!(Arc::ptr_eq(&after.certified_key, &before.certified_key));
}

#[test]
fn only_the_control_plane_of_our_trust_domain_is_the_control_plane() {
    let ours = authority();
    let other = authority();
    let mut roots = RootCertStore::empty();
    roots.add(ours.der().clone()).unwrap();
    let trust = Trust::Bundle {
        roots: Arc::new(roots),
        our_id: US.into(),
    };
    let verifier = ControlPlaneVerifier::new(trust, &rustls::crypto::aws_lc_rs::default_provider());
    let verify = |authority: &Authority, ids: &[&str]| {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf(ids).signed_by(&key, authority).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        verifier
            .verify_server_cert(
                certificate.der(),
                &[authority.der().clone()],
                &name,
                &[],
                UnixTime::now(),
            )
            .is_ok()
    };
    assert!(verify(&ours, &[THEM]));
    assert!(
        !verify(&other, &[THEM]),
        "another root, though it is in the chain"
    );
    assert!(!verify(&ours, &[US]));
    assert!(!verify(&ours, &[THEM, US]), "two ids");
    assert!(!verify(&ours, &[]), "no id");
    assert!(!verify(
        &ours,
        &["spiffe://evil.example/ns/outrigger-system/sa/control-plane"]
    ));
    assert!(!verify(
        &ours,
        &["https://cluster.local/ns/outrigger-system/sa/control-plane"]
    ));
}

#[tokio::test]
async fn a_bundle_that_came_over_an_open_stream_outlasts_the_answer_to_an_older_question() {
    let ours = Arc::new(authority());
    let url = control_plane(&ours, THEM, US).await;
    let (issuer, shared) = issuer(url, token("secret", &ours));
    issuer.first().await.unwrap();
    let both = vec![ours.der().clone(), authority().der().clone()];
    issuer.store.set_bundle(both);
    issuer.again(&Key::generate().unwrap()).await.unwrap();
    let roots = || shared.identity.load_full().unwrap().roots.roots.len();
    assert_eq!(roots(), 2);
    issuer.store.unfollow();
    issuer.again(&Key::generate().unwrap()).await.unwrap();
    assert_eq!(
        roots(),
        1,
        "without a stream the certificate's bundle is the newest"
    );
}

#[test]
fn a_token_of_a_rotation_pins_both_roots() {
    let (one, two) = ("11".repeat(32), "22".repeat(32));
    let pins = |text: &str| crate::control::pinned_roots(text);
    assert_eq!(pins(&format!("secret.{one}")), Some(vec![[0x11; 32]]));
    assert_eq!(
        pins(&format!("secret.{one}.{two}")),
        Some(vec![[0x11; 32], [0x22; 32]])
    );
    for bad in ["secret", "secret.", &format!("secret.{one}."), "secret.11"] {
        assert_eq!(pins(bad), None, "{bad}");
    }
}
