use super::*;

fn resource(name: &str, content: &str) -> Arc<ResourceBytes> {
    ResourceBytes::new(ResourceType::Endpoint, name, &content.to_owned())
}

fn map(resources: &[(&str, &str)]) -> Arc<TypeMap> {
    TypeMap::following(
        None,
        resources.iter().map(|(name, text)| resource(name, text)),
    )
}

fn changed(now: &TypeMap, since: &TypeMap) -> Option<Vec<String>> {
    let names = now.changed_since(since.generation)?;
    Some(names.iter().map(ToString::to_string).collect())
}

#[test]
fn who_missed_several_generations_is_told_what_changed_in_any_of_them() {
    let first = map(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
    let second = TypeMap::with(&first, [resource("c", "2")]);
    let third = TypeMap::with(&second, [resource("a", "2"), resource("c", "3")]);
    let fourth = TypeMap::following(
        Some(&third),
        ["a", "c"].map(|name| third.get(name).unwrap().clone()),
    );
    let names = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
    assert_eq!(changed(&fourth, &fourth), names(&[]));
    assert_eq!(changed(&fourth, &third), names(&["b", "d"]));
    assert_eq!(changed(&fourth, &second), names(&["a", "b", "c", "d"]));
    assert_eq!(changed(&third, &first), names(&["a", "c"]));
    assert_eq!(changed(&fourth, &map(&[])), None);
}

#[test]
fn who_missed_more_than_is_remembered_looks_at_everything() {
    let first = map(&[("a", "0")]);
    let mut last = Arc::clone(&first);
    let mut remembered = Arc::clone(&first);
    for n in 1..=MAX_STEPS + 1 {
        last = TypeMap::with(&last, [resource("a", &n.to_string())]);
        if n == 1 {
            remembered = Arc::clone(&last);
        }
    }
    assert_eq!(changed(&last, &first), None);
    assert_eq!(changed(&last, &remembered), Some(vec!["a".to_owned()]));
}

#[test]
fn what_is_the_same_is_no_new_map() {
    let first = map(&[("a", "1"), ("b", "1")]);
    let same = TypeMap::with(&first, [resource("b", "1")]);
    assert!(Arc::ptr_eq(&first, &same));
    let again = TypeMap::following(Some(&first), [resource("b", "1"), resource("a", "1")]);
    assert!(Arc::ptr_eq(&first, &again));
}
