//! Tokens of requests: what RequestAuthentication documents ask of one workload's inbound side. Before everything that
//! looks at what a token says.
//!
//! ```text
//! dry runs ─► jwt_authn.dry_run: looked at and counted, nothing comes of it
//! others   ─► jwt_authn: no token, or a good one; where it is found, who wants it and what access rules see
//! ```
//! A provider for each rule, `ns[<namespace>]-request-authentication[<name>]-rule[<index>]`. Providers that look in one
//! place share a requirement, of which one is enough; each place has its own, so that a bad token is refused beside a
//! good one elsewhere (Istio lets it through). Source: Istio's filter for RequestAuthentication.

use std::{collections::BTreeSet, time::Duration};

use outrigger_policy::{JwtKeys, JwtRule, Object, Position};
use outrigger_proto::envoy::{
    config::core::v3::{DataSource, HttpUri, data_source, http_uri},
    extensions::filters::{
        http::jwt_authn::v3::{
            JwksAsyncFetch, JwtAuthentication, JwtCacheConfig, JwtClaimToHeader, JwtHeader,
            JwtProvider, JwtRequirement, JwtRequirementAndList, JwtRequirementOrList, RemoteJwks,
            RequirementRule,
            jwt_provider::{JwksSourceSpecifier, NormalizePayload},
            jwt_requirement::RequiresType,
            requirement_rule::RequirementType,
        },
        network::http_connection_manager::v3::HttpFilter,
    },
};

use super::{
    any::{any, duration},
    authz::Workload,
    cluster,
    listener::filter,
    matching::everything,
};

const NAME: &str = "envoy.filters.http.jwt_authn";
const TYPE: &str = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
/// Under which access rules find what a token says (Istio's).
const PAYLOAD: &str = "payload";
/// Whose words are a list (Istio's).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];
/// How long keys count as new (Istio's agent).
const CACHE_DURATION: Duration = Duration::from_secs(20 * 60);
/// Verified tokens that a worker remembers, for each issuer.
const CACHED_TOKENS: u32 = 1_000;
/// What the counters of dry runs begin with; our sidecar knows them by it.
const DRY_RUN: &str = "dry_run";

/// A rule in force for the workload.
struct Rule<'a> {
    name: String,
    document: &'a Object,
    rule: &'a JwtRule,
}

/// The filters that verify tokens, first of all.
pub(super) fn filters(workload: &Workload<'_>) -> Vec<HttpFilter> {
    let all: Vec<_> = rules(workload).collect();
    let is_tried = |rule: &Rule<'_>| rule.document.is_dry_run();
    let enforced: Vec<_> = rules(workload).filter(|rule| !is_tried(rule)).collect();
    let tried = all.iter().any(is_tried).then(|| {
        let config = dry_run(workload, &all);
        filter(&format!("{NAME}.{DRY_RUN}"), any(TYPE, &config))
    });
    let enforced = (!enforced.is_empty()).then(|| {
        let config = in_force(workload, &enforced);
        filter(NAME, any(TYPE, &config))
    });
    tried.into_iter().chain(enforced).collect()
}

/// Where each rule stands, by the name of its provider.
pub(super) fn positions<'a>(
    workload: &Workload<'a>,
) -> impl Iterator<Item = (String, &'a Position)> {
    rules(workload).map(|rule| (rule.name, &rule.rule.position))
}

fn rules<'a>(workload: &Workload<'a>) -> impl Iterator<Item = Rule<'a>> {
    let documents = workload.mesh.request_authentications(workload.view());
    documents.flat_map(|(document, spec)| {
        let key = &document.key;
        spec.rules
            .iter()
            .enumerate()
            .map(move |(index, rule)| Rule {
                name: format!(
                    "ns[{}]-request-authentication[{}]-rule[{index}]",
                    key.namespace, key.name
                ),
                document,
                rule,
            })
    })
}

fn in_force(workload: &Workload<'_>, rules: &[Rule<'_>]) -> JwtAuthentication {
    let providers = rules.iter().map(|rule| {
        let mut provider = provider(workload, rule);
        let of = rule.rule;
        provider.forward = of.forward;
        provider.forward_payload_header = of.payload_header.clone().unwrap_or_default();
        let claims = of.claim_headers.iter();
        provider.claim_to_headers = claims
            .map(|(header, claim)| JwtClaimToHeader {
                header_name: header.clone(),
                claim_name: claim.clone(),
            })
            .collect();
        provider.payload_in_metadata = PAYLOAD.to_owned();
        let words = SPACE_DELIMITED.iter().map(|name| (*name).to_owned());
        provider.normalize_payload_in_metadata = Some(NormalizePayload {
            space_delimited_claims: words.chain(of.space_delimited.clone()).collect(),
        });
        (rule.name.clone(), provider)
    });
    let missing = || requirement(RequiresType::AllowMissing(()));
    let each = by_place(rules).into_iter().map(|names| {
        let one = names
            .into_iter()
            .map(|name| requirement(RequiresType::ProviderName(name.to_owned())));
        any_of(one.chain([missing()]).collect())
    });
    let mut each: Vec<_> = each.collect();
    let requires = match each.len() {
        1 => each.swap_remove(0),
        _ => requirement(RequiresType::RequiresAll(JwtRequirementAndList {
            requirements: each,
        })),
    };
    JwtAuthentication {
        providers: providers.collect(),
        rules: vec![always(requires)],
        bypass_cors_preflight: true,
        ..JwtAuthentication::default()
    }
}

/// What would be if the dry runs were in force, too. Tokens are looked at where they are, and nothing else is done.
fn dry_run(workload: &Workload<'_>, rules: &[Rule<'_>]) -> JwtAuthentication {
    let providers = rules.iter().map(|rule| {
        let provider = JwtProvider {
            forward: true,
            ..provider(workload, rule)
        };
        (rule.name.clone(), provider)
    });
    let each = rules
        .iter()
        .map(|rule| requirement(RequiresType::ProviderName(rule.name.clone())));
    let spared = requirement(RequiresType::AllowMissingOrFailed(()));
    JwtAuthentication {
        providers: providers.collect(),
        rules: vec![always(any_of(each.chain([spared]).collect()))],
        bypass_cors_preflight: true,
        stat_prefix: DRY_RUN.to_owned(),
        ..JwtAuthentication::default()
    }
}

/// Those that look into one place are together.
fn by_place<'a>(rules: &'a [Rule<'_>]) -> Vec<Vec<&'a str>> {
    let mut groups: Vec<(BTreeSet<String>, Vec<&str>)> = Vec::new();
    for rule in rules {
        let mut group = (places(rule.rule), vec![rule.name.as_str()]);
        // One that looks in places of two groups makes one of them.
        let (joined, apart): (Vec<_>, Vec<_>) = groups
            .into_iter()
            .partition(|(places, _)| !places.is_disjoint(&group.0));
        for (places, names) in joined.into_iter().rev() {
            group.0.extend(places);
            group.1.splice(0..0, names);
        }
        groups = apart;
        groups.push(group);
    }
    groups.into_iter().map(|(_, names)| names).collect()
}

fn places(rule: &JwtRule) -> BTreeSet<String> {
    let headers = rule.from_headers.iter();
    let headers = headers.map(|(name, _)| format!("header {}", name.to_ascii_lowercase()));
    let params = rule.from_params.iter().map(|name| format!("query {name}"));
    let cookies = rule
        .from_cookies
        .iter()
        .map(|name| format!("cookie {name}"));
    let written: BTreeSet<_> = headers.chain(params).chain(cookies).collect();
    if written.is_empty() {
        return ["header authorization", "query access_token"]
            .map(str::to_owned)
            .into();
    }
    written
}

/// What is the same whatever becomes of it.
fn provider(workload: &Workload<'_>, rule: &Rule<'_>) -> JwtProvider {
    let of = rule.rule;
    let headers = of.from_headers.iter();
    JwtProvider {
        issuer: of.issuer.value.clone(),
        audiences: of.audiences.clone(),
        from_headers: headers
            .map(|(name, prefix)| JwtHeader {
                name: name.clone(),
                value_prefix: prefix.clone(),
            })
            .collect(),
        from_params: of.from_params.clone(),
        from_cookies: of.from_cookies.clone(),
        jwks_source_specifier: Some(keys(workload, rule)),
        jwt_cache_config: Some(JwtCacheConfig {
            jwt_cache_size: CACHED_TOKENS,
            ..JwtCacheConfig::default()
        }),
        ..JwtProvider::default()
    }
}

fn keys(workload: &Workload<'_>, rule: &Rule<'_>) -> JwksSourceSpecifier {
    let url = match &rule.rule.keys {
        JwtKeys::Inline(text) => {
            return JwksSourceSpecifier::LocalJwks(DataSource {
                specifier: Some(data_source::Specifier::InlineString(text.value.clone())),
                ..DataSource::default()
            });
        }
        JwtKeys::Url(url) => &url.value,
    };
    let host = workload
        .mesh
        .host_of_keys(url, &rule.document.key.namespace);
    let cluster = cluster::name(url.port, "", host.as_str());
    JwksSourceSpecifier::RemoteJwks(RemoteJwks {
        http_uri: Some(HttpUri {
            uri: url.text.clone(),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(cluster)),
            timeout: Some(duration(rule.rule.timeout)),
        }),
        cache_duration: Some(duration(CACHE_DURATION)),
        // Before requests need them; but a server that does not answer must not keep the port closed.
        async_fetch: Some(JwksAsyncFetch {
            fast_listener: true,
            failed_refetch_duration: None,
        }),
        retry_policy: None,
    })
}

fn always(requires: JwtRequirement) -> RequirementRule {
    RequirementRule {
        r#match: Some(everything()),
        requirement_type: Some(RequirementType::Requires(requires)),
    }
}

fn any_of(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    requirement(RequiresType::RequiresAny(JwtRequirementOrList {
        requirements,
    }))
}

const fn requirement(requires: RequiresType) -> JwtRequirement {
    JwtRequirement {
        requires_type: Some(requires),
    }
}
