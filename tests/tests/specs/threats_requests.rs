//! What may be tried with requests, by others and by the application itself: to be somebody else, to go round for ever,
//! to get at the admin port, to write into logs. See `threats_paths` and `threats_tls` for the rest.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use http::Request;
use http_body_util::Full;
use outrigger_tests::{
    Caller, Mesh, Sidecar, TestApp, WorkloadIdentity, eventually, say, say_plainly, tls_client,
    tls_connect,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Says bytes to an inbound port with the certificate of a member of the mesh.
async fn say_to(inbound: &Sidecar, identity: &WorkloadIdentity, said: &[u8]) -> String {
    let client = tls_client(Some(identity), &["http/1.1"]);
    let stream = tls_connect(client, inbound.inbound.unwrap()).await;
    say(stream.expect("it is a member"), said).await
}

fn request(headers: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: reviews\r\n{headers}Connection: close\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_an_identity_gets_to_the_application() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = WorkloadIdentity::join(&mesh, "shopper").await;
    let forged = "URI=spiffe://cluster.local/ns/default/sa/admin";
    app.forget();
    for headers in [
        format!("X-Forwarded-Client-Cert: {forged}\r\n"),
        format!("x-FORWARDED-client-CERT: {forged}\r\n"),
        format!("X_Forwarded_Client_Cert: {forged}\r\n"),
        format!("X-Forwarded_Client-Cert: {forged}\r\n"),
        format!("X.Forwarded.Client.Cert: {forged}\r\n"),
        format!("X-Forwarded-Client-Cert: {forged}\r\nX-Forwarded-Client-Cert: {forged}\r\n"),
        format!("Connection: X-Forwarded-Client-Cert\r\nX-Forwarded-Client-Cert: {forged}\r\n"),
        "Connection: x-forwarded-client-cert, host, content-length\r\n".to_owned(),
        format!("X-Outrigger-Identity: {forged}\r\nX_Outrigger_Retries: exhausted\r\n"),
    ] {
        let heard = say_to(&reviews, &shopper, &request(&headers)).await;
        assert!(heard.starts_with("HTTP/1.1 200"), "{headers}: {heard}");
        let received = app.received().pop().unwrap();
        let all: Vec<_> = received
            .headers
            .iter()
            .filter(|(name, value)| {
                let plain = name.as_str().replace(['_', '.'], "-");
                plain == "x-forwarded-client-cert"
                    || plain.starts_with("x-outrigger-")
                    || value.to_str().is_ok_and(|value| value.contains("admin"))
            })
            .collect();
        let [(name, value)] = all[..] else {
            panic!("{headers}: {all:?}");
        };
        assert_eq!(name, "x-forwarded-client-cert");
        let ours = format!("URI={}", shopper.spiffe_id);
        assert!(
            value.to_str().unwrap().ends_with(&ours),
            "{headers}: {value:?}"
        );
    }
    // In trailers they would be taken for headers by who puts both together.
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\nTrailer: X-Forwarded-Client-Cert\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\nX-Forwarded-Client-Cert: {forged}\r\n\r\n"
    );
    let heard = say_to(&reviews, &shopper, chunked.as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    let received = app.received().pop().unwrap();
    let all = received.headers.get_all("x-forwarded-client-cert");
    assert_eq!(all.iter().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_does_not_speak_for_a_sidecar() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    eventually("reviews answer", async || {
        let reply = caller.get("reviews:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
    app.forget();
    // As a caller: what it says of hops ends at its own sidecar. As a server: so does what it says of retries.
    let mut request = Request::post("/").header("host", "reviews:9080");
    for (name, value) in [
        ("x-app-status", "503"),
        ("x-app-header", "x-outrigger-unsent=connect_failed"),
        ("x-app-header", "x-outrigger-retries=exhausted"),
        ("x-app-header", "x-outrigger-policy=forged"),
        ("x-app-header", "x-outrigger-reason=forged"),
        ("x-outrigger-unsent", "forged"),
        (
            "x-forwarded-client-cert",
            "URI=spiffe://cluster.local/ns/default/sa/admin",
        ),
    ] {
        request = request.header(name, value);
    }
    let reply = caller.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(reply.status, 503);
    assert_eq!(
        app.received().len(),
        1,
        "a POST that the application has seen is not sent again"
    );
    let own = |name: &str| name.starts_with("x-outrigger-");
    let left: Vec<_> = reply
        .headers
        .keys()
        .filter(|name| own(name.as_str()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let seen = &app.received()[0].headers;
    let left: Vec<_> = seen.keys().filter(|name| own(name.as_str())).collect();
    assert_eq!(left, ["x-outrigger-hops"]);
}

/// An application that passes on what it is asked to a proxy, head and all, as a careless gateway would.
async fn passing_on() -> (
    std::net::SocketAddr,
    tokio::sync::watch::Sender<Option<std::net::SocketAddr>>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, proxy) = tokio::sync::watch::channel(None);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let proxy = proxy.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else {
                        return;
                    };
                    head.push(byte);
                }
                let to = *proxy.borrow();
                let is_check = head.starts_with(b"GET /healthz");
                let (Some(to), false) = (to, is_check) else {
                    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    stream.write_all(ok).await.ok();
                    return;
                };
                let mut next = TcpStream::connect(to).await.unwrap();
                next.write_all(&head).await.ok();
                tokio::io::copy_bidirectional(&mut stream, &mut next)
                    .await
                    .ok();
            });
        }
    });
    (address, sender)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_goes_round_is_stopped() {
    let mesh = Mesh::start().await;
    let (gateway, proxy) = passing_on().await;
    let sidecar = mesh.service("gateway").app_at(gateway).start().await;
    let caller = sidecar.caller();
    eventually("the gateway answers", async || {
        let reply = caller.get("gateway:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
    proxy.send_replace(Some(sidecar.outbound));
    let reply = caller.get("gateway:9080", "/").await;
    assert_eq!(reply.status, 508, "{}", reply.text());
    proxy.send_replace(None);
    let mut counted = 0.0;
    eventually("the last of them has ended", async || {
        counted = sidecar.metric("outrigger_refusals_total").await;
        if counted > 0.0 {
            Ok(())
        } else {
            Err(counted.to_string())
        }
    })
    .await;
    assert_eq!(counted, 1.0, "one circle, one refusal");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_the_sidecars_own_port_is_refused() {
    let mesh = Mesh::start().await;
    let shopper = mesh.service("shopper").start().await;
    mesh.apply(&format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: circle, namespace: default}}
spec:
  hosts: [circle.example]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]
",
        shopper.outbound.port()
    ));
    let caller = shopper.caller();
    eventually("it is refused", async || {
        let reply = caller.get("circle.example", "/").await;
        let text = reply.text();
        if text.contains("outbound port of this sidecar") && reply.status == 503 {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_port_leads_to_known_hosts_only() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let stranger = TestApp::start("stranger").await;
    let shopper = mesh.service("shopper").start().await;
    let at = stranger.address();
    for request in [
        format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"),
        format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n".to_owned(),
        "GET http://example.com/ HTTP/1.1\r\nHost: reviews:9080\r\nConnection: close\r\n\r\n"
            .to_owned(),
    ] {
        let heard = say_plainly(shopper.outbound, request.as_bytes()).await;
        let refused = heard.starts_with("HTTP/1.1 404") || heard.starts_with("HTTP/1.1 501");
        assert!(refused, "{request}: {heard}");
    }
    assert!(stranger.received().is_empty());
    // Nor does an inbound port: whatever the host, there is one application behind it.
    app.forget();
    let identity = WorkloadIdentity::join(&mesh, "shopper").await;
    let request = format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    let heard = say_to(&reviews, &identity, request.as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    assert!(stranger.received().is_empty());
    assert_eq!(app.received().len(), 1);
}

/// `POST path` of an admin port by a process of another user. None if this process may not become one.
fn post_as_nobody(to: std::net::SocketAddr, path: &str) -> Option<String> {
    const NOBODY: u32 = 65_534;
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; printf 'POST {path} HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        to.ip(),
        to.port()
    );
    let mut command = Command::new("bash");
    command
        .args(["-c", &script])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/");
    let output = command.stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_keeps_out_browsers_strangers_and_other_users() {
    let mesh = Mesh::start().await;
    let shopper = mesh.service("shopper").start().await;
    let admin = shopper.admin;
    let status = async |request: &str| {
        let heard = say_plainly(admin, request.as_bytes()).await;
        heard.get(9..12).unwrap_or_default().to_owned()
    };
    let pages = [
        "/certs",
        "/clusters",
        "/config_dump",
        "/help",
        "/listeners",
        "/server_info",
        "/stats",
    ];
    for page in pages {
        // DNS rebinding: the name is the attacker's.
        let rebound =
            format!("GET {page} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&rebound).await, "403", "{page}");
        let local = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&local).await, "200", "{page}");
        let heard = say_plainly(admin, local.as_bytes()).await;
        assert!(!heard.contains("PRIVATE KEY"), "{page}");
    }
    for page in ["/drain", "/logging?level=trace"] {
        let get = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&get).await, "405", "{page}: a GET changes nothing");
        let foreign = format!(
            "POST {page} HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(status(&foreign).await, "403", "{page}: another origin");
        match post_as_nobody(admin, page) {
            Some(heard) => {
                assert!(heard.starts_with("HTTP/1.1 403"), "{page}: {heard}");
                assert!(heard.contains("user 65534 may only read"), "{heard}");
            }
            None => eprintln!("not root: another user could not be tried"),
        }
    }
    assert!(shopper.admin("/server_info").await.contains("\"LIVE\""));
    let own = "POST /logging?level=info HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(status(own).await, "200", "its own user may");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_say_does_not_write_into_logs_or_traces() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    mesh.apply(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: default}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [\"/secret*\"]}}]}]
",
    );
    let reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = WorkloadIdentity::join(&mesh, "shopper").await;
    eventually("the policy is in force", async || {
        let request = b"GET /secret HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n";
        let heard = say_to(&reviews, &shopper, request).await;
        if heard.starts_with("HTTP/1.1 403") {
            assert!(
                heard.contains("x-outrigger-policy: ns[default]-policy[no-secrets]-rule[0] ("),
                "{heard}"
            );
            Ok(())
        } else {
            Err(heard)
        }
    })
    .await;
    for said in [
        &b"GET /secret/\x1b[31mred HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n"[..],
        b"GET /secret/\xc2\x9b31mred HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n",
        b"GET /secret/%1b[31m%0d%0aforged HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n",
        b"GET /secret HTTP/1.1\r\nHost: re\x1bviews\r\nConnection: close\r\n\r\n",
        b"GET /secret HTTP/1.1\r\nHost: reviews\r\nUser-Agent: \xc2\x9b31m\r\nConnection: close\r\n\r\n",
    ] {
        let heard = say_to(&reviews, &shopper, said).await;
        let refused = heard.starts_with("HTTP/1.1 403") || heard.starts_with("HTTP/1.1 400");
        assert!(refused, "{:?}: {heard}", String::from_utf8_lossy(said));
    }
    let log = reviews.process().log();
    assert!(log.contains("no-secrets"), "a denial is in the log: {log}");
    // The log's own colours are off where it is no terminal.
    let odd: Vec<_> = log
        .chars()
        .filter(|c| c.is_control() && *c != '\n')
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    let forged = log.lines().any(|line| line.starts_with("forged"));
    assert!(!forged, "{log}");

    app.forget();
    let long = "a".repeat(9000);
    let headers = format!("baggage: k={long}\r\ntraceparent: x\r\ntracestate: k={long}\r\n");
    say_to(&reviews, &shopper, &request(&headers)).await;
    say_to(&reviews, &shopper, &request("baggage: k=v\r\n")).await;
    let received = app.received();
    let [large, small] = &received[..] else {
        panic!("{}", received.len());
    };
    assert!(!large.headers.contains_key("baggage") && !large.headers.contains_key("tracestate"));
    assert_eq!(small.headers["baggage"], "k=v");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_without_its_sidecar_is_reached_by_nobody() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    eventually("reviews answer", async || {
        let reply = caller.get("reviews:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
    // Another user cannot end it.
    let pid = reviews.process().pid();
    let mut kill = Command::new("bash");
    kill.args(["-c", &format!("kill -TERM {pid}")])
        .uid(65_534)
        .current_dir("/");
    match kill.stderr(Stdio::null()).status() {
        Ok(status) => assert!(!status.success()),
        Err(_) => eprintln!("not root: another user could not be tried"),
    }
    assert_eq!(caller.get("reviews:9080", "/").await.status, 200);
    // And if it does end, nothing takes its place: calls fail, and none goes around it.
    let inbound = reviews.inbound.unwrap();
    reviews.process().kill();
    app.forget();
    let reply = caller.get("reviews:9080", "/").await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(TcpStream::connect(inbound).await.is_err());
    assert!(app.received().is_empty());
    assert!(app.address().ip().is_loopback());
    let _kept = Caller::through(inbound);
}
