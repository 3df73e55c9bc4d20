//! Which connections a listener's filter chains are for → [`ChainLookup`]: inspectors of first bytes, and what chains
//! match.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_core::{
    ChainLookup, ChainMatch, Cidr, DryRun, Inspect, MatchedTwice, PolicyPositions,
};
use outrigger_proto::envoy::{
    config::{
        core::v3::{CidrRange, Metadata},
        listener::v3::{self as proto, FilterChainMatch, listener_filter},
    },
    extensions::filters::listener::{
        http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
        tls_inspector::v3::TlsInspector,
    },
};
use prost_types::{Struct, value};

use super::{Converted, duration, fields, proxy_protocol, refuse, string, unpack, unsupported};

pub(super) const TLS_INSPECTOR: &str =
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
pub(super) const HTTP_INSPECTOR: &str =
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
pub(super) const ORIGINAL_DST: &str =
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
/// What plain text may be told to be.
const DETECTED: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];
/// For a connection to say what it is. Envoy's default is 15 s, which is also the most here: who says nothing
/// holds a connection.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_HELLO: Duration = Duration::from_secs(15);

/// What a listener asks of a connection before it looks for its chain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asks {
    /// How first bytes are looked at; None = they are not.
    pub(super) inspect: Option<Inspect>,
    /// Where it was going before it was redirected.
    pub(super) original_dst: bool,
}

impl Asks {
    fn tls(self) -> bool {
        self.inspect.is_some_and(|inspect| inspect.tls)
    }

    fn http(self) -> bool {
        self.inspect.is_some_and(|inspect| inspect.http)
    }
}

/// The listener filters. `proxied`: one of them takes PROXY protocol headers, of which nothing is said here.
pub(super) fn asks(from: &proto::Listener, proxied: bool) -> Converted<Asks> {
    let mut found = Asks::default();
    let mut seen = Vec::new();
    let (mut tls, mut http) = (false, false);
    for (index, filter) in from.listener_filters.iter().enumerate() {
        let path = format!("listener_filters[{index}]");
        let any = match &filter.config_type {
            Some(listener_filter::ConfigType::TypedConfig(any)) => any,
            Some(listener_filter::ConfigType::ConfigDiscovery(_)) => {
                return unsupported(format!("{path}.config_discovery"));
            }
            None => return refuse(format!("{path}.typed_config"), "missing"),
        };
        let name = fields::type_name(&any.type_url);
        if name == proxy_protocol::FILTER {
            continue;
        }
        let read = match name {
            HTTP_INSPECTOR => unpack::<HttpInspector>(any, name).map(|_inspector| http = true),
            ORIGINAL_DST => {
                unpack::<OriginalDst>(any, name).map(|_filter| found.original_dst = true)
            }
            _ => unpack::<TlsInspector>(any, TLS_INSPECTOR).map(|_inspector| tls = true),
        };
        read.map_err(|error| error.under(format!("{path}.typed_config")))?;
        if seen.contains(&name) {
            return refuse(path, "is there already");
        }
        seen.push(name);
    }
    let is_set = [
        (
            "listener_filters_timeout",
            from.listener_filters_timeout.is_some(),
        ),
        (
            "continue_on_listener_filters_timeout",
            from.continue_on_listener_filters_timeout,
        ),
    ];
    if !tls && !http && proxied {
        return Ok(found);
    }
    if !tls && !http {
        return match is_set.into_iter().find(|(_, is_set)| *is_set) {
            Some((path, _)) => refuse(
                path,
                "has no effect without an inspector among listener_filters",
            ),
            None => Ok(found),
        };
    }
    found.inspect = Some(Inspect {
        within: hello_timeout(from, http)?,
        silence_is_plain: from.continue_on_listener_filters_timeout,
        tls,
        http,
    });
    Ok(found)
}

/// How long first bytes may take.
pub(super) fn hello_timeout(from: &proto::Listener, http: bool) -> Converted<Duration> {
    let path = "listener_filters_timeout";
    let timeout = from.listener_filters_timeout.as_ref();
    match timeout.map(|value| duration(path, value)).transpose()? {
        None => Ok(HELLO_TIMEOUT),
        // Where HTTP is told from the rest, silence has no limit anyway; this is for who has begun.
        Some(Duration::ZERO) if http => Ok(LONGEST_HELLO),
        Some(Duration::ZERO) => refuse(path, "0s; must be more than zero"),
        Some(within) if within > LONGEST_HELLO => {
            refuse(path, format!("{within:?}; at most {LONGEST_HELLO:?}"))
        }
        Some(within) => Ok(within),
    }
}

/// How chains with `matches` are told apart, and whether there is one for the rest; None = there is one, for every
/// connection.
pub(super) fn lookup(
    asks: Asks,
    matches: &[ChainMatch],
    has_default: bool,
) -> Converted<Option<ChainLookup>> {
    if matches.is_empty() {
        return if has_default {
            Ok(None)
        } else {
            refuse("filter_chains", "is empty")
        };
    }
    if let ([only], None, false) = (matches, asks.inspect, has_default)
        && only.destination_port.is_none()
        && only.prefix_ranges.is_empty()
    {
        return Ok(None);
    }
    let fallback = has_default.then_some(matches.len());
    match ChainLookup::new(matches, asks.inspect) {
        Ok(lookup) => Ok(Some(lookup.or_else(fallback))),
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
pub(super) fn wanted(from: Option<&FilterChainMatch>, asks: Asks) -> Converted<ChainMatch> {
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
    let protocols = &from.application_protocols;
    for (path, is_set) in [
        ("server_names", !from.server_names.is_empty()),
        ("transport_protocol", tls == Some(true)),
    ] {
        if is_set && !asks.tls() {
            return refuse(
                path,
                "can only match with a TLS inspector among the listener_filters",
            );
        }
        if is_set && tls == Some(false) {
            return refuse(path, "a connection in plain text has none");
        }
    }
    if !protocols.is_empty() {
        let path = "application_protocols";
        let only_plain = tls == Some(false) || !asks.tls();
        if !asks.tls() && !asks.http() {
            return refuse(
                path,
                "can only match with a TLS or HTTP inspector among the listener_filters",
            );
        }
        if only_plain && !asks.http() {
            return refuse(
                path,
                "a connection in plain text has none without an HTTP inspector among the listener_filters",
            );
        }
        let other = protocols
            .iter()
            .find(|name| !DETECTED.contains(&name.as_str()));
        if let (true, Some(other)) = (only_plain, other) {
            return refuse(
                path,
                format!("{other:?}; plain text is one of {}", DETECTED.join(", ")),
            );
        }
    }
    let destination_port = match from.destination_port {
        None => None,
        Some(port) => match u16::try_from(port) {
            Ok(port @ 1..) => Some(port),
            _ => return refuse("destination_port", format!("{port}; must be 1 to 65535")),
        },
    };
    let mut prefix_ranges = Vec::with_capacity(from.prefix_ranges.len());
    for (index, range) in from.prefix_ranges.iter().enumerate() {
        prefix_ranges.push(cidr(&format!("prefix_ranges[{index}]"), range)?);
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
        destination_port,
        prefix_ranges,
        server_names: from.server_names.clone(),
        tls,
        application_protocols: from.application_protocols.clone(),
    })
}

fn cidr(path: &str, from: &CidrRange) -> Converted<Cidr> {
    let address = from.address_prefix.parse().ok();
    let range = address.and_then(|address| Cidr::new(address, from.prefix_len.unwrap_or(0)));
    match range {
        Some(range) => Ok(range),
        None => refuse(
            path,
            format!(
                "{}/{} is not a range of addresses",
                from.address_prefix,
                from.prefix_len.unwrap_or(0)
            ),
        ),
    }
}

/// `metadata["outrigger"].mesh_addresses` of a listener: destinations whose own listeners come as they are asked for.
pub(super) fn mesh_addresses(from: Option<&Metadata>) -> Converted<Arc<[Cidr]>> {
    let path = "metadata.filter_metadata[\"outrigger\"].mesh_addresses";
    let Some(found) = ours(from).and_then(|ours| ours.fields.get("mesh_addresses")) else {
        return Ok(Arc::default());
    };
    let Some(value::Kind::ListValue(list)) = &found.kind else {
        return refuse(path, "must be a list of ranges, as \"240.240.0.0/16\"");
    };
    let mut ranges = Vec::with_capacity(list.values.len());
    for (index, one) in list.values.iter().enumerate() {
        let text = match &one.kind {
            Some(value::Kind::StringValue(text)) => text.as_str(),
            _ => "",
        };
        let range = text
            .split_once('/')
            .and_then(|(address, bits)| Cidr::new(address.parse().ok()?, bits.parse().ok()?));
        match range {
            Some(range) => ranges.push(range),
            None => {
                return refuse(
                    format!("{path}[{index}]"),
                    format!("{text:?} is not a range of addresses"),
                );
            }
        }
    }
    Ok(ranges.into())
}

/// `metadata["outrigger"].alone` of a listener: no address has one of its own with its port.
pub(super) fn is_alone(from: Option<&Metadata>) -> bool {
    let alone = ours(from).and_then(|ours| ours.fields.get("alone"));
    alone.is_some_and(|value| value.kind == Some(value::Kind::BoolValue(true)))
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
