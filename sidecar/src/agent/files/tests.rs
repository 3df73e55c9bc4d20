//! On a real disk.

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;

fn material(n: usize) -> Material {
    Material {
        certificate: format!("certificate {n}"),
        key: format!("key {n}"),
        roots: format!("roots {n}"),
    }
}

fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn the_key_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("new/below");
    let files = CertificateFiles::open(&own).unwrap();
    files.write(&material(1)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&own.join(KEY)), 0o600);
    assert_eq!(mode(&own), 0o700);
}

#[test]
fn a_reader_of_the_directory_sees_one_issue_whenever_it_looks() {
    let dir = tempfile::tempdir().unwrap();
    let files = CertificateFiles::open(dir.path()).unwrap();
    files.write(&material(0)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) || looks == 0 {
                // One look at the link, as a process has that holds the directory.
                let issue = dir
                    .path()
                    .join(fs::read_link(dir.path().join(DATA)).unwrap());
                let read = |name| fs::read_to_string(issue.join(name));
                let (Ok(certificate), Ok(key), Ok(roots)) =
                    (read(CERTIFICATE), read(KEY), read(ROOTS))
                else {
                    // Two switches while we were away: this issue is gone as a whole.
                    continue;
                };
                let number = certificate.strip_prefix("certificate ").unwrap();
                assert_eq!(key, format!("key {number}"));
                assert_eq!(roots, format!("roots {number}"));
                looks += 1;
            }
        });
        let mut issue = 0;
        // Slower than any authority, faster than any test: a directory stays for one switch more.
        while issue < 50 {
            issue += 1;
            files.write(&material(issue)).unwrap();
            // Each link leads somewhere at all times.
            assert_eq!(text(dir.path(), KEY), format!("key {issue}"));
            thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}

#[test]
fn old_issues_are_removed_but_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let files = CertificateFiles::open(dir.path()).unwrap();
    for n in 0..5 {
        files.write(&material(n)).unwrap();
    }
    let issues = fs::read_dir(dir.path()).unwrap().flatten();
    let issues = issues.filter(|entry| entry.file_type().unwrap().is_dir());
    assert_eq!(issues.count(), 2);
}

#[test]
fn an_issue_that_cannot_be_written_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files = CertificateFiles::open(dir.path()).unwrap();
    files.write(&material(1)).unwrap();
    // A directory where the new link would be made: as if the disk were full at the last step.
    fs::create_dir(dir.path().join("..new-data")).unwrap();
    let error = files.write(&material(2)).unwrap_err().to_string();
    assert!(error.starts_with("cannot write"), "{error}");
    for (name, expected) in [
        (CERTIFICATE, "certificate 1"),
        (KEY, "key 1"),
        (ROOTS, "roots 1"),
    ] {
        assert_eq!(text(dir.path(), name), expected);
    }
}

#[test]
fn what_was_not_made_here_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(KEY), "somebody's").unwrap();
    let error = CertificateFiles::open(dir.path()).unwrap_err();
    assert!(matches!(error, FilesError::NotOurs { .. }), "{error}");
    assert_eq!(text(dir.path(), KEY), "somebody's");
}

#[test]
fn nothing_kept_is_nothing_and_what_is_broken_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let files = CertificateFiles::open(dir.path()).unwrap();
    assert!(files.kept().is_none());
    files.write(&material(1)).unwrap();
    let error = files.kept().unwrap().err().unwrap();
    assert_eq!(error, "cert.pem holds no certificate");
}
