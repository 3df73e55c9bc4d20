//! A request's tokens: judged by core, waited for where keys are not here, answered with 401 and why.

use std::{rc::Rc, sync::Arc};

use http::{HeaderValue, Uri, request::Parts, uri::PathAndQuery};
use outrigger_core::{
    JwtAuthn, PolicyPositions,
    jwt::{Fault, Found, Good, Refusal},
};

use super::{call::Call, view};
use crate::{
    http::answer::{Code, Problem},
    telemetry::filters::TokenVerdict,
    worker::unix_now,
};

/// Of the address in `www-authenticate` (Envoy).
const MAX_REALM: usize = 256;

/// What is asked of a request.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) filter: &'a JwtAuthn,
    /// The name of what its route requires.
    pub(super) required: Option<&'a str>,
    /// Where the rules stand.
    pub(super) policies: &'a PolicyPositions,
}

/// Lets a request with good tokens on, with what follows from them; one without, if none is needed.
pub(super) async fn authenticate(
    call: &Rc<Call>,
    asked: Asked<'_>,
    parts: &mut Parts,
    authority: &HeaderValue,
) -> Result<(), Problem> {
    let Asked {
        filter, required, ..
    } = asked;
    if !filter.dry_run {
        filter.sanitize(&mut parts.headers);
    }
    let count = |verdict| {
        let counters = call.worker.handles.filters();
        counters.tokens(call.direction, filter.dry_run, verdict);
    };
    let mut tried = Vec::new();
    let found = loop {
        let found = {
            let caches = &mut call.worker.tokens.borrow_mut();
            let request = view(parts, authority);
            filter.judge(&request, required, unix_now(), caches, &tried)
        };
        let Found::Wants(keys) = found else {
            break found;
        };
        let most = call.caller_waits().unwrap_or(keys.name.timeout);
        // Whatever comes of it: what is there now decides.
        call.worker.shared.jwks.refreshed(&keys, most).await;
        tried.push(keys);
    };
    match found {
        Found::Passed { good, spared } => {
            count(match (&spared, good.is_empty()) {
                (Some(_), _) => TokenVerdict::Spared,
                (None, true) => TokenVerdict::Missing,
                (None, false) => TokenVerdict::Verified,
            });
            if let Some(fault) = spared {
                tracing::debug!(remote = %call.connection.remote, reason = fault.text(), dry_run = filter.dry_run, "a token is bad, and let through");
            }
            if !filter.dry_run && !good.is_empty() {
                apply(call, good, parts)?;
            }
            Ok(())
        }
        Found::Refused(refusal) => {
            count(TokenVerdict::Refused);
            Err(refused(call, asked, refusal, parts, authority))
        }
        // It is not asked for twice.
        Found::Wants(_) => Ok(()),
    }
}

fn apply(call: &Call, good: Vec<Good>, parts: &mut Parts) -> Result<(), Problem> {
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if let Some(path) = JwtAuthn::apply(&good, &mut parts.headers, path) {
        let path = PathAndQuery::try_from(path).map_err(|_syntax| {
            Problem::new(Code::BadRequest, "the path without its token is no path")
        })?;
        parts.uri = Uri::from(path);
    }
    let mut claims = call.claims.borrow_mut();
    claims.extend(good.into_iter().filter_map(|one| {
        let name = one.provider.metadata.as_ref()?;
        Some((Arc::clone(name), one.token))
    }));
    Ok(())
}

fn refused(
    call: &Call,
    asked: Asked<'_>,
    refusal: Refusal,
    parts: &Parts,
    authority: &HeaderValue,
) -> Problem {
    let Refusal { fault, provider } = refusal;
    let why = fault.text();
    let provider = provider.map(|provider| {
        let name = &provider.name;
        match asked.policies.of(name) {
            Some(position) => format!("{name} ({position})").into(),
            None => Arc::clone(name),
        }
    });
    tracing::debug!(
        remote = %call.connection.remote,
        provider = provider.as_deref().unwrap_or("none"),
        reason = why,
        "token refused"
    );
    if provider.is_some() {
        *call.policy.borrow_mut() = provider;
    }
    let problem = Problem::new(code(fault), why);
    match asked.filter.silent {
        true => problem.saying(""),
        false => problem
            .saying(why)
            .challenging(challenge(fault, parts, authority)),
    }
}

/// RFC 6750 section 3, in Envoy's form, but for the query: it may have the token.
fn challenge(fault: Fault, parts: &Parts, authority: &HeaderValue) -> Option<HeaderValue> {
    if fault == Fault::Requirement {
        return None;
    }
    let error = match fault {
        Fault::Missing => "",
        _ => ", error=\"invalid_token\"",
    };
    let authority = authority.to_str().unwrap_or_default();
    let path = parts.uri.path().chars().take(MAX_REALM);
    let safe = |letter: char| match letter {
        '"' => "%22".to_owned(),
        '\\' => "%5C".to_owned(),
        other => other.to_string(),
    };
    let path: String = path.map(safe).collect();
    HeaderValue::try_from(format!("Bearer realm=\"http://{authority}{path}\"{error}")).ok()
}

fn code(fault: Fault) -> Code {
    match fault {
        Fault::Missing => Code::JwtMissing,
        Fault::Malformed(_) => Code::JwtMalformed,
        Fault::TooLarge => Code::JwtTooLarge,
        Fault::TooMany => Code::JwtTooMany,
        Fault::Expired => Code::JwtExpired,
        Fault::NotYetValid => Code::JwtNotYetValid,
        Fault::Issuer => Code::JwtIssuer,
        Fault::Audience => Code::JwtAudience,
        Fault::Claims(_) => Code::JwtClaims,
        Fault::NoKey => Code::JwtNoKey,
        Fault::Signature => Code::JwtSignature,
        Fault::KeysAway => Code::JwtKeysAway,
        Fault::Requirement => Code::JwtRequirement,
    }
}
