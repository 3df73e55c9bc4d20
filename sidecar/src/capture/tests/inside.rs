//! The halves that run inside of the namespace. Port 15001 is free there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use outrigger_core::{
    Capture, ChainLookup, ChainMatch, ClusterChoice, ClusterConfig, ConnectionRoute, Direction,
    DownstreamTls, FilterChain, FilterChains, Listener, PolicyPositions, RouteSource,
    WeightedCluster,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    CaptureCheck, CaptureMode,
    capture::{Setup, probe},
    testing::{
        Authority, Sidecar,
        app::{App, Raw},
        cluster, config, endpoint, mtls, route, table,
    },
};

const OUTBOUND: &str = "127.0.0.1:15001";
const INBOUND: &str = "0.0.0.0:15006";

/// Connects as an application does whose connections are redirected.
fn dial_marked(to: &str, mark: u32) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_mark(mark)?;
    // On the same host: at once.
    socket.connect(&to.into())?;
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket.into())
}

async fn dial(to: &str) -> TcpStream {
    dial_marked(to, 7).unwrap()
}

/// A server that says its name to each connection, and then what it is told.
async fn server(at: &str, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
                drop(write.shutdown().await);
            });
        }
    });
    address
}

/// What comes until the end, if nothing is said.
async fn heard(mut stream: TcpStream) -> String {
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said
}

fn chain(sidecar: &mut Sidecar, cluster: &str) -> FilterChain {
    let slot = sidecar.builder.cluster_slot(cluster);
    let to = WeightedCluster::plain(slot, cluster, 1);
    let route = ConnectionRoute {
        position: None,
        clusters: ClusterChoice::new(vec![to]).unwrap(),
        idle_timeout: None,
        max_duration: None,
        attempts: 1,
        hash_source_ip: false,
        rbac: Vec::new(),
    };
    FilterChain {
        tls: None,
        routes: RouteSource::Connection(Arc::new(route)),
        settings: None,
        policies: PolicyPositions::default(),
    }
}

fn listener(name: &str, addresses: &[&str], chains: FilterChains, capture: Capture) -> Listener {
    let mut addresses = addresses.iter().map(|at| at.parse().unwrap());
    Listener {
        name: name.to_owned(),
        address: addresses.next().unwrap(),
        direction: Direction::Outbound,
        chains,
        dry_run: None,
        capture: Capture {
            more_addresses: addresses.collect(),
            ..capture
        },
    }
}

fn unbound() -> Capture {
    Capture {
        unbound: true,
        ..Capture::default()
    }
}

/// A sidecar that takes redirected connections, and passes on what it knows nothing of.
async fn captured() -> Sidecar {
    let mut sidecar = Sidecar::start(&config(), None);
    sidecar.shared.capture.start(Setup {
        mode: CaptureMode::Redirect,
        check: CaptureCheck::Required,
        inbound: Some(INBOUND.parse().unwrap()),
        app: Some("127.0.0.1:9080".parse().unwrap()),
        ipv6: true,
    });
    sidecar.set_cluster(
        ClusterConfig {
            name: "PassthroughCluster".to_owned(),
            service: "PassthroughCluster".to_owned(),
            original_dst: true,
            ..ClusterConfig::default()
        },
        Vec::new(),
    );
    let rest = chain(&mut sidecar, "PassthroughCluster");
    let capture = Capture {
        hands_over: true,
        restores: true,
        ..Capture::default()
    };
    let addresses = [OUTBOUND, "[::1]:15001"];
    let all = listener(
        "virtualOutbound",
        &addresses,
        FilterChains::one(rest),
        capture,
    );
    sidecar.builder.set_listener("virtualOutbound", Some(all));
    sidecar.publish("virtualOutbound").await;
    sidecar
}

fn counter(sidecar: &Sidecar, line: &str) -> bool {
    let families = sidecar.telemetry.metrics.registry.gather();
    let text = prometheus::TextEncoder::new().encode_to_string(&families);
    text.unwrap().lines().any(|found| found == line)
}

#[tokio::test]
#[ignore = "run by the claim outside, in a namespace"]
async fn placed() {
    let mut sidecar = captured().await;
    for (name, addresses) in [
        (
            "240.240.0.9_5432",
            &["240.240.0.9:5432", "[2001:2::9]:5432"][..],
        ),
        ("0.0.0.0_5432", &["0.0.0.0:5432"]),
    ] {
        let backend = server("127.0.0.1:0", name).await;
        let config = ClusterConfig {
            name: name.to_owned(),
            ..cluster(name)
        };
        sidecar.set_cluster(config, vec![endpoint(backend, false)]);
        let to = FilterChains::one(chain(&mut sidecar, name));
        let listener = listener(name, addresses, to, unbound());
        sidecar.builder.set_listener(name, Some(listener));
    }
    sidecar.publish("virtualOutbound").await;
    server("198.51.100.7:5433", "elsewhere").await;
    server("[2001:db8::7]:5433", "elsewhere, too").await;
    for (to, expected) in [
        ("240.240.0.9:5432", "240.240.0.9_5432"),
        ("[2001:2::9]:5432", "240.240.0.9_5432"),
        ("240.240.0.10:5432", "0.0.0.0_5432"),
        ("198.51.100.7:5432", "0.0.0.0_5432"),
        ("[2001:2::10]:5432", "0.0.0.0_5432"),
        ("198.51.100.7:5433", "elsewhere"),
        ("[2001:db8::7]:5433", "elsewhere, too"),
    ] {
        assert_eq!(heard(dial(to).await).await, expected, "{to}");
    }
    // Both ways, and the end of one is not the end of the other.
    let mut stream = dial("240.240.0.9:5432").await;
    stream.write_all(b" and back").await.unwrap();
    assert_eq!(heard(stream).await, "240.240.0.9_5432 and back");
    // What is open goes on when its listener is gone, until it ends; new ones go elsewhere.
    sidecar.builder.set_listener("240.240.0.9_5432", None);
    sidecar.publish("virtualOutbound").await;
    assert_eq!(heard(dial("240.240.0.9:5432").await).await, "0.0.0.0_5432");
}

#[tokio::test]
#[ignore = "run by the claim outside, in a namespace"]
async fn own_port() {
    let sidecar = captured().await;
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();
    for (number, (to, mark)) in [
        (OUTBOUND, 0),
        ("[::1]:15001", 0),
        ("10.99.0.1:15001", 7),
        ("[fd99::1]:15001", 7),
    ]
    .into_iter()
    .enumerate()
    {
        let began = tokio::time::Instant::now();
        let stream = match mark {
            0 => TcpStream::connect(to).await,
            mark => dial_marked(to, mark),
        };
        let end = match stream {
            Ok(mut stream) => stream.read(&mut [0; 8]).await.unwrap_err(),
            // Before it was even known that it was open.
            Err(error) => error,
        };
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset, "{to}");
        println!("{to} was reset after {:?}", began.elapsed());
        let line = format!(
            "outrigger_connections_refused_total{{reason=\"own_listener\"}} {}",
            number + 1
        );
        assert!(counter(&sidecar, &line), "{line}");
    }
    // Nothing of them is left; what else the process opens for a moment, it closes.
    let closed = async {
        while files() > before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(100), closed)
        .await
        .unwrap();
    assert!(counter(&sidecar, "outrigger_upstream_connections_total 0"));
}

#[tokio::test]
#[ignore = "run by the claim outside, in a namespace"]
async fn requests() {
    let mut sidecar = captured().await;
    let known = App::start("known").await;
    sidecar.set_cluster(cluster("known"), vec![endpoint(known.address, false)]);
    let to_known = route(&mut sidecar.builder, &cluster("known").name);
    let to_rest = route(&mut sidecar.builder, "PassthroughCluster");
    let hosts = vec![("known", vec![to_known]), ("*", vec![to_rest])];
    let http = FilterChain {
        tls: None,
        routes: RouteSource::Inline(Arc::new(table("80", hosts))),
        settings: None,
        policies: PolicyPositions::default(),
    };
    let listener = listener(
        "0.0.0.0_80",
        &["0.0.0.0:80"],
        FilterChains::one(http),
        unbound(),
    );
    sidecar.builder.set_listener("0.0.0.0_80", Some(listener));
    sidecar.publish("virtualOutbound").await;
    let outside = TcpListener::bind("198.51.100.7:80").await.unwrap();
    let outside = App::at(outside, "outside");
    let request = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut client = Raw {
        stream: dial("198.51.100.7:80").await,
    };
    for (host, expected) in [
        ("known", "known"),
        ("a.example", "outside"),
        ("b.example", "outside"),
    ] {
        client.send(&request(host)).await;
        let answer = client.answer().await.unwrap();
        assert!(answer.body.contains(expected), "{host}: {}", answer.body);
    }
    assert!(outside.last_headers().get("x-outrigger-hops").is_none());
    assert!(known.last_headers().get("x-outrigger-hops").is_some());
    let snapshot = sidecar.shared.snapshot.load();
    let passthrough = snapshot
        .clusters()
        .find(|(_, c)| c.config.original_dst)
        .unwrap()
        .1;
    assert_eq!(
        passthrough.destination_ids().len(),
        1,
        "one destination, one pool"
    );
}

#[tokio::test]
#[ignore = "run by the claim outside, in a namespace"]
async fn own_host() {
    let authority = Authority::new();
    let app = App::start("app").await;
    let mut sidecar = captured().await;
    sidecar
        .shared
        .identity
        .store(Some(Arc::new(authority.identity("reviews"))));
    sidecar.set_cluster(
        ClusterConfig {
            name: "inbound|9080||".to_owned(),
            ..cluster("app")
        },
        vec![endpoint(app.address, false)],
    );
    let inbound = route(&mut sidecar.builder, "inbound|9080||");
    let http = FilterChain {
        tls: Some(DownstreamTls {
            certificate: "default".to_owned(),
            validation: "ROOTCA".to_owned(),
            alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
        }),
        routes: RouteSource::Inline(Arc::new(table(
            "inbound|9080||",
            vec![("*", vec![inbound])],
        ))),
        settings: None,
        policies: PolicyPositions::default(),
    };
    let only = ChainMatch {
        destination_port: Some(9080),
        ..ChainMatch::default()
    };
    let lookup = ChainLookup::new(&[only], None).unwrap();
    let capture = Capture {
        restores: true,
        ..Capture::default()
    };
    let chains = FilterChains::new(vec![http], Some(lookup));
    let mut inbound = listener("virtualInbound", &[INBOUND], chains, capture);
    inbound.direction = Direction::Inbound;
    sidecar
        .builder
        .set_listener("virtualInbound", Some(inbound));
    // The service's only endpoint is this host.
    let reviews = ClusterConfig {
        tls: mtls(&["reviews"]),
        ..cluster("reviews")
    };
    let own = endpoint("10.99.0.1:9080".parse().unwrap(), true);
    sidecar.set_cluster(reviews, vec![own]);
    let outbound = route(&mut sidecar.builder, &cluster("reviews").name);
    let http = FilterChain {
        tls: None,
        routes: RouteSource::Inline(Arc::new(table("9080", vec![("*", vec![outbound])]))),
        settings: None,
        policies: PolicyPositions::default(),
    };
    let listener = listener(
        "0.0.0.0_9080",
        &["0.0.0.0:9080"],
        FilterChains::one(http),
        unbound(),
    );
    sidecar.builder.set_listener("0.0.0.0_9080", Some(listener));
    sidecar.publish("virtualInbound").await;
    let mut client = Raw {
        stream: dial("240.240.0.9:9080").await,
    };
    client.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let introduced = app.last_headers();
    let introduced = introduced.get("x-forwarded-client-cert").unwrap();
    let introduced = introduced.to_str().unwrap();
    assert!(introduced.contains("/sa/reviews"), "{introduced}");
}

#[tokio::test]
#[ignore = "run by the claim outside, in a namespace"]
async fn probed() {
    let sidecar = captured().await;
    tokio::spawn(probe::run(Arc::clone(&sidecar.shared), true));
    let until = |works: bool| {
        let shared = Arc::clone(&sidecar.shared);
        async move {
            while probe::verdict(&shared)[0].is_none() != works {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            probe::verdict(&shared)[0].clone()
        }
    };
    assert_eq!(until(true).await, None);
    let done = std::process::Command::new("nft")
        .args(["flush", "ruleset"])
        .status();
    assert!(done.unwrap().success());
    let why = until(false).await.unwrap();
    println!("{why}");
    assert!(why.contains("240.240.255.254:15001") && why.contains("outrigger redirect apply"));
}

#[tokio::test]
#[ignore = "run by the claim outside, in a namespace"]
async fn inbound() {
    let mut sidecar = captured().await;
    let mut chains = Vec::new();
    let mut matches = Vec::new();
    for (name, port) in [("one", Some(7001)), ("app", Some(9080)), ("rest", None)] {
        let backend = server("127.0.0.1:0", name).await;
        sidecar.set_cluster(cluster(name), vec![endpoint(backend, false)]);
        let name = cluster(name).name;
        chains.push(chain(&mut sidecar, &name));
        matches.push(ChainMatch {
            destination_port: port,
            ..ChainMatch::default()
        });
    }
    let lookup = ChainLookup::new(&matches, None).unwrap();
    let capture = Capture {
        restores: true,
        ..Capture::default()
    };
    let chains = FilterChains::new(chains, Some(lookup));
    let mut inbound = listener("virtualInbound", &[INBOUND, "[::]:15006"], chains, capture);
    inbound.direction = Direction::Inbound;
    sidecar
        .builder
        .set_listener("virtualInbound", Some(inbound));
    sidecar.publish("virtualInbound").await;
    for (to, mark, expected) in [
        ("10.99.0.1:7001", 8, "one"),
        ("[fd99::1]:7001", 8, "one"),
        ("10.99.0.1:9080", 8, "app"),
        ("10.99.0.1:5555", 8, "rest"),
        // As sidecars do that know of no redirection: to the application.
        ("10.99.0.1:15006", 0, "app"),
        ("[fd99::1]:15006", 0, "app"),
    ] {
        let stream = match mark {
            0 => TcpStream::connect(to).await.unwrap(),
            mark => dial_marked(to, mark).unwrap(),
        };
        assert_eq!(heard(stream).await, expected, "{to}");
    }
}
