//! Servers that answer what no server may (RFC 9112 section 6.3, RFC 9110 sections 7.6.1 and 15.2): behind two sidecars
//! the caller is given one clean answer or a refusal, and nothing of it gets into anybody else's answer.

use std::{net::SocketAddr, sync::Arc};

use outrigger_tests::{Mesh, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Talk, names_are_unique, until_answered};

/// What a server says, and what is made of it.
struct Answer {
    name: &'static str,
    said: Vec<u8>,
    /// It closes after it.
    closes: bool,
    expected: Made,
}

enum Made {
    /// Status and body.
    Answer(u16, &'static str),
    /// One of ours.
    Refused,
    /// It begins as an answer and breaks off, or is one of ours.
    Broken,
}

use Made::{Answer as Is, Broken, Refused};

impl Answer {
    fn new(name: &'static str, said: impl Into<Vec<u8>>, expected: Made) -> Self {
        Self {
            name,
            said: said.into(),
            closes: false,
            expected,
        }
    }

    fn closes(mut self) -> Self {
        self.closes = true;
        self
    }
}

fn ok(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}").into_bytes()
}

fn answers() -> Vec<Answer> {
    let large = |size: usize| {
        let mut said = b"HTTP/1.1 200 OK\r\nX-Large: ".to_vec();
        said.resize(said.len() + size, b'x');
        said.extend(b"\r\nContent-Length: 2\r\n\r\nok");
        said
    };
    let many = |count: usize| {
        let fields: String = (0..count).map(|n| format!("x-{n}: 1\r\n")).collect();
        ok(&format!("{fields}Content-Length: 2\r\n"), "ok")
    };
    let interim = |count: usize| {
        let mut said = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(count);
        said.extend(ok("Content-Length: 2\r\n", "ok"));
        said
    };
    vec![
        Answer::new("an answer", ok("Content-Length: 2\r\n", "ok"), Is(200, "ok")),
        Answer::new("two lengths", ok("Content-Length: 2\r\nContent-Length: 3\r\n", "okk"), Refused),
        Answer::new("the same length twice", ok("Content-Length: 2\r\nContent-Length: 2\r\n", "ok"), Is(200, "ok")),
        Answer::new("a list of lengths", ok("Content-Length: 2, 2\r\n", "ok"), Is(200, "ok")),
        Answer::new("a negative length", ok("Content-Length: -2\r\n", "ok"), Refused),
        Answer::new("a length with a plus", ok("Content-Length: +2\r\n", "ok"), Refused),
        Answer::new("a length of 2^64", ok("Content-Length: 18446744073709551618\r\n", "ok"), Refused),
        Answer::new("a length and a coding", ok("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), Refused),
        Answer::new("a coding and a length", ok("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "2\r\nok\r\n0\r\n\r\n"), Refused),
        Answer::new("an unknown coding", ok("Transfer-Encoding: gzip\r\n", "ok"), Refused).closes(),
        Answer::new("a coding before chunked", ok("Transfer-Encoding: gzip, chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), Refused),
        Answer::new("a coding after chunked", ok("Transfer-Encoding: chunked, identity\r\n", "2\r\nok\r\n0\r\n\r\n"), Refused).closes(),
        Answer::new("chunked twice", ok("Transfer-Encoding: chunked, chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), Refused),
        Answer::new("a coding in HTTP/1.0", &b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"[..], Refused).closes(),
        Answer::new("chunks", ok("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), Is(200, "ok")),
        Answer::new("a broken chunk size", ok("Transfer-Encoding: chunked\r\n", "zz\r\nok\r\n0\r\n\r\n"), Broken),
        Answer::new("chunks that do not end", ok("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n"), Broken).closes(),
        Answer::new("a body that ends early", ok("Content-Length: 10\r\n", "ok"), Broken).closes(),
        Answer::new("a body until the end", ok("", "ok"), Is(200, "ok")).closes(),
        Answer::new("more than its length", ok("Content-Length: 2\r\n", "okHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"), Is(200, "ok")),
        Answer::new("an answer too many", ok("Content-Length: 2\r\n", "ok\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"), Is(200, "ok")),
        Answer::new("a NUL in a value", ok("X-A: a\0b\r\nContent-Length: 2\r\n", "ok"), Refused),
        Answer::new("a control in a name", ok("X\x01A: b\r\nContent-Length: 2\r\n", "ok"), Refused),
        Answer::new("a carriage return in a value", ok("X-A: a\rSet-Cookie: b\r\nContent-Length: 2\r\n", "ok"), Refused),
        Answer::new("a space before a colon", ok("X-A : b\r\nContent-Length: 2\r\n", "ok"), Refused),
        Answer::new("a folded value", ok("X-A: a\r\n b\r\nContent-Length: 2\r\n", "ok"), Refused),
        Answer::new("a head of 1 MB", large(1_000_000), Refused),
        Answer::new("a head of 70 KB", large(70_000), Refused),
        Answer::new("500 fields", many(500), Refused),
        Answer::new("no HTTP", &b"SSH-2.0-OpenSSH_9.9\r\n\r\n"[..], Refused).closes(),
        Answer::new("no line", &b"HTTP/1.1\r\n\r\n"[..], Refused).closes(),
        Answer::new("a status of two digits", &b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"[..], Refused),
        Answer::new("a status of 99", &b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok"[..], Refused),
        Answer::new("HTTP/2.0 in a line", &b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"[..], Refused),
        Answer::new("a head without end", &b"HTTP/1.1 200 OK\r\nX-A: b\r\n"[..], Refused).closes(),
        Answer::new("switching that nobody asked for", &b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.1\r\n\r\n"[..], Refused),
        Answer::new("an interim answer", interim(1), Is(200, "ok")),
        Answer::new("100,000 interim answers", interim(100_000), Refused),
        Answer::new("nothing with a body", &b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison"[..], Is(204, "")),
        Answer::new("not modified with a body", &b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison"[..], Is(304, "")),
        Answer::new("what belongs to its connection", ok("Connection: x-a, close\r\nX-A: 1\r\nKeep-Alive: timeout=1\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nContent-Length: 2\r\n", "ok"), Is(200, "ok")),
        Answer::new("Connection that names its length", ok("Connection: content-length\r\nContent-Length: 2\r\n", "ok"), Is(200, "ok")),
    ]
}

/// Says the answer whose number is in the path; any other path is answered properly. Says which connections it has
/// said something odd on, by ending them only when the other end does.
async fn server(answers: Arc<Vec<Answer>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&answers)));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, answers: Arc<Vec<Answer>>) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1)?;
        let number = path.strip_prefix("/case/").and_then(|n| n.parse().ok());
        match number.and_then(|n: usize| answers.get(n)) {
            Some(odd) => {
                stream.write_all(&odd.said).await.ok()?;
                if odd.closes {
                    return None;
                }
            }
            None => {
                let fine = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
                stream.write_all(fine).await.ok()?;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_malicious_server_says_gets_into_another_answer() {
    let answers = Arc::new(answers());
    names_are_unique(answers.iter().map(|answer| answer.name));
    let mesh = Mesh::start().await;
    let address = server(Arc::clone(&answers)).await;
    let _reviews = mesh.service("reviews").app_at(address).start().await;
    let shopper = mesh.service("shopper").start().await;
    mesh.apply(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews}}], retries: {attempts: 0}}]
",
    );
    until_answered(&shopper.caller()).await;
    let mut failed = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        let stream = TcpStream::connect(shopper.outbound).await.unwrap();
        let mut talk = Talk::new(stream);
        let asked = format!("GET /case/{number} HTTP/1.1\r\nHost: reviews:9080\r\n\r\n");
        talk.say(asked.as_bytes()).await;
        let made = read(&mut talk).await;
        let fits = match (&answer.expected, &made) {
            (Is(code, body), Ok((head, found))) => {
                let of_connection = [
                    "\r\nconnection:",
                    "\r\nkeep-alive:",
                    "\r\nproxy-connection:",
                    "\r\nupgrade:",
                    "\r\nx-a:",
                ];
                let small = head.to_ascii_lowercase();
                small.starts_with(&format!("http/1.1 {code}"))
                    && found == body
                    && !of_connection.iter().any(|name| small.contains(name))
                    && small.matches("\r\ncontent-length:").count() <= 1
                    && !small.contains("2, 2")
            }
            (Refused | Broken, Ok((head, _))) => {
                head.contains("x-outrigger-reason")
                    && (head.contains(" 503 ") || head.contains(" 502 "))
            }
            (Broken, Err(_)) => true,
            _ => false,
        };
        if !fits {
            failed.push(format!("{}: {made:?}", answer.name));
        }
        // Whoever comes next, on whichever connection to the server.
        for _ in 0..2 {
            let reply = shopper.caller().get("reviews:9080", "/").await;
            let text = reply.text();
            if reply.status != 200 || reply.body != "fine" {
                failed.push(format!("after {}: {text}", answer.name));
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{} fail:\n{}",
        failed.len(),
        failed.join("\n")
    );
    eventually("the sidecar is as it was", async || {
        let reply = shopper.caller().get("reviews:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
}

/// Head and body of an answer; `Err` if it is not complete.
async fn read(talk: &mut Talk<TcpStream>) -> Result<(String, String), String> {
    let head = loop {
        let end = talk.heard.windows(4).position(|four| four == b"\r\n\r\n");
        match end {
            Some(at) => break talk.heard.drain(..at + 4).collect::<Vec<u8>>(),
            None if talk.more().await? => {}
            None => return Err("no answer".to_owned()),
        }
    };
    let head = String::from_utf8_lossy(&head).into_owned();
    let small = head.to_ascii_lowercase();
    let length = small
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|value| value.trim().parse::<usize>().ok());
    let bodiless = small.starts_with("http/1.1 204") || small.starts_with("http/1.1 304");
    if bodiless {
        return Ok((head, String::new()));
    }
    let complete = |heard: &[u8]| match length {
        Some(length) => heard.len() >= length,
        None => heard.ends_with(b"0\r\n\r\n"),
    };
    while !complete(&talk.heard) {
        if !talk.more().await? {
            return Err(format!("broke off after {head}"));
        }
    }
    let body = String::from_utf8_lossy(&talk.heard).into_owned();
    if length.is_some() {
        return Ok((head, body));
    }
    let mut plain = String::new();
    let mut rest = body.as_str();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).map_err(|e| e.to_string())?;
        plain.push_str(after.get(..size).unwrap_or_default());
        rest = after.get(size + 2..).unwrap_or_default();
        if size == 0 {
            break;
        }
    }
    Ok((head, plain))
}
