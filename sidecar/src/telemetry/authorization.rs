//! What access rules say, counted and told: by policy, so that an operator sees which document lets nobody in, and
//! what one in dry run would do.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    sync::Arc,
};

use foldhash::fast::FixedState;
use outrigger_core::{Direction, Judgement, PolicyPositions, Rbac, RbacAction, Rules, Subject};
use prometheus::IntCounter;

use super::Telemetry;

const ACTIONS: [&str; 3] = ["allow", "deny", "audit"];
const VERDICTS: [&str; 5] = [
    "allowed",
    "denied",
    "logged",
    "dry_run_allowed",
    "dry_run_denied",
];
/// Policies that a worker has counters at hand for.
const AT_HAND: usize = 1024;

/// Who decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decided<'a> {
    policy: Option<&'a Arc<str>>,
    position: Option<&'a Arc<str>>,
}

impl<'a> Decided<'a> {
    pub(crate) fn of(judgement: &Judgement<'a>, policies: &'a PolicyPositions) -> Self {
        Self {
            policy: judgement.policy,
            position: judgement.policy.and_then(|policy| policies.of(policy)),
        }
    }

    /// For people: `ns[default]-policy[viewers]-rule[0] (viewers.yaml:12:5)`, or `none`.
    pub(crate) fn told(&self) -> Arc<str> {
        match (self.policy, self.position) {
            (Some(policy), Some(position)) => format!("{policy} ({position})").into(),
            (Some(policy), None) => Arc::clone(policy),
            (None, _) => "none".into(),
        }
    }
}

/// By verdict.
type Row = [OnceCell<Option<IntCounter>>; VERDICTS.len()];

/// A policy's name and its counter.
type Known = (Arc<str>, Option<IntCounter>);

/// A worker's counters.
#[derive(Debug)]
pub(super) struct Authorization {
    telemetry: Arc<Telemetry>,
    /// Where no policy has matched: by direction, action, verdict.
    nobody: [[Row; ACTIONS.len()]; 2],
    /// By the address of a policy's name, which is kept, so that nothing else gets its address. A policy has one
    /// verdict.
    policies: RefCell<HashMap<usize, Known, FixedState>>,
}

/// What a filter's access rules say of one request or connection.
#[derive(Debug, Default)]
pub(crate) struct Judged<'a> {
    /// The policy that matches, of those that are only counted.
    pub(crate) shadow: Option<&'a Arc<str>>,
    /// The rules that deny it.
    pub(crate) denied: Option<(&'a Rules, Judgement<'a>)>,
}

impl Authorization {
    pub(super) fn new(telemetry: &Arc<Telemetry>) -> Self {
        Self {
            telemetry: Arc::clone(telemetry),
            nobody: Default::default(),
            policies: RefCell::default(),
        }
    }

    /// What access rules say.
    pub(super) fn judge<'a>(
        &self,
        direction: Direction,
        rbac: &'a Rbac,
        subject: &Subject<'_>,
        policies: &PolicyPositions,
    ) -> Judged<'a> {
        let mut judged = Judged::default();
        if let Some(shadow) = &rbac.shadow {
            let judgement = shadow.judge(subject);
            judged.shadow = judgement.policy;
            let verdict = if judgement.allowed { 3 } else { 4 };
            self.count(direction, shadow.action(), verdict, &judgement);
            if !judgement.allowed {
                let decided = Decided::of(&judgement, policies);
                tracing::debug!(
                    caller = %Shown(subject),
                    policy = %decided.told(),
                    "access would be denied by rules in dry run"
                );
            }
        }
        let Some(rules) = &rbac.rules else {
            return judged;
        };
        let judgement = rules.judge(subject);
        let is_logged = rules.action() == RbacAction::Log && judgement.policy.is_some();
        let verdict = match judgement.allowed {
            true if is_logged => 2,
            true => 0,
            false => 1,
        };
        self.count(direction, rules.action(), verdict, &judgement);
        if is_logged {
            let decided = Decided::of(&judgement, policies);
            tracing::info!(caller = %Shown(subject), policy = %decided.told(), "audited");
        }
        judged.denied = (!judgement.allowed).then_some((rules, judgement));
        judged
    }

    fn count(
        &self,
        direction: Direction,
        action: RbacAction,
        verdict: usize,
        judgement: &Judgement<'_>,
    ) {
        let (hop, at) = match direction {
            Direction::Inbound => ("inbound", 0),
            Direction::Outbound => ("outbound", 1),
        };
        let action = match action {
            RbacAction::Allow => 0,
            RbacAction::Deny => 1,
            RbacAction::Log => 2,
        };
        let make = |policy: &str| {
            let metrics = &self.telemetry.metrics;
            let (action, verdict) = (ACTIONS.get(action)?, VERDICTS.get(verdict)?);
            metrics.authorization(hop, action, verdict, policy)
        };
        let count = |counter: &Option<IntCounter>| {
            if let Some(counter) = counter {
                counter.inc();
            }
        };
        let Some(policy) = judgement.policy else {
            let place = self
                .nobody
                .get(at)
                .and_then(|all| all.get(action)?.get(verdict));
            if let Some(place) = place {
                count(place.get_or_init(|| make("none")));
            }
            return;
        };
        let mut known = self.policies.borrow_mut();
        let address = policy.as_ptr().addr();
        if let Some((_, counter)) = known.get(&address) {
            count(counter);
            return;
        }
        if known.len() >= AT_HAND {
            known.clear();
        }
        let counter = make(policy);
        count(&counter);
        known.insert(address, (Arc::clone(policy), counter));
    }
}

/// Who asks for what, in the log. Escaped: it is what strangers say.
struct Shown<'a>(&'a Subject<'a>);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let caller = &self.0.caller;
        match caller.peer {
            Some(peer) => write!(f, "{} at {}", peer.uri, caller.remote)?,
            None => write!(f, "{}", caller.remote)?,
        }
        match self.0.request {
            Some(request) => write!(
                f,
                ", {} {}",
                request.method,
                request.path_and_query.escape_debug()
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_decided_is_told_with_its_line() {
        let policy: Arc<str> = "ns[a]-policy[b]-rule[0]".into();
        let line: Arc<str> = "b.yaml:3:5".into();
        let lines = PolicyPositions::new([("ns[a]-policy[b]-rule[0]".into(), line)].into());
        let judgement = |policy| Judgement {
            allowed: false,
            policy,
        };
        for (policy, lines, expected) in [
            (
                Some(&policy),
                &lines,
                "ns[a]-policy[b]-rule[0] (b.yaml:3:5)",
            ),
            (
                Some(&policy),
                &PolicyPositions::default(),
                "ns[a]-policy[b]-rule[0]",
            ),
            (None, &lines, "none"),
        ] {
            let judgement = judgement(policy);
            assert_eq!(&*Decided::of(&judgement, lines).told(), expected);
        }
    }
}
