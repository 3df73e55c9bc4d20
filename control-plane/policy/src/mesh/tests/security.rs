//! Which PeerAuthentication holds for a workload, and which AuthorizationPolicies are for it.

use super::*;
use crate::{MtlsMode, WorkloadView};

fn labels(app: &str) -> BTreeMap<String, String> {
    [("app".to_owned(), app.to_owned())].into()
}

fn mode(given: &World, namespace: &str, app: &str, port: u16) -> MtlsMode {
    let (mesh, labels) = (given.build().0, labels(app));
    let workload = WorkloadView {
        namespace,
        labels: &labels,
    };
    mesh.peer_mode(workload, port).mode
}

#[test]
fn the_most_specific_mode_holds_and_strict_without_any() {
    let given = World::default();
    assert_eq!(mode(&given, "shop", "a", 80), MtlsMode::Strict);
    let given = given
        .apply("m", "PeerAuthentication", "istio-system/mesh", "{mtls: {mode: PERMISSIVE}}")
        .apply("n", "PeerAuthentication", "bank/bank", "{mtls: {mode: DISABLE}}")
        .apply("u", "PeerAuthentication", "quiet/quiet", "{mtls: {mode: UNSET}}")
        .apply(
            "w",
            "PeerAuthentication",
            "bank/a",
            "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {81: {mode: PERMISSIVE}, 82: {mode: UNSET}}}",
        );
    for (namespace, app, port, expected) in [
        ("shop", "a", 80, MtlsMode::Permissive),
        ("quiet", "a", 80, MtlsMode::Permissive),
        ("bank", "b", 80, MtlsMode::Disable),
        ("bank", "a", 80, MtlsMode::Strict),
        ("bank", "a", 81, MtlsMode::Permissive),
        ("bank", "a", 82, MtlsMode::Strict),
    ] {
        assert_eq!(
            mode(&given, namespace, app, port),
            expected,
            "{namespace} {app} {port}"
        );
    }
}

#[test]
fn of_two_for_the_same_workloads_the_older_holds_and_the_other_is_told() {
    let given = World::default()
        .apply(
            "a",
            "PeerAuthentication",
            "shop/z",
            "{mtls: {mode: DISABLE}}",
        )
        .apply(
            "b",
            "PeerAuthentication",
            "shop/a",
            "{mtls: {mode: PERMISSIVE}}",
        );
    assert_eq!(mode(&given, "shop", "a", 80), MtlsMode::Disable);
    let told = given.diagnostics();
    assert!(
        told.iter()
            .any(|one| one.contains("never holds") && one.contains("shop/z")),
        "{told:?}"
    );
}

#[test]
fn rules_of_the_root_namespace_are_for_everybody_whom_they_select() {
    let given = World::default()
        .apply("a", "AuthorizationPolicy", "istio-system/all", "{}")
        .apply(
            "b",
            "AuthorizationPolicy",
            "istio-system/some",
            "{selector: {matchLabels: {app: a}}}",
        )
        .apply("c", "AuthorizationPolicy", "bank/bank", "{}");
    let mesh = given.build().0;
    let of = |namespace: &str, app: &str| {
        let labels = labels(app);
        let workload = WorkloadView {
            namespace,
            labels: &labels,
        };
        let found = mesh.authorization_policies(workload);
        found
            .map(|(object, _)| object.key.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("shop", "a"), ["all", "some"]);
    assert_eq!(of("bank", "b"), ["bank", "all"]);
}
