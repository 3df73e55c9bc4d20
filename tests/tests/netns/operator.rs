//! The command line of `outrigger redirect`, as whoever runs it sees it.

use outrigger_tests::{APPLICATION, Network};

use super::rules::BACKENDS;

#[test]
fn rules_come_are_checked_and_go_without_a_trace() {
    let Some(network) = Network::start() else {
        return;
    };
    let host = network.host("a");
    let ruleset = || {
        let routes =
            ["-4", "-6"].map(|family| host.must(&["ip", family, "route", "show", "table", "all"]));
        let rules = ["-4", "-6"].map(|family| host.must(&["ip", family, "rule"]));
        (host.must(&["nft", "list", "ruleset"]), routes, rules)
    };
    let before = ruleset();
    let flags = "--mode all --uid 1337,0 --exclude-cidr 10.9.0.0/16,0.0.0.0/32 --exclude-ports 25,3000-3999 --tproxy";
    for backend in BACKENDS {
        let absent = host.redirect(&format!("check --backend {backend}"));
        assert_eq!(absent.status, 1);
        assert!(
            absent.stdout.starts_with("there are no rules of ours"),
            "{}",
            absent.stdout
        );
        for line in ["", flags, "--mode off --inbound-ports 80", flags] {
            for _again in 0..2 {
                host.must_redirect(&format!("apply --backend {backend} {line}"));
                host.must_redirect(&format!("check --backend {backend} {line}"));
                // Whose rules they are is seen without being told.
                host.must_redirect(&format!("check {line}"));
            }
        }
        let other = host.redirect("check --mode all --uid 1337,0 -o json");
        assert_eq!(other.status, 1);
        let json: serde_json::Value = serde_json::from_str(&other.stdout).unwrap();
        assert_eq!(json["state"], "different");
        assert!(
            json["difference"]
                .as_array()
                .is_some_and(|lines| !lines.is_empty()),
            "{json}"
        );
        let removed = host.must_redirect("remove");
        assert!(removed.contains("removed"), "{removed}");
        assert_eq!(host.must_redirect("remove"), "nothing to remove\n");
        if backend == "nft" {
            assert_eq!(ruleset(), before);
        } else {
            // The tool itself leaves its empty chains.
            let left = host.must(&[&format!("{backend}-save")]);
            assert!(!left.contains("OUTRIG"), "{left}");
        }
    }
}

#[test]
fn what_somebody_changed_by_hand_is_shown_and_put_right() {
    let Some(network) = Network::start() else {
        return;
    };
    let host = network.host("a");
    host.must_redirect("apply --backend nft");
    host.must(&[
        "nft",
        "insert",
        "rule",
        "inet",
        "outrigger",
        "outbound",
        "tcp",
        "dport",
        "8080",
        "return",
    ]);
    let changed = host.redirect("check");
    assert_eq!(changed.status, 1);
    assert!(
        changed.stdout.contains("- tcp dport 8080 return\n"),
        "{}",
        changed.stdout
    );
    assert_eq!(changed.stdout.lines().count(), 2, "{}", changed.stdout);
    host.must_redirect("apply");
    host.must_redirect("check");
    host.must_redirect("apply --backend iptables-legacy");
    host.must(&[
        "iptables-legacy",
        "-t",
        "nat",
        "-D",
        "OUTPUT",
        "-j",
        "OUTRIGGER_OUTBOUND",
    ]);
    let changed = host.redirect("check");
    assert!(
        changed
            .stdout
            .contains("+ IPv4 nat: -A OUTPUT -j OUTRIGGER_OUTBOUND\n"),
        "{}",
        changed.stdout
    );
    // The tool of before leaves nothing behind.
    let applied = host.must_redirect("apply --backend nft");
    assert!(
        applied.contains("taken away: the rules of iptables-legacy"),
        "{applied}"
    );
    assert!(!host.must(&["iptables-legacy-save"]).contains("OUTRIGGER"));
}

#[test]
fn rules_of_others_stay() {
    let Some(network) = Network::start() else {
        return;
    };
    for backend in ["iptables-nft", "iptables-legacy"] {
        let host = network.host("a");
        let tool = backend;
        host.must(&[
            tool,
            "-t",
            "nat",
            "-A",
            "OUTPUT",
            "-d",
            "10.1.0.0/16",
            "-j",
            "ACCEPT",
        ]);
        let before = host.must(&[tool, "-t", "nat", "-S", "OUTPUT"]);
        host.must_redirect(&format!("apply --backend {backend}"));
        assert!(
            host.must(&[tool, "-t", "nat", "-S", "OUTPUT"])
                .contains("-d 10.1.0.0/16 -j ACCEPT")
        );
        host.must_redirect("remove");
        assert_eq!(host.must(&[tool, "-t", "nat", "-S", "OUTPUT"]), before);
    }
}

#[test]
fn who_may_not_change_rules_is_told_and_may_look_at_them() {
    let Some(network) = Network::start() else {
        return;
    };
    let host = network.host("a").as_user(APPLICATION);
    for command in ["apply", "remove", "check"] {
        let refused = host.redirect(command);
        assert_eq!(refused.status, 1);
        assert!(
            refused
                .stderr
                .contains(&format!("redirect {command} needs root")),
            "{}",
            refused.stderr
        );
    }
    assert!(
        host.must_redirect("print")
            .contains("table inet outrigger {")
    );
}

#[test]
fn without_nft_iptables_takes_its_place() {
    let Some(network) = Network::start() else {
        return;
    };
    let host = network.host("a");
    let nft = host.must(&["sh", "-c", "readlink -f $(command -v nft)"]);
    host.must(&["mount", "--bind", "/dev/null", nft.trim()]);
    let applied = host.must_redirect("apply");
    assert!(
        applied.starts_with("applied (iptables, chains OUTRIGGER_*)"),
        "{applied}"
    );
    host.must_redirect("check");
    let refused = host.redirect("apply --backend nft");
    assert_eq!(refused.status, 1);
    assert!(
        refused
            .stderr
            .contains("there is no nft on this machine; install it"),
        "{}",
        refused.stderr
    );
    host.must_redirect("remove");
}
