//! Idle connections in virtual time: none is used when its server may be closing it.
//!
//! Client and server share one runtime whose clock only the test moves; sockets are real. A server that has decided to
//! close reads no more, and its word arrives a while later: what is sent in between is lost, as on a real network.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, mpsc::RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use http::{Method, Request};
use http_body_util::BodyExt;
use outrigger_core::{Cluster, ClusterConfig, ClusterSlot};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{LocalSet, spawn_local, yield_now},
    time::{advance, sleep, timeout},
};

use super::{Gates, Pools, Protocol, acquire::Target};
use crate::{
    http::replay::{UpBody, Upload},
    shared::Shared,
    telemetry::Telemetry,
    testing::{cluster, config, endpoint},
};

/// From the server's decision to our noticing.
const UNDERWAY: Duration = Duration::from_millis(20);

/// A server that closes connections which are idle for too long.
struct Server {
    address: SocketAddr,
    idle_timeout: Rc<Cell<Duration>>,
    connections: Rc<Cell<u32>>,
    /// Of them, those that are not closed yet.
    open: Rc<Cell<u32>>,
    /// Requests that came after it had decided to close.
    lost: Rc<Cell<u32>>,
}

impl Server {
    async fn start(idle_timeout: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            idle_timeout: Rc::new(Cell::new(idle_timeout)),
            connections: Rc::default(),
            open: Rc::default(),
            lost: Rc::default(),
        };
        let limit = Rc::clone(&server.idle_timeout);
        let connections = Rc::clone(&server.connections);
        let (open, lost) = (Rc::clone(&server.open), Rc::clone(&server.lost));
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.set(connections.get() + 1);
                open.set(open.get() + 1);
                let (limit, open, lost) = (Rc::clone(&limit), Rc::clone(&open), Rc::clone(&lost));
                spawn_local(async move {
                    serve(stream, limit, lost).await;
                    open.set(open.get() - 1);
                });
            }
        });
        server
    }
}

async fn serve(mut stream: TcpStream, limit: Rc<Cell<Duration>>, lost: Rc<Cell<u32>>) {
    let mut request = [0; 1024];
    loop {
        match timeout(limit.get(), stream.read(&mut request)).await {
            Ok(Ok(1..)) => {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
            Ok(_) => return,
            Err(_idle) => {
                sleep(UNDERWAY).await;
                let late = stream.try_read(&mut request).unwrap_or(0);
                lost.set(lost.get() + u32::from(late > 0));
                return;
            }
        }
    }
}

/// One worker's pools, and one cluster.
struct Client {
    pools: Rc<Pools>,
    cluster: Arc<Cluster>,
    reused: Cell<u32>,
    /// Of the server.
    open: Rc<Cell<u32>>,
    /// How far the clock moves at a time; then workers tick.
    step: Duration,
}

impl Client {
    fn new(server: &Server, change: impl FnOnce(&mut ClusterConfig)) -> Self {
        let shared = Shared::new(crate::tls::files::Allowed::default());
        let (commands, _) = mpsc::channel(1);
        let gates = Arc::new(Gates::new([commands].into()));
        let pools = Pools::new(0, &shared, &gates, &Telemetry::start(&config()));
        let mut reviews = cluster("reviews");
        change(&mut reviews);
        let endpoints = vec![endpoint(server.address, false)];
        Self {
            pools: Rc::new(pools),
            cluster: Arc::new(Cluster::new(reviews, endpoints, None)),
            reused: Cell::new(0),
            open: Rc::clone(&server.open),
            step: Duration::from_millis(100),
        }
    }

    /// Sends once, without any second try. The clock stands still: what was lost is never answered, and said so.
    async fn send(&self, method: Method) -> Result<(), String> {
        let began = Instant::now();
        let patience = async {
            while began.elapsed() < Duration::from_secs(30) {
                yield_now().await;
                if began.elapsed() > Duration::from_secs(1) {
                    pause();
                }
            }
        };
        tokio::select! {
            biased;
            sent = self.send_now(method) => sent,
            () = patience => {
                let usable = self.cluster.endpoints[0].state.keep_alive.usable_ms();
                let used = self.cluster.limits.connections.used();
                Err(format!(
                    "no answer; {used} connections here, {} there, thought usable for {usable} ms, {} reused",
                    self.open.get(), self.reused.get()
                ))
            }
        }
    }

    async fn send_now(&self, method: Method) -> Result<(), String> {
        let endpoint = &self.cluster.endpoints[0];
        let target = Target {
            slot: ClusterSlot(0),
            cluster: &self.cluster,
            endpoint,
            protocol: Protocol::Http1,
            fresh: false,
            ends: None,
            reached: &Cell::new(false),
        };
        let lease = self.pools.acquire(target).await;
        let mut lease = lease.map_err(|error| format!("{error:?}"))?;
        self.reused.set(self.reused.get() + u32::from(lease.reused));
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "reviews");
        let request = request.body(UpBody::default()).unwrap();
        let response = lease.send(request).await;
        let response = response.map_err(|error| format!("{:?}", error.into_error()))?;
        response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        lease.release(&self.cluster, &Upload::default());
        Ok(())
    }

    /// Lets time pass, and workers tick.
    async fn rest(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(self.step);
            advance(step).await;
            left -= step;
            self.settle().await;
            self.pools.tick(self.pools.shared.now(), 0);
        }
    }

    /// Waits, while the clock stands still, until the server has noticed, and we have noticed the server:
    /// on a busy machine the kernel may be late with the word of a close, as a network is in
    /// [`UNDERWAY`] and no longer.
    async fn settle(&self) {
        for looks in 0..10_000 {
            for _ in 0..4 {
                yield_now().await;
            }
            if self.open.get() == self.cluster.limits.connections.used() {
                return;
            }
            if looks > 10 {
                pause();
            }
        }
        let used = self.cluster.limits.connections.used();
        panic!(
            "{} connections are open at the server, {used} here",
            self.open.get()
        );
    }
}

/// Real time, which the virtual clock does not see.
#[expect(clippy::disallowed_methods, reason = "the test has its runtime alone")]
fn pause() {
    thread::sleep(Duration::from_millis(1));
}

/// Runs `test` with a clock that stands still unless it is moved.
fn in_virtual_time<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        // While a blocking task runs, tokio does not move the clock by itself. What waits for ever would
        // wait for ever: after five minutes the clock is let go, and time limits end the wait.
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let guard = tokio::task::spawn_blocking(move || {
            ended.recv_timeout(Duration::from_secs(300)) == Err(RecvTimeoutError::Disconnected)
        });
        LocalSet::new().run_until(test()).await;
        drop(end);
        assert!(guard.await.unwrap(), "in virtual time, yet five minutes");
    });
}

#[test]
fn ten_thousand_requests_about_every_idle_timeout_lose_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    in_virtual_time(|| async move {
        let server = Server::start(Duration::from_secs(5)).await;
        let client = Client {
            // The server's clock is as coarse: it decides a step late at most, and is seen to have closed two steps
            // late at most. With a second of margin that is still before the shortest rest.
            step: Duration::from_millis(300),
            ..Client::new(&server, |_| ())
        };
        for n in 0..10_000 {
            let method = if n % 2 == 0 {
                Method::GET
            } else {
                Method::POST
            };
            if let Err(error) = client.send(method).await {
                panic!("request {n}: {error}");
            }
            client
                .rest(Duration::from_millis(rng.u64(4900..=5100)))
                .await;
        }
        assert_eq!(server.lost.get(), 0);
    });
}

#[test]
fn without_care_the_same_requests_are_lost() {
    // The opposite claim, so that the one above says something: the server does lose what comes too late.
    in_virtual_time(|| async {
        let server = Server::start(Duration::from_secs(5)).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let mut answer = [0; 64];
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut answer).await.unwrap() > 0);
        yield_now().await;
        advance(Duration::from_millis(5001)).await;
        for _ in 0..4 {
            yield_now().await;
        }
        stream.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
        advance(UNDERWAY * 2).await;
        for _ in 0..4 {
            yield_now().await;
        }
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        assert_eq!(server.lost.get(), 1);
    });
}

#[test]
fn connections_are_reused_for_as_long_as_one_has_survived() {
    in_virtual_time(|| async {
        let server = Server::start(Duration::from_secs(60)).await;
        let client = Client::new(&server, |_| ());
        client.send(Method::POST).await.unwrap();
        // Nobody knows yet that 20 s are nothing to this server; one connection finds out.
        client.rest(Duration::from_secs(20)).await;
        client.send(Method::POST).await.unwrap();
        assert_eq!((client.reused.get(), server.connections.get()), (0, 2));
        for _ in 0..100 {
            client.rest(Duration::from_secs(20)).await;
            client.send(Method::POST).await.unwrap();
        }
        assert!(client.reused.get() >= 99, "{}", client.reused.get());
        // At 60 s the server closes the one that is watched; 59 s are what is left.
        client.rest(Duration::from_secs(70)).await;
        let known = &client.cluster.endpoints[0].state.keep_alive;
        assert!(
            (58_000..60_000).contains(&known.usable_ms()),
            "{}",
            known.usable_ms()
        );
        assert_eq!(server.lost.get(), 0);
    });
}

#[test]
fn a_restart_of_the_server_is_forgotten() {
    in_virtual_time(|| async {
        let server = Server::start(Duration::from_secs(2)).await;
        let client = Client::new(&server, |_| ());
        client.send(Method::GET).await.unwrap();
        client.rest(Duration::from_secs(3)).await;
        let known = &client.cluster.endpoints[0].state.keep_alive;
        assert!(known.usable_ms() <= 2000, "{}", known.usable_ms());
        // It was closing everything after 2 s; now it does not.
        server.idle_timeout.set(Duration::from_secs(3600));
        client.send(Method::GET).await.unwrap();
        client.rest(Duration::from_secs(30)).await;
        assert!(known.usable_ms() > 25_000, "{}", known.usable_ms());
    });
}

#[test]
fn a_watched_connection_gives_way_where_connections_are_few() {
    in_virtual_time(|| async {
        let server = Server::start(Duration::from_secs(60)).await;
        let client = Client::new(&server, |reviews| reviews.thresholds.max_connections = 1);
        for _ in 0..3 {
            client.send(Method::POST).await.unwrap();
            client.rest(Duration::from_secs(6)).await;
        }
        assert_eq!(server.lost.get(), 0);
    });
}

#[test]
fn a_connection_takes_no_requests_beyond_its_longest_duration() {
    in_virtual_time(|| async {
        let server = Server::start(Duration::from_secs(60)).await;
        let client = Client::new(&server, |reviews| {
            reviews.max_connection_duration = Some(Duration::from_secs(10));
        });
        for _ in 0..21 {
            client.send(Method::GET).await.unwrap();
            client.rest(Duration::from_secs(1)).await;
        }
        assert_eq!(server.connections.get(), 3);
    });
}
