//! How a command ends when it does not do what it was asked: status 1, failed; status 2, misused; or as what it ran did.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for something that makes no sense. Status 2.
    Misused(String),
    /// Status 1.
    Failed(anyhow::Error),
    /// Everything has been said already. Status 1.
    Reported,
    /// A command that we were to run for somebody else did not start; with the status that shells have for that.
    NotStarted(u8, anyhow::Error),
    /// A command that we ran for somebody else ended with this status, which becomes ours.
    Command(u8),
}

impl Failure {
    /// Says it on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        let mut stderr = io::stderr().lock();
        let said = match self {
            Self::Misused(message) => {
                writeln!(
                    stderr,
                    "error: {message}\n\nFor more information, try '--help'."
                )
            }
            // `{:#}`: the whole chain of causes on one line.
            Self::Failed(error) if broken_pipe(error) => Ok(()),
            Self::Failed(error) | Self::NotStarted(_, error) => {
                writeln!(stderr, "error: {error:#}")
            }
            Self::Reported | Self::Command(_) => Ok(()),
        };
        // Nobody reads standard error: the status still tells.
        said.ok();
        match self {
            Self::Misused(_) => ExitCode::from(2),
            Self::Failed(_) | Self::Reported => ExitCode::FAILURE,
            Self::Command(code) | Self::NotStarted(code, _) => ExitCode::from(*code),
        }
    }
}

/// The reader of our output has seen enough (`outrigger get | head`).
fn broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
