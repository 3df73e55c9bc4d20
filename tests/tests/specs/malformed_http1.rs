//! Malformed and hostile HTTP/1 requests against a running sidecar, in front of an application that judges every byte:
//! over mTLS to the inbound port, and in plain text to the proxy port, from where they pass two sidecars.
//! Source of the verdicts: RFC 9110 and RFC 9112, by section.

use std::{borrow::Cow, time::Duration};

use outrigger_tests::{
    Caller, HeardRequest, Mesh, Recorder, Sidecar, WorkloadIdentity, eventually, tls_client,
    tls_connect,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

mod framing;
mod heads;
mod servers;

/// Longer than any time limit that a case meets.
const PATIENCE: Duration = Duration::from_secs(2);

/// One case of the corpus.
struct Case {
    name: &'static str,
    said: Cow<'static, [u8]>,
    /// The caller says no more after it.
    leaves: bool,
    expected: Expected,
    /// Fields that the application must not see, and those that it must.
    without: &'static [&'static str],
    with: &'static [(&'static str, &'static str)],
}

/// What is to come of a case. Lists are what the application sees: method, target, body.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// One of these, and the connection ends.
    Refused(&'static [u16]),
    /// The connection ends without an answer.
    Ends,
    /// Each is answered with 200, and the connection goes on.
    Passes(&'static [&'static str]),
    /// Each is answered with 200, and the connection ends.
    PassesAndEnds(&'static [&'static str]),
    /// The first ones are answered with 200, the last one is refused, and the connection ends.
    Partly(&'static [&'static str], &'static [u16]),
}

impl Case {
    fn new(name: &'static str, said: impl Into<Cow<'static, [u8]>>, expected: Expected) -> Self {
        Self {
            name,
            said: said.into(),
            leaves: false,
            expected,
            without: &[],
            with: &[],
        }
    }

    fn leaves(mut self) -> Self {
        self.leaves = true;
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

    /// `Err` says what was wrong.
    async fn run(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        app: &Recorder,
    ) -> Result<(), String> {
        app.take();
        let (passes, refused, ends) = match self.expected {
            Expected::Refused(codes) => (&[][..], Some(codes), true),
            Expected::Ends => (&[][..], None, true),
            Expected::Passes(all) => (all, None, false),
            Expected::PassesAndEnds(all) => (all, None, true),
            Expected::Partly(all, codes) => (all, Some(codes), true),
        };
        let mut talk = Talk::new(stream);
        talk.say(&self.said).await;
        if self.leaves {
            talk.leave().await;
        }
        for _ in passes {
            match talk.answer().await? {
                Some(200) => {}
                other => return Err(format!("answered with {other:?} in place of 200")),
            }
        }
        if let Some(codes) = refused {
            match talk.answer().await? {
                Some(code) if codes.contains(&code) => {}
                other => return Err(format!("answered with {other:?} in place of {codes:?}")),
            }
        }
        let mut wanted: Vec<String> = passes.iter().map(|one| (*one).to_owned()).collect();
        if ends {
            if let Some(code) = talk.answer().await? {
                return Err(format!("one more answer: {code}"));
            }
        } else {
            talk.say(b"GET /after HTTP/1.1\r\nHost: reviews:9080\r\n\r\n")
                .await;
            match talk.answer().await? {
                Some(200) => wanted.push("GET /after".to_owned()),
                other => return Err(format!("the connection does not go on: {other:?}")),
            }
        }
        self.judge(app, &wanted)
    }

    fn judge(&self, app: &Recorder, wanted: &[String]) -> Result<(), String> {
        let (heard, violations) = app.take();
        if !violations.is_empty() {
            return Err(format!("the application was sent {violations:?}"));
        }
        let seen: Vec<String> = heard.iter().map(HeardRequest::summary).collect();
        if seen != wanted {
            return Err(format!(
                "the application saw {seen:?} in place of {wanted:?}"
            ));
        }
        let Some(first) = heard.first() else {
            return Ok(());
        };
        for name in self.without {
            let found = first.values(name);
            let in_trailers = first
                .trailers
                .iter()
                .any(|(n, _)| n.eq_ignore_ascii_case(name));
            if !found.is_empty() || in_trailers {
                return Err(format!("the application saw {name}: {found:?}"));
            }
        }
        for (name, value) in self.with {
            let found = first.values(name);
            if found != [*value] {
                return Err(format!("{name} is {found:?} in place of {value:?}"));
            }
        }
        Ok(())
    }
}

/// A conversation whose answers are read one by one.
struct Talk<S> {
    stream: S,
    heard: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            heard: Vec::new(),
        }
    }

    /// The other end may have left already: what it said is read all the same.
    async fn say(&mut self, said: &[u8]) {
        let said = async {
            self.stream.write_all(said).await.ok();
            self.stream.flush().await.ok();
        };
        timeout(PATIENCE, said).await.ok();
    }

    async fn leave(&mut self) {
        self.stream.shutdown().await.ok();
    }

    /// The status of the next final answer; None = the connection has ended.
    async fn answer(&mut self) -> Result<Option<u16>, String> {
        loop {
            match self.head().await? {
                Some(status) if (100..200).contains(&status) => {}
                other => return Ok(other),
            }
        }
    }

    async fn head(&mut self) -> Result<Option<u16>, String> {
        let head = loop {
            let end = self.heard.windows(4).position(|four| four == b"\r\n\r\n");
            match end {
                Some(at) => break self.heard.drain(..at + 4).collect::<Vec<u8>>(),
                None if self.more().await? => {}
                None if self.heard.is_empty() => return Ok(None),
                None => return Err(format!("broke off: {}", self.heard.escape_ascii())),
            }
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.get(9..12).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| format!("no answer: {head}"))?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        });
        let length: usize = length.unwrap_or(0);
        while self.heard.len() < length {
            if !self.more().await? {
                return Err(format!("an answer broke off: {head}"));
            }
        }
        self.heard.drain(..length);
        Ok(Some(status))
    }

    /// False at the end; a reset is one.
    async fn more(&mut self) -> Result<bool, String> {
        let mut buffer = [0; 4096];
        match timeout(PATIENCE, self.stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => Ok(false),
            Ok(Ok(read)) => {
                self.heard.extend(buffer.get(..read).unwrap_or_default());
                Ok(true)
            }
            Err(_) => Err(format!(
                "nothing within {PATIENCE:?}, and the connection is open; heard {}",
                self.heard.escape_ascii()
            )),
        }
    }
}

/// A mesh whose application judges what it is sent.
struct Scene {
    app: Recorder,
    reviews: Sidecar,
    shopper: Sidecar,
    identity: WorkloadIdentity,
    _mesh: Mesh,
}

impl Scene {
    async fn start() -> Self {
        let mesh = Mesh::start().await;
        let app = Recorder::start().await;
        let reviews = mesh.service("reviews").app_at(app.address()).start().await;
        let shopper = mesh.service("shopper").start().await;
        until_answered(&shopper.caller()).await;
        Self {
            identity: WorkloadIdentity::join(&mesh, "shopper").await,
            app,
            reviews,
            shopper,
            _mesh: mesh,
        }
    }

    async fn run(&self, cases: Vec<Case>) -> Vec<String> {
        let mut failed = Vec::new();
        for case in cases {
            let client = tls_client(Some(&self.identity), &["http/1.1"]);
            let inbound = self.reviews.inbound.unwrap();
            let stream = tls_connect(client, inbound).await.expect("it is a member");
            if let Err(why) = case.run(stream, &self.app).await {
                failed.push(format!("{}, to the inbound port: {why}", case.name));
            }
            let stream = TcpStream::connect(self.shopper.outbound).await.unwrap();
            if let Err(why) = case.run(stream, &self.app).await {
                failed.push(format!("{}, to the proxy port: {why}", case.name));
            }
        }
        failed
    }
}

async fn until_answered(caller: &Caller) {
    eventually("reviews answers", async || {
        let reply = caller.get("reviews:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
}

fn names_are_unique<'a>(names: impl Iterator<Item = &'a str>) {
    let mut known = std::collections::BTreeSet::new();
    for name in names {
        assert!(known.insert(name), "two cases are called {name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_malformed_http1_request_reaches_the_application() {
    let mut cases = framing::cases();
    cases.extend(heads::cases());
    assert!(cases.len() >= 100, "{}", cases.len());
    names_are_unique(cases.iter().map(|case| case.name));
    let scene = Scene::start().await;
    let failed = scene.run(cases).await;
    assert!(
        failed.is_empty(),
        "{} fail:\n{}",
        failed.len(),
        failed.join("\n")
    );
    // It is as well as before.
    until_answered(&scene.shopper.caller()).await;
}
