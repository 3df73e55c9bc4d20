//! Servers that are asked: what AuthorizationPolicies with action CUSTOM ask of one workload's inbound side.
//!
//! ```text
//! rules that are only counted ──leave the name of what matches──► question, if that name is the provider's
//! ```
//! So one filter asks for all documents of a provider, and Envoy asks as our sidecar does (Istio's way). Connections
//! without HTTP are not asked about: those that a rule matches are refused, as are requests whose provider is not there
//! any more.

use std::collections::BTreeMap;

use outrigger_policy::{
    AuthorizationAction, CheckProtocol, ExtensionProvider, HttpCheck, NamePattern, Object, Position,
};
use outrigger_proto::envoy::{
    config::{
        core::v3::{
            ApiVersion, GrpcService, HeaderValue, HttpUri,
            grpc_service::{EnvoyGrpc, TargetSpecifier},
            http_uri::HttpUpstreamType,
        },
        listener::v3::{Filter, filter},
        rbac::v3::{Policy, Rbac, rbac::Action},
    },
    extensions::filters::{
        http::{
            ext_authz::v3::{
                AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService,
                ext_authz::Services,
            },
            rbac::v3::Rbac as HttpRbac,
        },
        network::{http_connection_manager::v3::HttpFilter, rbac::v3::Rbac as NetworkRbac},
    },
    r#type::{
        matcher::v3::{
            ListStringMatcher, MetadataMatcher, RegexMatcher, StringMatcher, ValueMatcher,
            metadata_matcher::{PathSegment, path_segment::Segment},
            string_matcher::MatchPattern,
            value_matcher,
        },
        v3::HttpStatus,
    },
};

use super::{
    any::{any, duration},
    authz::{Of, Workload, policies, rule_name},
    listener::filter as http_filter,
};

/// What Envoy's rules write what matches under begins with this (Istio's words).
const PREFIX: &str = "istio_ext_authz_";
/// What names of policies begin with (Istio's words).
const POLICY: &str = "istio-ext-authz-";
const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const EXT_AUTHZ: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";

/// A provider, and the rules that ask it.
struct Asked<'a> {
    /// None = there is none of that name.
    provider: Option<(&'a Object, &'a ExtensionProvider)>,
    rules: BTreeMap<String, Policy>,
}

/// For each provider, who is to be asked about and the question; behind tokens, before all other rules.
pub(super) fn filters(workload: &Workload<'_>) -> Vec<HttpFilter> {
    let asked = asked(workload, Of::Requests).into_iter();
    let filters = asked.flat_map(|(name, asked)| match asked.provider {
        Some((object, provider)) => {
            let shadow = HttpRbac {
                shadow_rules: Some(deny(marked(&name, asked.rules))),
                shadow_rules_stat_prefix: PREFIX.to_owned(),
                ..HttpRbac::default()
            };
            let question = question(workload, &name, object, provider);
            vec![
                http_filter(
                    &format!("envoy.filters.http.rbac.custom.{name}"),
                    any(RBAC, &shadow),
                ),
                http_filter(
                    &format!("envoy.filters.http.ext_authz.{name}"),
                    any(EXT_AUTHZ, &question),
                ),
            ]
        }
        None => {
            let refused = HttpRbac {
                rules: Some(deny(asked.rules)),
                ..HttpRbac::default()
            };
            let name = format!("envoy.filters.http.rbac.custom.{name}");
            vec![http_filter(&name, any(RBAC, &refused))]
        }
    });
    filters.collect()
}

/// Where the rules stand that ask, under the names that they are marked with.
pub(super) fn positions<'a>(workload: &Workload<'a>) -> BTreeMap<String, &'a Position> {
    let documents = workload.mesh.authorization_policies(workload.view());
    let each = documents.flat_map(|(object, spec)| {
        let provider = match &spec.action {
            AuthorizationAction::Custom(name) => {
                workload.mesh.provider(&object.key.namespace, &name.value)
            }
            _ => None,
        };
        let rules = spec.rules.iter().enumerate();
        provider.into_iter().flat_map(move |(found, _)| {
            let rules = rules.clone();
            rules.map(move |(index, rule)| {
                let name = mark(&provider_name(found), &rule_name(object, index));
                (name, &rule.position)
            })
        })
    });
    each.collect()
}

/// `shop.opa`
fn provider_name(provider: &Object) -> String {
    format!("{}.{}", provider.key.namespace, provider.key.name)
}

/// Named so that only the provider's question knows it.
fn mark(provider: &str, rule: &str) -> String {
    format!("{POLICY}{provider}-{rule}")
}

/// Of an application without HTTP: what would be asked about is refused.
pub(super) fn network_filters(workload: &Workload<'_>) -> Vec<Filter> {
    let asked = asked(workload, Of::Connections).into_iter();
    let rules: BTreeMap<String, Policy> = asked.flat_map(|(_, asked)| asked.rules).collect();
    if rules.is_empty() {
        return Vec::new();
    }
    let refused = NetworkRbac {
        rules: Some(deny(rules)),
        stat_prefix: "tcp.".to_owned(),
        ..NetworkRbac::default()
    };
    let config = any("envoy.extensions.filters.network.rbac.v3.RBAC", &refused);
    vec![Filter {
        name: "envoy.filters.network.rbac.custom".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }]
}

/// By provider, as filters name it.
fn asked<'a>(workload: &Workload<'a>, of: Of) -> BTreeMap<String, Asked<'a>> {
    let mut all = BTreeMap::<String, Asked<'a>>::new();
    let documents = workload.mesh.authorization_policies(workload.view());
    for (object, spec) in documents.filter(|(object, _)| !object.is_dry_run()) {
        let AuthorizationAction::Custom(name) = &spec.action else {
            continue;
        };
        let provider = workload.mesh.provider(&object.key.namespace, &name.value);
        let name = match provider {
            Some((found, _)) => provider_name(found),
            None => format!("{}.{}", object.key.namespace, name.value),
        };
        let asked = all.entry(name).or_insert_with(|| Asked {
            provider: provider.map(|(object, spec)| (&**object, spec)),
            rules: BTreeMap::new(),
        });
        asked.rules.extend(policies(object, spec, workload, of));
    }
    all
}

fn marked(provider: &str, rules: BTreeMap<String, Policy>) -> BTreeMap<String, Policy> {
    let rules = rules.into_iter();
    rules
        .map(|(name, policy)| (mark(provider, &name), policy))
        .collect()
}

fn deny(policies: BTreeMap<String, Policy>) -> Rbac {
    Rbac {
        action: Action::Deny as i32,
        policies,
        ..Rbac::default()
    }
}

fn question(
    workload: &Workload<'_>,
    name: &str,
    object: &Object,
    provider: &ExtensionProvider,
) -> ExtAuthz {
    let host = workload.mesh.provider_host(object, provider);
    let cluster = format!("outbound|{}||{host}", provider.port);
    let timeout = Some(duration(provider.timeout));
    let mut allowed_headers = None;
    let services = match &provider.protocol {
        CheckProtocol::Grpc => Services::GrpcService(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: cluster,
                // A cluster's name is no host that a server could be called.
                authority: host.to_string(),
                ..EnvoyGrpc::default()
            })),
            timeout,
            ..GrpcService::default()
        }),
        CheckProtocol::Http(check) => {
            allowed_headers = names(&check.include_request_headers);
            Services::HttpService(HttpService {
                server_uri: Some(HttpUri {
                    uri: format!("http://{host}:{}", provider.port),
                    http_upstream_type: Some(HttpUpstreamType::Cluster(cluster)),
                    timeout,
                }),
                path_prefix: check.path_prefix.clone().unwrap_or_default(),
                authorization_request: request(check),
                authorization_response: Some(AuthorizationResponse {
                    allowed_upstream_headers: names(&check.to_upstream_on_allow),
                    allowed_client_headers: names(&check.to_downstream_on_deny),
                    allowed_client_headers_on_success: names(&check.to_downstream_on_allow),
                    ..AuthorizationResponse::default()
                }),
                ..HttpService::default()
            })
        }
    };
    ExtAuthz {
        services: Some(services),
        transport_api_version: ApiVersion::V3 as i32,
        failure_mode_allow: provider.fail_open,
        clear_route_cache: provider.clear_route_cache,
        status_on_error: provider
            .status_on_error
            .map(|code| HttpStatus { code: code.into() }),
        with_request_body: provider.body.map(|body| BufferSettings {
            max_request_bytes: body.max_request_bytes,
            allow_partial_message: body.allow_partial_message,
            pack_as_bytes: body.pack_as_bytes,
        }),
        filter_enabled_metadata: Some(selected(name)),
        allowed_headers,
        include_tls_session: provider.protocol == CheckProtocol::Grpc,
        ..ExtAuthz::default()
    }
}

/// Requests that a rule of this provider's matches.
fn selected(provider: &str) -> MetadataMatcher {
    let key = format!("{PREFIX}shadow_effective_policy_id");
    // To the `[` of the rule's name, so that of two providers none begins as the other.
    let prefix = format!("{POLICY}{provider}-ns[");
    MetadataMatcher {
        filter: "envoy.filters.http.rbac".to_owned(),
        path: vec![PathSegment {
            segment: Some(Segment::Key(key)),
        }],
        value: Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(StringMatcher {
                match_pattern: Some(MatchPattern::Prefix(prefix)),
                ..StringMatcher::default()
            })),
        }),
        ..MetadataMatcher::default()
    }
}

fn request(check: &HttpCheck) -> Option<AuthorizationRequest> {
    let added = &check.include_additional_headers;
    let headers = added.iter().map(|(name, value)| HeaderValue {
        key: name.clone(),
        value: value.clone(),
        ..HeaderValue::default()
    });
    (!added.is_empty()).then(|| AuthorizationRequest {
        headers_to_add: headers.collect(),
        ..AuthorizationRequest::default()
    })
}

/// None for none: an empty list would mean no header at all.
fn names(patterns: &[NamePattern]) -> Option<ListStringMatcher> {
    let patterns = patterns.iter().map(|pattern| StringMatcher {
        match_pattern: Some(match pattern {
            NamePattern::Exact(name) => MatchPattern::Exact(name.clone()),
            NamePattern::Prefix(start) if start.is_empty() => {
                // A prefix cannot be empty.
                MatchPattern::SafeRegex(RegexMatcher {
                    regex: ".+".to_owned(),
                })
            }
            NamePattern::Prefix(start) => MatchPattern::Prefix(start.clone()),
            NamePattern::Suffix(end) => MatchPattern::Suffix(end.clone()),
        }),
        // Names of headers are in lower case here.
        ..StringMatcher::default()
    });
    let patterns: Vec<StringMatcher> = patterns.collect();
    (!patterns.is_empty()).then_some(ListStringMatcher { patterns })
}
