use regex::Regex;

use super::{
    super::{PathMatch, Rewrite, Substitution},
    everything, route,
};

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
        route.rewrite = Some(Rewrite::Prefix(rewrite.to_owned()));
        assert_eq!(route.rewrite_path(request), want);
    }
}

/// As RE2's `GlobalReplace`; the examples are those of Envoy's API reference.
#[test]
fn an_expression_replaces_every_match_of_the_path_alone() {
    for (pattern, substitution, request, want) in [
        (
            "^/service/([^/]+)(/.*)$",
            r"\2/instance/\1",
            "/service/foo/v1/api",
            "/v1/api/instance/foo",
        ),
        ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
        (
            "^(.*?)one(.*)$",
            r"\1two\2",
            "/xxx/one/yyy/one/zzz",
            "/xxx/two/yyy/one/zzz",
        ),
        ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
        ("one", "two", "/one?one=1", "/two?one=1"),
        ("/a", r"\\\0", "/a?b", r"\/a?b"),
        ("nothing", "x", "/a?b", "/a?b"),
        ("(x)?/a", r"[\1]", "/a", "[]"),
    ] {
        let pattern = Regex::new(pattern).unwrap();
        let substitution = Substitution::parse(substitution, &pattern).unwrap();
        let mut route = route("", everything());
        route.rewrite = Some(Rewrite::Regex(pattern, substitution));
        assert_eq!(route.rewrite_path(request), want);
    }
}

#[test]
fn a_substitution_names_groups_that_are_there() {
    let pattern = Regex::new("(a)(b)").unwrap();
    for (text, wrong) in [
        (r"\3", "names group 3; the expression has 2"),
        (r"\x", r"has \x"),
        (r"a\", "ends in a backslash"),
    ] {
        let error = Substitution::parse(text, &pattern).unwrap_err();
        assert!(error.contains(wrong), "{error}");
    }
}
