use super::*;

/// A query for `name`.
pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, RD, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&IN.to_be_bytes());
    bytes
}

/// The same with EDNS of this size and version.
pub(crate) fn with_edns(mut bytes: Vec<u8>, size: u16, version: u8) -> Vec<u8> {
    bytes[11] += 1;
    bytes.push(0);
    bytes.extend_from_slice(&OPT.to_be_bytes());
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&[0, version, 0x80, 0, 0, 0]);
    bytes
}

fn code(bytes: &[u8]) -> Option<Code> {
    match Query::read(bytes) {
        Ok(_) => Some(Code::NoError),
        Err(NoQuery::Answer(code, _)) => Some(code),
        Err(NoQuery::Ignore) => None,
    }
}

fn records<'a>(v4: &'a [Ipv4Addr], v6: &'a [Ipv6Addr]) -> Records<'a> {
    Records {
        v4,
        v6,
        ..Records::default()
    }
}

fn reply(query: &Query<'_>, code: Code, records: Records<'_>, limit: usize) -> Vec<u8> {
    Reply {
        query,
        code,
        records,
        ttl: 30,
        why: Some((14, "why")),
    }
    .write(limit)
}

fn counts(message: &[u8]) -> [u16; 4] {
    [4, 6, 8, 10].map(|at| u16::from_be_bytes([message[at], message[at + 1]]))
}

#[test]
fn a_query_is_read_and_its_name_is_lower_case() {
    let bytes = with_edns(query("OrDers.Shop", AAAA), 1232, 0);
    let read = Query::read(&bytes).unwrap();
    assert_eq!(read.name.as_deref(), Some("orders.shop"));
    assert_eq!((read.kind, read.class), (AAAA, IN));
    assert_eq!(read.udp_limit(), 1232);
    assert_eq!(read.question(), &bytes[12..bytes.len() - 11]);
    let plain = query("orders", A);
    assert_eq!(Query::read(&plain).unwrap().udp_limit(), PLAIN_UDP);
    let huge = with_edns(query("orders", A), 65_535, 0);
    assert_eq!(Query::read(&huge).unwrap().udp_limit(), MAX_UDP);
}

#[test]
fn names_that_no_host_has_are_none_of_the_meshs() {
    for name in ["a b", "a/b", "*", "\u{fc}"] {
        let bytes = query(name, A);
        assert_eq!(Query::read(&bytes).unwrap().name, None, "{name}");
    }
    assert_eq!(
        Query::read(&query("", 2)).unwrap().name.as_deref(),
        Some("")
    );
}

#[test]
fn an_answer_and_what_is_too_short_are_never_answered() {
    let mut answer = query("orders", A);
    answer[2] |= QR;
    assert_eq!(code(&answer), None);
    for length in 0..HEADER {
        assert_eq!(code(&query("orders", A)[..length]), None);
    }
}

#[test]
fn what_is_not_exactly_one_question_is_refused() {
    let good = query("orders.shop", A);
    for length in HEADER..good.len() {
        assert_eq!(code(&good[..length]), Some(Code::FormErr), "{length}");
    }
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        code(&bytes)
    };
    let refused = Some(Code::FormErr);
    assert_eq!(with(&|bytes| bytes.push(0)), refused, "more than a query");
    assert_eq!(with(&|bytes| bytes[5] = 0), refused, "no question");
    assert_eq!(with(&|bytes| bytes[5] = 2), refused, "two questions");
    assert_eq!(with(&|bytes| bytes[7] = 1), refused, "an answer");
    assert_eq!(with(&|bytes| bytes[9] = 1), refused, "an authority");
    assert_eq!(with(&|bytes| bytes[12] = 0xc0), refused, "a pointer");
    assert_eq!(with(&|bytes| bytes[12] = 64), refused, "a label of 64");
    assert_eq!(
        with(&|bytes| bytes[2] = 0x28),
        Some(Code::NotImp),
        "an update"
    );
    let long = format!("{}x", "abcdefg.".repeat(32));
    assert_eq!(code(&query(&long, A)), refused, "a name of 258");
    let twice = with_edns(with_edns(good.clone(), 512, 0), 512, 0);
    assert_eq!(code(&twice), refused, "EDNS twice");
    assert_eq!(code(&with_edns(good, 512, 0)), Some(Code::NoError));
}

#[test]
fn a_refusal_has_the_id_and_nothing_else() {
    let mut bytes = query("orders", A);
    bytes[5] = 3;
    let Err(NoQuery::Answer(_, answer)) = Query::read(&bytes) else {
        panic!("it was taken");
    };
    assert_eq!(answer, [0xab, 0xcd, QR | RD, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn transfers_and_other_versions_of_edns_are_refused() {
    let unserved = |bytes: Vec<u8>| Query::read(&bytes).unwrap().unserved();
    assert_eq!(unserved(query("orders", AXFR)), Some(Code::Refused));
    assert_eq!(unserved(query("orders", IXFR)), Some(Code::Refused));
    let newer = with_edns(query("orders", A), 512, 1);
    assert_eq!(unserved(newer.clone()), Some(Code::BadVers));
    assert_eq!(unserved(query("orders", ANY)), None);
    let read = Query::read(&newer).unwrap();
    let answer = reply(&read, Code::BadVers, Records::default(), 512);
    // The upper bits stand where OPT has its time to live.
    let opt = &answer[12 + read.question().len()..];
    assert_eq!((answer[3] & 0xf, opt[5]), (0, 1));
}

#[test]
fn an_answer_repeats_the_question_in_its_letters() {
    let bytes = query("OrDers", A);
    let read = Query::read(&bytes).unwrap();
    let answer = reply(
        &read,
        Code::NoError,
        records(&[[240, 240, 0, 9].into()], &[]),
        512,
    );
    assert_eq!(answer[..2], [0xab, 0xcd]);
    assert_eq!(&answer[12..12 + read.question().len()], read.question());
    assert_eq!(counts(&answer), [1, 1, 0, 0]);
    let expected = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 240, 240, 0, 9];
    assert!(answer.ends_with(&expected), "{answer:?}");
    assert!(read.is_answered_by(0xabcd, &answer));
}

#[test]
fn nothing_of_a_type_is_no_error_and_may_be_remembered_for_as_long_as_an_address() {
    let bytes = query("orders", AAAA);
    let read = Query::read(&bytes).unwrap();
    let answer = reply(&read, Code::NoError, Records::default(), 512);
    assert_eq!(code_of(&answer), 0);
    assert_eq!(counts(&answer), [1, 0, 1, 0]);
    assert_eq!(answer[answer.len() - 4..], [0, 0, 0, 30]);
}

#[test]
fn why_is_said_to_those_who_can_hear_it() {
    let bytes = with_edns(query("orders", A), 1232, 0);
    let answer = reply(
        &Query::read(&bytes).unwrap(),
        Code::ServFail,
        Records::default(),
        512,
    );
    assert_eq!(counts(&answer), [1, 0, 0, 1]);
    assert!(answer.ends_with(&[0, 15, 0, 5, 0, 14, b'w', b'h', b'y']));
    let bytes = query("orders", A);
    let answer = reply(
        &Query::read(&bytes).unwrap(),
        Code::ServFail,
        Records::default(),
        512,
    );
    assert_eq!(answer.len(), bytes.len());
}

#[test]
fn what_is_too_long_is_cut_off_and_says_so() {
    let v6: Vec<Ipv6Addr> = (0..40).map(Ipv6Addr::from).collect();
    let bytes = with_edns(query("orders", AAAA), 600, 0);
    let read = Query::read(&bytes).unwrap();
    let answer = reply(&read, Code::NoError, records(&[], &v6), read.udp_limit());
    assert!(is_truncated(&answer));
    assert_eq!(counts(&answer), [1, 0, 0, 1]);
    let whole = reply(&read, Code::NoError, records(&[], &v6), 65_535);
    assert_eq!(counts(&whole), [1, 40, 0, 1]);
    assert!(!is_truncated(&whole));
    let cut = truncated(&read, &whole);
    assert!(is_truncated(&cut) && read.is_answered_by(0xabcd, &cut));
    assert_eq!(counts(&cut), [1, 0, 0, 1]);
}

#[test]
fn a_port_is_told_with_the_host_that_was_asked_for_and_its_addresses() {
    let bytes = query("_http._tcp.Orders.shop", SRV);
    let read = Query::read(&bytes).unwrap();
    let v4 = [Ipv4Addr::new(240, 240, 0, 9)];
    let records = Records {
        v4: &v4,
        srv: vec![Srv { port: 8080 }],
        ..Records::default()
    };
    let answer = reply(&read, Code::NoError, records, 512);
    assert_eq!(counts(&answer), [1, 1, 0, 1]);
    let after = &answer[12 + read.question().len()..];
    let target = b"\x06Orders\x04shop\x00";
    let data = [&[0, 0, 0, 0, 0x1f, 0x90][..], target].concat();
    assert_eq!(after[10..12], [0, u8::try_from(data.len()).unwrap()]);
    assert_eq!(after[12..12 + data.len()], data);
    let address = &after[12 + data.len()..];
    let at = usize::from(u16::from_be_bytes([address[0], address[1]]) & 0x3fff);
    assert_eq!(&answer[at..at + target.len()], target);
    assert!(address.ends_with(&[0, 4, 240, 240, 0, 9]));
}

#[test]
fn an_answer_belongs_to_its_question_its_id_and_nothing_else() {
    let bytes = query("Orders.shop", A);
    let read = Query::read(&bytes).unwrap();
    let forwarded = read.to_forward(0x1234);
    assert_eq!(forwarded[..2], [0x12, 0x34]);
    assert_eq!(forwarded[2..], bytes[2..]);
    let mut answer = forwarded.clone();
    answer[2] |= QR;
    assert!(read.is_answered_by(0x1234, &answer));
    assert!(!read.is_answered_by(0x1235, &answer));
    assert!(
        !read.is_answered_by(0x1234, &forwarded),
        "the question itself"
    );
    let mut lower = answer.clone();
    lower[13] = b'o';
    assert!(read.is_answered_by(0x1234, &lower), "in other letters");
    for at in 12..answer.len() {
        let mut other = answer.clone();
        other[at] ^= 1;
        assert!(!read.is_answered_by(0x1234, &other), "{at}");
    }
    let mut without = answer[..12].to_vec();
    without[5] = 0;
    assert!(
        !read.is_answered_by(0x1234, &without),
        "no error, and no question"
    );
    without[3] = 1;
    assert!(
        read.is_answered_by(0x1234, &without),
        "it could not be read"
    );
}

#[test]
fn edns_goes_on_but_for_a_size_beyond_ours() {
    let bytes = with_edns(query("orders", A), 65_535, 0);
    let read = Query::read(&bytes).unwrap();
    let forwarded = read.to_forward(1);
    let again = Query::read(&forwarded).unwrap();
    assert_eq!(again.edns.unwrap().size, 4_096);
    assert!(again.edns.unwrap().dnssec);
    let bytes = with_edns(query("orders", A), 1_232, 0);
    let read = Query::read(&bytes).unwrap();
    assert_eq!(read.to_forward(0xabcd), bytes);
}

#[test]
fn addresses_are_found_in_names_of_arpa() {
    let ip = |name: &str| reverse(name).map(|ip| ip.to_string());
    assert_eq!(
        ip("9.0.240.240.in-addr.arpa").as_deref(),
        Some("240.240.0.9")
    );
    let v6 = format!("9.{}2.0.0.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
    assert_eq!(ip(&v6).as_deref(), Some("2001:2::9"));
    for wrong in [
        "0.240.240.in-addr.arpa",
        "1.9.0.240.240.in-addr.arpa",
        "256.0.240.240.in-addr.arpa",
        "1.2.ip6.arpa",
        "orders",
        "in-addr.arpa",
        ".ip6.arpa",
    ] {
        assert_eq!(ip(wrong), None, "{wrong}");
    }
}
