//! One child: started with a pipe as its life-line, its logs in a file, ready when it says so.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

/// How long a child may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of a dead child's log that are shown.
const SHOWN_LINES: usize = 15;

#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    stdin: ChildStdin,
    pid: u32,
    log: PathBuf,
    over: bool,
}

/// What to start.
#[derive(Debug)]
pub(super) struct Start {
    /// e.g. `reviews-v2`; also the log's name.
    pub(super) name: String,
    /// Arguments of this very program.
    pub(super) args: Vec<OsString>,
    /// Secrets, which arguments would show to others.
    pub(super) env: Vec<(&'static str, String)>,
}

impl Process {
    /// Starts it and waits for its ready line.
    pub(super) async fn start(start: Start, log_dir: &Path) -> anyhow::Result<(Self, Value)> {
        let Start { name, args, env } = start;
        let log = log_dir.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .arg("--exit-with-parent")
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // Ctrl-C in the terminal is for us; we end the children.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let stdin = child
            .stdin
            .take()
            .context("a child without standard input")?;
        let mut stdout = BufReader::new(child.stdout.take().context("a child without output")?);
        let pid = child.id().context("a child without a number")?;
        let mut process = Self {
            name,
            child,
            stdin,
            pid,
            log,
            over: false,
        };
        let mut line = String::new();
        let ready = match timeout(READY_TIMEOUT, stdout.read_line(&mut line)).await {
            Err(_) => Err(anyhow!("not ready after {} s", READY_TIMEOUT.as_secs())),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(0)) => Err(anyhow!("ended: {}", process.child.wait().await?)),
            Ok(Ok(_)) => line
                .strip_prefix("ready ")
                .and_then(|json| serde_json::from_str(json).ok())
                .ok_or_else(|| anyhow!("said \"{}\" instead of ready", line.trim_end())),
        };
        match ready {
            Ok(ready) => {
                // Read on, so that the child never writes into a closed pipe.
                tokio::spawn(async move {
                    tokio::io::copy(&mut stdout, &mut tokio::io::sink())
                        .await
                        .ok();
                });
                Ok((process, ready))
            }
            Err(error) => {
                process.over = true;
                Err(error.context(format!("{}\n{}", process.name, process.last_words())))
            }
        }
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Writes a line to its standard input.
    pub(super) async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        let told = self.stdin.write_all(line.as_bytes()).await;
        told.with_context(|| format!("writing to {}", self.name))
    }

    /// That it has ended, once.
    pub(super) fn news(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        let status = self.child.try_wait().ok()??;
        self.over = true;
        Some(format!("{} ended: {status}", self.name))
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(SHOWN_LINES)..)
            .unwrap_or_default()
            .join("\n")
    }
}

/// The address under `field` of a ready line.
pub(super) fn address(ready: &Value, field: &str) -> anyhow::Result<std::net::SocketAddr> {
    ready
        .get(field)
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| anyhow!("the ready line has no address \"{field}\": {ready}"))
}
