//! One VirtualService: its rules, each with where it leads and what it does on the way.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    finder::{Finder, listed, time},
    matches, retries,
    shadow::Regexes,
    visibility,
};
use crate::{
    At, Balancer, Code, HashKey, HeaderOps, HostName, HttpAction, HttpMatch, HttpRoute, Object,
    Redirect, RedirectUri, Share, Spec, StringMatch, VirtualService, WeightedDestination,
};

pub(super) fn check<'a>(finder: &mut Finder<'a>, object: &'a Object, spec: &'a VirtualService) {
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        elsewhere(finder, object, host, &path);
        visibility::host(finder, object, host, &path);
    }
    if !spec.hosts.is_empty() {
        visibility::export_to(finder, object, &spec.export_to);
    }
    protocols(finder, object, spec);
    for root in &spec.delegations {
        matches::check(finder, object, spec, root.index, &root.settings.matches);
    }
    // A delegate's rules are looked at together with what they take from those that delegate to them.
    let delegated = &finder.mesh.delegated;
    let whole = !spec.hosts.is_empty() || delegated.iter().all(|one| one.leaf.key != object.key);
    let named = named_subsets(finder, object, spec);
    for (index, rule) in spec.rules() {
        let path = format!("spec.http[{index}]");
        matches::check(finder, object, spec, index, &rule.matches);
        if whole {
            retries::check(finder, object, rule, (object, &path));
            fault(finder, object, rule, &path);
            cors(finder, object, rule, &path);
        }
        rewrite(finder, object, rule, &path);
        edits(
            finder,
            object,
            &rule.headers.request,
            &format!("{path}.headers.request"),
        );
        edits(
            finder,
            object,
            &rule.headers.response,
            &format!("{path}.headers.response"),
        );
        match &rule.action {
            HttpAction::Route(to) => destinations(finder, object, rule, to, (&path, &named)),
            HttpAction::Redirect(redirect) => loops(finder, object, spec, (index, rule, redirect)),
            HttpAction::DirectResponse { .. } => {}
        }
    }
}

/// Each delegate's rule as it is in force, reported where a setting is written.
pub(super) fn check_delegated(finder: &mut Finder<'_>) {
    for one in &finder.mesh.delegated {
        let Spec::VirtualService(spec) = &one.leaf.spec else {
            continue;
        };
        let Some((_, own)) = spec.rules().find(|(index, _)| *index == one.leaf_index) else {
            continue;
        };
        let leaf = (&*one.leaf, format!("spec.http[{}]", one.leaf_index));
        let root = (&*one.root, format!("spec.http[{}]", one.root_index));
        let writer = |own: bool| if own { &leaf } else { &root };
        let (retrying, path) = writer(own.retries.is_some());
        let (timing, of_timeout) = writer(own.timeout.is_some());
        let timeout = (*timing, of_timeout.as_str());
        retries::check_retries(finder, retrying, &one.rule, path);
        retries::connect(finder, &one.leaf, &one.rule, timeout);
        let (faulting, path) = writer(own.fault.is_some());
        fault(finder, faulting, &one.rule, path);
        let (allowing, path) = writer(own.cors.is_some());
        cors(finder, allowing, &one.rule, path);
    }
}

/// Subsets that the document's own rules lead to, by host.
fn named_subsets<'a>(
    finder: &Finder<'_>,
    object: &Object,
    spec: &'a VirtualService,
) -> BTreeMap<HostName, BTreeSet<&'a str>> {
    let mut named: BTreeMap<HostName, BTreeSet<&str>> = BTreeMap::new();
    for rule in &spec.http {
        if let HttpAction::Route(to) = &rule.action {
            for one in to {
                if let Some(subset) = &one.subset {
                    let of_host = named.entry(finder.host(object, &one.host)).or_default();
                    of_host.insert(&subset.value);
                }
            }
        }
    }
    named
}

/// A short host that nobody serves here, but somebody in another namespace.
pub(super) fn elsewhere<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    written: &At<String>,
    path: &str,
) {
    let host = finder.host(object, written);
    if written.value.contains('.') || host.is_wildcard() || finder.mesh.knows(&host) {
        return;
    }
    let start = format!("{}.", written.value.to_ascii_lowercase());
    let Some(there) = finder
        .mesh
        .known_hosts()
        .find(|known| known.as_str().starts_with(&start))
    else {
        return;
    };
    let message = format!(
        "a short host is one of the document's own namespace, here {host}, which nobody serves; {there} is served: write that name"
    );
    finder.find(Code::HostInOtherNamespace, object, path, message);
}

fn protocols<'a>(finder: &mut Finder<'a>, object: &'a Object, spec: &VirtualService) {
    for host in &spec.hosts {
        let Some(ports) = finder.ports(&finder.host(object, host)) else {
            continue;
        };
        let known: Vec<_> = ports.values().copied().flatten().collect();
        if known.is_empty() || known.len() < ports.len() {
            continue;
        }
        if !spec.http.is_empty() && !known.iter().any(|protocol| protocol.may_be_http()) {
            let message = format!(
                "no port of {} speaks HTTP, so no request is ever seen that these rules could take; declare the port as HTTP, HTTP2 or \
                 GRPC, or write tcp or tls rules",
                host.value
            );
            finder.find(Code::HttpRulesWithoutHttp, object, "spec.http", message);
        }
        let connections = [
            ("spec.tls", spec.tls.is_empty()),
            ("spec.tcp", spec.tcp.is_empty()),
        ];
        for (path, _) in connections.into_iter().filter(|(_, empty)| !empty) {
            if known.iter().all(|protocol| protocol.is_http()) {
                let message = format!(
                    "every port of {} speaks HTTP, where requests are routed, not connections; write http rules",
                    host.value
                );
                finder.find(Code::ConnectionRulesForHttp, object, path, message);
            }
        }
    }
}

fn destinations<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    rule: &HttpRoute,
    to: &[WeightedDestination],
    (path, named): (&str, &BTreeMap<HostName, BTreeSet<&str>>),
) {
    for (number, one) in to.iter().enumerate() {
        let own = format!("{path}.route[{number}]");
        elsewhere(
            finder,
            object,
            &one.host,
            &format!("{own}.destination.host"),
        );
        let target = |one: &WeightedDestination| {
            (
                finder.host(object, &one.host),
                one.subset.as_ref().map(|subset| subset.value.clone()),
                one.port,
            )
        };
        if let Some(first) = to
            .iter()
            .take(number)
            .position(|other| target(other) == target(one))
        {
            let message =
                format!("leads to the same place as route[{first}]; add its weight to that one");
            finder.find(Code::DestinationTwice, object, &own, message);
        }
        if one.weight == 0 && to.len() > 1 {
            let message = "gets no request: its weight is 0; remove it, or give it a share";
            finder.find(Code::ZeroWeight, object, &own, message);
        }
        edits(
            finder,
            object,
            &one.headers.request,
            &format!("{own}.headers.request"),
        );
        edits(
            finder,
            object,
            &one.headers.response,
            &format!("{own}.headers.response"),
        );
        for (side, outer, inner) in [
            ("request", &rule.headers.request, &one.headers.request),
            ("response", &rule.headers.response, &one.headers.response),
        ] {
            for name in inner.set.keys().filter(|name| has(outer.set.keys(), name)) {
                let message = format!(
                    "{name} is set by the rule, too; the one here holds for this destination"
                );
                finder.find(
                    Code::HeaderSetTwice,
                    object,
                    &format!("{own}.headers.{side}.set.{name}"),
                    message,
                );
            }
        }
        hashed(finder, object, rule, one, path);
        all_versions(finder, object, one, (&own, named));
        mirrors(finder, object, rule, one, path);
    }
    let sum: u64 = to.iter().map(|one| u64::from(one.weight)).sum();
    if to.len() > 1 && sum != 100 {
        let message = format!(
            "the weights sum to {sum}, and each is a share of that: the first gets {} of 100; let them sum to 100 to be read as percent",
            to.first()
                .map_or(0, |one| u64::from(one.weight) * 100 / sum.max(1))
        );
        finder.find(
            Code::WeightsNotHundred,
            object,
            &format!("{path}.route"),
            message,
        );
    }
}

fn has<'n>(mut names: impl Iterator<Item = &'n String>, wanted: &str) -> bool {
    names.any(|name| name.eq_ignore_ascii_case(wanted))
}

/// A consistent hash is made of the header as it is after the rule's edits.
fn hashed<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    rule: &HttpRoute,
    to: &WeightedDestination,
    path: &str,
) {
    let host = finder.host(object, &to.host);
    let policy = finder.mesh.traffic_policy(
        &host,
        to.subset.as_ref().map(|subset| subset.value.as_str()),
    );
    let Some(Balancer::ConsistentHash {
        key: HashKey::Header(name),
        ..
    }) = policy.load_balancer.map(|part| part.value.algorithm)
    else {
        return;
    };
    for ops in [&rule.headers.request, &to.headers.request] {
        if has(ops.remove.iter(), &name) && !has(ops.set.keys().chain(ops.add.keys()), &name) {
            let message = format!(
                "{host} is balanced by a hash of {name}, which is removed here: every request would go anywhere; keep the header, or \
                 hash something else"
            );
            finder.find(
                Code::HashHeaderRemoved,
                object,
                &format!("{path}.headers.request.remove"),
                message,
            );
        }
        let constant = ops
            .set
            .iter()
            .find(|(other, value)| other.eq_ignore_ascii_case(&name) && !value.contains('%'));
        if let Some((written, value)) = constant {
            let message = format!(
                "{host} is balanced by a hash of {name}, which is always {value:?} after this: one endpoint would get every request; \
                 hash something else"
            );
            finder.find(
                Code::HashHeaderConstant,
                object,
                &format!("{path}.headers.request.set.{written}"),
                message,
            );
        }
    }
}

/// A destination without a subset, where the document otherwise tells the subsets apart.
fn all_versions<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    to: &WeightedDestination,
    (path, named): (&str, &BTreeMap<HostName, BTreeSet<&str>>),
) {
    if to.subset.is_some() {
        return;
    }
    let host = finder.host(object, &to.host);
    if let Some(used) = named.get(&host) {
        let message = format!(
            "without a subset every endpoint of {host} is meant, those of {} among them; name the subset that is to have the rest",
            listed(used)
        );
        finder.find(
            Code::SubsetWithoutRoute,
            object,
            &format!("{path}.destination"),
            message,
        );
    }
}

fn mirrors<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    rule: &HttpRoute,
    to: &WeightedDestination,
    path: &str,
) {
    for mirror in &rule.mirrors {
        let own = format!("{path}.{}", mirror.path.trim_end_matches(".destination"));
        elsewhere(finder, object, &mirror.host, &own);
        if mirror.share == Share(0) {
            continue; // Nobody gets a copy.
        }
        let host = finder.host(object, &mirror.host);
        let only = finder.ports(&host).filter(|ports| ports.len() == 1);
        let only = only.and_then(|ports| ports.into_keys().next());
        let port = |written: Option<u16>| written.or(only);
        let subset = |at: &Option<At<String>>| at.as_ref().map(|subset| subset.value.clone());
        if host == finder.host(object, &to.host)
            && subset(&mirror.subset) == subset(&to.subset)
            && (mirror.port.is_none() || port(mirror.port) == port(to.port))
        {
            let message = format!(
                "{} gets each of these requests twice, as it is their destination, too; mirror to another subset or host",
                mirror.host.value
            );
            finder.find(Code::MirrorToSelf, object, &own, message);
        } else if retries::takes_writes(rule) {
            let message = format!(
                "POST and other writes are repeated at {}; if it shares a database with the destination they are done twice: mirror only \
                 GET (match method), or let the copy write elsewhere",
                mirror.host.value
            );
            finder.find(Code::MirroredWrites, object, &own, message);
        }
    }
}

fn edits<'a>(finder: &mut Finder<'a>, object: &'a Object, ops: &HeaderOps, path: &str) {
    for (number, name) in ops.remove.iter().enumerate() {
        if has(ops.set.keys(), name) {
            let message = format!(
                "{name} is set here, too, and set comes after remove; remove it from one of the two"
            );
            finder.find(
                Code::HeaderSetAndRemoved,
                object,
                &format!("{path}.remove[{number}]"),
                message,
            );
        }
    }
}

fn rewrite<'a>(finder: &mut Finder<'a>, object: &'a Object, rule: &HttpRoute, path: &str) {
    let Some(uri) = rule
        .rewrite
        .as_ref()
        .and_then(|rewrite| rewrite.uri.as_deref())
    else {
        return;
    };
    // Without a path every one is matched, by the prefix "/".
    let every = [HttpMatch::default()];
    let matches = if rule.matches.is_empty() {
        &every[..]
    } else {
        &rule.matches
    };
    for (number, found) in matches.iter().enumerate() {
        let prefix = match &found.uri {
            Some(StringMatch::Prefix(prefix)) => prefix,
            None => "/",
            Some(_) => continue,
        };
        let slashed = format!("{prefix}/");
        let taken = |other: &HttpMatch| matches!(&other.uri, Some(StringMatch::Prefix(other)) if *other == slashed);
        let example = if prefix.ends_with('/') && !uri.ends_with('/') {
            (format!("{prefix}a"), format!("{uri}a"))
        } else if !prefix.ends_with('/')
            && uri.ends_with('/')
            && !matches.iter().take(number).any(taken)
        {
            (format!("{prefix}/a"), format!("{uri}/a"))
        } else {
            continue;
        };
        let repair = if prefix == "/" {
            format!("write {:?}", format!("{uri}/"))
        } else {
            format!(
                "let both end with a slash, or neither (and a match each for {prefix:?} and its folder)"
            )
        };
        let message = format!(
            "{prefix:?} becomes {uri:?}, so {} becomes {}; {repair}",
            example.0, example.1
        );
        finder.find(
            Code::DoubleSlash,
            object,
            &format!("{path}.rewrite.uri"),
            message,
        );
    }
}

/// A fault for everybody was a test that somebody forgot; one for a header or a caller was meant.
fn fault<'a>(finder: &mut Finder<'a>, object: &'a Object, rule: &HttpRoute, path: &str) {
    let Some(fault) = &rule.fault else {
        return;
    };
    let narrow = |found: &HttpMatch| {
        !found.headers.is_empty()
            || !found.source_labels.is_empty()
            || !found.query_params.is_empty()
    };
    if !rule.matches.is_empty() && rule.matches.iter().all(narrow) {
        return;
    }
    let all = |share: Share| share == Share::ALL;
    if fault.value.abort.is_some_and(|abort| all(abort.share)) {
        let message = "every request of this rule is answered with the fault; give a percentage, or match a header that only the test sends";
        finder.find(
            Code::FaultForAll,
            object,
            &format!("{path}.fault.abort"),
            message,
        );
    }
    if let Some(delay) = fault.value.delay.filter(|delay| all(delay.share)) {
        let message = format!(
            "every request of this rule waits {}; give a percentage, or match a header that only the test sends",
            time(delay.fixed_delay)
        );
        finder.find(
            Code::FaultForAll,
            object,
            &format!("{path}.fault.delay"),
            message,
        );
    }
}

fn cors<'a>(finder: &mut Finder<'a>, object: &'a Object, rule: &HttpRoute, path: &str) {
    let Some(cors) = rule.cors.as_ref().map(|cors| &cors.value) else {
        return;
    };
    let path = format!("{path}.corsPolicy");
    let any = |origin: &StringMatch| match origin {
        StringMatch::Exact(text) => text == "*",
        StringMatch::Prefix(text) => matches!(
            text.as_str(),
            "" | "http" | "https" | "http://" | "https://"
        ),
        StringMatch::Regex(regex) => matches::takes_all(regex),
        StringMatch::Present => true,
    };
    if cors.allow_credentials && cors.allow_origins.iter().any(any) {
        let message = "any page on the internet may call with the user's cookies and read the answer; list the origins that may";
        finder.find(
            Code::CorsAnyWithCredentials,
            object,
            &format!("{path}.allowOrigins"),
            message,
        );
    }
    if cors.allow_methods.is_empty() && !cors.allow_origins.is_empty() {
        let message = "without allowMethods a browser's preflight allows nothing but GET, HEAD and POST; list the methods";
        finder.find(Code::CorsWithoutMethods, object, &path, message);
    }
}

/// A redirect whose target matches again.
fn loops<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    spec: &VirtualService,
    (index, rule, redirect): (usize, &HttpRoute, &Redirect),
) {
    if redirect.port.is_some() || redirect.scheme.is_some() {
        return;
    }
    let canonical = |name: &str| -> HostName { finder.mesh.host(name, &object.key.namespace) };
    if let Some(authority) = &redirect.authority {
        let name = authority.split(':').next().unwrap_or(authority);
        let to = canonical(name);
        if authority.contains(':')
            || !spec
                .hosts
                .iter()
                .any(|host| finder.host(object, host) == to)
        {
            return;
        }
    }
    // Who does not look at more than the path comes back, unless an earlier rule takes the target.
    let target = match &redirect.uri {
        Some(RedirectUri::Path(to) | RedirectUri::Prefix(to)) => Some(to.as_str()),
        None => None,
    };
    let regexes = Regexes::default();
    let taken = |found: Option<&HttpMatch>| {
        let request = HttpMatch {
            uri: match target {
                Some(to) => Some(StringMatch::Exact(to.to_owned())),
                None => found.and_then(|found| found.uri.clone()),
            },
            ..HttpMatch::default()
        };
        let earlier = spec.rules().take_while(|(earlier, _)| *earlier < index);
        let delegated = spec.delegations.iter().filter(|rule| rule.index < index);
        earlier
            .map(|(_, rule)| &rule.matches)
            .chain(delegated.map(|rule| &rule.settings.matches))
            .any(|matches| {
                matches.is_empty() || matches.iter().any(|first| regexes.covers(first, &request))
            })
    };
    let path_alone = |found: &HttpMatch| {
        let rest = HttpMatch {
            name: None,
            stat_prefix: None,
            uri: None,
            ignore_uri_case: false,
            ..found.clone()
        };
        rest == HttpMatch::default()
    };
    let back = |found: Option<&HttpMatch>| match (
        found.and_then(|found| found.uri.as_ref()),
        &redirect.uri,
    ) {
        (_, None) | (None, Some(RedirectUri::Path(_))) => true,
        (Some(StringMatch::Exact(from)), Some(RedirectUri::Path(to))) => from == to,
        (
            Some(StringMatch::Prefix(from)),
            Some(RedirectUri::Path(to) | RedirectUri::Prefix(to)),
        ) => to.starts_with(from.as_str()),
        _ => false,
    };
    let again = if rule.matches.is_empty() {
        back(None) && !taken(None)
    } else {
        let mut matches = rule.matches.iter();
        matches.any(|found| path_alone(found) && back(Some(found)) && !taken(Some(found)))
    };
    if again {
        let message = "the browser comes back to this very rule, until it gives up; lead to another path, host or scheme, or match less";
        finder.find(
            Code::RedirectLoop,
            object,
            &format!("spec.http[{index}].redirect"),
            message,
        );
    }
}
