//! Requests that become connections of bytes: through two sidecars, and refused.

use super::*;
use crate::http::answer::Code;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: reviews\r\nConnection: keep-alive, Upgrade\r\nUPGRADE: WebSocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Go Ahead\r\nUPGRADE: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An application that answers each connection's first head with `answer`, in one piece, and then echoes to the end;
/// after it, says `bye`.
async fn switching(
    answer: &'static str,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let heads = heads.clone();
            tokio::spawn(async move {
                let (head, rest) = head_of(&mut stream).await;
                heads.send(head).unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.write_all(&rest).await.unwrap();
                let (mut from, mut to) = stream.split();
                if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                    to.write_all(b"bye").await.ok();
                    to.shutdown().await.ok();
                }
            });
        }
    });
    (address, seen)
}

/// A head, and what came with it.
async fn head_of(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return (String::from_utf8(bytes).unwrap(), rest);
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "{bytes:?}");
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

async fn until(mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap();
}

/// Two sidecars with mutual TLS before an application.
async fn two_sidecars(app: SocketAddr) -> (Sidecar, Sidecar, SocketAddr) {
    let authority = Authority::new();
    let (server, inbound) = Sidecar::inbound(authority.identity("reviews"), app).await;
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(inbound, true)];
    let (client, proxy) = Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
    (client, server, proxy)
}

#[tokio::test]
async fn a_websocket_goes_through_two_sidecars_with_every_byte_and_both_ends() {
    let (app, mut seen) = switching(
        "HTTP/1.1 101 Go Ahead\r\nUPGRADE: websocket\r\nConnection: Upgrade\r\n\r\nhello",
    )
    .await;
    let (client, server, proxy) = two_sidecars(app).await;
    let mut caller = TcpStream::connect(proxy).await.unwrap();
    // What comes with the head is not lost, on either way.
    caller
        .write_all(format!("{ASK}early").as_bytes())
        .await
        .unwrap();
    let (answer, mut rest) = head_of(&mut caller).await;
    assert_eq!(
        answer,
        "HTTP/1.1 101 Go Ahead\r\nUPGRADE: websocket\r\nConnection: Upgrade\r\n\r\n"
    );
    let head = seen.recv().await.unwrap();
    for line in [
        "GET /chat HTTP/1.1\r\n",
        "\r\nConnection: Upgrade\r\n",
        "\r\nUPGRADE: WebSocket\r\n",
    ] {
        assert!(head.contains(line), "{line:?} in {head:?}");
    }
    while rest.len() < "helloearly".len() {
        caller.read_buf(&mut rest).await.unwrap();
    }
    assert_eq!(rest, b"helloearly");
    // The caller says no more; the application still answers.
    caller.write_all(b" and late").await.unwrap();
    caller.shutdown().await.unwrap();
    assert_eq!(read_all(&mut caller).await, " and latebye");
    for sidecar in [&client, &server] {
        until(|| sidecar.metric("istio_requests_total") >= 1.0).await;
    }
}

#[tokio::test]
async fn what_may_not_be_switched_to_is_refused_and_h2c_is_as_if_it_were_not_there() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = plain(vec![endpoint(app.address, false)]).await;
    let mut caller = Raw::to(proxy).await;
    for (upgrade, status) in [("tn3270", 403), ("websocket, tn3270", 403), ("h2c", 200)] {
        caller
            .send(&format!(
                "GET / HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
            ))
            .await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, status, "{upgrade}");
        let reason = answer.header("x-outrigger-reason").unwrap_or("-");
        let expected = if status == 200 {
            "-"
        } else {
            Code::UpgradeNotAllowed.as_str()
        };
        assert_eq!(reason, expected, "{upgrade}");
    }
    assert_eq!(app.heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_no_answer() {
    for (ask, done) in [
        ("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n", SWITCH.to_owned()),
        (ASK, SWITCH.replace("websocket", "h2c")),
        (ASK, "HTTP/1.1 101 Go Ahead\r\n\r\n".to_owned()),
    ] {
        let (app, mut seen) = switching(Box::leak(done.into_boxed_str())).await;
        let (sidecar, proxy) = plain(vec![endpoint(app, false)]).await;
        let mut caller = Raw::to(proxy).await;
        caller.send(ask).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("x-outrigger-reason"), Some("upstream_reset"));
        seen.recv().await.unwrap();
        drop(sidecar);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_switch_leaves_both_connections_as_they_are() {
    let app = App::start("reviews").await;
    let (_client, _server, proxy) = two_sidecars(app.address).await;
    let mut caller = Raw::to(proxy).await;
    for _ in 0..3 {
        caller.send(ASK).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "reviews"));
    }
    assert_eq!(app.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}
