//! What a change costs: the same bytes for the same world, and nothing new for nothing changed.

use super::*;

#[test]
fn the_same_world_gives_the_same_bytes() {
    let versions = |seen: &Seen| {
        let all = ResourceType::ALL
            .into_iter()
            .flat_map(|kind| seen.0.of(kind).iter());
        all.map(|one| (one.name.clone(), one.version.clone()))
            .collect::<Vec<_>>()
    };
    let (one, two) = (scoped().seen_by(&node()), scoped().seen_by(&node()));
    assert_eq!(versions(&one), versions(&two));
}

/// Names that differ between two Worlds of one mesh, by type, and whether a full rebuild agrees.
fn changes(before: &Given, after: &Given) -> Vec<(ResourceType, Vec<String>)> {
    changes_for(&node(), before, after)
}

pub(super) fn changes_for(
    node: &NodeInfo,
    before: &Given,
    after: &Given,
) -> Vec<(ResourceType, Vec<String>)> {
    let own = NodeResources::of(node);
    let mesh = before.mesh();
    let old = Shared::translate(Arc::new(before.world_with(Arc::clone(&mesh))), None);
    let old_seen = old.snapshot(node, &own);
    let new = Shared::translate(Arc::new(after.world_with(mesh)), Some(&old));
    let new_seen = new.snapshot(node, &own);
    assert_eq!(
        Seen(new_seen.clone()).all(),
        after.seen_by(node).all(),
        "not what it is afresh"
    );
    let of = |kind: ResourceType| {
        let changed = new_seen.of(kind).changed_since(old_seen.of(kind).seen())?;
        let names = changed.iter().map(ToString::to_string).collect::<Vec<_>>();
        (!names.is_empty()).then_some((kind, names))
    };
    ResourceType::ALL.into_iter().filter_map(of).collect()
}

#[test]
fn a_new_endpoint_changes_its_assignment_only() {
    let after = scoped().instance("reviews", 9080, "v1", "10.0.0.6:15006");
    assert_eq!(
        changes(&scoped(), &after),
        [(Endpoint, vec![REVIEWS.to_owned()])]
    );
}

#[test]
fn a_new_identity_changes_the_cluster_too() {
    let before = reviews().plain("ratings", 7070, "v1", "10.0.0.3:7070");
    let after = before
        .clone()
        .instance("ratings", 7070, "v1", "10.0.0.4:15006");
    let ratings = vec!["outbound|7070||ratings.default.svc.cluster.local".to_owned()];
    assert_eq!(
        changes(&before, &after),
        [(Cluster, ratings.clone()), (Endpoint, ratings)]
    );
}

#[test]
fn a_new_service_changes_the_routes_too() {
    let after = reviews().instance("ratings", 7070, "v1", "10.0.0.3:15006");
    let kinds: Vec<_> = changes(&reviews(), &after)
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, [Cluster, Endpoint, Route]);
}

#[test]
fn a_selecting_entry_follows_the_registrations_of_others() {
    let before = reviews().policy("entry.yaml", ENTRY);
    let after = before.clone().without("reviews", "10.0.0.1:15006");
    let names = vec!["outbound|80||books.example".to_owned(), REVIEWS.to_owned()];
    assert_eq!(changes(&before, &after), [(Endpoint, names)]);
}

#[test]
fn nothing_changed_is_nothing_new() {
    assert_eq!(changes(&scoped(), &scoped()), []);
}

/// Instances come, go, and change; nodes of several kinds ask now and then.
#[test]
fn whatever_changes_in_whatever_order_each_node_sees_what_it_would_afresh() {
    let by_place = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: s-1}
spec:
  host: s-1
  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}
";
    let scope = "\
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow}
spec:
  workloadSelector: {labels: {app: narrow}}
  egress: [{hosts: ['*/s-2.default.svc.cluster.local', '*/s-3.default.svc.cluster.local']}]
";
    let nodes = [
        node(),
        NodeInfo {
            on_demand: true,
            locality: Some(["eu", "a", ""].map(str::to_owned)),
            ..node()
        },
        NodeInfo {
            namespace: "other".into(),
            ..node()
        },
        NodeInfo {
            labels: [("app".to_owned(), "narrow".to_owned())].into(),
            ..node()
        },
        NodeInfo {
            dialect: super::super::Dialect::Grpc(super::super::grpc::Credentials::None),
            ..node()
        },
    ];
    for seed in 0..10 {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut given = Given::default()
            .policy("place.yaml", by_place)
            .policy("scope.yaml", scope)
            .policy("entry.yaml", ENTRY);
        for service in 0..5 {
            given = given.instance(&format!("s-{service}"), 80, "v1", "10.0.0.1:15006");
        }
        let mesh = given.mesh();
        let world = |given: &Given| Arc::new(given.world_with(Arc::clone(&mesh)));
        let own = nodes.each_ref().map(NodeResources::of);
        let mut shared = Shared::translate(world(&given), None);
        for _ in 0..30 {
            for _ in 0..random.u32(1..4) {
                let service = format!("s-{}", random.u32(..5));
                let address = format!("10.0.0.{}:15006", random.u32(1..5));
                given = match random.u32(..4) {
                    0 => given.without(&service, &address),
                    // A port of its own is another table of routes.
                    1 if random.u32(..5) == 0 => given.instance(&service, 81, "v1", &address),
                    2 => given
                        .instance(&service, 80, "v2", &address)
                        .located(&service, &address, "us/b/"),
                    _ => given.instance(&service, 80, "v1", &address),
                };
            }
            shared = Shared::translate(world(&given), Some(&shared));
            let fresh = Shared::translate(world(&given), None);
            for (node, own) in nodes.iter().zip(&own) {
                // Some are asleep.
                if random.bool() {
                    assert_eq!(
                        Seen(shared.snapshot(node, own)).all(),
                        Seen(fresh.snapshot(node, &NodeResources::of(node))).all(),
                    );
                }
            }
        }
    }
}

#[test]
fn a_scope_that_a_change_does_not_concern_stays_the_very_same() {
    let scope = "\
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow}
spec:
  egress: [{hosts: ['*/ratings.default.svc.cluster.local']}]
";
    let before = reviews()
        .instance("ratings", 7070, "v1", "10.0.0.3:15006")
        .policy("scope.yaml", scope);
    let after = before
        .clone()
        .instance("reviews", 9080, "v1", "10.0.0.6:15006");
    assert_eq!(changes(&before, &after), []);
}
