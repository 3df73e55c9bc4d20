//! Whether a request has what its rule requires.

use std::{borrow::Cow, sync::Arc};

use http::{
    Method,
    header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
};

use super::{
    Fault, JwtAuthn, KeySet, Keys, Location, Provider, RemoteKeys, Requirement, TokenCaches,
    Verified,
    token::{Token, TokenFacts},
};
use crate::{RequestView, route::path_of};

/// Tokens of one provider in one request.
const MAX_TOKENS: usize = 8;

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// It may go on.
    Passed {
        /// Its tokens.
        good: Vec<Good>,
        /// What would be refused if it were not let through whatever it has.
        spared: Option<Fault>,
    },
    /// It may not.
    Refused(Refusal),
    /// That depends on keys that are not here.
    Wants(Arc<RemoteKeys>),
}

/// Why not.
#[derive(Debug)]
pub struct Refusal {
    /// What is wrong.
    pub fault: Fault,
    /// Whose token it is, or would be.
    pub provider: Option<Arc<Provider>>,
}

/// A token that counts.
#[derive(Clone, Debug)]
pub struct Good {
    /// Whose.
    pub provider: Arc<Provider>,
    /// Where it was.
    pub at: Location,
    /// What it says.
    pub token: Arc<Verified>,
}

impl JwtAuthn {
    /// What the rules say about a request at `now` (Unix seconds). `by_name`: a route names what it requires.
    /// `tried`: keys that were just asked for and are not waited for again.
    pub fn judge(
        &self,
        request: &RequestView<'_>,
        by_name: Option<&str>,
        now: u64,
        caches: &mut TokenCaches,
        tried: &[Arc<RemoteKeys>],
    ) -> Found {
        let passed = || Found::Passed {
            good: Vec::new(),
            spared: None,
        };
        if self.bypass_cors_preflight && is_preflight(request) {
            return passed();
        }
        let requirement = match by_name {
            Some(name) => {
                let mut named = self.named.iter();
                let Some((_, found)) = named.find(|(own, _)| **own == *name) else {
                    return Found::Refused(Refusal {
                        fault: Fault::Requirement,
                        provider: None,
                    });
                };
                Some(found)
            }
            None => {
                let path = path_of(request.path_and_query);
                let mut rules = self.rules.iter();
                let found = rules.find(|(matches, _)| matches.holds(request, path));
                found.and_then(|(_, requirement)| requirement.as_ref())
            }
        };
        let Some(requirement) = requirement else {
            return passed();
        };
        let mut look = Look {
            filter: self,
            request,
            now,
            caches,
            tried,
            seen: Vec::new(),
            good: Vec::new(),
            spared: None,
        };
        match look.meets(requirement) {
            Ok(()) => Found::Passed {
                good: look.good,
                spared: look.spared,
            },
            Err(No::Wants(remote)) => Found::Wants(remote),
            Err(No::Fault(fault, provider)) => {
                let place = provider.or_else(|| first(requirement));
                let provider = place.and_then(|place| self.providers.get(place));
                Found::Refused(Refusal {
                    fault,
                    provider: provider.map(Arc::clone),
                })
            }
        }
    }
}

fn is_preflight(request: &RequestView<'_>) -> bool {
    *request.method == Method::OPTIONS
        && [ORIGIN, ACCESS_CONTROL_REQUEST_METHOD].iter().all(|name| {
            let value = request.headers.get(name);
            value.is_some_and(|value| !value.is_empty())
        })
}

/// The provider that a requirement is about.
fn first(requirement: &Requirement) -> Option<usize> {
    match requirement {
        Requirement::Provider(place, _) => Some(*place),
        Requirement::Any(all) | Requirement::All(all) => all.iter().find_map(first),
        Requirement::AllowMissing(of) | Requirement::AllowMissingOrFailed(of) => {
            of.first().copied()
        }
    }
}

/// How much a fault says, where several requirements have one each.
fn tells(fault: Fault) -> u8 {
    match fault {
        Fault::Missing => 1,
        Fault::Issuer => 2,
        _ => 3,
    }
}

/// Why a requirement is not met.
#[derive(Debug)]
enum No {
    Fault(Fault, Option<usize>),
    Wants(Arc<RemoteKeys>),
}

/// A provider's place, a token, and what became of it there.
type Seen<'r> = (usize, Cow<'r, [u8]>, Result<Arc<Verified>, Fault>);

/// One look at one request.
struct Look<'a, 'r> {
    filter: &'a JwtAuthn,
    request: &'a RequestView<'r>,
    now: u64,
    caches: &'a mut TokenCaches,
    tried: &'a [Arc<RemoteKeys>],
    /// What became of tokens, by provider: several requirements may look at one.
    seen: Vec<Seen<'r>>,
    good: Vec<Good>,
    spared: Option<Fault>,
}

impl<'r> Look<'_, 'r> {
    fn meets(&mut self, requirement: &Requirement) -> Result<(), No> {
        match requirement {
            Requirement::Provider(place, audiences) => self.of_provider(*place, audiences),
            Requirement::All(all) => all.iter().try_for_each(|one| self.meets(one)),
            Requirement::Any(any) => self.any(any),
            Requirement::AllowMissing(of) => self.unless_missing(of),
            Requirement::AllowMissingOrFailed(of) => match self.unless_missing(of) {
                Err(No::Fault(fault, _)) => {
                    self.spared = Some(fault);
                    Ok(())
                }
                met => met,
            },
        }
    }

    /// The first that is met. Why none is: what says most, so that a bad token is not called a missing one.
    fn any(&mut self, any: &[Requirement]) -> Result<(), No> {
        let (mut fault, mut wants) = (None, None);
        for one in any {
            let before = self.good.len();
            match self.meets(one) {
                Ok(()) => return Ok(()),
                Err(No::Wants(remote)) => wants = Some(remote),
                Err(No::Fault(found, place)) => {
                    let known = fault.map_or(0, |(known, _)| tells(known));
                    if tells(found) >= known {
                        fault = Some((found, place));
                    }
                }
            }
            self.good.truncate(before);
        }
        match (wants, fault) {
            (Some(remote), _) => Err(No::Wants(remote)),
            (None, Some((fault, place))) => Err(No::Fault(fault, place)),
            (None, None) => Err(No::Fault(Fault::Missing, None)),
        }
    }

    /// There is a token where it looks, and all that are there are its own and good.
    fn of_provider(&mut self, place: usize, audiences: &Option<Vec<Box<str>>>) -> Result<(), No> {
        let Some(provider) = self.filter.providers.get(place) else {
            return Err(No::Fault(Fault::Missing, None));
        };
        let mut count = 0;
        for (at, token) in provider.find(self.request) {
            count += 1;
            if count > MAX_TOKENS {
                return Err(No::Fault(Fault::TooMany, Some(place)));
            }
            let audiences = audiences.as_deref().unwrap_or(&provider.audiences);
            let token = self.verified(place, provider, token, audiences)?;
            self.keep(provider, at, token);
        }
        match count {
            0 => Err(No::Fault(Fault::Missing, Some(place))),
            _ => Ok(()),
        }
    }

    /// Each token where one of these looks is good for one that looks there.
    fn unless_missing(&mut self, of: &[usize]) -> Result<(), No> {
        let filter = self.filter;
        let mut found: Vec<(Location, Cow<'r, [u8]>, Vec<usize>)> = Vec::new();
        for place in of {
            let Some(provider) = filter.providers.get(*place) else {
                continue;
            };
            for (count, (at, token)) in provider.find(self.request).enumerate() {
                if count >= MAX_TOKENS {
                    return Err(No::Fault(Fault::TooMany, Some(*place)));
                }
                let mut known = found.iter_mut();
                match known.find(|(known, text, _)| *known == at && *text == token) {
                    Some((.., places)) => places.push(*place),
                    None => found.push((at, token, vec![*place])),
                }
            }
        }
        for (at, token, mut places) in found {
            // The same text twice in one place is one token.
            places.dedup();
            let mut fault = No::Fault(Fault::Issuer, places.first().copied());
            let mut is_good = false;
            for place in places {
                let Some(provider) = filter.providers.get(place) else {
                    continue;
                };
                match self.verified(place, provider, token.clone(), &provider.audiences) {
                    Ok(token) => {
                        self.keep(provider, at.clone(), token);
                        is_good = true;
                        break;
                    }
                    Err(No::Fault(Fault::Issuer, _)) => {}
                    Err(no) => fault = no,
                }
            }
            if !is_good {
                return Err(fault);
            }
        }
        Ok(())
    }

    fn keep(&mut self, provider: &Arc<Provider>, at: Location, token: Arc<Verified>) {
        let is_known = |known: &Good| {
            Arc::ptr_eq(&known.provider, provider)
                && known.at == at
                && Arc::ptr_eq(&known.token, &token)
        };
        if !self.good.iter().any(is_known) {
            self.good.push(Good {
                provider: Arc::clone(provider),
                at,
                token,
            });
        }
    }

    fn verified(
        &mut self,
        place: usize,
        provider: &Arc<Provider>,
        token: Cow<'r, [u8]>,
        audiences: &[Box<str>],
    ) -> Result<Arc<Verified>, No> {
        let mut seen = self.seen.iter();
        let known = seen.find(|(of, text, _)| *of == place && *text == token);
        if let Some((.., known)) = known {
            let known = known
                .clone()
                .map_err(|fault| No::Fault(fault, Some(place)))?;
            // Only the audiences may be others than when it was seen.
            check_audience(&known.facts, audiences)
                .map_err(|fault| No::Fault(fault, Some(place)))?;
            return Ok(known);
        }
        let verified = self.verify(provider, &token, audiences);
        match verified {
            Err(No::Wants(remote)) => Err(No::Wants(remote)),
            Err(No::Fault(fault, _)) => {
                if fault != Fault::Audience {
                    self.seen.push((place, token, Err(fault)));
                }
                Err(No::Fault(fault, Some(place)))
            }
            Ok(verified) => {
                self.seen.push((place, token, Ok(Arc::clone(&verified))));
                Ok(verified)
            }
        }
    }

    fn verify(
        &mut self,
        provider: &Arc<Provider>,
        text: &[u8],
        audiences: &[Box<str>],
    ) -> Result<Arc<Verified>, No> {
        let no = |fault| No::Fault(fault, None);
        let keys = match &provider.keys {
            Keys::Local(keys) => Some(Arc::clone(keys)),
            Keys::Remote(remote) => remote.current.load_full(),
        };
        if let Some(keys) = &keys
            && let Some(known) = self.caches.find(provider, keys, text)
        {
            check(provider, &known.facts, self.now, audiences).map_err(no)?;
            return Ok(known);
        }
        let token = Token::parse(text).map_err(no)?;
        if let Some(issuer) = &provider.issuer
            && token.facts.issuer.as_ref() != Some(issuer)
        {
            return Err(no(Fault::Issuer));
        }
        check(provider, &token.facts, self.now, audiences).map_err(no)?;
        let keys = self.proven(provider, keys, &token)?;
        let Token {
            facts,
            payload,
            claims,
            ..
        } = token;
        let verified = Arc::new(Verified {
            facts,
            payload: payload.into(),
            claims: claims.splitting(&provider.space_delimited),
        });
        self.caches.remember(provider, &keys, text, &verified);
        Ok(verified)
    }

    /// The keys that prove it. Those that are fetched may have been replaced: one that is not among them is asked for
    /// once.
    fn proven(
        &self,
        provider: &Provider,
        keys: Option<Arc<KeySet>>,
        token: &Token<'_>,
    ) -> Result<Arc<KeySet>, No> {
        let fault = match keys {
            None => Fault::KeysAway,
            Some(keys) => match keys.verify(token) {
                Ok(()) => return Ok(keys),
                Err(fault) => fault,
            },
        };
        if let Keys::Remote(remote) = &provider.keys {
            let may_be_new = fault != Fault::Signature || token.kid.is_none();
            let is_tried = self.tried.iter().any(|tried| Arc::ptr_eq(tried, remote));
            if may_be_new && !is_tried {
                return Err(No::Wants(Arc::clone(remote)));
            }
        }
        Err(No::Fault(fault, None))
    }
}

/// What is to be looked at each time.
fn check(
    provider: &Provider,
    facts: &TokenFacts,
    now: u64,
    audiences: &[Box<str>],
) -> Result<(), Fault> {
    let skew = provider.clock_skew.as_secs();
    if now.saturating_add(skew) < facts.not_before {
        return Err(Fault::NotYetValid);
    }
    match facts.expires {
        Some(expires) if now > expires.saturating_add(skew) => return Err(Fault::Expired),
        Some(expires) => {
            let left = expires.saturating_sub(now);
            if provider
                .max_lifetime
                .is_some_and(|most| left > most.as_secs())
            {
                return Err(Fault::Claims("Jwt lifetime exceeds the maximum"));
            }
        }
        None if provider.require_expiration || provider.max_lifetime.is_some() => {
            return Err(Fault::Claims("Jwt has no expiration"));
        }
        None => {}
    }
    if let Some(subjects) = &provider.subjects {
        let subject = facts.subject.as_deref().map(str::as_bytes);
        if !subjects.holds(subject) {
            return Err(Fault::Claims("Jwt subject is not allowed"));
        }
    }
    check_audience(facts, audiences)
}

/// As Envoy: a scheme before it and a slash behind it make no difference.
fn check_audience(facts: &TokenFacts, audiences: &[Box<str>]) -> Result<(), Fault> {
    fn bare(audience: &str) -> &str {
        let bare = ["https://", "http://"]
            .iter()
            .find_map(|scheme| audience.strip_prefix(scheme));
        let bare = bare.unwrap_or(audience);
        bare.strip_suffix('/').unwrap_or(bare)
    }
    let is_meant = |own: &str| audiences.iter().any(|one| bare(one) == bare(own));
    if audiences.is_empty() || facts.audiences.iter().any(|own| is_meant(own)) {
        return Ok(());
    }
    Err(Fault::Audience)
}
