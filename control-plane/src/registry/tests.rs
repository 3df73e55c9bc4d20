use std::net::IpAddr;

use outrigger_policy::Protocol;

use super::*;

fn host(service: &str) -> HostName {
    HostName::canonical(service, "default", "cluster.local")
}

fn instance(service: &str, id: &str) -> Registration {
    Registration {
        service: service.into(),
        namespace: "default".into(),
        id: id.into(),
        address: IpAddr::from([10, 0, 0, 1]),
        port: 9080,
        target_port: 9080,
        protocol: Protocol::Http,
        labels: BTreeMap::new(),
        locality: [const { String::new() }; 3],
        weight: 1,
        ttl: secs(30),
        health: InstanceHealth::Healthy,
        identity: None,
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ids(registry: &Registry, service: &str) -> Vec<String> {
    registry.services()[&host(service)]
        .instances
        .keys()
        .cloned()
        .collect()
}

fn register(registry: &Registry, registration: Registration, now: Instant) -> Registered {
    registry
        .register(&host(&registration.service), registration, now)
        .unwrap()
}

#[test]
fn an_instance_that_stops_heartbeating_leaves_after_its_lease() {
    let (registry, start) = (Registry::default(), Instant::now());
    register(&registry, instance("reviews", "a"), start);
    registry
        .heartbeat(&host("reviews"), "a", None, start + secs(10))
        .unwrap();
    assert_eq!(registry.next_expiry(), Some(start + secs(40)));
    assert_eq!(registry.expire(start + secs(39)), []);
    assert_eq!(
        registry.expire(start + secs(40)),
        [(host("reviews"), "a".into())]
    );
    assert_eq!(ids(&registry, "reviews"), [""; 0]);
    assert_eq!((registry.next_expiry(), registry.leases()), (None, 0));
}

#[test]
fn a_heartbeat_after_the_end_of_the_lease_is_not_found() {
    let (registry, start) = (Registry::default(), Instant::now());
    register(&registry, instance("reviews", "a"), start);
    registry.expire(start + secs(30));
    let refusal = registry
        .heartbeat(&host("reviews"), "a", None, start + secs(31))
        .unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
    assert_eq!(
        register(&registry, instance("reviews", "a"), start),
        Registered::Created
    );
}

#[test]
fn a_service_keeps_its_port_when_its_last_instance_goes() {
    let (registry, start) = (Registry::default(), Instant::now());
    register(&registry, instance("reviews", "a"), start);
    registry.deregister(&host("reviews"), "a", start).unwrap();
    let services = registry.services();
    assert_eq!(
        services[&host("reviews")].ports,
        BTreeMap::from([(9080, Protocol::Http)])
    );
    assert_eq!(
        registry
            .deregister(&host("reviews"), "a", start)
            .unwrap_err()
            .code,
        Code::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_wakes_no_reader() {
    let (registry, start) = (Registry::default(), Instant::now());
    register(&registry, instance("reviews", "a"), start);
    registry.changed().await;
    registry
        .heartbeat(&host("reviews"), "a", None, start)
        .unwrap();
    assert_eq!(
        register(&registry, instance("reviews", "a"), start),
        Registered::Renewed
    );
    assert!(
        tokio::time::timeout(secs(1), registry.changed())
            .await
            .is_err()
    );
    let healthy = Some(InstanceHealth::Healthy);
    assert_eq!(
        registry
            .heartbeat(&host("reviews"), "a", healthy, start)
            .unwrap(),
        (secs(30), false)
    );
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_with_another_health_wakes_readers() {
    let (registry, start) = (Registry::default(), Instant::now());
    register(&registry, instance("reviews", "a"), start);
    registry.changed().await;
    let draining = Some(InstanceHealth::Draining);
    assert_eq!(
        registry
            .heartbeat(&host("reviews"), "a", draining, start)
            .unwrap(),
        (secs(30), true)
    );
    registry.changed().await;
    let services = registry.services();
    assert_eq!(
        services[&host("reviews")].instances["a"].health,
        InstanceHealth::Draining
    );
}

#[test]
fn an_earlier_reader_keeps_what_it_read() {
    let (registry, start) = (Registry::default(), Instant::now());
    register(&registry, instance("reviews", "a"), start);
    register(&registry, instance("ratings", "a"), start);
    let before = registry.services();
    register(&registry, instance("reviews", "b"), start);
    let after = registry.services();
    assert_eq!(before[&host("reviews")].instances.len(), 1);
    assert_eq!(after[&host("reviews")].instances.len(), 2);
    assert!(Arc::ptr_eq(
        &before[&host("ratings")],
        &after[&host("ratings")]
    ));
}

#[test]
fn a_full_service_refuses_one_more_but_not_a_renewal() {
    let limits = Limits {
        instances_per_service: 2,
        ..Limits::default()
    };
    let (registry, start) = (Registry::new(limits), Instant::now());
    register(&registry, instance("reviews", "a"), start);
    register(&registry, instance("reviews", "b"), start);
    let refusal = registry
        .register(&host("reviews"), instance("reviews", "c"), start)
        .unwrap_err();
    assert_eq!(refusal.code, Code::ResourceExhausted);
    assert_eq!(
        register(&registry, instance("reviews", "b"), start),
        Registered::Renewed
    );
    assert_eq!(ids(&registry, "reviews"), ["a", "b"]);
}

#[test]
fn a_full_registry_forgets_only_services_without_instances() {
    let limits = Limits {
        services: 2,
        ..Limits::default()
    };
    let (registry, start) = (Registry::new(limits), Instant::now());
    register(&registry, instance("a", "1"), start);
    register(&registry, instance("b", "1"), start);
    let refusal = registry
        .register(&host("c"), instance("c", "1"), start)
        .unwrap_err();
    assert_eq!(refusal.code, Code::ResourceExhausted);
    registry.deregister(&host("a"), "1", start).unwrap();
    register(&registry, instance("c", "1"), start);
    assert_eq!(registry.hosts(), BTreeSet::from([host("b"), host("c")]));
}

#[test]
fn all_instances_together_have_a_limit() {
    let limits = Limits {
        instances: 2,
        ..Limits::default()
    };
    let (registry, start) = (Registry::new(limits), Instant::now());
    register(&registry, instance("a", "1"), start);
    register(&registry, instance("b", "1"), start);
    let refusal = registry
        .register(&host("c"), instance("c", "1"), start)
        .unwrap_err();
    assert_eq!(refusal.code, Code::ResourceExhausted);
}

#[test]
fn one_port_has_one_protocol() {
    let (registry, start) = (Registry::default(), Instant::now());
    register(&registry, instance("reviews", "a"), start);
    let grpc = |id: &str| Registration {
        protocol: Protocol::Grpc,
        ..instance("reviews", id)
    };
    let refusal = registry
        .register(&host("reviews"), grpc("b"), start)
        .unwrap_err();
    assert_eq!(
        (refusal.code, refusal.field),
        (Code::FailedPrecondition, Some("protocol"))
    );
    // The only instance may change its mind.
    assert_eq!(register(&registry, grpc("a"), start), Registered::Changed);
    assert_eq!(
        registry.services()[&host("reviews")].ports[&9080],
        Protocol::Grpc
    );
}

#[tokio::test(start_paused = true)]
async fn a_shorter_lease_wakes_the_sweep() {
    let (registry, start) = (Registry::default(), Instant::now());
    register(&registry, instance("reviews", "a"), start);
    registry.sooner().await;
    register(&registry, instance("reviews", "b"), start + secs(1));
    assert!(
        tokio::time::timeout(secs(1), registry.sooner())
            .await
            .is_err()
    );
    register(
        &registry,
        Registration {
            ttl: secs(5),
            ..instance("reviews", "c")
        },
        start,
    );
    registry.sooner().await;
    assert_eq!(registry.next_expiry(), Some(start + secs(5)));
}
