use outrigger_proto::envoy::r#type::{
    matcher::v3::{
        DoubleMatcher, ListMatcher, OrMatcher, RegexMatcher,
        struct_matcher::PathSegment,
        value_matcher::{MatchPattern as Match, NullMatch},
    },
    v3::DoubleRange,
};
use prost_types::ListValue;

use super::*;

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn text(text: &str) -> Value {
    value(Kind::StringValue(text.to_owned()))
}

fn object(fields: &[(&str, Value)]) -> Struct {
    let fields = fields.iter().cloned();
    Struct {
        fields: fields.map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

fn metadata() -> Struct {
    let list = ListValue {
        values: vec![text("a"), text("b")],
    };
    let own = object(&[("PORT", value(Kind::NumberValue(9080.0)))]);
    object(&[
        ("NAMESPACE", text("Shop")),
        ("NULL", value(Kind::NullValue(0))),
        ("FLAG", value(Kind::BoolValue(true))),
        ("LIST", value(Kind::ListValue(list))),
        ("OUTRIGGER", value(Kind::StructValue(own))),
    ])
}

fn string(pattern: MatchPattern, ignore_case: bool) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ignore_case,
    }
}

fn is(pattern: Match) -> ValueMatcher {
    ValueMatcher {
        match_pattern: Some(pattern),
    }
}

fn exact(text: &str) -> Match {
    Match::StringMatch(string(MatchPattern::Exact(text.to_owned()), false))
}

fn number(pattern: double_matcher::MatchPattern) -> Match {
    Match::DoubleMatch(DoubleMatcher {
        match_pattern: Some(pattern),
    })
}

fn at(path: &str, pattern: Match) -> NodeMatcher {
    let path = path.split('.').map(|key| PathSegment {
        segment: Some(Segment::Key(key.to_owned())),
    });
    NodeMatcher {
        node_metadatas: vec![StructMatcher {
            path: path.collect(),
            value: Some(is(pattern)),
        }],
        ..NodeMatcher::default()
    }
}

fn holds(matcher: NodeMatcher) -> bool {
    Clients::of(&[matcher]).unwrap().have("node", &metadata())
}

#[test]
fn values_of_every_kind_are_matched_at_their_path() {
    let range = |start, end| double_matcher::MatchPattern::Range(DoubleRange { start, end });
    let list = |one| {
        Match::ListMatch(Box::new(ListMatcher {
            match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(is(one)))),
        }))
    };
    let or = |all: Vec<Match>| {
        Match::OrMatch(OrMatcher {
            value_matchers: all.into_iter().map(is).collect(),
        })
    };
    let table = [
        ("NAMESPACE", exact("Shop"), true),
        ("NAMESPACE", exact("shop"), false),
        (
            "NAMESPACE",
            Match::StringMatch(string(MatchPattern::Prefix("sh".into()), true)),
            true,
        ),
        ("NULL", Match::NullMatch(NullMatch {}), true),
        ("NAMESPACE", Match::NullMatch(NullMatch {}), false),
        ("FLAG", Match::BoolMatch(true), true),
        ("FLAG", Match::BoolMatch(false), false),
        ("FLAG", Match::PresentMatch(true), true),
        ("ABSENT", Match::PresentMatch(true), false),
        ("ABSENT", Match::PresentMatch(false), true),
        ("OUTRIGGER", Match::PresentMatch(true), false),
        ("OUTRIGGER.PORT", number(range(9080.0, 9081.0)), true),
        ("OUTRIGGER.PORT", number(range(9000.0, 9080.0)), false),
        (
            "OUTRIGGER.PORT",
            number(double_matcher::MatchPattern::Exact(9080.0)),
            true,
        ),
        ("NAMESPACE.PORT", Match::PresentMatch(true), false),
        ("LIST", list(exact("b")), true),
        ("LIST", list(exact("c")), false),
        ("NAMESPACE", or(vec![exact("x"), exact("Shop")]), true),
        ("NAMESPACE", or(vec![]), false),
    ];
    for (path, pattern, expected) in table {
        let words = format!("{path} {pattern:?}");
        assert_eq!(holds(at(path, pattern)), expected, "{words}");
    }
}

#[test]
fn all_of_a_matcher_has_to_hold_and_one_of_several() {
    let named = |id: &str, namespace: &str| NodeMatcher {
        node_id: Some(string(MatchPattern::Exact(id.to_owned()), false)),
        ..at("NAMESPACE", exact(namespace))
    };
    assert!(holds(named("node", "Shop")));
    assert!(!holds(named("other", "Shop")));
    assert!(!holds(named("node", "other")));
    let either = Clients::of(&[named("other", "Shop"), named("node", "Shop")]).unwrap();
    assert!(either.have("node", &metadata()));
    assert!(Clients::of(&[]).unwrap().have("node", &metadata()));
}

#[test]
fn what_cannot_be_read_is_refused_by_its_field() {
    let regex = MatchPattern::SafeRegex(RegexMatcher { regex: "(".into() });
    let of_id = NodeMatcher {
        node_id: Some(string(regex, false)),
        ..NodeMatcher::default()
    };
    let without_path = NodeMatcher {
        node_metadatas: vec![StructMatcher {
            path: Vec::new(),
            value: Some(is(Match::BoolMatch(true))),
        }],
        ..NodeMatcher::default()
    };
    for (matcher, expected) in [
        (of_id, "node_matchers[0].node_id: safe_regex: "),
        (
            without_path,
            "node_matchers[0].node_metadatas[0].path: empty",
        ),
    ] {
        let found = Clients::of(&[matcher]).unwrap_err();
        assert!(found.starts_with(expected), "{found}");
    }
}
