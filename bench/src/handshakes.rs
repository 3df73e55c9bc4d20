//! What a full mutual handshake costs the side that is called: TLS 1.3, P-256 leafs, X25519MLKEM768, no resumption.
//!
//! One generator, in this process, puts the same load on both subjects in turn: connect, handshake, close, wait for the
//! other side's end, which comes only after it has verified the client. CPU is the process's own, from `/proc`. The
//! figure in memory is rustls with its stock verifiers and no socket, the serving side alone.

use std::{
    fs, io,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use rustls::{
    ClientConfig, ClientConnection, NamedGroup, RootCertStore, ServerConfig, ServerConnection,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    outrigger,
    pki::{self, Pair},
    process::{Process, Usage},
    subject::envoy,
};

/// For one handshake.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct Options {
    /// Seconds of each round
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Rounds of each subject, in turn; medians are printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Handshakes at the same time
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
}

struct Server {
    name: &'static str,
    process: Process,
    address: SocketAddr,
    rounds: Vec<Round>,
}

#[derive(Clone, Copy)]
struct Round {
    per_second: f64,
    cpu_micros: f64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (root, client) = certificates(dir.path())?;
    let config = Arc::new(client_config(&client, "http/1.1")?);
    // Ready for a sidecar means that it can be connected to; nobody ever asks it for anything.
    let application = TcpListener::bind("127.0.0.1:0").await?;
    let files = ["root.pem", "root.key"].map(|name| dir.path().join(name).display().to_string());
    let [certificate, key] = &files;
    let mesh =
        outrigger::Mesh::start_with(&["--root-cert", certificate, "--root-key", key]).await?;
    let (ours, inbound) = mesh.inbound("server", application.local_addr()?).await?;
    let (theirs, entry) = envoy::inbound(dir.path()).await?;
    let mut servers =
        [("outrigger", ours, inbound), ("envoy", theirs, entry)].map(|(name, process, address)| {
            Server {
                name,
                process,
                address,
                rounds: Vec::new(),
            }
        });
    for server in &servers {
        let handshake = handshake(server.address, &config).await;
        let group = handshake.with_context(|| format!("{}: a first handshake", server.name))?;
        anyhow::ensure!(
            group == Some(NamedGroup::X25519MLKEM768),
            "{} agreed to {group:?}",
            server.name
        );
    }
    for _ in 0..options.rounds {
        for server in &mut servers {
            let round = round(server, &config, &options).await?;
            server.rounds.push(round);
        }
    }
    let mut out = io::stdout();
    writeln!(
        out,
        "full mutual TLS 1.3 handshakes, P-256, X25519MLKEM768, one worker, medians of {}",
        options.rounds
    )?;
    writeln!(
        out,
        "{:<12} {:>12} {:>22} {:>16}",
        "", "a second", "CPU of the called side", "a second a core"
    )?;
    for server in &servers {
        let cpu = median(server.rounds.iter().map(|round| round.cpu_micros));
        let per_second = median(server.rounds.iter().map(|round| round.per_second));
        writeln!(
            out,
            "{:<12} {per_second:>12.0} {cpu:>19.0} us {:>16.0}",
            server.name,
            1e6 / cpu
        )?;
    }
    let cpu = in_memory(&root, &client, &config)?;
    writeln!(
        out,
        "{:<12} {:>12} {cpu:>19.0} us {:>16.0}",
        "in memory",
        "",
        1e6 / cpu
    )?;
    Ok(())
}

/// A root in files for both subjects, a server's certificate for Envoy, and the client's.
fn certificates(dir: &Path) -> anyhow::Result<(Pair, Pair)> {
    let (root, mut leaves) = pki::authority(["client", "server"].map(pki::identity))?;
    let server = leaves.pop().context("two leaves")?;
    let client = leaves.pop().context("two leaves")?;
    for (name, pair) in [("root", &root), ("server", &server)] {
        fs::write(dir.join(name).with_extension("pem"), &pair.certificate)?;
        fs::write(dir.join(name).with_extension("key"), &pair.key)?;
    }
    Ok((root, client))
}

pub(crate) fn client_config(client: &Pair, protocol: &str) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(chain(client)?, key(client)?)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Ok(config)
}

fn chain(pair: &Pair) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    Ok(vec![CertificateDer::from_pem_slice(
        pair.certificate.as_bytes(),
    )?])
}

fn key(pair: &Pair) -> anyhow::Result<PrivateKeyDer<'static>> {
    Ok(PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?)
}

async fn round(
    server: &Server,
    config: &Arc<ClientConfig>,
    options: &Options,
) -> anyhow::Result<Round> {
    let pid = [server.process.pid()?];
    let done = Arc::new(AtomicU64::new(0));
    let before = Usage::of(&pid)?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(options.seconds);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..options.concurrency {
        let (address, config, done) = (server.address, Arc::clone(config), Arc::clone(&done));
        running.spawn(async move {
            while Instant::now() < end {
                handshake(address, &config).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let cpu = Usage::of(&pid)?.cpu_since(&before);
    let done = done.load(Ordering::Relaxed) as f64;
    Ok(Round {
        per_second: done / begun.elapsed().as_secs_f64(),
        cpu_micros: cpu * 1e6 / done,
    })
}

/// One, to its very end; the group that was agreed to.
async fn handshake(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> anyhow::Result<Option<NamedGroup>> {
    let one = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("server")?;
        let mut stream = TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await?;
        let group = stream.get_ref().1.negotiated_key_exchange_group();
        let group = group.map(rustls::crypto::SupportedKxGroup::name);
        stream.shutdown().await?;
        // A refusal of the client would be an alert. Whether a server says goodbye is its own affair.
        let left = match stream.read(&mut [0; 16]).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        anyhow::ensure!(left == 0, "the server spoke first");
        Ok(group)
    };
    timeout(PATIENCE, one).await.context("a handshake hangs")?
}

/// Microseconds of the serving side alone, median of 500.
fn in_memory(root: &Pair, pair: &Pair, client: &Arc<ClientConfig>) -> anyhow::Result<f64> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(root)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build()?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(pair)?, key(pair)?)?;
    server.send_tls13_tickets = 0;
    let server = Arc::new(server);
    let mut times = Vec::with_capacity(500);
    for _ in 0..500 {
        let name = ServerName::try_from("server")?;
        let mut asks = ClientConnection::new(Arc::clone(client), name)?;
        let mut answers = ServerConnection::new(Arc::clone(&server))?;
        let mut spent = Duration::ZERO;
        while asks.is_handshaking() || answers.is_handshaking() {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            while asks.wants_write() {
                asks.write_tls(&mut there)?;
            }
            let begun = Instant::now();
            let mut there = there.as_slice();
            while !there.is_empty() {
                answers.read_tls(&mut there)?;
                answers.process_new_packets()?;
            }
            while answers.wants_write() {
                answers.write_tls(&mut back)?;
            }
            spent += begun.elapsed();
            let mut back = back.as_slice();
            while !back.is_empty() {
                asks.read_tls(&mut back)?;
                asks.process_new_packets()?;
            }
        }
        times.push(spent.as_secs_f64() * 1e6);
    }
    Ok(median(times))
}

fn median(all: impl IntoIterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.into_iter().collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The load generator's work is not what is measured: it believes every server.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
