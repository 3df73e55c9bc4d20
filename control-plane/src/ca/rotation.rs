//! How one root takes the place of another without a failed handshake: when a rotation begins, what each step waits
//! for, and how it goes back.
//!
//! ```text
//!           ┌────────── everybody trusts both ──────────┐
//! rest ──► publish ─────────────────────────────► sign ─────────────────► rest, with the new root only
//!            │  signs with the old one             │  signs with the new one
//!            │  waits: ACKs of all that are        │  waits: the end of the old root's certificates,
//!            │  connected; the end of what was     │  and of join tokens that pin it
//!            │  issued before                      │
//!            └─abort─► rest, as before             └─abort─► sign (undoing) ─► rest, as before
//! ```
//! Pure: no clock, no disk; the caller passes [`Facts`], writes what comes of [`Rotation::due`] into the store, and only
//! then acts by it. Times are milliseconds since 1970.
//! Source: SPIRE prepares the next authority at half of the life of the last (30 days before its end at the earliest);
//! gating each step on ACKs is ours, as we own xDS.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A root is replaced when half of its life is over, but not more than this before its end (SPIRE).
const EARLIEST_BEFORE_END_MS: u64 = 30 * DAY_MS;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Who reads a bundle from a file (gRPC libraries) does so after this share of a certificate's life at the latest ...
const READ_AGAIN_SHARE: u64 = 10;
/// ... and after this long.
const READ_AGAIN_MS: u64 = 10 * 60 * 1000;

/// A rotation under way, as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rotation {
    pub(crate) step: Step,
    pub(crate) why: Why,
    pub(crate) begun_ms: u64,
    /// When the step began.
    pub(crate) since_ms: u64,
    /// End of the last certificate that was issued with the bundle of before, as known when the step began.
    pub(crate) horizon_ms: u64,
    /// End of the last join token that pins the root of before.
    pub(crate) tokens_ms: u64,
    pub(crate) paused: bool,
    /// It was aborted when the new root had signed already: that root is on its way out again.
    pub(crate) undoing: bool,
    /// Nodes that asked for the bundle and have not accepted it, and the end of what they hold: also those that went away
    /// since, and what another process saw.
    #[serde(default)]
    pub(crate) behind: BTreeMap<String, u64>,
}

/// Where a rotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Step {
    /// The bundle has both; the root of before signs.
    Publish,
    /// The bundle has both; the other one signs.
    Sign,
}

/// What began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Why {
    /// The root's age.
    Age,
    /// `outrigger certs rotate`.
    Operator,
    /// The operator's files have another root.
    Files,
}

/// What a decision is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) now_ms: u64,
    /// Since when all that are connected and asked for the bundle have ACKed the present one; None = some have not.
    pub(crate) acked_since_ms: Option<u64>,
    /// End of the last certificate of the root that goes.
    pub(crate) going_until_ms: u64,
    /// Connected clients whose certificate leads to the root that goes.
    pub(crate) going_in_use: usize,
    /// When the root that goes ends by itself.
    pub(crate) going_ends_ms: u64,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// From now on the other root signs.
    Switch,
    /// The root that does not sign leaves the bundle.
    Finish,
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// An operator who says `--resume`.
    Operator,
    /// ACKs of the bundle.
    Acks,
    /// Those who read the bundle from a file, until then.
    Readers(u64),
    /// Certificates that were issued before, until then: their holders may not be connected.
    Certificates(u64),
    /// Clients that are connected with a certificate of the root that goes.
    InUse(usize),
    /// Join tokens, until then.
    Tokens(u64),
}

/// Why an operator's wish is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no rotation is under way")]
    None,
    #[error(
        "a rotation is under way; see `outrigger certs`, or end it with `outrigger certs rotate --abort`"
    )]
    UnderWay,
    #[error("the rotation is not paused")]
    NotPaused,
    #[error("the rotation is paused already")]
    Paused,
    #[error("the rotation is being taken back already")]
    Undoing,
}

/// What an abort does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aborted {
    /// Nobody has a certificate of the new root: it leaves the bundle.
    Over,
    /// It has signed: the old one signs again, and the new one stays trusted as long as it is needed.
    Back(Rotation),
}

impl Rotation {
    /// The first step. `horizon_ms` and `tokens_ms`: ends of the last certificate and of the last join token so far.
    pub(crate) const fn begin(why: Why, now_ms: u64, horizon_ms: u64, tokens_ms: u64) -> Self {
        Self {
            step: Step::Publish,
            why,
            begun_ms: now_ms,
            since_ms: now_ms,
            horizon_ms,
            tokens_ms,
            paused: false,
            undoing: false,
            behind: BTreeMap::new(),
        }
    }

    /// What is to be done now, else what is waited for.
    pub(crate) fn due(&self, facts: &Facts) -> Result<Act, Vec<Wait>> {
        let mut waits = Vec::new();
        if self.paused {
            waits.push(Wait::Operator);
        }
        // Nothing is left of a root that has ended: waiting would help nobody.
        if facts.going_ends_ms > facts.now_ms {
            match self.step {
                Step::Publish => self.wait_for_trust(facts, &mut waits),
                Step::Sign => self.wait_for_the_end(facts, &mut waits),
            }
        }
        if !waits.is_empty() {
            return Err(waits);
        }
        Ok(match self.step {
            Step::Publish => Act::Switch,
            Step::Sign => Act::Finish,
        })
    }

    fn wait_for_trust(&self, facts: &Facts, waits: &mut Vec<Wait>) {
        match facts.acked_since_ms {
            None => waits.push(Wait::Acks),
            Some(since) => {
                let life = self.horizon_ms.saturating_sub(self.since_ms);
                let pause = (life / READ_AGAIN_SHARE).min(READ_AGAIN_MS);
                let read = since.max(self.since_ms).saturating_add(pause);
                if facts.now_ms < read {
                    waits.push(Wait::Readers(read));
                }
            }
        }
        if facts.now_ms < self.horizon_ms {
            waits.push(Wait::Certificates(self.horizon_ms));
        }
    }

    fn wait_for_the_end(&self, facts: &Facts, waits: &mut Vec<Wait>) {
        if facts.now_ms < facts.going_until_ms {
            waits.push(Wait::Certificates(facts.going_until_ms));
        }
        if facts.going_in_use > 0 {
            waits.push(Wait::InUse(facts.going_in_use));
        }
        if facts.now_ms < self.tokens_ms {
            waits.push(Wait::Tokens(self.tokens_ms));
        }
    }

    /// After [`Act::Switch`].
    pub(crate) fn switched(&self, now_ms: u64) -> Self {
        Self {
            step: Step::Sign,
            since_ms: now_ms,
            behind: BTreeMap::new(),
            ..*self
        }
    }

    /// The operator's `--pause`.
    pub(crate) fn pause(&self) -> Result<Self, Refused> {
        if self.paused {
            return Err(Refused::Paused);
        }
        Ok(Self {
            paused: true,
            ..self.clone()
        })
    }

    /// The operator's `--resume`.
    pub(crate) fn resume(&self) -> Result<Self, Refused> {
        if !self.paused {
            return Err(Refused::NotPaused);
        }
        Ok(Self {
            paused: false,
            ..self.clone()
        })
    }

    /// The operator's `--abort`.
    pub(crate) fn abort(&self, now_ms: u64) -> Result<Aborted, Refused> {
        match self.step {
            Step::Publish => Ok(Aborted::Over),
            Step::Sign if self.undoing => Err(Refused::Undoing),
            // Everybody trusts the old root still: it is in the bundle until the end.
            Step::Sign => Ok(Aborted::Back(Self {
                since_ms: now_ms,
                paused: false,
                undoing: true,
                tokens_ms: 0,
                ..self.clone()
            })),
        }
    }
}

/// When a root of this life is to be replaced.
pub(crate) fn due_at(not_before_ms: u64, not_after_ms: u64) -> u64 {
    let life = not_after_ms.saturating_sub(not_before_ms);
    not_after_ms.saturating_sub((life / 2).min(EARLIEST_BEFORE_END_MS))
}

#[cfg(test)]
mod tests;
