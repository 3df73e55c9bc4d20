//! How often keys are fetched, and who waits how long.

use super::*;

fn remote(timeout: Duration) -> Arc<RemoteKeys> {
    Arc::new(RemoteKeys::new(RemoteName {
        uri: "http://idp/keys".into(),
        cluster: "idp".into(),
        timeout,
        cache_duration: Duration::from_secs(600),
        retry_after: Duration::from_secs(1),
    }))
}

#[tokio::test(start_paused = true)]
async fn requests_have_keys_fetched_three_times_at_once_and_then_every_ten_seconds() {
    let jwks = Jwks::default();
    let keys = remote(Duration::from_secs(5));
    jwks.fetch(vec![Arc::clone(&keys)]);
    // The first fetch is due anyhow, and comes.
    jwks.begin(&keys.name);
    jwks.end(&keys);
    let asked = || {
        let wanted = jwks.want(&keys, false).is_some();
        if wanted {
            jwks.begin(&keys.name);
            jwks.end(&keys);
        }
        wanted
    };
    assert_eq!(
        [asked(), asked(), asked(), asked()],
        [true, true, true, false]
    );
    tokio::time::advance(Duration::from_secs(9)).await;
    assert!(!asked());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!([asked(), asked()], [true, false]);
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(
        [asked(), asked(), asked(), asked()],
        [true, true, true, false]
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_fetch_that_is_begun_after_it_and_no_longer_than_one_may_take() {
    let jwks = Arc::new(Jwks::default());
    let keys = remote(Duration::from_secs(5));
    jwks.fetch(vec![Arc::clone(&keys)]);
    let start = Instant::now();
    jwks.refreshed(&keys, Duration::from_secs(60)).await;
    assert_eq!(start.elapsed(), Duration::from_secs(5), "nobody fetches");

    jwks.begin(&keys.name);
    jwks.end(&keys);
    let set = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let set = outrigger_core::jwt::KeySet::parse(set.as_bytes()).unwrap();
    keys.current.store(Some(Arc::new(set)));
    // One is under way when the request comes: what it brings may be older than the token.
    jwks.begin(&keys.name);
    let waiting = tokio::spawn({
        let (jwks, keys) = (Arc::clone(&jwks), Arc::clone(&keys));
        async move { jwks.refreshed(&keys, Duration::from_secs(60)).await }
    });
    tokio::time::advance(Duration::from_secs(1)).await;
    jwks.end(&keys);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    jwks.begin(&keys.name);
    jwks.end(&keys);
    waiting.await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_wait_than_may() {
    let jwks = Jwks::default();
    let keys = remote(Duration::from_secs(5));
    jwks.fetch(vec![Arc::clone(&keys)]);
    let places: Vec<_> = (0..MAX_WAITING)
        .filter_map(|_| Place::take(&jwks.waiting))
        .collect();
    assert_eq!(places.len(), MAX_WAITING);
    let start = Instant::now();
    jwks.refreshed(&keys, Duration::from_secs(60)).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    drop(places);
    assert_eq!(jwks.waiting.load(Ordering::Relaxed), 0);
}
