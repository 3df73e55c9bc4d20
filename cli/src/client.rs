//! The connection to a control plane, as its operator: TLS against its root, the admin token, and errors that say
//! what was tried and what to do.

use std::{
    env,
    error::Error,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use http::Uri;
use hyper_util::rt::TokioIo;
use outrigger_proto::outrigger::v1::{
    ApplyRequest, ApplyResponse, CertificatesRequest, CertificatesResponse, CreateJoinTokenRequest,
    CreateJoinTokenResponse, DeleteRequest, GetRequest, GetResponse, RotateRootRequest,
    RotateRootResponse, StatusRequest, StatusResponse, admin_client::AdminClient,
};
use rustls::{ClientConfig, InvalidMessage, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Response, Status,
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
    control_plane: Address,
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

/// A connection whose calls show the operator's token.
pub(crate) type Credentialed = InterceptedService<Channel, Token>;

/// The operator's side of a control plane.
#[derive(Debug)]
pub(crate) struct Admin {
    client: AdminClient<Credentialed>,
    channel: Credentialed,
    address: Address,
}

/// Calls, and what went wrong with them as [`refused`] says it.
impl Admin {
    pub(crate) async fn apply(&mut self, request: ApplyRequest) -> anyhow::Result<ApplyResponse> {
        let answer = self.client.apply(request).await;
        self.answer(answer)
    }

    pub(crate) async fn get(&mut self, request: GetRequest) -> anyhow::Result<GetResponse> {
        let answer = self.client.get(request).await;
        self.answer(answer)
    }

    pub(crate) async fn delete(&mut self, request: DeleteRequest) -> anyhow::Result<ApplyResponse> {
        let answer = self.client.delete(request).await;
        self.answer(answer)
    }

    pub(crate) async fn status(&mut self) -> anyhow::Result<StatusResponse> {
        let answer = self.client.status(StatusRequest {}).await;
        self.answer(answer)
    }

    pub(crate) async fn create_join_token(
        &mut self,
        request: CreateJoinTokenRequest,
    ) -> anyhow::Result<CreateJoinTokenResponse> {
        let answer = self.client.create_join_token(request).await;
        self.answer(answer)
    }

    pub(crate) async fn certificates(&mut self) -> anyhow::Result<CertificatesResponse> {
        let answer = self.client.certificates(CertificatesRequest {}).await;
        self.answer(answer)
    }

    pub(crate) async fn rotate_root(
        &mut self,
        request: RotateRootRequest,
    ) -> anyhow::Result<RotateRootResponse> {
        let answer = self.client.rotate_root(request).await;
        self.answer(answer)
    }

    /// The same connection, with the operator's token, for other services.
    pub(crate) fn channel(&self) -> Credentialed {
        self.channel.clone()
    }

    /// What a refusal of such a service means.
    pub(crate) fn refusal(&self, status: &Status) -> anyhow::Error {
        refused(status, &self.address)
    }

    fn answer<T>(&self, answer: Result<Response<T>, Status>) -> anyhow::Result<T> {
        answer
            .map(Response::into_inner)
            .map_err(|status| refused(&status, &self.address))
    }
}

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

/// Where a control plane is: `https://host:port`, or `http://host:port` for its plain-text port.
#[derive(Clone, Debug)]
struct Address {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected an address like {DEFAULT_ADDRESS}");
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("{error}; {}", wrong()))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(other) => return Err(format!("found {other}://; {}", wrong())),
            None => return Err(wrong()),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let (false, Some(port)) = (host.is_empty(), uri.port_u16()) else {
            return Err(wrong());
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            is_tls,
            uri,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        let colon = self.host.contains(':');
        let (open, close) = if colon { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}", self.host, self.port)
    }
}

impl ConnectArgs {
    /// For the demo, which knows where its control plane is.
    pub(crate) fn local(control_plane: &str, data_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            control_plane: control_plane.parse().map_err(anyhow::Error::msg)?,
            root_ca: None,
            token_file: None,
            data_dir: DataDirArgs {
                data_dir: Some(data_dir.to_owned()),
            },
        })
    }

    /// Connects and shows the token; the first call tells whether it is the right one.
    pub(crate) async fn connect(&self) -> anyhow::Result<Admin> {
        let address = self.control_plane.clone();
        let endpoint = Endpoint::from(address.uri.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        let (host, port) = (address.host.clone(), address.port);
        let (channel, token) = if address.is_tls {
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
        } else {
            let connector = tower::service_fn(move |_: Uri| plain(host.clone(), port));
            (endpoint.connect_with_connector(connector).await, None)
        };
        let channel = channel.map_err(|error| self.unreachable(&error))?;
        let token = Token(token);
        let client = AdminClient::with_interceptor(channel.clone(), token.clone())
            .max_decoding_message_size(MAX_ANSWER);
        Ok(Admin {
            client,
            channel: InterceptedService::new(channel, token),
            address,
        })
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
        let cause = deepest(error);
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
    fs::read(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "Run this as the user that the control plane runs as, or name a \
                 copy with {flag}"
            ),
            io::ErrorKind::NotFound => format!(
                "A control plane writes it when it first starts: start one here with `outrigger control-plane`, or \
                 name its files with --data-dir or {flag}"
            ),
            _ => format!("Name another one with {flag}"),
        };
        anyhow!(
            "cannot read {}, which should hold {what}: {error}. {advice}",
            path.display()
        )
    })
}

/// What went wrong with a call, in the control plane's words where it has any.
fn refused(status: &Status, address: &Address) -> anyhow::Error {
    let message = status.message();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => anyhow!(
            "the control plane does not accept the admin token: {message}. It is the content of `admin.token` in \
             the control plane's data directory; name it with --data-dir or --token-file"
        ),
        Code::DeadlineExceeded | Code::Cancelled => {
            anyhow!(
                "no answer from the control plane within {} s: {message}",
                CALL_TIMEOUT.as_secs()
            )
        }
        // A status of our own side has a cause: nobody has answered, at least not in gRPC.
        _ if status.source().is_some() => {
            let hint = if address.is_tls {
                "is another server on that port?"
            } else {
                "is that the TLS port? Then use https://"
            };
            anyhow!(
                "{address} does not answer as a control plane does: {}; {hint}",
                deepest(status)
            )
        }
        Code::Unavailable => anyhow!("lost the control plane: {message}"),
        code => anyhow!("the control plane refused ({code:?}): {message}"),
    }
}

/// The innermost cause, which is the one that helps: the outer ones say "transport error".
fn deepest<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
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
            .map_err(|error| untrusted(&error))?;
        Ok(TokioIo::new(stream))
    }
}

/// Why there is no TLS. rustls's errors come inside of one of reading or writing.
fn untrusted(error: &io::Error) -> anyhow::Error {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            anyhow!(
                "this port does not speak TLS (http:// is for a control plane's --plaintext port)"
            )
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            anyhow!("{error} (is --root-ca the root of this control plane?)")
        }
        _ => anyhow!("{error} (does a control plane speak TLS on that port?)"),
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::args::Cli;

    /// A server that answers whatever it is sent with `answer`, once.
    async fn server(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 1024]).await.unwrap();
            assert!(read > 0, "the client says nothing");
            stream.write_all(answer).await.unwrap();
            // Reads on, so that closing does not reset what was sent.
            while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {}
        });
        port
    }

    #[tokio::test]
    async fn plain_text_to_a_port_that_speaks_something_else_asks_for_https() {
        let alert = &[0x15, 3, 3, 0, 2, 2, 0x46][..];
        for answer in [
            alert,
            b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n",
        ] {
            let address = format!("http://127.0.0.1:{}", server(answer).await);
            let args = ConnectArgs::local(&address, Path::new("/nowhere")).unwrap();
            let result = async { args.connect().await?.status().await }.await;
            let error = format!("{:#}", result.unwrap_err());
            assert!(error.contains("Then use https://"), "{error}");
            assert!(!error.contains("refused"), "{error}");
        }
    }

    #[tokio::test]
    async fn tls_to_a_plain_port_says_that_it_speaks_no_tls() {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let tls = Tls {
            config: Arc::new(config),
            host: "127.0.0.1".to_owned(),
            port: server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
        };
        let error = tls.connect().await.err().unwrap().to_string();
        assert!(error.contains("does not speak TLS"), "{error}");
    }

    #[test]
    fn an_address_is_a_url_with_a_port() {
        for (text, shown) in [
            ("https://127.0.0.1:15012", "https://127.0.0.1:15012"),
            ("http://localhost:1/", "http://localhost:1"),
            ("https://[::1]:15012", "https://[::1]:15012"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
        }
    }

    #[test]
    fn a_wrong_address_is_misuse() {
        for text in [
            "127.0.0.1:15012",
            "ftp://127.0.0.1:1",
            "https://x",
            "https://",
            "",
        ] {
            let flag = format!("--control-plane={text}");
            let error = Cli::try_parse_from(["outrigger", "status", &flag]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(
                error.to_string().contains("like https://127.0.0.1:15012"),
                "{error}"
            );
        }
    }

    #[test]
    fn only_a_missing_file_advises_to_start_a_control_plane() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("root.pem");
        let error = read(&missing, "x", "--root-ca").unwrap_err().to_string();
        assert!(
            error.contains("start one here") && error.contains("No such file"),
            "{error}"
        );
        let error = read(dir.path(), "x", "--root-ca").unwrap_err().to_string();
        assert!(!error.contains("start one here"), "{error}");
    }
}
