use http::{HeaderMap, HeaderValue, Method};

use super::*;
use crate::{HeaderMatch, StringMatch};

const VIEWER: &str = "spiffe://cluster.local/ns/default/sa/viewer";

/// A request in the making; the default is `GET /a?b` from 10.0.0.1 to 10.0.0.2:80 without a certificate.
struct Case {
    method: Method,
    path: &'static str,
    headers: HeaderMap,
    peer: Option<(&'static str, Vec<Box<str>>, &'static str)>,
    hops: u32,
    believes: bool,
    is_request: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            method: Method::GET,
            path: "/a?b",
            headers: HeaderMap::new(),
            peer: None,
            hops: 0,
            believes: true,
            is_request: true,
        }
    }
}

impl Case {
    fn of(uri: &'static str) -> Self {
        Self {
            peer: Some((uri, vec!["viewer.example".into()], "CN=viewer,O=Example")),
            ..Self::default()
        }
    }

    fn at(path: &'static str) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn look<T>(&self, look: impl FnOnce(&Subject<'_>) -> T) -> T {
        let request = RequestView {
            method: &self.method,
            authority: "reviews:80",
            path_and_query: self.path,
            scheme: "http",
            headers: &self.headers,
        };
        look(&Subject {
            caller: Caller {
                remote: "10.0.0.1".parse().unwrap(),
                local: Some("10.0.0.2:80".parse().unwrap()),
                peer: self
                    .peer
                    .as_ref()
                    .map(|(uri, dns, subject)| PeerNames { uri, dns, subject }),
                server_name: "reviews.example",
            },
            request: self.is_request.then_some(&request),
            believes: self.believes,
            trusted_hops: self.hops,
            claims: &[],
        })
    }

    fn meets(&self, condition: &Condition) -> bool {
        self.look(|subject| condition.holds(subject))
    }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.to_owned(), false)
}

fn range(address: &str, bits: u32) -> Cidr {
    Cidr::new(address.parse().unwrap(), bits).unwrap()
}

fn policy(name: &str, permission: Condition, principal: Condition) -> Policy {
    Policy::new(name, vec![permission], vec![principal])
}

fn verdict(rules: &Rules, case: &Case) -> (bool, Option<String>) {
    case.look(|subject| {
        let found = rules.judge(subject);
        (found.allowed, found.policy.map(ToString::to_string))
    })
}

#[test]
fn each_condition_holds_for_what_it_means_and_for_nothing_else() {
    let header = |value| {
        Condition::Header(HeaderMatch {
            name: "x-team".to_owned(),
            value,
            invert: false,
            treat_missing_as_empty: false,
        })
    };
    let viewer = || Case::of(VIEWER);
    let any = Case::default;
    for (condition, holds, fails) in [
        (Condition::Path(exact("/a")), any(), Case::at("/a/?b")),
        (
            Condition::Path(StringMatch::Prefix("/a".to_owned(), false)),
            Case::at("/ab"),
            Case::at("/b?/a"),
        ),
        (
            Condition::opposite(Condition::Path(StringMatch::Regex(
                regex::Regex::new("/a").unwrap(),
            ))),
            Case::at("/ab"),
            any(),
        ),
        (header(exact("a")), any().with("x-team", "a"), any()),
        (
            header(StringMatch::Present(false)),
            any(),
            any().with("x-team", "a"),
        ),
        (Condition::Authenticated, viewer(), any()),
        (Condition::Principal(exact(VIEWER)), viewer(), any()),
        (
            Condition::Principal(exact(VIEWER)),
            viewer(),
            Case::of("spiffe://other"),
        ),
        (
            Condition::Principal(StringMatch::Suffix("/sa/VIEWER".to_owned(), true)),
            viewer(),
            Case::of("spiffe://other"),
        ),
        (
            Condition::Not(Box::new(Condition::Principal(exact(VIEWER)))),
            any(),
            viewer(),
        ),
    ] {
        assert!(holds.meets(&condition), "{condition:?}");
        assert!(!fails.meets(&condition), "{condition:?}");
    }
    for (condition, holds) in [
        (Condition::Any, true),
        (Condition::DestinationIp(range("10.0.0.0", 24)), true),
        (Condition::DestinationIp(range("10.0.1.0", 24)), false),
        (Condition::DestinationPorts(80, 81), true),
        (Condition::DestinationPorts(79, 80), false),
        (Condition::ServerName(exact("reviews.example")), true),
        (Condition::ServerName(exact("reviews")), false),
        (Condition::DirectRemoteIp(range("10.0.0.1", 32)), true),
        (Condition::DirectRemoteIp(range("10.0.0.2", 32)), false),
        (Condition::RemoteIp(range("10.0.0.1", 32)), true),
        (Condition::All(Box::new([])), true),
        (Condition::OneOf(Box::new([])), false),
    ] {
        assert_eq!(any().meets(&condition), holds, "{condition:?}");
    }
}

#[test]
fn any_name_of_a_certificate_is_its_principal() {
    for name in [VIEWER, "viewer.example", "CN=viewer,O=Example"] {
        assert!(
            Case::of(VIEWER).meets(&Condition::Principal(exact(name))),
            "{name}"
        );
        let one_of = Condition::one_of(vec![
            Condition::Principal(exact("spiffe://other")),
            Condition::Principal(exact(name)),
        ]);
        assert!(matches!(one_of, Condition::PrincipalIn(_)));
        assert!(Case::of(VIEWER).meets(&one_of), "{name}");
        assert!(!Case::default().meets(&one_of), "{name}");
    }
}

#[test]
fn exact_names_of_a_list_become_one_set_beside_the_others() {
    let one_of = Condition::one_of(vec![
        Condition::Path(exact("/a")),
        Condition::Path(exact("/b")),
        Condition::Path(StringMatch::Prefix("/c".to_owned(), false)),
        // Without letter case it cannot be looked up.
        Condition::Path(StringMatch::Exact("/D".to_owned(), true)),
    ]);
    assert!(matches!(&one_of, Condition::OneOf(some) if some.len() == 3));
    for (path, holds) in [
        ("/a", true),
        ("/b?x", true),
        ("/cc", true),
        ("/d", true),
        ("/A", false),
    ] {
        assert_eq!(Case::at(path).meets(&one_of), holds, "{path}");
    }
}

#[test]
fn the_remote_address_is_what_the_last_proxy_says() {
    let is = |address: &str| Condition::RemoteIp(range(address, 32));
    let two = || {
        Case::default()
            .with("x-forwarded-for", "1.1.1.1, 2.2.2.2")
            .with("x-forwarded-for", "3.3.3.3")
    };
    for (hops, address) in [
        (0, "3.3.3.3"),
        (1, "2.2.2.2"),
        (2, "1.1.1.1"),
        (3, "10.0.0.1"),
    ] {
        let case = Case { hops, ..two() };
        assert!(case.meets(&is(address)), "{hops}");
        assert!(case.meets(&Condition::DirectRemoteIp(range("10.0.0.1", 32))));
    }
    let unbelieved = Case {
        believes: false,
        ..two()
    };
    assert!(unbelieved.meets(&is("10.0.0.1")));
    let nonsense = Case::default().with("x-forwarded-for", "1.1.1.1, unknown");
    assert!(nonsense.meets(&is("10.0.0.1")));
}

#[test]
fn a_connection_without_a_request_has_neither_path_nor_header() {
    let bytes = Case {
        is_request: false,
        ..Case::of(VIEWER)
    };
    assert!(!bytes.meets(&Condition::Path(StringMatch::Present(true))));
    assert!(bytes.meets(&Condition::Principal(exact(VIEWER))));
    assert!(bytes.meets(&Condition::RemoteIp(range("10.0.0.1", 32))));
}

#[test]
fn what_matches_is_allowed_denied_or_only_named() {
    let rules = |action| {
        Rules::new(
            action,
            vec![policy("p", Condition::Path(exact("/a")), Condition::Any)],
        )
    };
    let (inside, outside) = (Case::at("/a"), Case::at("/b"));
    let named = || Some("p".to_owned());
    for (action, of_inside, of_outside) in [
        (RbacAction::Allow, (true, named()), (false, None)),
        (RbacAction::Deny, (false, named()), (true, None)),
        (RbacAction::Log, (true, named()), (true, None)),
    ] {
        assert_eq!(verdict(&rules(action), &inside), of_inside, "{action:?}");
        assert_eq!(verdict(&rules(action), &outside), of_outside, "{action:?}");
    }
    for (action, allowed) in [(RbacAction::Allow, false), (RbacAction::Deny, true)] {
        let nobody = Rules::new(action, Vec::new());
        assert_eq!(verdict(&nobody, &inside), (allowed, None), "{action:?}");
    }
}

#[test]
fn the_first_policy_by_name_decides_in_whatever_order_they_come() {
    let both = || {
        vec![
            policy("b", Condition::Any, Condition::Any),
            policy("a", Condition::Path(exact("/a")), Condition::Any),
            policy("c", Condition::Any, Condition::Any),
        ]
    };
    let rules = Rules::new(RbacAction::Deny, both());
    assert_eq!(verdict(&rules, &Case::at("/a")).1.as_deref(), Some("a"));
    assert_eq!(verdict(&rules, &Case::at("/b")).1.as_deref(), Some("b"));
}

#[test]
fn a_policy_needs_a_permission_and_a_principal() {
    let viewer = Condition::Principal(exact(VIEWER));
    let rules = Rules::new(
        RbacAction::Allow,
        vec![policy("p", Condition::Path(exact("/a")), viewer)],
    );
    let at = |path, case: Case| Case { path, ..case };
    assert!(verdict(&rules, &at("/a", Case::of(VIEWER))).0);
    assert!(!verdict(&rules, &at("/b", Case::of(VIEWER))).0);
    assert!(!verdict(&rules, &at("/a", Case::of("spiffe://other"))).0);
    assert!(!verdict(&rules, &at("/a", Case::default())).0);
}

#[test]
fn a_denial_says_which_policy_or_that_there_was_none() {
    let why = |rules: &Rules| Case::default().look(|subject| rules.why(&rules.judge(subject)));
    let open = |name: &str| policy(name, Condition::Any, Condition::Any);
    let shut = |name: &str| policy(name, Condition::one_of(Vec::new()), Condition::Any);
    let found = why(&Rules::new(RbacAction::Deny, vec![open("p")]));
    assert_eq!(found, "policy \"p\" denies it");
    let found = why(&Rules::new(RbacAction::Allow, Vec::new()));
    assert_eq!(found, "no policy allows anything");
    let found = why(&Rules::new(RbacAction::Allow, vec![shut("b"), shut("a")]));
    assert_eq!(found, "none of the policies \"a\", \"b\" allows it");
    let many = (0..7).map(|number| shut(&number.to_string())).collect();
    let found = why(&Rules::new(RbacAction::Allow, many));
    assert!(found.ends_with("\"4\" and 2 more allows it"), "{found}");
}
