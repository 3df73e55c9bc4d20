use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// What rustls sends first to a server of this name.
fn hello_to(name: &'static str) -> Vec<u8> {
    hello_offering(name, &[])
}

fn hello_offering(name: &'static str, alpn: &[&str]) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A hello with this server name extension's content, in one record.
fn hello_with(extension: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let mut extensions = vec![0, 0];
    extensions.extend(length(extension));
    extensions.extend(extension);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(length(&extensions));
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(length(&body));
    message.extend(body);
    records(&message, usize::MAX)
}

fn names(entries: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = entries
        .iter()
        .flat_map(|name| {
            let mut entry = vec![0];
            entry.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
            entry.extend(*name);
            entry
        })
        .collect();
    let mut content = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    content.extend(list);
    content
}

/// A handshake message in records of at most `most` bytes.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    let fragments = message.chunks(most.min(MAX_FRAGMENT));
    let records = fragments.flat_map(|fragment| {
        let mut record = vec![22, 3, 1];
        record.extend(u16::try_from(fragment.len()).unwrap().to_be_bytes());
        record.extend(fragment);
        record
    });
    records.collect()
}

fn greeting(name: Option<&str>) -> Greeting {
    Greeting {
        tls: true,
        server_name: name.map(Box::from),
        ..Greeting::default()
    }
}

fn name(name: &str) -> Hello {
    Hello::Whole(greeting(Some(name)))
}

#[test]
fn the_name_is_found_in_a_real_hello() {
    assert_eq!(read(&hello_to("Pay.example.com")), name("pay.example.com"));
    assert_eq!(read(&hello_to("10.0.0.1")), Hello::Whole(greeting(None)));
    let mut with_more = hello_to("pay.example.com");
    with_more.extend(b"what comes after it is not looked at");
    assert_eq!(read(&with_more), name("pay.example.com"));
}

#[test]
fn however_the_bytes_come_they_are_awaited_and_no_longer_than_needed() {
    let whole = hello_to("pay.example.com");
    let message = &whole[RECORD_HEADER..];
    for most in [1, 3, 4, 5, 100, usize::MAX] {
        let bytes = records(message, most);
        for end in 0..bytes.len() {
            let Hello::Needs(all) = read(&bytes[..end]) else {
                panic!(
                    "{end} bytes in records of {most}: {:?}",
                    read(&bytes[..end])
                );
            };
            assert!(all > end && all <= bytes.len(), "{end} bytes need {all}");
        }
        assert_eq!(read(&bytes), name("pay.example.com"), "records of {most}");
    }
}

#[test]
fn what_is_no_hello_is_told_from_its_first_bytes() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\0",
        b"SSH-2.0-OpenSSH",
        &[23, 3, 3],
    ] {
        assert_eq!(read(bytes), Hello::PlainText, "{bytes:?}");
    }
    for bytes in [
        &[22, 2][..],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 0x40, 1],
        &[22, 3, 1, 0, 1, 2],
        &[22, 3, 1, 0, 4, 1, 0, 0x41, 0],
    ] {
        assert!(matches!(read(bytes), Hello::Not(_)), "{bytes:?}");
    }
}

#[test]
fn server_names_are_held_to_their_rules() {
    assert_eq!(
        read(&hello_with(&names(&[b"a.example"]))),
        name("a.example")
    );
    assert_eq!(
        read(&hello_with(&names(&[b"A.example."]))),
        name("a.example")
    );
    let long = [b'a'; 256];
    for bad in [
        &names(&[])[..],
        &names(&[b""]),
        &names(&[b"a", b"b"]),
        &names(&[b"a b"]),
        &names(&[b"a\0"]),
        &names(&[b"*.example"]),
        &names(&[&long]),
        &names(&["\u{e4}".as_bytes()]),
        &[0, 4, 1, 0, 1, b'a'],
        &[0, 5, 0, 0, 1, b'a'],
        &[0, 4, 0, 0, 1, b'a', 0],
        &[0],
    ] {
        let found = read(&hello_with(bad));
        assert!(matches!(found, Hello::Not(_)), "{bad:?}: {found:?}");
    }
}

#[test]
fn damaged_hellos_get_an_answer_within_their_bounds() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let good = hello_to("pay.example.com");
    let message = good[RECORD_HEADER..].to_vec();
    for _ in 0..50_000 {
        let mut bytes = match rng.u8(..4) {
            0 => (0..rng.usize(..200)).map(|_| rng.u8(..)).collect(),
            1 => records(&message, rng.usize(1..600)),
            _ => good.clone(),
        };
        for _ in 0..rng.usize(..6) {
            let at = rng.usize(..bytes.len().max(1));
            match rng.u8(..4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), rng.u8(..)),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = rng.u8(..);
                    }
                }
            }
        }
        match read(&bytes) {
            Hello::Needs(all) => {
                assert!(all > bytes.len() && all <= MAX_BYTES, "{all} of {bytes:?}");
            }
            Hello::Whole(Greeting {
                server_name: Some(name),
                ..
            }) => {
                assert!(!name.is_empty() && name.len() <= 255);
                assert!(!name.bytes().any(|b| b.is_ascii_uppercase()));
            }
            Hello::Whole(_) | Hello::PlainText | Hello::Not(_) => {}
        }
    }
}

#[test]
fn an_endless_hello_is_cut_off_at_its_limit() {
    let mut bytes = Vec::new();
    loop {
        match read(&bytes) {
            Hello::Needs(all) => {
                assert!(all <= MAX_BYTES);
                // Records of one byte each of a message that claims to be as long as it may be.
                let next: u8 = match bytes.len() / 6 {
                    0 => 1,
                    1 => 0,
                    2 => 0x3f,
                    _ => 0xff,
                };
                bytes.extend([22, 3, 1, 0, 1, next]);
            }
            found => {
                assert_eq!(found, Hello::Not("the ClientHello is longer than 16 KiB"));
                break;
            }
        }
    }
    assert!(bytes.len() <= MAX_BYTES);
}

#[test]
fn application_protocols_are_found_in_order() {
    let Hello::Whole(found) = read(&hello_offering("a.example", &["istio", "h2"])) else {
        panic!("no hello");
    };
    assert_eq!(found.alpn.len(), 2);
    assert_eq!(
        (&*found.alpn[0], &*found.alpn[1]),
        (&b"istio"[..], &b"h2"[..])
    );
}
