//! The application, if it is ours to start: it is told where its bootstrap file is, has our signals passed on, and its
//! exit status becomes ours.

use std::{
    io, os::unix::process::ExitStatusExt as _, path::Path, process::ExitStatus, time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command as Program},
    signal::unix::{self, SignalKind, signal},
};

use super::AgentError;

/// Where gRPC libraries look for their bootstrap file.
const BOOTSTRAP: &str = "GRPC_XDS_BOOTSTRAP";

/// A running application.
#[derive(Debug)]
pub(super) struct Command {
    child: Child,
    /// Signals that mean something to some programs; those that end us are the agent's to pass on.
    hangup: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

impl Command {
    /// Starts `command`, whose first word is the program.
    ///
    /// # Errors
    /// [`AgentError::Command`], or signals cannot be listened to.
    pub(super) fn start(command: &[String], bootstrap: &Path) -> Result<Self, AgentError> {
        let (program, arguments) = command.split_first().ok_or(AgentError::NoCommand)?;
        let child = Program::new(program)
            .args(arguments)
            .env(BOOTSTRAP, bootstrap)
            // It must not go on without its certificates being renewed.
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| AgentError::Command {
                program: program.clone(),
                source,
            })?;
        let listen = |kind| signal(kind).map_err(crate::RunError::Start);
        Ok(Self {
            child,
            hangup: listen(SignalKind::hangup())?,
            user1: listen(SignalKind::user_defined1())?,
            user2: listen(SignalKind::user_defined2())?,
        })
    }

    /// Its exit code, once it has ended. May be called again.
    pub(super) async fn ended(&mut self) -> io::Result<u8> {
        loop {
            let passed = tokio::select! {
                status = self.child.wait() => return Ok(code(status?)),
                _ = self.hangup.recv() => Signal::HUP,
                _ = self.user1.recv() => Signal::USR1,
                _ = self.user2.recv() => Signal::USR2,
            };
            self.send(passed);
        }
    }

    /// Asks it to end and waits, then ends it.
    pub(super) async fn end(&mut self, how: SignalKind, within: Duration) -> io::Result<u8> {
        let asked = if how == SignalKind::interrupt() {
            Signal::INT
        } else {
            Signal::TERM
        };
        self.send(asked);
        if let Ok(ended) = tokio::time::timeout(within, self.ended()).await {
            return ended;
        }
        tracing::warn!(
            ?within,
            "the command did not end when asked to, it is killed"
        );
        self.child.kill().await?;
        self.ended().await
    }

    fn send(&self, signal: Signal) {
        // None = it has been waited for, and its number may be another's.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            return;
        };
        if let Err(error) = kill_process(pid, signal) {
            tracing::debug!(%error, ?signal, "signal was not passed on");
        }
    }
}

/// As a shell says it: 128 and the number of the signal that ended it.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}
