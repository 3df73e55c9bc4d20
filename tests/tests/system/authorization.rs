//! Random policies and requests: what the documents say, what `outrigger can` says, what our sidecar does and what stock
//! Envoy does with the same resources have to be one.
//!
//! `OUTRIGGER_POLICIES` = how many policies (default 150), `OUTRIGGER_SEED` = which.

mod model;

use std::{
    collections::BTreeSet,
    env,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use outrigger_sidecar::{
    App, Readiness, Workload,
    explain::{AccessQuestion, AccessVerdict, Reader},
};
use outrigger_tests::{
    Caller, EnvoyMember, Mesh, Operator, Sidecar, TestApp, WorkloadIdentity, eventually,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use self::model::{Ask, CALLERS, Policy, Random};

/// Documents of a round.
const SLOTS: usize = 3;
/// Requests of a round.
const ASKS: usize = 14;
/// Rounds between two answers of the command line itself.
const SAMPLED: usize = 10;

fn setting(name: &str, default: u64) -> u64 {
    let set = env::var(name).ok().and_then(|text| text.parse().ok());
    set.unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_mean_the_same_to_outrigger_can_to_our_sidecar_and_to_envoy() {
    let seed = setting("OUTRIGGER_SEED", 0x0acc_e550);
    let wanted = usize::try_from(setting("OUTRIGGER_POLICIES", 150)).unwrap();
    eprintln!("OUTRIGGER_SEED={seed} OUTRIGGER_POLICIES={wanted}");
    let Some(stage) = Stage::start().await else {
        return;
    };
    let mut operator = Operator::of(&stage.mesh).await;
    let mut random = Random::new(seed);
    let started = Instant::now();
    let (mut policies, mut requests, mut allowed, mut rounds) = (0, 0, 0, 0);
    let mut decided = BTreeSet::new();
    let mut wrong: Vec<String> = Vec::new();
    while policies < wanted && wrong.is_empty() {
        let round: Vec<Policy> = (0..SLOTS).map(|_| Policy::any(&mut random)).collect();
        policies += round.iter().filter(|policy| policy.selects).count();
        rounds += 1;
        let mut yaml: Vec<String> = round
            .iter()
            .enumerate()
            .map(|(slot, policy)| policy.yaml(slot))
            .collect();
        yaml.push(marker(rounds));
        let yaml = yaml.join("---\n");
        operator.apply(&yaml).await;
        stage.in_force(rounds).await;
        let asks: Vec<Ask> = (0..ASKS).map(|_| Ask::any(&mut random)).collect();
        let answers = join_all(asks.iter().map(|ask| stage.answers(ask))).await;
        for (ask, answers) in asks.iter().zip(answers) {
            let expected = model::allows(&round, ask);
            requests += 1;
            allowed += usize::from(expected);
            decided.extend(model::decisive(&round, ask));
            if answers.iter().any(|(_, answer)| *answer != Ok(expected)) {
                wrong.push(format!(
                    "{ask:?}\nwant {expected}, found {answers:?}\n{yaml}"
                ));
            }
        }
        if rounds % SAMPLED == 0 {
            let ask = &asks[0];
            let (said, text) = stage.by_command_line(ask);
            if said != model::allows(&round, ask) {
                wrong.push(format!("{ask:?}\nthe command line says {text}\n{yaml}"));
            }
        }
    }
    eprintln!(
        "{policies} policies in {rounds} rounds, {requests} requests, {allowed} of them allowed, {:?}",
        started.elapsed()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let share = allowed * 100 / requests.max(1);
    assert!(
        (20..=80).contains(&share),
        "{share} % are allowed: the generator is lopsided"
    );
    let never: Vec<String> = model::labels().difference(&decided).cloned().collect();
    // Few policies cannot have all of it.
    eprintln!("never decisive: {never:?}");
    assert!(
        never.is_empty() || wanted < 1_000 && never.len() <= model::labels().len() / 3,
        "these fields never decided anything: {never:?}"
    );
}

/// A rule that is only tried: who counts it has the documents of this round.
fn marker(round: usize) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: marker, annotations: {{istio.io/dry-run: 'true'}}}}\n\
         spec: {{action: DENY, rules: [{{when: [{{key: 'request.headers[x-round]', values: ['{round}']}}]}}]}}\n"
    )
}

struct Stage {
    mesh: Mesh,
    sidecar: Sidecar,
    envoy: EnvoyMember,
    reader: Arc<Mutex<Reader>>,
    callers: Vec<Option<Arc<ClientConfig>>>,
    _apps: [TestApp; 2],
}

impl Stage {
    async fn start() -> Option<Self> {
        let mesh = Mesh::start().await;
        mesh.apply(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: all, namespace: istio-system}\n\
             spec: {mtls: {mode: PERMISSIVE}}\n",
        );
        let apps = [TestApp::start("ours").await, TestApp::start("envoys").await];
        let label = [("--label", "app=reviews")];
        let envoy = EnvoyMember::start(&mesh, "reviews", Some(&apps[1]), &label).await?;
        let sidecar = mesh.service("reviews").label("app", "reviews");
        let sidecar = sidecar.app(&apps[0]).start().await;
        let mut callers = Vec::new();
        for caller in CALLERS {
            callers.push(match caller {
                None => None,
                Some((namespace, account)) => {
                    let identity = WorkloadIdentity::join_in(&mesh, namespace, account).await;
                    Some(Arc::new(identity.client_tls()))
                }
            });
        }
        let reader = reader(&mesh).await;
        Some(Self {
            mesh,
            sidecar,
            envoy,
            reader,
            callers,
            _apps: apps,
        })
    }

    /// Waits until each of the three has the documents of this round.
    async fn in_force(&self, round: usize) {
        let ask = Ask {
            caller: CALLERS.len() - 1,
            address: "127.0.0.1".parse().unwrap(),
            server_name: model::SERVER_NAMES[0],
            method: "GET",
            path: "/",
            host: "reviews",
            headers: vec![("x-round", round.to_string())],
        };
        eventually("outrigger can has the documents", async || {
            let access = self
                .reader
                .lock()
                .unwrap()
                .access(&question(&ask, self.to()));
            let mut steps = access.iter().flat_map(|access| &access.steps);
            let tried = steps.any(|step| step.tried.as_ref().is_some_and(|tried| !tried.passes));
            tried.then_some(()).ok_or_else(|| format!("{access:?}"))
        })
        .await;
        let before = self.tried_by_sidecar().await;
        eventually("the sidecar has the documents", async || {
            self.send(self.to(), &ask).await?;
            let now = self.tried_by_sidecar().await;
            (now > before).then_some(()).ok_or_else(|| format!("{now}"))
        })
        .await;
        let before = self.envoy.count("shadow_denied").await;
        eventually("Envoy has the documents", async || {
            self.send(self.envoy.inbound, &ask).await?;
            let now = self.envoy.count("shadow_denied").await;
            (now > before)
                .then_some(())
                .ok_or_else(|| format!("{now}\n{}", self.envoy.log()))
        })
        .await;
    }

    fn to(&self) -> SocketAddr {
        self.sidecar.inbound.unwrap()
    }

    async fn tried_by_sidecar(&self) -> u64 {
        let page = Caller::through(self.sidecar.metrics)
            .get("metrics", "/stats/prometheus")
            .await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        let counts = page
            .lines()
            .filter(|line| line.contains("verdict=\"dry_run_denied\""))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        counts.sum()
    }

    async fn answers(&self, ask: &Ask) -> [(&'static str, Result<bool, String>); 3] {
        let said = self
            .reader
            .lock()
            .unwrap()
            .access(&question(ask, self.to()));
        let said = said.map(|access| access.verdict == AccessVerdict::Allowed);
        [
            ("outrigger can", said),
            ("the sidecar", self.send(self.to(), ask).await),
            ("Envoy", self.send(self.envoy.inbound, ask).await),
        ]
    }

    fn by_command_line(&self, ask: &Ask) -> (bool, String) {
        let identity = ask.identity().unwrap_or_else(|| "-".to_owned());
        let from = ask.address.to_string();
        let mut args = vec![
            "can",
            &identity,
            "reviews",
            ask.method,
            ask.path,
            "--from-ip",
            &from,
        ];
        let headers: Vec<String> = std::iter::once(format!("host: {}", ask.host))
            .chain(
                ask.headers
                    .iter()
                    .map(|(name, value)| format!("{name}: {value}")),
            )
            .collect();
        for header in &headers {
            args.extend(["-H", header]);
        }
        let sni = ask.server_name;
        args.extend(["--server-name", sni]);
        let output = self.mesh.cli(&args);
        let text = format!("{} {}{}", output.status, output.stdout, output.stderr);
        assert!(output.status < 2, "{text}");
        (output.status == 0, text)
    }

    /// Whether the request is let through, on a connection of its own.
    async fn send(&self, to: SocketAddr, ask: &Ask) -> Result<bool, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let socket = TcpSocket::new_v4().map_err(|error| said(&error))?;
        let from: IpAddr = ask.address;
        socket
            .bind(SocketAddr::new(from, 0))
            .map_err(|error| said(&error))?;
        let stream = socket.connect(to).await.map_err(|error| said(&error))?;
        match &self.callers[ask.caller] {
            None => exchange(TokioIo::new(stream), ask).await,
            Some(tls) => {
                let name = ServerName::try_from(ask.server_name).unwrap();
                let tls = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
                let stream = tls.await.map_err(|error| said(&error))?;
                exchange(TokioIo::new(stream), ask).await
            }
        }
    }
}

async fn exchange<I>(io: TokioIo<I>, ask: &Ask) -> Result<bool, String>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut send, connection) = http1::handshake(io)
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header("host", ask.host)
        .header("connection", "close");
    for (name, value) in &ask.headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let response = send.send_request(request).await;
    let response = response.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await;
    connection.abort();
    match status {
        200 => Ok(true),
        403 => Ok(false),
        other => Err(format!(
            "{other}: {:?}",
            body.map(http_body_util::Collected::to_bytes)
        )),
    }
}

fn question(ask: &Ask, to: SocketAddr) -> AccessQuestion {
    let headers = ask.headers.iter();
    AccessQuestion {
        identity: ask.identity(),
        from: ask.address,
        to,
        server_name: ask.server_name.to_owned(),
        method: ask.method.parse().unwrap(),
        path: ask.path.to_owned(),
        host: ask.host.to_owned(),
        headers: headers
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    }
}

/// What `outrigger can` reads, kept up to date.
async fn reader(mesh: &Mesh) -> Arc<Mutex<Reader>> {
    let workload = Workload {
        service: "reviews".to_owned(),
        namespace: "default".to_owned(),
        service_account: "reviews".to_owned(),
        labels: [("app".to_owned(), "reviews".to_owned())].into(),
        locality: Default::default(),
        weight: 1,
    };
    let app = App {
        address: ([127, 0, 0, 1], 9080).into(),
        port: 9080,
        protocol: "http".to_owned(),
        proxy_protocol: None,
        readiness: Readiness::default(),
    };
    let reader = Arc::new(Mutex::new(Reader::of_server(&workload, &app)));
    let (requests, mut answers) = Operator::reads(mesh).await;
    let read = Arc::clone(&reader);
    tokio::spawn(async move {
        let first = read.lock().unwrap().connected();
        for request in first {
            requests.send(request).await.unwrap();
        }
        while let Ok(Some(answer)) = answers.message().await {
            let next = read.lock().unwrap().response(answer);
            for request in next {
                requests.send(request).await.ok();
            }
        }
    });
    reader
}
