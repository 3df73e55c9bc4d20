//! With the store and the timer, under virtual time.

use super::*;
use crate::registry::Limits;

fn service(dir: &tempfile::TempDir) -> RegistryService {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (store, _writer) = Store::open(dir.path(), metrics.store_write_seconds.clone()).unwrap();
    service_on(store, metrics)
}

fn service_on(store: Store, metrics: Arc<Metrics>) -> RegistryService {
    RegistryService {
        registry: Arc::new(Registry::new(Limits::default())),
        store,
        metrics,
        domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        lease_ttl: Duration::from_secs(30),
        heartbeat_interval: Duration::from_secs(10),
        pushes: None,
    }
}

fn reviews(id: &str) -> api::RegisterRequest {
    api::RegisterRequest {
        service: "reviews".into(),
        instance_id: id.into(),
        address: "10.0.0.1".into(),
        port: 9080,
        ..Default::default()
    }
}

fn stored(service: &RegistryService) -> Vec<String> {
    let all = registrations::load::<Registration>(&service.store).unwrap();
    all.into_iter()
        .map(|registration| registration.id)
        .collect()
}

async fn register(service: &RegistryService, request: api::RegisterRequest) {
    service
        .register(&Caller::Operator, None, request)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_sweep_comes_when_a_lease_ends_and_cleans_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(&dir);
    let begun = Instant::now();
    register(&service, reviews("a")).await;
    service.registry.changed().await;
    assert_eq!(stored(&service), ["a"]);
    let sweep = tokio::spawn(service.clone().sweep());
    // The clock goes on to whatever comes next: the end of the lease.
    service.registry.changed().await;
    let late = begun.elapsed() - Duration::from_secs(30);
    assert!(late < Duration::from_millis(5), "{late:?}");
    sweep.abort();
    // Behind whatever the sweep has queued.
    service.store.write(|_| Ok(())).await.unwrap();
    assert_eq!((stored(&service).len(), service.registry.leases()), (0, 0));
    assert_eq!(service.metrics.lease_expiries.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_each_instance_has_a_full_lease() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(&dir);
    register(&service, reviews("a")).await;
    register(&service, reviews("b")).await;
    let gone = api::DeregisterRequest {
        service: "reviews".into(),
        instance_id: "b".into(),
        ..Default::default()
    };
    service.deregister(&Caller::Operator, gone).await.unwrap();
    // The lease of before has run out long ago; nobody was there to hear the heartbeats.
    tokio::time::advance(Duration::from_secs(3600)).await;
    let (registry, now) = (Registry::default(), Instant::now());
    assert_eq!(
        restore(&service.store, &registry, "cluster.local", now).unwrap(),
        1
    );
    assert_eq!(registry.next_expiry(), Some(now + Duration::from_secs(30)));
}

#[tokio::test]
async fn an_operator_registers_a_sidecar_with_the_services_own_account() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(&dir);
    let request = api::RegisterRequest {
        mtls: true,
        namespace: "shop".into(),
        ..reviews("a")
    };
    register(&service, request).await;
    let services = service.registry.services();
    let instance = services.values().next().unwrap().instances["a"].clone();
    assert_eq!(
        instance.identity.as_deref(),
        Some("spiffe://cluster.local/ns/shop/sa/reviews")
    );
}

#[tokio::test]
async fn a_refusal_is_counted_by_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(&dir);
    let bad = api::RegisterRequest {
        port: 0,
        ..reviews("a")
    };
    service
        .register(&Caller::Operator, None, bad)
        .await
        .unwrap_err();
    service
        .register(&Caller::Anonymous, None, reviews("a"))
        .await
        .unwrap_err();
    for reason in ["invalid_argument", "unauthenticated"] {
        let counter = service
            .metrics
            .registry_refusals
            .with_label_values(&[reason]);
        assert_eq!(counter.get(), 1, "{reason}");
    }
}

#[tokio::test]
async fn heartbeats_are_asked_for_at_a_third_of_a_short_lease() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(&dir);
    for (ttl, seconds) in [(3, 1), (30, 10), (3600, 10)] {
        let ttl = Some(prost_types::Duration {
            seconds: ttl,
            nanos: 0,
        });
        let request = api::RegisterRequest {
            ttl,
            ..reviews("a")
        };
        let answer = service
            .register(&Caller::Operator, None, request)
            .await
            .unwrap();
        assert_eq!(answer.heartbeat_interval.unwrap().seconds, seconds);
    }
}

fn deregistration(id: &str) -> api::DeregisterRequest {
    api::DeregisterRequest {
        service: "reviews".into(),
        instance_id: id.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_could_not_be_written_is_written_when_it_is_tried_again() {
    let disk = crate::store::testing::Disk::default();
    let service = service_on(disk.open(), Arc::new(Metrics::new().unwrap()));
    let try_register = || service.register(&Caller::Operator, None, reviews("a"));
    let try_deregister = || service.deregister(&Caller::Operator, deregistration("a"));

    disk.fill(true);
    for _ in 0..2 {
        try_register().await.unwrap_err();
    }
    disk.fill(false);
    try_register().await.unwrap();
    assert_eq!(stored(&service), ["a"]);

    disk.fill(true);
    try_deregister().await.unwrap_err();
    disk.fill(false);
    let gone = try_deregister().await.unwrap_err();
    assert_eq!(gone.code, tonic::Code::NotFound);
    assert_eq!(stored(&service).len(), 0);
}

#[tokio::test]
async fn a_call_that_is_cut_off_is_written_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(&dir);
    let mut call = Box::pin(service.register(&Caller::Operator, None, reviews("a")));
    // Once: far enough to change what is held.
    assert!(is_pending(call.as_mut()).await);
    drop(call);
    while stored(&service).is_empty() {
        tokio::task::yield_now().await;
    }
}

/// Polls once; whether there is more to do.
async fn is_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}
