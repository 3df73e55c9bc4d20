//! Requests with tokens where they should be, and elsewhere.

use super::*;
use crate::{
    Caller, ClaimMatch, Condition, Policy, RbacAction, Rules, StringMatch, Subject, ValueMatch,
};

#[test]
fn a_request_without_a_token_goes_on_and_has_no_principal() {
    let filter = optional(provider());
    for ask in [
        Ask::at("/a"),
        Ask::at("/a?x=access_token"),
        Ask::at("/a").with("authorization", "Basic YTpi"),
        Ask::at("/a").with("authorization", "Bearer"),
        Ask::at("/a").with("cookie", "access_token=x"),
        Ask::at("/a").with("x-authorization", "Bearer x"),
    ] {
        assert!(ask.good(&filter).is_empty());
    }
    let needed = JwtAuthn::new(
        filter.providers,
        vec![(everything(), Some(Requirement::Provider(0, None)))],
    );
    assert_eq!(Ask::at("/a").fault(&needed), Some(Fault::Missing));
}

#[test]
fn a_token_is_found_where_its_provider_looks_and_nowhere_else() {
    let token = good();
    let default = optional(provider());
    let mut elsewhere = provider();
    elsewhere.locations = vec![
        Location::Header(HeaderName::from_static("x-token"), "".into()),
        Location::Header(HeaderName::from_static("x-jwt"), "jwt=".into()),
        Location::Query("t".into()),
        Location::Cookie("session".into()),
    ];
    let elsewhere = optional(elsewhere);
    for (ask, in_default, in_other) in [
        (Ask::bearing(&token), 1, 0),
        (Ask::at(&format!("/a?b=1&access_token={token}")), 1, 0),
        (Ask::at(&format!("/a?%61ccess_token={token}")), 1, 0),
        (Ask::at("/a").with("x-token", &token), 0, 1),
        (Ask::at("/a").with("x-jwt", &format!("jwt={token}")), 0, 1),
        (Ask::at(&format!("/a?t={token}")), 0, 1),
        (
            Ask::at("/a").with("cookie", &format!("a=b; session={token}")),
            0,
            1,
        ),
        (
            Ask::at("/a").with("cookie", &format!("session=\"{token}\"")),
            0,
            1,
        ),
        (
            Ask::at("/a").with("cookie", &format!("xsession={token}")),
            0,
            0,
        ),
    ] {
        assert_eq!(ask.good(&default).len(), in_default, "{}", ask.path);
        assert_eq!(ask.good(&elsewhere).len(), in_other, "{}", ask.path);
    }
}

#[test]
fn one_bad_token_is_enough_wherever_it_is() {
    let filter = optional(provider());
    let (good, bad) = (good(), good().replace('.', "x."));
    for ask in [
        Ask::at(&format!("/a?access_token={bad}")).with("authorization", &format!("Bearer {good}")),
        Ask::at(&format!("/a?access_token={good}")).with("authorization", &format!("Bearer {bad}")),
        Ask::bearing(&good).with("authorization", &format!("Bearer {bad}")),
        Ask::bearing(&bad).with("authorization", &format!("Bearer {good}")),
        Ask::at(&format!("/a?access_token={good}&access_token={bad}")),
        Ask::at(&format!("/a?access_token={good}&%61ccess_token={bad}")),
        Ask::at("/a").with("authorization", &format!("bearer {bad}")),
        Ask::at("/a").with("authorization", &format!("BEARER {bad}")),
        Ask::at("/a?access_token="),
        Ask::at("/a?access_token"),
    ] {
        assert!(
            ask.fault(&filter).is_some(),
            "{} {:?}",
            ask.path,
            ask.headers
        );
    }
    let many: String = (0..9).map(|_| format!("&access_token={good}")).collect();
    let ask = Ask::at(&format!("/a?{}", many.split_at(1).1));
    assert_eq!(ask.fault(&filter), Some(Fault::TooMany));
}

#[test]
fn time_has_the_skew_of_its_provider() {
    let filter = optional(provider());
    let at = |payload: &str, now| {
        let header = r#"{"alg":"EdDSA","kid":"ed"}"#;
        let text = format!(r#"{{"iss":"{ISSUER}"{payload}}}"#);
        let ask = Ask {
            now,
            ..Ask::bearing(&token(By::Ed, header, &text))
        };
        ask.fault(&filter)
    };
    for (payload, now, fault) in [
        (r#","exp":1000"#, 1060, None),
        (r#","exp":1000"#, 1061, Some(Fault::Expired)),
        (r#","exp":1000.9"#, 1060, None),
        (r#","exp":1e3"#, 1061, Some(Fault::Expired)),
        (r#","nbf":1000"#, 940, None),
        (r#","nbf":1000"#, 939, Some(Fault::NotYetValid)),
        ("", 0, None),
        ("", u64::MAX, None),
        (r#","iat":9000000000"#, 1000, None),
    ] {
        assert_eq!(at(payload, now), fault, "{payload} {now}");
    }
    let mut strict = provider();
    strict.clock_skew = Duration::from_secs(1);
    strict.require_expiration = true;
    strict.max_lifetime = Some(Duration::from_secs(700));
    strict.subjects = Some(StringMatch::Prefix("ali".to_owned(), false));
    let strict = optional(strict);
    assert_eq!(Ask::bearing(&good()).fault(&strict), None);
    let header = r#"{"alg":"EdDSA","kid":"ed"}"#;
    for payload in [
        r#""sub":"alice""#,
        r#""sub":"alice","exp":1800000701"#,
        r#""sub":"bob","exp":1800000600"#,
        r#""exp":1800000600"#,
    ] {
        let text = format!(r#"{{"iss":"{ISSUER}",{payload}}}"#);
        let fault = Ask::bearing(&token(By::Ed, header, &text)).fault(&strict);
        assert!(
            matches!(fault, Some(Fault::Claims(_))),
            "{payload}: {fault:?}"
        );
    }
}

#[test]
fn a_token_is_for_one_of_the_audiences() {
    let of = |audiences: &[&str]| {
        let mut provider = provider();
        provider.audiences = audiences.iter().map(|one| (*one).into()).collect();
        optional(provider)
    };
    for (audiences, fault) in [
        (&[][..], None),
        (&["shop"], None),
        (&["other", "shop"], None),
        (&["https://shop/"], None),
        (&["other"], Some(Fault::Audience)),
        (&["Shop"], Some(Fault::Audience)),
        (&["sho", "shopp", ""], Some(Fault::Audience)),
    ] {
        assert_eq!(
            Ask::bearing(&good()).fault(&of(audiences)),
            fault,
            "{audiences:?}"
        );
    }
}

#[test]
fn good_tokens_leave_their_claims_and_go() {
    let mut one = provider();
    one.payload_header = Some((HeaderName::from_static("x-payload"), false));
    one.claim_headers = [
        ("x-sub", "sub"),
        ("x-m", "n.m"),
        ("x-exp", "exp"),
        ("x-groups", "groups"),
        ("x-none", "none"),
    ]
    .map(|(header, claim)| (HeaderName::from_static(header), claim.into()))
    .into();
    let filter = optional(one);
    let mut ask = Ask::at(&format!("/a?b=1&access_token={}", good()))
        .with("authorization", &format!("Bearer {}", good()))
        .with("x-sub", "admin")
        .with("x_sub", "admin")
        .with("X-Payload", "forged")
        .with("x-none", "forged");
    filter.sanitize(&mut ask.headers);
    let good = ask.good(&filter);
    assert_eq!(good.len(), 2);
    let path = JwtAuthn::apply(&good[..1], &mut ask.headers.clone(), &ask.path);
    assert_eq!(path, None, "only the header's");
    let path = JwtAuthn::apply(&good, &mut ask.headers, &ask.path);
    assert_eq!(path.as_deref(), Some("/a?b=1"));
    let all = |name: &str| {
        ask.headers
            .get_all(name)
            .iter()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert!(all("authorization").is_empty());
    assert_eq!(all("x-sub"), ["alice", "alice"]);
    assert_eq!(all("x-m"), ["7", "7"]);
    assert_eq!(all("x-exp"), ["1800000600", "1800000600"]);
    assert_eq!(all("x-payload"), [encoded(GOOD), encoded(GOOD)]);
    for name in ["x_sub", "x-groups", "x-none"] {
        assert!(all(name).is_empty(), "{name}");
    }
}

#[test]
fn a_forwarded_token_stays() {
    let mut provider = provider();
    provider.forward = true;
    let filter = optional(provider);
    let mut ask = Ask::bearing(&good());
    let good = ask.good(&filter);
    assert_eq!(JwtAuthn::apply(&good, &mut ask.headers, "/a"), None);
    assert!(ask.headers.contains_key("authorization"));
}

#[test]
fn a_browsers_question_in_advance_needs_no_token() {
    let mut filter = JwtAuthn::new(
        vec![Arc::new(provider())],
        vec![(everything(), Some(Requirement::Provider(0, None)))],
    );
    let ask = || Ask {
        method: Method::OPTIONS,
        ..Ask::at("/a").with("origin", "https://x")
    };
    let asks = || ask().with("access-control-request-method", "PUT");
    assert!(asks().fault(&filter).is_some());
    filter.bypass_cors_preflight = true;
    assert_eq!(asks().fault(&filter), None);
    assert!(ask().fault(&filter).is_some());
}

/// Two issuers with one key each.
fn two(places: [Vec<Location>; 2]) -> Vec<Arc<Provider>> {
    let ring = keyring();
    let keys = [ec_jwk(&ring.p256, "P-256", ""), ed_jwk(&ring.ed, "")];
    let all = ["a", "b"].into_iter().zip(keys).zip(places);
    all.map(|((issuer, key), locations)| {
        let set = KeySet::parse(format!("{{\"keys\":[{key}]}}").as_bytes()).unwrap();
        let mut provider = Provider::new(issuer, Some(issuer), Keys::Local(Arc::new(set)));
        provider.locations = locations;
        provider.metadata = Some("payload".into());
        Arc::new(provider)
    })
    .collect()
}

fn of(issuer: &str) -> String {
    let payload = format!(r#"{{"iss":"{issuer}","sub":"s"}}"#);
    match issuer {
        "a" => token(By::Es256, r#"{"alg":"ES256"}"#, &payload),
        _ => token(By::Ed, r#"{"alg":"EdDSA"}"#, &payload),
    }
}

#[test]
fn of_several_issuers_in_one_place_one_is_enough() {
    let any = Requirement::Any(vec![
        Requirement::Provider(0, None),
        Requirement::Provider(1, None),
        Requirement::AllowMissing(vec![0, 1]),
    ]);
    let filter = JwtAuthn::new(two([vec![], vec![]]), vec![(everything(), Some(any))]);
    assert_eq!(Ask::at("/a").fault(&filter), None);
    for issuer in ["a", "b"] {
        let good = Ask::bearing(&of(issuer)).good(&filter);
        assert_eq!(good.len(), 1);
        assert_eq!(&*good[0].provider.name, issuer);
    }
    assert_eq!(Ask::bearing(&of("c")).fault(&filter), Some(Fault::Issuer));
    // Issuer a, made with b's key.
    let header = r#"{"alg":"EdDSA"}"#;
    let forged = token(By::Ed, header, r#"{"iss":"a","sub":"s"}"#);
    let fault = Ask::bearing(&forged).fault(&filter);
    assert_eq!(fault, Some(Fault::NoKey), "what says most");
    // One of each, in two headers.
    let both = Ask::bearing(&of("a")).with("authorization", &format!("Bearer {}", of("b")));
    assert_eq!(both.good(&filter).len(), 2);
}

#[test]
fn issuers_in_places_of_their_own_are_each_looked_at() {
    let place =
        |name: &'static str| vec![Location::Header(HeaderName::from_static(name), "".into())];
    let each = |at: usize| {
        Requirement::Any(vec![
            Requirement::Provider(at, None),
            Requirement::AllowMissing(vec![at]),
        ])
    };
    let all = Requirement::All(vec![each(0), each(1)]);
    let providers = two([place("x-a"), place("x-b")]);
    let filter = JwtAuthn::new(providers.clone(), vec![(everything(), Some(all))]);
    let (a, b) = (of("a"), of("b"));
    for (ask, count) in [
        (Ask::at("/"), Some(0)),
        (Ask::at("/").with("x-a", &a), Some(1)),
        (Ask::at("/").with("x-b", &b), Some(1)),
        (Ask::at("/").with("x-a", &a).with("x-b", &b), Some(2)),
        (Ask::at("/").with("x-a", &b), None),
        (Ask::at("/").with("x-a", &a).with("x-b", &a), None),
        (Ask::at("/").with("x-a", &a).with("x-b", "bad"), None),
    ] {
        let found = ask.of(&filter);
        let found = match found {
            Found::Passed { good, .. } => Some(good.len()),
            _ => None,
        };
        assert_eq!(found, count, "{:?}", ask.headers);
    }
    let needed = Requirement::All(vec![
        Requirement::Provider(0, None),
        Requirement::Provider(1, Some(vec!["x".into()])),
    ]);
    let filter = JwtAuthn::new(providers, vec![(everything(), Some(needed))]);
    let ask = Ask::at("/").with("x-a", &a).with("x-b", &b);
    assert_eq!(ask.fault(&filter), Some(Fault::Audience));
}

#[test]
fn what_is_let_through_whatever_it_has_says_what_it_lacks() {
    let any = Requirement::Any(vec![
        Requirement::Provider(0, None),
        Requirement::AllowMissingOrFailed(vec![0]),
    ]);
    let filter = JwtAuthn::new(vec![Arc::new(provider())], vec![(everything(), Some(any))]);
    let spared = |ask: Ask| match ask.of(&filter) {
        Found::Passed { good, spared } => (good.len(), spared),
        other => panic!("{other:?}"),
    };
    assert_eq!(spared(Ask::at("/")), (0, None));
    assert_eq!(spared(Ask::bearing(&good())), (1, None));
    let bad = spared(Ask::bearing("a.b.c"));
    assert!(matches!(bad, (0, Some(Fault::Malformed(_)))), "{bad:?}");
}

#[test]
fn keys_that_are_not_here_are_named_once() {
    let name = RemoteName {
        uri: "http://idp/keys".into(),
        cluster: "idp".into(),
        timeout: Duration::from_secs(1),
        cache_duration: Duration::from_secs(1),
        retry_after: Duration::from_secs(1),
    };
    let remote = Arc::new(RemoteKeys::new(name));
    let filter = optional(Provider::new(
        "p",
        Some(ISSUER),
        Keys::Remote(Arc::clone(&remote)),
    ));
    let mut caches = TokenCaches::default();
    let tried = [Arc::clone(&remote)];
    let ask = Ask::bearing(&good());
    let mut look = |ask: &Ask, tried: &[_]| match ask.again(&filter, &mut caches, tried) {
        Found::Passed { good, .. } => Ok(good.len()),
        Found::Refused(refusal) => Err(Some(refusal.fault)),
        Found::Wants(_) => Err(None),
    };
    assert_eq!(look(&ask, &[]), Err(None));
    assert_eq!(look(&ask, &tried), Err(Some(Fault::KeysAway)));
    // Who could not get in whatever the keys are does not have them fetched.
    assert_eq!(look(&Ask::bearing(&of("c")), &[]), Err(Some(Fault::Issuer)));
    assert_eq!(look(&Ask::at("/"), &[]), Ok(0));
    remote.current.store(Some(key_set()));
    assert_eq!(look(&ask, &[]), Ok(1));
    let unknown = Ask::bearing(&token(By::Es256, r#"{"alg":"ES256","kid":"new"}"#, GOOD));
    assert_eq!(
        look(&unknown, &[]),
        Err(None),
        "they may have been replaced"
    );
    assert_eq!(look(&unknown, &tried), Err(Some(Fault::NoKey)));
    let forged = Ask::bearing(&token(By::OtherRsa, r#"{"alg":"RS256","kid":"rsa"}"#, GOOD));
    assert_eq!(
        look(&forged, &[]),
        Err(Some(Fault::Signature)),
        "of a known key"
    );
}

#[test]
fn a_remembered_token_is_looked_at_for_time_audience_and_keys() {
    let mut provider = provider();
    provider.cache_size = 10;
    let filter = optional(provider);
    let mut caches = TokenCaches::default();
    let mut look = |ask: &Ask| matches!(ask.again(&filter, &mut caches, &[]), Found::Passed { .. });
    let ask = Ask::bearing(&good());
    assert!(look(&ask) && look(&ask));
    let later = Ask {
        now: NOW + 661,
        ..Ask::bearing(&good())
    };
    assert!(!look(&later));
    assert_eq!(caches.len(), 1);
    drop(filter);
    caches.sweep();
    assert!(caches.is_empty(), "nobody has the provider any more");
}

#[test]
fn what_is_remembered_is_bounded_and_forgotten_with_the_keys() {
    let name = RemoteName {
        uri: "http://idp/keys".into(),
        cluster: "idp".into(),
        timeout: Duration::from_secs(1),
        cache_duration: Duration::from_secs(1),
        retry_after: Duration::from_secs(1),
    };
    let remote = Arc::new(RemoteKeys::new(name));
    remote.current.store(Some(key_set()));
    let mut provider = Provider::new("p", Some(ISSUER), Keys::Remote(Arc::clone(&remote)));
    provider.cache_size = 4;
    let filter = optional(provider);
    let mut caches = TokenCaches::default();
    for number in 0..20 {
        let payload = format!(r#"{{"iss":"{ISSUER}","n":{number}}}"#);
        let ask = Ask::bearing(&token(By::Ed, r#"{"alg":"EdDSA"}"#, &payload));
        for _ in 0..2 {
            let found = ask.again(&filter, &mut caches, &[]);
            assert!(matches!(found, Found::Passed { .. }));
            assert!(caches.len() <= 4, "{}", caches.len());
        }
    }
    // Bad ones are never remembered.
    let before = caches.len();
    let bad = Ask::bearing(&good().replace(".", "x."));
    assert!(matches!(
        bad.again(&filter, &mut caches, &[]),
        Found::Refused(_)
    ));
    assert_eq!(caches.len(), before);
    let other = ec_jwk(&keyring().p384, "P-384", "");
    let other = KeySet::parse(format!("{{\"keys\":[{other}]}}").as_bytes()).unwrap();
    remote.current.store(Some(Arc::new(other)));
    let ask = Ask::bearing(&token(
        By::Ed,
        r#"{"alg":"EdDSA"}"#,
        &format!(r#"{{"iss":"{ISSUER}","n":19}}"#),
    ));
    let found = ask.again(&filter, &mut caches, &[Arc::clone(&remote)]);
    assert!(matches!(found, Found::Refused(_)), "its key was taken back");
}

#[test]
fn access_rules_see_what_verified_tokens_say() {
    let mut provider = provider();
    provider.space_delimited = vec!["scope".into()];
    let filter = optional(provider);
    let good = Ask::bearing(&good()).good(&filter);
    let claims: TokenClaims = good
        .into_iter()
        .map(|one| (one.provider.metadata.clone().unwrap(), one.token))
        .collect();
    let subject = |claims| Subject {
        caller: Caller {
            remote: [127, 0, 0, 1].into(),
            local: None,
            peer: None,
            server_name: "",
        },
        request: None,
        believes: false,
        trusted_hops: 0,
        claims,
    };
    let text = |text: &str| ValueMatch::Text(StringMatch::Exact(text.to_owned(), false));
    let one_of = |one| ValueMatch::OneOf(Box::new(one));
    for (metadata, path, value, holds) in [
        ("payload", &["sub"][..], text("alice"), true),
        ("payload", &["sub"], text("bob"), false),
        ("other", &["sub"], text("alice"), false),
        ("payload", &["groups"], one_of(text("red")), true),
        ("payload", &["groups"], one_of(text("blue")), false),
        ("payload", &["groups"], text("red"), false),
        ("payload", &["scope"], one_of(text("write")), true),
        (
            "payload",
            &["aud"],
            ValueMatch::Or(vec![one_of(text("shop")), text("shop")]),
            true,
        ),
        ("payload", &["n", "m"], ValueMatch::Number(7.0), true),
        ("payload", &["n", "m"], ValueMatch::NumberIn(7.0..8.0), true),
        (
            "payload",
            &["n", "m"],
            ValueMatch::NumberIn(6.0..7.0),
            false,
        ),
        ("payload", &["n"], ValueMatch::Present(true), true),
        ("payload", &["none"], ValueMatch::Present(true), false),
        (
            "payload",
            &["n", "m", "x"],
            ValueMatch::Present(true),
            false,
        ),
        ("payload", &[], ValueMatch::Present(true), true),
        ("payload", &["sub"], ValueMatch::Null, false),
        ("payload", &["sub"], ValueMatch::Bool(true), false),
    ] {
        let rules = |invert| {
            let claim = Condition::Claim(ClaimMatch {
                metadata: metadata.into(),
                path: path.iter().map(|name| (*name).into()).collect(),
                value: value.clone(),
                invert,
            });
            let policy = Policy::new("p", vec![Condition::Any], vec![claim]);
            Rules::new(RbacAction::Allow, vec![policy])
        };
        let shown = format!("{metadata} {path:?} {value:?}");
        assert_eq!(
            rules(false).judge(&subject(&claims)).allowed,
            holds,
            "{shown}"
        );
        assert_eq!(
            rules(true).judge(&subject(&claims)).allowed,
            !holds,
            "{shown}"
        );
        assert!(
            !rules(false).judge(&subject(&[])).allowed,
            "{shown}: without a token"
        );
    }
}
