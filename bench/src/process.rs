//! Child processes: started, waited for until they say so, measured in `/proc`, ended with the rig.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, Read as _},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
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
    stdin: ChildStdin,
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
            stdin: child.stdin.take().context("no standard input")?,
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

    /// A line to its standard input.
    pub(crate) async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(())
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

impl Drop for Process {
    /// With its children: those of a killed nginx would live on.
    fn drop(&mut self) {
        let Some(pid) = self.child.id() else { return };
        let family = family(&[pid]);
        drop(self.child.start_kill());
        for child in family.into_iter().skip(1) {
            let child = i32::try_from(child).ok().and_then(Pid::from_raw);
            if let Some(child) = child {
                // Gone already is as good.
                kill_process(child, Signal::KILL).unwrap_or_default();
            }
        }
    }
}

/// CPU and memory of some processes and of their children at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// Nanoseconds on a CPU, by process and thread: exact, but threads that have ended are gone.
    threads: BTreeMap<(u32, u32), u64>,
    /// The same of all threads that ever were, in seconds, in steps of the kernel's ticks.
    ticked_seconds: f64,
    /// `VmRSS`, summed.
    pub(crate) rss_kib: u64,
    /// Of the largest of them.
    pub(crate) largest_rss_kib: u64,
}

impl Usage {
    pub(crate) fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for pid in family(pids) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            sum.ticked_seconds +=
                cpu_ticks(&stat).context("/proc/PID/stat")? as f64 / TICKS_PER_SECOND;
            // None of a process that has just ended and that nobody has asked about yet.
            let rss_kib = kib(&status, "VmRSS:").unwrap_or_default();
            sum.rss_kib += rss_kib;
            sum.largest_rss_kib = sum.largest_rss_kib.max(rss_kib);
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let task = task?;
                let thread = task.file_name().to_string_lossy().parse()?;
                // A thread may end between the two.
                if let Ok(text) = fs::read_to_string(task.path().join("schedstat")) {
                    let spent = text.split(' ').next().and_then(|ns| ns.parse().ok());
                    sum.threads.insert(
                        (pid, thread),
                        spent.context("/proc/PID/task/TID/schedstat")?,
                    );
                }
            }
        }
        Ok(sum)
    }

    /// Seconds on a CPU since `before`. By the threads' own clocks, unless so many of them have ended that the ticks,
    /// which count them, say more.
    pub(crate) fn cpu_since(&self, before: &Self) -> f64 {
        let of = |thread, now: &u64| now.saturating_sub(*before.threads.get(thread).unwrap_or(&0));
        let nanoseconds: u64 = self
            .threads
            .iter()
            .map(|(thread, now)| of(thread, now))
            .sum();
        let exact = nanoseconds as f64 / 1e9;
        let ticked = self.ticked_seconds - before.ticked_seconds;
        if ticked > exact + 4.0 / TICKS_PER_SECOND {
            ticked
        } else {
            exact
        }
    }
}

/// Memory of processes and their children with what they share split among them; `VmRSS` counts it for each.
pub(crate) fn pss_kib(pids: &[u32]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in family(pids) {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        sum += kib(&text, "Pss:").context("/proc/PID/smaps_rollup")?;
    }
    Ok(sum)
}

/// They and all below them.
fn family(pids: &[u32]) -> Vec<u32> {
    let mut all = pids.to_vec();
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    all
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name in brackets may hold anything; fields count from behind it: state is the third.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11); // utime is the 14th
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Percent of all cores that are at work, over so long.
pub(crate) async fn kernel_busy_percent(over: Duration) -> anyhow::Result<f64> {
    let before = all_and_idle(&fs::read_to_string("/proc/stat")?).context("/proc/stat")?;
    tokio::time::sleep(over).await;
    let after = all_and_idle(&fs::read_to_string("/proc/stat")?).context("/proc/stat")?;
    let all = after.0.saturating_sub(before.0).max(1);
    let idle = after.1.saturating_sub(before.1).min(all);
    Ok((all - idle) as f64 * 100.0 / all as f64)
}

/// Ticks of all kinds, and those spent idle or waiting for a disk.
fn all_and_idle(stat: &str) -> Option<(u64, u64)> {
    let mut ticks = stat.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<u64> = ticks
        .by_ref()
        .take(8)
        .map_while(|t| t.parse().ok())
        .collect();
    Some((ticks.iter().sum(), ticks.get(3)? + ticks.get(4)?))
}

/// This program, for a subcommand of it.
pub(crate) fn this_program() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

/// Lines from the process at the other end of standard input.
pub(crate) fn lines_of_parent() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let sent = line.ok().map(|line| sender.blocking_send(line));
            if !matches!(sent, Some(Ok(()))) {
                break;
            }
        }
    });
    receiver
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
    fn a_machine_is_busy_with_whatever_is_not_idle() {
        let stat = "cpu  10 1 5 80 4 0 0 0 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(all_and_idle(stat), Some((100, 84)));
        assert_eq!(all_and_idle("cpu 1"), None);
    }

    #[test]
    fn memory_is_read_in_kib() {
        let status = "Name:\tx\nVmRSS:\t    1234 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(1234));
        assert_eq!(kib(status, "Pss:"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of(&[std::process::id()]).expect("own figures");
        assert!(usage.rss_kib > 500);
        assert!(pss_kib(&[std::process::id()]).expect("own figures") > 100);
    }

    #[test]
    fn cpu_is_exact_and_counts_threads_that_came_and_went() {
        let usage = |threads: &[(u32, u64)], ticked_seconds| Usage {
            threads: threads
                .iter()
                .map(|(thread, ns)| ((1, *thread), *ns))
                .collect(),
            ticked_seconds,
            ..Usage::default()
        };
        let before = usage(&[(1, 1_000_000_000), (2, 500_000_000)], 1.5);
        let grown = usage(&[(1, 1_012_000_000), (3, 2_000_000)], 1.52);
        assert_eq!(grown.cpu_since(&before), 0.014);
        let ended = usage(&[(1, 1_012_000_000)], 2.5);
        assert_eq!(ended.cpu_since(&before), 1.0);
    }
}
