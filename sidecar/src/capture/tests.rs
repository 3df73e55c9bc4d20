//! Connections that the kernel really redirects, in a network namespace of their own. Each claim runs this test binary
//! again inside of one, where [`inside`] has its other half; without root or `nft` it says so and is not tried.

use std::process::Command;

mod inside;

/// Addresses, routes and rules. Only what is marked is redirected, so that the sidecar's own connections are not.
const NAMESPACE: &str = r#"
set -e
ip link set lo up
ip addr add 10.99.0.1/32 dev lo
ip addr add 198.51.100.7/32 dev lo
ip addr add fd99::1/128 dev lo nodad
ip addr add 2001:db8::7/128 dev lo nodad
for net in 240.240.0.0/16 203.0.113.0/24 2001:2::/48; do ip route add $net dev lo; done
nft -f - <<'RULES'
table inet test {
  chain out {
    type nat hook output priority -100;
    ip daddr 240.240.255.254 meta l4proto tcp redirect to :15001
    ip6 daddr 2001:2::ffff meta l4proto tcp redirect to :15001
    meta mark 7 meta l4proto tcp redirect to :15001
    meta mark 8 meta l4proto tcp redirect to :15006
  }
}
RULES
exec "$0" --exact "capture::tests::inside::$1" --ignored --nocapture
"#;

fn holds(claim: &str) {
    let can = |program: &str, argument: &str| {
        let tried = Command::new(program).arg(argument).output();
        tried.is_ok_and(|done| done.status.success())
    };
    if !can("unshare", "--net") || !can("nft", "--version") {
        println!("not tried: needs root, unshare and nft");
        return;
    }
    let binary = std::env::current_exe().unwrap();
    let done = Command::new("unshare")
        .args(["--net", "sh", "-c", NAMESPACE])
        .arg(binary)
        .arg(claim)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let complained = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}\n{complained}");
    assert!(said.contains("1 passed"), "{said}\n{complained}");
}

#[test]
fn a_connection_goes_to_the_listener_of_its_address_then_of_its_port_then_on_to_where_it_was_going()
{
    holds("placed");
}

#[test]
fn a_connection_to_our_own_port_is_reset_and_opens_nothing() {
    holds("own_port");
}

#[test]
fn a_request_to_no_service_goes_on_to_where_its_connection_was_going() {
    holds("requests");
}

#[test]
fn a_call_to_its_own_host_comes_by_its_own_inbound_side() {
    holds("own_host");
}

#[test]
fn the_probe_says_whether_connections_are_redirected() {
    holds("probed");
}

#[test]
fn inbound_connections_have_the_chain_of_the_port_that_they_were_going_to() {
    holds("inbound");
}
