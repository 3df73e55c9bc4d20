//! Malformed and hostile HTTP/2 against a running sidecar, frame by frame: over mTLS to the inbound port, and in plain
//! text to the proxy port. Source of the verdicts: RFC 9113, RFC 7541 and RFC 9218, by section. Where RFC 9113 has a
//! stream error, a connection error is right, too (section 5.4.1).

use std::time::Duration;

use outrigger_tests::{
    Mesh, Sidecar, TestApp, WorkloadIdentity, eventually,
    h2_bytes::{Frame, H2Talk, PREFACE, block, flag, frame, kind},
    tls_client, tls_connect,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

mod frames;
mod heads;
mod hpack;

/// Longer than any time limit that a case meets.
const PATIENCE: Duration = Duration::from_secs(20);

/// Error codes (RFC 9113 section 7).
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// One case of the corpus: what is said after preface and settings, or in their place.
struct Case {
    name: &'static str,
    said: Vec<u8>,
    greets: bool,
    expected: Expected,
    without: &'static [&'static str],
    with: &'static [(&'static str, &'static str)],
}

/// What is to come of it. Lists are what the application sees.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Each is answered with 200, and the connection goes on.
    Passes(&'static [&'static str]),
    /// Answered with this, and the connection goes on.
    Refused(u16),
    /// The stream, or the connection, ends with one of these; the application sees nothing of it.
    Stream(&'static [u32]),
    /// The connection ends with one of these; the application sees nothing.
    Connection(&'static [u32]),
    /// The connection ends, if need be without a word; the application sees nothing.
    Ends,
    /// 431, or an end that says so: RFC 9113 section 10.5.1 leaves it to the server.
    TooLarge,
    /// A status of 4xx or 5xx, or an error of stream or connection; the application sees nothing.
    NotPassed,
    /// Depends on who is faster, or on the server's mind; the application sees nothing malformed.
    Whatever,
}

impl Case {
    fn new(name: &'static str, said: Vec<u8>, expected: Expected) -> Self {
        Self {
            name,
            said,
            greets: true,
            expected,
            without: &[],
            with: &[],
        }
    }

    /// Says it in place of preface and settings.
    fn first(mut self) -> Self {
        self.greets = false;
        self
    }

    fn without(mut self, names: &'static [&'static str]) -> Self {
        self.without = names;
        self
    }

    fn with(mut self, fields: &'static [(&'static str, &'static str)]) -> Self {
        self.with = fields;
        self
    }

    async fn run(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        app: &TestApp,
    ) -> Result<(), String> {
        app.forget();
        let mut talk = H2Talk::new(stream, PATIENCE);
        if self.greets {
            talk.greet().await;
        }
        talk.say(&self.said).await;
        match self.expected {
            Expected::Passes(all) => {
                for _ in all {
                    let status = status(&mut talk).await?;
                    if status != 200 {
                        return Err(format!("answered with {status}"));
                    }
                }
                goes_on(&mut talk).await?;
                self.judge(app, all, true)
            }
            Expected::Refused(code) => {
                let status = status(&mut talk).await?;
                if status != code {
                    return Err(format!("answered with {status} in place of {code}"));
                }
                goes_on(&mut talk).await?;
                self.judge(app, &[], true)
            }
            Expected::Stream(codes) => {
                let (frame, seen) = end(&mut talk).await;
                let code = frame.as_ref().and_then(Frame::code);
                if !code.is_some_and(|code| codes.contains(&code)) {
                    return Err(format!("{code:?} in place of {codes:?}, after {seen:?}"));
                }
                let goes = frame.is_some_and(|frame| frame.kind == kind::RST_STREAM);
                if goes {
                    goes_on(&mut talk).await?;
                }
                self.judge(app, &[], goes)
            }
            Expected::Connection(codes) => {
                let (frame, seen) = end(&mut talk).await;
                let code = frame.as_ref().and_then(Frame::code);
                let away = frame.is_some_and(|frame| frame.kind == kind::GOAWAY);
                if !away || !code.is_some_and(|code| codes.contains(&code)) {
                    return Err(format!("{code:?} in place of {codes:?}, after {seen:?}"));
                }
                self.judge(app, &[], false)
            }
            Expected::TooLarge => match status(&mut talk).await {
                Ok(431) | Err(_) => self.judge(app, &[], false),
                Ok(status) => Err(format!("answered with {status}")),
            },
            Expected::NotPassed => match status(&mut talk).await {
                Ok(400..600) => self.judge(app, &[], false),
                Ok(status) => Err(format!("answered with {status}")),
                Err(why) if why == "no answer" => Err(why),
                Err(_) => self.judge(app, &[], false),
            },
            Expected::Whatever => {
                goes_on(&mut talk).await.ok();
                let odd = app
                    .received()
                    .into_iter()
                    .find(|one| one.path.contains("smuggled"));
                odd.map_or(Ok(()), |odd| Err(format!("the application saw {odd:?}")))
            }
            Expected::Ends => {
                while let Some(frame) = talk.next().await {
                    if frame.status().is_some() {
                        return Err(format!("{frame:?}"));
                    }
                }
                self.judge(app, &[], false)
            }
        }
    }

    /// `goes_on`: its last request was ours.
    fn judge(&self, app: &TestApp, wanted: &[&str], goes_on: bool) -> Result<(), String> {
        let mut received = app.received();
        if goes_on && received.last().is_some_and(|one| one.path == "/after") {
            received.pop();
        }
        let seen: Vec<String> = received
            .iter()
            .map(|one| {
                let body = String::from_utf8_lossy(&one.body);
                format!("{} {} {body}", one.method, one.path)
                    .trim_end()
                    .to_owned()
            })
            .collect();
        if seen != wanted {
            return Err(format!(
                "the application saw {seen:?} in place of {wanted:?}"
            ));
        }
        let Some(first) = received.first() else {
            return Ok(());
        };
        for name in self.without {
            if let Some(value) = first.headers.get(*name) {
                return Err(format!("the application saw {name}: {value:?}"));
            }
        }
        for (name, value) in self.with {
            let found = first.headers.get(*name).map(http::HeaderValue::as_bytes);
            if found != Some(value.as_bytes()) {
                return Err(format!("{name} is {found:?} in place of {value:?}"));
            }
        }
        Ok(())
    }
}

type Talk<S> = H2Talk<S>;

/// The next response's status; its body passes by.
async fn status<S: AsyncRead + AsyncWrite + Unpin>(talk: &mut Talk<S>) -> Result<u16, String> {
    while let Some(frame) = talk.next().await {
        if let Some(code) = frame.code().filter(|_| frame.kind != kind::DATA) {
            return Err(format!("ended with code {code}: {frame:?}"));
        }
        match frame.status() {
            Some(100..200) | None => {}
            Some(status) => return Ok(status),
        }
    }
    Err("no answer".to_owned())
}

/// The first frame that ends a stream or the connection, and what came before it.
async fn end<S: AsyncRead + AsyncWrite + Unpin>(talk: &mut Talk<S>) -> (Option<Frame>, Vec<Frame>) {
    let mut seen = Vec::new();
    while let Some(frame) = talk.next().await {
        let own = [kind::SETTINGS, kind::WINDOW_UPDATE, kind::PING];
        // After an early answer: the rest of the body is not wanted.
        let polite = frame.code() == Some(0);
        if frame.code().is_some() && !polite {
            return (Some(frame), seen);
        }
        if !own.contains(&frame.kind) {
            seen.push(frame);
        }
    }
    (None, seen)
}

/// Another request passes.
async fn goes_on<S: AsyncRead + AsyncWrite + Unpin>(talk: &mut Talk<S>) -> Result<(), String> {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/after"),
        (":authority", "reviews:9080"),
    ];
    let flags = flag::END_HEADERS | flag::END_STREAM;
    talk.say(&frame(kind::HEADERS, flags, 9_999, &block(&fields)))
        .await;
    while let Some(frame) = talk.next().await {
        if frame.stream == 9_999 && frame.status() == Some(200) {
            return Ok(());
        }
        if frame.kind == kind::GOAWAY {
            return Err(format!("the connection does not go on: {frame:?}"));
        }
    }
    Err("the connection does not go on".to_owned())
}

/// A request of these fields after the usual ones, with or without an end.
fn request(stream: u32, more: &[(&str, &str)], ends: bool) -> Vec<u8> {
    let mut fields = vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a"),
        (":authority", "reviews:9080"),
    ];
    fields.extend(more);
    of(stream, &fields, ends)
}

/// A POST whose body is to come.
fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a"),
        (":authority", "reviews:9080"),
    ];
    fields.extend(more);
    of(stream, &fields, false)
}

/// A request of exactly these fields.
fn of(stream: u32, fields: &[(&str, &str)], ends: bool) -> Vec<u8> {
    let end = if ends { flag::END_STREAM } else { 0 };
    frame(
        kind::HEADERS,
        flag::END_HEADERS | end,
        stream,
        &block(fields),
    )
}

fn data(stream: u32, bytes: &[u8], ends: bool) -> Vec<u8> {
    frame(
        kind::DATA,
        if ends { flag::END_STREAM } else { 0 },
        stream,
        bytes,
    )
}

async fn until_answered(shopper: &Sidecar) {
    eventually("reviews answers", async || {
        let reply = shopper.caller().get("reviews:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_malformed_http2_request_reaches_the_application() {
    let mut cases = frames::cases();
    cases.extend(hpack::cases());
    cases.extend(heads::cases());
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut names: Vec<_> = cases.iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.windows(2).for_each(|two| assert_ne!(two[0], two[1]));
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    until_answered(&shopper).await;
    let identity = WorkloadIdentity::join(&mesh, "shopper").await;
    let mut failed = Vec::new();
    for case in &cases {
        let client = tls_client(Some(&identity), &["h2"]);
        let stream = tls_connect(client, reviews.inbound.unwrap()).await;
        if let Err(why) = case.run(stream.expect("it is a member"), &app).await {
            failed.push(format!("{}, to the inbound port: {why}", case.name));
        }
        let stream = TcpStream::connect(shopper.outbound).await.unwrap();
        if let Err(why) = case.run(stream, &app).await {
            failed.push(format!("{}, to the proxy port: {why}", case.name));
        }
    }
    assert!(
        failed.is_empty(),
        "{} fail:\n{}",
        failed.len(),
        failed.join("\n")
    );
    until_answered(&shopper).await;
    assert!(reviews.metric("outrigger_limits_exceeded_total").await > 0.0);
}
