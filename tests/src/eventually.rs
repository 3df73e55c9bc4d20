//! Waiting for what can be observed, with a deadline.

use std::time::{Duration, Instant};

/// How long anything may take that has no deadline of its own; a loaded two-core machine is slow.
const DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `probe` until it gives `Ok`, and returns what it gave.
///
/// # Panics
/// With `what` and the last `Err` after 30 s.
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    within(DEADLINE, what, probe).await
}

/// As [`eventually`], with a deadline that is part of the claim.
///
/// # Panics
/// With `what` and the last `Err` when the deadline has passed.
pub async fn within<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(why) if started.elapsed() >= deadline => {
                panic!("not within {deadline:?}: {what}; the last time: {why}")
            }
            // Between two looks at the same thing; never the wait for a thing to happen.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
