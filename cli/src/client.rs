//! The connection to a control plane, as its operator: TLS against its root, the admin token, and errors that say
//! what was tried and what to do.

use std::{
    env,
    error::Error,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use http::Uri;
use hyper_util::rt::TokioIo;
use outrigger_proto::outrigger::v1::admin_client::AdminClient;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// Bytes of one answer: every document with its history.
const MAX_ANSWER: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The address that a control plane has unless told otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "https://127.0.0.1:15012";

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectArgs {
    /// Address of the control plane. `http://` for its plain-text port.
    #[arg(long, default_value = DEFAULT_ADDRESS, value_name = "URL", env = "OUTRIGGER_CONTROL_PLANE")]
    control_plane: String,
    /// Root certificate (PEM) that the control plane must prove. Default: `root.pem` in the data directory.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_ROOT_CA")]
    root_ca: Option<PathBuf>,
    /// File with the admin token. Default: `admin.token` in the data directory.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    data_dir: DataDirArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DataDirArgs {
    /// Directory of the control plane. Default: `$XDG_STATE_HOME/outrigger`, else `~/.local/state/outrigger`.
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl DataDirArgs {
    pub(crate) fn resolve(&self) -> anyhow::Result<PathBuf> {
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        self.data_dir
            .clone()
            .or_else(|| Some(absolute("XDG_STATE_HOME")?.join("outrigger")))
            .or_else(|| Some(absolute("HOME")?.join(".local/state/outrigger")))
            .context("neither --data-dir nor HOME says where the control plane keeps its state")
    }
}

/// The operator's side of a control plane.
pub(crate) type Admin = AdminClient<InterceptedService<Channel, Token>>;

/// Puts the admin token into every call.
#[derive(Clone, Debug)]
pub(crate) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl ConnectArgs {
    /// For the demo, which knows where its control plane is.
    pub(crate) fn local(control_plane: String, data_dir: &Path) -> Self {
        Self {
            control_plane,
            root_ca: None,
            token_file: None,
            data_dir: DataDirArgs {
                data_dir: Some(data_dir.to_owned()),
            },
        }
    }

    /// Connects and shows the token; the first call tells whether it is the right one.
    pub(crate) async fn connect(&self) -> anyhow::Result<Admin> {
        let address = &self.control_plane;
        let uri: Uri = address
            .parse()
            .with_context(|| format!("--control-plane {address}"))?;
        let host = uri
            .host()
            .map(|host| host.trim_matches(['[', ']']).to_owned());
        let (Some(host), Some(port)) = (host, uri.port_u16()) else {
            return Err(anyhow!(
                "--control-plane {address}: expected an address like {DEFAULT_ADDRESS}"
            ));
        };
        let endpoint = Endpoint::from(uri.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        let (channel, token) = match uri.scheme_str() {
            Some("https") => {
                let tls = Tls {
                    config: Arc::new(self.tls()?),
                    host,
                    port,
                };
                let token = self.token()?;
                let connector = tower::service_fn(move |_: Uri| tls.clone().connect());
                (
                    endpoint.connect_with_connector(connector).await,
                    Some(token),
                )
            }
            Some("http") => {
                let connector = tower::service_fn(move |_: Uri| plain(host.clone(), port));
                (endpoint.connect_with_connector(connector).await, None)
            }
            _ => {
                return Err(anyhow!(
                    "--control-plane {address}: expected https:// or http://"
                ));
            }
        };
        let channel = channel.map_err(|error| self.unreachable(&error))?;
        Ok(AdminClient::with_interceptor(channel, Token(token))
            .max_decoding_message_size(MAX_ANSWER))
    }

    fn tls(&self) -> anyhow::Result<ClientConfig> {
        let path = self.file(self.root_ca.as_ref(), "root.pem")?;
        let pem = read(&path, "the control plane's root certificate", "--root-ca")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.with_context(|| format!("reading {}", path.display()))?;
            roots
                .add(certificate)
                .with_context(|| format!("reading {}", path.display()))?;
        }
        if roots.is_empty() {
            return Err(anyhow!(
                "{} holds no certificate in PEM form",
                path.display()
            ));
        }
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn token(&self) -> anyhow::Result<MetadataValue<Ascii>> {
        let path = self.file(self.token_file.as_ref(), "admin.token")?;
        let token = read(&path, "the admin token", "--token-file")?;
        let token = String::from_utf8_lossy(&token);
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim()))
            .with_context(|| format!("{} holds no token", path.display()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn file(&self, named: Option<&PathBuf>, usual: &str) -> anyhow::Result<PathBuf> {
        named.map_or_else(
            || Ok(self.data_dir.resolve()?.join(usual)),
            |path| Ok(path.clone()),
        )
    }

    fn unreachable(&self, error: &tonic::transport::Error) -> anyhow::Error {
        // tonic's own words are "transport error"; the deepest cause is the one that helps.
        let mut cause: &dyn Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let data_dir = self.data_dir.resolve().unwrap_or_default();
        anyhow!(
            "cannot reach a control plane at {}: {cause}. Name another one with --control-plane URL, or start one \
             here with `outrigger control-plane --data-dir {}`",
            self.control_plane,
            data_dir.display()
        )
    }
}

fn read(path: &Path, what: &str, flag: &str) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| {
        format!(
            "cannot read {}, which should hold {what}. A control plane writes it when it first starts: start \
             one here with `outrigger control-plane`, or name its files with --data-dir or {flag}",
            path.display()
        )
    })
}

/// What went wrong with a call, in the control plane's words where it has any.
pub(crate) fn refused(status: &Status) -> anyhow::Error {
    let message = status.message();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => anyhow!(
            "the control plane does not accept the admin token: {message}. It is the content of `admin.token` in \
             the control plane's data directory; name it with --data-dir or --token-file"
        ),
        Code::Unavailable => anyhow!("lost the control plane: {message}"),
        Code::DeadlineExceeded | Code::Cancelled => {
            anyhow!(
                "no answer from the control plane within {} s: {message}",
                CALL_TIMEOUT.as_secs()
            )
        }
        code => anyhow!("the control plane refused ({code:?}): {message}"),
    }
}

#[derive(Clone)]
struct Tls {
    config: Arc<ClientConfig>,
    host: String,
    port: u16,
}

type Stream<S> = TokioIo<S>;

impl Tls {
    async fn connect(self) -> anyhow::Result<Stream<tokio_rustls::client::TlsStream<TcpStream>>> {
        let name = match self.host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(self.host.clone())?,
        };
        let stream = tcp(&self.host, self.port).await?;
        let stream = TlsConnector::from(self.config)
            .connect(name, stream)
            .await
            .map_err(|error| anyhow!("{error} (is --root-ca the root of this control plane?)"))?;
        Ok(TokioIo::new(stream))
    }
}

async fn plain(host: String, port: u16) -> anyhow::Result<Stream<TcpStream>> {
    Ok(TokioIo::new(tcp(&host, port).await?))
}

async fn tcp(host: &str, port: u16) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Runs a short command's work.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(work))
}
