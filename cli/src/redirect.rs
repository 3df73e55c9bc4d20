//! `outrigger redirect apply|remove|print|check`: the kernel's rules that bring an application's connections to its sidecar.
//! ```text
//!   flags ─► Plan ─► rules in words of no tool ─► nft | iptables ─► kernel
//!            (pure, golden files)                  (one transaction)
//! ```
//! A one-shot command of the administrator; the sidecar itself runs without any privilege, and knows nothing of rules.

mod cidr;
mod host;
mod iptables;
mod kernel;
mod nft;
mod plan;
mod ports;
mod route;
#[cfg(test)]
mod tests;
mod tool;

use std::net::IpAddr;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    failure::Failure,
    output::{Output, OutputArgs, print, print_json},
};

use self::{
    cidr::{Cidr, Family},
    iptables::Found,
    kernel::{Backend, Checked, Side, Wish},
    plan::{Dns, Mode, Owners, Plan, VIP_POOLS},
    ports::{PortRange, Wanted},
};

/// Incoming connections to these stay as they are: ssh, and the mesh's own ports.
const NEVER_CAPTURED: [u16; 8] = [22, 15008, 15010, 15012, 15014, 15020, 15021, 15090];

/// Bring an application's connections to its sidecar by rules of the kernel, without a change to it.
///
/// Needs root (CAP_NET_ADMIN) once, before the sidecar starts; the sidecar runs as another user, whose own connections are
/// left alone. IPv4 and IPv6, by nftables or iptables. Connections that are open already stay as they are.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger redirect print --mode all
  sudo outrigger redirect apply --uid outrigger --exclude-inbound-ports 9100
  sudo outrigger redirect check --uid outrigger --exclude-inbound-ports 9100
  sudo outrigger redirect remove")]
pub(crate) struct RedirectArgs {
    #[command(subcommand)]
    command: RedirectCommand,
}

#[derive(Debug, Subcommand)]
enum RedirectCommand {
    Apply(ApplyArgs),
    Remove(RemoveArgs),
    Print(PrintArgs),
    Check(CheckArgs),
}

/// Put the rules into force, in place of those of before.
///
/// In one transaction, so that at no time a connection passes between the old and the new. May be repeated.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo outrigger redirect apply
  sudo outrigger redirect apply --mode all --exclude-cidr 10.9.0.0/16 --exclude-ports 25,3000-3999")]
struct ApplyArgs {
    #[command(flatten)]
    rules: RulesArgs,
}

/// Take all rules and routes of ours away, whichever backend they are of.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo outrigger redirect remove
  sudo ip netns exec app outrigger redirect remove")]
struct RemoveArgs {}

/// Show what apply would put into force. Needs no root.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger redirect print
  outrigger redirect print --backend iptables --mode all")]
struct PrintArgs {
    #[command(flatten)]
    rules: RulesArgs,
}

/// Say whether the rules in the kernel are those that the flags ask for: status 0 if so, 1 with the difference if not.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo outrigger redirect check --mode all
  sudo outrigger redirect check -o json | jq .difference")]
struct CheckArgs {
    #[command(flatten)]
    rules: RulesArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct RulesArgs {
    /// Which of the application's connections are captured: those to addresses of the mesh, all, or none (off).
    #[arg(
        long,
        value_enum,
        default_value = "mesh",
        env = "OUTRIGGER_REDIRECT_MODE",
        hide_possible_values = true,
        value_name = "mesh|all|off"
    )]
    mode: Mode,
    /// Tool that speaks to the kernel. auto: nft, else iptables.
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        env = "OUTRIGGER_REDIRECT_BACKEND",
        hide_possible_values = true,
        value_name = "auto|nft|iptables|iptables-nft|iptables-legacy"
    )]
    backend: Wish,
    #[command(flatten)]
    owners: OwnerArgs,
    #[command(flatten)]
    outbound: OutboundArgs,
    #[command(flatten)]
    inbound: InboundArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Who is left alone")]
struct OwnerArgs {
    /// User whose connections are not captured, by number or name: the one that the sidecar runs as. Repeatable; what is
    /// given takes the place of the default.
    #[arg(long, value_name = "USER", value_parser = host::uid, value_delimiter = ',', default_value = "1337", env = "OUTRIGGER_REDIRECT_UID")]
    uid: Vec<u32>,
    /// Group whose processes' connections are not captured. Repeatable.
    #[arg(long, value_name = "GROUP", value_parser = host::gid, value_delimiter = ',', env = "OUTRIGGER_REDIRECT_GID")]
    gid: Vec<u32>,
    /// Mark (SO_MARK) of connections that are not captured, e.g. 0x539. Repeatable.
    #[arg(long, value_name = "MARK", value_parser = host::mark, value_delimiter = ',', env = "OUTRIGGER_REDIRECT_MARK")]
    mark: Vec<u32>,
    /// Network interface whose traffic is not captured, in or out, e.g. docker0. Repeatable.
    #[arg(long = "exclude-interface", value_name = "NAME", value_parser = host::interface, value_delimiter = ',', env = "OUTRIGGER_REDIRECT_EXCLUDE_INTERFACES")]
    interfaces: Vec<String>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "The application's connections")]
struct OutboundArgs {
    /// Further range of addresses of the mesh, with --mode mesh. Repeatable.
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        env = "OUTRIGGER_REDIRECT_CIDRS"
    )]
    cidr: Vec<Cidr>,
    /// Pool that services without an address have theirs from, as the control plane is told. Repeatable; what is given
    /// takes the place of the default.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_values = VIP_POOLS, env = "OUTRIGGER_REDIRECT_VIP_CIDRS")]
    vip_cidr: Vec<Cidr>,
    /// Range of addresses that is not captured; pools of services are captured nevertheless. Repeatable.
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        env = "OUTRIGGER_REDIRECT_EXCLUDE_CIDRS"
    )]
    exclude_cidr: Vec<Cidr>,
    /// Port or range of ports that is not captured, e.g. 25,3000-3999; at pools of services it is nevertheless. Repeatable.
    #[arg(
        long,
        value_name = "PORTS",
        value_delimiter = ',',
        env = "OUTRIGGER_REDIRECT_EXCLUDE_PORTS"
    )]
    exclude_ports: Vec<PortRange>,
    /// Port of the sidecar (on loopback) that takes the application's connections.
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..), env = "OUTRIGGER_REDIRECT_OUTBOUND_PORT")]
    outbound_port: u16,
    /// Leave questions to DNS servers (port 53) alone: the application then knows no service by its name.
    #[arg(long, env = "OUTRIGGER_REDIRECT_NO_DNS")]
    no_dns: bool,
    /// DNS server to which questions are captured. Repeatable. Default: every server; if one of those in /etc/resolv.conf
    /// is this host (systemd-resolved), those, so that its own questions get out.
    #[arg(
        long,
        value_name = "IP",
        value_delimiter = ',',
        conflicts_with = "no_dns",
        env = "OUTRIGGER_REDIRECT_DNS_SERVERS"
    )]
    dns_server: Vec<IpAddr>,
    /// Port of the sidecar (on loopback) that answers DNS.
    #[arg(long, value_name = "PORT", default_value_t = 15053, value_parser = clap::value_parser!(u16).range(1..), env = "OUTRIGGER_REDIRECT_DNS_PORT")]
    dns_port: u16,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Connections of others to this host")]
struct InboundArgs {
    /// Ports that are captured: all (but the excluded ones), none, or a list.
    #[arg(
        long,
        value_name = "all|none|PORTS",
        default_value = "all",
        env = "OUTRIGGER_REDIRECT_INBOUND_PORTS"
    )]
    inbound_ports: Wanted,
    /// Port or range of ports that is not captured, in addition to 22 (ssh), 15008, 15010, 15012, 15014, 15020, 15021 and
    /// 15090 (the mesh's own). Repeatable.
    #[arg(
        long,
        value_name = "PORTS",
        value_delimiter = ',',
        env = "OUTRIGGER_REDIRECT_EXCLUDE_INBOUND_PORTS"
    )]
    exclude_inbound_ports: Vec<PortRange>,
    /// Port of the sidecar that takes them.
    #[arg(long, value_name = "PORT", default_value_t = 15006, value_parser = clap::value_parser!(u16).range(1..), env = "OUTRIGGER_REDIRECT_INBOUND_PORT")]
    inbound_port: u16,
    /// Keep the client's address (TPROXY), for a sidecar with --capture tproxy, which needs CAP_NET_ADMIN or CAP_NET_RAW for
    /// it. Also routes what is marked 1337 by a table of its own, 133.
    #[arg(long, env = "OUTRIGGER_REDIRECT_TPROXY")]
    tproxy: bool,
}

pub(crate) fn run(args: RedirectArgs) -> Result<(), Failure> {
    match args.command {
        RedirectCommand::Apply(args) => apply(args.rules),
        RedirectCommand::Remove(RemoveArgs {}) => remove(),
        RedirectCommand::Print(args) => {
            let backend = match args.rules.backend {
                // For a look at the rules no tool has to be here.
                Wish::Auto => Backend::of(Wish::Auto).unwrap_or(Backend::Nft),
                wish => Backend::of(wish)?,
            };
            Ok(print(&printed(&plan(args.rules)?, backend))?)
        }
        RedirectCommand::Check(args) => {
            let wish = args.rules.backend;
            let checked = kernel::check(&plan(args.rules)?, wish)?;
            show(&checked, args.output.output)?;
            match checked.same() {
                true => Ok(()),
                false => Err(Failure::Reported),
            }
        }
    }
}

fn apply(args: RulesArgs) -> Result<(), Failure> {
    let wish = args.backend;
    let plan = plan(args)?;
    if let Some(port) = host::ssh_port() {
        keep_the_way_open(&plan, port)?;
    }
    let applied = kernel::apply(&plan, wish)?;
    let mut text = format!("applied ({}): {}\n", applied.backend.name(), plan.summary());
    for entry in &applied.routes {
        text.push_str(&format!("routed: {}\n", entry.line()));
    }
    for other in &applied.replaced {
        text.push_str(&format!("taken away: the rules of {}\n", other.name()));
    }
    Ok(print(&text)?)
}

/// The rules would only show at the next login.
fn keep_the_way_open(plan: &Plan, port: u16) -> Result<(), Failure> {
    let excluded = plan.inbound_excluded.iter();
    if plan.inbound != Wanted::All || excluded.into_iter().any(|range| range.contains(port)) {
        return Ok(());
    }
    Err(Failure::Misused(format!(
        "you came by ssh over port {port}, which would be captured: the next login would reach the sidecar. Add \
         --exclude-inbound-ports {port}, or name what is to be captured with --inbound-ports"
    )))
}

fn remove() -> Result<(), Failure> {
    let (backends, routes) = kernel::remove()?;
    let mut text = String::new();
    for backend in &backends {
        text.push_str(&format!("removed ({})\n", backend.name()));
    }
    if routes {
        text.push_str("removed the routes\n");
    }
    if text.is_empty() {
        text.push_str("nothing to remove\n");
    }
    Ok(print(&text)?)
}

fn printed(plan: &Plan, backend: Backend) -> String {
    let mut text = format!("# {}\n", plan.summary());
    text.push_str("# Where there is no route to them yet:\n");
    for range in plan.routed() {
        text.push_str(&format!("#   {}\n", route::Entry::Service(range).line()));
    }
    if plan.transparent {
        text.push_str("# For the client's address:\n");
        for family in Family::BOTH {
            for entry in [route::Entry::Deliver(family), route::Entry::Marked(family)] {
                text.push_str(&format!("#   {}\n", entry.line()));
            }
        }
    }
    match backend {
        Backend::Nft => {
            text.push_str("# nft -f -\n");
            text.push_str(&nft::script(plan));
        }
        Backend::Iptables(variant) => {
            for (family, program) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
                text.push_str(&format!("# {program}{variant}-restore --noflush\n"));
                text.push_str(&iptables::script(plan, family, &Found::default()));
            }
        }
    }
    text
}

fn show(checked: &Checked, output: Output) -> anyhow::Result<()> {
    let state = match (checked.same(), checked.absent) {
        (true, _) => "same",
        (false, true) => "absent",
        (false, false) => "different",
    };
    let sign = |side| match side {
        Side::Kernel => "-",
        Side::Wanted => "+",
    };
    if output == Output::Json {
        let lines = checked.lines.iter();
        let difference = lines.map(|line| json!({"side": sign(line.side), "line": line.text}));
        return print_json(&json!({
            "state": state,
            "backend": checked.backend.name(),
            "difference": difference.collect::<Vec<_>>(),
        }));
    }
    let name = checked.backend.name();
    let mut text = match state {
        "same" => format!("the rules are in force as asked for ({name})\n"),
        "absent" => format!("there are no rules of ours in the kernel ({name}); missing:\n"),
        _ => format!(
            "the rules in the kernel ({name}) are not those asked for; - is there, + is missing:\n"
        ),
    };
    for line in &checked.lines {
        text.push_str(&format!("{} {}\n", sign(line.side), line.text));
    }
    print(&text)
}

/// What the flags ask for, if it makes sense.
fn plan(args: RulesArgs) -> Result<Plan, Failure> {
    let misused = |message: String| Err(Failure::Misused(message));
    let RulesArgs {
        mode,
        backend: _,
        owners,
        outbound,
        inbound,
    } = args;
    if let Some((flag, why)) = idle(mode, &outbound) {
        return misused(format!("{flag} has no effect: {why}"));
    }
    if mode == Mode::Off && inbound.inbound_ports == Wanted::Nothing {
        return misused(
            "--mode off with --inbound-ports none captures nothing; \"outrigger redirect remove\" takes the rules away"
                .to_owned(),
        );
    }
    if inbound.tproxy && inbound.inbound_ports == Wanted::Nothing {
        return misused("--tproxy has no effect: no incoming connection is captured".to_owned());
    }
    let sidecar = [
        outbound.outbound_port,
        inbound.inbound_port,
        outbound.dns_port,
    ];
    if sidecar[0] == sidecar[1] {
        return misused(format!(
            "--outbound-port and --inbound-port are both {}; the sidecar tells by the port who came",
            sidecar[0]
        ));
    }
    let excluded = ports::merged(inbound.exclude_inbound_ports);
    let (captured, excluded) = incoming(inbound.inbound_ports, &excluded)?;
    let dns = if mode == Mode::Off || outbound.no_dns {
        Dns::Off
    } else if !outbound.dns_server.is_empty() {
        Dns::Servers(outbound.dns_server)
    } else {
        host::own_dns_servers().map_or(Dns::All, Dns::Servers)
    };
    Ok(Plan {
        mode,
        outbound_port: outbound.outbound_port,
        inbound_port: inbound.inbound_port,
        dns_port: outbound.dns_port,
        dns,
        owners: Owners {
            uids: sorted(owners.uid),
            gids: sorted(owners.gid),
            marks: sorted(owners.mark),
        },
        vips: cidr::merged(outbound.vip_cidr),
        mesh: cidr::merged(outbound.cidr),
        excluded: cidr::merged(outbound.exclude_cidr),
        excluded_ports: ports::merged(outbound.exclude_ports),
        excluded_interfaces: sorted(owners.interfaces),
        inbound: captured,
        inbound_excluded: excluded,
        transparent: inbound.tproxy,
    })
}

/// A flag that would be without effect, and why.
fn idle(mode: Mode, args: &OutboundArgs) -> Option<(&'static str, &'static str)> {
    let given = [
        ("--cidr", !args.cidr.is_empty()),
        ("--exclude-cidr", !args.exclude_cidr.is_empty()),
        ("--exclude-ports", !args.exclude_ports.is_empty()),
        ("--dns-server", !args.dns_server.is_empty()),
        ("--no-dns", args.no_dns),
    ];
    let first = |flags: &[&str]| {
        let mut given = given
            .iter()
            .filter(|(flag, is_given)| *is_given && flags.contains(flag));
        given.next().map(|(flag, _)| *flag)
    };
    match mode {
        Mode::Off => {
            let any = first(&[
                "--cidr",
                "--exclude-cidr",
                "--exclude-ports",
                "--dns-server",
                "--no-dns",
            ]);
            any.map(|flag| {
                (
                    flag,
                    "--mode off captures nothing that the application does",
                )
            })
        }
        Mode::All => first(&["--cidr"]).map(|flag| (flag, "--mode all captures every address")),
        Mode::Mesh if args.cidr.is_empty() => {
            let why = "--mode mesh without --cidr captures pools of services only, from which nothing is excluded";
            first(&["--exclude-cidr", "--exclude-ports"]).map(|flag| (flag, why))
        }
        Mode::Mesh => None,
    }
}

/// What of incoming connections is captured, and what not.
fn incoming(asked: Wanted, excluded: &[PortRange]) -> Result<(Wanted, Vec<PortRange>), Failure> {
    match asked {
        Wanted::Nothing => Ok((Wanted::Nothing, Vec::new())),
        Wanted::All => {
            let never = NEVER_CAPTURED.map(PortRange::one);
            Ok((Wanted::All, ports::merged([&never[..], excluded].concat())))
        }
        // Who names a port means it.
        Wanted::Only(only) => {
            let left = ports::difference(only.clone(), excluded);
            if left.is_empty() {
                return Err(Failure::Misused(format!(
                    "--exclude-inbound-ports {} leaves nothing of --inbound-ports {}",
                    ports::list(excluded),
                    ports::list(&only)
                )));
            }
            Ok((Wanted::Only(left), Vec::new()))
        }
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}
