//! A network namespace (and one of mounts), held by one process that ends with us.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::{
    process::{Gid, Uid},
    thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_gid, set_thread_uid},
};

#[derive(Debug)]
pub(crate) struct Namespace {
    /// Reads its standard input to the end, which is ours.
    holder: Child,
}

impl Namespace {
    /// With a shell command that is run in it first.
    pub(super) fn start(first: &str) -> Self {
        let mut holder = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--propagation=private",
                "--",
                "/bin/sh",
                "-c",
            ])
            .arg(format!("{first} && echo held && exec cat >/dev/null"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("a pipe was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "held\n", "no network namespace could be made");
        Self { holder }
    }

    pub(super) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Runs lines of `ip` in it.
    pub(super) fn ip(&self, lines: &str) {
        ip(self.pid(), lines);
    }

    /// Does something on a thread that is in it, as this user.
    pub(super) fn within<T: Send>(&self, user: u32, act: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/proc/{}/ns/net", self.pid())).expect("it is held");
        thread::scope(|scope| {
            let act = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter");
                if user != 0 {
                    set_thread_gid(Gid::from_raw(user)).expect("root may be anybody");
                    set_thread_uid(Uid::from_raw(user)).expect("root may be anybody");
                }
                act()
            });
            act.join().expect("the act does not panic")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

pub(super) fn ip(pid: u32, lines: &str) {
    let mut child = Command::new("nsenter")
        .args([
            &format!("--target={pid}"),
            "--net",
            "--",
            "ip",
            "-batch",
            "-",
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsenter runs");
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    stdin.write_all(lines.as_bytes()).expect("ip reads");
    drop(stdin);
    let output = child.wait_with_output().expect("ip ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip: {said}\n{lines}");
}
