//! `outrigger leave`: before an application is stopped by somebody else, its sidecar sends everybody elsewhere.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use clap::Args;

use crate::{duration, failure::Failure, wait::ask};

const LOOK: Duration = Duration::from_millis(50);

/// Have others go elsewhere before an application is stopped, and wait until they have.
///
/// For what stops the application and its sidecar separately, the application first: systemd (ExecStop= of the application's
/// unit), Kubernetes (preStop of its container). The sidecar says at its readiness port that it leaves, tells the registry, and
/// serves whatever comes all the same, until it is ended.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger leave
  outrigger leave --admin 127.0.0.1:15000 --timeout 20s")]
pub(crate) struct LeaveArgs {
    /// Admin port of the sidecar. Who may: root, the sidecar's own user, and --admin-user of it.
    #[arg(
        long,
        default_value = "127.0.0.1:15000",
        value_name = "ADDR",
        env = "OUTRIGGER_ADMIN"
    )]
    admin: SocketAddr,
    /// How long to wait at most; the sidecar itself waits no longer than its --drain-time.
    #[arg(long, default_value = "20s", value_parser = duration::parse)]
    timeout: Duration,
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is one thread and nothing else to do"
)]
pub(crate) fn run(args: &LeaveArgs) -> Result<(), Failure> {
    let begun = Instant::now();
    match ask(args.admin, "POST", "/leave")? {
        (202, _) => {}
        (status, body) => {
            return Err(anyhow!(
                "the sidecar at {} does not leave: {status} {}",
                args.admin,
                body.trim()
            )
            .into());
        }
    }
    while !has_left(args.admin)? {
        if begun.elapsed() >= args.timeout {
            return Err(anyhow!(
                "others have not left the sidecar at {} after {:?}",
                args.admin,
                args.timeout
            )
            .into());
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn has_left(admin: SocketAddr) -> anyhow::Result<bool> {
    let (status, body) = ask(admin, "GET", "/server_info")?;
    if status != 200 {
        bail!("the sidecar at {admin} does not say how it is: {status}");
    }
    let info: serde_json::Value = serde_json::from_str(&body)?;
    Ok(info.get("state").and_then(serde_json::Value::as_str) == Some("LEFT"))
}
