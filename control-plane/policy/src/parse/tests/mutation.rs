//! Documents that were damaged at random: an answer every time, and a place inside the text.

use super::EVERYTHING;
use crate::{ParseLimits, parse_bytes, random::Random, report::MAX_ERRORS};

/// What breaks YAML best.
const SHRAPNEL: [&[u8]; 24] = [
    b"\0",
    b"\t",
    b"\n",
    b"---\n",
    b"...\n",
    b"&a ",
    b"*a ",
    b"<<: ",
    b"? ",
    b"- ",
    b": ",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b"'",
    b"|\n",
    b">-\n",
    b"!!int ",
    b"%",
    b"#",
    b"\xff",
    "\u{2028}é\u{feff}".as_bytes(),
];

fn damage(random: &mut Random) -> Vec<u8> {
    let mut bytes = EVERYTHING.as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => {
                bytes.remove(at);
            }
            1 => {
                let piece = SHRAPNEL[random.below(SHRAPNEL.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            2 => {
                let end = (at + random.below(200)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            3 => {
                let end = (at + random.below(60)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => bytes[at] = random.next().to_le_bytes()[0],
        }
    }
    bytes
}

#[test]
fn damaged_documents_get_an_answer() {
    for seed in 0..1_000 {
        let bytes = damage(&mut Random(seed));
        let answer = std::panic::catch_unwind(|| {
            parse_bytes("f", &bytes, "default", &ParseLimits::default())
        });
        let Ok(answer) = answer else {
            panic!(
                "seed {seed} panics on {:?}",
                String::from_utf8_lossy(&bytes)
            );
        };
        let Err(errors) = answer else {
            continue;
        };
        assert!((1..=MAX_ERRORS).contains(&errors.len()), "seed {seed}");
        let lines = 1 + bytes
            .iter()
            .filter(|&&byte| byte == b'\n' || byte == b'\r')
            .count();
        for error in &errors {
            let line = usize::try_from(error.position.line).expect("64 bits");
            assert!((1..=lines + 1).contains(&line), "seed {seed}: {error}");
            assert!(error.position.column >= 1, "seed {seed}: {error}");
        }
        assert!(
            errors.is_sorted_by_key(|error| &error.position),
            "seed {seed}"
        );
    }
}
