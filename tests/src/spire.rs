//! An authority that is not ours: a server of SPIFFE's Workload API with a root and an intermediate of its own, at a Unix
//! socket for each workload. It renews what it serves at half of its life, as SPIRE does.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::Stream;
use outrigger_proto::{
    X509svid, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// The authority.
#[derive(Debug)]
pub struct Spire {
    root: Arc<Issuer>,
    intermediate: Arc<Issuer>,
    dir: TempDir,
}

/// What one workload is served.
#[derive(Clone)]
struct Workload {
    ids: Vec<String>,
    lifetime: Duration,
    root: Arc<Issuer>,
    intermediate: Arc<Issuer>,
    served: Arc<AtomicUsize>,
}

/// The socket of one workload.
#[derive(Debug)]
pub struct WorkloadSocket {
    path: PathBuf,
    served: Arc<AtomicUsize>,
}

impl WorkloadSocket {
    /// As the environment has it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// How many certificates it has given.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let uri = "spiffe://cluster.local".try_into().expect("an ASCII URI");
    params.subject_alt_names.push(SanType::URI(uri));
    params
}

impl Spire {
    /// Makes its root.
    ///
    /// # Panics
    /// When rcgen cannot.
    pub fn new() -> Self {
        let key = || KeyPair::generate().expect("a key");
        let root = Issuer::self_signed(authority(), key()).expect("a root");
        let intermediate =
            Issuer::signed_by(authority(), key(), &root).expect("an intermediate certificate");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("bundle.pem"), root.pem()).expect("a file");
        Self {
            root: Arc::new(root),
            intermediate: Arc::new(intermediate),
            dir,
        }
    }

    /// Its roots, as a file.
    pub fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle.pem")
    }

    /// Serves certificates of these identities, which last so long, to whoever asks at a socket of its own.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn serve(&self, name: &str, ids: &[&str], lifetime: Duration) -> WorkloadSocket {
        let path = self.dir.path().join(format!("{name}.sock"));
        let served = Arc::<AtomicUsize>::default();
        let workload = Workload {
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            lifetime,
            root: Arc::clone(&self.root),
            intermediate: Arc::clone(&self.intermediate),
            served: Arc::clone(&served),
        };
        listen(&path, workload);
        WorkloadSocket { path, served }
    }
}

impl Default for Spire {
    fn default() -> Self {
        Self::new()
    }
}

fn listen(path: &Path, workload: Workload) {
    let listener = UnixListener::bind(path).expect("a path for a socket");
    let server = tonic::transport::Server::builder()
        .add_service(SpiffeWorkloadApiServer::new(workload))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(server);
}

impl Workload {
    fn answer(&self) -> X509svidResponse {
        let svids = self.ids.iter().map(|id| self.svid(id));
        let federated = [("elsewhere.example".to_owned(), self.root.der().to_vec())];
        X509svidResponse {
            svids: svids.collect(),
            crl: Vec::new(),
            federated_bundles: federated.into(),
        }
    }

    fn svid(&self, id: &str) -> X509svid {
        let mut params = CertificateParams::default();
        let uri = id.try_into().expect("an ASCII URI");
        params.subject_alt_names.push(SanType::URI(uri));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = std::time::SystemTime::now();
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + self.lifetime).into();
        let key = KeyPair::generate().expect("a key");
        let leaf = params
            .signed_by(&key, &*self.intermediate)
            .expect("a certificate");
        self.served.fetch_add(1, Ordering::SeqCst);
        X509svid {
            spiffe_id: id.to_owned(),
            x509_svid: [leaf.der().as_ref(), self.intermediate.der().as_ref()].concat(),
            x509_svid_key: key.serialize_der(),
            bundle: self.root.der().to_vec(),
            hint: String::new(),
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Workload {
    type FetchX509SVIDStream = Pin<Box<dyn Stream<Item = Result<X509svidResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let header = request.metadata().get("workload.spiffe.io");
        if header.is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument(
                "security header missing from request",
            ));
        }
        if self.ids.is_empty() {
            return Err(Status::permission_denied("no identity issued"));
        }
        let (sender, receiver) = mpsc::channel(1);
        let workload = self.clone();
        tokio::spawn(async move {
            while sender.send(Ok(workload.answer())).await.is_ok() {
                tokio::time::sleep(workload.lifetime / 2).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
