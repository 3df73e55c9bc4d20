//! An upstream that breaks off at every byte of request and response: nothing is sent twice that nobody asked for.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use outrigger_core::RetryPolicy;

use super::{retries::asked, *};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";

/// Where an upstream breaks off.
#[derive(Clone, Copy, Debug)]
enum Break {
    /// So many bytes of the request are read.
    Request(usize),
    /// So many bytes of the answer are written.
    Answer(usize),
    Never,
}

/// Two endpoints of one application; the first connection of a round breaks off, the others do not.
struct Breaking {
    endpoints: Vec<EndpointConfig>,
    /// Connections on which a part of a request came.
    seen: Arc<AtomicUsize>,
    plan: tokio::sync::watch::Sender<Break>,
}

impl Breaking {
    async fn new() -> Self {
        let seen = Arc::<AtomicUsize>::default();
        let (plan, _) = tokio::sync::watch::channel(Break::Never);
        let mut endpoints = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            endpoints.push(endpoint(listener.local_addr().unwrap(), false));
            let (seen, plan) = (Arc::clone(&seen), plan.clone());
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    // Of those that come at once, the first one breaks.
                    let how = plan.send_replace(Break::Never);
                    tokio::spawn(serve(stream, how, Arc::clone(&seen)));
                }
            });
        }
        Self {
            endpoints,
            seen,
            plan,
        }
    }
}

async fn serve(mut stream: TcpStream, how: Break, seen: Arc<AtomicUsize>) {
    let request = post("order 1").len();
    let upto = match how {
        Break::Request(upto) => upto,
        Break::Answer(_) | Break::Never => usize::MAX,
    };
    let mut read = 0;
    let mut head = Vec::new();
    while read < upto {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        if read == 0 {
            seen.fetch_add(1, SeqCst);
        }
        read += 1;
        head.push(byte);
        if head.ends_with(b"order 1") {
            break;
        }
    }
    assert!(read >= upto.min(request) || head.ends_with(b"order 1"));
    match how {
        Break::Request(_) => {}
        Break::Answer(upto) => stream.write_all(&ANSWER[..upto]).await.unwrap(),
        Break::Never => {
            stream.write_all(ANSWER).await.unwrap();
            // One request a connection, so that each round begins with a new one.
            stream.shutdown().await.unwrap();
            let mut rest = [0; 16];
            while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
            return;
        }
    }
    // A reset, not an end.
    stream.set_zero_linger().unwrap();
}

/// Every offset, and what the upstream saw and the caller got.
async fn rounds(retry: RetryPolicy) -> Vec<(Break, usize, Option<u16>)> {
    let upstream = Breaking::new().await;
    let endpoints = upstream.endpoints.clone();
    let mut reviews = cluster("reviews");
    // Each request on its own connection.
    reviews.max_requests_per_connection = Some(1);
    let name = reviews.name.clone();
    let (sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |route| {
        route.retry = retry;
    })
    .await;
    let budget = &sidecar.builder.cluster(&name).unwrap().retries;
    budget.set_share(100.0, 1_000_000);
    // Headers that are added do not matter: these offsets are all within the request.
    let of_request = (0..post("order 1").len()).map(Break::Request);
    let of_answer = (0..ANSWER.len()).map(Break::Answer);
    let mut found = Vec::new();
    for how in of_request.chain(of_answer) {
        upstream.seen.store(0, SeqCst);
        upstream.plan.send_replace(how);
        let mut caller = Raw::to(proxy).await;
        caller.send(&post("order 1")).await;
        let answer = caller.answer().await;
        found.push((how, upstream.seen.load(SeqCst), answer.map(|a| a.status)));
    }
    found
}

#[tokio::test]
async fn no_post_is_sent_twice_wherever_the_upstream_breaks_off() {
    for (how, seen, status) in rounds(RetryPolicy::default()).await {
        assert!(seen <= 1, "{how:?}: seen {seen} times");
        // Of the first, nothing may have left: then it is sent again, unseen.
        if !matches!(how, Break::Request(0)) {
            assert_ne!(status, Some(200), "{how:?}");
        }
    }
}

#[tokio::test]
async fn a_document_that_asks_for_it_gets_it_until_the_answer_has_begun() {
    let head = ANSWER.len() - 4;
    for (how, seen, status) in rounds(asked("5xx")).await {
        match how {
            Break::Answer(upto) if upto >= head => {
                assert_eq!((seen, status), (1, None), "{how:?}");
            }
            Break::Request(0) => assert_eq!((seen, status), (1, Some(200)), "{how:?}"),
            _ => assert_eq!((seen, status), (2, Some(200)), "{how:?}"),
        }
    }
}
