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
