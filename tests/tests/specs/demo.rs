//! The demo shows what the README promises, and leaves nothing behind.

use std::{fs, path::Path, process::Command};

use outrigger_tests::{Process, eventually, outrigger};
use serde_json::Value;

/// Command lines of all processes that name `dir`. Linux.
fn processes_naming(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(dir))
        .collect()
}

#[test]
fn the_demo_once_sees_the_split_the_mutual_tls_and_the_traces_that_it_promises() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(outrigger())
        .args(["demo", "--once", "--json", "--rate", "100"])
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["failures"], 0, "{summary:#}");
    assert_eq!(summary["mtls"], true);
    assert_eq!(summary["traced"], true);
    assert_eq!(summary["plain_text_refused"], true);
    assert!(summary["requests"].as_u64() >= Some(900), "{summary:#}");
    let v2 = summary["split"]["v2"].as_f64().unwrap();
    assert!((8.0..=12.0).contains(&v2), "{summary:#}");
    // Nothing is left behind.
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(processes_naming(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_demo_leaves_neither_process_nor_file() {
    let dir = tempfile::tempdir().unwrap();
    let tmp = dir.path().to_str().unwrap();
    let mut demo = Process::spawn("demo", &["demo".to_owned()], &[("TMPDIR", tmp)]);
    // The heading: everything runs.
    demo.line().await;
    assert!(!processes_naming(dir.path()).is_empty());

    demo.kill();

    eventually("all children are gone", async || {
        match processes_naming(dir.path()) {
            none if none.is_empty() => Ok(()),
            some => Err(some.join("\n")),
        }
    })
    .await;
    eventually("its directory is gone", async || {
        match fs::read_dir(dir.path()).unwrap().count() {
            0 => Ok(()),
            left => Err(format!("{left} entries")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_ends_well_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let tmp = dir.path().to_str().unwrap();
    let mut demo = Process::spawn("demo", &["demo".to_owned()], &[("TMPDIR", tmp)]);
    demo.line().await;

    demo.terminate();

    let status = eventually("it ends", async || demo.ended().ok_or_else(String::new)).await;
    assert!(status.success(), "{status}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(processes_naming(dir.path()).is_empty());
}
