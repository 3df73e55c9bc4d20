//! The rules in the kernel: put there, taken away, read back. One backend at a time; what another has left is taken away.

mod difference;

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use super::{
    cidr::Family,
    iptables::{self, Found},
    nft,
    plan::Plan,
    route, tool,
};

pub(crate) use difference::{Line, Side};

/// Which tool is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wish {
    /// nft where there is one, else iptables.
    Auto,
    /// Nftables.
    Nft,
    /// What the machine has under this name.
    Iptables,
    /// Nftables, in the words of iptables.
    IptablesNft,
    /// The kernel's older tables.
    IptablesLegacy,
}

/// Which tool speaks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Nft,
    /// What stands behind `iptables` in the names of its programs.
    Iptables(&'static str),
}

/// All that may have left something.
const EVERY: [Backend; 4] = [
    Backend::Nft,
    Backend::Iptables("-nft"),
    Backend::Iptables("-legacy"),
    Backend::Iptables(""),
];
/// The table and the chains that show what the kernel makes of rules, and have no effect.
const SHADOW_TABLE: &str = "outrigger_check";
const SHADOW_PREFIX: &str = "OUTRIGCHECK";
/// How long another one may take that changes the rules of this network namespace.
const LOCK: Duration = Duration::from_secs(10);

impl Backend {
    pub(crate) fn of(wish: Wish) -> anyhow::Result<Self> {
        match wish {
            Wish::Nft => Ok(Self::Nft),
            Wish::Iptables => Ok(Self::Iptables("")),
            Wish::IptablesNft => Ok(Self::Iptables("-nft")),
            Wish::IptablesLegacy => Ok(Self::Iptables("-legacy")),
            Wish::Auto if tool::find("nft").is_some() => Ok(Self::Nft),
            Wish::Auto if tool::find("iptables-restore").is_some() => Ok(Self::Iptables("")),
            Wish::Auto => bail!(
                "there is neither nft nor iptables-restore on this machine; install nftables (or iptables)"
            ),
        }
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Nft => format!("nftables, table inet {}", nft::TABLE),
            Self::Iptables(variant) => {
                format!("iptables{variant}, chains {}_*", iptables::PREFIX)
            }
        }
    }

    fn program(self, family: Family, what: &str) -> String {
        match (self, family) {
            (Self::Nft, _) => "nft".to_owned(),
            (Self::Iptables(variant), Family::V4) => format!("iptables{variant}-{what}"),
            (Self::Iptables(variant), Family::V6) => format!("ip6tables{variant}-{what}"),
        }
    }

    /// The file of the program that is asked what there is. `iptables` is another name of one of its variants.
    fn file(self) -> Option<PathBuf> {
        let file = tool::find(&self.program(Family::V4, "save"))?;
        Some(file.canonicalize().unwrap_or(file))
    }

    /// What there is of ours, as lines that can be compared; empty if there is nothing.
    fn present(self) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        match self {
            Self::Nft => lines = nft_table(nft::TABLE)?,
            Self::Iptables(_) => {
                for family in families() {
                    let found = self.found(family, iptables::PREFIX)?;
                    lines.extend(found.lines(family, iptables::PREFIX));
                }
            }
        }
        Ok(lines)
    }

    fn found(self, family: Family, prefix: &str) -> anyhow::Result<Found> {
        let program = self.program(family, "save");
        if tool::find(&program).is_none() {
            return Ok(Found::default());
        }
        let ended = tool::run(&program, &[], "")?;
        // A kernel without this family's tables has none of ours.
        Ok(Found::of(&ended.stdout, prefix))
    }

    fn put(self, plan: &Plan) -> anyhow::Result<()> {
        match self {
            Self::Nft => tool::must("nft", &["-f", "-"], &nft::script(plan)).map(drop),
            Self::Iptables(_) => {
                // IPv6 first: it is what a machine lacks more often, and then nothing has been changed.
                for family in families().into_iter().rev() {
                    let found = self.found(family, iptables::PREFIX)?;
                    self.restore(family, &iptables::script(plan, family, &found))?;
                }
                Ok(())
            }
        }
    }

    fn restore(self, family: Family, script: &str) -> anyhow::Result<()> {
        let program = self.program(family, "restore");
        tool::must(&program, &["--noflush", "-w", "10"], script).map(drop)
    }

    fn take_away(self) -> anyhow::Result<()> {
        match self {
            Self::Nft => {
                let script = format!("delete table inet {}\n", nft::TABLE);
                tool::must("nft", &["-f", "-"], &script).map(drop)
            }
            Self::Iptables(_) => {
                for family in families() {
                    let found = self.found(family, iptables::PREFIX)?;
                    if let Some(script) = iptables::removal(&found) {
                        self.restore(family, &script)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// What the kernel would show if the plan were in force.
    fn wanted(self, plan: &Plan) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Nft => {
                // One that was interrupted has left its own behind.
                let clean =
                    format!("table inet {SHADOW_TABLE}\ndelete table inet {SHADOW_TABLE}\n");
                let script = format!("{clean}{}", nft::shadow(SHADOW_TABLE, plan));
                tool::must("nft", &["-f", "-"], &script)?;
                let lines = nft_table(SHADOW_TABLE);
                tool::must("nft", &["delete", "table", "inet", SHADOW_TABLE], "")?;
                lines
            }
            Self::Iptables(_) => {
                let mut lines = Vec::new();
                for family in families() {
                    self.forget_shadow(family)?;
                    self.restore(family, &iptables::shadow(plan, family, SHADOW_PREFIX))?;
                    let found = self.found(family, SHADOW_PREFIX)?;
                    self.forget_shadow(family)?;
                    let mut rules = found.lines(family, SHADOW_PREFIX);
                    rules.extend(iptables::jumps(plan, family));
                    lines.extend(rules);
                }
                Ok(lines)
            }
        }
    }

    fn forget_shadow(self, family: Family) -> anyhow::Result<()> {
        let found = self.found(family, SHADOW_PREFIX)?;
        match iptables::removal(&found) {
            Some(script) => self.restore(family, &script),
            None => Ok(()),
        }
    }
}

fn families() -> Vec<Family> {
    if tool::has_ipv6() {
        Family::BOTH.to_vec()
    } else {
        vec![Family::V4]
    }
}

/// The lines of a table without its name; none if there is no such table.
fn nft_table(name: &str) -> anyhow::Result<Vec<String>> {
    let ended = tool::run("nft", &["list", "table", "inet", name], "")?;
    if !ended.success {
        if ended.stderr.contains("No such file or directory") {
            return Ok(Vec::new());
        }
        // Says it with advice.
        tool::must("nft", &["list", "table", "inet", name], "")?;
    }
    let lines = ended.stdout.lines().map(str::trim_end);
    let shadow = |line: &str| name == SHADOW_TABLE && line.trim().starts_with("flags dormant");
    Ok(lines
        .filter(|line| !line.trim().is_empty() && !shadow(line))
        .map(
            |line| match line.strip_prefix(&format!("table inet {name} ")) {
                Some(rest) => format!("table inet {} {rest}", nft::TABLE),
                None => line.to_owned(),
            },
        )
        .collect())
}

/// What `apply` did beside its task.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) backend: Backend,
    pub(crate) routes: Vec<route::Entry>,
    /// Whose rules of ours are gone.
    pub(crate) replaced: Vec<Backend>,
}

pub(crate) fn apply(plan: &Plan, wish: Wish) -> anyhow::Result<Applied> {
    privileged("apply")?;
    let backend = Backend::of(wish)?;
    let _alone = alone()?;
    let there = backend.present()?;
    let present = route::present()?;
    let wanted = route::wanted(plan, &present)?;
    // First what leads to the rules, and last what led to the old ones.
    let both: Vec<_> = present.iter().chain(&wanted).cloned().collect();
    let undo = |_: &anyhow::Error| {
        // The error is what counts; what cannot be undone shows in `check`.
        route::reconcile(&present, &both).ok();
        if there.is_empty() {
            backend.take_away().ok();
        }
    };
    route::reconcile(&both, &present).inspect_err(undo)?;
    backend.put(plan).inspect_err(undo)?;
    let mut replaced = Vec::new();
    for other in others(backend)? {
        other.take_away()?;
        replaced.push(other);
    }
    let stale: Vec<_> = both
        .iter()
        .filter(|entry| !wanted.contains(entry))
        .cloned()
        .collect();
    route::reconcile(&[], &stale)?;
    Ok(Applied {
        backend,
        routes: wanted,
        replaced,
    })
}

/// Whose rules were taken away; true if routes were, too.
pub(crate) fn remove() -> anyhow::Result<(Vec<Backend>, bool)> {
    privileged("remove")?;
    let _alone = alone()?;
    let mut removed = Vec::new();
    for backend in in_force()? {
        backend.take_away()?;
        removed.push(backend);
    }
    let routes = route::present().unwrap_or_default();
    route::reconcile(&[], &routes)?;
    Ok((removed, !routes.is_empty()))
}

/// How what is in the kernel differs from what the plan asks for.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) backend: Backend,
    /// Nothing of ours is there.
    pub(crate) absent: bool,
    pub(crate) lines: Vec<Line>,
}

impl Checked {
    pub(crate) fn same(&self) -> bool {
        self.lines.is_empty()
    }
}

pub(crate) fn check(plan: &Plan, wish: Wish) -> anyhow::Result<Checked> {
    privileged("check")?;
    let _alone = alone()?;
    let force = in_force()?;
    let backend = match force.first() {
        Some(backend) if wish == Wish::Auto => *backend,
        _ => Backend::of(wish)?,
    };
    let mut there = backend.present()?;
    let mut wanted = backend.wanted(plan)?;
    if let Backend::Iptables(_) = backend {
        // Tables and their jumps come in any order; the rules of a chain are in theirs.
        there.sort_by_key(|line| chain_of(line));
        wanted.sort_by_key(|line| chain_of(line));
    }
    for other in others(backend)? {
        there.extend(other.present()?);
    }
    let present = route::present()?;
    let routes = |entries: &[route::Entry]| {
        let mut lines: Vec<String> = entries.iter().map(route::Entry::line).collect();
        lines.sort_unstable();
        lines
    };
    let absent = there.is_empty();
    wanted.extend(routes(&route::wanted(plan, &present)?));
    there.extend(routes(&present));
    Ok(Checked {
        backend,
        absent,
        lines: difference::between(&there, &wanted),
    })
}

/// `IPv4 nat: -A OUTRIGGER_OUTBOUND`.
fn chain_of(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').take(4).collect();
    words.join(" ")
}

/// Those whose rules of ours are in the kernel.
fn in_force() -> anyhow::Result<Vec<Backend>> {
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut found = Vec::new();
    for backend in EVERY {
        let Some(file) = backend.file().filter(|file| !seen.contains(file)) else {
            continue;
        };
        seen.push(file);
        if !backend.present()?.is_empty() {
            found.push(backend);
        }
    }
    Ok(found)
}

/// The same without this one.
fn others(backend: Backend) -> anyhow::Result<Vec<Backend>> {
    let file = backend.file();
    let mut others = in_force()?;
    others.retain(|other| other.file() != file);
    Ok(others)
}

fn privileged(what: &str) -> anyhow::Result<()> {
    if tool::may_change_rules() {
        return Ok(());
    }
    bail!(
        "redirect {what} needs root (the capability CAP_NET_ADMIN): run it with sudo; \"outrigger redirect print\" shows \
         the rules to anybody"
    )
}

/// Held for as long as rules are changed. A name of this network namespace, which leaves nothing behind.
fn alone() -> anyhow::Result<UnixListener> {
    let name = SocketAddr::from_abstract_name("outrigger-redirect")?;
    let deadline = Instant::now() + LOCK;
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(lock) => return Ok(lock),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                return Err(error).context("taking the lock");
            }
            Err(_) if Instant::now() > deadline => bail!(
                "another \"outrigger redirect\" has been changing the rules for {LOCK:?}; see with \"ps\" what it waits for"
            ),
            #[expect(clippy::disallowed_methods, reason = "there is no runtime here")]
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
