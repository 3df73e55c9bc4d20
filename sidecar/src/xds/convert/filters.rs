//! The filters of an HTTP connection manager → [`HttpFilter`]s, and what routes say about them → [`Levels`].
//!
//! ```text
//! http_filters ───────────────────────────────► filters (by name, in order)
//! typed_per_filter_config of table, host, route ► one Override a name: the most specific word, all header mutations
//! ```

mod ext_authz;
mod jwt;
mod limit;
mod mutation;
mod rbac;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use outrigger_core::{
    Cors, Fault, Features, Filter, HeaderMutation, HttpFilter, LocalRateLimit, Override, Overrides,
    Rbac, Settings,
};
use outrigger_proto::envoy::{
    config::route::v3::FilterConfig,
    extensions::filters::{
        http::{
            ext_authz::v3 as ext_authz_proto, header_mutation::v3 as mutation_proto,
            jwt_authn::v3 as jwt_proto, local_ratelimit::v3 as limit_proto, rbac::v3 as rbac_proto,
        },
        network::http_connection_manager::v3::{self as hcm, http_filter},
    },
};
use prost_types::Any;

use super::{Converted, features, fields, refuse, route::Slots, unpack, unsupported};
pub(crate) use rbac::of_connections;

const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
/// What a route configuration with `vhds` does here anyway.
const ON_DEMAND: &str = "envoy.extensions.filters.http.on_demand.v3.OnDemand";
const EXT_AUTHZ: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
const EXT_AUTHZ_OF_ROUTE: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const RBAC_OF_ROUTE: &str = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
const JWT: &str = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const JWT_OF_ROUTE: &str = "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig";
const LIMIT: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const MUTATION: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const MUTATION_OF_ROUTE: &str =
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute";
const WRAPPED: &str = "envoy.config.route.v3.FilterConfig";

/// The router, last; before it what we do; any other must be optional or switched off.
pub(super) fn of_listener(
    from: &[hcm::HttpFilter],
    slots: &mut Slots<'_>,
) -> Converted<Vec<HttpFilter>> {
    let mut filters: Vec<HttpFilter> = Vec::new();
    let mut is_last_router = false;
    for (index, filter) in from.iter().enumerate() {
        let path = format!("http_filters[{index}]");
        let any = match &filter.config_type {
            Some(http_filter::ConfigType::TypedConfig(any)) => Some(any),
            Some(http_filter::ConfigType::ConfigDiscovery(_)) | None => None,
        };
        let type_name = any.map_or("", |any| fields::type_name(&any.type_url));
        is_last_router = type_name == fields::ROUTER && !filter.disabled;
        if is_last_router {
            if index + 1 != from.len() {
                return refuse(path, "the router must be the last filter");
            }
            continue;
        }
        let done = any.map(|any| of_any(any, type_name, slots)).transpose();
        match done
            .map_err(|error| error.under(format!("{path}.typed_config")))?
            .flatten()
        {
            Some(done) => {
                if filters.iter().any(|other| *other.name == *filter.name) {
                    let message = format!("{:?} is another filter's already", filter.name);
                    return refuse(format!("{path}.name"), message);
                }
                filters.push(HttpFilter {
                    name: filter.name.as_str().into(),
                    // What routes say switches these two on.
                    disabled: filter.disabled && !matches!(done, Filter::Cors | Filter::Fault),
                    filter: done,
                });
            }
            None if filter.is_optional
                || filter.disabled
                || type_name == ON_DEMAND
                || any.is_some_and(fields::is_only_among_istio) => {}
            None => {
                let message = format!(
                    "filter {:?} is not supported yet and not is_optional",
                    filter.name
                );
                return refuse(format!("{path}.typed_config"), message);
            }
        }
    }
    if !is_last_router {
        return refuse("http_filters", "the last filter must be the router");
    }
    leave_wanted_marks(&mut filters);
    Ok(filters)
}

/// Rules leave word of what they say only where a filter asks for it.
fn leave_wanted_marks(filters: &mut [HttpFilter]) {
    let wanted = filters.iter().filter_map(|filter| match &filter.filter {
        Filter::ExtAuthz(check) => Some(Arc::clone(&check.only.as_ref()?.key)),
        _ => None,
    });
    let wanted: Vec<Arc<str>> = wanted.collect();
    for filter in filters {
        // Nobody else has it so far.
        if let Filter::Rbac(rbac) = &mut filter.filter
            && let Some(rbac) = Arc::get_mut(rbac)
        {
            rbac.marks = rbac.marks.take().filter(|key| wanted.contains(key));
        }
    }
}

/// None = not a filter of ours.
fn of_any(any: &Any, type_name: &str, slots: &mut Slots<'_>) -> Converted<Option<Filter>> {
    Ok(Some(match type_name {
        // What they do is said by routes.
        CORS | FAULT if !any.value.is_empty() => {
            return refuse(
                "",
                "must be empty; routes say what to do, in typed_per_filter_config",
            );
        }
        CORS => Filter::Cors,
        FAULT => Filter::Fault,
        RBAC => {
            let found: rbac_proto::Rbac = unpack(any, RBAC)?;
            Filter::Rbac(Arc::new(rbac::of_requests(&found)?))
        }
        EXT_AUTHZ => {
            let found: ext_authz_proto::ExtAuthz = unpack(any, EXT_AUTHZ)?;
            Filter::ExtAuthz(Arc::new(ext_authz::convert(&found, slots)?))
        }
        JWT => {
            let found: jwt_proto::JwtAuthentication = unpack(any, JWT)?;
            Filter::JwtAuthn(Arc::new(jwt::convert(&found)?))
        }
        LIMIT => {
            let found: limit_proto::LocalRateLimit = unpack(any, LIMIT)?;
            Filter::LocalRateLimit(limit::convert(&found)?.map(Arc::new))
        }
        MUTATION => {
            let found: mutation_proto::HeaderMutation = unpack(any, MUTATION)?;
            Filter::HeaderMutation {
                own: Arc::new(mutation::convert(found.mutations.as_ref())?),
                most_specific_wins: found.most_specific_header_mutations_wins,
            }
        }
        _ => return Ok(None),
    }))
}

/// What one level says about one filter.
#[derive(Clone, Debug)]
struct Said {
    on: bool,
    settings: Option<Read>,
}

/// Settings of one level.
#[derive(Clone, Debug)]
enum Read {
    Cors(Option<Cors>),
    Fault(Option<Fault>),
    Rbac(Arc<Rbac>),
    /// None = not at all.
    Jwt(Option<Arc<str>>),
    LocalRateLimit(Arc<LocalRateLimit>),
    HeaderMutation(Arc<HeaderMutation>),
}

/// What the levels around a route say about filters, by name: the least specific first.
#[derive(Clone, Debug, Default)]
pub(super) struct Levels(Vec<BTreeMap<Arc<str>, Said>>);

impl Levels {
    /// With one more level inside: a table's, a virtual host's, a route's `typed_per_filter_config`.
    pub(super) fn and(&self, from: &BTreeMap<String, Any>) -> Converted<Self> {
        let mut level = BTreeMap::new();
        for (name, any) in from {
            let said = said(name, any)
                .map_err(|error| error.under(format!("typed_per_filter_config[{name:?}]")))?;
            if let Some(said) = said {
                level.insert(name.as_str().into(), said);
            }
        }
        let mut levels = self.0.clone();
        if !level.is_empty() {
            levels.push(level);
        }
        Ok(Self(levels))
    }

    /// All of it, for one route.
    pub(super) fn apply(&self, features: &mut Features) -> Converted<()> {
        let mut overrides = BTreeMap::<Arc<str>, Override>::new();
        let mut cors = None;
        // The most specific last, so that its word is the one that stays.
        for (name, said) in self.0.iter().flatten() {
            match &said.settings {
                Some(Read::Cors(_)) if cors.is_some() => {
                    // Envoy would put them together, field by field.
                    return refuse(
                        format!("typed_per_filter_config[{name:?}]"),
                        "is set for the route and around it; write one CORS policy",
                    );
                }
                Some(Read::Cors(policy)) => cors = Some(policy.clone()),
                Some(Read::Fault(fault)) => features.fault.clone_from(fault),
                _ if **name == *features::CORS_FILTER && !said.on => cors = Some(None),
                _ if **name == *features::FAULT_FILTER && !said.on => features.fault = None,
                settings => {
                    let merged = overrides.entry(Arc::clone(name)).or_default();
                    merged.on = said.on;
                    merged.settings = merge(merged.settings.take(), settings.as_ref());
                }
            }
        }
        features.cors = cors.flatten();
        features.overrides = Overrides::new(overrides.into_iter().collect());
        Ok(())
    }
}

fn merge(outer: Option<Settings>, inner: Option<&Read>) -> Option<Settings> {
    match inner {
        None | Some(Read::Cors(_) | Read::Fault(_)) => outer,
        Some(Read::Rbac(rbac)) => Some(Settings::Rbac(Arc::clone(rbac))),
        Some(Read::Jwt(name)) => name.clone().map(Settings::JwtRequirement),
        Some(Read::LocalRateLimit(limit)) => Some(Settings::LocalRateLimit(Arc::clone(limit))),
        Some(Read::HeaderMutation(mutation)) => {
            let mut all = match outer {
                Some(Settings::HeaderMutation(all)) => all,
                _ => Vec::new(),
            };
            all.push(Arc::clone(mutation));
            Some(Settings::HeaderMutation(all))
        }
    }
}

/// None = a filter that nobody here knows, and that may be unknown.
fn said(name: &str, any: &Any) -> Converted<Option<Said>> {
    if fields::type_name(&any.type_url) == EXT_AUTHZ_OF_ROUTE {
        let found: ext_authz_proto::ExtAuthzPerRoute = unpack(any, EXT_AUTHZ_OF_ROUTE)?;
        return match found.r#override {
            Some(ext_authz_proto::ext_authz_per_route::Override::Disabled(true)) => {
                Ok(Some(Said {
                    on: false,
                    settings: None,
                }))
            }
            _ => refuse(
                "disabled",
                "must be true; other settings of a route are not supported yet",
            ),
        };
    }
    if fields::type_name(&any.type_url) != WRAPPED {
        return settings(name, any).map(|settings| {
            Some(Said {
                on: !matches!(settings, Read::Jwt(None)),
                settings: Some(settings),
            })
        });
    }
    let wrapped: FilterConfig = unpack(any, WRAPPED)?;
    if wrapped.disabled {
        return Ok(Some(Said {
            on: false,
            settings: None,
        }));
    }
    let settings = match &wrapped.config {
        None => None,
        Some(inner) if wrapped.is_optional && !fields::is_known(inner) => return Ok(None),
        Some(inner) => Some(settings(name, inner).map_err(|error| error.under("config"))?),
    };
    Ok(Some(Said {
        on: !matches!(settings, Some(Read::Jwt(None))),
        settings,
    }))
}

fn settings(name: &str, any: &Any) -> Converted<Read> {
    Ok(match fields::type_name(&any.type_url) {
        features::CORS_POLICY if name == features::CORS_FILTER => {
            Read::Cors(features::cors(&unpack(any, features::CORS_POLICY)?)?)
        }
        FAULT if name == features::FAULT_FILTER => {
            Read::Fault(features::fault(&unpack(any, FAULT)?)?)
        }
        RBAC_OF_ROUTE => {
            let found: rbac_proto::RbacPerRoute = unpack(any, RBAC_OF_ROUTE)?;
            // Nothing in it: no rules for this route (Envoy).
            let rbac = match &found.rbac {
                Some(rbac) => rbac::of_requests(rbac).map_err(|error| error.under("rbac"))?,
                None => Rbac::default(),
            };
            Read::Rbac(Arc::new(rbac))
        }
        JWT_OF_ROUTE => {
            let found: jwt_proto::PerRouteConfig = unpack(any, JWT_OF_ROUTE)?;
            Read::Jwt(jwt::of_route(&found)?)
        }
        LIMIT => {
            let found: limit_proto::LocalRateLimit = unpack(any, LIMIT)?;
            match limit::convert(&found)? {
                Some(limit) => Read::LocalRateLimit(Arc::new(limit)),
                None => return refuse("token_bucket", "missing"),
            }
        }
        MUTATION_OF_ROUTE => {
            let found: mutation_proto::HeaderMutationPerRoute = unpack(any, MUTATION_OF_ROUTE)?;
            Read::HeaderMutation(Arc::new(mutation::convert(found.mutations.as_ref())?))
        }
        _ => return unsupported(""),
    })
}
