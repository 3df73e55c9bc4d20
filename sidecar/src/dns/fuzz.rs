//! Whatever comes to the DNS server: nothing panics, an answer is one to its question and fits, and what was read as a
//! query is forwarded as the same query.
//!
//! `OUTRIGGER_FUZZ_SECONDS` (default 2) makes it longer, `OUTRIGGER_SEED` repeats a run.

use std::{
    env,
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::message::{
    self, A, AAAA, ANY, Code, NoQuery, PTR, Query, Records, Reply, SRV, Srv,
    tests::{query, with_edns},
};

fn corpus() -> Vec<Vec<u8>> {
    let names = [
        "",
        "orders",
        "Orders.shop.svc.cluster.local",
        "_http._tcp.orders.shop",
        "9.0.240.240.in-addr.arpa",
        "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.1.0.0.2.ip6.arpa",
    ];
    let long = [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(61),
    ]
    .join(".");
    let mut all = Vec::new();
    for name in names.into_iter().chain([long.as_str()]) {
        for kind in [A, AAAA, SRV, PTR, ANY, 252] {
            let plain = query(name, kind);
            all.push(with_edns(plain.clone(), 1_232, 0));
            all.push(plain);
        }
    }
    all
}

/// One to eight changes of the kinds that parsers fall over.
fn mutate(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(1..=8) {
        let at = rng.usize(0..=bytes.len());
        match rng.u8(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 if at < bytes.len() => {
                bytes[at] = *rng
                    .choice([0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xff].iter())
                    .unwrap();
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 => {
                let piece = bytes[rng.usize(0..=at)..at].to_vec();
                bytes.splice(at..at, piece);
            }
            6 if bytes.len() >= 12 => bytes[rng.usize(2..12)] = rng.u8(..),
            _ if at < bytes.len() => bytes[at] = rng.u8(..),
            _ => {}
        }
        bytes.truncate(9_000);
    }
}

fn check(bytes: &[u8], rng: &mut fastrand::Rng) {
    let query = match Query::read(bytes) {
        Ok(query) => query,
        Err(NoQuery::Ignore) => return,
        Err(NoQuery::Answer(_, answer)) => {
            assert!(answer.len() == 12 && answer[..2] == bytes[..2] && answer[2] & 0x80 != 0);
            return;
        }
    };
    if let Some(name) = &query.name {
        assert!(name.len() <= 253, "{name}");
        message::reverse(name);
    }
    let forwarded = query.to_forward(0x1234);
    assert_eq!(forwarded.len(), bytes.len());
    let again = Query::read(&forwarded).expect("what is forwarded is a query");
    assert_eq!(
        (&again.name, again.kind, again.class),
        (&query.name, query.kind, query.class)
    );
    let v4: Vec<Ipv4Addr> = (0..rng.u32(0..100)).map(Ipv4Addr::from).collect();
    let v6: Vec<Ipv6Addr> = (0..rng.u128(0..100)).map(Ipv6Addr::from).collect();
    let is_service = rng.bool();
    let records = Records {
        v4: &v4,
        v6: &v6,
        srv: if is_service {
            vec![Srv { port: 80 }]
        } else {
            Vec::new()
        },
        ptr: rng.bool().then_some("orders.shop.svc.cluster.local"),
    };
    let limit = if rng.bool() {
        query.udp_limit()
    } else {
        65_535
    };
    let code = *rng
        .choice([Code::NoError, Code::ServFail, Code::NxDomain, Code::BadVers].iter())
        .unwrap();
    let reply = Reply {
        query: &query,
        code,
        records,
        ttl: 30,
        why: rng.bool().then_some((14, "why")),
    };
    let answer = reply.write(limit);
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    assert!(answer.len() <= limit.max(12 + query.question().len() + 11));
    assert!(query.is_answered_by(id, &answer));
    assert!(!query.is_answered_by(id ^ 1, &answer));
    let mut theirs = answer;
    mutate(&mut theirs, rng);
    query.is_answered_by(id, &theirs);
    let cut = message::truncated(&query, &theirs);
    assert!(message::is_truncated(&cut) && query.is_answered_by(id, &cut));
}

#[test]
fn whatever_comes_is_no_query_or_is_answered_as_one() {
    let seed = env::var("OUTRIGGER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let seconds = env::var("OUTRIGGER_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    eprintln!("OUTRIGGER_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let corpus = corpus();
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
    let mut rounds = 0u64;
    while Instant::now() < until {
        for _ in 0..1_000 {
            let mut bytes = rng.choice(corpus.iter()).unwrap().clone();
            if rounds > 0 {
                mutate(&mut bytes, &mut rng);
            }
            check(&bytes, &mut rng);
            rounds += 1;
        }
    }
    eprintln!("{rounds} messages");
}
