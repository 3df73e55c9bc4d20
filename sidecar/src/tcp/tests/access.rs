//! Connections that access rules do not let through.

use outrigger_core::{Cidr, Condition, Policy, Rbac, RbacAction, Rules};

use super::*;

fn deny(principal: Condition) -> Rules {
    let policy = Policy::new("ns[db]", vec![Condition::Any], vec![principal]);
    Rules::new(RbacAction::Deny, vec![policy])
}

fn from(address: &str) -> Condition {
    Condition::DirectRemoteIp(Cidr::new(address.parse().unwrap(), 32).unwrap())
}

#[tokio::test]
async fn a_connection_that_rules_deny_is_closed_and_counted() {
    let app = echo("db").await;
    for (rules, shadow, verdicts, denied) in [
        (Some(from("127.0.0.1")), None, ["denied"].as_slice(), true),
        (Some(from("10.0.0.1")), None, &["allowed"], false),
        (None, Some(from("127.0.0.1")), &["dry_run_denied"], false),
        (
            Some(from("10.0.0.1")),
            Some(from("10.0.0.1")),
            &["dry_run_allowed", "allowed"],
            false,
        ),
    ] {
        let rbac = Rbac {
            rules: rules.map(deny),
            shadow: shadow.map(deny),
            marks: None,
        };
        let set = |route: &mut ConnectionRoute| route.rbac = vec![rbac];
        let (sidecar, port) = outbound(bytes("db", |_| ()), plain(&[app]), None, set).await;
        let heard = tell(port, b"hello").await;
        if denied {
            assert!(heard.is_none_or(|heard| heard.is_empty()));
            refused(&sidecar, "rbac_denied", 1.0).await;
        } else {
            assert!(heard.is_some_and(|heard| !heard.is_empty()));
        }
        for verdict in verdicts {
            let policy = if verdict.ends_with("denied") {
                "ns[db]"
            } else {
                "none"
            };
            let line = format!(
                "outrigger_authorization_total{{action=\"deny\",hop=\"outbound\",policy=\"{policy}\",verdict=\"{verdict}\"}}"
            );
            assert_eq!(sidecar.metric(&line), 1.0, "{verdict}");
        }
    }
}
