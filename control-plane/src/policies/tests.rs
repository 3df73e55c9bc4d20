use prometheus::{Histogram, HistogramOpts};
use tempfile::TempDir;

use super::*;

const ENTRY: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: reviews
spec:
  hosts: [reviews.example.com]
  ports:
  - {number: 9080, name: http, protocol: HTTP}
  resolution: STATIC
  endpoints:
  - address: 10.1.2.3
    labels: {version: v1}
";

const RULE: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews.example.com
  subsets:
  - name: v1
    labels: {version: v1}
";

const ROUTE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews.example.com]
  http:
  - route:
    - destination:
        host: reviews.example.com
        subset: v1
";

fn open(dir: &TempDir) -> Policies {
    let seconds = Histogram::with_opts(HistogramOpts::new("write_seconds", "test")).unwrap();
    let (store, _writer) = Store::open(dir.path(), seconds).unwrap();
    Policies::load(store, &MeshNames::for_tests(), BTreeSet::new()).unwrap()
}

fn policies() -> Policies {
    // The open file outlives its name.
    open(&tempfile::tempdir().unwrap())
}

fn request(what: What, files: &[(&str, &str)]) -> Request {
    Request {
        what,
        files: files
            .iter()
            .map(|(name, text)| ((*name).into(), (*text).into()))
            .collect(),
        default_namespace: "default".into(),
        dry_run: false,
        author: "alice".into(),
    }
}

fn call(policies: &Policies, request: &Request) -> Outcome {
    policies.change(request, &Inventory::default()).unwrap()
}

fn apply(policies: &Policies, files: &[(&str, &str)]) -> Outcome {
    call(policies, &request(What::Apply, files))
}

fn changes(outcome: &Outcome) -> Vec<Change> {
    outcome.applied.iter().map(|(.., change)| *change).collect()
}

fn key(kind: Kind) -> ObjectKey {
    ObjectKey {
        kind,
        namespace: "default".into(),
        name: "reviews".into(),
    }
}

#[test]
fn each_change_is_a_revision_and_no_change_is_none() {
    let policies = policies();
    let created = apply(&policies, &[("a.yaml", ENTRY)]);
    assert_eq!(
        (created.revision, changes(&created)),
        (1, vec![Change::Created]),
        "{created:?}"
    );
    let unchanged = apply(&policies, &[("a.yaml", ENTRY)]);
    assert_eq!(
        (unchanged.revision, changes(&unchanged)),
        (1, vec![Change::Unchanged])
    );
    let text = ENTRY.replace("10.1.2.3", "10.1.2.4");
    let configured = apply(&policies, &[("a.yaml", &text)]);
    assert_eq!(
        (configured.revision, changes(&configured)),
        (2, vec![Change::Configured])
    );
    let deleted = call(
        &policies,
        &request(What::Delete(vec![key(Kind::ServiceEntry)]), &[]),
    );
    assert_eq!(
        (deleted.revision, changes(&deleted)),
        (3, vec![Change::Deleted])
    );
    assert!(policies.in_force().objects.is_empty());
}

#[test]
fn one_bad_document_keeps_all_out() {
    let policies = policies();
    let outcome = apply(&policies, &[("a.yaml", ENTRY), ("b.yaml", "kind: [")]);
    assert!(outcome.refused && outcome.applied.is_empty() && !outcome.diagnostics.is_empty());
    assert_eq!(
        (outcome.revision, policies.in_force().objects.len()),
        (0, 0)
    );
}

#[test]
fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let policies = policies();
    let dry = Request {
        dry_run: true,
        ..request(What::Apply, &[("a.yaml", ENTRY)])
    };
    let outcome = call(&policies, &dry);
    assert_eq!(
        (outcome.revision, changes(&outcome)),
        (0, vec![Change::Created])
    );
    assert!(policies.in_force().objects.is_empty());
}

#[test]
fn one_object_in_two_files_is_refused_naming_both() {
    let outcome = apply(&policies(), &[("a.yaml", ENTRY), ("b.yaml", ENTRY)]);
    let message = outcome.diagnostics[0].to_string();
    assert!(
        message.starts_with("b.yaml:1:1") && message.contains("a.yaml:1:1"),
        "{message}"
    );
}

#[test]
fn what_a_route_leads_to_cannot_be_deleted() {
    let policies = policies();
    let all = apply(
        &policies,
        &[("a.yaml", ENTRY), ("b.yaml", RULE), ("c.yaml", ROUTE)],
    );
    assert_eq!(all.revision, 1, "{:?}", all.diagnostics);
    let refused = call(
        &policies,
        &request(What::Delete(vec![key(Kind::DestinationRule)]), &[]),
    );
    let message = refused.diagnostics[0].to_string();
    assert!(
        refused.refused && message.starts_with("c.yaml:"),
        "{message}"
    );
    assert_eq!(policies.in_force().objects.len(), 3);
    // Both together can.
    let both = call(
        &policies,
        &request(
            What::Delete(Vec::new()),
            &[("b.yaml", RULE), ("c.yaml", ROUTE)],
        ),
    );
    assert_eq!(changes(&both), [Change::Deleted; 2]);
}

#[test]
fn what_a_registration_made_wrong_stops_no_other_document() {
    let policies = policies();
    let to = |name: &str, host: &str| {
        ROUTE
            .replace("name: reviews\n", &format!("name: {name}\n"))
            .replace("reviews.example.com", host)
            .replace("        subset: v1\n", "")
    };
    // One host, as soon as there is a namespace `shop`; both routes take every request to it.
    let short = to("a", "orders.shop");
    let long = to("b", "orders.shop.svc.cluster.local");
    let first = apply(&policies, &[("a.yaml", &short), ("b.yaml", &long)]);
    assert!(!first.refused, "{:?}", first.diagnostics);
    let orders = HostName::canonical("orders", "shop", "cluster.local");
    let mut registered = Inventory::default();
    registered.services.entry(orders).or_default();
    let other = request(What::Apply, &[("c.yaml", ENTRY)]);
    let applied = policies.change(&other, &registered).unwrap();
    assert!(!applied.refused, "{:?}", applied.diagnostics);
    // The documents themselves are told.
    let again = request(What::Apply, &[("b.yaml", &long)]);
    assert!(policies.change(&again, &registered).unwrap().refused);
}

/// A document of that name in the namespace `default`.
fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

#[test]
fn remarks_about_another_document_of_the_same_file_name_are_not_told_of_this_one() {
    let policies = policies();
    let odd = document(
        "VirtualService",
        "a",
        "{hosts: [orders.example.com], http: [{route: [{destination: {host: nobody.example.com}}]}]}",
    );
    let first = apply(&policies, &[("-", ENTRY), ("-", &odd)]);
    assert!(!first.diagnostics.is_empty(), "{first:?}");
    let faultless = document(
        "VirtualService",
        "b",
        "{hosts: [reviews.example.com], http: [{route: [{destination: {host: reviews.example.com}}]}]}",
    );
    let second = apply(&policies, &[("-", &faultless)]);
    assert_eq!(second.diagnostics, Vec::new());
    assert_eq!(second.effects[0].reasons, Vec::new());
}

#[test]
fn whoever_takes_a_subset_away_is_told_who_routes_to_it() {
    let policies = policies();
    apply(
        &policies,
        &[("e.yaml", ENTRY), ("r.yaml", RULE), ("v.yaml", ROUTE)],
    );
    let other = RULE.replace("name: v1", "name: v2");
    let gone = request(What::Delete(vec![key(Kind::DestinationRule)]), &[]);
    for (change, done) in [
        (gone, "be deleted"),
        (
            request(
                What::Apply,
                &[("r.yaml", &RULE.replace("host: reviews.", "host: other."))],
            ),
            "be changed so",
        ),
    ] {
        let outcome = call(&policies, &change);
        let found = &outcome.diagnostics[0];
        assert!(outcome.refused);
        assert_eq!(found.code, Code::SubsetTakenAway, "{found}");
        assert_eq!(
            found.to_string(),
            format!(
                "v.yaml:11:17: spec.http[0].route[0].destination.subset: DestinationRule default/reviews cannot {done}: \
                 VirtualService default/reviews routes to its subset \"v1\" here; change or delete that one first, or with it"
            )
        );
    }
    let outcome = apply(&policies, &[("r.yaml", &other)]);
    assert_eq!(outcome.diagnostics[0].code, Code::SubsetTakenAway);
}

#[test]
fn what_nobody_who_runs_has_is_told_when_it_is_applied() {
    let policies = policies();
    let mut who = Inventory::default();
    let orders = HostName::canonical("orders", "default", "cluster.local");
    let service = who.services.entry(orders).or_default();
    service.ports.insert(8080, None);
    service.endpoints.push(outrigger_policy::EndpointFacts {
        labels: [("version".to_owned(), "v1".to_owned())].into(),
        ..Default::default()
    });
    let rule = document(
        "DestinationRule",
        "a",
        "{host: orders, subsets: [{name: v2, labels: {version: v2}}]}",
    );
    let outcome = policies.change(&request(What::Apply, &[("a.yaml", &rule)]), &who);
    let outcome = outcome.unwrap();
    let codes: Vec<Code> = outcome.diagnostics.iter().map(|one| one.code).collect();
    assert_eq!(
        codes,
        [Code::SubsetWithoutEndpoints],
        "{:?}",
        outcome.diagnostics
    );
    assert_ne!(
        outcome.effects[0].effective,
        outrigger_policy::Effective::Yes
    );
}

#[test]
fn what_is_not_in_force_cannot_be_deleted() {
    let outcome = call(
        &policies(),
        &request(What::Delete(vec![key(Kind::ServiceEntry)]), &[]),
    );
    assert!(outcome.refused);
    assert_eq!(
        outcome.diagnostics[0].message,
        "ServiceEntry default/reviews is not in force"
    );
}

#[test]
fn a_document_that_moved_in_its_file_is_unchanged_but_found_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let policies = open(&dir);
    apply(&policies, &[("a.yaml", ENTRY)]);
    let moved = format!("{RULE}---\n{ENTRY}");
    let outcome = apply(&policies, &[("a.yaml", &moved)]);
    assert_eq!(outcome.revision, 2);
    let position = |policies: &Policies| {
        let in_force = policies.in_force();
        let held = &in_force.objects[&key(Kind::ServiceEntry)];
        (held.object.position.line, held.revision)
    };
    let line = u32::try_from(RULE.lines().count()).unwrap() + 2;
    assert_eq!(position(&policies), (line, 1));
    // Only moved: not even a revision.
    let outcome = apply(&policies, &[("b.yaml", ENTRY)]);
    assert_eq!(
        (outcome.revision, changes(&outcome)),
        (2, vec![Change::Unchanged])
    );
    assert_eq!(position(&policies), (1, 1));
}

#[test]
fn after_a_restart_positions_are_those_of_the_operators_file() {
    let dir = tempfile::tempdir().unwrap();
    let seconds = Histogram::with_opts(HistogramOpts::new("write_seconds", "test")).unwrap();
    let (store, writer) = Store::open(dir.path(), seconds).unwrap();
    let policies = Policies::load(store, &MeshNames::for_tests(), BTreeSet::new()).unwrap();
    apply(
        &policies,
        &[(
            "mesh.yaml",
            &format!("{ENTRY}---\n# two\n{RULE}---\n{ROUTE}"),
        )],
    );
    let before = policies.in_force();
    drop(policies);
    writer.join().unwrap();
    let after = open(&dir).in_force();
    assert_eq!(after.revision, 1);
    for (key, held) in &before.objects {
        assert_eq!(after.objects[key].object, held.object);
    }
}

#[test]
fn history_names_author_and_revision() {
    let policies = policies();
    apply(&policies, &[("a.yaml", ENTRY)]);
    call(
        &policies,
        &request(What::Delete(vec![key(Kind::ServiceEntry)]), &[]),
    );
    let history = stored::history(policies.store(), |_| true, usize::MAX)
        .unwrap()
        .unwrap();
    let short: Vec<_> = history
        .iter()
        .map(|r| (r.revision, r.deleted, r.author.as_str(), r.yaml.as_str()))
        .collect();
    assert_eq!(
        short,
        [(2, true, "alice", ENTRY), (1, false, "alice", ENTRY)]
    );
}

/// Policies of which another version accepted what this one does not.
fn after_a_downgrade(dir: &TempDir) -> Policies {
    let policies = open(dir);
    apply(&policies, &[("a.yaml", ENTRY), ("b.yaml", RULE)]);
    let (_, records) = stored::load(policies.store()).unwrap();
    let rule = records
        .into_iter()
        .find(|one| one.kind == "DestinationRule");
    let record = Record {
        yaml: RULE.replace("subsets:", "subzets:"),
        revision: 2,
        ..rule.unwrap()
    };
    let store = policies.store().clone();
    store
        .write_blocking(move |txn| stored::commit(txn, 2, &[record]))
        .unwrap();
    Policies::load(store, &MeshNames::for_tests(), BTreeSet::new()).unwrap()
}

#[test]
fn a_stored_document_that_is_refused_is_kept_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let in_force = after_a_downgrade(&dir).in_force();
    assert_eq!(in_force.objects.len(), 1);
    let refused = &in_force.refused["DestinationRule/default/reviews"];
    assert!(refused.record.yaml.contains("subzets"));
    assert!(refused.diagnostic.to_string().starts_with("b.yaml:"));
}

#[test]
fn a_refused_document_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let policies = after_a_downgrade(&dir);
    let outcome = apply(&policies, &[("b.yaml", RULE)]);
    assert_eq!(
        (outcome.revision, changes(&outcome)),
        (3, vec![Change::Configured])
    );
    let in_force = policies.in_force();
    assert_eq!((in_force.objects.len(), in_force.refused.len()), (2, 0));
}

#[test]
fn a_refused_document_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let policies = after_a_downgrade(&dir);
    // Other changes leave it where it is.
    call(
        &policies,
        &request(What::Delete(vec![key(Kind::ServiceEntry)]), &[]),
    );
    assert_eq!(policies.in_force().refused.len(), 1);
    let rule = key(Kind::DestinationRule);
    let outcome = call(&policies, &request(What::Delete(vec![rule]), &[]));
    assert_eq!(
        (outcome.revision, changes(&outcome)),
        (4, vec![Change::Deleted])
    );
    assert!(policies.in_force().refused.is_empty());
    assert_eq!(stored::load(policies.store()).unwrap(), (4, vec![]));
}
