use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outrigger_core::{
    ChainLookup, ChainMatch, ClusterChoice, ClusterConfig, ConnectionRoute, Direction,
    DownstreamTls, EndpointConfig, FilterChain, FilterChains, Inspect, LbPolicy, Listener,
    OutlierConfig, PolicyPositions, RouteSource, Thresholds, WeightedCluster,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    shared::Identity,
    testing::{Authority, Sidecar, cluster, config, endpoint, mtls},
};

mod access;

/// Longer than anything here takes.
const AT_MOST: Duration = Duration::from_secs(100);

/// A server that does `this` with each connection.
async fn server<F: Future<Output = ()> + Send + 'static>(
    this: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(this(stream));
        }
    });
    address
}

/// Says its name, then all that it is told, until the other side has ended.
async fn echo(name: &'static str) -> SocketAddr {
    server(move |mut stream| async move {
        stream.write_all(name.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        drop(tokio::io::copy(&mut read, &mut write).await);
        drop(write.shutdown().await);
    })
    .await
}

/// Where nobody listens.
async fn nowhere() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    // Its port stays taken, so that nobody else listens there meanwhile.
    Box::leak(Box::new(socket));
    address
}

fn bytes(host: &str, change: impl FnOnce(&mut ClusterConfig)) -> ClusterConfig {
    let mut config = cluster(host);
    config.connect_timeout = AT_MOST;
    change(&mut config);
    config
}

fn name(host: &str) -> String {
    cluster(host).name
}

fn route(sidecar: &mut Sidecar, shares: &[(&str, u32)]) -> ConnectionRoute {
    let shares = shares.iter().map(|(host, weight)| {
        let name = name(host);
        WeightedCluster::plain(sidecar.builder.cluster_slot(&name), &name, *weight)
    });
    ConnectionRoute {
        position: Some("db.yaml:7:3".into()),
        clusters: ClusterChoice::new(shares.collect()).unwrap(),
        idle_timeout: None,
        max_duration: None,
        attempts: 2,
        hash_source_ip: false,
        rbac: Vec::new(),
    }
}

fn chain(tls: Option<DownstreamTls>, route: ConnectionRoute) -> FilterChain {
    FilterChain {
        tls,
        routes: RouteSource::Connection(Arc::new(route)),
        settings: None,
        policies: PolicyPositions::default(),
    }
}

fn listener(direction: Direction, tls: Option<DownstreamTls>, route: ConnectionRoute) -> Listener {
    Listener {
        name: "db".to_owned(),
        address: "127.0.0.1:0".parse().unwrap(),
        direction,
        chains: FilterChains::one(chain(tls, route)),
        dry_run: None,
        capture: outrigger_core::Capture::default(),
    }
}

async fn open(sidecar: &mut Sidecar, route: ConnectionRoute) -> SocketAddr {
    let listener = listener(Direction::Outbound, None, route);
    sidecar.builder.set_listener("db", Some(listener));
    sidecar.publish("db").await
}

/// A caller's sidecar with one port that leads to `db`.
async fn outbound(
    config_of_db: ClusterConfig,
    endpoints: Vec<EndpointConfig>,
    identity: Option<Identity>,
    change: impl FnOnce(&mut ConnectionRoute),
) -> (Sidecar, SocketAddr) {
    let soon = Duration::from_millis(200);
    draining_within(soon, config_of_db, endpoints, identity, change).await
}

async fn draining_within(
    drain_timeout: Duration,
    config_of_db: ClusterConfig,
    endpoints: Vec<EndpointConfig>,
    identity: Option<Identity>,
    change: impl FnOnce(&mut ConnectionRoute),
) -> (Sidecar, SocketAddr) {
    let mut settings = config();
    settings.drain_timeout = drain_timeout;
    let mut sidecar = Sidecar::start(&settings, identity);
    sidecar.set_cluster(config_of_db, endpoints);
    let mut route = route(&mut sidecar, &[("db", 1)]);
    change(&mut route);
    let address = open(&mut sidecar, route).await;
    (sidecar, address)
}

fn plain(addresses: &[SocketAddr]) -> Vec<EndpointConfig> {
    addresses
        .iter()
        .map(|address| endpoint(*address, false))
        .collect()
}

/// All that comes back of `said`; None = it was reset.
async fn tell(to: SocketAddr, said: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut heard = Vec::new();
    let told = async {
        stream.write_all(said).await.ok()?;
        stream.shutdown().await.ok()?;
        stream.read_to_end(&mut heard).await.ok()
    };
    timeout(AT_MOST, told).await.expect("it ends")?;
    Some(String::from_utf8_lossy(&heard).into_owned())
}

async fn refused(sidecar: &Sidecar, code: &str, least: f64) {
    let line = format!("outrigger_refusals_total{{code=\"{code}\",hop=\"outbound\"}}");
    let counted = sidecar.until_metric(&line, least);
    timeout(AT_MOST, counted).await.expect(code);
}

#[tokio::test]
async fn bytes_go_both_ways_and_ends_are_passed_on() {
    let app = echo("db ").await;
    let (sidecar, port) = outbound(bytes("db", |_| ()), plain(&[app]), None, |_| ()).await;
    assert_eq!(tell(port, b"hello").await.as_deref(), Some("db hello"));
    assert_eq!(tell(port, b"").await.as_deref(), Some("db "));
    let of = |name: &str| {
        let line = format!("istio_tcp_{name}_total");
        let sidecar = &sidecar;
        async move { timeout(AT_MOST, sidecar.until_metric(&line, 2.0)).await }
    };
    of("connections_opened").await.unwrap();
    of("connections_closed").await.unwrap();
    assert_eq!(sidecar.metric("istio_tcp_sent_bytes_total"), 11.0);
    assert_eq!(sidecar.metric("istio_tcp_received_bytes_total"), 5.0);
    assert_eq!(sidecar.workers.pools()[0].open, 0, "both are closed");
}

#[tokio::test]
async fn megabytes_arrive_whole_in_both_directions_at_once() {
    let app = echo("").await;
    let authority = Authority::new();
    let (_server, inbound) = inbound(authority.identity("db"), app).await;
    let config = bytes("db", |config| config.tls = istio("db"));
    let identity = Some(authority.identity("frontend"));
    let (_sidecar, port) = outbound(config, vec![endpoint(inbound, true)], identity, |_| ()).await;
    let stream = TcpStream::connect(port).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sent: Vec<u8> = (0..6_000_000u32)
        .map(|n| n.to_le_bytes()[1] ^ n.to_le_bytes()[0])
        .collect();
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&copy).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut heard = Vec::new();
    let all = read.read_to_end(&mut heard);
    timeout(AT_MOST, all).await.unwrap().unwrap();
    writer.await.unwrap();
    assert!(heard == sent, "{} of {} bytes", heard.len(), sent.len());
}

fn istio(account: &str) -> Option<outrigger_core::UpstreamTls> {
    let mut tls = mtls(&[account])?;
    tls.alpn = vec!["istio".to_owned()];
    Some(tls)
}

/// The sidecar of an application that speaks bytes.
async fn inbound(identity: Identity, app: SocketAddr) -> (Sidecar, SocketAddr) {
    let mut sidecar = Sidecar::start(&config(), Some(identity));
    sidecar.set_cluster(bytes("db", |_| ()), plain(&[app]));
    let route = route(&mut sidecar, &[("db", 1)]);
    let tls = DownstreamTls {
        certificate: "default".to_owned(),
        validation: "ROOTCA".to_owned(),
        alpn: vec!["istio".to_owned()],
    };
    let listener = listener(Direction::Inbound, Some(tls), route);
    sidecar.builder.set_listener("db", Some(listener));
    let address = sidecar.publish("db").await;
    (sidecar, address)
}

#[tokio::test]
async fn between_sidecars_bytes_are_under_mtls_and_both_sides_count() {
    let app = echo("db ").await;
    let authority = Authority::new();
    let (server, to) = inbound(authority.identity("db"), app).await;
    let call = async |expected: &str| {
        let config = bytes("db", |config| config.tls = istio(expected));
        let identity = Some(authority.identity("frontend"));
        let endpoints = vec![endpoint(to, true)];
        let (client, port) = outbound(config, endpoints, identity, |_| ()).await;
        let heard = tell(port, b"hello").await;
        (client, heard)
    };
    let (client, heard) = call("db").await;
    assert_eq!(heard.as_deref(), Some("db hello"));
    for (sidecar, reporter) in [(&client, "source"), (&server, "destination")] {
        let text = |name: &str| {
            let line = format!("istio_tcp_{name}_total{{connection_security_policy=\"mutual_tls\"");
            (line, reporter)
        };
        let (line, _) = text("connections_closed");
        let closed = timeout(AT_MOST, sidecar.until_metric(&line, 1.0)).await;
        closed.unwrap_or_else(|_| panic!("{reporter} counts"));
    }
    let (client, heard) = call("somebody-else").await;
    assert_eq!(heard.unwrap_or_default(), "", "not one byte of a stranger");
    refused(&client, "tls_failed", 1.0).await;
}

/// What a TLS client says first to a server of this name.
fn hello(name: &'static str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A port that leads by server name: `*.a.example` to `a`, `b.example` to `b`.
async fn by_name(hello_timeout: Duration) -> (Sidecar, SocketAddr) {
    let (a, b) = (echo("a").await, echo("b").await);
    let mut sidecar = Sidecar::start(&config(), None);
    sidecar.set_cluster(bytes("a", |_| ()), plain(&[a]));
    sidecar.set_cluster(bytes("b", |_| ()), plain(&[b]));
    let to_a = route(&mut sidecar, &[("a", 1)]);
    let to_b = route(&mut sidecar, &[("b", 1)]);
    let named = |name: &str| ChainMatch {
        server_names: vec![name.to_owned()],
        tls: Some(true),
        ..ChainMatch::default()
    };
    let inspect = Inspect {
        within: hello_timeout,
        silence_is_plain: false,
        ..Inspect::default()
    };
    let lookup = ChainLookup::new(&[named("*.a.example"), named("b.example")], inspect).unwrap();
    let chains = vec![chain(None, to_a), chain(None, to_b)];
    let listener = Listener {
        name: "db".to_owned(),
        address: "127.0.0.1:0".parse().unwrap(),
        direction: Direction::Outbound,
        chains: FilterChains::new(chains, Some(lookup)),
        dry_run: None,
        capture: outrigger_core::Capture::default(),
    };
    sidecar.builder.set_listener("db", Some(listener));
    let address = sidecar.publish("db").await;
    (sidecar, address)
}

#[tokio::test]
async fn tls_is_passed_through_whole_to_whom_its_server_name_says() {
    let (_sidecar, port) = by_name(AT_MOST).await;
    for (name, server) in [("x.a.example", b'a'), ("b.example", b'b')] {
        let said = hello(name);
        let mut stream = TcpStream::connect(port).await.unwrap();
        stream.set_nodelay(true).unwrap();
        // However it is cut.
        for piece in said.chunks(97) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        let all = stream.read_to_end(&mut heard);
        timeout(AT_MOST, all).await.unwrap().unwrap();
        assert_eq!(heard.first(), Some(&server), "{name}");
        assert_eq!(heard.get(1..), Some(&said[..]), "{name}");
    }
}

#[tokio::test]
async fn a_tls_port_refuses_what_names_nobody_and_says_why() {
    let (sidecar, port) = by_name(AT_MOST).await;
    let closed = |heard: Option<String>| assert_eq!(heard.unwrap_or_default(), "");
    closed(tell(port, &hello("c.example")).await);
    closed(tell(port, &hello("10.0.0.1")).await);
    refused(&sidecar, "no_route_connection", 2.0).await;
    closed(tell(port, b"GET / HTTP/1.1\r\n\r\n").await);
    refused(&sidecar, "client_hello_invalid", 1.0).await;
    // Who leaves by itself was not refused.
    closed(tell(port, &[22, 3, 1]).await);
    closed(tell(port, b"").await);
    let all = sidecar.metric("outrigger_refusals_total");
    assert_eq!(all, 3.0);
    let line = "istio_tcp_connections_closed_total";
    timeout(AT_MOST, sidecar.until_metric(line, 3.0))
        .await
        .unwrap();

    let (sidecar, port) = by_name(Duration::from_millis(100)).await;
    let mut silent = TcpStream::connect(port).await.unwrap();
    silent.write_all(&[22, 3]).await.unwrap();
    let mut heard = Vec::new();
    let end = silent.read_to_end(&mut heard);
    drop(timeout(AT_MOST, end).await.unwrap());
    refused(&sidecar, "client_hello_timeout", 1.0).await;
}

#[tokio::test]
async fn each_reason_for_a_refusal_has_its_code() {
    let gone = nowhere().await;
    let other = nowhere().await;
    let table: [(&str, Option<Vec<SocketAddr>>); 4] = [
        ("cluster_unknown", None),
        ("no_endpoints", Some(Vec::new())),
        ("connect_failed", Some(vec![gone])),
        ("connect_failed", Some(vec![gone, other])),
    ];
    for (code, endpoints) in table {
        let mut sidecar = Sidecar::start(&config(), None);
        if let Some(endpoints) = &endpoints {
            sidecar.set_cluster(bytes("db", |_| ()), plain(endpoints));
        }
        let route = route(&mut sidecar, &[("db", 1)]);
        let port = open(&mut sidecar, route).await;
        assert_eq!(tell(port, b"x").await.unwrap_or_default(), "", "{code}");
        refused(&sidecar, code, 1.0).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_is_passed_over_and_ejected() {
    let (gone, good) = (nowhere().await, echo("good").await);
    let config = bytes("db", |config| {
        config.outlier = Some(OutlierConfig {
            consecutive_5xx: 3,
            consecutive_gateway_failure: 0,
            split_local: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(60),
            max_ejection_time: Duration::from_secs(60),
            max_ejection_percent: 50,
            min_health_percent: 0,
        });
    });
    let (sidecar, port) = outbound(config, plain(&[gone, good]), None, |_| ()).await;
    for _ in 0..20 {
        assert_eq!(tell(port, b"").await.as_deref(), Some("good"));
    }
    assert_eq!(sidecar.metric("outrigger_ejections_total"), 1.0);
    assert_eq!(sidecar.metric("outrigger_retries_total"), 3.0);
}

#[tokio::test]
async fn never_more_than_max_connections_are_open() {
    let open_now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (count, peak) = (Arc::clone(&open_now), Arc::clone(&most));
    let app = server(move |mut stream| {
        let (count, peak) = (Arc::clone(&count), Arc::clone(&peak));
        async move {
            let now = count.fetch_add(1, Ordering::SeqCst) + 1;
            peak.fetch_max(now, Ordering::SeqCst);
            stream.write_all(b"!").await.unwrap();
            drop(stream.read_to_end(&mut Vec::new()).await);
            count.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let config = bytes("db", |config| {
        config.thresholds = Thresholds {
            max_connections: 5,
            ..Thresholds::default()
        };
    });
    let (sidecar, port) = outbound(config, plain(&[app]), None, |_| ()).await;
    let mut taken = Vec::new();
    let mut closed = 0;
    for _ in 0..40 {
        let mut stream = TcpStream::connect(port).await.unwrap();
        match timeout(AT_MOST, stream.read_u8()).await.unwrap() {
            Ok(_) => taken.push(stream),
            Err(_) => closed += 1,
        }
    }
    assert_eq!((taken.len(), closed), (5, 35));
    refused(&sidecar, "overflow_connections", 35.0).await;
    let pools = sidecar.workers.pools();
    assert_eq!(pools[0].open, 5);
    drop(taken);
    while sidecar.workers.pools()[0].open > 0 {
        tokio::task::yield_now().await;
    }
    // The room is there again.
    let mut again = TcpStream::connect(port).await.unwrap();
    assert!(again.read_u8().await.is_ok());
    assert!(most.load(Ordering::SeqCst) <= 5);
}

/// Says a byte, which comes back. None if the connection has ended.
async fn speak(stream: &mut TcpStream) -> Option<()> {
    stream.write_all(b"x").await.ok()?;
    let said = timeout(AT_MOST, stream.read_u8()).await.unwrap();
    said.ok().map(|said| assert_eq!(said, b'x'))
}

/// Times for tests in which something must not take too long: on a machine that is too slow, the next.
fn ever_longer() -> impl Iterator<Item = Duration> {
    [300, 1000, 4000, 16_000]
        .into_iter()
        .map(Duration::from_millis)
}

#[tokio::test]
async fn an_idle_connection_ends_and_one_that_speaks_does_not() {
    let app = echo("").await;
    for idle in ever_longer() {
        let set = |route: &mut ConnectionRoute| route.idle_timeout = Some(idle);
        let (_sidecar, port) = outbound(bytes("db", |_| ()), plain(&[app]), None, set).await;
        let begun = Instant::now();
        let mut stream = TcpStream::connect(port).await.unwrap();
        // When it spoke last, and when it did for the last time before that it was heard.
        let mut spoke = begun;
        let mut too_slow = false;
        while begun.elapsed() < idle * 2 + idle / 2 && !too_slow {
            let before = std::mem::replace(&mut spoke, Instant::now());
            let heard = speak(&mut stream).await;
            // Between two words of which the sidecar knows there may be no more than this.
            too_slow = before.elapsed() >= idle;
            assert!(heard.is_some() || too_slow, "it ended while it spoke");
            tokio::time::sleep(idle / 6).await;
        }
        if too_slow {
            continue;
        }
        let end = timeout(AT_MOST, stream.read_u8()).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        assert!(spoke.elapsed() >= idle);
        return;
    }
    panic!("this machine does nothing for seconds");
}

#[tokio::test]
async fn a_connection_ends_at_its_age_however_busy() {
    let app = echo("").await;
    let age = Duration::from_millis(300);
    let set = |route: &mut ConnectionRoute| route.max_duration = Some(age);
    let (sidecar, port) = outbound(bytes("db", |_| ()), plain(&[app]), None, set).await;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(port).await.unwrap();
    let torn = async {
        loop {
            if stream.write_all(b"x").await.is_err() || stream.read_u8().await.is_err() {
                break;
            }
        }
    };
    timeout(AT_MOST, torn).await.unwrap();
    assert!(begun.elapsed() >= age);
    let ended = "istio_tcp_connections_closed_total";
    timeout(AT_MOST, sidecar.until_metric(ended, 1.0))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_endpoints_reset_is_a_reset_to_the_caller() {
    let app = server(|mut stream| async move {
        stream.write_all(b"half of").await.unwrap();
        stream.read_u8().await.unwrap();
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let (_sidecar, port) = outbound(bytes("db", |_| ()), plain(&[app]), None, |_| ()).await;
    let mut stream = TcpStream::connect(port).await.unwrap();
    let mut half = [0; 7];
    stream.read_exact(&mut half).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let end = timeout(AT_MOST, stream.read_u8()).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn who_does_not_read_stops_who_writes() {
    let (release, _) = tokio::sync::watch::channel(false);
    let release = Arc::new(release);
    let held = Arc::clone(&release);
    let app = server(move |mut stream| {
        let mut held = held.subscribe();
        async move {
            drop(held.wait_for(|go| *go).await);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            let length = u64::try_from(all.len()).unwrap();
            stream.write_u64(length).await.unwrap();
        }
    })
    .await;
    let (_sidecar, port) = outbound(bytes("db", |_| ()), plain(&[app]), None, |_| ()).await;
    let mut stream = TcpStream::connect(port).await.unwrap();
    let piece = vec![7; 64 * 1024];
    let mut written: u64 = 0;
    // Until nothing is taken for a while: the kernel's buffers and the sidecar's are full.
    while let Ok(taken) = timeout(Duration::from_millis(500), stream.write(&piece)).await {
        written += u64::try_from(taken.unwrap()).unwrap();
        assert!(written < 64 << 20, "something takes it without end");
    }
    release.send_replace(true);
    stream.shutdown().await.unwrap();
    let arrived = timeout(AT_MOST, stream.read_u64()).await.unwrap().unwrap();
    assert_eq!(arrived, written);
}

#[tokio::test]
async fn a_listener_that_goes_lets_its_connections_finish_for_a_while() {
    let app = echo("").await;
    for drain in ever_longer() {
        let (mut sidecar, port) =
            draining_within(drain, bytes("db", |_| ()), plain(&[app]), None, |_| ()).await;
        let mut stream = TcpStream::connect(port).await.unwrap();
        speak(&mut stream).await.unwrap();
        let begun = Instant::now();
        sidecar.builder.set_listener("db", None);
        sidecar.shared.snapshot.publish(sidecar.builder.build());
        while TcpStream::connect(port).await.is_ok() {
            tokio::task::yield_now().await;
        }
        if speak(&mut stream).await.is_none() {
            assert!(begun.elapsed() >= drain, "it goes on");
            continue;
        }
        let end = timeout(AT_MOST, stream.read_u8()).await.unwrap();
        assert!(end.is_err(), "and ends");
        assert!(begun.elapsed() >= drain);
        return;
    }
    panic!("this machine does nothing for seconds");
}

#[tokio::test]
async fn a_drain_waits_for_connections_as_long_as_it_may() {
    let app = echo("").await;
    let (sidecar, port) = outbound(bytes("db", |_| ()), plain(&[app]), None, |_| ()).await;
    let mut stream = TcpStream::connect(port).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    let finish = async {
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await
    };
    let (cut, finished) = tokio::join!(sidecar.workers.drain(AT_MOST), finish);
    assert!(finished.is_ok());
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn shares_are_kept_and_one_source_stays_where_it_is() {
    let (a, b) = (echo("a").await, echo("b").await);
    let mut sidecar = Sidecar::start(&config(), None);
    sidecar.set_cluster(bytes("a", |_| ()), plain(&[a]));
    sidecar.set_cluster(bytes("b", |_| ()), plain(&[b]));
    let shares = route(&mut sidecar, &[("a", 80), ("b", 20)]);
    let port = open(&mut sidecar, shares).await;
    let mut heard: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..256 {
        *heard.entry(tell(port, b"").await.unwrap()).or_default() += 1;
    }
    // A share is kept exactly by each worker; which worker gets how many of them is the kernel's.
    assert!((40..=62).contains(&heard["b"]), "{heard:?}");

    let apps = [echo("1").await, echo("2").await, echo("3").await];
    let ring = bytes("db", |config| {
        config.lb = LbPolicy::Maglev { table_size: 251 };
    });
    let by_source = |route: &mut ConnectionRoute| route.hash_source_ip = true;
    let (_sidecar, port) = outbound(ring, plain(&apps), None, by_source).await;
    let first = tell(port, b"").await;
    for _ in 0..20 {
        assert_eq!(tell(port, b"").await, first);
    }
}

/// A server with an identity of the mesh that is no sidecar, and ends nothing by itself.
async fn foreign(authority: &Authority) -> SocketAddr {
    let identity = authority.identity("db");
    let config = crate::tls::server_config(&identity, &["istio".to_owned()]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let (mut read, mut write) = tokio::io::split(stream);
            drop(tokio::io::copy(&mut read, &mut write).await);
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_to_a_server_of_a_root_that_is_gone_ends() {
    let authority = Authority::new();
    let to = foreign(&authority).await;
    let config = bytes("db", |config| config.tls = istio("db"));
    let frontend = authority.identity("frontend");
    let endpoints = vec![endpoint(to, true)];
    let (sidecar, port) = outbound(config, endpoints, Some(frontend), |_| ()).await;
    let mut stream = TcpStream::connect(port).await.unwrap();
    speak(&mut stream).await.unwrap();
    // A renewal under the same root changes nothing.
    let change = |identity| sidecar.shared.identity.store(Some(Arc::new(identity)));
    change(authority.identity("frontend"));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        speak(&mut stream).await.unwrap();
    }
    change(Authority::new().identity("frontend"));
    let ended = async { while speak(&mut stream).await.is_some() {} };
    timeout(AT_MOST, ended).await.unwrap();
}

#[tokio::test]
async fn a_connection_ends_with_the_earlier_certificate_of_its_upstream() {
    let authority = Authority::new();
    let to = foreign(&authority).await;
    let config = bytes("db", |config| config.tls = istio("db"));
    let mut over = authority.identity("frontend");
    over.not_after = 1;
    let endpoints = vec![endpoint(to, true)];
    let (sidecar, port) = outbound(config, endpoints, Some(over), |_| ()).await;
    let mut stream = TcpStream::connect(port).await.unwrap();
    let ended = async { while speak(&mut stream).await.is_some() {} };
    timeout(AT_MOST, ended).await.unwrap();
    let line = "istio_tcp_connections_closed_total";
    let closed = timeout(AT_MOST, sidecar.until_metric(line, 1.0)).await;
    closed.unwrap();
}
