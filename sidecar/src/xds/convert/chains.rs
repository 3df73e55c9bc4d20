//! Which connections a listener's filter chains are for → [`ChainLookup`]: the TLS inspector, and what chains match.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_core::{ChainLookup, ChainMatch, DryRun, Inspect, MatchedTwice, PolicyPositions};
use outrigger_proto::envoy::{
    config::{
        core::v3::Metadata,
        listener::v3::{self as proto, FilterChainMatch, listener_filter},
    },
    extensions::filters::listener::tls_inspector::v3::TlsInspector,
};
use prost_types::{Struct, value};

use super::{Converted, positive, refuse, string, unpack, unsupported};

pub(super) const TLS_INSPECTOR: &str =
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
/// For a connection to say what it is. Envoy's default is 15 s, which is also the most here: who says nothing
/// holds a connection.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_HELLO: Duration = Duration::from_secs(15);

/// How first bytes are looked at; None = they are not.
pub(super) fn inspector(from: &proto::Listener) -> Converted<Option<Inspect>> {
    let filter = match from.listener_filters.as_slice() {
        [] if from.listener_filters_timeout.is_some() => {
            return refuse(
                "listener_filters_timeout",
                "has no effect without listener_filters",
            );
        }
        [] if from.continue_on_listener_filters_timeout => {
            return refuse(
                "continue_on_listener_filters_timeout",
                "has no effect without listener_filters",
            );
        }
        [] => return Ok(None),
        [one] => one,
        several => {
            let message = format!(
                "has {} entries; at most one, the TLS inspector, is supported yet",
                several.len()
            );
            return refuse("listener_filters", message);
        }
    };
    match &filter.config_type {
        Some(listener_filter::ConfigType::TypedConfig(any)) => {
            let _inspector: TlsInspector = unpack(any, TLS_INSPECTOR)
                .map_err(|error| error.under("listener_filters[0].typed_config"))?;
        }
        Some(listener_filter::ConfigType::ConfigDiscovery(_)) => {
            return unsupported("listener_filters[0].config_discovery");
        }
        None => return refuse("listener_filters[0].typed_config", "missing"),
    }
    let path = "listener_filters_timeout";
    let within = positive(path, from.listener_filters_timeout.as_ref(), HELLO_TIMEOUT)?;
    if within > LONGEST_HELLO {
        return refuse(path, format!("{within:?}; at most {LONGEST_HELLO:?}"));
    }
    Ok(Some(Inspect {
        within,
        silence_is_plain: from.continue_on_listener_filters_timeout,
    }))
}

/// How chains with `matches` are told apart; None = there is one, for every connection.
pub(super) fn lookup(
    inspect: Option<Inspect>,
    matches: &[ChainMatch],
) -> Converted<Option<ChainLookup>> {
    let Some(inspect) = inspect else {
        if matches.len() == 1 {
            return Ok(None);
        }
        return refuse(
            "filter_chains",
            format!(
                "has {} entries; without a TLS inspector exactly one is supported yet",
                matches.len()
            ),
        );
    };
    if matches.is_empty() {
        return refuse("filter_chains", "is empty");
    }
    match ChainLookup::new(matches, inspect) {
        Ok(lookup) => Ok(Some(lookup)),
        Err(MatchedTwice(index, name)) if name == "*" => refuse(
            format!("filter_chains[{index}].filter_chain_match"),
            "the same connections are another chain's already",
        ),
        Err(MatchedTwice(index, name)) => refuse(
            format!("filter_chains[{index}].filter_chain_match.server_names"),
            format!("{name:?} is another chain's already"),
        ),
    }
}

/// What one chain matches.
pub(super) fn wanted(from: Option<&FilterChainMatch>, inspected: bool) -> Converted<ChainMatch> {
    let Some(from) = from else {
        return Ok(ChainMatch::default());
    };
    let tls = match from.transport_protocol.as_str() {
        "" => None,
        "tls" => Some(true),
        "raw_buffer" => Some(false),
        other => {
            return refuse(
                "transport_protocol",
                format!("{other:?}; must be \"tls\" or \"raw_buffer\""),
            );
        }
    };
    for (path, is_set) in [
        ("server_names", !from.server_names.is_empty()),
        (
            "application_protocols",
            !from.application_protocols.is_empty(),
        ),
        ("transport_protocol", tls == Some(true)),
    ] {
        if is_set && !inspected {
            return refuse(
                path,
                "can only match with a TLS inspector among the listener_filters",
            );
        }
        if is_set && tls == Some(false) {
            return refuse(path, "a connection in plain text has none");
        }
    }
    for (index, name) in from.server_names.iter().enumerate() {
        let plain = name.strip_prefix("*.").unwrap_or(name);
        if plain.is_empty() || plain.contains('*') || plain.bytes().any(|b| b.is_ascii_uppercase())
        {
            return refuse(
                format!("server_names[{index}]"),
                format!("{name:?}; must be a name in lower case, or *.suffix"),
            );
        }
    }
    for (index, name) in from.application_protocols.iter().enumerate() {
        if name.is_empty() || name.len() > 255 {
            return refuse(
                format!("application_protocols[{index}]"),
                format!("{name:?}; must be a name of 1 to 255 bytes"),
            );
        }
    }
    Ok(ChainMatch {
        server_names: from.server_names.clone(),
        tls,
        application_protocols: from.application_protocols.clone(),
    })
}

/// `metadata["outrigger"].policies` of a chain: where the policies of its access rules were written.
pub(super) fn policies(from: Option<&Metadata>) -> PolicyPositions {
    let Some(all) = ours(from).and_then(|ours| inner(ours, "policies")) else {
        return PolicyPositions::default();
    };
    let names = all.fields.keys();
    let all = names.filter_map(|name| Some((name.as_str().into(), string(all, name)?.into())));
    PolicyPositions::new(all.collect::<BTreeMap<Box<str>, Arc<str>>>())
}

/// `metadata["outrigger"].dry_run` of a listener: a PeerAuthentication that is only tried.
pub(super) fn dry_run(from: Option<&Metadata>) -> Converted<Option<DryRun>> {
    let Some(dry_run) = ours(from).and_then(|ours| inner(ours, "dry_run")) else {
        return Ok(None);
    };
    let (plain_text, mutual_tls) = match string(dry_run, "mtls") {
        Some("STRICT") => (false, true),
        Some("PERMISSIVE") => (true, true),
        Some("DISABLE") => (true, false),
        found => {
            let found = found.unwrap_or_default();
            return refuse(
                "metadata.filter_metadata[\"outrigger\"].dry_run.mtls",
                format!("{found:?}; must be STRICT, PERMISSIVE or DISABLE"),
            );
        }
    };
    Ok(Some(DryRun {
        plain_text,
        mutual_tls,
        position: string(dry_run, "position").map(Into::into),
    }))
}

fn ours(metadata: Option<&Metadata>) -> Option<&Struct> {
    metadata?.filter_metadata.get("outrigger")
}

fn inner<'a>(from: &'a Struct, key: &str) -> Option<&'a Struct> {
    match from.fields.get(key)?.kind.as_ref()? {
        value::Kind::StructValue(found) => Some(found),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
