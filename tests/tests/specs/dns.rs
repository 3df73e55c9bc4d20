//! The sidecar as the application's DNS server: names of the mesh from the control plane, one by one or all at once, in
//! both wire forms; everything else from the servers of the machine. Server, client and the machine's server are played
//! here, byte by byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outrigger_proto::istio::networking::nds::v1::{NameTable, name_table::NameInfo};
use outrigger_tests::{Caller, Conversation, ForeignServer, Process, XdsForm, free_port, packed};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::foreign_server::{FORMS, LDS, arguments, bootstrap};

const CDS: &str = "envoy.config.cluster.v3.Cluster";
const NDS: &str = "istio.networking.nds.v1.NameTable";
const AT_MOST: Duration = Duration::from_secs(20);
const A: u16 = 1;
const MX: u16 = 15;
const AAAA: u16 = 28;
const HTTPS: u16 = 65;

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

/// Code, number of answers, and the last four bytes of the last record: its address, if it is one.
fn told(answer: &[u8]) -> (u8, u8, String) {
    assert_eq!(answer[..2], [0x12, 0x34], "the id of the question");
    let last = &answer[answer.len() - 4..];
    let address = format!("{}.{}.{}.{}", last[0], last[1], last[2], last[3]);
    (answer[3] & 0xf, answer[7], address)
}

async fn ask(server: SocketAddr, name: &str, kind: u16) -> (u8, u8, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&query(name, kind)).await.unwrap();
    let mut answer = vec![0; 4_096];
    let length = timeout(AT_MOST, socket.recv(&mut answer)).await;
    answer.truncate(length.expect("an answer").unwrap());
    told(&answer)
}

async fn ask_over_tcp(server: SocketAddr, name: &str, kind: u16) -> (u8, u8, String) {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let query = query(name, kind);
    let length = u16::try_from(query.len()).unwrap();
    stream.write_u16(length).await.unwrap();
    stream.write_all(&query).await.unwrap();
    let length = timeout(AT_MOST, stream.read_u16()).await.unwrap().unwrap();
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.unwrap();
    told(&answer)
}

/// A server of the machine, which has an answer to everything; how often it was asked.
async fn machine() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 4_096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            answer[7] = 1;
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 53]);
            socket.send_to(&answer, from).await.ok();
        }
    });
    (address, asked)
}

fn table(hosts: &[(&str, &str)]) -> NameTable {
    let hosts = hosts.iter().map(|(host, ip)| {
        let mut parts = host.split('.');
        let info = NameInfo {
            ips: vec![(*ip).to_owned()],
            registry: "Kubernetes".to_owned(),
            shortname: parts.next().unwrap_or_default().to_owned(),
            namespace: parts.next().unwrap_or_default().to_owned(),
            ..NameInfo::default()
        };
        ((*host).to_owned(), info)
    });
    NameTable {
        table: hosts.collect(),
    }
}

struct Started {
    /// Kept: its streams end with it.
    _server: ForeignServer,
    stream: Conversation,
    sidecar: tokio::task::JoinHandle<Process>,
    dns: SocketAddr,
    _bootstrap: tempfile::NamedTempFile,
}

async fn start(form: XdsForm, machine: SocketAddr, more: &[&str]) -> Started {
    let mut server = ForeignServer::start().await;
    let bootstrap = bootstrap(form, server.address().port(), "");
    let out = SocketAddr::from(([127, 0, 0, 1], 0));
    let dns = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut args = arguments(bootstrap.path(), out);
    let own = [
        "--dns",
        &dns.to_string(),
        "--dns-upstream",
        &machine.to_string(),
    ]
    .map(str::to_owned);
    args.extend(own);
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    let sidecar = tokio::spawn(async move { Process::start("sidecar", &args, &[]).await });
    let stream = server.accept().await;
    Started {
        _server: server,
        stream,
        sidecar,
        dns,
        _bootstrap: bootstrap,
    }
}

async fn page(process: &Process, port: &str, path: &str) -> String {
    let address = process.ready_text(port).parse().unwrap();
    let reply = Caller::through(address)
        .get(process.ready_text(port), path)
        .await;
    String::from_utf8_lossy(&reply.body).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_asked_for_as_they_are_looked_up_and_go_on_without_the_control_plane() {
    let (machine, asked) = machine().await;
    let on_demand = ["--discovery", "on-demand"];
    let mut started = start(XdsForm::Delta, machine, &on_demand).await;
    let (dns, stream) = (started.dns, &mut started.stream);
    assert_eq!(stream.heard().await.kind, "Listener");
    // Nobody knows yet whose names these are.
    assert_eq!(ask(dns, "example.com", A).await.0, 2);
    stream.say(LDS, "1", "l1", Vec::new(), &[]).await;
    let process = started.sidecar.await.unwrap();
    assert_eq!(process.ready_text("dns"), dns.to_string());

    let looked_up = tokio::spawn(async move { ask(dns, "Orders", A).await });
    let heard = stream.heard_one(|heard| heard.kind == "NameTable").await;
    assert_eq!(heard.names, ["orders"]);
    let orders = packed(NDS, &table(&[("orders", "240.240.0.9")]));
    stream
        .say(NDS, "1", "n1", vec![("orders", orders)], &[])
        .await;
    assert_eq!(stream.answer_to("n1").await.error, None);
    let known = (0, 1, "240.240.0.9".to_owned());
    assert_eq!(looked_up.await.unwrap(), known);
    for kind in [AAAA, MX, HTTPS] {
        let (code, answers, _) = ask(dns, "orders", kind).await;
        assert_eq!((code, answers), (0, 0), "type {kind}");
    }
    assert_eq!(ask_over_tcp(dns, "orders", A).await, known);
    assert_eq!(asked.load(Ordering::SeqCst), 0);

    let looked_up = tokio::spawn(async move { ask(dns, "example.com", A).await });
    let heard = stream
        .heard_one(|heard| heard.kind == "NameTable" && !heard.names.is_empty())
        .await;
    assert_eq!(heard.names, ["example.com"]);
    stream
        .say(NDS, "2", "n2", Vec::new(), &["example.com"])
        .await;
    let elsewhere = (0, 1, "192.0.2.53".to_owned());
    assert_eq!(looked_up.await.unwrap(), elsewhere);
    // It is remembered that it is none of the mesh's.
    assert_eq!(ask(dns, "example.com", A).await, elsewhere);

    stream.hang_up().await;
    drop(started._server);
    assert_eq!(ask(dns, "orders", A).await, known);
    let (code, ..) = ask(dns, "cart.default.svc.cluster.local", A).await;
    assert_eq!(code, 2, "what is the mesh's is not asked elsewhere");
    assert_eq!(ask(dns, "www.example.org", A).await, elsewhere);

    let known = page(&process, "admin", "/dns").await;
    assert!(known.contains("orders  240.240.0.9"), "{known}");
    let metrics = page(&process, "metrics", "/metrics").await;
    for line in [
        "outrigger_dns_queries_total{outcome=\"mesh_empty\",transport=\"udp\"} 3",
        "outrigger_dns_queries_total{outcome=\"mesh\",transport=\"tcp\"} 1",
        "outrigger_dns_queries_total{outcome=\"not_ready\",transport=\"udp\"} 1",
        "outrigger_dns_upstream_total{outcome=\"answered\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_names_come_in_one_table_as_istio_sends_them() {
    for form in FORMS {
        let (machine, asked) = machine().await;
        let mut started = start(form, machine, &[]).await;
        let stream = &mut started.stream;
        let first = [stream.heard().await, stream.heard().await];
        let kinds = first.map(|heard| heard.kind);
        assert_eq!(kinds, ["Cluster", "NameTable"], "{form:?}");
        let hosts = [
            ("orders.shop.svc.cluster.local", "240.240.0.1"),
            ("cart.default.svc.cluster.local", "240.240.0.2"),
        ];
        stream
            .say(NDS, "1", "n1", vec![("", packed(NDS, &table(&hosts)))], &[])
            .await;
        assert_eq!(stream.answer_to("n1").await.error, None, "{form:?}");
        stream.say(CDS, "1", "c1", Vec::new(), &[]).await;
        stream.heard_one(|heard| heard.kind == "Listener").await;
        stream.say(LDS, "1", "l1", Vec::new(), &[]).await;
        let process = started.sidecar.await.unwrap();
        let dns = started.dns;
        for name in ["orders.shop", "orders.shop.svc.cluster.local"] {
            assert_eq!(ask(dns, name, A).await.2, "240.240.0.1", "{name}");
        }
        assert_eq!(ask(dns, "cart", A).await.2, "240.240.0.2");
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        // A short name of another namespace is nobody's.
        assert_eq!(ask(dns, "orders", A).await.2, "192.0.2.53");
        let dump = page(&process, "admin", "/config_dump?resource=name_table").await;
        assert!(dump.contains("240.240.0.2"), "{dump}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_address_is_no_server_for_names_outside_of_the_mesh() {
    let dns = SocketAddr::from(([127, 0, 0, 1], free_port())).to_string();
    let bootstrap = bootstrap(XdsForm::Delta, 1, "");
    let mut args = arguments(bootstrap.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
    args.extend(["--dns", &dns, "--dns-upstream", &dns].map(str::to_owned));
    let mut process = Process::spawn("sidecar", &args, &[]);
    assert_eq!(outrigger_tests::ended(&mut process).await, 2);
    let log = process.log();
    assert!(
        log.contains("--dns-upstream") && log.contains("own DNS server"),
        "{log}"
    );
}
