use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName};

use super::{
    super::{Edit, Facts, Format, HeaderEdits},
    headers,
};

fn facts() -> Facts<'static> {
    Facts {
        remote: Some("[::1]:1234".parse().unwrap()),
        local: Some("127.0.0.1:80".parse().unwrap()),
        peer_uri: Some("spiffe://d/ns/n/sa/s"),
        protocol: "HTTP/1.1",
        method: "GET",
        path: "/a?b",
        authority: "reviews:80",
        cluster: "outbound|80||reviews",
        route: "canary",
        started: Some(UNIX_EPOCH + Duration::from_millis(1_772_600_767_089)),
        hostname: "node-1",
        ..Facts::default()
    }
}

fn value(text: &str, map: &HeaderMap, facts: &Facts<'_>) -> Option<String> {
    let format = Format::parse(text, false).unwrap().unwrap();
    let value = format.value(map, facts)?;
    Some(value.to_str().unwrap().to_owned())
}

#[test]
fn every_operator_says_what_envoys_says() {
    let map = headers(&[("x-user", "ada"), ("x-other", "bob")]);
    for (text, want) in [
        ("%DOWNSTREAM_REMOTE_ADDRESS%", Some("[::1]:1234")),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", Some("::1")),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", Some("127.0.0.1:80")),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", Some("127.0.0.1")),
        ("%DOWNSTREAM_LOCAL_PORT%", Some("80")),
        ("%DOWNSTREAM_PEER_URI_SAN%", Some("spiffe://d/ns/n/sa/s")),
        ("%PROTOCOL%", Some("HTTP/1.1")),
        ("%UPSTREAM_CLUSTER%", Some("outbound|80||reviews")),
        ("%ROUTE_NAME%", Some("canary")),
        ("%HOSTNAME%", Some("node-1")),
        ("%START_TIME%", Some("2026-03-04T05:06:07.089Z")),
        ("%START_TIME(%s)%", Some("1772600767")),
        ("%REQ(X-User)%", Some("ada")),
        ("%REQ(x-none?x-other)%", Some("bob")),
        ("%REQ(x-user):2%", Some("ad")),
        ("%REQ(:METHOD)% %REQ(:PATH)%", Some("GET /a?b")),
        ("%REQ(:AUTHORITY)%", Some("reviews:80")),
        ("100%% of %REQ(x-user)%!", Some("100% of ada!")),
        // A request has none of these yet.
        ("%UPSTREAM_HOST%", None),
        ("%RESP(x-user)%", None),
        ("%REQ(x-none)%", None),
    ] {
        let found = value(text, &map, &facts());
        assert_eq!(found.as_deref(), want, "{text}");
    }
}

#[test]
fn an_answers_header_may_speak_of_the_request() {
    let request = headers(&[("x-user", "ada")]);
    let answer = headers(&[("x-user", "answer"), ("server", "app")]);
    let facts = Facts {
        request: Some(&request),
        status: Some(503),
        upstream: Some("10.0.0.1:80".parse().unwrap()),
        ..facts()
    };
    for (text, want) in [
        ("%REQ(x-user)%", "ada"),
        ("%RESP(x-user)%", "answer"),
        ("%RESP(x-none?server)%", "app"),
        ("%RESPONSE_CODE% %RESP(:STATUS)%", "503 503"),
        ("%UPSTREAM_HOST%", "10.0.0.1:80"),
    ] {
        let found = value(text, &answer, &facts);
        assert_eq!(found.as_deref(), Some(want), "{text}");
    }
}

#[test]
fn an_empty_value_is_left_out_unless_it_is_kept() {
    for (keep, want) in [(false, None), (true, Some(""))] {
        let format = Format::parse("%REQ(x-none)%", keep).unwrap().unwrap();
        let edits = HeaderEdits {
            set: vec![(
                HeaderName::from_static("x-new"),
                Edit::Format(Box::new(format)),
            )],
            ..HeaderEdits::default()
        };
        assert!(edits.reads_request());
        let mut map = HeaderMap::new();
        edits.apply(&mut map, &Facts::default());
        let found = map.get("x-new").map(|value| value.to_str().unwrap());
        assert_eq!(found, want);
    }
}

#[test]
fn what_is_no_operator_is_named() {
    assert_eq!(Format::parse("50%%", false).unwrap(), Err("50%".to_owned()));
    for (text, named) in [
        ("%REQ(x", "% without its partner"),
        ("50%", "% without its partner"),
        ("%NOPE%", "%NOPE% is not supported"),
        ("%START_TIME(%Y)%", "%START_TIME(%Y)% is not supported"),
        ("%REQ(a b)%", "not a header name"),
        ("%REQ(a?b?c)%", "one name, or one and an alternative"),
        ("%REQ(a)5%", ":LENGTH"),
    ] {
        let error = Format::parse(text, false).unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
}
