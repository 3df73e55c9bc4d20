//! Standard input: the sidecar's address may come from it, and its end may end the program.

use std::{
    io::{BufRead as _, Read as _},
    net::SocketAddr,
    thread,
};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::Args;

/// The sidecar's address: None until it is known.
pub(crate) type Proxy = watch::Receiver<Option<SocketAddr>>;

/// Starts to watch standard input if `args` ask for it.
pub(crate) fn watch(args: &Args) -> anyhow::Result<Proxy> {
    let from_stdin = args.proxy == "-";
    let known = if from_stdin {
        None
    } else {
        Some(args.proxy.parse().with_context(|| {
            format!(
                "--proxy {}: expected an address like 127.0.0.1:15080, or -",
                args.proxy
            )
        })?)
    };
    let (send, proxy) = watch::channel(known);
    let exit_with_parent = args.exit_with_parent;
    if from_stdin || exit_with_parent {
        // A thread, because a read of standard input cannot be cancelled and would hold up the runtime's end.
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let mut stdin = std::io::stdin().lock();
                if from_stdin {
                    let mut line = String::new();
                    // An unreadable line leaves the address unknown, and every call says so.
                    if stdin.read_line(&mut line).is_ok() {
                        send.send_replace(line.trim().parse().ok());
                    }
                }
                if exit_with_parent {
                    let mut rest = [0; 64];
                    while matches!(stdin.read(&mut rest), Ok(1..)) {}
                    #[expect(clippy::exit, reason = "the parent is gone; nobody is left to tell")]
                    std::process::exit(0);
                }
            })
            .context("starting the thread that reads standard input")?;
    }
    Ok(proxy)
}
