//! Tokens that somebody has tampered with, made up, or found. None may get in.

use super::*;

/// A token for each attack, and what it is called.
fn attacks() -> Vec<(&'static str, String)> {
    let ring = keyring();
    let es = r#"{"alg":"ES256","kid":"p256"}"#;
    let rs = r#"{"alg":"RS256","kid":"rsa"}"#;
    let (good, rsa_good) = (good(), token(By::Rs256, rs, GOOD));
    let parts: Vec<&str> = good.split('.').collect();
    let [head, payload, signature] = parts[..] else {
        panic!("three parts")
    };
    let n = ring.rsa.public_key();
    let hmac_with = |secret: &[u8], header: &str| {
        let signed = format!("{}.{}", encoded(header), encoded(GOOD));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", encoded(tag.as_ref()))
    };
    let with_payload = |payload: &str| token(By::Es256, es, payload);
    let with_header = |header: &str| token(By::Es256, header, GOOD);
    let claim = |name: &str, value: &str| {
        let (start, exp) = (
            r#"{"iss":"https://issuer.example.com""#,
            r#","exp":1800000600"#,
        );
        let exp = if name == "exp" { "" } else { exp };
        with_payload(&format!("{start}{exp},\"{name}\":{value}}}"))
    };
    let flipped = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] = if bytes[middle] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    // s and n - s are both right to ECDSA; with r and s exchanged, or in DER, they are not.
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let exchanged = encoded([&raw[32..], &raw[..32]].concat());
    let padded = encoded([&[0][..], &raw[..32], &[0], &raw[32..]].concat());
    let mut more_bits = signature.to_owned();
    let last = more_bits.pop().unwrap();
    // 64 bytes leave two bits of the last letter's, which have to be zero.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).unwrap();
    more_bits.push(alphabet.as_bytes()[place + 1].into());
    let bomb = format!(
        "{{\"iss\":\"{ISSUER}\",\"a\":{}{}}}",
        "[".repeat(5_000),
        "]".repeat(5_000)
    );
    let wide = format!("{{\"iss\":\"{ISSUER}\",\"a\":\"{}\"}}", "x".repeat(20_000));
    vec![
        (
            "no algorithm, no signature",
            format!("{}.{payload}.", encoded(r#"{"alg":"none"}"#)),
        ),
        (
            "alg none with a signature",
            format!("{}.{payload}.{signature}", encoded(r#"{"alg":"none"}"#)),
        ),
        ("alg None", with_header(r#"{"alg":"None"}"#)),
        ("alg NONE", with_header(r#"{"alg":"NONE"}"#)),
        ("alg nOnE", with_header(r#"{"alg":"nOnE"}"#)),
        ("alg empty", with_header(r#"{"alg":""}"#)),
        ("alg missing", with_header(r#"{"kid":"p256"}"#)),
        ("alg null", with_header(r#"{"alg":null}"#)),
        ("alg number", with_header(r#"{"alg":256}"#)),
        ("alg list", with_header(r#"{"alg":["ES256"]}"#)),
        (
            "alg in another case",
            with_header(r#"{"alg":"es256","kid":"p256"}"#),
        ),
        (
            "alg with a space",
            with_header(r#"{"alg":"ES256 ","kid":"p256"}"#),
        ),
        (
            "alg of another curve",
            with_header(r#"{"alg":"ES384","kid":"p256"}"#),
        ),
        (
            "alg of another curve without kid",
            with_header(r#"{"alg":"ES384"}"#),
        ),
        (
            "alg ES256K",
            with_header(r#"{"alg":"ES256K","kid":"p256"}"#),
        ),
        (
            "alg of another kind",
            with_header(r#"{"alg":"RS256","kid":"p256"}"#),
        ),
        (
            "RS256 as PS256",
            token(By::Rs256, r#"{"alg":"PS256","kid":"rsa"}"#, GOOD),
        ),
        ("PS256 as RS256", token(By::Ps256, rs, GOOD)),
        ("RS512 as RS256", token(By::Rs512, rs, GOOD)),
        (
            "HS256 with the public key in DER",
            hmac_with(n.as_ref(), r#"{"alg":"HS256","kid":"rsa"}"#),
        ),
        (
            "HS256 with the key set's text",
            hmac_with(jwks().as_bytes(), r#"{"alg":"HS256"}"#),
        ),
        (
            "HS256 with nothing",
            hmac_with(b"", r#"{"alg":"HS256","kid":"rsa"}"#),
        ),
        ("HMAC said to be RS256", hmac_with(n.as_ref(), rs)),
        ("HMAC said to be ES256", hmac_with(b"x", es)),
        (
            "alg twice",
            with_header(r#"{"alg":"none","alg":"ES256","kid":"p256"}"#),
        ),
        ("a key of somebody else", token(By::OtherRsa, rs, GOOD)),
        (
            "a key of somebody else without kid",
            token(By::OtherRsa, r#"{"alg":"RS256"}"#, GOOD),
        ),
        (
            "its own key in jwk",
            token(
                By::OtherRsa,
                &format!(
                    r#"{{"alg":"RS256","jwk":{}}}"#,
                    rsa_jwk(&ring.other_rsa, "")
                ),
                GOOD,
            ),
        ),
        (
            "its own key in jku",
            token(
                By::OtherRsa,
                r#"{"alg":"RS256","jku":"https://evil.example.com/jwks"}"#,
                GOOD,
            ),
        ),
        (
            "its own key in x5u",
            token(
                By::OtherRsa,
                r#"{"alg":"RS256","x5u":"https://evil.example.com/c"}"#,
                GOOD,
            ),
        ),
        (
            "another kid",
            token(By::Es256, r#"{"alg":"ES256","kid":"p384"}"#, GOOD),
        ),
        (
            "an unknown kid",
            token(By::Es256, r#"{"alg":"ES256","kid":"new"}"#, GOOD),
        ),
        (
            "a kid that is a path",
            token(By::Es256, r#"{"alg":"ES256","kid":"../../dev/null"}"#, GOOD),
        ),
        (
            "a kid that is a query",
            token(By::Es256, r#"{"alg":"ES256","kid":"' OR 1=1 --"}"#, GOOD),
        ),
        (
            "a kid that is a list",
            token(By::Es256, r#"{"alg":"ES256","kid":["p256"]}"#, GOOD),
        ),
        (
            "a kid that is a number",
            token(By::Es256, r#"{"alg":"ES256","kid":1}"#, GOOD),
        ),
        (
            "something critical",
            token(
                By::Es256,
                r#"{"alg":"ES256","kid":"p256","crit":["exp"],"exp":1}"#,
                GOOD,
            ),
        ),
        (
            "nothing critical",
            token(By::Es256, r#"{"alg":"ES256","kid":"p256","crit":[]}"#, GOOD),
        ),
        (
            "a payload that is not encoded",
            token(
                By::Es256,
                r#"{"alg":"ES256","kid":"p256","b64":false}"#,
                GOOD,
            ),
        ),
        (
            "compressed",
            token(
                By::Es256,
                r#"{"alg":"ES256","kid":"p256","zip":"DEF"}"#,
                GOOD,
            ),
        ),
        (
            "encrypted",
            token(
                By::Es256,
                r#"{"alg":"ES256","kid":"p256","enc":"A128GCM"}"#,
                GOOD,
            ),
        ),
        ("ECDSA in DER", token(By::Es256Der, es, GOOD)),
        ("ECDSA exchanged", format!("{head}.{payload}.{exchanged}")),
        (
            "ECDSA with zeros before",
            format!("{head}.{payload}.{padded}"),
        ),
        (
            "ECDSA of zeros",
            format!("{head}.{payload}.{}", encoded([0; 64])),
        ),
        (
            "ECDSA of ones",
            format!("{head}.{payload}.{}", encoded([1; 64])),
        ),
        (
            "ECDSA of the greatest numbers",
            format!("{head}.{payload}.{}", encoded([255; 64])),
        ),
        (
            "ECDSA cut short",
            format!("{head}.{payload}.{}", encoded(&raw[..63])),
        ),
        (
            "ECDSA with more behind",
            format!("{head}.{payload}.{}", encoded([&raw[..], &[0]].concat())),
        ),
        (
            "RSA of zeros",
            format!(
                "{}.{}",
                rsa_good.rsplit_once('.').unwrap().0,
                encoded([0; 256])
            ),
        ),
        (
            "RSA of one",
            format!(
                "{}.{}",
                rsa_good.rsplit_once('.').unwrap().0,
                encoded([&[0; 255][..], &[1]].concat())
            ),
        ),
        (
            "RSA cut short",
            format!(
                "{}.{}",
                rsa_good.rsplit_once('.').unwrap().0,
                encoded([7; 255])
            ),
        ),
        ("no signature", format!("{head}.{payload}.")),
        ("no signature, no dot", format!("{head}.{payload}")),
        (
            "another payload",
            format!(
                "{head}.{}.{signature}",
                encoded(GOOD.replace("alice", "admin"))
            ),
        ),
        (
            "another header",
            format!("{}.{payload}.{signature}", encoded(r#"{"alg":"ES256"}"#)),
        ),
        (
            "a flipped payload",
            format!("{head}.{}.{signature}", flipped(payload)),
        ),
        (
            "a flipped signature",
            format!("{head}.{payload}.{}", flipped(signature)),
        ),
        (
            "spare bits of the signature",
            format!("{head}.{payload}.{more_bits}"),
        ),
        ("padding", format!("{head}.{payload}.{signature}==")),
        (
            "standard base64",
            format!(
                "{head}.{payload}.{}+/",
                signature.split_at(signature.len() - 2).0
            ),
        ),
        ("four parts", format!("{good}.x")),
        ("five parts, as encrypted ones", format!("{head}.a.b.c.d")),
        ("one part", head.to_owned()),
        ("dots alone", "..".to_owned()),
        ("a dot", ".".to_owned()),
        ("nothing before", format!(".{payload}.{signature}")),
        ("nothing between", format!("{head}..{signature}")),
        (
            "white space within",
            format!("{head}. {payload}.{signature}"),
        ),
        ("white space at the end", format!("{good} x")),
        (
            "a line break within",
            format!(
                "{head}.{payload}.{}\t{}",
                signature.split_at(10).0,
                signature.split_at(10).1
            ),
        ),
        (
            "letters beyond ASCII",
            format!("{head}.{payload}.\u{e9}{signature}"),
        ),
        ("two tokens", format!("{good}, {good}")),
        ("a token in quotes", format!("{good}\"")),
        ("exp is past", claim("exp", "1799999939")),
        ("exp is zero", claim("exp", "0")),
        ("exp is negative", claim("exp", "-1")),
        ("exp is a text", claim("exp", "\"1800000600\"")),
        ("exp is null", claim("exp", "null")),
        ("exp is true", claim("exp", "true")),
        ("exp is huge", claim("exp", "1e300")),
        ("exp is infinite", claim("exp", "1e400")),
        (
            "exp is beyond 64 bits",
            claim("exp", "99999999999999999999999"),
        ),
        ("exp is a list", claim("exp", "[1800000600]")),
        (
            "exp twice",
            with_payload(r#"{"iss":"https://issuer.example.com","exp":1,"exp":1800000600}"#),
        ),
        (
            "exp twice, once escaped",
            with_payload(r#"{"iss":"https://issuer.example.com","exp":1,"\u0065xp":1800000600}"#),
        ),
        ("nbf is to come", claim("nbf", "1800000061")),
        ("nbf is a text", claim("nbf", "\"0\"")),
        ("nbf is huge", claim("nbf", "1e300")),
        ("iat is a text", claim("iat", "\"now\"")),
        ("iat is negative", claim("iat", "-5")),
        ("aud is a number", claim("aud", "7")),
        ("aud is a list of numbers", claim("aud", "[\"shop\",7]")),
        ("sub is an object", claim("sub", "{\"a\":1}")),
        ("jti is a number", claim("jti", "1")),
        (
            "another issuer",
            with_payload(r#"{"iss":"https://issuer.example.com/","exp":1800000600}"#),
        ),
        (
            "an issuer in another case",
            with_payload(r#"{"iss":"https://ISSUER.example.com","exp":1800000600}"#),
        ),
        ("no issuer", with_payload(r#"{"exp":1800000600}"#)),
        (
            "an issuer that is a list",
            with_payload(r#"{"iss":["https://issuer.example.com"],"exp":1800000600}"#),
        ),
        (
            "an issuer twice",
            with_payload(
                r#"{"iss":"https://evil.example.com","iss":"https://issuer.example.com"}"#,
            ),
        ),
        (
            "an issuer with a NUL",
            with_payload("{\"iss\":\"https://issuer.example.com\\u0000\",\"exp\":1800000600}"),
        ),
        ("a payload that is no object", with_payload("[]")),
        ("a payload that is a text", with_payload("\"alice\"")),
        (
            "an empty payload",
            format!("{head}.{}.{signature}", encoded("")),
        ),
        (
            "JSON with more behind",
            with_payload(&format!("{GOOD}{{}}")),
        ),
        (
            "JSON with a comment",
            with_payload(&GOOD.replacen('{', "{/**/", 1)),
        ),
        (
            "JSON that is not UTF-8",
            token_of_bytes(
                es,
                &[b"{\"iss\":\"".as_slice(), &[0xff, 0xfe], b"\"}"].concat(),
            ),
        ),
        (
            "JSON with a byte order mark",
            with_payload(&format!("\u{feff}{GOOD}")),
        ),
        ("a bomb of lists", with_payload(&bomb)),
        ("a token longer than any", with_payload(&wide)),
    ]
}

fn token_of_bytes(header: &str, payload: &[u8]) -> String {
    let signed = format!("{}.{}", encoded(header), encoded(payload));
    let signature = encoded(By::Es256.sign(&signed));
    format!("{signed}.{signature}")
}

#[test]
fn no_token_gets_in_that_its_issuer_has_not_made_for_now() {
    let filter = optional(provider());
    let all = attacks();
    assert!(all.len() >= 100, "{}", all.len());
    for (name, token) in all {
        let ask = Ask::bearing(&token);
        assert!(ask.fault(&filter).is_some(), "{name}: got in");
        // And where it must be there.
        let needed = JwtAuthn::new(
            filter.providers.clone(),
            vec![(everything(), Some(Requirement::Provider(0, None)))],
        );
        assert!(ask.fault(&needed).is_some(), "{name}: got in");
    }
}

#[test]
fn a_token_of_every_algorithm_gets_in() {
    let filter = optional(provider());
    for (by, header) in [
        (By::Rs256, r#"{"alg":"RS256","kid":"rsa"}"#),
        (By::Rs256, r#"{"alg":"RS256"}"#),
        (By::Rs512, r#"{"alg":"RS512","kid":"rsa"}"#),
        (By::Ps256, r#"{"alg":"PS256","kid":"rsa","typ":"JWT"}"#),
        (By::Es256, r#"{"alg":"ES256","kid":"p256"}"#),
        (By::Es256, r#"{"alg":"ES256"}"#),
        (By::Es384, r#"{"alg":"ES384","kid":"p384"}"#),
        (By::Ed, r#"{"alg":"EdDSA","kid":"ed"}"#),
    ] {
        let ask = Ask::bearing(&token(by, header, GOOD));
        assert_eq!(ask.fault(&filter), None, "{by:?} {header}");
        assert_eq!(ask.good(&filter).len(), 1, "{by:?} {header}");
    }
}

#[test]
fn a_key_that_says_its_algorithm_is_used_for_no_other() {
    let ring = keyring();
    let key = rsa_jwk(&ring.rsa, r#","alg":"RS256","kid":"rsa""#);
    let keys = KeySet::parse(format!("{{\"keys\":[{key}]}}").as_bytes()).unwrap();
    let filter = optional(Provider::new(
        "p",
        Some(ISSUER),
        Keys::Local(Arc::new(keys)),
    ));
    let with = |by, alg| {
        let header = format!(r#"{{"alg":"{alg}","kid":"rsa"}}"#);
        Ask::bearing(&token(by, &header, GOOD)).fault(&filter)
    };
    assert_eq!(with(By::Rs256, "RS256"), None);
    assert_eq!(with(By::Rs512, "RS512"), Some(Fault::NoKey));
    assert_eq!(with(By::Ps256, "PS256"), Some(Fault::NoKey));
}

#[test]
fn keys_that_are_no_public_keys_for_signatures_are_never_used() {
    let ring = keyring();
    let (x, y) = (encoded([1; 32]), encoded([2; 32]));
    let good = ed_jwk(&ring.ed, "");
    for (key, why) in [
        (r#"{"kty":"oct","k":"AAAA"}"#.to_owned(), "symmetric"),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.to_owned(), "bits"),
        (rsa_jwk(&ring.rsa, r#","use":"enc""#), "not for signatures"),
        (
            rsa_jwk(&ring.rsa, r#","key_ops":["encrypt"]"#),
            "not for verification",
        ),
        (
            rsa_jwk(&ring.rsa, r#","alg":"RSA-OAEP""#),
            "does not go with",
        ),
        (rsa_jwk(&ring.rsa, r#","d":"AQAB""#), "private key"),
        (
            rsa_jwk(&ring.rsa, "").replace("AQAB", "AQ"),
            "public exponent",
        ),
        (
            format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#),
            "no valid public key",
        ),
        (
            format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}"}}"#),
            "y is missing",
        ),
        (
            format!(r#"{{"kty":"EC","crv":"secp256k1","x":"{x}","y":"{y}"}}"#),
            "not supported",
        ),
        (
            r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#.to_owned(),
            "not supported",
        ),
        (
            r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#.to_owned(),
            "no valid public key",
        ),
        ("7".to_owned(), "not an object"),
        ("{}".to_owned(), "kty is missing"),
    ] {
        let alone = KeySet::parse(format!("{{\"keys\":[{key}]}}").as_bytes());
        let error = alone.unwrap_err().to_string();
        assert!(error.contains(why), "{key}: {error}");
        let beside = KeySet::parse(format!("{{\"keys\":[{key},{good}]}}").as_bytes()).unwrap();
        assert_eq!((beside.len(), beside.unusable().len()), (1, 1), "{key}");
    }
    for (set, error) in [
        ("", KeySetError::Json(String::new())),
        ("{}", KeySetError::NoKeys),
        (r#"{"keys":{}}"#, KeySetError::NoKeys),
        (r#"{"keys":[]}"#, KeySetError::NoneUsable(Vec::new())),
        (
            &format!(r#"{{"keys":[{}]}}"#, vec!["{}"; 101].join(",")),
            KeySetError::TooMany(101),
        ),
        (
            &" ".repeat(MAX_KEY_SET + 1),
            KeySetError::TooLarge(MAX_KEY_SET + 1),
        ),
    ] {
        let found = KeySet::parse(set.as_bytes()).unwrap_err();
        let same = std::mem::discriminant(&found) == std::mem::discriminant(&error);
        assert!(same, "{found:?} {error:?}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "to run the same again")]
fn whatever_a_token_is_made_of_is_refused_and_nothing_falls_over() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let filter = optional(provider());
    let seeds: Vec<String> = attacks().into_iter().map(|(_, token)| token).collect();
    let originals = [good(), token(By::Rs256, r#"{"alg":"RS256"}"#, GOOD)];
    for _ in 0..4_000 {
        let mut bytes = match rng.u8(..) {
            0..100 => originals[rng.usize(..2)].clone().into_bytes(),
            100..220 => seeds[rng.usize(..seeds.len())].clone().into_bytes(),
            _ => (0..rng.usize(..200)).map(|_| rng.u8(..)).collect(),
        };
        bytes.truncate(3_000);
        for _ in 0..rng.usize(1..6) {
            if bytes.is_empty() {
                break;
            }
            let at = rng.usize(..bytes.len());
            match rng.u8(..5) {
                0 => bytes[at] = rng.u8(..),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, rng.choice(*b"._-Aa=%\" ").unwrap()),
                3 => bytes.truncate(at),
                _ => {
                    let other = rng.usize(..bytes.len());
                    bytes.swap(at, other);
                }
            }
        }
        let is_original = originals.iter().any(|good| good.as_bytes() == bytes);
        let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", &bytes[..]].concat()) else {
            continue;
        };
        // Envoy's reading: what cannot begin a token is passed over, and white space at the end is the header's.
        let value_text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut ask = Ask::at("/a");
        ask.headers.insert("authorization", value);
        let is_same = originals
            .iter()
            .any(|good| value_text.trim_end().ends_with(good.as_str()));
        if is_original || is_same {
            continue;
        }
        assert!(ask.fault(&filter).is_some(), "seed {seed}: {value_text}");
    }
    for _ in 0..2_000 {
        let mut set = jwks().into_bytes();
        for _ in 0..rng.usize(1..8) {
            let at = rng.usize(..set.len());
            match rng.u8(..3) {
                0 => set[at] = rng.u8(..),
                1 => drop(set.remove(at)),
                _ => set.insert(at, rng.u8(..)),
            }
        }
        // Either way: it ends.
        drop(KeySet::parse(&set));
    }
}
