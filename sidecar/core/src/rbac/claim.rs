//! What access rules ask about verified tokens. Source: Envoy `MetadataMatcher`, `ValueMatcher`.

use std::{ops::Range, sync::Arc};

use crate::{
    StringMatch,
    jwt::{Claim, Verified},
};

/// A claim by its path, and what it has to be.
#[derive(Clone, Debug)]
pub struct ClaimMatch {
    /// Under which name the provider puts its claims, e.g. `payload`.
    pub metadata: Box<str>,
    /// Names inside each other; none = the claims as a whole.
    pub path: Box<[Box<str>]>,
    /// What the value has to be.
    pub value: ValueMatch,
    /// The opposite, which holds without a token, too.
    pub invert: bool,
}

/// A condition of a value. One that is not there fulfils none.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// `null`.
    Null,
    /// Exactly this number.
    Number(f64),
    /// From the first, below the second.
    NumberIn(Range<f64>),
    /// A text.
    Text(StringMatch),
    /// This boolean.
    Bool(bool),
    /// It is there; false never holds.
    Present(bool),
    /// A list of which one item is like this.
    OneOf(Box<Self>),
    /// One of these.
    Or(Vec<Self>),
}

impl ClaimMatch {
    pub(super) fn whole(mut self) -> Self {
        self.value.anchor();
        self
    }

    /// Of several tokens the last that has this name counts, as if it had overwritten the others.
    pub(super) fn holds(&self, claims: &[(Arc<str>, Arc<Verified>)]) -> bool {
        let mut named = claims.iter().rev();
        let of_name = named.find(|(name, _)| **name == *self.metadata);
        let fulfilled = of_name.is_some_and(|(_, token)| match self.path.is_empty() {
            true => matches!(self.value, ValueMatch::Present(true)),
            false => {
                let claim = token.claims().at(&self.path);
                claim.is_some_and(|claim| self.value.holds(claim))
            }
        });
        fulfilled != self.invert
    }
}

impl ValueMatch {
    fn anchor(&mut self) {
        match self {
            Self::Text(text) => *text = text.clone().whole(),
            Self::OneOf(one) => one.anchor(),
            Self::Or(some) => some.iter_mut().for_each(Self::anchor),
            Self::Null | Self::Number(_) | Self::NumberIn(_) | Self::Bool(_) | Self::Present(_) => {
            }
        }
    }

    fn holds(&self, claim: &Claim) -> bool {
        match (self, claim) {
            (Self::Present(wanted), _) => *wanted,
            (Self::Or(some), _) => some.iter().any(|one| one.holds(claim)),
            (Self::Null, Claim::Null) => true,
            #[expect(clippy::float_cmp, reason = "a number is exactly what a document says")]
            (Self::Number(wanted), Claim::Number(found)) => wanted == found,
            (Self::NumberIn(range), Claim::Number(found)) => range.contains(found),
            (Self::Text(wanted), Claim::Text(found)) => wanted.holds(Some(found.as_bytes())),
            (Self::Bool(wanted), Claim::Bool(found)) => wanted == found,
            (Self::OneOf(wanted), Claim::List(found)) => found.iter().any(|one| wanted.holds(one)),
            _ => false,
        }
    }
}
