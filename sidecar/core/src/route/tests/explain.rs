//! The way to a route, told step by step, and never otherwise than `find` goes it.

use super::{everything, get, headers, host, route};
use crate::{HeaderMatch, NoRoute, PathMatch, Route, RouteTable, StringMatch};

fn canary() -> Route {
    let mut route = route("canary", everything());
    route.matches.headers = vec![HeaderMatch {
        name: "canary".to_owned(),
        value: StringMatch::Exact("true".to_owned(), false),
        invert: false,
        treat_missing_as_empty: false,
    }];
    route
}

fn by_query() -> Route {
    let mut route = route("query", everything());
    route.matches.query_parameters = vec![("v".to_owned(), StringMatch::regex("[0-9]+").unwrap())];
    route
}

fn table() -> RouteTable {
    let routes = vec![
        route("api", PathMatch::Prefix("/api/".to_owned())),
        canary(),
        by_query(),
        route("exact", PathMatch::Exact("/".to_owned())),
    ];
    RouteTable::new("t".to_owned(), vec![host("reviews", &["reviews"], routes)])
}

#[test]
fn each_route_says_the_first_condition_that_does_not_hold() {
    let table = table();
    let with = headers(&[("canary", "no")]);
    let (_, tried) = table.explain(&get("reviews", "/x?v=a", &with)).unwrap();
    let words: Vec<&str> = tried
        .iter()
        .filter_map(|tried| tried.failed.as_deref())
        .collect();
    assert_eq!(
        words,
        [
            "the path \"/x\" does not start with \"/api/\"",
            "the header canary is \"no\"; wanted \"true\"",
            "the query parameter v is \"a\"; wanted what matches \"[0-9]+\"",
            "the path \"/x\" is not \"/\"",
        ]
    );
    let none = headers(&[]);
    let (_, tried) = table.explain(&get("reviews", "/x", &none)).unwrap();
    let second = tried[1].failed.as_deref();
    assert_eq!(
        second,
        Some("the header canary is missing; wanted \"true\"")
    );
    assert_eq!(
        table.explain(&get("nobody", "/", &none)).err(),
        Some(NoRoute::Host)
    );
}

#[test]
fn the_last_that_is_told_is_the_one_that_is_found() {
    let table = table();
    for (path, canary) in [
        ("/api/1", ""),
        ("/", ""),
        ("/", "true"),
        ("/?v=1", ""),
        ("/x", ""),
        ("/x?v=2", "true"),
    ] {
        let sent = if canary.is_empty() {
            headers(&[])
        } else {
            headers(&[("canary", canary)])
        };
        let request = get("reviews", path, &sent);
        let (_, tried) = table.explain(&request).unwrap();
        let told = tried
            .last()
            .filter(|last| last.failed.is_none())
            .map(|last| last.route.name.as_str());
        let found = table
            .find(&request)
            .ok()
            .map(|(_, route)| route.name.as_str());
        assert_eq!(told, found, "{path} {canary}");
    }
}
