//! The program under test: built by the cargo that runs the tests, with the same profile, once.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Path of the `outrigger` binary. Builds the workspace's binaries first, so that a test never meets an old one;
/// processes that ask at the same time wait for each other. `OUTRIGGER_BIN` names another binary.
///
/// # Panics
/// When the build fails.
pub fn outrigger() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("OUTRIGGER_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    // <target>/<profile>/deps/specs-0123456789abcdef
    let test = env::current_exe().expect("a running program has a path");
    let profile_dir = test
        .ancestors()
        .find(|dir| dir.file_name().is_some_and(|name| name == "deps"))
        .and_then(Path::parent)
        .expect("cargo puts tests into <target>/<profile>/deps");
    let target_dir = profile_dir
        .parent()
        .expect("a profile's directory is in the target directory");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} is not UTF-8", profile_dir.display()),
    };
    fs::create_dir_all(profile_dir).expect("the target directory can be written");
    let lock = File::create(profile_dir.join(".outrigger-tests.lock")).expect("a lock file");
    lock.lock().expect("the lock file can be locked");
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--workspace",
            "--bins",
            "--quiet",
            "--profile",
            profile,
            "--target-dir",
        ])
        .arg(target_dir)
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "building the binaries failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    profile_dir.join(format!("outrigger{}", env::consts::EXE_SUFFIX))
}

/// The workspace's root.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are in the workspace")
}
