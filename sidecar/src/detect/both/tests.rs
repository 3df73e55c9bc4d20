use std::{net::SocketAddr, sync::Arc, time::Duration};

use outrigger_core::{
    Capture, ChainLookup, ChainMatch, ClusterChoice, ConnectionRoute, Direction, FilterChain,
    FilterChains, Inspect, Listener, PolicyPositions, RouteSource, WeightedCluster,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::{
    detect::memory::Known,
    testing::{
        Sidecar,
        app::{App, Raw},
        cluster, config, endpoint, route, table,
    },
};

/// Longer than anything here takes, and shorter than what a timeout of the sidecar's would.
const AT_MOST: Duration = Duration::from_secs(100);

/// A service whose protocol nobody has declared: where connections of bytes lead to is another server than where
/// requests do, so that one sees what was found out.
struct Undeclared {
    sidecar: Sidecar,
    port: SocketAddr,
    requests: App,
    /// Connections of the server of bytes.
    accepted: mpsc::Receiver<TcpStream>,
}

async fn undeclared() -> Undeclared {
    let mut sidecar = Sidecar::start(&config(), None);
    let requests = App::start("requests").await;
    let bytes = TcpListener::bind("127.0.0.1:0").await.unwrap();
    sidecar.set_cluster(cluster("requests"), vec![endpoint(requests.address, false)]);
    let at = bytes.local_addr().unwrap();
    sidecar.set_cluster(cluster("bytes"), vec![endpoint(at, false)]);
    let to = route(&mut sidecar.builder, &cluster("requests").name);
    let http = RouteSource::Inline(Arc::new(table("auto", vec![("*", vec![to])])));
    let name = cluster("bytes").name;
    let to = WeightedCluster::plain(sidecar.builder.cluster_slot(&name), &name, 1);
    let tcp = RouteSource::Connection(Arc::new(ConnectionRoute {
        position: None,
        clusters: ClusterChoice::new(vec![to]).unwrap(),
        idle_timeout: None,
        max_duration: None,
        attempts: 1,
        hash_source_ip: false,
        rbac: Vec::new(),
    }));
    let chain = |routes| FilterChain {
        tls: None,
        routes,
        settings: None,
        policies: PolicyPositions::default(),
    };
    let wanted = ChainMatch {
        tls: Some(false),
        application_protocols: ["http/1.1", "h2c"].map(str::to_owned).to_vec(),
        ..ChainMatch::default()
    };
    let inspect = Inspect {
        http: true,
        ..Inspect::default()
    };
    let lookup = ChainLookup::new(&[wanted], inspect).unwrap();
    let listener = Listener {
        name: "auto".to_owned(),
        address: "127.0.0.1:0".parse().unwrap(),
        direction: Direction::Outbound,
        chains: FilterChains::new(vec![chain(http), chain(tcp)], Some(lookup.or_else(Some(1)))),
        dry_run: None,
        capture: Capture::default(),
    };
    sidecar.builder.set_listener("auto", Some(listener));
    let port = sidecar.publish("auto").await;
    let (tell, accepted) = mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            tell.send(bytes.accept().await.unwrap().0).await.unwrap();
        }
    });
    Undeclared {
        sidecar,
        port,
        requests,
        accepted,
    }
}

impl Undeclared {
    async fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.port).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// The server's end of the next connection of bytes.
    async fn server(&mut self) -> TcpStream {
        let accepted = timeout(AT_MOST, self.accepted.recv()).await;
        accepted.unwrap().unwrap()
    }

    fn known(&self) -> Option<Known> {
        let now = std::time::Instant::now();
        self.sidecar.shared.protocols.of(self.port, now)
    }
}

async fn hears(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    timeout(AT_MOST, stream.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&heard),
        String::from_utf8_lossy(expected)
    );
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_by_a_client_that_waits_for_it() {
    let mut service = undeclared().await;
    for _ in 0..2 {
        let mut client = service.client().await;
        let mut server = service.server().await;
        server.write_all(b"220 mail\r\n").await.unwrap();
        hears(&mut client, b"220 mail\r\n").await;
        client.write_all(b"EHLO me\r\n").await.unwrap();
        hears(&mut server, b"EHLO me\r\n").await;
        server.write_all(b"250 ok\r\n").await.unwrap();
        hears(&mut client, b"250 ok\r\n").await;
        // The end of one way is not the end of the other.
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server.write_all(b"221 bye\r\n").await.unwrap();
        hears(&mut client, b"221 bye\r\n").await;
        drop(server);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(service.known(), Some(Known::ServerFirst));
    }
}

#[tokio::test]
async fn a_request_is_one_however_slowly_it_comes() {
    let mut service = undeclared().await;
    let mut client = service.client().await;
    client.write_all(&REQUEST[..1]).await.unwrap();
    // As long as it takes to ask the server, who waits for its client.
    let mut server = service.server().await;
    client.write_all(&REQUEST[1..]).await.unwrap();
    let mut client = Raw { stream: client };
    let answer = timeout(AT_MOST, client.answer()).await.unwrap().unwrap();
    assert!(answer.body.contains("requests"), "{}", answer.body);
    assert_eq!(service.requests.connections(), 1);
    // And the server of bytes has heard nothing.
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(service.known(), Some(Known::Http));
}

#[tokio::test]
async fn a_client_that_speaks_first_and_no_request_is_passed_on_with_its_first_bytes() {
    let mut service = undeclared().await;
    let mut client = service.client().await;
    client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    let mut server = service.server().await;
    hears(&mut server, b"*1\r\n$4\r\nPING\r\n").await;
    server.write_all(b"+PONG\r\n").await.unwrap();
    hears(&mut client, b"+PONG\r\n").await;
    assert_eq!(service.known(), Some(Known::ClientFirst));
    assert_eq!(service.requests.connections(), 0);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_does_not_make_requests_bytes() {
    for unasked in [
        &b"HTTP/1.1 408 Request Timeout\r\n\r\n"[..],
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
    ] {
        let mut service = undeclared().await;
        let client = service.client().await;
        let mut server = service.server().await;
        server.write_all(unasked).await.unwrap();
        // The connection to it is given up: it is HTTP, and has its own.
        assert_eq!(server.read(&mut [0; 8]).await.unwrap_or(0), 0);
        let mut client = Raw { stream: client };
        client.stream.write_all(REQUEST).await.unwrap();
        let answer = timeout(AT_MOST, client.answer()).await.unwrap().unwrap();
        assert!(answer.body.contains("requests"), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_and_leaves_is_not_waited_for() {
    let mut service = undeclared().await;
    let mut client = service.client().await;
    drop(service.server().await);
    let end = timeout(AT_MOST, client.read(&mut [0; 8])).await.unwrap();
    assert_eq!(end.unwrap(), 0);
}
