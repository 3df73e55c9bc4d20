use super::*;

/// An endpoint by name.
#[derive(Clone, Debug, PartialEq)]
struct Named {
    name: &'static str,
    locality: Locality,
    labels: Labels,
    weight: u32,
}

impl Located for &Named {
    fn locality(&self) -> &Locality {
        &self.locality
    }

    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn weight(&self) -> u32 {
        self.weight
    }
}

fn locality(text: &str) -> Locality {
    let mut parts = text.split('/').map(str::to_owned);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn endpoint(name: &'static str, at: &str) -> Named {
    Named {
        name,
        locality: locality(at),
        labels: Labels::new(),
        weight: 1,
    }
}

fn place(at: &str) -> Place {
    Place {
        locality: Some(locality(at)),
        labels: Labels::new(),
    }
}

fn failover(labels: &[&str], regions: Option<&[(&str, &str)]>) -> Preference {
    let pair = |(from, to): &(&str, &str)| ((*from).to_owned(), (*to).to_owned());
    Preference::Failover {
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        regions: regions.map(|regions| regions.iter().map(pair).collect()),
    }
}

/// `name:priority` of all endpoints, sorted.
fn priorities(preference: &Preference, place: &Place, endpoints: &[Named]) -> Vec<String> {
    let groups = preference.arrange(place, endpoints);
    let all = groups.iter().flat_map(|group| {
        let members = group.members.iter();
        members.map(|member| format!("{}:{}", member.name, group.priority))
    });
    let mut all: Vec<_> = all.collect();
    all.sort();
    all
}

#[test]
fn the_nearest_come_first_without_gaps() {
    let all = [
        endpoint("sub_zone", "eu/a/1"),
        endpoint("zone", "eu/a/2"),
        endpoint("region", "eu/b/1"),
        endpoint("us", "us/a/1"),
        endpoint("asia", "asia/a/1"),
    ];
    let of = |names: &[&str]| -> Vec<Named> {
        let wanted = all.iter().filter(|one| names.contains(&one.name));
        wanted.cloned().collect()
    };
    let everything = ["sub_zone", "zone", "region", "us", "asia"];
    let to_us: &[(&str, &str)] = &[("eu", "us")];
    type Row<'a> = (
        &'a [&'a str],
        &'a str,
        &'a [(&'a str, &'a str)],
        &'a [&'a str],
    );
    let table: &[Row<'_>] = &[
        (
            &everything,
            "eu/a/1",
            &[],
            &["asia:3", "region:2", "sub_zone:0", "us:3", "zone:1"],
        ),
        (
            &everything,
            "eu/a/1",
            to_us,
            &["asia:4", "region:2", "sub_zone:0", "us:3", "zone:1"],
        ),
        (
            &everything,
            "us/a/1",
            to_us,
            &["asia:1", "region:1", "sub_zone:1", "us:0", "zone:1"],
        ),
        (&["region", "us"], "eu/a/1", &[], &["region:0", "us:1"]),
        (&["us", "asia"], "eu/a/1", to_us, &["asia:1", "us:0"]),
        (&["us", "asia"], "africa/a/1", &[], &["asia:0", "us:0"]),
        (
            &everything,
            "eu",
            &[],
            &["asia:1", "region:0", "sub_zone:0", "us:1", "zone:0"],
        ),
        (&[], "eu/a/1", &[], &[]),
    ];
    for (names, from, regions, expected) in table {
        let preference = failover(&[], Some(regions));
        let found = priorities(&preference, &place(from), &of(names));
        assert_eq!(found, *expected, "{names:?} from {from} {regions:?}");
    }
}

#[test]
fn a_caller_that_does_not_say_where_it_is_prefers_nothing_by_distance() {
    let all = [endpoint("a", "eu/a/1"), endpoint("b", "us/a/1")];
    let found = priorities(&failover(&[], Some(&[])), &Place::default(), &all);
    assert_eq!(found, ["a:0", "b:0"]);
}

#[test]
fn labels_decide_in_their_order() {
    let with = |name, pairs: &[(&str, &str)]| Named {
        labels: labels(pairs),
        ..endpoint(name, "eu/a/1")
    };
    let all = [
        with("both", &[("version", "v1"), ("tier", "x")]),
        with("version", &[("version", "v1"), ("tier", "y")]),
        with("tier", &[("version", "v2"), ("tier", "x")]),
        with("none", &[]),
    ];
    let mine = Place {
        locality: None,
        labels: labels(&[("version", "v1"), ("tier", "x")]),
    };
    let table: &[(&[&str], &[&str])] = &[
        (
            &["version", "tier"],
            &["both:0", "none:2", "tier:2", "version:1"],
        ),
        (
            &["tier", "version"],
            &["both:0", "none:2", "tier:1", "version:2"],
        ),
        (
            &["version=v2"],
            &["both:1", "none:1", "tier:0", "version:1"],
        ),
        (&["other"], &["both:0", "none:0", "tier:0", "version:0"]),
    ];
    for (names, expected) in table {
        let found = priorities(&failover(names, None), &mine, &all);
        assert_eq!(found, *expected, "{names:?}");
    }
}

#[test]
fn a_locality_is_as_good_as_its_labels() {
    let all = [
        endpoint("zone", "eu/a/2"),
        endpoint("region", "eu/b/1"),
        endpoint("far", "us/a/1"),
    ];
    let by = failover(&TOPOLOGY, None);
    let found = priorities(&by, &place("eu/a/1"), &all);
    assert_eq!(found, ["far:2", "region:1", "zone:0"]);
}

#[test]
fn distance_decides_among_those_with_the_same_labels() {
    let with = |name, version: &str, at| Named {
        labels: labels(&[("version", version)]),
        ..endpoint(name, at)
    };
    let all = [
        with("same far", "v1", "us/a/1"),
        with("same near", "v1", "eu/a/1"),
        with("other near", "v2", "eu/a/1"),
        with("other far", "v2", "asia/a/1"),
    ];
    let mine = Place {
        labels: labels(&[("version", "v1")]),
        ..place("eu/a/1")
    };
    let by = failover(&["version"], Some(&[("eu", "us")]));
    let found = priorities(&by, &mine, &all);
    assert_eq!(
        found,
        ["other far:3", "other near:2", "same far:1", "same near:0"]
    );
}

fn shares(entries: &[(&str, &[(&str, u32)])]) -> Preference {
    let entries = entries.iter().map(|(from, to)| Distribute {
        from: (*from).to_owned(),
        to: to
            .iter()
            .map(|(pattern, percent)| ((*pattern).to_owned(), *percent))
            .collect(),
    });
    Preference::Distribute(entries.collect())
}

/// `zone:weight` of all groups.
fn weights(preference: &Preference, place: &Place, endpoints: &[Named]) -> Vec<String> {
    let groups = preference.arrange(place, endpoints);
    let groups = groups.iter();
    groups
        .map(|group| format!("{}:{}", group.locality.join("/"), group.weight))
        .collect()
}

#[test]
fn traffic_is_distributed_by_where_it_comes_from() {
    let all = [
        endpoint("1", "eu/a/1"),
        endpoint("2", "eu/a/1"),
        endpoint("3", "eu/b/1"),
        endpoint("4", "us/a/1"),
    ];
    let split = shares(&[
        ("eu/a/*", &[("eu/a/*", 80), ("us", 20)]),
        ("us", &[("us/*", 100)]),
        ("asia", &[("eu/*", 90), ("us/a/1", 10)]),
    ]);
    let table: &[(&str, &[&str])] = &[
        // What is not named gets nothing.
        ("eu/a/1", &["eu/a/1:80000", "us/a/1:20000"]),
        ("us/b/1", &["us/a/1:100000"]),
        // Within a pattern, by weight of the endpoints.
        (
            "asia/a/1",
            &["eu/a/1:60000", "eu/b/1:30000", "us/a/1:10000"],
        ),
        // No entry is for them.
        ("africa/a/1", &["eu/a/1:2", "eu/b/1:1", "us/a/1:1"]),
    ];
    for (from, expected) in table {
        assert_eq!(weights(&split, &place(from), &all), *expected, "{from}");
    }
    let nowhere = weights(&split, &Place::default(), &all);
    assert_eq!(nowhere, ["eu/a/1:2", "eu/b/1:1", "us/a/1:1"]);
}

#[test]
fn everywhere_includes_callers_that_do_not_say_where_they_are() {
    let all = [endpoint("1", "eu/a/1"), endpoint("2", "us/a/1")];
    let split = shares(&[("*", &[("us", 100)])]);
    assert_eq!(weights(&split, &Place::default(), &all), ["us/a/1:100000"]);
}

#[test]
fn only_what_differs_between_callers_matters() {
    let here = [endpoint("1", "eu/a/1"), endpoint("2", "eu/a/1")];
    let there = [endpoint("1", "eu/a/1"), endpoint("2", "us/a/1")];
    let by_distance = failover(&[], Some(&[]));
    assert!(!by_distance.matters(&here));
    assert!(by_distance.matters(&there));
    assert!(failover(&["version"], None).matters(&here));
    assert!(!failover(&["version"], None).matters(&here[..1]));
    assert!(shares(&[("*", &[("us", 100)])]).matters(&here));
    assert!(!shares(&[("*", &[("us", 100)])]).matters(&here[..0]));
}
