//! What HTTP/1.x messages look like on both sides of two sidecars: bytes of heads, old forms, what comes before the
//! answer and after the body. The application is the test itself, by hand.

use super::{
    upgrades::{head_of, read_all, two_sidecars},
    *,
};

/// Two sidecars before an application that the test plays.
struct Between {
    app: TcpListener,
    proxy: SocketAddr,
    _sidecars: (Sidecar, Sidecar),
}

impl Between {
    async fn start() -> Self {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server, proxy) = two_sidecars(app.local_addr().unwrap()).await;
        Self {
            app,
            proxy,
            _sidecars: (client, server),
        }
    }

    /// The caller's connection, which has said this, and the application's.
    async fn said(&self, said: &[u8]) -> (TcpStream, TcpStream) {
        let mut caller = TcpStream::connect(self.proxy).await.unwrap();
        caller.write_all(said).await.unwrap();
        let app = tokio::select! {
            accepted = self.app.accept() => accepted.unwrap().0,
            answer = head(&mut caller) => panic!("{}", String::from_utf8_lossy(&answer)),
        };
        (caller, app)
    }
}

/// A head's bytes.
async fn head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    head
}

/// Its lines, without what sidecars add for each other and for the application.
fn lines(head: &[u8]) -> Vec<String> {
    let added = ["x-forwarded-client-cert:", "x-outrigger-", "traceparent:"];
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let lines = text.split("\r\n").map(str::trim_end);
    lines
        .filter(|line| !line.is_empty() && !added.iter().any(|added| line.starts_with(added)))
        .map(str::to_owned)
        .collect()
}

/// Bytes of these lines. A character is a byte.
fn bytes(lines: &[&str]) -> Vec<u8> {
    let text = lines.join("\r\n") + "\r\n\r\n";
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect()
}

fn without<'a>(lines: &[&'a str], ends: &[&str]) -> Vec<&'a str> {
    let name = |line: &str| line.split(':').next().unwrap().to_ascii_lowercase();
    let stays = |line: &&&str| !ends.contains(&name(line).as_str());
    lines.iter().filter(stays).copied().collect()
}

const ENDS: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "x-named",
    "x_forwarded_for",
];

#[tokio::test]
async fn heads_of_requests_come_out_as_they_went_in_byte_by_byte() {
    let long = format!("X-Long: {}", "a\"b,;= ~".repeat(1000) + "z");
    let corpus: [&[&str]; 8] = [
        &[
            "GET / HTTP/1.1",
            "Host: reviews",
            "X-B: 1",
            "x-a: 2",
            "X-c: 3",
            "X-A1: 4",
        ],
        &[
            "get /a?b=%20c HTTP/1.1",
            "x-first: 1",
            "HOST: reviews",
            "ACCEPT: */*",
        ],
        &[
            "GET / HTTP/1.1",
            "Host: reviews",
            "X-Dup: 1",
            "x-DUP: 2",
            "X-dup: 1",
            "Cookie: a=1",
            "cookie: b=2",
            "Z: 9",
        ],
        &[
            "GET / HTTP/1.1",
            "User-Agent: x",
            "Connection: keep-alive, X-Named",
            "Host: reviews",
            "X-Named: 1",
            "Accept: */*",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "ZZ: last",
            "Te: trailers",
        ],
        &["GET / HTTP/1.1", "Host: reviews", &long, "X-After: 1"],
        &[
            "GET / HTTP/1.1",
            "Host: reviews",
            "X-Name: caf\u{e9} \u{ff}",
            "X-Empty:",
            "X!#$%&'*+-.^`|~1: odd",
        ],
        &[
            "POST /p HTTP/1.1",
            "Host: reviews",
            "CONTENT-Length: 0",
            "Content-Type: text/plain",
            "X-End: 1",
        ],
        &[
            "GET / HTTP/1.1",
            "X-First: 1",
            "x_forwarded_for: 1",
            "Proxy-Authorization: x",
            "Host: reviews",
            "X-End: 1",
        ],
    ];
    let between = Between::start().await;
    for sent in corpus {
        let (mut caller, mut app) = between.said(&bytes(sent)).await;
        let found = lines(&head(&mut app).await);
        let expected: Vec<String> = lines(&bytes(&without(sent, &ENDS)));
        assert_eq!(found, expected);
        app.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        assert!(
            head(&mut caller)
                .await
                .starts_with(b"HTTP/1.1 204 No Content\r\n")
        );
    }
}

#[tokio::test]
async fn heads_of_answers_come_out_as_they_went_in_byte_by_byte() {
    let corpus: [(&[&str], &str); 5] = [
        (
            &[
                "HTTP/1.1 200 OK",
                "X-B: 1",
                "x-a: 2",
                "CONTENT-length: 2",
                "X-c: 3",
            ],
            "ok",
        ),
        (
            &[
                "HTTP/1.1 299 Very Fine",
                "Date: now",
                "Server: x",
                "Set-Cookie: a=1",
                "set-cookie: b=2",
                "Zz: 1",
                "Content-Length: 0",
            ],
            "",
        ),
        (
            &[
                "HTTP/1.1 200 Gut",
                "X-First: 1",
                "Connection: keep-alive",
                "Server: x",
                "Keep-Alive: timeout=5",
                "Content-Length: 2",
                "X-Last: caf\u{e9}",
            ],
            "ok",
        ),
        (
            &[
                "HTTP/1.1 404 Not Found",
                "X-First: 1",
                "TRANSFER-Encoding: chunked",
                "X-Last: 1",
            ],
            "2\r\nok\r\n0\r\n\r\n",
        ),
        (
            &["HTTP/1.1 503 Later", "Retry-After: 1", "Content-Length: 0"],
            "",
        ),
    ];
    let between = Between::start().await;
    for (sent, body) in corpus {
        let (mut caller, mut app) = between
            .said(&bytes(&["GET / HTTP/1.1", "Host: reviews"]))
            .await;
        head(&mut app).await;
        app.write_all(&[&bytes(sent), body.as_bytes()].concat())
            .await
            .unwrap();
        let found = lines(&head(&mut caller).await);
        assert_eq!(found, lines(&bytes(&without(sent, &ENDS))));
        let mut rest = vec![0; body.len()];
        caller.read_exact(&mut rest).await.unwrap();
        assert_eq!(String::from_utf8(rest).unwrap(), body);
        drop(app);
    }
}

#[tokio::test]
async fn http_1_0_is_answered_without_chunks_and_to_the_end_of_its_connection() {
    let between = Between::start().await;
    let (mut caller, mut app) = between
        .said(b"GET / HTTP/1.0\r\nHost: reviews\r\n\r\n")
        .await;
    assert!(head(&mut app).await.starts_with(b"GET / HTTP/1.1\r\n"));
    app.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        .await
        .unwrap();
    let answer = String::from_utf8(head(&mut caller).await).unwrap();
    assert!(
        answer.starts_with("HTTP/1.0 200 OK\r\n")
            && !answer.to_ascii_lowercase().contains("transfer-encoding"),
        "{answer}"
    );
    assert_eq!(read_all(&mut caller).await, "ok");
    drop(app);
    let (mut caller, mut app) = between
        .said(b"GET / HTTP/1.0\r\nHost: reviews\r\nConnection: keep-alive\r\n\r\n")
        .await;
    for _ in 0..2 {
        head(&mut app).await;
        app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        let answer = String::from_utf8(head(&mut caller).await)
            .unwrap()
            .to_ascii_lowercase();
        assert!(
            answer.starts_with("http/1.0 200 ok\r\n") && answer.contains("connection: keep-alive"),
            "{answer}"
        );
        let mut body = [0; 2];
        caller.read_exact(&mut body).await.unwrap();
        caller
            .write_all(b"GET / HTTP/1.0\r\nHost: reviews\r\nConnection: keep-alive\r\n\r\n")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_body_that_waits_for_100_goes_when_the_application_says_so_and_not_before() {
    let between = Between::start().await;
    let ask =
        b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let (mut caller, mut app) = between.said(ask).await;
    assert!(
        String::from_utf8(head(&mut app).await)
            .unwrap()
            .contains("Expect: 100-continue\r\n")
    );
    app.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(head(&mut caller).await, b"HTTP/1.1 100 Continue\r\n\r\n");
    caller.write_all(b"body").await.unwrap();
    let mut body = [0; 4];
    app.read_exact(&mut body).await.unwrap();
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut caller).await.starts_with(b"HTTP/1.1 200 OK\r\n"));
    drop((caller, app));
    // One that wants none says so first, and the caller never hears a 100.
    let (mut caller, mut app) = between.said(ask).await;
    head(&mut app).await;
    app.write_all(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut caller).await.starts_with(b"HTTP/1.1 417 No\r\n"));
}

#[tokio::test]
async fn an_application_that_says_no_100_has_the_body_all_the_same() {
    let between = Between::start().await;
    let ask = b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody";
    let (mut caller, mut app) = between.said(ask).await;
    head(&mut app).await;
    let mut body = [0; 4];
    app.read_exact(&mut body).await.unwrap();
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::from_utf8(head(&mut caller).await).unwrap();
    if answer.contains(" 100 ") {
        answer = String::from_utf8(head(&mut caller).await).unwrap();
    }
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn a_get_may_have_a_body_in_chunks() {
    let between = Between::start().await;
    let ask = b"GET /_search HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    let (_caller, mut app) = between.said(ask).await;
    assert!(
        String::from_utf8(head(&mut app).await)
            .unwrap()
            .contains("Transfer-Encoding: chunked\r\n")
    );
    let mut body = [0; 14];
    app.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"4\r\nbody\r\n0\r\n\r\n");
}

#[tokio::test]
async fn trailers_that_are_announced_go_both_ways() {
    let between = Between::start().await;
    let ask = b"POST / HTTP/1.1\r\nHost: reviews\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n";
    let (mut caller, mut app) = between.said(ask).await;
    let asked = String::from_utf8(head(&mut app).await).unwrap();
    assert!(
        asked.contains("\r\nTE: trailers\r\n") && asked.contains("\r\nTrailer: x-sum\r\n"),
        "{asked}"
    );
    let mut body = [0; 22];
    app.read_exact(&mut body).await.unwrap();
    assert_eq!(
        std::str::from_utf8(&body).unwrap(),
        "2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n"
    );
    app.write_all(
        b"HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 8\r\n\r\n",
    )
    .await
    .unwrap();
    head(&mut caller).await;
    caller.read_exact(&mut body).await.unwrap();
    assert_eq!(
        std::str::from_utf8(&body).unwrap(),
        "2\r\nok\r\n0\r\nx-sum: 8\r\n\r\n"
    );
}

#[tokio::test]
async fn each_part_of_an_answer_is_passed_on_at_once_while_the_request_goes_on() {
    let between = Between::start().await;
    let ask = b"POST /events HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut caller, mut app) = between.said(ask).await;
    head(&mut app).await;
    app.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await
    .unwrap();
    // The answer comes before the body has begun, and each side hears the other while both go on.
    head(&mut caller).await;
    for part in [b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n"] {
        let mut heard = [0; 6];
        caller.write_all(part).await.unwrap();
        app.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, part);
        app.write_all(part).await.unwrap();
        caller.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, part);
    }
    caller.write_all(b"0\r\n\r\n").await.unwrap();
    app.write_all(b"0\r\n\r\n").await.unwrap();
    let mut end = [0; 5];
    caller.read_exact(&mut end).await.unwrap();
    assert_eq!(&end, b"0\r\n\r\n");
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_their_connections_go_on() {
    let between = Between::start().await;
    let (mut caller, mut app) = between
        .said(b"HEAD / HTTP/1.1\r\nHost: reviews\r\n\r\n")
        .await;
    for (answer, length) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", false),
        ("HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", false),
    ] {
        head_of(&mut app).await;
        app.write_all(answer.as_bytes()).await.unwrap();
        let found = String::from_utf8(head(&mut caller).await).unwrap();
        assert!(
            found.starts_with(answer.split("\r\n").next().unwrap()),
            "{found}"
        );
        assert_eq!(found.contains("Content-Length: 7\r\n"), length, "{found}");
        caller
            .write_all(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n")
            .await
            .unwrap();
    }
}
