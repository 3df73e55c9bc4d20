//! RDS for a gRPC library: one configuration a port of a host, for every authority, in words that it has.
//!
//! A route never leads elsewhere than it does for others: what gRPC cannot do at all (an answer of the proxy's own, a
//! redirect) fails the call with a status, and a rule that cannot hold for a gRPC call is left out.
//! Sources: gRFC A28 (matches, weights), A31 (timeouts), A33 (faults), A44 (retries), A42 (hashes).

use std::sync::Arc;

use outrigger_proto::envoy::{
    config::route::v3::{
        HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch,
        VirtualHost, WeightedCluster,
        header_matcher::HeaderMatchSpecifier,
        retry_policy::RetryBackOff,
        route::Action,
        route_action::{
            ClusterSpecifier, HashPolicy, MaxStreamDuration, hash_policy::PolicySpecifier,
        },
        weighted_cluster::ClusterWeight,
    },
    extensions::filters::{
        common::fault::v3::FaultDelay,
        http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
    },
    r#type::{
        matcher::v3::{StringMatcher, string_matcher::MatchPattern},
        v3::{FractionalPercent, fractional_percent::DenominatorType},
    },
};
use prost_types::{Duration, value};

use super::super::{
    any::{OUTRIGGER, any},
    listener::{FAULT, HTTP_FAULT},
    matching::everything,
};
use crate::snapshot::{ResourceBytes, ResourceType};

/// gRPC's code for what a server does not do.
const UNIMPLEMENTED: u32 = 12;
/// Conditions of a retry that gRPC knows (A44).
const RETRY_ON: [&str; 5] = [
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
/// What Envoy and ours say where a gRPC call sees UNAVAILABLE.
const UNAVAILABLE: [&str; 3] = ["5xx", "gateway-error", "reset"];
/// Conditions "not A, or A is missing" of one match, each of which doubles its routes.
const MAX_DOUBLED: usize = 4;

/// The routes of `host`, and what a library does not do of them.
pub(super) fn of(host: VirtualHost) -> (Arc<ResourceBytes>, Vec<String>) {
    let mut notes = Vec::new();
    let own_cluster = own_cluster(&host.name);
    let mut routes: Vec<Route> = host
        .routes
        .into_iter()
        .flat_map(|route| adapted(route, &own_cluster, &mut notes))
        .collect();
    // Without a route the configuration would be refused; the call would not have found one either.
    routes.push(Route {
        name: "none".to_owned(),
        r#match: Some(everything()),
        ..failing(ErrorType::GrpcStatus(UNIMPLEMENTED), &own_cluster)
    });
    let table = RouteConfiguration {
        name: host.name.clone(),
        virtual_hosts: vec![VirtualHost {
            name: host.name.clone(),
            // The authority has been matched: it is the listener's name.
            domains: vec!["*".to_owned()],
            routes,
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    };
    notes.sort();
    notes.dedup();
    (
        ResourceBytes::new(ResourceType::Route, &host.name, &table),
        notes,
    )
}

/// The cluster of `<host>:<port>` itself.
fn own_cluster(host: &str) -> String {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
    format!("outbound|{port}||{name}")
}

/// None, one, or, where a condition needs two ways to be said, several.
fn adapted(route: Route, own_cluster: &str, notes: &mut Vec<String>) -> Vec<Route> {
    let mut remarks = Remarks::of(&route, notes);
    let matched = route.r#match.clone().unwrap_or_else(everything);
    let matches = possible(matched, &mut remarks);
    if matches.is_empty() {
        return Vec::new();
    }
    let fault = route.typed_per_filter_config.get(FAULT).cloned();
    remarks.ignored(&route);
    let action = match route.action {
        Some(Action::Route(action)) => Route {
            action: Some(Action::Route(forward(action, &mut remarks))),
            typed_per_filter_config: fault
                .map(|fault| (FAULT.to_owned(), fault))
                .into_iter()
                .collect(),
            ..Route::default()
        },
        Some(Action::DirectResponse(answer)) => {
            let status = answer.status;
            remarks.add(&format!(
                "directResponse: a gRPC call fails, as with HTTP status {status}"
            ));
            // gRPC takes 200 to 599; an answer that means "good" is none to a gRPC call.
            let error = if (300..600).contains(&status) {
                ErrorType::HttpStatus(status)
            } else {
                ErrorType::GrpcStatus(UNIMPLEMENTED)
            };
            failing(error, own_cluster)
        }
        Some(Action::Redirect(_)) => {
            remarks.add("redirect: a gRPC call fails with UNIMPLEMENTED");
            failing(ErrorType::GrpcStatus(UNIMPLEMENTED), own_cluster)
        }
        Some(Action::FilterAction(_) | Action::NonForwardingAction(_)) | None => {
            failing(ErrorType::GrpcStatus(UNIMPLEMENTED), own_cluster)
        }
    };
    let routes = matches.into_iter().map(|matched| Route {
        name: route.name.clone(),
        r#match: Some(matched),
        ..action.clone()
    });
    routes.collect()
}

/// A route whose calls all fail, before they are sent.
fn failing(error: ErrorType, cluster: &str) -> Route {
    let abort = HttpFault {
        abort: Some(FaultAbort {
            error_type: Some(error),
            percentage: Some(FractionalPercent {
                numerator: 100,
                denominator: DenominatorType::Hundred as i32,
            }),
        }),
        // Spelled out: no delay.
        delay: None::<FaultDelay>,
        ..HttpFault::default()
    };
    let to = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..RouteAction::default()
    };
    Route {
        action: Some(Action::Route(to)),
        typed_per_filter_config: [(FAULT.to_owned(), any(HTTP_FAULT, &abort))].into(),
        ..Route::default()
    }
}

/// What is left of a match for calls that are `POST`, over `http`, without a query. None if it cannot hold.
fn possible(mut of: RouteMatch, remarks: &mut Remarks<'_>) -> Vec<RouteMatch> {
    let mut headers = Vec::new();
    let mut doubled = Vec::new();
    for matcher in std::mem::take(&mut of.headers) {
        match matcher.name.as_str() {
            ":method" if holds(&matcher, "POST") => {}
            ":scheme" if holds(&matcher, "http") => {}
            ":method" | ":scheme" => return Vec::new(),
            ":authority" => {
                remarks.add("match.authority: a gRPC client does not see it; the rule is left out");
                return Vec::new();
            }
            _ if matcher.treat_missing_header_as_empty => doubled.push(HeaderMatcher {
                treat_missing_header_as_empty: false,
                ..matcher
            }),
            _ => headers.push(matcher),
        }
    }
    // None of the requests has a query: a condition on one holds only if it is for what is not there.
    if !of.query_parameters.is_empty() {
        return Vec::new();
    }
    if doubled.len() > MAX_DOUBLED {
        remarks.add(
            "withoutHeaders: more than 4 are too many for a gRPC client; the rule is left out",
        );
        return Vec::new();
    }
    let mut ways = vec![headers];
    for matcher in doubled {
        let missing = HeaderMatcher {
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..matcher.clone()
        };
        ways = ways
            .into_iter()
            .flat_map(|way| {
                let with = |one: &HeaderMatcher| {
                    let mut way = way.clone();
                    way.push(one.clone());
                    way
                };
                [with(&missing), with(&matcher)]
            })
            .collect();
    }
    let matches = ways.into_iter().map(|headers| RouteMatch {
        headers,
        ..of.clone()
    });
    matches.collect()
}

/// Whether `matcher` is met by a header with this value.
fn holds(matcher: &HeaderMatcher, value: &str) -> bool {
    let met = match &matcher.header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(pattern),
            ..
        })) => match pattern {
            MatchPattern::Exact(text) => value == text,
            MatchPattern::Prefix(text) => value.starts_with(text),
            MatchPattern::Suffix(text) => value.ends_with(text),
            MatchPattern::Contains(text) => value.contains(text),
            MatchPattern::SafeRegex(regex) => regex::Regex::new(&format!("^(?:{})$", regex.regex))
                .is_ok_and(|regex| regex.is_match(value)),
            MatchPattern::Custom(_) => false,
        },
        Some(HeaderMatchSpecifier::PresentMatch(present)) => *present,
        Some(HeaderMatchSpecifier::StringMatch(_) | HeaderMatchSpecifier::RangeMatch(_)) | None => {
            false
        }
    };
    met != matcher.invert_match
}

fn forward(action: RouteAction, remarks: &mut Remarks<'_>) -> RouteAction {
    let changed = action.prefix_rewrite.len()
        + usize::from(action.regex_rewrite.is_some())
        + usize::from(action.host_rewrite_specifier.is_some());
    if changed > 0 {
        remarks.add("rewrite: a gRPC client sends the call as it is");
    }
    if !action.request_mirror_policies.is_empty() {
        remarks.add("mirrors: a gRPC client sends no copies");
    }
    let timeout = action
        .timeout
        .filter(|timeout| *timeout != Duration::default());
    RouteAction {
        cluster_specifier: action.cluster_specifier.map(|to| clusters(to, remarks)),
        max_stream_duration: timeout.map(|timeout| MaxStreamDuration {
            max_stream_duration: Some(timeout),
            ..MaxStreamDuration::default()
        }),
        retry_policy: action
            .retry_policy
            .as_ref()
            .and_then(|policy| retries(policy, remarks)),
        hash_policy: hashes(action.hash_policy, remarks),
        ..RouteAction::default()
    }
}

fn clusters(to: ClusterSpecifier, remarks: &mut Remarks<'_>) -> ClusterSpecifier {
    let ClusterSpecifier::WeightedClusters(all) = to else {
        return to;
    };
    let weights = all.clusters.into_iter().map(|one| {
        let bare = ClusterWeight {
            name: one.name.clone(),
            weight: one.weight,
            ..ClusterWeight::default()
        };
        if bare != one {
            remarks.add("headers: a gRPC client sends the call as it is");
        }
        bare
    });
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: weights.collect(),
        ..WeightedCluster::default()
    })
}

/// Retries by gRPC's status. What is provably unsent, gRPC sends again on its own.
fn retries(policy: &RetryPolicy, remarks: &mut Remarks<'_>) -> Option<RetryPolicy> {
    // 0 would be refused.
    let tries = policy.num_retries.filter(|tries| *tries > 0)?;
    let asked = || policy.retry_on.split(',');
    let unavailable = asked().any(|one| UNAVAILABLE.contains(&one))
        || policy.retriable_status_codes.contains(&503);
    let mut conditions: Vec<&str> = asked().filter(|one| RETRY_ON.contains(one)).collect();
    if unavailable && !conditions.contains(&"unavailable") {
        conditions.push("unavailable");
    }
    if conditions.is_empty() {
        return None;
    }
    if policy.per_try_timeout.is_some() {
        remarks.add("retries.perTryTimeout: a gRPC client has no limit of a try");
    }
    let back_off = policy.retry_back_off.as_ref();
    Some(RetryPolicy {
        retry_on: conditions.join(","),
        num_retries: Some(tries),
        retry_back_off: back_off.map(|of| RetryBackOff {
            base_interval: of.base_interval,
            max_interval: of.max_interval,
        }),
        ..RetryPolicy::default()
    })
}

/// gRPC hashes headers.
fn hashes(all: Vec<HashPolicy>, remarks: &mut Remarks<'_>) -> Vec<HashPolicy> {
    let known = all.into_iter().filter(|one| {
        let header = matches!(one.policy_specifier, Some(PolicySpecifier::Header(_)));
        if !header {
            remarks.add("consistentHash: a gRPC client hashes headers only");
        }
        header
    });
    known.collect()
}

/// Collects what is not done, with the line that asks for it.
struct Remarks<'a> {
    position: Option<String>,
    notes: &'a mut Vec<String>,
}

impl<'a> Remarks<'a> {
    fn of(route: &Route, notes: &'a mut Vec<String>) -> Self {
        let own = route.metadata.as_ref();
        let own = own.and_then(|own| own.filter_metadata.get(OUTRIGGER));
        let position = own.and_then(|own| match &own.fields.get("position")?.kind {
            Some(value::Kind::StringValue(text)) => Some(text.clone()),
            _ => None,
        });
        Self { position, notes }
    }

    fn add(&mut self, what: &str) {
        self.notes.push(match &self.position {
            Some(position) => format!("{position}: {what}"),
            None => what.to_owned(),
        });
    }

    /// Parts of a route beside match and action.
    fn ignored(&mut self, route: &Route) {
        let edits = route.request_headers_to_add.len()
            + route.request_headers_to_remove.len()
            + route.response_headers_to_add.len()
            + route.response_headers_to_remove.len();
        if edits > 0 {
            self.add("headers: a gRPC client sends the call as it is");
        }
        let mut filters = route.typed_per_filter_config.keys();
        if filters.any(|name| name != FAULT) {
            self.add("corsPolicy: a gRPC client is no browser");
        }
        let own = route.metadata.as_ref();
        let own = own.and_then(|own| own.filter_metadata.get(OUTRIGGER));
        if own.is_some_and(|own| own.fields.contains_key("hedge")) {
            self.add("hedging: a gRPC client sends one copy and waits");
        }
    }
}
