//! An authorization server for requests → [`ExtAuthz`]. What is not done is refused: a question that is not asked would
//! let somebody in.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use outrigger_core::{CheckBody, CheckService, Edit, ExtAuthz, HttpCheck, Marking, StringMatch};
use outrigger_proto::envoy::{
    config::core::v3::{
        ApiVersion, GrpcService, HeaderValue as Pair, HeaderValueOption, grpc_service,
        http_uri::HttpUpstreamType,
    },
    extensions::filters::http::ext_authz::v3::{self as proto, ext_authz::Services},
    r#type::matcher::v3::{
        ListStringMatcher, MetadataMatcher, metadata_matcher::path_segment::Segment,
        value_matcher::MatchPattern,
    },
};

use super::super::{Converted, FieldError, matches, positive, refuse, route::Slots, unsupported};

/// Envoy's.
const TIMEOUT: Duration = Duration::from_millis(200);
const FORBIDDEN: u16 = 403;
/// Bytes of a body, of as many requests as may wait.
const MOST_BODY: u32 = 1 << 20;
/// Whose metadata selects requests.
const RBAC: &str = "envoy.filters.http.rbac";

pub(super) fn convert(from: &proto::ExtAuthz, slots: &mut Slots<'_>) -> Converted<ExtAuthz> {
    match ApiVersion::try_from(from.transport_api_version) {
        Ok(ApiVersion::V3 | ApiVersion::Auto) => {}
        Ok(ApiVersion::V2) | Err(_) => return refuse("transport_api_version", "must be V3"),
    }
    let mut deprecated = None;
    let (name, timeout, service) = match &from.services {
        Some(Services::GrpcService(service)) => {
            grpc(service).map_err(|error| error.under("grpc_service"))?
        }
        Some(Services::HttpService(service)) => {
            let request = service.authorization_request.as_ref();
            deprecated = request.and_then(|request| request.allowed_headers.as_ref());
            http(service).map_err(|error| error.under("http_service"))?
        }
        None => return refuse("grpc_service", "missing; or http_service must be set"),
    };
    let status = match from.status_on_error.as_ref().map_or(0, |found| found.code) {
        0 => FORBIDDEN,
        code => match u16::try_from(code) {
            Ok(code @ 400..=599) => code,
            _ => {
                return refuse(
                    "status_on_error.code",
                    format!("{code}; must be 400 to 599"),
                );
            }
        },
    };
    let only = from.filter_enabled_metadata.as_ref().map(marking);
    let told = from.allowed_headers.as_ref().or(deprecated);
    Ok(ExtAuthz {
        cluster: slots(&name),
        cluster_name: name.into(),
        service,
        timeout,
        fails_open: from.failure_mode_allow,
        tells_failure: from.failure_mode_allow_header_add,
        status_on_error: status,
        body: from.with_request_body.map(body).transpose()?,
        clears_route: from.clear_route_cache,
        only: only
            .transpose()
            .map_err(|error| error.under("filter_enabled_metadata"))?,
        told: told.map(|all| names("allowed_headers", all)).transpose()?,
        untold: list("disallowed_headers", from.disallowed_headers.as_ref())?,
        tells_server_name: from.include_tls_session,
    })
}

type Service = (String, Duration, CheckService);

fn grpc(from: &GrpcService) -> Converted<Service> {
    let target = match &from.target_specifier {
        Some(grpc_service::TargetSpecifier::EnvoyGrpc(target)) => target,
        Some(grpc_service::TargetSpecifier::GoogleGrpc(_)) => return unsupported("google_grpc"),
        None => return refuse("envoy_grpc", "missing"),
    };
    if target.cluster_name.is_empty() {
        return refuse("envoy_grpc.cluster_name", "missing");
    }
    let authority = match target.authority.as_str() {
        "" => None,
        text => Some(HeaderValue::from_str(text).map_err(|error| {
            FieldError::new("envoy_grpc.authority", format!("{text:?}: {error}"))
        })?),
    };
    let timeout = positive("timeout", from.timeout.as_ref(), TIMEOUT)?;
    let headers = pairs("initial_metadata", &from.initial_metadata)?;
    let service = CheckService::Grpc { authority, headers };
    Ok((target.cluster_name.clone(), timeout, service))
}

fn http(from: &proto::HttpService) -> Converted<Service> {
    let Some(server) = &from.server_uri else {
        return refuse("server_uri", "missing");
    };
    let cluster = match &server.http_upstream_type {
        Some(HttpUpstreamType::Cluster(cluster)) if !cluster.is_empty() => cluster.clone(),
        Some(HttpUpstreamType::Cluster(_)) | None => {
            return refuse("server_uri.cluster", "missing");
        }
    };
    let timeout = positive("server_uri.timeout", server.timeout.as_ref(), TIMEOUT)?;
    if !from.path_prefix.is_empty() && !from.path_prefix.starts_with('/') {
        let message = format!("{:?}; must begin with /", from.path_prefix);
        return refuse("path_prefix", message);
    }
    let request = from.authorization_request.as_ref();
    let added = request.map_or(&[][..], |request| &request.headers_to_add);
    let response = from.authorization_response.clone().unwrap_or_default();
    let of = |field: &str, all: &Option<ListStringMatcher>| {
        list(field, all.as_ref()).map_err(|error| error.under("authorization_response"))
    };
    let client = response.allowed_client_headers.as_ref();
    let check = HttpCheck {
        path_prefix: from.path_prefix.clone(),
        headers: pairs("authorization_request.headers_to_add", added)?,
        upstream: of(
            "allowed_upstream_headers",
            &response.allowed_upstream_headers,
        )?,
        upstream_added: of(
            "allowed_upstream_headers_to_append",
            &response.allowed_upstream_headers_to_append,
        )?,
        client: client
            .map(|all| names("authorization_response.allowed_client_headers", all))
            .transpose()?,
        client_on_success: of(
            "allowed_client_headers_on_success",
            &response.allowed_client_headers_on_success,
        )?,
    };
    Ok((cluster, timeout, CheckService::Http(Box::new(check))))
}

/// Headers with values that are always the same.
fn pairs(field: &str, from: &[Pair]) -> Converted<Vec<(http::HeaderName, HeaderValue)>> {
    let each = from.iter().enumerate().map(|(index, pair)| {
        let path = format!("{field}[{index}]");
        let option = HeaderValueOption {
            header: Some(pair.clone()),
            keep_empty_value: true,
            ..HeaderValueOption::default()
        };
        let (name, value) = matches::header_value(&option).map_err(|error| error.under(&path))?;
        match value {
            Edit::Plain(value) => Ok((name, value)),
            Edit::Format(_) => refuse(
                path,
                "a value that is made of the request is not supported yet",
            ),
        }
    });
    each.collect()
}

fn list(field: &str, from: Option<&ListStringMatcher>) -> Converted<Vec<StringMatch>> {
    from.map_or(Ok(Vec::new()), |all| names(field, all))
}

/// Of headers, whose names have no case.
fn names(field: &str, from: &ListStringMatcher) -> Converted<Vec<StringMatch>> {
    let each = from.patterns.iter().enumerate();
    each.map(|(index, pattern)| {
        let found = matches::string_match(pattern).map(StringMatch::whole);
        found.map_err(|error| error.under(format!("{field}.patterns[{index}]")))
    })
    .collect()
}

fn body(from: proto::BufferSettings) -> Converted<CheckBody> {
    let found = from.max_request_bytes;
    if found == 0 || found > MOST_BODY {
        let message = format!("{found}; must be 1 to {MOST_BODY}");
        return refuse("with_request_body.max_request_bytes", message);
    }
    Ok(CheckBody {
        most: usize::try_from(found).unwrap_or(usize::MAX),
        partial: from.allow_partial_message,
        raw: from.pack_as_bytes,
    })
}

fn marking(from: &MetadataMatcher) -> Converted<Marking> {
    if from.filter != RBAC {
        let message = format!("{:?}; only {RBAC:?} is supported yet", from.filter);
        return refuse("filter", message);
    }
    if from.invert {
        return unsupported("invert");
    }
    let [only] = from.path.as_slice() else {
        return refuse(
            "path",
            format!("has {} segments; must have one", from.path.len()),
        );
    };
    let Some(Segment::Key(key)) = &only.segment else {
        return refuse("path[0].key", "missing");
    };
    let pattern = from
        .value
        .as_ref()
        .and_then(|value| value.match_pattern.as_ref());
    let Some(MatchPattern::StringMatch(text)) = pattern else {
        return refuse(
            "value.string_match",
            "missing; nothing else is supported yet",
        );
    };
    let value = matches::string_match(text).map_err(|error| error.under("value.string_match"))?;
    Ok(Marking {
        key: Arc::from(key.as_str()),
        value: value.whole(),
    })
}
