mod cors;
mod edit;
mod explain;
mod fault;
mod format;
mod hash;
mod rewrite;
mod split;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    Action, HeaderMatch, NoRoute, PathMatch, RequestView, Route, RouteMatch, RouteTable,
    StringMatch, VirtualHost,
};

fn route(name: &str, path: PathMatch) -> Route {
    let matches = RouteMatch {
        path,
        case_sensitive: true,
        headers: Vec::new(),
        query_parameters: Vec::new(),
    };
    let action = Action::DirectResponse {
        status: 200,
        body: [].into(),
    };
    Route {
        name: name.to_owned(),
        ..Route::new(matches, action)
    }
}

fn everything() -> PathMatch {
    PathMatch::Prefix("/".to_owned())
}

fn host(name: &str, domains: &[&str], routes: Vec<Route>) -> VirtualHost {
    let domains = domains.iter().map(|one| (*one).to_owned());
    VirtualHost::new(name, domains.collect(), routes)
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

fn get<'a>(authority: &'a str, path: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView {
        method: &Method::GET,
        authority,
        path_and_query: path,
        scheme: "http",
        headers,
    }
}

/// Whether one route with this match is found.
fn holds(matches: &RouteMatch, path: &str, headers: &HeaderMap) -> bool {
    let mut route = route("", everything());
    route.matches = matches.clone();
    let table = RouteTable::new(String::new(), vec![host("", &["*"], vec![route])]);
    table.find(&get("a", path, headers)).is_ok()
}

#[test]
fn exact_hosts_come_before_longest_suffix_before_longest_prefix_before_all() {
    let hosts = [
        "*",
        "api.*",
        "api.example.*",
        "*.com",
        "*.example.com",
        "www.example.com",
        "reviews",
        "reviews:9080",
        "[::1]",
    ]
    .map(|domain| host(domain, &[domain], vec![route("", everything())]));
    let table = RouteTable::new("9080".to_owned(), hosts.to_vec());
    for (authority, want) in [
        ("www.example.com", "www.example.com"),
        ("WWW.Example.COM", "www.example.com"),
        ("www.example.com:80", "*"),
        ("api.example.com", "*.example.com"),
        ("api.example.com:80", "api.example.*"),
        (".example.com", "*.com"),
        ("example.com", "*.com"),
        ("api.example.org", "api.example.*"),
        ("api.other.org:8080", "api.*"),
        ("reviews", "reviews"),
        ("reviews:9080", "reviews:9080"),
        ("Reviews:9080", "reviews:9080"),
        ("reviews:1", "*"),
        ("[::1]:80", "*"),
        ("[::1]", "[::1]"),
        ("::1", "*"),
        ("", "*"),
    ] {
        let found = table.find(&get(authority, "/", &HeaderMap::new()));
        assert_eq!(&*found.unwrap().0.name, want, "{authority}");
    }
    let long = format!("{}.EXAMPLE.com", "a".repeat(1000));
    assert_eq!(&*table.virtual_host(&long).unwrap().name, "*.example.com");
}

#[test]
fn the_ports_of_a_host_are_known_whatever_port_was_asked_for() {
    let table = RouteTable::new(
        String::new(),
        vec![
            host("a", &["reviews", "reviews:9080"], Vec::new()),
            host("b", &["reviews:80"], Vec::new()),
            host("c", &["ratings:7070"], Vec::new()),
        ],
    );
    for authority in ["reviews", "Reviews:1234", "reviews:80"] {
        let ports: Vec<u16> = table.ports_of(authority).into_iter().collect();
        assert_eq!(ports, [80, 9080], "{authority}");
    }
    assert!(table.ports_of("details:80").is_empty());
}

#[test]
fn what_has_no_host_or_no_path_is_told_apart() {
    let path = PathMatch::Exact("/a".to_owned());
    let table = RouteTable::new(
        String::new(),
        vec![host("", &["reviews"], vec![route("", path)])],
    );
    let find = |authority, path| table.find(&get(authority, path, &HeaderMap::new())).err();
    assert_eq!(find("ratings", "/a"), Some(NoRoute::Host));
    assert_eq!(find("reviews", "/b"), Some(NoRoute::Path));
    assert_eq!(find("reviews", "/a?b=1"), None);
}

#[test]
fn the_first_virtual_host_keeps_a_domain() {
    let hosts = ["first", "second"].map(|name| host(name, &["a", "*.b", "*"], vec![]));
    let table = RouteTable::new(String::new(), hosts.to_vec());
    for authority in ["a", "x.b", "c"] {
        assert_eq!(&*table.virtual_host(authority).unwrap().name, "first");
    }
}

#[test]
fn the_first_route_that_matches_wins() {
    let routes = vec![
        route("exact", PathMatch::Exact("/a".to_owned())),
        route("short", PathMatch::Prefix("/a".to_owned())),
        route("long", PathMatch::Prefix("/a/b".to_owned())),
        route("rest", everything()),
    ];
    let table = RouteTable::new(String::new(), vec![host("", &["*"], routes)]);
    for (path, want) in [
        ("/a", "exact"),
        ("/a/b", "short"),
        ("/ab", "short"),
        ("/b", "rest"),
    ] {
        let headers = HeaderMap::new();
        let request = get("a", path, &headers);
        assert_eq!(table.find(&request).unwrap().1.name, want, "{path}");
    }
}

#[test]
fn paths_match_without_the_query() {
    let own = str::to_owned;
    let regex = |pattern| PathMatch::Regex(regex::Regex::new(pattern).unwrap());
    for (path, case_sensitive, yes, no) in [
        (
            PathMatch::Exact(own("/a")),
            true,
            vec!["/a", "/a?b", "/a#f"],
            vec!["/A", "/ab", "/a/", "/"],
        ),
        (
            PathMatch::Exact(own("/a")),
            false,
            vec!["/a", "/A"],
            vec!["/ab"],
        ),
        (
            PathMatch::Prefix(own("/a")),
            true,
            vec!["/a", "/ab", "/a/b?c"],
            vec!["/A", "/", "/b?/a"],
        ),
        (PathMatch::Prefix(own("/a")), false, vec!["/Ab"], vec!["/b"]),
        (PathMatch::Prefix(own("/")), true, vec!["/", "/x"], vec![""]),
        (
            PathMatch::SeparatedPrefix(own("/a")),
            true,
            vec!["/a", "/a/", "/a/b", "/a?b"],
            vec!["/ab", "/"],
        ),
        (
            regex("/(a|ab)"),
            true,
            vec!["/a", "/ab", "/ab?c"],
            vec!["/abc", "x/a"],
        ),
        (regex("/a|/b"), true, vec!["/a", "/b"], vec!["/a/b", "/ab"]),
        (regex("(?x) /a # a comment"), true, vec!["/a"], vec!["/ab"]),
        (regex("/a"), false, vec!["/a"], vec!["/A"]),
    ] {
        let matches = RouteMatch {
            path,
            case_sensitive,
            headers: vec![],
            query_parameters: vec![],
        };
        for path in yes {
            assert!(
                holds(&matches, path, &HeaderMap::new()),
                "{matches:?} {path}"
            );
        }
        for path in no {
            assert!(
                !holds(&matches, path, &HeaderMap::new()),
                "{matches:?} {path}"
            );
        }
    }
}

#[test]
fn headers_match_as_envoy_matches_them() {
    let own = str::to_owned;
    let regex = |pattern| StringMatch::Regex(regex::Regex::new(pattern).unwrap());
    let canary = headers(&[
        ("canary", "True"),
        ("multi", "a"),
        ("multi", "b"),
        ("empty", ""),
    ]);
    // name, condition, holds, holds inverted, holds where missing counts as empty
    for (name, value, plain, inverted, missing_as_empty) in [
        (
            "canary",
            StringMatch::Exact(own("True"), false),
            true,
            false,
            true,
        ),
        (
            "canary",
            StringMatch::Exact(own("true"), false),
            false,
            true,
            false,
        ),
        (
            "canary",
            StringMatch::Exact(own("true"), true),
            true,
            false,
            true,
        ),
        (
            "canary",
            StringMatch::Prefix(own("Tr"), false),
            true,
            false,
            true,
        ),
        (
            "canary",
            StringMatch::Suffix(own("UE"), true),
            true,
            false,
            true,
        ),
        (
            "canary",
            StringMatch::Suffix(own("xxTrue"), false),
            false,
            true,
            false,
        ),
        (
            "canary",
            StringMatch::Contains(own("RU"), true),
            true,
            false,
            true,
        ),
        (
            "canary",
            StringMatch::Contains(own("RU"), false),
            false,
            true,
            false,
        ),
        ("canary", regex("T.*e|x"), true, false, true),
        ("canary", regex("Tru"), false, true, false),
        ("canary", StringMatch::Present(true), true, false, true),
        ("canary", StringMatch::Present(false), false, true, false),
        (
            "multi",
            StringMatch::Exact(own("a,b"), false),
            false,
            true,
            false,
        ),
        (
            "multi",
            StringMatch::Exact(own("b"), false),
            true,
            false,
            true,
        ),
        (
            "empty",
            StringMatch::Exact(own(""), false),
            true,
            false,
            true,
        ),
        // A missing header matches neither a condition nor its opposite.
        (
            "missing",
            StringMatch::Exact(own("a"), false),
            false,
            false,
            false,
        ),
        (
            "missing",
            StringMatch::Exact(own(""), false),
            false,
            false,
            true,
        ),
        ("missing", StringMatch::Present(true), false, true, true),
        ("missing", StringMatch::Present(false), true, false, false),
        (
            ":method",
            StringMatch::Exact(own("GET"), false),
            true,
            false,
            true,
        ),
        (
            ":authority",
            StringMatch::Exact(own("a"), false),
            true,
            false,
            true,
        ),
        (
            ":scheme",
            StringMatch::Exact(own("http"), false),
            true,
            false,
            true,
        ),
        (
            ":path",
            StringMatch::Exact(own("/p?q=1"), false),
            true,
            false,
            true,
        ),
    ] {
        for (invert, treat_missing_as_empty, want) in [
            (false, false, plain),
            (true, false, inverted),
            (false, true, missing_as_empty),
            (true, true, !missing_as_empty),
        ] {
            let header = HeaderMatch {
                name: own(name),
                value: value.clone(),
                invert,
                treat_missing_as_empty,
            };
            let matches = RouteMatch {
                path: everything(),
                case_sensitive: true,
                headers: vec![header],
                query_parameters: vec![],
            };
            assert_eq!(holds(&matches, "/p?q=1", &canary), want, "{matches:?}");
        }
    }
}

#[test]
fn all_header_conditions_must_hold() {
    let is = |name: &str| HeaderMatch {
        name: name.to_owned(),
        value: StringMatch::Exact("1".to_owned(), false),
        invert: false,
        treat_missing_as_empty: false,
    };
    let matches = RouteMatch {
        path: everything(),
        case_sensitive: true,
        headers: vec![is("a"), is("b")],
        query_parameters: vec![],
    };
    assert!(holds(&matches, "/", &headers(&[("a", "1"), ("b", "1")])));
    assert!(!holds(&matches, "/", &headers(&[("a", "1")])));
}

#[test]
fn query_parameters_match_as_written_and_by_their_first_value() {
    let exact = |value: &str| StringMatch::Exact(value.to_owned(), false);
    for (value, yes, no) in [
        (
            exact("1"),
            vec!["/?id=1", "/?x=2&id=1", "/?id=1&id=2", "/?id=1#f"],
            vec!["/", "/?id=2&id=1", "/?ID=1", "/?id=%31", "/#?id=1"],
        ),
        (exact("%31"), vec!["/?id=%31"], vec!["/?id=1"]),
        (exact(""), vec!["/?id", "/?id="], vec!["/", "/?idx"]),
        (exact("a=b"), vec!["/?id=a=b"], vec!["/?id=a"]),
        (
            StringMatch::Present(true),
            vec!["/?id", "/?id=2"],
            vec!["/?x=id"],
        ),
        (StringMatch::Present(false), vec!["/", "/?x"], vec!["/?id"]),
    ] {
        let matches = RouteMatch {
            path: everything(),
            case_sensitive: true,
            headers: vec![],
            query_parameters: vec![("id".to_owned(), value)],
        };
        for path in yes {
            assert!(
                holds(&matches, path, &HeaderMap::new()),
                "{matches:?} {path}"
            );
        }
        for path in no {
            assert!(
                !holds(&matches, path, &HeaderMap::new()),
                "{matches:?} {path}"
            );
        }
    }
}

#[test]
fn a_connect_is_matched_by_its_own_condition_and_by_no_path() {
    let headers = HeaderMap::new();
    let mut request = RequestView {
        method: &Method::CONNECT,
        authority: "db:5432",
        path_and_query: "/",
        scheme: "http",
        headers: &headers,
    };
    let holds = |path: PathMatch, request: &RequestView<'_>| {
        let matches = RouteMatch {
            path,
            case_sensitive: true,
            headers: Vec::new(),
            query_parameters: Vec::new(),
        };
        matches.holds(request, "/")
    };
    assert!(holds(PathMatch::Connect, &request));
    assert!(!holds(PathMatch::Prefix("/".to_owned()), &request));
    request.method = &Method::GET;
    assert!(!holds(PathMatch::Connect, &request));
    assert!(holds(PathMatch::Prefix("/".to_owned()), &request));
}
