//! Requests that were right once: changed by chance, byte by byte and frame by frame, and sent to a running sidecar.
//! Whatever they are, it lives, ends each connection in time, and sends its application nothing that two readers could
//! take for two things.
//!
//! A few seconds here; longer with `OUTRIGGER_FUZZ_SECONDS`. The seed is printed, and `OUTRIGGER_SEED` repeats it.

use std::{
    collections::hash_map::RandomState,
    env,
    hash::{BuildHasher as _, Hasher as _},
    time::{Duration, Instant},
};

use outrigger_tests::{
    Mesh, Recorder, Sidecar, TestApp, eventually,
    h2_bytes::{PREFACE, block, flag, frame, indexed_literal, kind},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Longer than any time limit of a connection whose caller has said all.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the mutations make requests of, beside bytes of any value.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"/",
    b"//",
    b"..",
    b"%00",
    b"%2f",
    b"@",
    b"#",
    b"?",
    b"\\",
    b"0\r\n\r\n",
    b"1\r\na\r\n",
    b"\r\n\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"GET ",
    b"CONNECT ",
    b"OPTIONS * ",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"content-length: 18446744073709551616\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b" chunked",
    b"Host: other\r\n",
    b"Host: reviews:9080\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade, host\r\n",
    b"Upgrade: h2c\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"Trailer: host\r\n",
    b"TE: trailers\r\n",
    b"X-Forwarded-Client-Cert: URI=admin\r\n",
    b"X_Forwarded_Client_Cert: URI=admin\r\n",
    b"http://reviews:9080",
    b"\xff",
    b"GET /smuggled HTTP/1.1\r\nHost: reviews:9080\r\n\r\n",
    PREFACE,
];

const REQUESTS: &[&[u8]] = &[
    b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\n\r\n",
    b"GET http://reviews:9080/a?b HTTP/1.1\r\nHost: reviews:9080\r\nAccept: */*\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: reviews:9080\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /a HTTP/1.1\r\nHost: reviews:9080\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: reviews:9080\r\nTransfer-Encoding: chunked\r\nTrailer: x-a\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-A: 1\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: reviews:9080\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\n\r\nGET /b HTTP/1.1\r\nHost: reviews:9080\r\nConnection: close\r\n\r\n",
    b"HEAD /a HTTP/1.0\r\nHost: reviews:9080\r\nConnection: keep-alive\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
];

/// A generator by multiplication (SplitMix64), good enough to stumble about.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most.max(1) as u64).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// One change of any kind.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let length = 1 + self.below(8);
        let end = (at + length).min(bytes.len());
        match self.below(8) {
            0 if at < bytes.len() => bytes[at] = self.byte(),
            1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            2 => bytes.insert(at, self.byte()),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 if self.below(4) == 0 => bytes.truncate(at),
            _ => {
                let word = *self.one_of(WORDS);
                bytes.splice(at..at, word.iter().copied());
            }
        }
    }

    fn changed(&mut self, from: &[u8]) -> Vec<u8> {
        let mut bytes = from.to_vec();
        (0..=self.below(4)).for_each(|_| self.change(&mut bytes));
        bytes
    }

    /// Frames of requests that are right but for their order, their headers or their bytes.
    fn frames(&mut self) -> Vec<u8> {
        let usual = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/a"),
            (":authority", "reviews:9080"),
        ];
        let mut fields = block(&usual);
        fields.extend(indexed_literal(b"x-a", b"1"));
        let (end, whole) = (flag::END_STREAM, flag::END_HEADERS);
        let mut frames = vec![frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])];
        for stream in [1, 3, 5] {
            let cut = self.below(fields.len());
            match self.below(3) {
                0 => frames.push(frame(kind::HEADERS, end | whole, stream, &fields)),
                1 => frames.extend([
                    frame(kind::HEADERS, 0, stream, &fields[..cut]),
                    frame(kind::CONTINUATION, whole, stream, &fields[cut..]),
                    frame(kind::DATA, end, stream, b"abc"),
                ]),
                _ => frames.extend([
                    frame(kind::HEADERS, whole, stream, &fields),
                    frame(kind::DATA, flag::PADDED, stream, b"\x02abc\0\0"),
                    frame(kind::HEADERS, end | whole, stream, &block(&[("x-b", "2")])),
                ]),
            }
            let other = [
                kind::PING,
                kind::PRIORITY,
                kind::WINDOW_UPDATE,
                kind::RST_STREAM,
                kind::SETTINGS,
                kind::GOAWAY,
                0x77,
            ];
            if self.below(2) == 0 {
                let (of, kind) = (*self.one_of(&[0, stream]), *self.one_of(&other));
                let payload = self.next().to_le_bytes();
                let length = *self.one_of(&[0, 4, 5, 6, 8]);
                frames.push(frame(kind, self.byte() & 1, of, &payload[..length]));
            }
        }
        for _ in 0..self.below(4) {
            let at = self.below(frames.len());
            match self.below(4) {
                0 => drop(frames.remove(at)),
                1 => frames.insert(at, frames[at].clone()),
                2 => {
                    let to = self.below(frames.len());
                    frames.swap(at, to);
                }
                _ => self.change(&mut frames[at]),
            }
            if frames.is_empty() {
                break;
            }
        }
        [PREFACE, &frames.concat()].concat()
    }
}

/// How long, and from which seed.
fn campaign() -> (Duration, u64) {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let seed =
        number("OUTRIGGER_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let seconds = number("OUTRIGGER_FUZZ_SECONDS").unwrap_or(3);
    eprintln!("OUTRIGGER_SEED={seed}, {seconds} s");
    (Duration::from_secs(seconds), seed)
}

/// Says it, and nothing more. `Err` if the connection does not end.
async fn say(to: &Sidecar, said: &[u8]) -> Result<(), String> {
    let talk = async {
        let mut stream = TcpStream::connect(to.outbound)
            .await
            .map_err(|e| e.to_string())?;
        // It may have heard enough already.
        stream.write_all(said).await.ok();
        stream.shutdown().await.ok();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.ok();
        Ok(())
    };
    let ended = timeout(PATIENCE, talk).await;
    ended.unwrap_or_else(|_| Err(format!("it does not end: {}", said.escape_ascii())))
}

async fn healthy(shopper: &Sidecar) {
    eventually("reviews answers", async || {
        let reply = shopper.caller().get("reviews:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_http1_bytes_makes_an_application_see_two_things_in_one() {
    let (lasts, seed) = campaign();
    let mesh = Mesh::start().await;
    let app = Recorder::start().await;
    let _reviews = mesh.service("reviews").app_at(app.address()).start().await;
    let shopper = mesh.service("shopper").start().await;
    healthy(&shopper).await;
    let mut chance = Chance(seed);
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < lasts {
        let from = *chance.one_of(REQUESTS);
        let said = chance.changed(from);
        say(&shopper, &said).await.unwrap();
        let (_, violations) = app.take();
        assert!(
            violations.is_empty(),
            "{violations:?} by {}",
            said.escape_ascii()
        );
        count += 1;
        if count.is_multiple_of(500) {
            healthy(&shopper).await;
        }
    }
    healthy(&shopper).await;
    eprintln!("{count} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_http2_frames_harms_the_sidecar() {
    let (lasts, seed) = campaign();
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    healthy(&shopper).await;
    let mut chance = Chance(seed);
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < lasts {
        let said = chance.frames();
        say(&shopper, &said).await.unwrap();
        for received in app.received() {
            let odd = received.headers.keys().find(|name| {
                [
                    "connection",
                    "transfer-encoding",
                    "upgrade",
                    "x-forwarded-client-cert-",
                ]
                .contains(&name.as_str())
            });
            assert!(odd.is_none(), "{received:?} by {}", said.escape_ascii());
        }
        app.forget();
        count += 1;
        if count.is_multiple_of(500) {
            healthy(&shopper).await;
        }
    }
    healthy(&shopper).await;
    eprintln!("{count} connections");
}
