//! Virtual hosts that requests have asked for by their authority: what became of each name, and which are given back.
//!
//! ```text
//!            ┌─► held ──(10 min without a request)──► given back
//! asked ─────┼─► absent, refused ──(1 min)──────────► given back      (until then the server tells when it is born)
//!            └─► nothing comes ──(1 min)────────────► given back
//! ```
//! Names are made up by whoever sends requests, so that each state has room for so many; for one more, the name that was
//! used the longest ago is given back. Pure: what is used, and the time, come in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// Virtual hosts that are held.
pub(crate) const MAX_HELD: usize = 4_096;
/// Names that the server has no virtual host for.
pub(crate) const MAX_ABSENT: usize = 1_024;
/// Names that the server has not answered.
pub(crate) const MAX_PENDING: usize = 1_024;
/// How long a virtual host is held that no request uses.
pub(crate) const IDLE: Duration = Duration::from_secs(600);
/// How long it is remembered of a name that there is nothing, and that nothing has come, without anybody asking.
pub(crate) const FORGET: Duration = Duration::from_secs(60);
/// How often names are looked through.
pub(crate) const SWEEP: Duration = Duration::from_secs(30);

/// What a request that waits is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is in the snapshot.
    Here,
    /// There is none.
    Absent,
    /// There is one that cannot be used: why.
    Refused(Arc<str>),
    /// So many are in use that there is no room for another.
    NoRoom,
    /// The name is given back; whoever asks next asks anew.
    Forgotten,
}

/// A name, `<route configuration>/<authority>`.
#[derive(Debug)]
struct Name {
    state: State,
    used: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Pending,
    /// By the virtual host of this resource name. `told` once it serves.
    Held {
        host: String,
        told: bool,
    },
    Absent,
    Refused(Arc<str>),
}

/// All names that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    names: BTreeMap<String, Name>,
    /// Held, absent or refused, pending.
    counts: [usize; 3],
    /// Held, and nobody was told yet.
    untold: BTreeSet<String>,
    /// Names that are new or given back, since the last look.
    changes: BTreeMap<String, bool>,
    answers: Vec<(String, Answer)>,
    /// Route configuration and resource name of virtual hosts that a name has been taken from.
    loose: Vec<(String, String)>,
    sweep_at: Option<Instant>,
}

/// Route configuration and authority.
pub(crate) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

impl Asked {
    /// A request needs `name`. `is_used` says of a virtual host (route configuration, resource name) whether requests
    /// have used it since it was last asked.
    pub(crate) fn ask(
        &mut self,
        name: &str,
        now: Instant,
        is_used: impl FnMut(&str, &str) -> bool,
    ) {
        if let Some(known) = self.names.get_mut(name) {
            known.used = now;
            let answer = match &known.state {
                State::Pending | State::Held { told: false, .. } => return,
                State::Held { told: true, .. } => Answer::Here,
                State::Absent => Answer::Absent,
                State::Refused(why) => Answer::Refused(Arc::clone(why)),
            };
            self.answers.push((name.to_owned(), answer));
            return;
        }
        let [held, _, pending] = self.counts;
        if pending >= MAX_PENDING {
            let oldest = self.oldest(|_, name| is_pending(&name.state));
            oldest.inspect(|oldest| self.forget(oldest));
        }
        if held >= MAX_HELD {
            self.look(now, is_used);
            let Some(oldest) = self.oldest(|_, one| is_held(&one.state) && one.used < now) else {
                self.answers.push((name.to_owned(), Answer::NoRoom));
                return;
            };
            self.forget(&oldest);
        }
        let new = Name {
            state: State::Pending,
            used: now,
        };
        self.counts[class(&new.state)] += 1;
        self.names.insert(name.to_owned(), new);
        self.changes.insert(name.to_owned(), true);
        self.sweep_at.get_or_insert(now + SWEEP);
    }

    /// The server has a virtual host for `name`, by this resource name.
    pub(crate) fn held(&mut self, name: &str, host: &str) {
        if self.host(name) != Some(host) {
            let host = host.to_owned();
            if self.turn(name, State::Held { host, told: false }) {
                self.untold.insert(name.to_owned());
            }
        }
    }

    /// The server says that there is none.
    pub(crate) fn absent(&mut self, name: &str) {
        self.end(name, State::Absent, Answer::Absent);
    }

    /// What came cannot be used. If something good came before, that stays.
    pub(crate) fn refused(&mut self, name: &str, why: &str) {
        if self.host(name).is_none() {
            let why: Arc<str> = why.into();
            self.end(name, State::Refused(Arc::clone(&why)), Answer::Refused(why));
        }
    }

    fn end(&mut self, name: &str, state: State, answer: Answer) {
        if !self.turn(name, state) {
            return;
        }
        self.answers.push((name.to_owned(), answer));
        if self.counts[ABSENT] > MAX_ABSENT {
            let oldest = self.oldest(|other, one| other != name && is_nothing(&one.state));
            oldest.inspect(|oldest| self.forget(oldest));
        }
    }

    /// Whether there is such a name.
    fn turn(&mut self, name: &str, state: State) -> bool {
        let Some(known) = self.names.get_mut(name) else {
            return false;
        };
        self.counts[class(&state)] += 1;
        let before = std::mem::replace(&mut known.state, state);
        self.counts[class(&before)] -= 1;
        self.untold.remove(name);
        self.loosen(name, before);
        true
    }

    /// Tells those who wait for virtual hosts that serve now.
    pub(crate) fn tell(&mut self, serves: impl Fn(&str, &str) -> bool) {
        let (names, answers) = (&mut self.names, &mut self.answers);
        self.untold.retain(|text| {
            let Some(State::Held { host, told }) = names.get_mut(text).map(|n| &mut n.state) else {
                return false;
            };
            *told = serves(split(text).0, host);
            if *told {
                answers.push((text.clone(), Answer::Here));
            }
            !*told
        });
    }

    /// The resource name of the virtual host that `name` has.
    pub(crate) fn host(&self, name: &str) -> Option<&str> {
        match &self.names.get(name)?.state {
            State::Held { host, .. } => Some(host),
            _ => None,
        }
    }

    /// Names whose virtual host has this resource name.
    pub(crate) fn names_of(&self, host: &str) -> Vec<String> {
        let of_host = |name: &&String| self.host(name) == Some(host);
        self.names.keys().filter(of_host).cloned().collect()
    }

    /// Names that are new, and names that were given back, since the last call.
    pub(crate) fn take_changes(&mut self) -> [Vec<String>; 2] {
        let changes = std::mem::take(&mut self.changes).into_iter();
        let (new, gone): (Vec<_>, Vec<_>) = changes.partition(|(_, is_new)| *is_new);
        [new, gone].map(|names| names.into_iter().map(|(name, _)| name).collect())
    }

    /// Requests were answered from what is remembered of `name`.
    pub(crate) fn used(&mut self, name: &str, now: Instant) {
        if let Some(known) = self.names.get_mut(name) {
            known.used = now;
        }
    }

    /// When [`Self::sweep`] is due.
    pub(crate) fn sweep_due(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// Gives back what nobody has used for long enough.
    pub(crate) fn sweep(&mut self, now: Instant, is_used: impl FnMut(&str, &str) -> bool) {
        self.look(now, is_used);
        self.drop_names(|_, name| {
            let keep = if is_held(&name.state) { IDLE } else { FORGET };
            now.saturating_duration_since(name.used) >= keep
        });
        self.sweep_at = (!self.names.is_empty()).then_some(now + SWEEP);
    }

    /// Gives back the names of route configurations whose virtual hosts no longer come as they are asked for.
    pub(crate) fn keep_tables(&mut self, grows: impl Fn(&str) -> bool) {
        let mut from = String::new();
        while let Some((name, _)) = self.names.range(from..).next() {
            let table = split(name).0.to_owned();
            // What follows on the slash that ends the part before the authority.
            from = format!("{table}0");
            if !grows(&table) {
                self.drop_names(|text, _| split(text).0 == table);
            }
        }
    }

    fn drop_names(&mut self, gone: impl Fn(&str, &Name) -> bool) {
        let names = self.names.iter().filter(|(text, name)| gone(text, name));
        let names: Vec<String> = names.map(|(text, _)| text.clone()).collect();
        for name in names {
            self.forget(&name);
        }
    }

    /// Notes what is in use. `is_used` is asked once for each virtual host, however many names it has.
    fn look(&mut self, now: Instant, mut is_used: impl FnMut(&str, &str) -> bool) {
        let mut looked = BTreeMap::new();
        for (text, name) in &mut self.names {
            if let State::Held { host, .. } = &name.state {
                let key = (split(text).0.to_owned(), host.clone());
                let used = looked
                    .entry(key)
                    .or_insert_with_key(|(table, host)| is_used(table, host));
                if *used {
                    name.used = now;
                }
            }
        }
    }

    /// Virtual hosts that no name is left of since the last call: route configuration and resource name.
    pub(crate) fn take_loose(&mut self) -> Vec<(String, String)> {
        let mut loose = std::mem::take(&mut self.loose);
        loose.retain(|(table, host)| {
            let mut names = self.names.iter();
            !names.any(|(text, name)| {
                matches!(&name.state, State::Held { host: h, .. } if h == host)
                    && split(text).0 == table
            })
        });
        loose
    }

    /// What became of names since the last call.
    pub(crate) fn take_answers(&mut self) -> Vec<(String, Answer)> {
        std::mem::take(&mut self.answers)
    }

    /// Held, absent or refused, pending.
    pub(crate) fn counts(&self) -> [usize; 3] {
        self.counts
    }

    fn forget(&mut self, name: &str) {
        if let Some(known) = self.names.remove(name) {
            self.counts[class(&known.state)] -= 1;
            self.untold.remove(name);
            // One that was never asked for needs no giving back.
            if self.changes.remove(name) != Some(true) {
                self.changes.insert(name.to_owned(), false);
            }
            self.loosen(name, known.state);
            self.answers.push((name.to_owned(), Answer::Forgotten));
        }
    }

    fn loosen(&mut self, name: &str, before: State) {
        if let State::Held { host, .. } = before {
            self.loose.push((split(name).0.to_owned(), host));
        }
    }

    fn oldest(&self, which: impl Fn(&str, &Name) -> bool) -> Option<String> {
        let fitting = self.names.iter().filter(|(text, name)| which(text, name));
        let oldest = fitting.min_by_key(|(_, name)| name.used);
        oldest.map(|(text, _)| text.clone())
    }
}

const ABSENT: usize = 1;

/// Its place among the counts.
fn class(state: &State) -> usize {
    match state {
        State::Held { .. } => 0,
        State::Absent | State::Refused(_) => ABSENT,
        State::Pending => 2,
    }
}

fn is_held(state: &State) -> bool {
    matches!(state, State::Held { .. })
}

fn is_pending(state: &State) -> bool {
    *state == State::Pending
}

fn is_nothing(state: &State) -> bool {
    matches!(state, State::Absent | State::Refused(_))
}
