//! `RouteConfiguration` → [`RouteTable`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use outrigger_core::{
    Action, ClusterChoice, ClusterSlot, Features, HashPolicy, HeaderEdits, PathMatch, RedirectPath,
    Rewrite, Route, RouteTable, Substitution, Upgrades, Uses, VirtualHost, WeightedCluster,
    upgrade::NamedTwice,
};
use outrigger_proto::envoy::{
    config::{
        core::v3::{ConfigSource, DataSource, Metadata, data_source},
        route::v3::{
            self as proto,
            redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
            route::Action as ProtoAction,
            route_action::{
                ClusterSpecifier, HostRewriteSpecifier,
                hash_policy::{self, PolicySpecifier},
            },
        },
    },
    r#type::matcher::v3::RegexMatchAndSubstitute,
};

use prost_types::value;

use super::{
    Converted, FieldError, duration, features, filters::Levels, manager, matches, must_be_ads,
    ours, refuse, retry, unsupported,
};

/// What xDS says of a route without `timeout`; `0s` switches it off.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// Body of one direct response.
const MAX_DIRECT_RESPONSE: usize = 4096; // Envoy's default

/// Gives a cluster name its slot.
pub(crate) type Slots<'a> = dyn FnMut(&str) -> ClusterSlot + 'a;

pub(crate) fn convert(
    from: &proto::RouteConfiguration,
    slots: &mut Slots<'_>,
) -> Converted<RouteTable> {
    let around = Levels::default().and(&from.typed_per_filter_config)?;
    let mut domains = BTreeSet::new();
    let mut hosts = Vec::with_capacity(from.virtual_hosts.len());
    for (index, host) in from.virtual_hosts.iter().enumerate() {
        let host = virtual_host(host, &around, &mut domains, slots)
            .map_err(|error| error.under(format!("virtual_hosts[{index}]({:?})", host.name)))?;
        hosts.push(host);
    }
    let Some(vhds) = &from.vhds else {
        return Ok(RouteTable::new(from.name.clone(), hosts));
    };
    if !from.typed_per_filter_config.is_empty() {
        let message = "not supported yet beside vhds; say it in each virtual host";
        return refuse("typed_per_filter_config", message);
    }
    // Nothing is waited for before the first request, however long that may be.
    let source = vhds.config_source.clone().map(|source| ConfigSource {
        initial_fetch_timeout: None,
        ..source
    });
    must_be_ads("vhds.config_source", source.as_ref())?;
    Ok(RouteTable::growing(from.name.clone(), hosts))
}

/// A virtual host that came by itself.
pub(crate) fn convert_alone(
    from: &proto::VirtualHost,
    slots: &mut Slots<'_>,
) -> Converted<VirtualHost> {
    Ok(VirtualHost {
        ports: ports(from.metadata.as_ref()),
        uses: Some(Uses::default()),
        ..virtual_host(from, &Levels::default(), &mut BTreeSet::new(), slots)?
    })
}

/// `ports` of our metadata: those of the service, wherever its virtual host stands.
fn ports(metadata: Option<&Metadata>) -> Arc<[u16]> {
    let ours = metadata.and_then(|metadata| metadata.filter_metadata.get("outrigger"));
    let listed = match ours.and_then(|ours| ours.fields.get("ports")?.kind.as_ref()) {
        Some(value::Kind::StringValue(listed)) => listed.as_str(),
        _ => "",
    };
    listed
        .split(',')
        .filter_map(|port| port.parse().ok())
        .collect()
}

fn virtual_host(
    from: &proto::VirtualHost,
    around: &Levels,
    seen: &mut BTreeSet<String>,
    slots: &mut Slots<'_>,
) -> Converted<VirtualHost> {
    if from.domains.is_empty() {
        return refuse("domains", "is empty; at least one is needed");
    }
    for (index, domain) in from.domains.iter().enumerate() {
        let path = format!("domains[{index}]");
        let inner = domain
            .strip_prefix('*')
            .or_else(|| domain.strip_suffix('*'))
            .unwrap_or(domain);
        if domain.is_empty() || inner.contains('*') {
            return refuse(
                path,
                format!("{domain:?} is not a domain; `*` may stand first or last"),
            );
        }
        if !seen.insert(domain.to_ascii_lowercase()) {
            return refuse(
                path,
                format!("{domain:?} is in two places; each domain may be there once"),
            );
        }
    }
    let around = around.and(&from.typed_per_filter_config)?;
    let mut routes = Vec::with_capacity(from.routes.len());
    for (index, route) in from.routes.iter().enumerate() {
        let route = convert_route(route, &around, slots)
            .map_err(|e| e.under(format!("routes[{index}]")))?;
        routes.push(Route {
            tells_attempts: from.include_request_attempt_count,
            answers_attempts: from.include_attempt_count_in_response,
            ..route
        });
    }
    Ok(VirtualHost::new(&from.name, from.domains.clone(), routes))
}

fn convert_route(from: &proto::Route, around: &Levels, slots: &mut Slots<'_>) -> Converted<Route> {
    let nothing = Action::DirectResponse {
        status: 500,
        body: Arc::default(),
    };
    let mut route = Route {
        name: from.name.clone(),
        position: ours(from.metadata.as_ref()).position,
        request_headers: matches::header_edits(
            "request",
            &from.request_headers_to_add,
            &from.request_headers_to_remove,
        )?,
        response_headers: matches::header_edits(
            "response",
            &from.response_headers_to_add,
            &from.response_headers_to_remove,
        )?,
        ..Route::new(matches::route_match(from.r#match.as_ref())?, nothing)
    };
    let mut features = features::convert(from, around)?;
    let implied = features::flag(features::metadata(from.metadata.as_ref()), "retry_implied");
    match &from.action {
        Some(ProtoAction::Route(action)) => {
            forward(action, &mut route, &mut features, slots)
                .and_then(|()| {
                    if let Some(policy) = &action.retry_policy {
                        route.retry = retry::convert(policy, implied)
                            .map_err(|error| error.under("retry_policy"))?;
                    }
                    Ok(())
                })
                .map_err(|error| error.under("route"))?;
        }
        Some(ProtoAction::Redirect(action)) => {
            route.action = redirect(action).map_err(|error| error.under("redirect"))?;
        }
        Some(ProtoAction::DirectResponse(action)) => {
            route.action =
                direct_response(action).map_err(|error| error.under("direct_response"))?;
        }
        Some(ProtoAction::FilterAction(_)) => return unsupported("filter_action"),
        Some(ProtoAction::NonForwardingAction(_)) => return unsupported("non_forwarding_action"),
        None => {
            return refuse(
                "route",
                "missing; one of route, redirect, direct_response must be set",
            );
        }
    }
    route.features = (!features.is_empty()).then(|| Arc::new(features));
    Ok(route)
}

fn forward(
    from: &proto::RouteAction,
    route: &mut Route,
    features: &mut Features,
    slots: &mut Slots<'_>,
) -> Converted<()> {
    route.action = Action::Forward(match &from.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => single(name, slots)?,
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_clusters(weighted, slots).map_err(|e| e.under("weighted_clusters"))?
        }
        Some(ClusterSpecifier::ClusterHeader(_)) => return unsupported("cluster_header"),
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_)) => {
            return unsupported("cluster_specifier_plugin");
        }
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            return unsupported("inline_cluster_specifier_plugin");
        }
        None => {
            return refuse(
                "cluster",
                "missing; one of cluster, weighted_clusters must be set",
            );
        }
    });
    route.timeout = match &from.timeout {
        None => Some(DEFAULT_TIMEOUT),
        Some(timeout) => Some(duration("timeout", timeout)?).filter(|timeout| !timeout.is_zero()),
    };
    features.upgrades = upgrades(&from.upgrade_configs)?;
    if matches!(route.matches.path, PathMatch::Connect)
        && features.upgrades.says("CONNECT") != Some(true)
    {
        let rule = "has no entry of type CONNECT with connect_config, which a route with connect_matcher needs";
        return refuse("upgrade_configs", rule);
    }
    features.mirrors = features::mirrors(&from.request_mirror_policies, slots)?;
    route.rewrite = match (&from.regex_rewrite, from.prefix_rewrite.as_str()) {
        (None, "") => None,
        (None, prefix) => Some(Rewrite::Prefix(prefix.to_owned())),
        (Some(rewrite), "") => Some(regex_rewrite(rewrite)?),
        (Some(_), _) => return refuse("regex_rewrite", "prefix_rewrite is set too; write one"),
    };
    if let Some(HostRewriteSpecifier::HostRewriteLiteral(host)) = &from.host_rewrite_specifier {
        let host = HeaderValue::from_str(host)
            .map_err(|error| FieldError::new("host_rewrite_literal", error.to_string()))?;
        route.host_rewrite = Some(host);
    }
    for (index, policy) in from.hash_policy.iter().enumerate() {
        let converted =
            hash_policy(policy).map_err(|error| error.under(format!("hash_policy[{index}]")))?;
        route.hash_policies.push(converted);
        if policy.terminal {
            route.hash_policies.push(HashPolicy::Terminal);
        }
    }
    Ok(())
}

fn upgrades(from: &[proto::route_action::UpgradeConfig]) -> Converted<Upgrades> {
    let mut all = Vec::with_capacity(from.len());
    for (index, upgrade) in from.iter().enumerate() {
        let under = |error: FieldError| error.under(format!("upgrade_configs[{index}]"));
        let name = manager::protocol_name(&upgrade.upgrade_type).map_err(under)?;
        let is_connect = name.eq_ignore_ascii_case("CONNECT");
        let connects = upgrade.connect_config.is_some();
        if connects != is_connect && upgrade.enabled != Some(false) {
            let rule = if is_connect {
                "missing; a CONNECT that is passed on as a request is not supported yet"
            } else {
                "is for upgrade_type CONNECT only"
            };
            return refuse("connect_config", rule).map_err(under);
        }
        all.push((name, upgrade.enabled.unwrap_or(true)));
    }
    Upgrades::new(all).map_err(|NamedTwice(name)| {
        FieldError::new(
            "upgrade_configs",
            format!("{name:?} is there twice; write one"),
        )
    })
}

fn regex_rewrite(from: &RegexMatchAndSubstitute) -> Converted<Rewrite> {
    let text = from.pattern.as_ref().map_or("", |pattern| &pattern.regex);
    let pattern = matches::search("regex_rewrite.pattern.regex", text)?;
    let substitution = Substitution::parse(&from.substitution, &pattern)
        .map_err(|error| FieldError::new("regex_rewrite.substitution", error))?;
    Ok(Rewrite::Regex(pattern, substitution))
}

fn single(name: &str, slots: &mut Slots<'_>) -> Converted<ClusterChoice> {
    if name.is_empty() {
        return refuse("cluster", "is empty");
    }
    let only = WeightedCluster {
        cluster: slots(name),
        name: name.into(),
        weight: 1,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    };
    Ok(ClusterChoice::new(vec![only]).expect("one cluster of weight 1"))
}

fn weighted_clusters(
    from: &proto::WeightedCluster,
    slots: &mut Slots<'_>,
) -> Converted<ClusterChoice> {
    let mut clusters = Vec::with_capacity(from.clusters.len());
    let mut total_weight = 0u64;
    for (index, cluster) in from.clusters.iter().enumerate() {
        let convert = || -> Converted<WeightedCluster> {
            if cluster.name.is_empty() {
                return refuse("name", "missing");
            }
            Ok(WeightedCluster {
                cluster: slots(&cluster.name),
                name: cluster.name.as_str().into(),
                weight: cluster.weight.unwrap_or(0),
                request_headers: matches::header_edits(
                    "request",
                    &cluster.request_headers_to_add,
                    &cluster.request_headers_to_remove,
                )?,
                response_headers: matches::header_edits(
                    "response",
                    &cluster.response_headers_to_add,
                    &cluster.response_headers_to_remove,
                )?,
            })
        };
        let cluster = { convert }().map_err(|e| e.under(format!("clusters[{index}]")))?;
        total_weight += u64::from(cluster.weight);
        clusters.push(cluster);
    }
    match ClusterChoice::new(clusters) {
        Some(choice) if choice.total_weight <= u64::from(u32::MAX) => Ok(choice),
        _ => refuse(
            "clusters",
            format!("weights sum to {total_weight}; must be 1 to 4294967295"),
        ),
    }
}

fn hash_policy(from: &proto::route_action::HashPolicy) -> Converted<HashPolicy> {
    Ok(match &from.policy_specifier {
        Some(PolicySpecifier::Header(header)) => {
            let name = HeaderName::from_bytes(header.header_name.as_bytes()).map_err(|_error| {
                FieldError::new(
                    "header.header_name",
                    format!("{:?} is not a header name", header.header_name),
                )
            })?;
            HashPolicy::Header(name)
        }
        Some(PolicySpecifier::Cookie(cookie)) => cookie_policy(cookie)?,
        Some(PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties {
            source_ip: true,
        })) => HashPolicy::SourceIp,
        Some(PolicySpecifier::ConnectionProperties(_)) => {
            return refuse("connection_properties.source_ip", "must be true");
        }
        Some(PolicySpecifier::QueryParameter(parameter)) if !parameter.name.is_empty() => {
            HashPolicy::QueryParameter(parameter.name.clone())
        }
        Some(PolicySpecifier::QueryParameter(_)) => {
            return refuse("query_parameter.name", "missing");
        }
        Some(PolicySpecifier::FilterState(_)) => return unsupported("filter_state"),
        None => {
            return refuse(
                "header",
                "missing; one of header, cookie, connection_properties, query_parameter must be set",
            );
        }
    })
}

fn cookie_policy(from: &hash_policy::Cookie) -> Converted<HashPolicy> {
    if from.name.is_empty() {
        return refuse("cookie.name", "missing");
    }
    let ttl = from
        .ttl
        .as_ref()
        .map(|ttl| duration("cookie.ttl", ttl))
        .transpose()?;
    Ok(HashPolicy::Cookie {
        name: from.name.clone(),
        path: from.path.clone(),
        ttl,
        attributes: cookie_attributes(&from.attributes)?,
    })
}

/// As they stand in `Set-Cookie`.
fn cookie_attributes(from: &[hash_policy::CookieAttribute]) -> Converted<String> {
    let is_clean = |text: &str| {
        let mut bytes = text.bytes();
        bytes.all(|byte| matches!(byte, b' '..=b'~') && byte != b';')
    };
    let mut all = String::new();
    for (index, attribute) in from.iter().enumerate() {
        let (name, value) = (attribute.name.as_str(), attribute.value.as_str());
        if name.is_empty() || name.contains('=') || !is_clean(name) {
            let path = format!("cookie.attributes[{index}].name");
            return refuse(path, format!("{name:?} is not an attribute's name"));
        }
        if !is_clean(value) {
            let path = format!("cookie.attributes[{index}].value");
            return refuse(path, format!("{value:?} cannot be in a cookie"));
        }
        all.extend(["; ", name]);
        if !value.is_empty() {
            all.extend(["=", value]);
        }
    }
    Ok(all)
}

fn redirect(from: &proto::RedirectAction) -> Converted<Action> {
    let path = match &from.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) if !path.is_empty() => {
            RedirectPath::Whole(path.clone())
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            RedirectPath::Rewritten(Rewrite::Prefix(prefix.clone()))
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            RedirectPath::Rewritten(regex_rewrite(rewrite)?)
        }
        Some(PathRewriteSpecifier::PathRedirect(_)) | None => RedirectPath::Same,
    };
    let scheme = match &from.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
    };
    let port = match from.port_redirect {
        0 => None,
        port => Some(u16::try_from(port).map_err(|_error| {
            FieldError::new(
                "port_redirect",
                format!("{port} is not a port; at most 65535"),
            )
        })?),
    };
    let status = match RedirectResponseCode::try_from(from.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_unknown) => {
            return refuse(
                "response_code",
                format!("{} is unknown", from.response_code),
            );
        }
    };
    Ok(Action::Redirect {
        scheme,
        host: Some(from.host_redirect.clone()).filter(|host| !host.is_empty()),
        port,
        path,
        strip_query: from.strip_query,
        status,
    })
}

fn direct_response(from: &proto::DirectResponseAction) -> Converted<Action> {
    let status = u16::try_from(from.status)
        .ok()
        .filter(|status| (200..600).contains(status));
    let Some(status) = status else {
        return refuse("status", format!("{}; must be 200 to 599", from.status));
    };
    let body = inline("body", from.body.as_ref())?.unwrap_or_default();
    if body.len() > MAX_DIRECT_RESPONSE {
        return refuse(
            "body",
            format!("{} bytes; at most {MAX_DIRECT_RESPONSE}", body.len()),
        );
    }
    Ok(Action::DirectResponse {
        status,
        body: body.into(),
    })
}

/// The bytes of an inline source. Files and environment variables of ours are never named by a server.
pub(crate) fn inline(path: &str, from: Option<&DataSource>) -> Converted<Option<Vec<u8>>> {
    match from.and_then(|source| source.specifier.as_ref()) {
        None => Ok(None),
        Some(data_source::Specifier::InlineBytes(bytes)) => Ok(Some(bytes.clone())),
        Some(data_source::Specifier::InlineString(text)) => Ok(Some(text.clone().into_bytes())),
        Some(data_source::Specifier::Filename(_)) => refuse(
            format!("{path}.filename"),
            "files of this machine may not be named; use inline_bytes",
        ),
        Some(data_source::Specifier::EnvironmentVariable(_)) => refuse(
            format!("{path}.environment_variable"),
            "variables of this process may not be named; use inline_bytes",
        ),
    }
}
