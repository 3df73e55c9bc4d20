//! Hosts with addresses of their own on one switch, all in network namespaces: what needs rules of the kernel is tried there.
//! ```text
//!   host a 10.77.0.1, fd77::1 ── switch ── host b 10.77.0.2, fd77::2
//!      eth0, lo, its own rules, its own /etc/resolv.conf
//! ```
//! A namespace lives as long as the one process that holds it, which ends with us however we go: nothing has a name on
//! the machine, nothing is left behind. Needs root; without it tests are skipped, loudly.

mod captured;
mod namespace;
mod original;
mod wire;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use tempfile::TempDir;

use crate::{
    Output, Process,
    tools::{missing, tool},
};

pub use captured::{CapturedMesh, Member};
pub use original::{Arrival, OriginalDestinations};

pub use wire::Wire;

pub(crate) use namespace::Namespace;

/// The user that the sidecar runs as.
pub const SIDECAR: u32 = 1337;
/// A user of an application.
pub const APPLICATION: u32 = 1001;
/// How long a command in a host may take.
const COMMAND: &str = "30";

/// A switch, and the hosts at it.
#[derive(Debug)]
pub struct Network {
    switch: Namespace,
    hosts: AtomicU8,
}

/// A host at the switch.
#[derive(Clone, Debug)]
pub struct Host {
    inner: Arc<Inner>,
    user: u32,
}

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: Namespace,
    /// Its port at the switch.
    port: String,
    switch: u32,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    dir: TempDir,
}

impl Network {
    /// A switch without hosts. None, with a loud remark, if this machine cannot have one.
    ///
    /// # Panics
    /// When it cannot in CI.
    pub fn start() -> Option<Self> {
        for (program, package) in [
            ("unshare", "util-linux"),
            ("nsenter", "util-linux"),
            ("ip", "iproute2"),
            ("nft", "nftables"),
        ] {
            tool(program, &format!("apt-get install {package}"))?;
        }
        if !rustix::process::geteuid().is_root() {
            missing("root", "run the tests in network namespaces with sudo");
            return None;
        }
        let switch = Namespace::start("true");
        switch.ip("link add br0 type bridge\nlink set br0 up\n");
        Some(Self {
            switch,
            hosts: AtomicU8::new(0),
        })
    }

    /// Looks from now on at what passes through the switch.
    ///
    /// # Panics
    /// When it cannot.
    pub fn wire(&self, word: &str) -> Wire {
        Wire::tap(&self.switch, word)
    }

    /// Another host, which asks a DNS server that there is not.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn host(&self, name: &str) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::SeqCst) + 1;
        // Beside the program, which users without rights must be able to run wherever it was built.
        let dir = tempfile::tempdir().expect("a directory");
        open_to_all(dir.path());
        for (file, text) in [
            ("resolv.conf", "nameserver 10.77.0.253\n"),
            ("outrigger", ""),
        ] {
            fs::write(dir.path().join(file), text).expect("a file");
        }
        let (at, program) = (dir.path().display(), crate::outrigger().display());
        let namespace = Namespace::start(&format!(
            "mount --bind {at}/resolv.conf /etc/resolv.conf && mount --bind '{program}' {at}/outrigger"
        ));
        let port = format!("port{number}");
        self.switch.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0 up\n",
            namespace.pid()
        ));
        let v4 = Ipv4Addr::new(10, 77, 0, number);
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into());
        namespace.ip(&format!(
            "link set lo up\nlink set eth0 addrgenmode none\nlink set eth0 up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n"
        ));
        Host {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                namespace,
                port,
                switch: self.switch.pid(),
                v4,
                v6,
                dir,
            }),
            user: 0,
        }
    }
}

impl Host {
    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its address.
    pub fn v4(&self) -> IpAddr {
        self.inner.v4.into()
    }

    /// Its address of the other family.
    pub fn v6(&self) -> IpAddr {
        self.inner.v6.into()
    }

    /// Both.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    /// A directory of its own, which everybody may read.
    pub fn dir(&self) -> &Path {
        self.inner.dir.path()
    }

    /// `outrigger`, where every user may run it.
    pub fn outrigger(&self) -> String {
        self.dir().join("outrigger").display().to_string()
    }

    /// The same host, whatever is done there done as this user (else as root).
    #[must_use]
    pub fn as_user(&self, user: u32) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            user,
        }
    }

    /// A program to run there. The words that come before its own arguments are already in place.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.entering()).arg(program);
        command
    }

    /// Arguments of `nsenter`.
    pub(crate) fn entering(&self) -> Vec<String> {
        let pid = self.inner.namespace.pid();
        let mut args = vec![
            format!("--target={pid}"),
            "--net".to_owned(),
            "--mount".to_owned(),
        ];
        if self.user != 0 {
            args.extend([
                format!("--setuid={}", self.user),
                format!("--setgid={}", self.user),
            ]);
        }
        args.push("--".to_owned());
        args
    }

    /// Starts `outrigger` there, which ends with us by `--exit-with-parent`.
    pub(crate) fn spawn(&self, name: &str, args: &[String], env: &[(&str, &str)]) -> Process {
        self.spawn_program(name, &self.outrigger(), args, env)
    }

    fn spawn_program(
        &self,
        name: &str,
        program: &str,
        args: &[String],
        env: &[(&str, &str)],
    ) -> Process {
        let mut all = self.entering();
        all.push(program.to_owned());
        all.extend_from_slice(args);
        let name = format!("{name} on {}", self.name());
        Process::spawn_tool(&name, Path::new("nsenter"), &all, env)
    }

    /// Starts another program there that serves until it is killed, and ends with us.
    pub fn serve(&self, name: &str, words: &[&str]) -> Process {
        // The last process of the pipe's reader ends it, as it would not notice by itself.
        const BESIDE: &str = "\
            exec 3<&0; \"$@\" </dev/null 3<&- & child=$!; \
            (cat <&3 >/dev/null; kill -9 $child 2>/dev/null) & wait $child";
        let mut args = vec!["-c".to_owned(), BESIDE.to_owned(), name.to_owned()];
        args.extend(words.iter().map(|word| (*word).to_owned()));
        self.spawn_program(name, "/bin/sh", &args, &[])
    }

    /// Runs a program there to its end, which is near.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn run(&self, words: &[&str]) -> Output {
        let output = self
            .command("timeout")
            .arg(COMMAND)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter runs");
        Output {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, and what it said.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(
            output.status,
            0,
            "{}: {words:?} said {} {}",
            self.name(),
            output.stdout,
            output.stderr
        );
        output.stdout
    }

    /// `outrigger redirect <line>` of its administrator.
    pub fn redirect(&self, line: &str) -> Output {
        let program = self.outrigger();
        let mut words = vec![program.as_str(), "redirect"];
        words.extend(line.split(' ').filter(|word| !word.is_empty()));
        self.run(&words)
    }

    /// The same, and what it said.
    ///
    /// # Panics
    /// When it fails.
    pub fn must_redirect(&self, line: &str) -> String {
        let output = self.redirect(line);
        assert_eq!(
            output.status, 0,
            "redirect {line}: {} {}",
            output.stdout, output.stderr
        );
        output.stdout
    }

    /// Does something there, as its user: sockets that are made are of that host.
    ///
    /// # Panics
    /// When it does.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.inner.namespace.within(self.user, act)
    }

    /// Connects from there.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&to, std::time::Duration::from_secs(10)))
    }

    /// Listens there, for tokio.
    ///
    /// # Panics
    /// When it cannot.
    pub fn listen(&self, at: SocketAddr) -> tokio::net::TcpListener {
        let listener = self
            .within(|| std::net::TcpListener::bind(at))
            .expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        tokio::net::TcpListener::from_std(listener).expect("a runtime")
    }

    /// Takes the cable out of the switch, without a word to either side.
    pub fn unplug(&self) {
        self.cable("down");
    }

    /// Puts it back.
    pub fn plug_in(&self) {
        self.cable("up");
    }

    fn cable(&self, state: &str) {
        let line = format!("link set {} {state}\n", self.inner.port);
        namespace::ip(self.inner.switch, &line);
    }
}

/// Directories of tests are their user's alone.
fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("our directory");
}
