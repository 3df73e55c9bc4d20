//! `--exit-with-parent`: a child that was started with a pipe as standard input ends when the pipe does, so
//! that nothing outlives a parent that was killed. Works everywhere, unlike the parent-death signal, which
//! follows a thread. And `--exit-without-data-dir`, for a control plane that somebody starts by hand in the
//! directory of a demo: there is no pipe, but the demo removes the directory when it ends.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;

/// How often the data directory is looked for.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
pub(crate) struct LifeArgs {
    /// End at once when standard input is closed.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
    /// Remove this directory then.
    #[arg(long, hide = true, requires = "exit_with_parent", value_name = "DIR")]
    remove_at_exit: Option<PathBuf>,
}

impl LifeArgs {
    pub(crate) fn is_asked_for(&self) -> bool {
        self.exit_with_parent
    }

    pub(crate) fn watch(&self) -> anyhow::Result<()> {
        if !self.exit_with_parent {
            return Ok(());
        }
        let remove = self.remove_at_exit.clone();
        thread::Builder::new()
            .name("parent".to_owned())
            .spawn(move || {
                let mut ignored = [0; 64];
                while matches!(std::io::stdin().lock().read(&mut ignored), Ok(1..)) {}
                if let Some(dir) = remove {
                    // The parent may have removed it already.
                    std::fs::remove_dir_all(dir).ok();
                }
                // Nobody is left to tell, and nothing of ours is worth a goodbye.
                std::process::exit(0);
            })
            .context("starting the thread that watches the parent")?;
        Ok(())
    }
}

/// Ends the process when `dir` is gone: what it would still write is lost, and nobody would end it.
pub(crate) fn watch_dir(dir: &Path) -> anyhow::Result<()> {
    if is_gone(dir) {
        bail!(
            "{} is gone, so what kept its state there is over",
            dir.display()
        );
    }
    let dir = dir.to_owned();
    thread::Builder::new()
        .name("data-dir".to_owned())
        .spawn(move || {
            wait_until_gone(&dir, LOOK);
            tracing::warn!(data_dir = %dir.display(), "the data directory is gone; ending");
            end();
        })
        .context("starting the thread that watches the data directory")?;
    Ok(())
}

#[expect(
    clippy::exit,
    reason = "a drain would write into the directory that is gone"
)]
fn end() -> ! {
    std::process::exit(0)
}

#[expect(
    clippy::disallowed_methods,
    reason = "on a thread of its own, not a runtime's"
)]
fn wait_until_gone(dir: &Path, every: Duration) {
    while !is_gone(dir) {
        thread::sleep(every);
    }
}

/// Not merely unreadable for a moment.
fn is_gone(dir: &Path) -> bool {
    matches!(dir.try_exists(), Ok(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watch_ends_with_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let watch = thread::spawn(move || wait_until_gone(&path, Duration::from_millis(1)));
        assert!(!watch.is_finished());
        dir.close().unwrap();
        watch.join().unwrap();
    }

    #[test]
    fn a_directory_that_is_gone_already_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = watch_dir(&dir.path().join("state")).unwrap_err();
        assert!(error.to_string().contains("is gone"), "{error}");
    }
}
