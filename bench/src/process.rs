//! Child processes: started, waited for until they say so, measured in `/proc`, ended with the rig.

use std::{
    fs,
    io::{self, Read as _},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Ticks a second in `/proc/PID/stat` (`USER_HZ`): 100 on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long anything may take to start.
pub(crate) const START: Duration = Duration::from_secs(30);

/// A child, killed on drop.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    // Held open: `backend` ends when it closes, even if this process is killed.
    _stdin: ChildStdin,
}

impl Process {
    pub(crate) fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}: {:?}", command.as_std().get_program()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self {
            name: name.to_owned(),
            lines: BufReader::new(stdout).lines(),
            _stdin: child.stdin.take().context("no standard input")?,
            child,
        })
    }

    /// Starts and waits for the line `ready {json}`.
    pub(crate) async fn start_ready(
        name: &str,
        command: Command,
    ) -> anyhow::Result<(Self, serde_json::Value)> {
        let mut process = Self::start(name, command)?;
        let line = process.line(START).await?;
        let json = line
            .strip_prefix("ready ")
            .with_context(|| format!("{name} said {line:?} instead of `ready {{…}}`"))?;
        let ready = serde_json::from_str(json).with_context(|| format!("{name}: {line}"))?;
        Ok((process, ready))
    }

    pub(crate) async fn line(&mut self, patience: Duration) -> anyhow::Result<String> {
        timeout(patience, self.lines.next_line())
            .await
            .with_context(|| format!("{} said nothing for {patience:?}", self.name))??
            .with_context(|| format!("{} ended early; its messages are above", self.name))
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child
            .id()
            .with_context(|| format!("{} has ended", self.name))
    }

    /// Waits for a process that ends by itself.
    pub(crate) async fn ended(mut self, patience: Duration) -> anyhow::Result<()> {
        let status = timeout(patience, self.child.wait())
            .await
            .with_context(|| format!("{} did not end within {patience:?}", self.name))??;
        anyhow::ensure!(status.success(), "{}: {status}", self.name);
        Ok(())
    }
}

/// CPU and memory of some processes at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time since they started, all threads.
    pub(crate) cpu_seconds: f64,
    /// `VmRSS`, summed.
    pub(crate) rss_kib: u64,
}

impl Usage {
    pub(crate) fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            sum.cpu_seconds +=
                cpu_ticks(&stat).context("/proc/PID/stat")? as f64 / TICKS_PER_SECOND;
            sum.rss_kib += rss_kib(&status).context("/proc/PID/status")?;
        }
        Ok(sum)
    }
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name in brackets may hold anything; fields count from behind it: state is the third.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11); // utime is the 14th
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn rss_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// This program, for a subcommand of it.
pub(crate) fn this_program() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

/// Until the process at the other end of standard input is gone.
pub(crate) async fn parent_gone() {
    let (gone, wait) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        while matches!(stdin.read(&mut [0; 16]), Ok(1..)) {}
        drop(gone);
    });
    // An error means that the sender was dropped, and nothing else is ever sent.
    wait.await.unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_user_and_system_time_whatever_the_name() {
        let stat = "7 (a) b c) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (cut"), None);
    }

    #[test]
    fn memory_is_read_in_kib() {
        assert_eq!(rss_kib("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1234));
        assert_eq!(rss_kib("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of(&[std::process::id()]).expect("own figures");
        assert!(usage.rss_kib > 500);
    }
}
