use http::{HeaderValue, Method};

use super::{
    super::{Cors, CorsVerdict, StringMatch},
    headers,
};

fn policy() -> Cors {
    Cors {
        allow_origins: vec![
            StringMatch::Exact("https://a.example".to_owned(), false),
            StringMatch::regex(r"https://.*\.b\.example").unwrap(),
        ],
        allow_methods: Some(HeaderValue::from_static("GET,PUT")),
        allow_headers: Some(HeaderValue::from_static("x-token")),
        max_age: Some(HeaderValue::from_static("86400")),
        expose_headers: Some(HeaderValue::from_static("x-rate")),
        allow_credentials: true,
        forward_not_matching_preflights: true,
    }
}

const PREFLIGHT: (&str, &str) = ("access-control-request-method", "PUT");

#[test]
fn a_preflight_of_an_allowed_origin_is_answered() {
    let request = headers(&[("origin", "https://x.b.example"), PREFLIGHT]);
    let CorsVerdict::Answer(answer) = policy().judge(&Method::OPTIONS, &request) else {
        panic!("not answered");
    };
    let want = headers(&[
        ("access-control-allow-origin", "https://x.b.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-token"),
        ("access-control-max-age", "86400"),
        ("access-control-expose-headers", "x-rate"),
    ]);
    assert_eq!(answer, want);
}

#[test]
fn a_simple_request_of_an_allowed_origin_has_its_answer_marked() {
    let origin = HeaderValue::from_static("https://a.example");
    for (method, more) in [
        (Method::GET, ("x-y", "z")),
        // No preflight without the header that makes it one.
        (Method::OPTIONS, ("x-y", "z")),
        (Method::GET, PREFLIGHT),
    ] {
        let request = headers(&[("origin", "https://a.example"), more]);
        let verdict = policy().judge(&method, &request);
        assert_eq!(verdict, CorsVerdict::Mark(origin.clone()));
    }
    let mut answer = headers(&[("access-control-allow-origin", "*")]);
    policy().mark(&origin, &mut answer);
    let want = headers(&[
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-rate"),
    ]);
    assert_eq!(answer, want);
}

#[test]
fn other_origins_pass_and_get_nothing() {
    for request in [
        headers(&[]),
        headers(&[("origin", ""), PREFLIGHT]),
        headers(&[("origin", "https://evil.example"), PREFLIGHT]),
        headers(&[("origin", "https://evil.example")]),
    ] {
        let verdict = policy().judge(&Method::OPTIONS, &request);
        assert_eq!(verdict, CorsVerdict::Pass, "{request:?}");
    }
}

#[test]
fn unmatched_preflights_end_here_where_they_are_not_forwarded() {
    let policy = Cors {
        forward_not_matching_preflights: false,
        ..policy()
    };
    let evil = ("origin", "https://evil.example");
    let preflight = headers(&[evil, PREFLIGHT]);
    let verdict = policy.judge(&Method::OPTIONS, &preflight);
    assert_eq!(verdict, CorsVerdict::Answer(headers(&[])));
    let verdict = policy.judge(&Method::GET, &headers(&[evil]));
    assert_eq!(verdict, CorsVerdict::Pass);
}

#[test]
fn a_star_allows_every_origin_by_name() {
    let policy = Cors {
        allow_origins: vec![StringMatch::Exact("*".to_owned(), false)],
        ..Cors::default()
    };
    let origin = HeaderValue::from_static("null");
    let verdict = policy.judge(&Method::GET, &headers(&[("origin", "null")]));
    assert_eq!(verdict, CorsVerdict::Mark(origin));
}
