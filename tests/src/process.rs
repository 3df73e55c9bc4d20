//! One process of the program under test: ready when it says so, killed when dropped, its logs shown when the test
//! fails.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

use crate::outrigger;

/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// Lines of its logs that are kept.
const MAX_LINES: usize = 2_000;

type Log = Arc<Mutex<VecDeque<String>>>;

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Its life-line: closed when we are gone, however we went.
    stdin: Option<ChildStdin>,
    stdout: mpsc::Receiver<String>,
    log: Log,
    /// The JSON of its ready line.
    pub ready: Value,
}

impl Process {
    /// Starts `outrigger` with `args` and waits for its ready line.
    ///
    /// # Panics
    /// When it ends instead, or is not ready after 60 s.
    pub async fn start(name: &str, args: &[String], env: &[(&str, &str)]) -> Self {
        Self::ready(Self::spawn(name, args, env)).await
    }

    /// Waits for its ready line.
    ///
    /// # Panics
    /// When it ends instead, or is not ready after 60 s.
    pub(crate) async fn ready(mut process: Self) -> Self {
        let line = process.line().await;
        let json = line
            .strip_prefix("ready ")
            .unwrap_or_else(|| panic!("{} said {line:?}", process.name));
        process.ready = serde_json::from_str(json).expect("the ready line holds JSON");
        process
    }

    /// Starts `outrigger` with `args`, which has no ready line. It ends with us by `--exit-with-parent`, if that is
    /// among `args`.
    pub fn spawn(name: &str, args: &[String], env: &[(&str, &str)]) -> Self {
        Self::spawn_program(name, outrigger(), args, env)
    }

    /// Starts another program that ends with its standard input, with what it starts.
    pub fn spawn_other(name: &str, program: &str, args: &[String], env: &[(&str, &str)]) -> Self {
        Self::spawn_program(name, Path::new(program), args, env)
    }

    /// Starts any other program, which ends with us even if we are killed: a shell beside it waits for the end of
    /// its life-line.
    pub(crate) fn spawn_foreign(name: &str, program: &Path, args: &[String]) -> Self {
        const BESIDE: &str = "\
            exec 3<&0; \"$@\" </dev/null 3<&- & child=$!; \
            (cat <&3 >/dev/null; kill -9 $child 2>/dev/null) & wait $child";
        let mut all = vec!["-c".to_owned(), BESIDE.to_owned(), name.to_owned()];
        all.push(program.display().to_string());
        all.extend_from_slice(args);
        Self::spawn_program(name, Path::new("/bin/sh"), &all, &[])
    }

    /// Starts any other program that reads its standard input to the end, and ends there: with us, however we went.
    pub(crate) fn spawn_tool(
        name: &str,
        program: &Path,
        args: &[String],
        env: &[(&str, &str)],
    ) -> Self {
        Self::spawn_program(name, program, args, env)
    }

    fn spawn_program(name: &str, program: &Path, args: &[String], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("starting {name}: {error}"));
        let stdin = child.stdin.take();
        let log = Log::default();
        let (lines, stdout) = mpsc::channel(64);
        if let Some(output) = child.stdout.take() {
            // Ends when the process closes its output, or nobody listens any more.
            read(output, move |line| lines.blocking_send(line).ok());
        }
        if let Some(output) = child.stderr.take() {
            let log = Arc::clone(&log);
            read(output, move |line| {
                let mut log = log.lock().ok()?;
                if log.len() == MAX_LINES {
                    log.pop_front();
                }
                log.push_back(line);
                Some(())
            });
        }
        Self {
            name: name.to_owned(),
            child,
            stdin,
            stdout,
            log,
            ready: Value::Null,
        }
    }

    /// The next line of its standard output.
    ///
    /// # Panics
    /// When there is none, or not within 60 s.
    pub async fn line(&mut self) -> String {
        match timeout(READY, self.stdout.recv()).await {
            Ok(Some(line)) => line,
            Ok(None) => panic!("{} ended: {:?}", self.name, self.child.wait()),
            Err(_) => panic!("{} said nothing for {READY:?}", self.name),
        }
    }

    /// The next line of its standard output; None = there is none, and will be none.
    ///
    /// # Panics
    /// When it says nothing for 60 s and has not closed it.
    pub async fn next_line(&mut self) -> Option<String> {
        let next = timeout(READY, self.stdout.recv()).await;
        next.unwrap_or_else(|_| panic!("{} said nothing for {READY:?}", self.name))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The text under `field` of the ready line.
    ///
    /// # Panics
    /// When there is none.
    pub fn ready_text(&self, field: &str) -> &str {
        let value = self.ready.get(field).and_then(Value::as_str);
        value.unwrap_or_else(|| panic!("{}: no {field} in {}", self.name, self.ready))
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// When it does not read.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its standard input is open");
        std::io::Write::write_all(stdin, format!("{line}\n").as_bytes()).expect("it reads");
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Asks it to end (SIGTERM) without waiting.
    ///
    /// # Panics
    /// When `kill` cannot be run.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by its name.
    ///
    /// # Panics
    /// When `kill` cannot be run.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .expect("kill runs");
        assert!(status.success(), "{} is gone already", self.name);
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let lines = self.log.lock().expect("no reader of logs has panicked");
        lines
            .iter()
            .fold(String::new(), |text, line| text + line + "\n")
    }
}

/// Waits for the end of a process, and gives its exit code; -1 if a signal ended it.
///
/// # Panics
/// When it does not end.
pub async fn ended(process: &mut Process) -> i32 {
    let name = format!("{} ends", process.name);
    crate::eventually(&name, async || {
        let status = process.ended();
        status.map_or_else(
            || Err("it runs".to_owned()),
            |status| Ok(status.code().unwrap_or(-1)),
        )
    })
    .await
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {} ---\n{}", self.name, self.log());
        }
    }
}

/// Hands on each line, until there is none or nobody wants it.
fn read(
    from: impl Read + Send + 'static,
    mut take: impl FnMut(String) -> Option<()> + Send + 'static,
) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            if take(line).is_none() {
                break;
            }
        }
    });
}
