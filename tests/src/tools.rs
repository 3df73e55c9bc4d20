//! Programs that a test needs and a laptop may lack.

use std::{env, path::PathBuf};

/// The program `name` on the path. None, with a loud remark, if it is missing.
///
/// # Panics
/// When it is missing and `CI=true`: there, nothing is skipped.
pub fn tool(name: &str, how_to_get_it: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        missing(name, how_to_get_it);
    }
    found
}

/// Says that a test is skipped; in CI, fails it.
pub(crate) fn missing(name: &str, how_to_get_it: &str) {
    let message = format!("{name} is missing; {how_to_get_it}");
    assert!(env::var("CI").as_deref() != Ok("true"), "{message}");
    eprintln!("\n*** SKIPPED: {message} ***\n");
}
