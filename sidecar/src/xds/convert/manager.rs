//! What an HTTP connection manager says beside its routes → [`HttpSettings`]. A field that we do not do is taken only
//! with the value that we keep anyhow; `docs/XDS.md` has the table.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use outrigger_core::{
    ConnectionSettings, EscapedSlashes, Filter, HeadSettings, HttpSettings, Put, StripPort,
    Upgrades, upgrade::NamedTwice,
};
use outrigger_proto::envoy::{
    config::core::v3::HttpProtocolOptions,
    extensions::filters::network::http_connection_manager::v3::{
        HttpConnectionManager,
        http_connection_manager::{
            PathWithEscapedSlashesAction, ServerHeaderTransformation, StripPortMode, UpgradeConfig,
        },
    },
};

use super::{Converted, FieldError, duration, filters, refuse, route::Slots};
use crate::{http::MAX_HEADER_BYTES, worker::connection::HEAD_TIMEOUT};

/// Envoy's own most.
const MOST_HEAD_KB: u32 = 8192;

/// None = what most listeners say: CORS, faults, nothing else.
pub(crate) fn settings(
    from: &HttpConnectionManager,
    slots: &mut Slots<'_>,
) -> Converted<Option<Arc<HttpSettings>>> {
    keeps_ours(from)?;
    let own_address = from.use_remote_address.unwrap_or(false);
    let found = HttpSettings {
        filters: filters::of_listener(&from.http_filters, slots)?,
        head: head(from)?,
        // The first of them is the connection's other end, which is in the list only if we have put it there.
        trusted_hops: from
            .xff_num_trusted_hops
            .saturating_sub(u32::from(own_address && from.skip_xff_append)),
        own_address: own_address && from.xff_num_trusted_hops == 0,
        server: server(from)?,
        connection: ConnectionSettings {
            head_timeout: head_timeout(from)?,
            max_head: max_head(from.max_request_headers_kb)?,
            max_streams: max_streams(from)?,
            ..connection(from.common_http_protocol_options.as_ref())
                .map_err(|error| error.under("common_http_protocol_options"))?
        },
        upgrades: upgrades(&from.upgrade_configs)?,
    };
    let is_usual = matches!(
        found.filters.as_slice(),
        [first, second] if matches!((&first.filter, &second.filter), (Filter::Cors, Filter::Fault))
    ) && found.head == HeadSettings::default()
        && found.server.is_none()
        && found.upgrades.is_usual()
        && found.connection == ConnectionSettings::default();
    Ok((!is_usual).then(|| Arc::new(found)))
}

/// Fields that have one value here.
fn keeps_ours(from: &HttpConnectionManager) -> Converted<()> {
    let zero = |path: &str, value: Option<&prost_types::Duration>| match value
        .map(|value| duration(path, value))
        .transpose()?
    {
        None | Some(Duration::ZERO) => Ok(()),
        Some(value) => refuse(
            path,
            format!("{value:?} is not supported yet; must be 0s or unset"),
        ),
    };
    zero("stream_idle_timeout", from.stream_idle_timeout.as_ref())?;
    zero("request_timeout", from.request_timeout.as_ref())?;
    if from.normalize_path == Some(false) {
        return refuse(
            "normalize_path",
            "false is not supported; dot segments of a path are always resolved here",
        );
    }
    if from.skip_xff_append && from.use_remote_address != Some(true) {
        return refuse(
            "skip_xff_append",
            "has no effect without use_remote_address",
        );
    }
    Ok(())
}

fn upgrades(from: &[UpgradeConfig]) -> Converted<Upgrades> {
    let mut all = Vec::with_capacity(from.len());
    for (index, upgrade) in from.iter().enumerate() {
        let name = protocol_name(&upgrade.upgrade_type);
        let name = name.map_err(|error| error.under(format!("upgrade_configs[{index}]")))?;
        all.push((name, upgrade.enabled.unwrap_or(true)));
    }
    Upgrades::new(all).map_err(|NamedTwice(name)| {
        FieldError::new(
            "upgrade_configs",
            format!("{name:?} is there twice; write one"),
        )
    })
}

/// A name that requests may write, but for those that are not done.
pub(super) fn protocol_name(name: &str) -> Converted<String> {
    let path = "upgrade_type";
    if HeaderName::from_bytes(name.replace('/', "-").as_bytes()).is_err() {
        return refuse(path, format!("{name:?} is not the name of a protocol"));
    }
    if ["connect-udp", "h2c"]
        .iter()
        .any(|one| name.eq_ignore_ascii_case(one))
    {
        return refuse(path, format!("{name:?} is not supported yet"));
    }
    Ok(name.to_owned())
}

fn head(from: &HttpConnectionManager) -> Converted<HeadSettings> {
    let escaped_slashes =
        match PathWithEscapedSlashesAction::try_from(from.path_with_escaped_slashes_action) {
            Ok(
                PathWithEscapedSlashesAction::ImplementationSpecificDefault
                | PathWithEscapedSlashesAction::KeepUnchanged,
            ) => EscapedSlashes::Keep,
            Ok(PathWithEscapedSlashesAction::RejectRequest) => EscapedSlashes::Reject,
            Ok(PathWithEscapedSlashesAction::UnescapeAndForward) => EscapedSlashes::Unescape,
            Ok(PathWithEscapedSlashesAction::UnescapeAndRedirect) => {
                return refuse(
                    "path_with_escaped_slashes_action",
                    "UNESCAPE_AND_REDIRECT is not supported yet",
                );
            }
            Err(_unknown) => {
                let found = from.path_with_escaped_slashes_action;
                return refuse(
                    "path_with_escaped_slashes_action",
                    format!("{found} is unknown"),
                );
            }
        };
    let strip_any = matches!(
        from.strip_port_mode,
        Some(StripPortMode::StripAnyHostPort(true))
    );
    let strip_port = match (strip_any, from.strip_matching_host_port) {
        (true, true) => {
            let message = "strip_any_host_port is set too; write one";
            return refuse("strip_matching_host_port", message);
        }
        (true, false) => StripPort::Always,
        (false, true) => StripPort::Matching,
        (false, false) => StripPort::Never,
    };
    Ok(HeadSettings {
        merge_slashes: from.merge_slashes,
        escaped_slashes,
        strip_port,
        forwarded: from.use_remote_address == Some(true) && !from.skip_xff_append,
        // Unset, the application's own ids are enough: traces have ids of their own.
        request_id: from.generate_request_id == Some(true),
    })
}

/// What the upstream says of itself stays, unless a name is given.
fn server(from: &HttpConnectionManager) -> Converted<Option<(HeaderValue, Put)>> {
    let transformation = ServerHeaderTransformation::try_from(from.server_header_transformation);
    let put = match transformation {
        Ok(ServerHeaderTransformation::PassThrough) if from.server_name.is_empty() => {
            return Ok(None);
        }
        Ok(ServerHeaderTransformation::PassThrough) => {
            return refuse("server_name", "has no effect with PASS_THROUGH");
        }
        Ok(ServerHeaderTransformation::Overwrite) if from.server_name.is_empty() => {
            return Ok(None);
        }
        Ok(ServerHeaderTransformation::AppendIfAbsent) if from.server_name.is_empty() => {
            return refuse("server_name", "missing; APPEND_IF_ABSENT needs it here");
        }
        Ok(ServerHeaderTransformation::Overwrite) => Put::Overwrite,
        Ok(ServerHeaderTransformation::AppendIfAbsent) => Put::IfAbsent,
        Err(_unknown) => {
            let found = from.server_header_transformation;
            return refuse(
                "server_header_transformation",
                format!("{found} is unknown"),
            );
        }
    };
    let name = HeaderValue::from_str(&from.server_name)
        .map_err(|error| FieldError::new("server_name", error.to_string()))?;
    Ok(Some((name, put)))
}

/// None = ours. Zero means none at all, as in Envoy.
fn head_timeout(from: &HttpConnectionManager) -> Converted<Option<Duration>> {
    let timeout = from.request_headers_timeout.as_ref();
    let timeout = timeout
        .map(|timeout| duration("request_headers_timeout", timeout))
        .transpose()?;
    Ok(timeout.filter(|timeout| *timeout != HEAD_TIMEOUT))
}

/// In bytes; None = ours.
fn max_head(kb: Option<u32>) -> Converted<Option<u32>> {
    match kb {
        Some(kb @ (0 | MOST_HEAD_KB..)) if kb != MOST_HEAD_KB => refuse(
            "max_request_headers_kb",
            format!("{kb}; must be 1 to {MOST_HEAD_KB}"),
        ),
        kb => Ok(kb
            .map(|kb| kb * 1024)
            .filter(|bytes| usize::try_from(*bytes) != Ok(MAX_HEADER_BYTES))),
    }
}

fn max_streams(from: &HttpConnectionManager) -> Converted<Option<u32>> {
    let options = from.http2_protocol_options.as_ref();
    match options.and_then(|options| options.max_concurrent_streams) {
        Some(0) => refuse(
            "http2_protocol_options.max_concurrent_streams",
            "0 would let nobody in",
        ),
        most => Ok(most),
    }
}

fn connection(from: Option<&HttpProtocolOptions>) -> Converted<ConnectionSettings> {
    let Some(from) = from else {
        return Ok(ConnectionSettings::default());
    };
    let timeout = |path: &str, value: Option<&prost_types::Duration>| {
        value.map(|value| duration(path, value)).transpose()
    };
    Ok(ConnectionSettings {
        idle_timeout: timeout("idle_timeout", from.idle_timeout.as_ref())?,
        max_age: timeout(
            "max_connection_duration",
            from.max_connection_duration.as_ref(),
        )?
        .filter(|age| !age.is_zero()),
        max_requests: from.max_requests_per_connection.filter(|most| *most > 0),
        max_fields: match from.max_headers_count {
            Some(0) => return refuse("max_headers_count", "0 would let no request in"),
            most => most,
        },
        ..ConnectionSettings::default()
    })
}

#[cfg(test)]
mod tests;
