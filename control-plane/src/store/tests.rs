use std::mem::discriminant;

use prometheus::HistogramOpts;

use super::{policies::Record, testing::Disk, tokens::Redeemed, *};

fn histogram() -> Histogram {
    Histogram::with_opts(HistogramOpts::new("write_seconds", "test")).unwrap()
}

fn open(dir: &Path) -> (Store, Writer) {
    Store::open(dir, histogram()).unwrap()
}

fn record(name: &str, revision: u64, yaml: &str) -> Record {
    Record {
        api_version: "networking.istio.io/v1".into(),
        kind: "VirtualService".into(),
        namespace: "default".into(),
        name: name.into(),
        file: "a.yaml".into(),
        line: 1,
        column: 1,
        yaml: yaml.into(),
        revision,
        author: "operator".into(),
        time_ms: 1,
        deleted: false,
    }
}

fn apply(store: &Store, record: Record) {
    store
        .write_blocking(move |txn| policies::commit(txn, record.revision, &[record]))
        .unwrap();
}

#[test]
fn what_was_answered_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = open(dir.path());
    apply(&store, record("canary", 1, "one"));
    apply(&store, record("canary", 2, "two"));
    drop(store);
    writer.join().unwrap();

    let (store, _writer) = open(dir.path());
    assert_eq!(
        policies::load(&store).unwrap(),
        (2, vec![record("canary", 2, "two")])
    );
}

#[test]
fn a_copy_of_the_file_taken_while_it_is_open_holds_every_answered_write() {
    let dir = tempfile::tempdir().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    let (store, _writer) = open(dir.path());
    apply(&store, record("canary", 1, "one"));
    // As after kill -9: no close, no drop.
    std::fs::copy(dir.path().join(FILE), crashed.path().join(FILE)).unwrap();

    let (after, _writer) = open(crashed.path());
    assert_eq!(
        policies::load(&after).unwrap(),
        (1, vec![record("canary", 1, "one")])
    );
}

#[test]
fn a_second_control_plane_is_told_that_the_directory_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _writer) = open(dir.path());
    let error = Store::open(dir.path(), histogram()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("in use by another control plane"),
        "{error}"
    );
}

#[test]
fn history_keeps_the_newest_hundred_of_an_object() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _writer) = open(dir.path());
    for revision in 1..=105 {
        apply(&store, record("canary", revision, "text"));
    }
    let history = policies::history(&store, |_| true, usize::MAX)
        .unwrap()
        .unwrap();
    let revisions: Vec<u64> = history.iter().map(|record| record.revision).collect();
    assert_eq!(revisions, (6..=105).rev().collect::<Vec<_>>());
}

#[test]
fn an_old_revision_is_dropped_unless_it_is_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _writer) = open(dir.path());
    apply(&store, record("kept", 1, "in force"));
    apply(&store, record("gone", 2, "old"));
    apply(
        &store,
        Record {
            deleted: true,
            ..record("gone", 3, "old")
        },
    );
    apply(&store, record("other", policies::REVISIONS + 3, "new"));
    let history = policies::history(&store, |_| true, usize::MAX)
        .unwrap()
        .unwrap();
    let names: Vec<&str> = history.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["kept", "other"]);
}

#[test]
fn a_token_is_taken_by_one_key_until_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _writer) = open(dir.path());
    let token = tokens::Token {
        namespace: "default".into(),
        service_account: "reviews".into(),
        expires_ms: 100,
        used_ms: None,
        key_sha256: None,
    };
    assert!(
        store
            .write_blocking(move |txn| tokens::create(txn, b"hash", &token, 1))
            .unwrap()
    );
    let redeem = |at: u64, hash: &'static [u8], key: &'static str| {
        let looked = tokens::look(&store, hash, key, at).unwrap();
        let redeemed = store
            .write_blocking(move |txn| tokens::redeem(txn, hash, key, at))
            .unwrap();
        let (looked, same) = (discriminant(&looked), discriminant(&redeemed));
        assert_eq!(looked, same, "looking says what redeeming does");
        redeemed
    };
    assert_eq!(redeem(1, b"other", "key"), Redeemed::Unknown);
    assert!(matches!(redeem(100, b"hash", "key"), Redeemed::Expired(_)));
    assert!(matches!(redeem(99, b"hash", "key"), Redeemed::Valid(_)));
    assert!(matches!(redeem(99, b"hash", "other"), Redeemed::Used(_)));
    assert!(matches!(redeem(99, b"hash", "key"), Redeemed::Again(_)));
    assert!(matches!(redeem(100, b"hash", "key"), Redeemed::Used(_)));
}

#[test]
fn a_full_disk_is_named_and_the_store_goes_on_when_there_is_room_again() {
    let disk = Disk::default();
    let store = disk.open();
    apply(&store, record("before", 1, "one"));
    disk.fill(true);
    let one = record("during", 2, "two");
    let write = || {
        let one = one.clone();
        store.write_blocking(move |txn| policies::commit(txn, 2, &[one]))
    };
    for _ in 0..3 {
        let error = write().unwrap_err().to_string();
        assert!(error.contains("no storage space"), "{error}");
        assert!(!store.is_usable());
    }
    disk.fill(false);
    apply(&store, record("after", 2, "three"));
    assert!(store.is_usable());
    assert_eq!(
        policies::load(&store).unwrap(),
        (
            2,
            vec![record("after", 2, "three"), record("before", 1, "one")]
        )
    );
}

#[test]
fn a_change_that_is_on_disk_although_the_disk_failed_is_answered_as_done() {
    let disk = Disk::default();
    let store = disk.open();
    disk.fail_next_sync();
    apply(&store, record("a", 1, "one"));
    assert_eq!(
        policies::load(&store).unwrap(),
        (1, vec![record("a", 1, "one")])
    );
    apply(&store, record("b", 2, "two"));
    assert!(store.is_usable());
}

#[test]
fn a_change_that_turns_out_to_be_on_disk_after_its_answer_stops_the_store() {
    let disk = Disk::default();
    let store = disk.open();
    disk.die_at_next_sync();
    let write = || store.write_blocking(|txn| policies::commit(txn, 1, &[record("a", 1, "one")]));
    let error = write().unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error}");
    disk.fill(false);
    for _ in 0..2 {
        let error = write().unwrap_err();
        assert!(matches!(error, StoreError::Diverged), "{error}");
        assert!(!store.is_usable());
    }
    assert_eq!(policies::load(&disk.open()).unwrap().0, 1);
}

#[test]
fn a_reader_does_not_keep_a_closed_file_from_being_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let db = Database::create(&path).unwrap();
    let _reader = db.begin_read().unwrap();
    drop(db);
    Database::create(&path).unwrap();
}
