use std::time::Duration;

use http::HeaderName;
use xxhash_rust::xxh64::xxh64;

use super::{super::HashPolicy, everything, get, headers, route};

/// The hash that these policies make of a request with these headers from 10.0.0.1.
fn hash(policies: &[HashPolicy], pairs: &[(&str, &str)]) -> Option<u64> {
    let mut route = route("", everything());
    route.hash_policies = policies.to_vec();
    let headers = headers(pairs);
    let request = get("a", "/?q=7&q=8", &headers);
    route.hash(&request, Some([10, 0, 0, 1].into()))
}

#[test]
fn a_hash_is_xxh64_of_what_the_policy_names() {
    let header = || HashPolicy::Header(HeaderName::from_static("user-id"));
    let cookie = || HashPolicy::Cookie {
        name: "user".to_owned(),
        path: "/".to_owned(),
        ttl: None,
        attributes: String::new(),
    };
    let of = |text: &str| Some(xxh64(text.as_bytes(), 0));
    // The reference value of the algorithm itself.
    assert_eq!(of(""), Some(0xEF46_DB37_51D8_E999));
    assert_eq!(hash(&[header()], &[("user-id", "ada")]), of("ada"));
    assert_eq!(hash(&[header()], &[]), None);
    let (ab, ba) = (
        [("user-id", "a"), ("user-id", "b")],
        [("user-id", "b"), ("user-id", "a")],
    );
    assert_eq!(hash(&[header()], &ab), hash(&[header()], &ba));
    for cookies in [
        "user=ada",
        "x=1; user=ada; y=2",
        "user=\"ada\"",
        "xuser=1;user=ada",
        "user=ada; user=bob",
    ] {
        assert_eq!(
            hash(&[cookie()], &[("cookie", cookies)]),
            of("ada"),
            "{cookies}"
        );
    }
    assert_eq!(
        hash(&[cookie()], &[("cookie", "a=1"), ("cookie", "user=ada")]),
        of("ada")
    );
    assert_eq!(hash(&[cookie()], &[("cookie", "user=")]), None);
    assert_eq!(hash(&[HashPolicy::SourceIp], &[]), of("10.0.0.1"));
    assert_eq!(
        hash(&[HashPolicy::QueryParameter("q".to_owned())], &[]),
        of("7")
    );
    assert_eq!(hash(&[], &[]), None);
}

#[test]
fn several_hashes_combine_and_terminal_ends_the_list() {
    let header = |name| HashPolicy::Header(HeaderName::from_static(name));
    let pairs = [("a", "1"), ("b", "1")];
    let one = xxh64(b"1", 0);
    assert_eq!(
        hash(&[header("a"), header("b")], &pairs),
        Some(one.rotate_left(1) ^ one)
    );
    assert_eq!(hash(&[header("x"), header("b")], &pairs), Some(one));
    assert_eq!(
        hash(&[header("a"), HashPolicy::Terminal, header("b")], &pairs),
        Some(one)
    );
    assert_eq!(
        hash(&[header("x"), HashPolicy::Terminal, header("b")], &pairs),
        Some(one)
    );
}

#[test]
fn a_missing_cookie_with_a_ttl_is_to_be_set_and_hashes_as_it_will() {
    let mut route = route("", everything());
    route.hash_policies = vec![HashPolicy::Cookie {
        name: "user".to_owned(),
        path: "/shop".to_owned(),
        ttl: Some(Duration::from_secs(60)),
        attributes: "; SameSite=Strict; Secure".to_owned(),
    }];
    let none = headers(&[]);
    let missing: Vec<_> = route.missing_cookies(&none).collect();
    assert_eq!(missing.len(), 1);
    assert_eq!(
        missing[0].set_cookie("f00").unwrap(),
        "user=\"f00\"; Max-Age=60; Path=/shop; SameSite=Strict; Secure; HttpOnly"
    );
    assert_eq!(missing[0].set_cookie("a\nb"), None);

    let first = route.hash_with_cookie(&get("a", "/", &none), None, Some("f00"));
    let back = headers(&[("cookie", "user=\"f00\"")]);
    assert_eq!(route.missing_cookies(&back).count(), 0);
    assert_eq!(first, route.hash(&get("a", "/", &back), None));
    assert_eq!(route.hash(&get("a", "/", &none), None), None);
}
