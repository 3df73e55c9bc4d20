//! The application, if it is ours to start: it is told in its environment what it has to know, has our signals passed
//! on, and its exit status becomes ours.
//!
//! It stays in our process group, so that a terminal treats both as one job: what is typed (`^C`, `^\`, `^Z`) reaches the
//! application from the terminal, and is not sent a second time. As process 1 of a container we also take up what
//! others leave behind.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Command as Program, ExitStatus},
    task::Poll,
    time::Duration,
};

use rlimit::Resource;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, getpgrp, kill_process, waitpid},
    termios::tcgetpgrp,
};
use tokio::signal::unix::{self, SignalKind, signal};

/// Signals that mean something to some programs; those that end us are passed on by who drains.
const PASSED: [Signal; 6] = [
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::CONT,
];

/// The application did not start.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no program in it.
    #[error("the command is empty; give a program after --")]
    Empty,
    /// It cannot be executed.
    #[error("cannot start the command {program:?}; is it installed, and executable?")]
    Start {
        /// Its first word.
        program: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Its signals cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
}

impl CommandError {
    /// As shells say it: 127, there is no such program; 126, it cannot be executed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
            Self::Empty | Self::Signals(_) => 1,
        }
    }
}

/// What it finds in its environment, beside what we found in ours.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub(crate) set: Vec<(String, OsString)>,
    pub(crate) unset: Vec<String>,
    /// Open files that it may have, if that is less than we may.
    pub(crate) open_files: Option<u64>,
}

/// Ours alone: they say who we are, and whom we tell how we are.
const OURS: [&str; 5] = [
    "OUTRIGGER_JOIN_TOKEN",
    "OUTRIGGER_JOIN_TOKEN_FILE",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

impl Environment {
    /// All that we found but our secrets, and what our supervisor told us alone.
    pub(crate) fn without_ours() -> Self {
        Self {
            unset: OURS.map(str::to_owned).into(),
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.set.push((name.to_owned(), value.into()));
        self
    }
}

/// A running application. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Command {
    pid: Pid,
    code: Option<u8>,
    /// We are process 1: orphans are ours, too.
    takes_all: bool,
    ended: unix::Signal,
    passed: Vec<(unix::Signal, Signal)>,
}

impl Command {
    /// Starts `command`, whose first word is the program, with our standard input and output.
    ///
    /// # Errors
    /// [`CommandError`].
    pub(crate) fn start(
        command: &[String],
        environment: &Environment,
    ) -> Result<Self, CommandError> {
        let (program, arguments) = command.split_first().ok_or(CommandError::Empty)?;
        let listen = |kind| signal(kind).map_err(CommandError::Signals);
        // Before the start, so that no end is missed.
        let ended = listen(SignalKind::child())?;
        let ignored = ignored();
        let heard = PASSED
            .iter()
            .filter(|signal| !ignored.contains(**signal))
            .map(|signal| Ok((listen(SignalKind::from_raw(signal.as_raw()))?, *signal)));
        let passed = heard.collect::<Result<_, CommandError>>()?;
        let mut program_of = Program::new(program);
        program_of.args(arguments);
        for name in &environment.unset {
            program_of.env_remove(name);
        }
        program_of.envs(environment.set.iter().map(|(name, value)| (name, value)));
        let failed = |source| CommandError::Start {
            program: program.clone(),
            source,
        };
        let child =
            with_open_files(environment.open_files, || program_of.spawn()).map_err(failed)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Self {
            pid: pid.ok_or_else(|| failed(io::Error::other("it has no process number")))?,
            code: None,
            takes_all: std::process::id() == 1,
            ended,
            passed,
        })
    }

    /// Its exit code, once it has ended. May be called again.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) async fn ended(&mut self) -> io::Result<u8> {
        loop {
            if let Some(code) = self.reap()? {
                return Ok(code);
            }
            tokio::select! {
                _ = self.ended.recv() => {}
                signal = next(&mut self.passed) => {
                    if !(signal == Signal::QUIT && is_in_foreground()) {
                        self.send(signal);
                    }
                }
            }
        }
    }

    /// Asks it to end and waits, then ends it.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) async fn end(&mut self, how: SignalKind, within: Duration) -> io::Result<u8> {
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
        self.send(Signal::KILL);
        self.ended().await
    }

    /// Takes up what has ended.
    fn reap(&mut self) -> io::Result<Option<u8>> {
        while self.code.is_none() || self.takes_all {
            let whom = (!self.takes_all).then_some(self.pid);
            match waitpid(whom, WaitOptions::NOHANG) {
                Ok(None) => break,
                Ok(Some((pid, status))) if pid == self.pid => {
                    self.code = Some(code(ExitStatus::from_raw(status.as_raw())));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                // Nobody is left.
                Err(Errno::CHILD) if self.code.is_some() => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.code)
    }

    pub(crate) fn send(&self, signal: Signal) {
        // It has been waited for, and its number may be another's.
        if self.code.is_some() {
            return;
        }
        if let Err(error) = kill_process(self.pid, signal) {
            tracing::debug!(%error, ?signal, "signal was not passed on");
        }
    }
}

impl Drop for Command {
    /// It must not go on alone: nobody renews its certificates, or passes on what it calls.
    fn drop(&mut self) {
        if matches!(self.reap(), Ok(None)) {
            self.send(Signal::KILL);
        }
    }
}

/// Programs that use select(2), or close whatever may be open before they start another, want the usual number. For the
/// moment of the start it is ours as well: what is open stays open.
fn with_open_files<T>(most: Option<u64>, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(most) = most else { return start() };
    let (ours, hard) = Resource::NOFILE.get()?;
    Resource::NOFILE.set(most.min(ours), hard)?;
    let started = start();
    if let Err(error) = Resource::NOFILE.set(ours, hard) {
        tracing::warn!(%error, "the limit on open files is that of the command now");
    }
    started
}

/// The next of the signals.
async fn next(signals: &mut [(unix::Signal, Signal)]) -> Signal {
    std::future::poll_fn(|context| {
        for (heard, signal) in &mut *signals {
            if heard.poll_recv(context) == Poll::Ready(Some(())) {
                return Poll::Ready(*signal);
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether we are the job that a terminal shows: then it sends what is typed to the application itself.
pub(crate) fn is_in_foreground() -> bool {
    File::open("/dev/tty")
        .ok()
        .and_then(|terminal| tcgetpgrp(terminal).ok())
        .is_some_and(|group| group == getpgrp())
}

/// Signals that we were told to ignore by who started us (`nohup`, a shell that put us into the background).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ignored(u64);

impl Ignored {
    pub(crate) fn contains(self, signal: Signal) -> bool {
        let bit = u32::try_from(signal.as_raw() - 1).unwrap_or(u32::MAX);
        self.0.checked_shr(bit).is_some_and(|mask| mask & 1 == 1)
    }
}

/// As they are now: a signal that is listened to is not ignored any more, nor in the application.
pub(crate) fn ignored() -> Ignored {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    Ignored(mask.unwrap_or_default())
}

/// As a shell says it: 128 and the number of the signal that ended it.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}
