//! `--exit-with-parent`: a child that was started with a pipe as standard input ends when the pipe does, so
//! that nothing outlives a parent that was killed. Works everywhere, unlike the parent-death signal, which
//! follows a thread.

use std::{io::Read as _, path::PathBuf, thread};

use anyhow::Context as _;
use clap::Args;

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
