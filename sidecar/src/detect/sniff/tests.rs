use super::*;

/// The protocol of `bytes`, and at how many of them it was told.
fn told(bytes: &[u8]) -> (Client, usize) {
    (1..=bytes.len())
        .map(|n| (client(&bytes[..n]), n))
        .find(|(decided, _)| *decided != Client::Undecided)
        .unwrap_or((Client::Undecided, bytes.len()))
}

#[test]
fn each_protocol_is_told_at_the_byte_that_shows_it() {
    for (bytes, decided, at) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], Client::Http1, 11),
        (b"POST /a%20b?c HTTP/1.0\r\n", Client::Http1, 19),
        (b"get / http/1.1\r\n", Client::Http1, 11),
        (b"FOO-bar /x HTTP/1.1", Client::Http1, 16),
        (b"\r\n\r\nGET / HTTP/1.1\r\n", Client::Http1, 15),
        (b"GET\t/\tHTTP/1.1\r\n", Client::Http1, 11),
        (b"GET  /  HTTP/1.1\r\n", Client::Http1, 13),
        (b"GET /admin\r\n", Client::Http1, 12),
        (b"get /admin\n", Client::Http1, 11),
        (b"GET http://a/\r\n", Client::Http1, 15),
        (b"CONNECT a:443 HTTP/1.1\r\n", Client::Http1, 19),
        (PREFACE, Client::Http2, PREFACE.len()),
        // Begins as HTTP/2 and is none: a request that whoever serves it refuses.
        (b"PRI * HTTP/2.0\r\n\r\nXX", Client::Http1, 19),
        (b"PRI / HTTP/1.1\r\n", Client::Http1, 11),
        (&[22, 3, 1, 0], Client::Tls, 2),
        (&[22, 2], Client::Other, 2),
        // Redis, PostgreSQL, Kafka, MongoDB, AMQP, memcached (text), SMTP, RTSP, SIP, SSH, STOMP, MQTT, NATS.
        (b"*1\r\n$4\r\nPING\r\n", Client::Other, 3),
        (b"PING\r\n", Client::Other, 5),
        (&[0, 0, 0, 8, 4, 210, 22, 47], Client::Other, 1),
        (&[0, 0, 0, 30, 0, 18], Client::Other, 1),
        (&[58, 0, 0, 0], Client::Other, 1),
        (b"AMQP\0\0\x09\x01", Client::Other, 5),
        (b"get key\r\n", Client::Other, 9),
        (b"set k 0 0 1\r\n1\r\n", Client::Other, 13),
        (b"EHLO client\r\n", Client::Other, 13),
        (b"OPTIONS rtsp://a/b RTSP/1.0\r\n", Client::Other, 29),
        (b"INVITE sip:a@b SIP/2.0\r\n", Client::Other, 24),
        (b"SSH-2.0-x\r\n", Client::Other, 10),
        (b"CONNECT\naccept-version:1.2\n", Client::Other, 8),
        (&[16, 12, 0, 4], Client::Other, 1),
        (b"CONNECT {\"verbose\":false}\r\n", Client::Other, 27),
        (b"GET \0", Client::Other, 5),
        (b" GET / HTTP/1.1", Client::Other, 1),
        // Not to be told yet, however long it takes.
        (b"G", Client::Undecided, 1),
        (b"GET /", Client::Undecided, 5),
        (b"\r\n", Client::Undecided, 2),
        (b"GET /admin\r", Client::Undecided, 11),
        (&[22], Client::Undecided, 1),
    ] {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(told(bytes), (decided, at), "{text:?}");
    }
}

#[test]
fn a_line_without_an_end_is_a_request() {
    let long = [b"GET /".to_vec(), vec![b'a'; LONGEST_LINE]].concat();
    assert_eq!(told(&long), (Client::Http1, LONGEST_LINE));
    let method = vec![b'A'; LONGEST_LINE];
    assert_eq!(client(&method), Client::Http1);
}

#[test]
fn a_server_that_speaks_first_is_told_from_one_of_http() {
    for (bytes, decided) in [
        (&b"220 mail.example ESMTP\r\n"[..], Server::Other),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Server::Other),
        (&[74, 0, 0, 0, 10, 56], Server::Other),
        (b"+OK\r\n", Server::Other),
        (b"HELLO", Server::Other),
        (b"H", Server::Undecided),
        (b"HTTP/1.1 408 Request Timeout\r\n", Server::Http1),
        (&[0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3], Server::Http2),
        (&[0, 0, 0, 4, 0, 0, 0, 0, 0], Server::Http2),
        (&[0, 0, 18, 4, 0], Server::Undecided),
        (&[0, 0, 17, 4, 0, 0, 0, 0, 0], Server::Other),
        (&[0, 0, 18, 5, 0, 0, 0, 0, 0], Server::Other),
        (&[0, 0, 18, 4, 0, 0, 0, 0, 1], Server::Other),
        (&[0], Server::Undecided),
        (&[], Server::Undecided),
    ] {
        assert_eq!(server(bytes), decided, "{bytes:?}");
    }
}

/// Fuzzes for so long; with `OUTRIGGER_FUZZ_SECONDS` as long as that says.
fn long_enough() -> impl FnMut() -> bool {
    let seconds = std::env::var("OUTRIGGER_FUZZ_SECONDS");
    let seconds = seconds.ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    move || std::time::Instant::now() < until
}

#[test]
fn fuzzing_finds_no_bytes_that_change_their_mind_and_no_request_that_is_taken_for_something_else() {
    let seed = std::env::var("OUTRIGGER_FUZZ_SEED");
    let seed = seed.ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("OUTRIGGER_FUZZ_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let parts: [&[u8]; 24] = [
        b"GET",
        b"get",
        b"POST",
        b"PRI",
        b"X!",
        b" ",
        b"\t",
        b"/",
        b"/a",
        b"*",
        b"HTTP/1.1",
        b"http/",
        b"HTTP/2.0",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"SM",
        b"http://",
        &[22, 3, 1],
        &[22],
        &[200],
        &[0, 0, 6, 4, 0, 0, 0, 0, 0],
        b":",
    ];
    let mut go_on = long_enough();
    let mut cases = 0_u64;
    while go_on() {
        for _ in 0..1_000 {
            cases += 1;
            let mut bytes = Vec::new();
            for _ in 0..rng.usize(1..10) {
                if rng.u8(..) < 230 {
                    bytes.extend_from_slice(parts[rng.usize(..parts.len())]);
                } else {
                    bytes.push(rng.u8(..));
                }
            }
            let (decided, at) = told(&bytes);
            // Whatever follows: the same.
            for more in [&b"x"[..], b" HTTP/1.1\r\n", b"\r\n\r\n", &[0]] {
                let longer = [&bytes[..at], more].concat();
                if decided != Client::Undecided {
                    assert_eq!(client(&longer), decided, "{bytes:?} and {more:?}");
                }
            }
            // What our own HTTP server would take for a request, is one.
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut request = httparse::Request::new(&mut headers);
            if matches!(request.parse(&bytes), Ok(httparse::Status::Complete(_))) {
                assert!(
                    matches!(decided, Client::Http1 | Client::Http2),
                    "{bytes:?} is a request, and was taken for {decided:?}"
                );
            }
            let seen = server(&bytes);
            if seen != Server::Undecided {
                let longer = [&bytes[..], b"zz"].concat();
                assert_eq!(server(&longer), seen, "{bytes:?}");
            }
        }
    }
    println!("{cases} cases");
}
