//! In virtual time: who waits, for how long, and what is remembered.

use std::sync::atomic::Ordering::Relaxed;

use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn connected() -> Arc<Demand> {
    let demand = Arc::new(Demand::default());
    demand.set_connected(true);
    demand
}

fn waiting(
    demand: &Arc<Demand>,
    name: &str,
    most: Duration,
) -> tokio::task::JoinHandle<Result<(), Denied>> {
    let (demand, name) = (Arc::clone(demand), name.to_owned());
    tokio::spawn(async move { demand.come(&name, most).await })
}

async fn all_wait(demand: &Demand, count: usize) {
    while demand.counts.waiting.load(Relaxed) < count {
        tokio::task::yield_now().await;
    }
}

fn settle(demand: &Demand, name: &str, answer: Answer) {
    demand.settle(vec![(name.to_owned(), answer)], [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn requests_to_one_host_ask_once_and_go_on_together() {
    let demand = connected();
    let requests: Vec<_> = (0..3).map(|_| waiting(&demand, "p/a", LONG)).collect();
    all_wait(&demand, 3).await;
    demand.wanted().await;
    assert_eq!(demand.take_wanted(), ["p/a"]);
    assert_eq!(demand.take_wanted(), [""; 0]);
    settle(&demand, "p/a", Answer::Here);
    for request in requests {
        assert_eq!(request.await.unwrap(), Ok(()));
    }
    assert_eq!(demand.counts.waiting.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn that_there_is_nothing_is_remembered_until_something_is_born_or_it_is_given_back() {
    let demand = connected();
    for end in [Answer::Here, Answer::Forgotten] {
        let request = waiting(&demand, "p/a", LONG);
        all_wait(&demand, 1).await;
        settle(&demand, "p/a", Answer::Absent);
        assert_eq!(request.await.unwrap(), Err(Denied::Absent));

        demand.take_wanted();
        assert_eq!(demand.take_used(), [""; 0]);
        assert_eq!(demand.come("p/a", LONG).await, Err(Denied::Absent));
        assert_eq!(demand.take_wanted(), [""; 0]);
        assert_eq!(demand.take_used(), ["p/a"]);

        settle(&demand, "p/a", end);
        let request = waiting(&demand, "p/a", LONG);
        all_wait(&demand, 1).await;
        assert_eq!(demand.take_wanted(), ["p/a"]);
        settle(&demand, "p/a", Answer::Here);
        assert_eq!(request.await.unwrap(), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_so_long_and_no_longer_than_its_caller() {
    let demand = connected();
    let began = Instant::now();
    for most in [Duration::from_millis(20), PATIENCE, LONG] {
        let before = Instant::now();
        let denied = demand.come("p/a", most).await.unwrap_err();
        let waited = before.elapsed();
        assert!(matches!(denied, Denied::Late(_)), "{denied:?}");
        let expected = most.min(PATIENCE);
        assert!(
            waited >= expected && waited < expected + Duration::from_millis(10),
            "{waited:?} of {most:?}, {:?} after the start",
            began.elapsed()
        );
        assert_eq!(demand.take_wanted(), [""; 0], "nobody waits any more");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_stream_requests_wait_for_its_return_and_soon_not_at_all() {
    let demand = connected();
    demand.set_connected(false);
    tokio::time::advance(Duration::from_secs(3)).await;
    let before = Instant::now();
    assert_eq!(demand.come("p/a", LONG).await, Err(Denied::Away));
    assert_eq!(before.elapsed().as_secs(), 2);
    let before = Instant::now();
    assert_eq!(demand.come("p/a", LONG).await, Err(Denied::Away));
    assert_eq!(before.elapsed(), Duration::ZERO);

    demand.set_connected(true);
    let request = waiting(&demand, "p/a", LONG);
    all_wait(&demand, 1).await;
    settle(&demand, "p/a", Answer::Here);
    assert_eq!(request.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn requests_and_names_that_wait_are_bounded_and_known_names_are_not_concerned() {
    let demand = connected();
    let mut requests: Vec<_> = (0..MAX_NAMES)
        .map(|number| waiting(&demand, &format!("p/{number}"), LONG))
        .collect();
    all_wait(&demand, MAX_NAMES).await;
    let denied = demand.come("p/one-more", LONG).await;
    assert_eq!(denied, Err(Denied::Overflow("hosts are being asked for")));
    for _ in MAX_NAMES..MAX_WAITING {
        requests.push(waiting(&demand, "p/0", LONG));
    }
    all_wait(&demand, MAX_WAITING).await;
    let denied = demand.come("p/0", LONG).await;
    assert_eq!(denied, Err(Denied::Overflow("requests wait for routes")));
    assert_eq!(demand.counts.outcomes[5].load(Relaxed), 2);
    for request in &requests {
        request.abort();
    }
    for request in requests {
        assert!(request.await.unwrap_err().is_cancelled());
    }
    assert_eq!(demand.counts.waiting.load(Relaxed), 0);
    assert_eq!(demand.take_wanted(), [""; 0], "who has gone needs nothing");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_is_told_with_its_reason() {
    let demand = connected();
    let request = waiting(&demand, "p/a", LONG);
    all_wait(&demand, 1).await;
    settle(&demand, "p/a", Answer::Refused("routes[0]".into()));
    let refused = Err(Denied::Refused("routes[0]".into()));
    assert_eq!(request.await.unwrap(), refused);
    assert_eq!(demand.come("p/a", LONG).await, refused);
}
