use http::{HeaderName, HeaderValue};

use super::{
    super::{Facts, HeaderEdits},
    headers,
};

#[test]
fn headers_are_removed_then_set_then_added() {
    let pair = |name: &'static str, value: &'static str| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value).into(),
        )
    };
    let edits = HeaderEdits {
        remove: vec![
            HeaderName::from_static("a"),
            HeaderName::from_static("gone"),
        ],
        set: vec![pair("b", "new")],
        add: vec![pair("a", "again"), pair("c", "2")],
    };
    let mut map = headers(&[
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
        ("b", "2"),
        ("c", "1"),
        ("gone", "1"),
    ]);
    edits.apply(&mut map, &Facts::default());
    assert_eq!(
        map,
        headers(&[("b", "new"), ("c", "1"), ("a", "again"), ("c", "2")])
    );
    assert!(HeaderEdits::default().is_empty() && !edits.is_empty());
}
