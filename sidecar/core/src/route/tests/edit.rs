use http::{HeaderName, HeaderValue};

use super::{
    super::{HeaderEdits, PathMatch},
    headers, route,
};

#[test]
fn headers_are_removed_then_set_then_added() {
    let pair = |name: &'static str, value: &'static str| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    let edits = HeaderEdits {
        remove: vec![
            HeaderName::from_static("a"),
            HeaderName::from_static("gone"),
        ],
        set: vec![pair("b", "new")],
        add: vec![pair("a", "again"), pair("c", "2")],
    };
    let mut map = headers(&[
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
        ("b", "2"),
        ("c", "1"),
        ("gone", "1"),
    ]);
    edits.apply(&mut map);
    assert_eq!(
        map,
        headers(&[("b", "new"), ("c", "1"), ("a", "again"), ("c", "2")])
    );
    assert!(HeaderEdits::default().is_empty() && !edits.is_empty());
}

#[test]
fn a_rewrite_replaces_what_matched_and_keeps_the_query() {
    let own = str::to_owned;
    for (path, rewrite, request, want) in [
        (PathMatch::Prefix(own("/a")), "/b", "/a/c?d=1", "/b/c?d=1"),
        (PathMatch::Prefix(own("/a/")), "/", "/a/c", "/c"),
        (PathMatch::Prefix(own("/a")), "/", "/a/c", "//c"),
        (PathMatch::SeparatedPrefix(own("/a")), "/", "/a/c?d", "/c?d"),
        (PathMatch::SeparatedPrefix(own("/a")), "/", "/a", "/"),
        (PathMatch::SeparatedPrefix(own("/a")), "/b", "/a/c", "/b/c"),
        (PathMatch::Exact(own("/a")), "/b", "/a?d", "/b?d"),
        (PathMatch::regex("/.*").unwrap(), "/b", "/a/c?d", "/b?d"),
        (PathMatch::Prefix(own("/longer")), "/b", "/a", "/a"),
    ] {
        let mut route = route("", path);
        assert_eq!(route.rewrite_path(request), request);
        route.prefix_rewrite = Some(rewrite.to_owned());
        assert_eq!(route.rewrite_path(request), want);
    }
}
