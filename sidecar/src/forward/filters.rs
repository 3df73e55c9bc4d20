//! A listener's filters on one request: on its head before its route's action, and on its answer, whoever gives it.
//!
//! What each does is decided by core; here it is waited, answered and counted. A request of a listener without filters
//! never comes here.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{HOST, SERVER},
    request::Parts,
};
use outrigger_core::{
    Facts, Features, FilterChain, HeaderMutation, HttpSettings, InForce, LocalRateLimit, Markings,
    Mutation, Overrides, PolicyPositions, RateVerdict, Rbac, Route, Subject,
};

use super::{before, call::Call, ext_authz, jwt, view};
use crate::{
    http::{
        answer::{Code, Instead, Problem},
        body::DownBody,
    },
    telemetry::Decided,
    worker::View,
};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Filters that an answer has to pass.
#[derive(Debug)]
pub(crate) struct Filtered {
    all: Arc<HttpSettings>,
    features: Option<Arc<Features>>,
    /// What headers of the answer are made of.
    asked: Option<Asked>,
    /// Limits that the request has come to, and whether they refused it.
    limited: RefCell<Vec<(Arc<LocalRateLimit>, bool)>>,
    /// What authorization servers add.
    added: RefCell<Vec<Mutation>>,
}

/// The head as it came.
#[derive(Debug)]
struct Asked {
    path: String,
    headers: HeaderMap,
    route: String,
}

/// What follows from the filters.
#[derive(Debug)]
pub(crate) enum Next {
    /// The route's action.
    GoOn,
    /// The same, of the route that the request has now that its head is another.
    Reroute,
    /// There is an answer already.
    Answer(Response<DownBody>),
}

/// Does to a request what its listener says, and its route, if it has one.
pub(crate) async fn look(
    call: &Rc<Call>,
    snapshot: &View,
    (chain, route): (&FilterChain, Option<&Route>),
    parts: &mut Parts,
    authority: &HeaderValue,
) -> Result<Next, Problem> {
    let Some(all) = &chain.settings else {
        return Ok(Next::GoOn);
    };
    let mut markings = Markings::default();
    let mut next = Next::GoOn;
    let features = route.and_then(|route| route.features.as_ref());
    let overrides = features.map(|features| &features.overrides);
    if all.change_answers(overrides) {
        let filtered = Filtered::new(all, route, features, parts);
        // Once a request: this is the first time.
        drop(call.filtered.set(filtered));
    }
    for filter in all.in_force(overrides) {
        match filter {
            InForce::Cors => {
                let answer = features.and_then(|features| before::preflight(call, features, parts));
                if let Some(answer) = answer {
                    return Ok(Next::Answer(answer));
                }
            }
            InForce::Fault => {
                if let Some(fault) = features.and_then(|features| features.fault.as_ref()) {
                    before::inject(call, fault, parts, authority).await?;
                }
            }
            InForce::Rbac(rbac) => {
                let settings = (&**all, &mut markings);
                authorize(call, rbac, settings, &chain.policies, parts, authority)?;
            }
            InForce::ExtAuthz(check) => {
                let Ok(policy) = markings.selects(check.only.as_ref()) else {
                    continue;
                };
                // Boxed: few listeners ask, and every request's future would be as large.
                let why = (policy, &chain.policies);
                let asked = ext_authz::ask(call, snapshot, check, why, parts, authority);
                let passed = Box::pin(asked).await?;
                if passed.reroute {
                    next = Next::Reroute;
                }
                if let Some(filtered) = call.filtered.get() {
                    filtered.added.borrow_mut().extend(passed.answer);
                }
            }
            InForce::JwtAuthn(filter, required) => {
                let asked = jwt::Asked {
                    filter,
                    required,
                    policies: &chain.policies,
                };
                jwt::authenticate(call, asked, parts, authority).await?;
            }
            InForce::LocalRateLimit(limit) => {
                let refused = take(call, limit, route, parts, authority);
                if let Some(filtered) = call.filtered.get() {
                    let mut limited = filtered.limited.borrow_mut();
                    limited.push((Arc::clone(limit), refused.is_err()));
                }
                refused?;
            }
            InForce::HeaderMutation(mutations) => {
                let edits = mutations.each().flat_map(|one| &one.request);
                mutate(call, edits, route, parts, authority);
            }
        }
    }
    Ok(next)
}

/// Refuses what access rules deny; leaves what rules that are only counted say for the filters that ask for it.
fn authorize(
    call: &Call,
    rbac: &Rbac,
    (settings, markings): (&HttpSettings, &mut Markings),
    policies: &PolicyPositions,
    parts: &Parts,
    authority: &HeaderValue,
) -> Result<(), Problem> {
    let request = view(parts, authority);
    let claims = call.claims.borrow();
    let subject = Subject {
        caller: call.connection.caller(),
        request: Some(&request),
        believes: !settings.own_address,
        trusted_hops: settings.trusted_hops,
        claims: &claims,
    };
    let counters = call.worker.handles.filters();
    let judged = counters.judge(call.direction, rbac, &subject, policies);
    if let (Some(key), Some(policy)) = (&rbac.marks, judged.shadow) {
        markings.put(key, policy);
    }
    let Some((rules, judgement)) = judged.denied else {
        return Ok(());
    };
    let why = rules.why(&judgement);
    let policy = Decided::of(&judgement, policies).told();
    tracing::info!(
        remote = %call.connection.remote,
        peer = call.connection.peer.as_ref().map(|peer| &*peer.svid.id),
        method = %call.method,
        path = %request.path_and_query.escape_debug(),
        %policy,
        %why,
        "access denied"
    );
    *call.policy.borrow_mut() = Some(policy);
    Err(Problem::new(Code::RbacDenied, why).saying("RBAC: access denied"))
}

/// Whether the access rules of `chain` would deny a request that is long here. Nothing is counted.
pub(super) fn is_denied(
    call: &Call,
    chain: &FilterChain,
    route: Option<&Route>,
    parts: &Parts,
    authority: &HeaderValue,
) -> bool {
    let Some(settings) = &chain.settings else {
        return false;
    };
    let request = view(parts, authority);
    let claims = call.claims.borrow();
    let subject = Subject {
        caller: call.connection.caller(),
        request: Some(&request),
        believes: !settings.own_address,
        trusted_hops: settings.trusted_hops,
        claims: &claims,
    };
    let overrides = route.and_then(Route::features);
    let overrides = overrides.map(|features| &features.overrides);
    settings.in_force(overrides).any(|filter| match filter {
        InForce::Rbac(rbac) => {
            let rules = rbac.rules.as_ref();
            rules.is_some_and(|rules| !rules.judge(&subject).allowed)
        }
        InForce::Cors
        | InForce::Fault
        | InForce::ExtAuthz(_)
        | InForce::JwtAuthn(..)
        | InForce::LocalRateLimit(_)
        | InForce::HeaderMutation(_) => false,
    })
}

fn take(
    call: &Call,
    limit: &LocalRateLimit,
    route: Option<&Route>,
    parts: &mut Parts,
    authority: &HeaderValue,
) -> Result<(), Problem> {
    let now = call.worker.shared.now();
    let verdict = limit.judge(now, &mut call.worker.rng.borrow_mut());
    call.worker
        .handles
        .filters()
        .limited(call.direction, verdict);
    match verdict {
        RateVerdict::NotAsked | RateVerdict::Allowed => Ok(()),
        RateVerdict::Spared if limit.request_headers.is_empty() => Ok(()),
        RateVerdict::Spared => {
            let mut headers = std::mem::take(&mut parts.headers);
            let facts = of_request(call, route, parts, authority);
            limit.request_headers.apply(&mut headers, &facts);
            parts.headers = headers;
            Ok(())
        }
        RateVerdict::Refused => {
            let instead = Instead {
                status: limit.status,
                grpc: limit.grpc_status,
            };
            let message = format!("the limit of {} requests is used up", limit.bucket.most());
            let problem = Problem::new(Code::RateLimited, message);
            Err(problem.answered(instead).saying("local_rate_limited"))
        }
    }
}

fn mutate<'a>(
    call: &Call,
    mutations: impl Iterator<Item = &'a Mutation>,
    route: Option<&Route>,
    parts: &mut Parts,
    authority: &HeaderValue,
) {
    let mut headers = std::mem::take(&mut parts.headers);
    let facts = of_request(call, route, parts, authority);
    for mutation in mutations {
        mutation.apply(&mut headers, &facts);
    }
    parts.headers = headers;
}

/// The headers themselves are those that are edited.
fn of_request<'a>(
    call: &'a Call,
    route: Option<&'a Route>,
    parts: &'a Parts,
    authority: &'a HeaderValue,
) -> Facts<'a> {
    let request = view(parts, authority);
    Facts {
        path: request.path_and_query,
        authority: request.authority,
        route: route.map_or("", |route| &route.name),
        ..call.facts_of_filters()
    }
}

impl Filtered {
    fn new(
        all: &Arc<HttpSettings>,
        route: Option<&Route>,
        features: Option<&Arc<Features>>,
        parts: &Parts,
    ) -> Self {
        let overrides = features.map(|features| &features.overrides);
        let reads = all.in_force(overrides).any(|filter| match filter {
            InForce::HeaderMutation(mutations) => {
                mutations.each().any(HeaderMutation::makes_answers)
            }
            InForce::LocalRateLimit(limit) => limit.response_headers.reads_request(),
            InForce::Cors
            | InForce::Fault
            | InForce::Rbac(_)
            | InForce::ExtAuthz(_)
            | InForce::JwtAuthn(..) => false,
        });
        Self {
            asked: reads.then(|| Asked {
                path: parts
                    .uri
                    .path_and_query()
                    .map_or("/", |path| path.as_str())
                    .to_owned(),
                headers: parts.headers.clone(),
                route: route.map(|route| route.name.clone()).unwrap_or_default(),
            }),
            all: Arc::clone(all),
            features: features.map(Arc::clone),
            limited: RefCell::default(),
            added: RefCell::default(),
        }
    }

    fn overrides(&self) -> Option<&Overrides> {
        self.features.as_ref().map(|features| &features.overrides)
    }

    /// Whoever gave the answer, it passes the filters backwards.
    pub(crate) fn answer(&self, call: &Call, response: &mut Response<DownBody>) {
        let cluster = self.asked.as_ref().and_then(|_| call.cluster_name());
        let asked = self.asked.as_ref();
        let authority = asked.and_then(|asked| asked.headers.get(HOST)?.to_str().ok());
        let facts = Facts {
            path: asked.map_or("", |asked| &asked.path),
            authority: authority.unwrap_or_default(),
            request: asked.map(|asked| &asked.headers),
            route: asked.map_or("", |asked| &asked.route),
            status: Some(response.status().as_u16()),
            upstream: call.answered_by.get(),
            cluster: cluster.as_deref().unwrap_or_default(),
            ..call.facts_of_filters()
        };
        let headers = response.headers_mut();
        for filter in self.all.in_force(self.overrides()).rev() {
            match filter {
                InForce::HeaderMutation(mutations) => {
                    for mutation in mutations.each().flat_map(|one| &one.response) {
                        mutation.apply(headers, &facts);
                    }
                }
                InForce::LocalRateLimit(limit) => self.tell(call, limit, headers, &facts),
                InForce::ExtAuthz(_) => {
                    for mutation in self.added.take() {
                        mutation.apply(headers, &facts);
                    }
                }
                InForce::Cors | InForce::Fault | InForce::Rbac(_) | InForce::JwtAuthn(..) => {}
            }
        }
        if let Some((name, put)) = &self.all.server {
            Mutation::Put(SERVER, name.clone().into(), *put).apply(headers, &facts);
        }
    }

    fn tell(
        &self,
        call: &Call,
        limit: &Arc<LocalRateLimit>,
        headers: &mut HeaderMap,
        facts: &Facts<'_>,
    ) {
        let limited = self.limited.borrow();
        let mut found = limited
            .iter()
            .filter(|(other, _)| Arc::ptr_eq(other, limit));
        let Some((_, refused)) = found.next() else {
            return;
        };
        if limit.tells {
            let now = call.worker.shared.now();
            let reset = limit.bucket.next(now).as_secs_f64().ceil();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole, and less than a century"
            )]
            let reset = reset as u64;
            headers.insert(LIMIT, limit.bucket.most().into());
            headers.insert(REMAINING, limit.bucket.left(now).into());
            headers.insert(RESET, reset.into());
        }
        if *refused {
            limit.response_headers.apply(headers, facts);
        }
    }
}
