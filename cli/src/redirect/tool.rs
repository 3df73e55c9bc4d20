//! The system's own programs: `nft`, `iptables-restore`, `ip`. Found, run, and what they complain of in words that help.

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, anyhow, bail};

/// Where distributions put them, and what the PATH of a user may lack.
const USUAL: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Bit of `CAP_NET_ADMIN`.
const NET_ADMIN: u64 = 1 << 12;

pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = USUAL.into_iter().map(PathBuf::from);
    env::split_paths(&path)
        .chain(usual)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program with something on its standard input.
pub(crate) fn run(name: &str, args: &[&str], input: &str) -> anyhow::Result<Ended> {
    let file = find(name).ok_or_else(|| missing(name))?;
    let running = || -> io::Result<_> {
        let mut child = Command::new(&file)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // All of them read to the end before they say anything; one that ended early says why.
            stdin.write_all(input.as_bytes()).ok();
        }
        child.wait_with_output()
    };
    let output = running().with_context(|| format!("running {}", file.display()))?;
    Ok(Ended {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// The same, and its output if all went well.
pub(crate) fn must(name: &str, args: &[&str], input: &str) -> anyhow::Result<String> {
    let ended = run(name, args, input)?;
    if ended.success {
        return Ok(ended.stdout);
    }
    let command = [&[name], args].concat().join(" ");
    let said = first_lines(&ended.stderr);
    match advice(&ended.stderr) {
        Some(advice) => bail!("{command}: {said}\n{advice}"),
        None => bail!("{command}: {said}"),
    }
}

fn missing(name: &str) -> anyhow::Error {
    let package = match name {
        "nft" => "nftables",
        "ip" => "iproute2",
        _ => "iptables",
    };
    anyhow!(
        "there is no {name} on this machine; install it (the package is mostly called {package})"
    )
}

/// A tool's complaint goes on with the whole script.
fn first_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().take(4).map(str::trim_end).collect();
    lines.join("\n  ")
}

/// What a kernel without the modules says is hard to guess at.
fn advice(stderr: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
    if says(&["Operation not permitted", "Permission denied"]) {
        return Some(
            "the kernel does not let this process change its rules: run it as root, in a container with the capability \
             NET_ADMIN",
        );
    }
    if says(&[
        "No such file or directory",
        "not supported",
        "No chain/target/match",
        "missing kernel module",
        "Couldn't load",
        "can't initialize",
        "Protocol wrong type",
    ]) {
        return Some(
            "a part of the kernel is missing: nftables needs nft_redir, nft_fib_inet, nft_ct (and nft_tproxy, nft_socket, \
             nft_reject_inet for --tproxy), iptables needs xt_REDIRECT, xt_owner, xt_addrtype, xt_CT (and xt_TPROXY, \
             xt_socket); load them with modprobe on the host (not in a container), or take the other --backend; --no-dns \
             needs no nft_ct and xt_CT",
        );
    }
    None
}

/// Whether this process may change the rules of its network namespace.
pub(crate) fn may_change_rules() -> bool {
    // Where that cannot be read the tools themselves will tell.
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return true;
    };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_none_or(|bits| bits & NET_ADMIN != 0)
}

/// Whether the kernel has IPv6 switched on here.
pub(crate) fn has_ipv6() -> bool {
    fs::read_to_string("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.trim().is_empty())
}
