use std::time::Duration;

use super::*;

const OPEN: Others = Others {
    make: true,
    switch: true,
};
const DONE: Others = Others {
    make: false,
    switch: false,
};
const MADE: Others = Others {
    make: false,
    switch: true,
};

#[test]
fn a_stream_sees_how_far_the_others_of_its_node_have_got_with_the_same_state() {
    let together = Arc::<Together>::default();
    let (mut a, b) = (
        together.join("node", None).unwrap(),
        together.join("node", None).unwrap(),
    );
    let first = Instant::now();
    assert_eq!(a.others(first), OPEN);
    b.tell(first, MADE);
    assert_eq!(a.others(first), MADE);
    b.tell(first, DONE);
    assert_eq!(a.others(first), DONE);
    assert_eq!(
        a.others(first + Duration::from_millis(1)),
        OPEN,
        "a newer one"
    );
}

#[test]
fn a_stream_waits_for_nobody_else_and_for_nobody_who_has_gone() {
    let together = Arc::<Together>::default();
    let mut a = together.join("node", None).unwrap();
    let _other = together.join("other", None);
    let identity: Arc<str> = "spiffe://cluster.local/ns/default/sa/a".into();
    let _claims = together.join("node", Some(&identity));
    assert_eq!(a.others(Instant::now()), DONE);
    let b = together.join("node", None);
    assert_eq!(a.others(Instant::now()), OPEN);
    drop(b);
    assert_eq!(a.others(Instant::now()), DONE);
}

#[test]
fn nothing_is_left_of_a_node_without_streams() {
    let together = Arc::<Together>::default();
    let (a, b) = (together.join("node", None), together.join("node", None));
    drop(a);
    assert_eq!(together.len(), 1);
    drop(b);
    assert_eq!(together.len(), 0);
}

#[test]
fn the_streams_of_a_node_are_bounded() {
    let together = Arc::<Together>::default();
    let mut all: Vec<_> = (0..MAX_MEMBERS)
        .map(|_| together.join("node", None).unwrap())
        .collect();
    assert!(together.join("node", None).is_none());
    all.pop();
    assert!(together.join("node", None).is_some());
}

#[test]
fn clusters_are_owed_to_whoever_takes_them_first() {
    let together = Arc::<Together>::default();
    let (a, b) = (
        together.join("node", None).unwrap(),
        together.join("node", None).unwrap(),
    );
    let seen = Instant::now();
    a.owe(["x".into(), "y".into()].into(), seen);
    let before = seen.checked_sub(Duration::from_millis(1)).unwrap();
    assert_eq!(b.take_owed(before).len(), 0, "not before it has seen them");
    assert_eq!(b.take_owed(seen).len(), 2);
    assert_eq!(b.take_owed(seen).len(), 0);
}

#[tokio::test]
async fn a_stream_hears_when_another_has_got_further_and_alone_nothing_of_itself() {
    let together = Arc::<Together>::default();
    let mut a = together.join("node", None).unwrap();
    a.tell(Instant::now(), DONE);
    assert!(!a.changes.has_changed().unwrap());
    let b = together.join("node", None).unwrap();
    b.tell(Instant::now(), MADE);
    a.changed().await;
    a.others(Instant::now());
    drop(b);
    a.changed().await;
}
