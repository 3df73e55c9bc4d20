use super::*;
use crate::snapshot::View;

fn resource(name: &str, content: &str) -> Arc<ResourceBytes> {
    ResourceBytes::new(ResourceType::Cluster, name, &content.to_owned())
}

fn all(shared: &Arc<TypeMap>) -> Set {
    let resources = Resources {
        shared: Arc::clone(shared),
        own: TypeMap::empty(),
        view: View::AsIs,
    };
    Set::All(resources, Vec::new())
}

fn names(set: Option<Set>) -> Option<Vec<String>> {
    let names = set?
        .into_resources()
        .into_iter()
        .map(|one| one.name.to_string());
    Some(names.collect())
}

#[test]
fn a_set_is_found_by_its_version_and_its_type() {
    let sets = Sets::default();
    sets.keep(ResourceType::Cluster, "1", || {
        Set::Named(vec![resource("a", "1")])
    });
    assert_eq!(
        names(sets.get(ResourceType::Cluster, "1")),
        Some(vec!["a".to_owned()])
    );
    assert_eq!(names(sets.get(ResourceType::Cluster, "2")), None);
    assert_eq!(names(sets.get(ResourceType::Listener, "1")), None);
}

#[test]
fn the_number_of_sets_is_bounded_and_the_least_used_goes_first() {
    let sets = Sets::default();
    let keep = |version: usize| {
        sets.keep(ResourceType::Cluster, &version.to_string(), || {
            all(&TypeMap::empty())
        });
    };
    (0..MAX_SETS).for_each(keep);
    assert!(sets.get(ResourceType::Cluster, "0").is_some());
    keep(MAX_SETS);
    assert!(sets.get(ResourceType::Cluster, "0").is_some(), "just used");
    assert!(sets.get(ResourceType::Cluster, "1").is_none());
}

#[test]
fn what_sets_keep_alive_is_bounded() {
    let sets = Sets::default();
    let large = "x".repeat(MAX_BYTES / 10);
    for version in 0..30 {
        let map = TypeMap::following(None, [resource(&version.to_string(), &large)]);
        let version = version.to_string();
        sets.keep(ResourceType::Cluster, &version, || all(&map));
        assert!(sets.bytes() <= MAX_BYTES, "{}", sets.bytes());
        assert!(sets.get(ResourceType::Cluster, &version).is_some());
    }
    assert!(sets.get(ResourceType::Cluster, "0").is_none());
}

#[test]
fn a_map_that_many_sets_share_counts_once() {
    let sets = Sets::default();
    let map = TypeMap::following(None, [resource("a", &"x".repeat(1000))]);
    for version in ["1", "2", "3"] {
        sets.keep(ResourceType::Cluster, version, || all(&map));
    }
    assert!(sets.bytes() < 2000, "{}", sets.bytes());
}

#[test]
fn a_version_is_recognized_only_if_it_is_that_of_the_resources() {
    let sets = Sets::default();
    let (a, b) = (resource("a", "1"), resource("b", "1"));
    let map = TypeMap::following(None, [Arc::clone(&a), Arc::clone(&b)]);
    let Set::All(resources, _) = all(&map) else {
        unreachable!()
    };
    let both = version_of(&[Arc::clone(&a), b]);
    let one = version_of(&[a]);
    let kind = ResourceType::Cluster;
    sets.recognize(kind, "other", &[], &resources);
    assert!(sets.get(kind, "other").is_none());
    sets.recognize(kind, &both, &["a".to_owned()], &resources);
    assert!(sets.get(kind, &both).is_none());
    sets.recognize(kind, &both, &[], &resources);
    assert!(sets.get(kind, &both).is_some());
    sets.recognize(kind, &one, &["a".to_owned(), "c".to_owned()], &resources);
    assert_eq!(names(sets.get(kind, &one)), Some(vec!["a".to_owned()]));
}
