//! The server on real sockets, with servers of this machine that the test plays.

use std::{
    collections::BTreeSet,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::Mutex,
    time::Duration,
};

use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

use super::{
    book::Record,
    message::{A, AAAA, SRV, tests::query},
    metrics::{Outcome, Over},
    names::{Names, Scope},
    *,
};
use crate::xds::asked::Answer;

const MX: u16 = 15;
const HTTPS: u16 = 65;
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server of this machine has heard, and whether over TCP.
type Heard = Arc<Mutex<Vec<(Vec<u8>, bool, u16)>>>;

struct Server {
    address: SocketAddr,
    heard: Heard,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers over both transports with what `says` of (query, is TCP): none, one, several messages.
    async fn saying(says: fn(&[u8], bool) -> Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        let heard = Heard::default();
        let mut tasks = JoinSet::new();
        let noted = Arc::clone(&heard);
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_535];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let query = buffer[..length].to_vec();
                noted
                    .lock()
                    .unwrap()
                    .push((query.clone(), false, from.port()));
                for answer in says(&query, false) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let noted = Arc::clone(&heard);
        tasks.spawn(async move {
            loop {
                let (mut stream, from) = listener.accept().await.unwrap();
                let query = framed(&mut stream).await;
                noted
                    .lock()
                    .unwrap()
                    .push((query.clone(), true, from.port()));
                for answer in says(&query, true) {
                    write(&mut stream, &answer).await;
                }
            }
        });
        Self {
            address,
            heard,
            _tasks: tasks,
        }
    }

    fn heard(&self) -> Vec<(Vec<u8>, bool, u16)> {
        self.heard.lock().unwrap().clone()
    }
}

async fn framed(stream: &mut TcpStream) -> Vec<u8> {
    let length = stream.read_u16().await.unwrap();
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await.unwrap();
    message
}

async fn write(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await.unwrap();
}

/// The answer of somebody who knows nothing but says so well, with something that only he says.
fn known(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1]);
    answer
}

fn with_code(query: &[u8], code: u8) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[3] = code;
    answer
}

/// The DNS server, and a client.
struct Client {
    running: Running,
    names: Arc<Names>,
    socket: UdpSocket,
    _tasks: JoinSet<()>,
}

impl Client {
    /// Of a sidecar with a first configuration, that asks for names one by one if `on_demand`.
    async fn of(servers: &[SocketAddr], on_demand: bool) -> Self {
        let names: Arc<Names> = Arc::default();
        names.begin(Scope {
            namespace: "shop".to_owned(),
            domain: "cluster.local".to_owned(),
            on_demand,
        });
        names.set_configured();
        let sockets = sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut tasks = JoinSet::new();
        let running = start(sockets, servers, &names, &Registry::new(), &mut tasks).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(running.addresses[0]).await.unwrap();
        Self {
            running,
            names,
            socket,
            _tasks: tasks,
        }
    }

    fn knows(self, name: &str, v4: &[[u8; 4]]) -> Self {
        let record = Record {
            host: format!("{name}.shop.svc.cluster.local"),
            v4: v4.iter().map(|ip| Ipv4Addr::from(*ip)).collect(),
            ports: Some(vec![("http".to_owned(), 8080)]),
            ..Record::default()
        };
        let names = vec![(name.to_owned(), Arc::new(record))];
        self.names.book().set(name, names);
        self
    }

    async fn ask(&self, query: &[u8]) -> Vec<u8> {
        self.socket.send(query).await.unwrap();
        self.hear().await
    }

    async fn hear(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        let heard = timeout(PATIENCE, self.socket.recv(&mut buffer)).await;
        buffer.truncate(heard.expect("an answer").unwrap());
        buffer
    }

    fn count(&self, outcome: &str) -> u64 {
        let counters = &self.running.resolver.counters;
        let mut outcomes = counters.outcomes();
        outcomes.find(|(word, _)| *word == outcome).unwrap().1
    }
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 0xf
}

fn answers(answer: &[u8]) -> u16 {
    u16::from_be_bytes([answer[6], answer[7]])
}

#[tokio::test]
async fn a_name_of_the_mesh_is_answered_here_whatever_is_asked_of_it() {
    let server = Server::saying(|query, _| vec![known(query)]).await;
    let client = Client::of(&[server.address], false).await;
    let client = client.knows("orders", &[[240, 240, 0, 9]]);
    let answer = client.ask(&query("ORDERS", A)).await;
    assert_eq!((code(&answer), answers(&answer)), (0, 1));
    assert!(answer.ends_with(&[240, 240, 0, 9]));
    for kind in [AAAA, MX, HTTPS, SRV, 16] {
        let answer = client.ask(&query("orders", kind)).await;
        assert_eq!((code(&answer), answers(&answer)), (0, 0), "type {kind}");
    }
    let port = client.ask(&query("_http._tcp.orders", SRV)).await;
    assert_eq!((code(&port), answers(&port)), (0, 1));
    let none = client.ask(&query("_grpc._tcp.orders", SRV)).await;
    assert_eq!(code(&none), 3);
    let host = client.ask(&query("9.0.240.240.in-addr.arpa", 12)).await;
    let expected = b"\x06orders\x04shop\x03svc\x07cluster\x05local\x00";
    assert!(host.ends_with(expected));
    assert_eq!(server.heard(), []);
    assert_eq!((client.count("mesh"), client.count("mesh_empty")), (3, 6));
}

#[tokio::test]
async fn everything_else_is_asked_under_an_id_and_from_a_port_that_nobody_knows() {
    let server = Server::saying(|query, _| vec![known(query)]).await;
    let client = Client::of(&[server.address], false).await;
    for n in 0..32 {
        let asked = query(&format!("Host{n}.Example.com"), A);
        let answer = client.ask(&asked).await;
        assert_eq!(answer, known(&asked), "byte by byte, under its own id");
    }
    let heard = server.heard();
    let ids: BTreeSet<&[u8]> = heard.iter().map(|(query, ..)| &query[..2]).collect();
    let ports: BTreeSet<u16> = heard.iter().map(|(.., port)| *port).collect();
    assert!(ids.len() > 28 && ports.len() > 24, "{ids:?} {ports:?}");
    let own = client.socket.local_addr().unwrap().port();
    assert!(!ports.contains(&own));
}

#[tokio::test]
async fn what_does_not_answer_the_question_is_not_believed() {
    let server = Server::saying(|query, _| {
        let mut other_id = known(query);
        other_id[0] ^= 0xff;
        let mut other_name = known(query);
        other_name[13] ^= 1;
        let question = query.to_vec();
        vec![other_id, other_name, question, vec![0; 5], known(query)]
    });
    let server = server.await;
    let client = Client::of(&[server.address], false).await;
    let asked = query("bank.example.com", A);
    assert_eq!(client.ask(&asked).await, known(&asked));
    assert_eq!(server.heard().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_fetched_over_tcp_for_those_who_can_take_it() {
    fn long(query: &[u8], tcp: bool) -> Vec<Vec<u8>> {
        let mut answer = known(query);
        match tcp {
            true => answer.resize(3_000, 7),
            false => answer[2] |= 2,
        }
        vec![answer]
    }
    let server = Server::saying(long).await;
    let client = Client::of(&[server.address], false).await;
    let plain = query("long.example.com", A);
    let cut = client.ask(&plain).await;
    assert!(cut[2] & 2 != 0);
    assert_eq!(
        server.heard().len(),
        1,
        "an old client comes over TCP itself"
    );
    let edns = message::tests::with_edns(plain.clone(), 4_096, 0);
    assert_eq!(client.ask(&edns).await.len(), 3_000);
    let small = message::tests::with_edns(plain.clone(), 1_000, 0);
    let cut = client.ask(&small).await;
    assert!(cut[2] & 2 != 0 && cut.len() < 1_000);
    let mut stream = TcpStream::connect(client.running.addresses[0])
        .await
        .unwrap();
    write(&mut stream, &plain).await;
    assert_eq!(framed(&mut stream).await.len(), 3_000);
}

#[tokio::test]
async fn a_server_that_is_silent_gone_or_of_no_help_makes_way_for_the_next() {
    let silent = Server::saying(|_, _| Vec::new()).await;
    let failing = Server::saying(|query, _| vec![with_code(query, 2)]).await;
    let good = Server::saying(|query, _| vec![known(query)]).await;
    let gone = {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.local_addr().unwrap()
    };
    let asked = query("example.com", A);
    for bad in [gone, failing.address, silent.address] {
        let client = Client::of(&[bad, good.address], false).await;
        assert_eq!(client.ask(&asked).await, known(&asked), "{bad}");
        let again = query("again.example.com", A);
        let before = good.heard().len();
        client.ask(&again).await;
        assert_eq!(
            good.heard().len(),
            before + 1,
            "the good one is asked first now"
        );
    }
    let client = Client::of(&[failing.address], false).await;
    assert_eq!(
        code(&client.ask(&asked).await),
        2,
        "its word, if there is no better"
    );
    assert_eq!(client.count("forwarded"), 1);
}

#[tokio::test]
async fn the_same_question_is_asked_once_for_all_who_ask_it_and_not_often_in_other_words() {
    let silent = Server::saying(|_, _| Vec::new()).await;
    let client = Client::of(&[silent.address], false).await;
    let mut asked = query("popular.example.com", A);
    for id in 0..20 {
        asked[1] = id;
        client.socket.send(&asked).await.unwrap();
    }
    // Each of these has other bytes: another size of EDNS. One more than may be, with the first.
    for size in 0..8 {
        let bytes = message::tests::with_edns(asked.clone(), 1_000 + size, 0);
        client.socket.send(&bytes).await.unwrap();
    }
    let answer = client.hear().await;
    assert_eq!(code(&answer), 2);
    assert_eq!(client.count("unanswered"), 1);
    let heard = silent.heard();
    assert!(heard.len() <= 8, "{}", heard.len());
}

#[tokio::test]
async fn a_query_of_our_own_that_comes_back_is_not_asked_again() {
    let server = Server::saying(|query, _| vec![known(query)]).await;
    let client = Client::of(&[server.address], false).await;
    let ports = &client.running.resolver.forwarder.ports;
    let own = ports.own(client.socket.local_addr().unwrap().port(), 0xabcd);
    client.socket.send(&query("example.com", A)).await.unwrap();
    let mut other = query("example.com", A);
    other[0] = 1;
    assert_eq!(client.ask(&other).await, known(&other));
    drop(own);
    assert_eq!((client.count("loop"), server.heard().len()), (1, 1));
}

#[tokio::test]
async fn what_is_no_query_is_refused_and_answers_are_ignored() {
    let server = Server::saying(|query, _| vec![known(query)]).await;
    let client = Client::of(&[server.address], false).await;
    let mut none = query("example.com", A);
    none[2] |= 0x80;
    client.socket.send(&none).await.unwrap();
    client.socket.send(&[1, 2, 3]).await.unwrap();
    none[2] = 0;
    none[5] = 0;
    let answer = client.ask(&none).await;
    assert_eq!((code(&answer), answer.len()), (1, 12));
    let transfer = client.ask(&query("example.com", 252)).await;
    assert_eq!(code(&transfer), 5);
    assert_eq!((client.count("refused"), server.heard().len()), (4, 0));
}

#[tokio::test]
async fn queries_over_one_connection_are_answered_as_they_can_be() {
    fn slow(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        match query[13] {
            b's' => Vec::new(),
            _ => vec![known(query)],
        }
    }
    let server = Server::saying(slow).await;
    let client = Client::of(&[server.address], false).await;
    let client = client.knows("orders", &[[240, 240, 0, 9]]);
    let mut stream = TcpStream::connect(client.running.addresses[0])
        .await
        .unwrap();
    write(&mut stream, &query("silent.example.com", A)).await;
    write(&mut stream, &query("other.example.com", A)).await;
    let answer = framed(&mut stream).await;
    assert_eq!(answer, known(&query("other.example.com", A)));
    write(&mut stream, &query("orders", A)).await;
    assert!(framed(&mut stream).await.ends_with(&[240, 240, 0, 9]));
    // A length that no query has.
    stream.write_all(&[0xff, 0xff]).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .ok();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_machine_with_ipv6_asks_over_it_as_well() {
    let server = Server::saying(|query, _| vec![known(query)]).await;
    let client = Client::of(&[server.address], false).await;
    let Some(v6) = client.running.addresses.get(1) else {
        return;
    };
    let socket = UdpSocket::bind("[::1]:0").await.unwrap();
    let asked = query("example.com", A);
    socket.send_to(&asked, v6).await.unwrap();
    let mut buffer = [0; 512];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(buffer[..length], known(&asked));
}

/// Plays the xDS client: what it is asked for is so.
async fn answering<T>(
    names: &Names,
    answer: Answer,
    asks: impl Future<Output = T>,
) -> (T, Vec<String>) {
    let client = async {
        names.demand.wanted().await;
        let wanted = names.demand.take_wanted();
        for name in &wanted {
            if answer == Answer::Here {
                let record = Record {
                    host: name.clone(),
                    v4: vec![[240, 240, 0, 7].into()],
                    ..Record::default()
                };
                names
                    .book()
                    .set(name, vec![(name.clone(), Arc::new(record))]);
            }
        }
        let answers = wanted.iter().map(|name| (name.clone(), answer.clone()));
        names.demand.settle(answers.collect(), [0; 3]);
        wanted
    };
    tokio::join!(asks, client)
}

#[tokio::test]
async fn a_name_is_asked_for_when_it_is_looked_up_and_not_again() {
    let server = Server::saying(|query, _| vec![known(query)]).await;
    let client = Client::of(&[server.address], true).await;
    client.names.demand.set_connected(true);
    let asked = query("Orders.Shop", A);
    let (answer, wanted) = answering(&client.names, Answer::Here, client.ask(&asked)).await;
    assert_eq!(wanted, ["orders.shop"]);
    assert!(answer.ends_with(&[240, 240, 0, 7]));
    assert!(client.ask(&asked).await.ends_with(&[240, 240, 0, 7]));
    let elsewhere = query("example.com", A);
    let (answer, wanted) = answering(&client.names, Answer::Absent, client.ask(&elsewhere)).await;
    assert_eq!(wanted, ["example.com"]);
    assert_eq!(answer, known(&elsewhere));
    assert_eq!(client.ask(&elsewhere).await, known(&elsewhere));
    // A port of a host is the host's, and the rest of what begins so is nobody's.
    let port = query("_http._tcp.cart", SRV);
    let (_, wanted) = answering(&client.names, Answer::Here, client.ask(&port)).await;
    assert_eq!(wanted, ["cart"]);
    for never in [
        "_dmarc.example.com",
        "localhost",
        "1.0.0.127.in-addr.arpa",
        "",
    ] {
        assert_eq!(client.ask(&query(never, A)).await, known(&query(never, A)));
    }
    assert_eq!(client.names.demand.take_wanted(), Vec::<String>::new());
}

/// Without a socket, so that time is the test's.
async fn answer_of(names: Arc<Names>, asked: &[u8]) -> (u8, Outcome) {
    let counters = Arc::new(Counters::new(&Registry::new(), &names));
    let own = "127.0.0.1:53".parse().unwrap();
    // There is none: nothing is sent.
    let servers = Arc::new(Servers::new(&[], &[own]));
    servers.clear_for_tests();
    let forwarder = Arc::new(Forwarder::new(servers, Arc::clone(&counters)));
    let resolver = Resolver::new(names, forwarder, counters);
    let query = resolver.read(asked, Over::Udp).unwrap().unwrap();
    let (answer, outcome) = resolver.answer(&query, Over::Udp).await;
    (code(&answer), outcome)
}

#[tokio::test(start_paused = true)]
async fn before_the_first_configuration_nobody_is_told_anything_that_he_would_remember() {
    let names: Arc<Names> = Arc::default();
    for name in ["orders", "example.com"] {
        let answer = answer_of(Arc::clone(&names), &query(name, A)).await;
        assert_eq!(answer, (2, Outcome::NotReady), "{name}");
    }
    let waiting = tokio::spawn(async move {
        let asked = query("example.com", A);
        let names: Arc<Names> = Arc::default();
        let later = Arc::clone(&names);
        let answer = tokio::spawn(async move { answer_of(names, &asked).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        later.set_configured();
        answer.await.unwrap()
    });
    assert_eq!(
        waiting.await.unwrap(),
        (2, Outcome::Unanswered),
        "it was passed on"
    );
}

#[tokio::test(start_paused = true)]
async fn without_the_control_plane_a_name_of_the_mesh_fails_and_any_other_is_passed_on() {
    let names = || {
        let names: Arc<Names> = Arc::default();
        names.begin(Scope {
            namespace: "shop".to_owned(),
            domain: "cluster.local".to_owned(),
            on_demand: true,
        });
        names.set_configured();
        names
    };
    let away = names();
    tokio::time::advance(Duration::from_secs(6)).await;
    let silent = names();
    silent.demand.set_connected(true);
    for names in [away, silent] {
        let of = |name: &str| {
            let (names, asked) = (Arc::clone(&names), query(name, A));
            async move { answer_of(names, &asked).await.1 }
        };
        assert_eq!(of("orders.shop.svc.cluster.local").await, Outcome::NotKnown);
        assert_eq!(of("example.com").await, Outcome::Unanswered);
    }
}

#[test]
fn the_page_says_what_is_known_and_done() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::of(&["10.0.0.2:53".parse().unwrap()], false).await;
        let client = client.knows("orders", &[[240, 240, 0, 9]]);
        client.ask(&query("orders", A)).await;
        let page = show(&client.running, "");
        for line in [
            "forwards to: 10.0.0.2:53",
            "names come: all at once",
            "queries: mesh=1 ",
            "orders  240.240.0.9  http:8080  (orders.shop.svc.cluster.local)",
        ] {
            assert!(page.contains(line), "{line:?} is not in\n{page}");
        }
        assert!(!show(&client.running, "cart").contains("240.240.0.9"));
    });
}
