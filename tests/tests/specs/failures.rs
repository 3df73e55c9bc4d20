//! What went wrong, told to a client that has only `curl`: each failure its own cause, in a header and in JSON, with
//! the line of YAML that decided, if one did.

use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};

use bytes::Bytes;
use outrigger_tests::{
    Caller, Fault, ForeignRoot, Mesh, Misbehaving, Reply, TestApp, WorkloadIdentity, eventually,
    within,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

/// The documents of all failures, in one file whose lines are named by the answers.
#[derive(Default)]
struct Documents {
    text: String,
}

/// What has to be seen.
struct Cause {
    status: u16,
    code: &'static str,
    /// A part of the message that no other failure's has.
    says: &'static str,
    hop: &'static str,
    /// What the document says that the answer's position points to, from there on.
    policy: Option<&'static str>,
}

impl Documents {
    /// A host that only has these endpoints, with a service account where they have mTLS.
    fn host(&mut self, host: &str, endpoints: &[(SocketAddr, Option<&str>)]) {
        self.text += &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}}}\nspec:\n  \
             hosts: [{host}.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: 80, name: http, protocol: HTTP}}]\n  endpoints:\n"
        );
        for (address, account) in endpoints {
            let account = account.map(|name| format!(", serviceAccount: {name}"));
            self.text += &format!(
                "  - {{address: 127.0.0.1, ports: {{http: {}}}{}}}\n",
                address.port(),
                account.unwrap_or_default()
            );
        }
        self.text += "---\n";
    }

    fn routes(&mut self, host: &str, http: &str) {
        self.text += &format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {host}}}\nspec:\n  \
             hosts: [{host}]\n  http:\n{http}\n---\n"
        );
    }

    fn policy(&mut self, host: &str, policy: &str) {
        self.text += &format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\nspec:\n  \
             host: {host}\n  {policy}\n---\n"
        );
    }

    /// What stands at `file:line:column`, to the end of that document.
    fn at(&self, position: &str) -> &str {
        let mut parts = position.rsplit(':');
        let mut number = || parts.next()?.parse::<usize>().ok();
        let (column, line) = (number().unwrap_or(1), number().unwrap_or(1));
        let start: usize = self.text.lines().take(line - 1).map(|l| l.len() + 1).sum();
        let rest = self.text.get(start + column - 1..).unwrap_or_default();
        rest.split("\n---").next().unwrap_or_default()
    }
}

impl Cause {
    fn new(status: u16, code: &'static str, says: &'static str) -> Self {
        Self {
            status,
            code,
            says,
            hop: "outbound",
            policy: None,
        }
    }

    fn by(self, policy: &'static str) -> Self {
        Self {
            policy: Some(policy),
            ..self
        }
    }

    fn wrong(&self, reply: &Reply, documents: &Documents) -> Vec<String> {
        let json = reply.json();
        let error = &json["error"];
        let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        let position = error["policy"].as_str();
        let at = position.map(|position| documents.at(position));
        // A route's position is that of its rule, a DestinationRule's that of the document.
        let policy = match (self.policy, at) {
            (None, None) => true,
            (Some(wanted), Some(found)) => found.contains(wanted),
            _ => false,
        };
        [
            (
                reply.status == self.status,
                format!("status {}", reply.status),
            ),
            (
                reply.reason() == Some(self.code),
                format!("{:?}", reply.reason()),
            ),
            (field("code") == self.code, field("code")),
            (field("hop") == self.hop, field("hop")),
            (field("message").contains(self.says), field("message")),
            (
                policy,
                format!(
                    "position {position:?} at {at:?} instead of {:?}",
                    self.policy
                ),
            ),
        ]
        .into_iter()
        .filter_map(|(right, found)| (!right).then_some(found))
        .collect()
    }
}

/// One table, and what each of its rows gave.
struct Failures {
    documents: Documents,
    seen: Vec<(String, Cause, Reply)>,
}

impl Failures {
    fn saw(&mut self, what: &str, cause: Cause, reply: Reply) {
        self.seen.push((what.to_owned(), cause, reply));
    }

    /// Every row as expected, and no row's words fit another.
    fn judge(&self, at_least: usize) {
        let mut wrong = Vec::new();
        for (what, cause, reply) in &self.seen {
            for found in cause.wrong(reply, &self.documents) {
                wrong.push(format!("{what}: {found}\n    {}", reply.text()));
            }
            for (other, _, theirs) in &self.seen {
                let message = theirs.json()["error"]["message"].to_string();
                let hop = theirs.json()["error"]["hop"] == cause.hop;
                if other != what
                    && hop
                    && theirs.reason() == Some(cause.code)
                    && message.contains(cause.says)
                {
                    wrong.push(format!("{what} and {other} sound alike: {message}"));
                }
            }
        }
        let kinds: BTreeSet<_> = self.seen.iter().map(|(what, ..)| what).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(kinds.len() >= at_least, "{kinds:?}");
    }
}

/// A request of any form, on a connection of its own; the answer's status, headers and body.
async fn raw(proxy: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !is_whole(&answer) {
        let read = stream.read_buf(&mut answer);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        let read = read.unwrap_or_else(|_| panic!("no more than {answer:?}"));
        if read.unwrap_or(0) == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let mut headers = http::HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name: http::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    Reply {
        status: status.unwrap_or("599").parse().unwrap(),
        headers,
        body: Bytes::from(body.to_owned()),
    }
}

/// Head and as much body as it says.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    length.is_some_and(|length: usize| body.len() >= length)
}

/// Requests that are under way: `waiting` of them in the application.
async fn hold(
    caller: &Caller,
    host: &'static str,
    app: &TestApp,
    count: usize,
) -> Vec<JoinHandle<Reply>> {
    app.hold();
    let mut held = Vec::new();
    for n in 1..=count {
        let caller = caller.clone();
        held.push(tokio::spawn(async move { caller.get(host, "/").await }));
        eventually("the request is in the application", async || {
            if app.waiting() >= n {
                Ok(())
            } else {
                Err(app.waiting().to_string())
            }
        })
        .await;
    }
    held
}

async fn let_go(app: &TestApp, held: Vec<JoinHandle<Reply>>) {
    app.release();
    // Of those that came at the same time, one or the other was refused.
    let answers = futures_util::future::join_all(held).await;
    assert!(
        answers
            .iter()
            .any(|one| one.as_ref().unwrap().status == 200)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_names_its_own_cause_and_the_line_that_decided() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("app").await;
    let mut documents = Documents::default();
    // Whatever lives as long as the test.
    let mut servers = Vec::new();

    for (host, fault) in [
        ("refused", Fault::Refuses),
        ("never-accepts", Fault::NeverAccepts),
        ("closes-after-request", Fault::ClosesAfterRequest),
        ("resets-after-request", Fault::ResetsAfterRequest),
        ("closes-in-head", Fault::ClosesInHead),
        ("resets-in-head", Fault::ResetsInHead),
        ("garbage", Fault::Garbage),
        ("silent", Fault::Silent),
        ("slow-tries", Fault::Silent),
        ("short-of-time", Fault::Silent),
        ("broken", Fault::ClosesAfterRequest),
    ] {
        let server = Misbehaving::start(fault).await;
        documents.host(host, &[(server.address(), None)]);
        servers.push(server);
    }
    documents.policy(
        "never-accepts",
        "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 300ms}}}",
    );
    documents.routes(
        "silent",
        "  - {timeout: 300ms, route: [{destination: {host: silent}}]}",
    );

    documents.routes(
        "slow-tries",
        "  - {retries: {attempts: 1, perTryTimeout: 200ms, retryOn: 5xx}, route: [{destination: {host: slow-tries}}]}",
    );
    documents.text += "apiVersion: outrigger.dev/v1\nkind: DestinationPolicy\nmetadata: {name: broken}\nspec:\n  \
         host: broken\n  circuitBreaker: {consecutiveFailures: 1, scope: SERVICE}\n---\n";

    let other = WorkloadIdentity::join(&mesh, "somebody-else").await;
    let foreign = ForeignRoot::new().issue("spiffe://cluster.local/ns/default/sa/wanted");
    for (host, identity) in [("wrong-identity", &other), ("foreign-root", &foreign)] {
        let server = Misbehaving::tls(identity).await;
        documents.host(host, &[(server.address(), Some("wanted"))]);
        servers.push(server);
    }
    documents.host("plain-server", &[(app.address(), Some("wanted"))]);

    documents.host("app", &[(app.address(), None)]);
    documents.routes(
        "no-path",
        "  - {match: [{uri: {prefix: /only}}], route: [{destination: {host: app}}]}",
    );
    documents.routes(
        "aborted",
        "  - {fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: app}}]}",
    );
    documents.routes(
        "no-cluster",
        "  - {route: [{destination: {host: nobody-at-all}}]}",
    );
    documents.host("no-endpoints", &[(app.address(), None)]);
    documents.policy(
        "no-endpoints",
        "subsets: [{name: v9, labels: {version: v9}}]",
    );
    documents.routes(
        "no-endpoints",
        "  - {route: [{destination: {host: no-endpoints, subset: v9}}]}",
    );
    let limited = TestApp::start("limited").await;
    for (host, pool) in [
        (
            "pending",
            "tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}",
        ),
        ("requests", "http: {http2MaxRequests: 1}"),
    ] {
        documents.host(host, &[(limited.address(), None)]);
        documents.policy(
            host,
            &format!("trafficPolicy: {{connectionPool: {{{pool}}}}}"),
        );
    }
    let failing = TestApp::start("failing").await;
    failing.answer_with(500);
    documents.host("ejected", &[(failing.address(), None)]);
    documents.policy(
        "ejected",
        "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}}",
    );

    let behind = TestApp::start("behind").await;
    let _reviews = mesh.service("reviews").app(&behind).start().await;
    let sick = TestApp::start("sick").await;
    let _sick = mesh.service("sick").app(&sick).start().await;
    let shopper = mesh.service("shopper").start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("failures.yaml");
    fs::write(&file, documents.text.trim_end_matches("---\n")).unwrap();
    let applied = mesh.cli(&["apply", "-f", &file.display().to_string()]);
    assert_eq!(applied.status, 0, "{}", applied.stderr);
    mesh.synced().await;

    let caller = shopper.caller();
    let mut failures = Failures {
        documents,
        seen: Vec::new(),
    };
    let get = async |host: &str| caller.get(host, "/").await;
    for (host, cause) in [
        (
            "nobody",
            Cause::new(
                404,
                "no_route_host",
                "no service is known as \"nobody\" here",
            ),
        ),
        (
            "app:81",
            Cause::new(404, "no_route_host", "its ports are 80"),
        ),
        (
            "no-path",
            Cause::new(404, "no_route_path", "no route of \"no-path\" matches /"),
        ),
        (
            "no-cluster",
            Cause::new(503, "cluster_unknown", "nobody-at-all")
                .by("{route: [{destination: {host: nobody-at-all"),
        ),
        (
            "no-endpoints",
            Cause::new(503, "no_endpoints", "in subset \"v9\" has no endpoints")
                .by("{route: [{destination: {host: no-endpoints"),
        ),
        ("refused", Cause::new(503, "connect_failed", "refused")),
        (
            "never-accepts",
            Cause::new(503, "connect_failed", "no connection within 300ms")
                .by("connectTimeout: 300ms"),
        ),
        (
            "closes-after-request",
            Cause::new(
                503,
                "upstream_closed",
                "closed the connection before it answered",
            ),
        ),
        (
            "resets-after-request",
            Cause::new(
                503,
                "upstream_closed",
                "reset the connection before it answered",
            ),
        ),
        (
            "closes-in-head",
            Cause::new(
                503,
                "upstream_closed",
                "closed the connection in the middle of its response's head",
            ),
        ),
        ("garbage", Cause::new(503, "upstream_reset", "invalid HTTP")),
        (
            "silent",
            Cause::new(504, "timeout", "timeout of 300ms")
                .by("300ms, route: [{destination: {host: silent"),
        ),
        (
            "wrong-identity",
            Cause::new(503, "tls_failed", "somebody-else"),
        ),
        (
            "foreign-root",
            Cause::new(503, "tls_failed", "UnknownIssuer"),
        ),
        (
            "plain-server",
            Cause::new(503, "tls_failed", "did not speak TLS"),
        ),
        (
            "aborted",
            Cause::new(418, "fault_injected", "fault").by("{abort: {httpStatus: 418"),
        ),
        (
            "slow-tries",
            Cause::new(504, "per_try_timeout", "200ms").by("{attempts: 1, perTryTimeout"),
        ),
    ] {
        failures.saw(host, cause, get(host).await);
    }

    assert_eq!(get("ejected").await.status, 500);
    let cause = Cause::new(503, "no_healthy_endpoints", "1 ejected").by("outlierDetection:");
    failures.saw("ejected", cause, get("ejected").await);
    assert_eq!(get("broken").await.reason(), Some("upstream_closed"));
    let cause = Cause::new(503, "breaker_open", "circuit breaker").by("{consecutiveFailures: 1");
    failures.saw("broken", cause, get("broken").await);

    let reply = caller.get_with("short-of-time", "x-envoy-expected-rq-timeout-ms", "200");
    let cause = Cause::new(504, "deadline_exceeded", "caller");
    failures.saw("short-of-time", cause, reply.await);

    sick.set_healthy(false);
    let reply = within(
        Duration::from_secs(30),
        "nobody healthy is left",
        async || match get("sick:9080").await {
            reply if reply.status == 200 => Err(reply.text()),
            reply => Ok(reply),
        },
    );
    let cause = Cause::new(503, "no_healthy_endpoints", "endpoints of sick.");
    failures.saw("all-unhealthy", cause, reply.await);

    let held = hold(&caller, "requests", &limited, 1).await;
    let cause = Cause::new(503, "overflow_requests", "http2MaxRequests").by("http2MaxRequests: 1");
    failures.saw("requests", cause, get("requests").await);
    let_go(&limited, held).await;
    let mut held = hold(&caller, "pending", &limited, 1).await;
    let next = caller.clone();
    held.push(tokio::spawn(async move { next.get("pending", "/").await }));
    let reply = within(
        Duration::from_secs(10),
        "one waits, the next is refused",
        async || {
            let next = caller.clone();
            let mut next = tokio::spawn(async move { next.get("pending", "/").await });
            match tokio::time::timeout(Duration::from_millis(300), &mut next).await {
                Ok(reply) => Ok(reply.unwrap()),
                Err(_) => {
                    held.push(next);
                    Err("it waits".to_owned())
                }
            }
        },
    )
    .await;
    let cause = Cause::new(503, "overflow_pending", "http1MaxPendingRequests")
        .by("http1MaxPendingRequests: 1");
    failures.saw("pending", cause, reply);
    let_go(&limited, held).await;

    for (what, request, cause) in [
        (
            "no-host",
            "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
            Cause::new(400, "bad_request", "Host is missing"),
        ),
        (
            "two-hosts",
            "GET / HTTP/1.1\r\nhost: app\r\nhost: other\r\nconnection: close\r\n\r\n",
            Cause::new(400, "bad_request", "Host occurs more than once"),
        ),
        (
            "above-the-root",
            "GET /../x HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n",
            Cause::new(400, "bad_request", "above its root"),
        ),
        (
            "connect",
            "CONNECT app HTTP/1.1\r\nhost: app\r\n\r\n",
            Cause::new(400, "bad_request", "no port; expected host:port"),
        ),
        (
            "upgrade",
            "GET / HTTP/1.1\r\nhost: app\r\nupgrade: tn3270\r\nconnection: upgrade, close\r\n\r\n",
            Cause::new(403, "upgrade_not_allowed", "tn3270"),
        ),
    ] {
        failures.saw(what, cause, raw(shopper.outbound, request).await);
    }
    behind_a_sidecar(&mut failures, &caller, behind).await;
    failures.judge(29);
}

/// What the other hop says.
async fn behind_a_sidecar(failures: &mut Failures, caller: &Caller, behind: TestApp) {
    eventually("reviews answer", async || {
        match caller.get("reviews:9080", "/").await {
            reply if reply.status == 200 => Ok(()),
            reply => Err(reply.text()),
        }
    })
    .await;
    behind.stop();
    let reply = caller.get("reviews:9080", "/").await;
    let cause = Cause {
        hop: "inbound",
        ..Cause::new(503, "connect_failed", "refused (")
    };
    failures.saw("application-gone", cause, reply);
}
