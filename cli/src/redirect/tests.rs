//! Flags to rules. The golden files were read before they were accepted; that kernels take them is tried in network
//! namespaces (`tests/tests/netns`).

use clap::Parser as _;

use super::*;
use crate::args::{Cli, Command};

fn rules(line: &str) -> Result<RulesArgs, String> {
    let words = line.split(' ').filter(|word| !word.is_empty());
    let words = ["outrigger", "redirect", "print"].into_iter().chain(words);
    let parsed = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    match parsed.command {
        Command::Redirect(args) => match args.command {
            RedirectCommand::Print(args) => Ok(args.rules),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn parsed(line: &str) -> Result<Plan, String> {
    let args = rules(line)?;
    let says_servers = !args.outbound.dns_server.is_empty() || args.outbound.no_dns;
    let mut plan = plan(args).map_err(|failure| match failure {
        Failure::Misused(message) => message,
        other => panic!("{other:?}"),
    })?;
    if !says_servers && plan.mode != Mode::Off {
        // Whatever this machine's resolv.conf says.
        plan.dns = Dns::All;
    }
    Ok(plan)
}

#[test]
fn the_rules_are_those_of_the_golden_files() {
    let all = "--mode all --uid 1337,0 --gid 1337 --mark 0x539 --exclude-interface docker0 --exclude-cidr \
               10.9.0.0/16,10.9.1.0/24,fd99::/16 --exclude-ports 25,3000-3999 --exclude-inbound-ports 9100";
    for (line, backend, golden) in [
        ("", Backend::Nft, include_str!("golden/mesh.nft")),
        (
            "",
            Backend::Iptables(""),
            include_str!("golden/mesh.iptables"),
        ),
        (all, Backend::Nft, include_str!("golden/all.nft")),
        (
            all,
            Backend::Iptables(""),
            include_str!("golden/all.iptables"),
        ),
        (
            "--cidr 10.0.0.0/8,fd00::/8 --exclude-cidr 10.9.0.0/16 --dns-server 127.0.0.53 --inbound-ports 8080,5432 --tproxy",
            Backend::Nft,
            include_str!("golden/tproxy.nft"),
        ),
        (
            "--mode off --tproxy",
            Backend::Iptables("-legacy"),
            include_str!("golden/tproxy.iptables"),
        ),
    ] {
        let printed = printed(&parsed(line).unwrap(), backend);
        assert_eq!(
            printed, golden,
            "redirect print {line} ({backend:?}) printed:\n{printed}"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_flag_and_what_would_be_right() {
    for (line, says) in [
        (
            "--cidr 10.0.0.5/8",
            "'--cidr <CIDR>': \"10.0.0.5/8\" begins within a range; write 10.0.0.0/8",
        ),
        (
            "--exclude-cidr nowhere",
            "'--exclude-cidr <CIDR>': \"nowhere\" is no address range",
        ),
        (
            "--exclude-ports 70000",
            "'--exclude-ports <PORTS>': \"70000\" is no port",
        ),
        (
            "--inbound-ports some",
            "write 8080, or 8000-8999 for a range; or all, or none",
        ),
        ("--uid no-such-user", "there is no user \"no-such-user\""),
        (
            "--mode all --cidr 10.0.0.0/8",
            "--cidr has no effect: --mode all captures every address",
        ),
        (
            "--exclude-ports 25",
            "--exclude-ports has no effect: --mode mesh without --cidr",
        ),
        ("--mode off --no-dns", "--no-dns has no effect: --mode off"),
        ("--mode off --inbound-ports none", "redirect remove"),
        ("--inbound-ports none --tproxy", "--tproxy has no effect"),
        ("--inbound-port 15001", "are both 15001"),
        (
            "--inbound-ports 80 --exclude-inbound-ports 1-100",
            "leaves nothing of --inbound-ports 80",
        ),
        (
            "--exclude-interface a\"b",
            "is no name of a network interface",
        ),
        ("--no-dns --dns-server 10.0.0.2", "cannot be used with"),
    ] {
        let error = parsed(line).expect_err(line);
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn the_way_of_the_operator_stays_open() {
    let refused = |line: &str, port| keep_the_way_open(&parsed(line).unwrap(), port).is_err();
    assert!(!refused("", 22));
    assert!(refused("", 2222));
    assert!(!refused("--exclude-inbound-ports 2000-3000", 2222));
    // Whoever names ports has thought of theirs.
    assert!(!refused("--inbound-ports 8080", 2222));
    assert!(!refused("--inbound-ports none", 2222));
}

#[test]
fn a_port_that_is_named_is_captured_though_it_would_not_be_by_default() {
    let plan = parsed("--inbound-ports 22,8080 --exclude-inbound-ports 8080").unwrap();
    assert_eq!(plan.inbound, Wanted::Only(vec![PortRange::one(22)]));
    assert!(plan.inbound_excluded.is_empty());
}

#[test]
fn rules_of_a_changed_plan_replace_those_that_iptables_shows() {
    let saved = "# Generated\n*nat\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:OUTRIGGER_OLD - [0:0]\n:OUTRIGGER_OUTBOUND - [0:0]\n\
                 -A OUTPUT -j OUTRIGGER_OUTBOUND\n-A OUTPUT -j DOCKER\n-A OUTRIGGER_OUTBOUND -p tcp -j RETURN\nCOMMIT\n";
    let found = Found::of(saved, iptables::PREFIX);
    let script = iptables::script(&parsed("--mode off").unwrap(), Family::V4, &found);
    for line in [
        ":OUTRIGGER_OUTBOUND - [0:0]",
        "-D OUTPUT -j OUTRIGGER_OUTBOUND",
        "-I OUTPUT -j OUTRIGGER_OUTBOUND",
        "-F OUTRIGGER_OLD",
        "-X OUTRIGGER_OLD",
    ] {
        assert!(
            script.lines().any(|said| said == line),
            "{line} in\n{script}"
        );
    }
    assert!(!script.contains("-X OUTRIGGER_OUTBOUND"), "{script}");
    assert!(!script.contains("DOCKER"), "{script}");
    let removal = iptables::removal(&found).unwrap();
    assert_eq!(
        removal,
        "*nat\n-D OUTPUT -j OUTRIGGER_OUTBOUND\n-F OUTRIGGER_OLD\n-F OUTRIGGER_OUTBOUND\n-X OUTRIGGER_OLD\n-X OUTRIGGER_OUTBOUND\nCOMMIT\n"
    );
    assert_eq!(iptables::removal(&Found::default()), None);
}
