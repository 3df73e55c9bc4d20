//! Several filter chains on a port that others reach: mutual TLS and plain text side by side, and what changes of
//! them mean for connections that are open.

use std::net::SocketAddr;

use outrigger_core::{
    ChainLookup, ChainMatch, Condition, DryRun, Filter, FilterChain, FilterChains, HttpFilter,
    HttpSettings, Inspect, Policy, Rbac, RbacAction, Rules, StringMatch,
};
use tokio::time::timeout;

use super::*;

const AT_MOST: Duration = Duration::from_secs(20);

/// Both ways in, STRICT, or neither certificate nor TLS.
#[derive(Clone, Copy)]
enum Mode {
    Strict,
    Permissive,
    Disable,
}

/// Sets the mode of a port that is STRICT as it was opened.
async fn set(
    sidecar: &mut Sidecar,
    strict: &FilterChain,
    mode: Mode,
    change: impl FnOnce(&mut Listener),
) {
    let plain = FilterChain {
        tls: None,
        ..strict.clone()
    };
    let chains = match mode {
        Mode::Strict => FilterChains::one(strict.clone()),
        Mode::Disable => FilterChains::one(plain),
        Mode::Permissive => {
            let wanted = [true, false].map(|tls| ChainMatch {
                tls: Some(tls),
                ..ChainMatch::default()
            });
            let inspect = Inspect {
                within: Duration::from_millis(500),
                silence_is_plain: false,
                ..Inspect::default()
            };
            let lookup = ChainLookup::new(&wanted, inspect).unwrap();
            FilterChains::new(vec![strict.clone(), plain], Some(lookup))
        }
    };
    let mut listener = (*sidecar.shared.snapshot.load().listeners["virtualInbound"]).clone();
    listener.chains = chains;
    change(&mut listener);
    sidecar
        .builder
        .set_listener("virtualInbound", Some(listener));
    sidecar.publish("virtualInbound").await;
}

/// An application behind a port in this mode; what its chain under TLS is.
async fn behind(
    authority: &Authority,
    app: &App,
    mode: Mode,
    policy: Option<Rules>,
) -> (Sidecar, SocketAddr, FilterChain) {
    let (mut sidecar, at) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let listener = Arc::clone(&sidecar.shared.snapshot.load().listeners["virtualInbound"]);
    let mut strict = listener.chains.only().unwrap().clone();
    strict.settings = policy.map(settings);
    set(&mut sidecar, &strict, mode, |_| {}).await;
    (sidecar, at, strict)
}

fn settings(rules: Rules) -> Arc<HttpSettings> {
    let filter = Filter::Rbac(Arc::new(Rbac {
        rules: Some(rules),
        shadow: None,
        marks: None,
    }));
    Arc::new(HttpSettings {
        filters: vec![HttpFilter {
            name: "envoy.filters.http.rbac.allow".into(),
            disabled: false,
            filter,
        }],
        ..HttpSettings::default()
    })
}

/// Only who has this name may do anything.
fn allow(account: &str) -> Rules {
    let who = Condition::Principal(StringMatch::Exact(spiffe(account), false));
    let policy = Policy::new("ns[a]-policy[b]-rule[0]", vec![Condition::Any], vec![who]);
    Rules::new(RbacAction::Allow, vec![policy])
}

/// Calls over mutual TLS.
async fn over_tls(authority: &Authority, account: &str, inbound: SocketAddr) -> u16 {
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let (_client, proxy) = Sidecar::outbound(
        &config(),
        Some(authority.identity(account)),
        reviews,
        vec![endpoint(inbound, true)],
        |_| {},
    )
    .await;
    get(proxy, "/").await.status
}

/// What a plain socket hears after it said this; None = reset.
async fn plain(at: SocketAddr, said: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut heard = Vec::new();
    let told = async {
        stream.write_all(said).await.ok()?;
        stream.read_to_end(&mut heard).await.ok()
    };
    timeout(AT_MOST, told).await.expect("it ends")?;
    Some(heard)
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn both_ways_in_are_open_where_it_is_permissive_and_one_where_it_is_not() {
    let authority = Authority::new();
    for (mode, tls, plain_text) in [
        (Mode::Strict, 200, false),
        (Mode::Permissive, 200, true),
        (Mode::Disable, 503, true),
    ] {
        let app = App::start("reviews").await;
        let (_sidecar, at, _) = behind(&authority, &app, mode, None).await;
        assert_eq!(over_tls(&authority, "frontend", at).await, tls);
        let before = app.heads.lock().unwrap().len();
        let heard = plain(at, REQUEST).await.unwrap_or_default();
        assert_eq!(heard.starts_with(b"HTTP/1.1 200"), plain_text);
        let seen = app.heads.lock().unwrap().len() - before;
        assert_eq!(
            seen,
            usize::from(plain_text),
            "the application sees nothing else"
        );
    }
}

#[tokio::test]
async fn plain_text_has_no_name_and_is_not_introduced() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (_sidecar, at, _) = behind(&authority, &app, Mode::Permissive, None).await;
    let forged = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Client-Cert: URI=spiffe://a/b\r\nConnection: close\r\n\r\n";
    let heard = plain(at, forged).await.unwrap();
    assert!(heard.starts_with(b"HTTP/1.1 200"));
    assert!(!app.last_headers().contains_key("x-forwarded-client-cert"));

    let app = App::start("reviews").await;
    let policy = Some(allow("frontend"));
    let (sidecar, at, _) = behind(&authority, &app, Mode::Permissive, policy).await;
    let heard = String::from_utf8(plain(at, REQUEST).await.unwrap()).unwrap();
    assert!(heard.starts_with("HTTP/1.1 403"), "{heard}");
    assert!(
        !heard.contains("x-outrigger-policy"),
        "an outsider is not told: {heard}"
    );
    assert_eq!(over_tls(&authority, "frontend", at).await, 200);
    assert_eq!(over_tls(&authority, "stranger", at).await, 403);
    for (policy, verdict, count) in [
        ("ns[a]-policy[b]-rule[0]", "allowed", 1.0),
        ("none", "denied", 2.0),
    ] {
        let line = format!(
            "outrigger_authorization_total{{action=\"allow\",hop=\"inbound\",policy=\"{policy}\",verdict=\"{verdict}\"}}"
        );
        assert_eq!(sidecar.metric(&line), count, "{verdict}");
    }
}

#[tokio::test]
async fn what_might_be_tls_never_gets_in_as_plain_text() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (sidecar, at, _) = behind(&authority, &app, Mode::Permissive, None).await;
    // Nothing, the first byte of TLS, a part of a hello, and what only begins like one.
    for said in [
        &b""[..],
        &[22],
        &[22, 3, 1, 2, 0],
        b"\x16GET / HTTP/1.1\r\n",
    ] {
        assert_eq!(plain(at, said).await.unwrap_or_default(), b"", "{said:?}");
    }
    assert!(app.heads.lock().unwrap().is_empty());
    for (code, count) in [("client_hello_timeout", 3.0), ("client_hello_invalid", 1.0)] {
        let line = format!("outrigger_refusals_total{{code=\"{code}\",hop=\"inbound\"}}");
        assert_eq!(sidecar.metric(&line), count, "{code}");
    }
}

#[tokio::test]
async fn a_port_that_becomes_strict_ends_the_connections_in_plain_text_and_no_others() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (mut sidecar, at, strict) = behind(&authority, &app, Mode::Permissive, None).await;
    let mut open = Raw::to(at).await;
    let mut busy = Raw::to(at).await;
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let (client, proxy) = Sidecar::outbound(
        &config(),
        Some(authority.identity("frontend")),
        reviews,
        vec![endpoint(at, true)],
        |_| {},
    )
    .await;
    assert_eq!(get(proxy, "/").await.status, 200);
    open.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(open.answer().await.unwrap().status, 200);
    // Half of a request is under way.
    busy.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        .await;
    while app.heads.lock().unwrap().len() < 3 {
        tokio::task::yield_now().await;
    }
    set(&mut sidecar, &strict, Mode::Strict, |_| {}).await;
    assert!(open.answer().await.is_none(), "idle: closed");
    busy.send("b").await;
    assert_eq!(
        busy.answer().await.unwrap().status,
        200,
        "under way: to its end"
    );
    assert!(busy.answer().await.is_none(), "and closed");
    assert_eq!(get(proxy, "/").await.status, 200);
    assert_eq!(client.workers.pools()[0].open, 1, "the same connection");
    let line = "outrigger_connections_ended_by_policy_total{reason=\"not_admitted\"}";
    assert_eq!(sidecar.metric(line), 2.0);
}

#[tokio::test]
async fn what_a_document_in_dry_run_would_refuse_is_let_in_and_counted() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (mut sidecar, at, strict) = behind(&authority, &app, Mode::Permissive, None).await;
    set(&mut sidecar, &strict, Mode::Permissive, |listener| {
        listener.dry_run = Some(DryRun {
            plain_text: false,
            mutual_tls: true,
            position: Some("strict.yaml:3:1".into()),
        });
    })
    .await;
    assert_eq!(over_tls(&authority, "frontend", at).await, 200);
    let heard = plain(at, REQUEST).await.unwrap();
    assert!(heard.starts_with(b"HTTP/1.1 200"));
    for (verdict, count) in [("allowed", 1.0), ("denied", 1.0)] {
        let line = format!("outrigger_peer_authentication_dry_run_total{{verdict=\"{verdict}\"}}");
        assert_eq!(sidecar.metric(&line), count, "{verdict}");
    }
}
