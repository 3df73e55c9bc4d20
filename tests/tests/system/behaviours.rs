//! What takes more than one request to see: balance, stickiness, limits, ejection. Each is told in words, and has to be
//! told in the same words of our sidecar and of Envoy, or Envoy's words are the beginning of ours.

mod balance;
mod ejection;
mod limits;
mod localities;
mod own;
mod retries;
mod upgrades;

use futures_util::future::LocalBoxFuture;
use outrigger_tests::{Caller, TestApp};

use super::case::Case;

/// Documents, applications of their own, and what is done with them.
pub(crate) struct Behaviour {
    pub(crate) case: Case,
    /// Of the applications behind the host.
    pub(crate) applications: usize,
    pub(crate) run: for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, String>,
    /// What is told; `ours ~~ Envoy's ~~ why` where the two differ.
    pub(crate) expected: &'static str,
}

impl Behaviour {
    /// What is expected, and why it is not what the other does.
    pub(crate) fn expectations(&self, of_envoy: bool) -> (&'static str, Option<&'static str>) {
        let mut parts = self.expected.split(" ~~ ");
        let ours = parts.next().unwrap_or_default();
        let envoys = parts.next().unwrap_or(ours);
        (if of_envoy { envoys } else { ours }, parts.next())
    }
}

/// Where a behaviour is seen.
pub(crate) struct Stage {
    pub(crate) host: &'static str,
    pub(crate) apps: Vec<TestApp>,
    pub(crate) caller: Caller,
    pub(crate) is_envoy: bool,
}

pub(crate) fn all() -> Vec<Behaviour> {
    [
        balance::all(),
        limits::all(),
        ejection::all(),
        retries::all(),
        localities::all(),
        own::all(),
        upgrades::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Stage {
    /// Who answers these, one after the other; a status where nobody does.
    pub(crate) async fn who(&self, lines: &[&str]) -> Vec<String> {
        let mut names = Vec::new();
        for line in lines {
            let ask = super::case::Ask::parse(line, self.host);
            let reply = ask.send(&self.caller).await;
            let name = reply.name();
            names.push(match reply.status.as_u16() {
                200 if !name.is_empty() => name,
                status => status.to_string(),
            });
        }
        names
    }

    /// Who answers `times` requests, and how often.
    pub(crate) async fn counts(&self, line: &str, times: usize) -> Vec<(String, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for name in self.who(&vec![line; times]).await {
            *counts.entry(name).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }
}
