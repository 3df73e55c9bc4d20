//! Sees to it that the authority never ends: begins rotations in time, takes each step when everybody is ready for it,
//! follows the operator's files, and says how long everything goes well if nothing is done.
//!
//! ```text
//! every second:  files (every 5 s) ─► a root's age ─► facts (clients' ACKs, ends) ─► rotation::due ─► step, metrics
//! ```
//! Decides nothing itself: what is safe stands in [`super::rotation`].

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};

use super::{
    Authority, MAX_TTL,
    authority::ChangeError,
    metrics::{AuthorityMetrics, CAUSES},
    root::RootError,
    rotation::{self, Act, Facts, Refused, Rotation, Step, Wait, Why},
    state::{InForce, Source},
    unix_ms,
};
use crate::{
    clients::{Clients, Trusting},
    translate,
};

/// How often it looks.
const TICK: Duration = Duration::from_secs(1);
/// How often it looks at the operator's files, in ticks.
const FILES_EVERY: u32 = 5;
/// After a rotation that could not begin, in ticks.
const AGAIN_EVERY: u32 = 60;

/// One a process.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) authority: Arc<Authority>,
    clients: Arc<Clients>,
    metrics: AuthorityMetrics,
    /// Not for two steps at a time.
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    ticks: u32,
    /// Since when all have ACKed this version of the bundle.
    acked: Option<(Arc<str>, u64)>,
    /// What was wrong with the files last.
    files_problem: Option<String>,
    failed_at: Option<u32>,
}

/// What an operator wants of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Start,
    Pause,
    Resume,
    Abort,
    SkipWait,
}

/// What a rotation waits for, and for whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outlook {
    pub(crate) waits: Vec<Wait>,
    /// Nodes that have not ACKed the bundle.
    pub(crate) unacked: Vec<String>,
    /// Nodes whose certificate leads to the root that goes.
    pub(crate) on_old: Vec<String>,
}

impl Keeper {
    pub(crate) fn new(
        authority: Arc<Authority>,
        clients: Arc<Clients>,
        metrics: AuthorityMetrics,
    ) -> Self {
        Self {
            authority,
            clients,
            metrics,
            memory: Mutex::default(),
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, mut look: watch::Receiver<u64>) {
        loop {
            self.tick(OffsetDateTime::now_utc()).await;
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = look.changed() => {}
            }
        }
    }

    /// Does what is due now.
    pub(crate) async fn tick(&self, now: OffsetDateTime) {
        let mut memory = self.memory.lock().await;
        memory.ticks = memory.ticks.wrapping_add(1);
        if self.authority.is_given() && memory.ticks.is_multiple_of(FILES_EVERY) {
            self.follow_files(&mut memory, now).await;
        }
        self.replace_in_time(&mut memory, now).await;
        self.note_behind(now).await;
        self.step(&mut memory, now).await;
        self.measure(now);
    }

    async fn follow_files(&self, memory: &mut Memory, now: OffsetDateTime) {
        let authority = Arc::clone(&self.authority);
        let looked = tokio::task::spawn_blocking(move || authority.look_at_files(now)).await;
        let result = match looked {
            Ok(Some(Ok(found))) => {
                let before = self.authority.in_force().state.sequence;
                let taken = self.authority.take_files(found, now).await;
                if taken.is_ok() && self.authority.in_force().state.sequence != before {
                    self.metrics.files.with_label_values(&["loaded"]).inc();
                }
                taken
            }
            Ok(Some(Err(error))) => Err(error),
            Ok(None) | Err(_) => return,
        };
        let problem = result.err().map(|error| words(&error));
        if problem != memory.files_problem {
            if let Some(problem) = &problem {
                self.metrics.files.with_label_values(&["refused"]).inc();
                tracing::warn!(
                    problem,
                    "the authority's files cannot be used; going on with the last good ones"
                );
            } else {
                tracing::info!("the authority's files can be used again");
            }
        }
        memory.files_problem = problem;
    }

    /// Begins a rotation when the root has reached its age.
    async fn replace_in_time(&self, memory: &mut Memory, now: OffsetDateTime) {
        let in_force = self.authority.in_force();
        let due = self.rotates_at(&in_force);
        if in_force.state.rotation.is_some() || due.is_none_or(|at| at > unix_ms(now)) {
            return;
        }
        if let Some(failed) = memory.failed_at
            && memory.ticks.wrapping_sub(failed) < AGAIN_EVERY
        {
            return;
        }
        match self.authority.rotate(Why::Age, now).await {
            Ok(_) => self.count("begun"),
            Err(error) => {
                memory.failed_at = Some(memory.ticks);
                tracing::error!(error = %words(&error), "the root is due to be replaced and the rotation cannot begin");
            }
        }
    }

    /// When the root is replaced by itself. None: it is the operator's.
    pub(crate) fn rotates_at(&self, in_force: &InForce) -> Option<u64> {
        let made = in_force.state.active.source == Source::Made || !self.authority.is_given();
        let (from, to) = in_force.active.root_life();
        made.then(|| rotation::due_at(unix_ms(from), unix_ms(to)))
    }

    /// Remembers who has not accepted the new bundle: somebody who goes away before that, and comes back with the same
    /// certificate, must not find the new root signing.
    async fn note_behind(&self, now: OffsetDateTime) {
        let in_force = self.authority.in_force();
        let publishing = in_force.state.rotation.as_ref();
        let Some(rotation) = publishing.filter(|one| one.step == Step::Publish) else {
            return;
        };
        let version = Arc::clone(&translate::bundle(&in_force.bundle.pem).version);
        let now_ms = unix_ms(now);
        let mut behind = rotation.behind.clone();
        behind.retain(|_, end| *end > now_ms);
        for client in self.clients.trusting() {
            match &client.bundle {
                Some(accepted) if accepted.as_ref() == Some(&version) => {
                    behind.remove(&client.node_id);
                }
                Some(_) => {
                    let held = client.serial.as_deref();
                    let held = held.and_then(|serial| self.authority.records().get(serial));
                    let end = held.map_or_else(|| unix_ms(now + MAX_TTL), |held| held.not_after_ms);
                    behind.insert(client.node_id, end);
                }
                None => {}
            }
        }
        if behind == rotation.behind {
            return;
        }
        let written = self.authority.change(|in_force| {
            let rotation = in_force.state.rotation.clone();
            let rotation = rotation.filter(|one| one.step == Step::Publish);
            Ok(rotation.map(|rotation| in_force.with_rotation(Rotation { behind, ..rotation })))
        });
        if let Err(error) = written.await {
            tracing::error!(error = %words(&error), "who has not accepted the new root is not in the store");
        }
    }

    async fn step(&self, memory: &mut Memory, now: OffsetDateTime) {
        // Two at most: a root that has ended goes in one tick.
        for _ in 0..2 {
            let in_force = self.authority.in_force();
            let (due, _) = self.due(memory, &in_force, now);
            let Some(Ok(act)) = due else {
                return;
            };
            if let Err(error) = self.act(&in_force, act, now).await {
                tracing::error!(error = %words(&error), ?act, "the rotation's next step cannot be taken");
                return;
            }
        }
    }

    /// What is due, or waited for. None: no rotation is under way.
    fn due(
        &self,
        memory: &mut Memory,
        in_force: &InForce,
        now: OffsetDateTime,
    ) -> (Option<Result<Act, Vec<Wait>>>, Outlook) {
        let now_ms = unix_ms(now);
        let clients = self.clients.trusting();
        let version = Arc::clone(&translate::bundle(&in_force.bundle.pem).version);
        let rotation = in_force.state.rotation.as_ref();
        let behind = rotation.into_iter().flat_map(|one| one.behind.keys());
        let mut unacked = unacked(&clients, &version);
        unacked.extend(behind.cloned());
        unacked.sort();
        unacked.dedup();
        if !unacked.is_empty() {
            memory.acked = None;
        } else if memory
            .acked
            .as_ref()
            .is_none_or(|(acked, _)| *acked != version)
        {
            memory.acked = Some((version, now_ms));
        }
        self.metrics
            .unacked
            .set(i64::try_from(unacked.len()).unwrap_or(i64::MAX));
        let going = in_force.going().map(|going| going.root_sha256());
        let on_old = going.map(|root| self.on_root(&clients, root, now_ms));
        let outlook = Outlook {
            waits: Vec::new(),
            unacked,
            on_old: on_old.unwrap_or_default(),
        };
        let (Some(rotation), Some(going)) = (&in_force.state.rotation, in_force.going()) else {
            return (None, outlook);
        };
        let other = in_force.state.other.as_ref();
        let going_until_ms = match rotation.step {
            Step::Publish => in_force.state.active.until_ms,
            Step::Sign => other.map_or(0, |other| other.until_ms),
        };
        let due = rotation.due(&Facts {
            now_ms,
            acked_since_ms: memory.acked.as_ref().map(|(_, since)| *since),
            going_until_ms,
            going_in_use: outlook.on_old.len(),
            going_ends_ms: unix_ms(going.not_after()),
        });
        (Some(due), outlook)
    }

    /// Connected clients whose certificate leads to `root`, as far as is known.
    fn on_root(&self, clients: &[Trusting], root: &str, now_ms: u64) -> Vec<String> {
        let records = self.authority.records();
        let on = clients.iter().filter(|client| {
            let held = client
                .serial
                .as_deref()
                .and_then(|serial| records.get(serial));
            held.is_some_and(|held| &*held.root == root && held.not_after_ms > now_ms)
        });
        on.map(|client| client.node_id.clone()).collect()
    }

    async fn act(&self, seen: &InForce, act: Act, now: OffsetDateTime) -> Result<(), ChangeError> {
        let seen = seen.state.rotation.clone();
        self.authority
            .change(|in_force| {
                // Somebody paused or aborted it in between.
                if in_force.state.rotation != seen {
                    return Ok(None);
                }
                Ok(in_force.acted(act, unix_ms(now)))
            })
            .await?;
        match act {
            Act::Switch => {
                self.count("switched");
                tracing::info!("root rotation: the new root signs");
            }
            Act::Finish => {
                self.count("done");
                tracing::info!("root rotation is over: the old root is not trusted any more");
            }
        }
        Ok(())
    }

    /// What an operator asks for.
    pub(crate) async fn wish(&self, wish: Wish, now: OffsetDateTime) -> Result<(), ChangeError> {
        let mut memory = self.memory.lock().await;
        let now_ms = unix_ms(now);
        match wish {
            Wish::Start => {
                self.authority.rotate(Why::Operator, now).await?;
                self.count("begun");
            }
            Wish::Pause | Wish::Resume => {
                self.authority
                    .change(|in_force| {
                        let rotation = in_force.state.rotation.as_ref().ok_or(Refused::None)?;
                        let next = if wish == Wish::Pause {
                            rotation.pause()?
                        } else {
                            rotation.resume()?
                        };
                        Ok(Some(in_force.with_rotation(next)))
                    })
                    .await?;
            }
            Wish::Abort => {
                self.authority
                    .change(|in_force| Ok(Some(in_force.aborted(now_ms)?)))
                    .await?;
                self.count("aborted");
            }
            Wish::SkipWait => {
                let in_force = self.authority.in_force();
                let rotation = in_force.state.rotation.as_ref().ok_or(Refused::None)?;
                let (due, outlook) = self.due(&mut memory, &in_force, now);
                tracing::warn!(waits = ?due, unacked = ?outlook.unacked, "the operator skips what the rotation waits for");
                let act = match rotation.step {
                    Step::Publish => Act::Switch,
                    Step::Sign => Act::Finish,
                };
                self.act(&in_force, act, now).await?;
            }
        }
        self.measure(now);
        Ok(())
    }

    /// What a rotation waits for.
    pub(crate) async fn outlook(&self, now: OffsetDateTime) -> Outlook {
        let mut memory = self.memory.lock().await;
        let in_force = self.authority.in_force();
        let (due, outlook) = self.due(&mut memory, &in_force, now);
        let waits = due.and_then(Result::err).unwrap_or_default();
        Outlook { waits, ..outlook }
    }

    /// Nodes that are connected, by the serial number of their certificate.
    pub(crate) fn connected(&self) -> Vec<Trusting> {
        self.clients.trusting()
    }

    fn count(&self, result: &str) {
        self.metrics.rotations.with_label_values(&[result]).inc();
    }

    /// What ends if nothing is done: by cause, in milliseconds since 1970. The first is the least.
    pub(crate) fn ends(&self, now_ms: u64) -> Vec<(&'static str, u64)> {
        let in_force = self.authority.in_force();
        let [root, intermediate, certificate] = CAUSES;
        let mut ends = vec![(root, unix_ms(in_force.active.root_life().1))];
        if !in_force.active.material().chain.is_empty() {
            ends.push((intermediate, unix_ms(in_force.active.not_after())));
        }
        let late = self.late(now_ms);
        ends.extend(late.into_iter().min().map(|end| (certificate, end)));
        ends.sort_by_key(|(_, end)| *end);
        ends
    }

    /// Ends of certificates whose holders are connected and should have renewed them.
    fn late(&self, now_ms: u64) -> Vec<u64> {
        let records = self.authority.records();
        let clients = self.clients.trusting().into_iter();
        let held = clients.filter_map(|client| records.get(client.serial.as_deref()?));
        let late = held.filter(|held| held.is_late(now_ms));
        late.map(|held| held.not_after_ms).collect()
    }

    fn measure(&self, now: OffsetDateTime) {
        let now_ms = unix_ms(now);
        let ends = self.ends(now_ms);
        #[expect(clippy::cast_precision_loss, reason = "seconds for a graph")]
        let left = |end: u64| (end as f64 - now_ms as f64) / 1000.0;
        for cause in CAUSES {
            let of = ends.iter().find(|(found, _)| *found == cause);
            let gauge = self.metrics.outage.with_label_values(&[cause]);
            // Nothing ends: nothing is shown, rather than a number that means something.
            match of {
                Some((_, end)) => gauge.set(left(*end)),
                None => drop(self.metrics.outage.remove_label_values(&[cause])),
            }
        }
        if let Some((_, end)) = ends.first() {
            self.metrics.first_outage.set(left(*end));
        }
        let in_force = self.authority.in_force();
        let rotation = in_force.state.rotation.as_ref();
        let step = rotation.map(|rotation| rotation.step);
        for (name, of) in [
            ("none", None),
            ("publish", Some(Step::Publish)),
            ("sign", Some(Step::Sign)),
        ] {
            let gauge = self.metrics.step.with_label_values(&[name]);
            gauge.set(i64::from(step == of));
        }
        let paused = rotation.is_some_and(|rotation| rotation.paused);
        self.metrics.paused.set(i64::from(paused));
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (live, dropped) = self.authority.records().counts();
        self.metrics.certificates.set(count(live));
        self.metrics.late.set(count(self.late(now_ms).len()));
        self.metrics
            .records_dropped
            .set(i64::try_from(dropped).unwrap_or(i64::MAX));
    }
}

/// Nodes that have asked for the bundle and not accepted this version.
fn unacked(clients: &[Trusting], version: &Arc<str>) -> Vec<String> {
    let behind = clients.iter().filter(|client| {
        let bundle = client.bundle.as_ref();
        bundle.is_some_and(|accepted| accepted.as_ref() != Some(version))
    });
    behind.map(|client| client.node_id.clone()).collect()
}

/// An error with its causes.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

impl From<ChangeError> for crate::refusal::Refusal {
    fn from(error: ChangeError) -> Self {
        let code = match &error {
            ChangeError::Refused(_) => tonic::Code::FailedPrecondition,
            ChangeError::Root(RootError::Store(_)) => tonic::Code::Unavailable,
            ChangeError::Root(_) => tonic::Code::Internal,
        };
        Self::new(code, words(&error))
    }
}
