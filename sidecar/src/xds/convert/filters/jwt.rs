//! `JwtAuthentication` → [`JwtAuthn`]. What keys look like is looked at here, once; a set that none of can be used is
//! refused, because no token could be verified.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderName, Uri};
use outrigger_core::{
    JwtAuthn,
    jwt::{CACHED_TOKEN, KeySet, Keys, Location, Provider, RemoteKeys, RemoteName, Requirement},
};
use outrigger_proto::envoy::{
    config::core::v3::{data_source::Specifier, http_uri::HttpUpstreamType},
    extensions::filters::http::jwt_authn::v3::{
        self as proto, jwt_provider::JwksSourceSpecifier, jwt_requirement::RequiresType,
        per_route_config::RequirementSpecifier, requirement_rule::RequirementType,
    },
};

use super::super::{Converted, duration, matches, positive, refuse, unsupported};

/// Requirements inside each other.
const MAX_DEPTH: u8 = 8;
/// Envoy's defaults.
const CACHE_DURATION: Duration = Duration::from_secs(600);
const RETRY_AFTER: Duration = Duration::from_secs(1);
const CACHED_TOKENS: usize = 100;
/// Of which a worker remembers as many at most, whoever asks for more.
const MOST_CACHED: u32 = 100_000;
/// What our control plane calls a filter of which nothing comes.
const DRY_RUN: &str = "dry_run";

pub(super) fn convert(from: &proto::JwtAuthentication) -> Converted<JwtAuthn> {
    let mut providers = Vec::with_capacity(from.providers.len());
    for (name, one) in &from.providers {
        let converted = provider(name, one);
        let converted = converted.map_err(|error| error.under(format!("providers[{name:?}]")))?;
        providers.push(Arc::new(converted));
    }
    let names: BTreeMap<&str, usize> = from.providers.keys().map(String::as_str).zip(0..).collect();
    let all: Vec<usize> = (0..providers.len()).collect();
    let read = |one| requirement(one, &names, &all, MAX_DEPTH);
    let mut named = Vec::with_capacity(from.requirement_map.len());
    for (name, one) in &from.requirement_map {
        let one = read(one).map_err(|error| error.under(format!("requirement_map[{name:?}]")))?;
        named.push((Box::from(name.as_str()), one));
    }
    let mut rules = Vec::with_capacity(from.rules.len());
    for (index, rule) in from.rules.iter().enumerate() {
        let under = |field: &str| format!("rules[{index}].{field}");
        let matches = matches::route_match(rule.r#match.as_ref());
        let matches = matches.map_err(|error| error.under(format!("rules[{index}]")))?;
        let required = match &rule.requirement_type {
            None => None,
            Some(RequirementType::Requires(one)) if one.requires_type.is_none() => None,
            Some(RequirementType::Requires(one)) => {
                Some(read(one).map_err(|error| error.under(under("requires")))?)
            }
            Some(RequirementType::RequirementName(name)) => {
                let mut known = named.iter();
                match known.find(|(own, _)| **own == **name) {
                    Some((_, one)) => Some(one.clone()),
                    None => {
                        let message = format!("{name:?} is not in requirement_map");
                        return refuse(under("requirement_name"), message);
                    }
                }
            }
        };
        rules.push((matches, required));
    }
    let mut filter = JwtAuthn::new(providers, rules);
    filter.named = named;
    filter.bypass_cors_preflight = from.bypass_cors_preflight;
    filter.silent = from.strip_failure_response;
    filter.dry_run = from.stat_prefix == DRY_RUN;
    Ok(filter)
}

/// None = the filter is off.
pub(super) fn of_route(from: &proto::PerRouteConfig) -> Converted<Option<Arc<str>>> {
    match &from.requirement_specifier {
        Some(RequirementSpecifier::Disabled(true)) => Ok(None),
        Some(RequirementSpecifier::RequirementName(name)) if !name.is_empty() => {
            Ok(Some(name.as_str().into()))
        }
        _ => refuse("requirement_name", "missing; or disabled: true"),
    }
}

fn provider(name: &str, from: &proto::JwtProvider) -> Converted<Provider> {
    let issuer = Some(from.issuer.as_str()).filter(|issuer| !issuer.is_empty());
    let mut to = Provider::new(name, issuer, keys(from)?);
    to.audiences = boxed(&from.audiences);
    if let Some(subjects) = &from.subjects {
        let subjects = matches::string_match(subjects);
        to.subjects = Some(subjects.map_err(|error| error.under("subjects"))?.whole());
    }
    to.require_expiration = from.require_expiration;
    let most = from.max_lifetime.as_ref();
    to.max_lifetime = most
        .map(|most| duration("max_lifetime", most))
        .transpose()?;
    if from.clock_skew_seconds > 0 {
        to.clock_skew = Duration::from_secs(from.clock_skew_seconds.into());
    }
    to.locations = locations(from)?;
    to.forward = from.forward;
    if !from.forward_payload_header.is_empty() {
        let name = header("forward_payload_header", &from.forward_payload_header)?;
        to.payload_header = Some((name, from.pad_forward_payload_header));
    } else if from.pad_forward_payload_header {
        let message = "has no effect without forward_payload_header";
        return refuse("pad_forward_payload_header", message);
    }
    for (index, one) in from.claim_to_headers.iter().enumerate() {
        let path = format!("claim_to_headers[{index}]");
        let name = header(&format!("{path}.header_name"), &one.header_name)?;
        if one.claim_name.is_empty() {
            return refuse(format!("{path}.claim_name"), "missing");
        }
        to.claim_headers
            .push((name, one.claim_name.as_str().into()));
    }
    let metadata = Some(from.payload_in_metadata.as_str()).filter(|name| !name.is_empty());
    to.metadata = metadata.map(Arc::from);
    if let Some(normalize) = &from.normalize_payload_in_metadata {
        to.space_delimited = boxed(&normalize.space_delimited_claims);
    }
    if let Some(cache) = &from.jwt_cache_config {
        let or = |value: u32, default: usize| match value {
            0 => default,
            value => usize::try_from(value).unwrap_or(default),
        };
        to.cache_size = or(cache.jwt_cache_size.min(MOST_CACHED), CACHED_TOKENS);
        to.cache_token_size = or(cache.jwt_max_token_size, CACHED_TOKEN);
    }
    Ok(to)
}

fn boxed(texts: &[String]) -> Vec<Box<str>> {
    texts.iter().map(|text| text.as_str().into()).collect()
}

fn header(path: &str, name: &str) -> Converted<HeaderName> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(name),
        Err(_syntax) => refuse(path, format!("{name:?} is not a header name")),
    }
}

fn locations(from: &proto::JwtProvider) -> Converted<Vec<Location>> {
    let mut locations = Vec::new();
    for (index, one) in from.from_headers.iter().enumerate() {
        let name = header(&format!("from_headers[{index}].name"), &one.name)?;
        locations.push(Location::Header(name, one.value_prefix.as_str().into()));
    }
    let texts = |path: &str, all: &[String]| {
        let empty = all.iter().position(String::is_empty);
        empty.map_or(Ok(()), |index| {
            refuse(format!("{path}[{index}]"), "is empty")
        })
    };
    texts("from_params", &from.from_params)?;
    texts("from_cookies", &from.from_cookies)?;
    let params = from.from_params.iter();
    locations.extend(params.map(|name| Location::Query(name.as_str().into())));
    let cookies = from.from_cookies.iter();
    locations.extend(cookies.map(|name| Location::Cookie(name.as_str().into())));
    Ok(locations)
}

fn keys(from: &proto::JwtProvider) -> Converted<Keys> {
    match &from.jwks_source_specifier {
        Some(JwksSourceSpecifier::LocalJwks(source)) => {
            let text = match &source.specifier {
                Some(Specifier::InlineString(text)) => text.as_bytes(),
                Some(Specifier::InlineBytes(text)) => text,
                Some(Specifier::Filename(_)) => return unsupported("local_jwks.filename"),
                Some(Specifier::EnvironmentVariable(_)) => {
                    return unsupported("local_jwks.environment_variable");
                }
                None => return refuse("local_jwks.inline_string", "missing"),
            };
            match KeySet::parse(text) {
                Ok(keys) => Ok(Keys::Local(Arc::new(keys))),
                Err(error) => refuse("local_jwks", error.to_string()),
            }
        }
        Some(JwksSourceSpecifier::RemoteJwks(remote)) => remote_name(remote)
            .map(|name| Keys::Remote(Arc::new(RemoteKeys::new(name))))
            .map_err(|error| error.under("remote_jwks")),
        None => refuse(
            "local_jwks",
            "missing; one of local_jwks, remote_jwks must be set",
        ),
    }
}

fn remote_name(from: &proto::RemoteJwks) -> Converted<RemoteName> {
    let Some(uri) = &from.http_uri else {
        return refuse("http_uri", "missing");
    };
    let is_absolute = |parsed: &Uri| {
        matches!(parsed.scheme_str(), Some("http" | "https")) && parsed.authority().is_some()
    };
    if !uri.uri.parse::<Uri>().as_ref().is_ok_and(is_absolute) {
        let message = format!("{:?} is not an http or https URL", uri.uri);
        return refuse("http_uri.uri", message);
    }
    let cluster = match &uri.http_upstream_type {
        Some(HttpUpstreamType::Cluster(cluster)) if !cluster.is_empty() => cluster,
        _ => return refuse("http_uri.cluster", "missing"),
    };
    let timeout = match &uri.timeout {
        Some(timeout) => positive("http_uri.timeout", Some(timeout), RETRY_AFTER)?,
        None => return refuse("http_uri.timeout", "missing"),
    };
    let again = from.async_fetch.as_ref();
    let again = again.and_then(|fetch| fetch.failed_refetch_duration.as_ref());
    let cache = from.cache_duration.as_ref();
    Ok(RemoteName {
        uri: uri.uri.as_str().into(),
        cluster: cluster.as_str().into(),
        timeout,
        cache_duration: positive("cache_duration", cache, CACHE_DURATION)?,
        retry_after: positive("async_fetch.failed_refetch_duration", again, RETRY_AFTER)?,
    })
}

/// `siblings`: the providers that `allow_missing` is about.
fn requirement(
    from: &proto::JwtRequirement,
    names: &BTreeMap<&str, usize>,
    siblings: &[usize],
    depth: u8,
) -> Converted<Requirement> {
    let Some(depth) = depth.checked_sub(1) else {
        return refuse(
            "",
            format!("more than {MAX_DEPTH} requirements inside each other"),
        );
    };
    let place = |path: &str, name: &str| match names.get(name) {
        Some(place) => Ok(*place),
        None => refuse(path, format!("{name:?} is not among the providers")),
    };
    let each = |path: &str, all: &[proto::JwtRequirement], siblings: &[usize]| {
        if all.len() < 2 {
            return refuse(
                path,
                format!("has {} entries; at least two are needed", all.len()),
            );
        }
        let all = all.iter().enumerate();
        let all = all.map(|(index, one)| {
            requirement(one, names, siblings, depth)
                .map_err(|error| error.under(format!("{path}[{index}]")))
        });
        all.collect::<Converted<Vec<_>>>()
    };
    Ok(match &from.requires_type {
        Some(RequiresType::ProviderName(name)) => {
            Requirement::Provider(place("provider_name", name)?, None)
        }
        Some(RequiresType::ProviderAndAudiences(found)) => {
            let path = "provider_and_audiences.provider_name";
            let place = place(path, &found.provider_name)?;
            let audiences = boxed(&found.audiences);
            Requirement::Provider(place, (!audiences.is_empty()).then_some(audiences))
        }
        Some(RequiresType::RequiresAny(list)) => {
            let beside = list
                .requirements
                .iter()
                .filter_map(|one| match &one.requires_type {
                    Some(RequiresType::ProviderName(name)) => names.get(name.as_str()).copied(),
                    Some(RequiresType::ProviderAndAudiences(found)) => {
                        names.get(found.provider_name.as_str()).copied()
                    }
                    _ => None,
                });
            let beside: Vec<usize> = beside.collect();
            let siblings = if beside.is_empty() { siblings } else { &beside };
            let mut any = each("requires_any.requirements", &list.requirements, siblings)?;
            // What lets through without a token comes last (Envoy), and of two the one that lets through more.
            any.sort_by_key(|one| match one {
                Requirement::AllowMissingOrFailed(_) => 1,
                Requirement::AllowMissing(_) => 2,
                _ => 0,
            });
            Requirement::Any(any)
        }
        Some(RequiresType::RequiresAll(list)) => Requirement::All(each(
            "requires_all.requirements",
            &list.requirements,
            siblings,
        )?),
        Some(RequiresType::AllowMissingOrFailed(_)) => {
            Requirement::AllowMissingOrFailed(siblings.into())
        }
        Some(RequiresType::AllowMissing(_)) => Requirement::AllowMissing(siblings.into()),
        None => return refuse("provider_name", "missing"),
    })
}
