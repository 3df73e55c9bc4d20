//! A second try beside a first one that is slow; the first answer wins and the other try is cancelled.
//!
//! Only for idempotent requests whose body is at hand, only where a route's metadata asks for it, and within a budget.

use std::{pin::Pin, rc::Rc};

use outrigger_core::{EndpointId, Hedge};

use super::{
    attempt::{Answered, Attempt, Failed},
    call::Call,
    choose,
    tries::{self, Plan},
};

/// A try that has ended.
pub(crate) type Ended = (Attempt, Result<Answered, Failed>);

/// The tries of a request so far.
#[derive(Debug)]
pub(crate) struct Count<'a> {
    pub(crate) tried: &'a mut Vec<EndpointId>,
    pub(crate) made: &'a mut u32,
}

/// Runs `first`, and if it is slow another one beside it.
pub(crate) async fn race(
    call: &Rc<Call>,
    plan: &Plan<'_>,
    hedge: Hedge,
    first: Attempt,
    may_try_again: bool,
    count: Count<'_>,
) -> Ended {
    let spare = first.copy_head();
    let first = first.may_lose_after(hedge.after);
    let mut running = Box::pin(first.into_end(plan, may_try_again));
    tokio::select! {
        biased;
        ended = running.as_mut() => return ended,
        () = tokio::time::sleep(hedge.after) => {}
    }
    let handles = &call.worker.handles;
    let (Some(head), Some(body)) = (spare, call.upload.whole()) else {
        handles.count_feature("hedge_no_body");
        return running.await;
    };
    // One request more at the endpoints, and a second one of the same.
    let limits = &plan.cluster.limits;
    let permits = (
        limits.requests.try_acquire(false),
        limits.retries.try_acquire(false),
    );
    let (Some(request), Some(retry)) = permits else {
        handles.count_feature("hedge_overflow");
        return running.await;
    };
    let now = call.worker.shared.now();
    if !plan.cluster.retries.try_hedge(hedge.budget_percent, now) {
        handles.count_feature("hedge_budget");
        return running.await;
    }
    let Some(picked) = choose::beside(call, plan, count.tried) else {
        handles.count_feature("hedge_no_endpoint");
        return running.await;
    };
    handles.count_feature("hedge_sent");
    *count.made += 1;
    count.tried.push(picked.endpoint.id);
    let mut head = head;
    tries::announce(call, plan, &mut head, *count.made);
    let second = Attempt::begin(call, plan.cluster, picked, *count.made, head)
        .with_body(body, (request, retry))
        .may_lose_after(hedge.after);
    let other = Box::pin(second.into_end(plan, may_try_again));
    first_good(call, plan, running, other).await
}

/// The first good answer; if there is none, how the later try ended.
async fn first_good<'a, F: Future<Output = Ended> + 'a>(
    call: &Call,
    plan: &Plan<'_>,
    mut first: Pin<Box<F>>,
    mut second: Pin<Box<F>>,
) -> Ended {
    let (ended, is_first) = tokio::select! {
        biased;
        ended = first.as_mut() => (ended, true),
        ended = second.as_mut() => (ended, false),
    };
    let (attempt, result) = ended;
    let good = match &result {
        Ok(answered) => !tries::is_failure(call, plan, answered),
        Err(_) => false,
    };
    if good {
        // The other one is dropped, and learns from this why.
        call.hedged.set(true);
        let won = if is_first { "hedge_lost" } else { "hedge_won" };
        call.worker.handles.count_feature(won);
        return settled(attempt, result, if is_first { second } else { first });
    }
    tries::discard(call, plan, attempt, result);
    let (mut attempt, result) = if is_first { second.await } else { first.await };
    attempt.is_alone();
    (attempt, result)
}

/// The other try ends before the winner's permits do.
fn settled<F>(mut won: Attempt, result: Result<Answered, Failed>, lost: Pin<Box<F>>) -> Ended {
    drop(lost);
    won.is_alone();
    (won, result)
}
