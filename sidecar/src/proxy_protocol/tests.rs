//! Headers on real connections.

use std::net::SocketAddr;

use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::*;

fn wanted() -> ProxyProtocol {
    ProxyProtocol {
        optional: false,
        versions: (true, true),
        within: Duration::from_secs(20),
        silence_is_none: false,
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// What is made of a client that says this in pieces, and what can be read after it.
async fn said(
    wanted: ProxyProtocol,
    pieces: &[&[u8]],
) -> (Result<Option<Header>, Refused>, Vec<u8>) {
    let (mut client, mut server) = pair().await;
    client.set_nodelay(true).unwrap();
    let says = async {
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            // The other side has to have seen it before there is more.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let (taken, ()) = tokio::join!(take(&mut server, wanted), says);
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    (taken, rest)
}

fn source(taken: Result<Option<Header>, Refused>) -> Option<SocketAddr> {
    Some(taken.unwrap()?.ends?.source)
}

#[tokio::test]
async fn a_header_is_taken_off_the_front_and_nothing_behind_it() {
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.7 56789 443\r\nGET / HTTP/1.1\r\n";
    let expected = "192.0.2.1:56789".parse().ok();
    for cut in [1, 5, 6, 20, 44, 45, 50] {
        let (taken, rest) = said(wanted(), &[&line[..cut], &line[cut..]]).await;
        assert_eq!(source(taken), expected, "{cut}");
        assert_eq!(rest, b"GET / HTTP/1.1\r\n");
    }
    let ends = header::Ends {
        source: "192.0.2.1:56789".parse().unwrap(),
        destination: "192.0.2.2:1".parse().unwrap(),
    };
    let binary = header::write(ProxyVersion::V2, Some(ends));
    let (taken, rest) = said(wanted(), &[&binary[..13], &binary[13..], b"\x16\x03\x01"]).await;
    assert_eq!((source(taken), rest), (expected, b"\x16\x03\x01".to_vec()));
    let (taken, rest) = said(wanted(), &[b"PROXY UNKNOWN\r\n", b"x"]).await;
    assert_eq!((taken.unwrap().unwrap().ends, rest), (None, b"x".to_vec()));
}

#[tokio::test]
async fn a_connection_without_a_header_is_refused_or_left_as_it_is() {
    let (taken, _) = said(wanted(), &[b"GET / HTTP/1.1\r\n"]).await;
    assert!(matches!(taken, Err(Refused::Missing)), "{taken:?}");
    let optional = ProxyProtocol {
        optional: true,
        ..wanted()
    };
    let (taken, rest) = said(optional, &[b"PROPFIND / HTTP/1.1\r\n"]).await;
    assert_eq!(
        (taken.unwrap(), rest),
        (None, b"PROPFIND / HTTP/1.1\r\n".to_vec())
    );
    let (taken, rest) = said(optional, &[b"PRO", b"PFIND /"]).await;
    assert_eq!((taken.unwrap(), rest), (None, b"PROPFIND /".to_vec()));
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let (taken, _) = said(wanted(), &[b"PROXY TCP4 192.0.2.1\r\n"]).await;
    let error = taken.unwrap_err().to_string();
    assert!(
        error.starts_with("its PROXY protocol header is malformed: the line"),
        "{error}"
    );
    let second_only = ProxyProtocol {
        versions: (false, true),
        ..wanted()
    };
    let (taken, _) = said(second_only, &[b"PROXY UNKNOWN\r\n"]).await;
    assert!(
        matches!(taken, Err(Refused::Version(ProxyVersion::V1))),
        "{taken:?}"
    );
    // Of half a header that ends there nothing more is waited for.
    for end in [&b""[..], b"PROXY TCP4 "] {
        let (taken, _) = said(wanted(), &[end]).await;
        assert!(matches!(taken, Err(Refused::Gone(_))), "{taken:?}");
    }
}

#[tokio::test]
async fn silence_is_refused_unless_the_server_may_be_the_one_to_speak_first() {
    let soon = |optional| ProxyProtocol {
        optional,
        within: Duration::from_millis(50),
        silence_is_none: true,
        ..wanted()
    };
    let (mut client, mut server) = pair().await;
    assert!(take(&mut server, soon(true)).await.unwrap().is_none());
    let refused = take(&mut server, soon(false)).await;
    assert!(matches!(refused, Err(Refused::Late(_))), "{refused:?}");
    client.write_all(b"PROXY").await.unwrap();
    server.readable().await.unwrap();
    let refused = take(&mut server, soon(true)).await;
    assert!(matches!(refused, Err(Refused::Late(_))), "{refused:?}");
}
