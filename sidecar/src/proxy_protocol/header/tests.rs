//! Headers as the specification has them, and everything beside them.

use std::{
    env,
    time::{Duration, Instant},
};

use super::*;

fn ends(source: &str, destination: &str) -> Option<Ends> {
    Some(Ends {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    })
}

fn found(bytes: &[u8]) -> Option<Ends> {
    match read(bytes) {
        Read::Header(header) => {
            assert_eq!(header.length, bytes.len());
            header.ends
        }
        other => panic!("{other:?} of {bytes:?}"),
    }
}

/// Version 2: version and command, family, what follows.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, body].concat()
}

const PLACE: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0xdd, 0xd5, 1, 0xbb];

/// With a checksum that is right.
fn checked(mut header: Vec<u8>) -> Vec<u8> {
    let length = u16::from_be_bytes([header[14], header[15]]) + 7;
    header[14..16].copy_from_slice(&length.to_be_bytes());
    header.extend_from_slice(&[TLV_CRC32C, 0, 4, 0, 0, 0, 0]);
    let crc = crc32c(header.iter().copied());
    let at = header.len() - 4;
    header[at..].copy_from_slice(&crc.to_be_bytes());
    header
}

#[test]
fn lines_of_version_1_are_read() {
    assert_eq!(
        found(b"PROXY TCP4 192.0.2.1 198.51.100.7 56789 443\r\n"),
        ends("192.0.2.1:56789", "198.51.100.7:443")
    );
    assert_eq!(
        found(b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n"),
        ends("[2001:db8::1]:0", "[::1]:65535")
    );
    assert_eq!(found(b"PROXY UNKNOWN\r\n"), None);
    assert_eq!(found(b"PROXY UNKNOWN ffff:f...f whatever 1 2\r\n"), None);
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
    assert_eq!(longest.len(), MAX_LINE);
    assert_eq!(found(longest.as_bytes()), None);
}

#[test]
fn lines_that_are_not_exactly_so_are_refused() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP4 \u{661}92.0.2.1 192.0.2.2 1 2\r\n",
    ] {
        let read = read(line.as_bytes());
        assert!(matches!(read, Read::Not(_)), "{line:?}: {read:?}");
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(
        read(long.as_bytes()),
        Read::Not("the line is longer than 107 bytes")
    );
}

#[test]
fn what_does_not_begin_as_a_header_is_none_and_a_beginning_may_be_one() {
    let whole = b"PROXY TCP4 192.0.2.1 198.51.100.7 56789 443\r\n";
    for length in 0..whole.len() {
        assert_eq!(read(&whole[..length]), Read::More, "{length}");
    }
    let whole = checked(v2(0x21, 0x11, &PLACE));
    for length in 0..whole.len() {
        assert_eq!(read(&whole[..length]), Read::More, "{length}");
    }
    for other in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PROPFIND / HTTP/1.1\r\n",
        b"\r\n\r\nX",
        b"PROXY\r\n",
        &[22, 3, 1],
        b"PRI * HTTP/2.0",
    ] {
        assert_eq!(read(other), Read::Absent, "{other:?}");
    }
}

#[test]
fn headers_of_version_2_are_read() {
    let expected = ends("192.0.2.1:56789", "198.51.100.7:443");
    assert_eq!(found(&v2(0x21, 0x11, &PLACE)), expected);
    let mut six = [0u8; 36];
    six[15] = 1;
    six[31] = 2;
    six[33] = 80;
    six[35] = 81;
    assert_eq!(found(&v2(0x21, 0x21, &six)), ends("[::1]:80", "[::2]:81"));
    let tlvs = [
        &PLACE[..],
        &[0x02, 0, 3, b'a', b'.', b'b', 0xea, 0, 0, 0x04, 0, 1, 0],
    ]
    .concat();
    assert_eq!(found(&v2(0x21, 0x11, &tlvs)), expected);
    assert_eq!(found(&checked(v2(0x21, 0x11, &tlvs))), expected);
    for local in [
        v2(0x20, 0, &[]),
        v2(0x20, 0x11, &PLACE),
        v2(0x21, 0, &[1, 2, 3]),
    ] {
        assert_eq!(found(&local), None);
    }
    // The check value of the algorithm.
    assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
}

#[test]
fn headers_of_version_2_that_are_not_exactly_so_are_refused() {
    let tlv = |bytes: &[u8]| v2(0x21, 0x11, &[&PLACE[..], bytes].concat());
    let mut wrong = checked(v2(0x21, 0x11, &PLACE));
    wrong[16] ^= 1;
    for (bytes, rule) in [
        (v2(0x11, 0x11, &PLACE), "the version is not 2"),
        (
            v2(0x22, 0x11, &PLACE),
            "the command is neither LOCAL nor PROXY",
        ),
        (v2(0x21, 0x12, &PLACE), "the protocol is not a stream's"),
        (
            v2(0x21, 0x31, &[0; 216]),
            "the family is that of Unix sockets",
        ),
        (
            v2(0x21, 0x41, &PLACE),
            "the family or the protocol is unknown",
        ),
        (
            v2(0x21, 0x11, &PLACE[..11]),
            "the length leaves no room for the addresses",
        ),
        (
            v2(0x21, 0x21, &PLACE),
            "the length leaves no room for the addresses",
        ),
        (tlv(&[1, 0]), "a TLV has no room for its length"),
        (tlv(&[1, 0, 2, 0]), "a TLV is longer than what is left"),
        (
            tlv(&[TLV_CRC32C, 0, 3, 0, 0, 0]),
            "the checksum has not four bytes",
        ),
        (wrong, "the checksum is wrong"),
        (
            v2(0x21, 0x11, &[0; 4_081]),
            "the header is longer than 4 KiB",
        ),
    ] {
        assert_eq!(read(&bytes), Read::Not(rule));
    }
}

#[test]
fn what_is_written_is_read_again() {
    for version in [Version::V1, Version::V2] {
        for (source, destination) in [
            ("192.0.2.1:1", "198.51.100.7:65535"),
            ("[2001:db8::1]:1", "[::1]:2"),
        ] {
            let ends = ends(source, destination);
            assert_eq!(found(&write(version, ends)), ends, "{version:?}");
        }
        assert_eq!(found(&write(version, None)), None);
        let mapped = ends("[::ffff:192.0.2.1]:1", "192.0.2.2:2");
        assert_eq!(
            found(&write(version, mapped)),
            ends("192.0.2.1:1", "192.0.2.2:2")
        );
        let mixed = ends("192.0.2.1:1", "[::1]:2");
        assert_eq!(
            found(&write(version, mixed)),
            ends("[::ffff:192.0.2.1]:1", "[::1]:2")
        );
        let scoped = ends("[fe80::1%3]:1", "[fe80::2%3]:2");
        assert_eq!(
            found(&write(version, scoped)),
            ends("[fe80::1]:1", "[fe80::2]:2")
        );
    }
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(1..=6) {
        let at = rng.usize(0..=bytes.len());
        match rng.u8(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 if at < bytes.len() => bytes[at] = *rng.choice(b" \r\n0.:\xff\x00".iter()).unwrap(),
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 => {
                let piece = bytes[rng.usize(0..=at)..at].to_vec();
                bytes.splice(at..at, piece);
            }
            6 if bytes.len() > 16 => bytes[rng.usize(12..16)] = rng.u8(..),
            _ if at < bytes.len() => bytes[at] = rng.u8(..),
            _ => {}
        }
        bytes.truncate(6_000);
    }
}

/// `OUTRIGGER_FUZZ_SECONDS` (default 2) makes it longer, `OUTRIGGER_SEED` repeats a run.
#[test]
fn whatever_comes_is_a_header_the_beginning_of_one_or_none_and_never_changes_its_mind() {
    let number = |name: &str| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seed = number("OUTRIGGER_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("OUTRIGGER_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let long = [&PLACE[..], &[0xea, 1, 0], &[7; 256]].concat();
    let corpus = [
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56789 443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x21, 0x11, &PLACE),
        v2(0x21, 0x21, &[7; 36]),
        v2(0x20, 0, &[]),
        checked(v2(0x21, 0x11, &long)),
    ];
    let until = Instant::now() + Duration::from_secs(number("OUTRIGGER_FUZZ_SECONDS").unwrap_or(2));
    let mut rounds = 0u64;
    while Instant::now() < until {
        for _ in 0..1_000 {
            let mut bytes = rng.choice(corpus.iter()).unwrap().clone();
            mutate(&mut bytes, &mut rng);
            let whole = read(&bytes);
            match whole {
                Read::More => assert!(bytes.len() < MAX_HEADER),
                Read::Header(header) => {
                    assert!(header.length <= bytes.len() && header.length <= MAX_HEADER);
                    assert_eq!(read(&bytes[..header.length]), whole);
                    assert_eq!(read(&bytes[..header.length - 1]), Read::More);
                    if let Some(ends) = header.ends {
                        let again = write(header.version, Some(ends));
                        assert!(matches!(read(&again), Read::Header(_)));
                    }
                }
                Read::Absent | Read::Not(_) => {}
            }
            // Bytes come in pieces: what was decided of some stays so when more come.
            let some = read(&bytes[..rng.usize(0..=bytes.len())]);
            assert!(
                some == Read::More || some == whole,
                "{some:?} then {whole:?}: {bytes:?}"
            );
            rounds += 1;
        }
    }
    eprintln!("{rounds} headers");
}
