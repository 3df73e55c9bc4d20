use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::{Edit, Facts, HeaderEdits, Moment, Share, StringMatch, bucket::TokenBucket};

fn put(name: &'static str, value: &'static str, put: Put) -> Mutation {
    let edit = Edit::Plain(HeaderValue::from_static(value));
    Mutation::Put(HeaderName::from_static(name), edit, put)
}

fn edited(given: &[(&'static str, &'static str)], mutations: &[Mutation]) -> Vec<String> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        headers.append(*name, HeaderValue::from_static(value));
    }
    for mutation in mutations {
        mutation.apply(&mut headers, &Facts::default());
    }
    let mut left: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    left.sort();
    left
}

#[test]
fn a_header_is_written_as_its_action_says() {
    for (action, present, absent) in [
        (Put::Append, &["a: 1", "a: 2"][..], &["a: 2"][..]),
        (Put::IfAbsent, &["a: 1"], &["a: 2"]),
        (Put::Overwrite, &["a: 2"], &["a: 2"]),
        (Put::OverwriteExisting, &["a: 2"], &[]),
    ] {
        let mutations = [put("a", "2", action)];
        assert_eq!(edited(&[("a", "1")], &mutations), present, "{action:?}");
        assert_eq!(edited(&[], &mutations), absent, "{action:?}");
    }
}

#[test]
fn mutations_come_one_after_the_other() {
    let first = HeaderName::from_static("a");
    let mutations = [put("a", "2", Put::Append), Mutation::Remove(first)];
    assert_eq!(edited(&[("a", "1")], &mutations), [""; 0]);
    let mutations = [
        Mutation::Remove(HeaderName::from_static("a")),
        put("a", "2", Put::Append),
    ];
    assert_eq!(edited(&[("a", "1")], &mutations), ["a: 2"]);
}

#[test]
fn what_frames_a_message_is_not_removed_by_a_pattern() {
    let all = [Mutation::RemoveMatching(StringMatch::Prefix(
        String::new(),
        false,
    ))];
    let left = edited(
        &[("host", "h"), ("content-length", "3"), ("x-a", "1")],
        &all,
    );
    assert_eq!(left, ["content-length: 3", "host: h"]);
}

fn mutating(value: &'static str) -> Arc<HeaderMutation> {
    Arc::new(HeaderMutation {
        request: vec![put("last", value, Put::Overwrite)],
        ..HeaderMutation::default()
    })
}

fn filters(disabled: bool, filter: Filter) -> HttpSettings {
    HttpSettings {
        filters: vec![HttpFilter {
            name: "it".into(),
            disabled,
            filter,
        }],
        ..HttpSettings::default()
    }
}

fn saying(name: &str, on: bool, settings: Option<Settings>) -> Overrides {
    Overrides::new(vec![(name.into(), Override { on, settings })])
}

#[test]
fn the_most_specific_mutation_has_the_last_word_only_if_it_is_asked_for() {
    let more = Settings::HeaderMutation(vec![mutating("table"), mutating("route")]);
    let overrides = saying("it", true, Some(more));
    for (most_specific_wins, last) in [(false, "table"), (true, "route")] {
        let own = mutating("own");
        let filters = filters(
            false,
            Filter::HeaderMutation {
                own,
                most_specific_wins,
            },
        );
        let mut headers = HeaderMap::new();
        for filter in filters.in_force(Some(&overrides)) {
            let InForce::HeaderMutation(mutations) = filter else {
                panic!("{filter:?}")
            };
            for mutation in mutations.each().flat_map(|one| &one.request) {
                mutation.apply(&mut headers, &Facts::default());
            }
        }
        assert_eq!(headers["last"], last);
    }
}

#[test]
fn a_route_switches_a_filter_off_and_one_that_is_off_on() {
    let rbac = || Filter::Rbac(Arc::default());
    let of_route = || Some(Settings::Rbac(Arc::default()));
    for (disabled, said, on) in [
        (false, None, true),
        (true, None, false),
        (false, Some(saying("it", false, None)), false),
        (true, Some(saying("it", true, None)), true),
        (true, Some(saying("it", true, of_route())), true),
        (true, Some(saying("another", true, of_route())), false),
        (false, Some(saying("another", false, None)), true),
    ] {
        let filters = filters(disabled, rbac());
        let found = filters.in_force(said.as_ref()).count();
        assert_eq!(found, usize::from(on), "{disabled} {said:?}");
    }
}

#[test]
fn settings_of_another_kind_change_nothing() {
    let deny_all = Rbac {
        rules: Some(crate::Rules::new(crate::RbacAction::Allow, Vec::new())),
        shadow: None,
        marks: None,
    };
    let filters = filters(false, Filter::Rbac(Arc::new(deny_all)));
    let overrides = saying("it", true, Some(Settings::HeaderMutation(Vec::new())));
    let found = filters.in_force(Some(&overrides)).next();
    assert!(matches!(found, Some(InForce::Rbac(rbac)) if rbac.rules.is_some()));
}

fn limit(enabled: Share, enforced: Share) -> LocalRateLimit {
    LocalRateLimit {
        bucket: TokenBucket::new(1, 1, Duration::from_secs(1)).unwrap(),
        enabled,
        enforced,
        status: 429,
        grpc_status: 14,
        response_headers: HeaderEdits::default(),
        request_headers: HeaderEdits::default(),
        tells: false,
    }
}

#[test]
fn a_limit_refuses_as_far_as_it_is_enabled_and_enforced() {
    let mut rng = fastrand::Rng::with_seed(7);
    for (enabled, enforced, verdicts) in [
        (
            Share::ALL,
            Share::ALL,
            [RateVerdict::Allowed, RateVerdict::Refused],
        ),
        (
            Share::ALL,
            Share::NONE,
            [RateVerdict::Allowed, RateVerdict::Spared],
        ),
        (Share::NONE, Share::ALL, [RateVerdict::NotAsked; 2]),
    ] {
        let limit = limit(enabled, enforced);
        let found = verdicts.map(|_| limit.judge(Moment(0), &mut rng));
        assert_eq!(found, verdicts);
    }
}
