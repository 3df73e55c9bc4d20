//! Header values that are made from the request: Envoy's command operators, compiled when the route is.
//!
//! What is not known (yet) is empty, and a header that comes out empty is left out unless it was to be kept. Source: Envoy
//! `HeaderParser` and its substitution formatters.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};

/// A compiled value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    parts: Vec<Part>,
    keep_empty: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    RemoteAddress,
    RemoteHost,
    LocalAddress,
    LocalHost,
    LocalPort,
    PeerUriSan,
    Protocol,
    ResponseCode,
    UpstreamHost,
    UpstreamCluster,
    RouteName,
    StartTime,
    StartSeconds,
    Hostname,
    Request(HeaderField),
    Response(HeaderField),
}

/// `X?Y`, and at most so many bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeaderField {
    names: Vec<Name>,
    at_most: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Method,
    Path,
    Authority,
    Scheme,
    Status,
    Header(HeaderName),
}

/// What values are made from. Default: nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Caller's address.
    pub remote: Option<SocketAddr>,
    /// Where it connected to.
    pub local: Option<SocketAddr>,
    /// URI of its certificate.
    pub peer_uri: Option<&'a str>,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Host.
    pub authority: &'a str,
    /// The request's headers, where it is an answer's that are edited.
    pub request: Option<&'a HeaderMap>,
    /// Of the answer; None = a request is edited.
    pub status: Option<u16>,
    /// Endpoint.
    pub upstream: Option<SocketAddr>,
    /// Cluster's name.
    pub cluster: &'a str,
    /// Route's name.
    pub route: &'a str,
    /// When the request came.
    pub started: Option<SystemTime>,
    /// This machine's name.
    pub hostname: &'a str,
}

/// Why a value does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without its partner.
    #[error("{0:?} has a % without its partner; write %% for a percent sign")]
    Open(String),
    /// Not an operator that is known here.
    #[error("%{0}% is not supported; known are {KNOWN}")]
    Unknown(String),
    /// Wrong arguments.
    #[error("%{0}%: {1}")]
    Arguments(String, &'static str),
}

const KNOWN: &str = "REQ(NAME?ALTERNATIVE):LENGTH, RESP(...), DOWNSTREAM_REMOTE_ADDRESS, \
    DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT, DOWNSTREAM_LOCAL_ADDRESS, \
    DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT, DOWNSTREAM_LOCAL_PORT, DOWNSTREAM_PEER_URI_SAN, PROTOCOL, \
    RESPONSE_CODE, UPSTREAM_HOST, UPSTREAM_CLUSTER, ROUTE_NAME, START_TIME, START_TIME(%s), HOSTNAME and %%";

impl Format {
    /// Compiles `text`; Ok(Err(plain)) if it is always the same.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn parse(text: &str, keep_empty: bool) -> Result<Result<Self, String>, FormatError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let (operator, after) =
                split_operator(after).ok_or_else(|| FormatError::Open(text.to_owned()))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Field(field(operator)?));
            rest = after;
        }
        plain.push_str(rest);
        if parts.is_empty() {
            return Ok(Err(plain));
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Ok(Self { parts, keep_empty }))
    }

    pub(super) fn reads_request(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Field(Field::Request(_))))
    }

    pub(super) fn reads_time(&self) -> bool {
        let time = |field: &Field| matches!(field, Field::StartTime | Field::StartSeconds);
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Field(field) if time(field)))
    }

    /// The value, unless it is empty. `headers` are those that are edited.
    pub(crate) fn value(&self, headers: &HeaderMap, facts: &Facts<'_>) -> Option<HeaderValue> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                // Into a string nothing fails.
                Part::Field(field) => field.write(headers, facts, &mut out).unwrap_or_default(),
            }
        }
        if out.is_empty() && !self.keep_empty {
            return None;
        }
        HeaderValue::try_from(out).ok()
    }
}

/// The operator up to its closing `%`, which is none inside the parentheses.
fn split_operator(text: &str) -> Option<(&str, &str)> {
    let mut inside = false;
    let end = text.bytes().position(|byte| {
        match byte {
            b'(' => inside = true,
            b')' => inside = false,
            _ => {}
        }
        byte == b'%' && !inside
    })?;
    let (operator, rest) = text.split_at_checked(end)?;
    Some((operator, rest.strip_prefix('%')?))
}

fn field(operator: &str) -> Result<Field, FormatError> {
    if let Some(arguments) = operator.strip_prefix("REQ(") {
        return header(operator, arguments, true).map(Field::Request);
    }
    if let Some(arguments) = operator.strip_prefix("RESP(") {
        return header(operator, arguments, false).map(Field::Response);
    }
    Ok(match operator {
        "DOWNSTREAM_REMOTE_ADDRESS" => Field::RemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Field::RemoteHost,
        "DOWNSTREAM_LOCAL_ADDRESS" => Field::LocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Field::LocalHost,
        "DOWNSTREAM_LOCAL_PORT" => Field::LocalPort,
        "DOWNSTREAM_PEER_URI_SAN" => Field::PeerUriSan,
        "PROTOCOL" => Field::Protocol,
        "RESPONSE_CODE" => Field::ResponseCode,
        "UPSTREAM_HOST" => Field::UpstreamHost,
        "UPSTREAM_CLUSTER" => Field::UpstreamCluster,
        "ROUTE_NAME" => Field::RouteName,
        "START_TIME" => Field::StartTime,
        "START_TIME(%s)" => Field::StartSeconds,
        "HOSTNAME" => Field::Hostname,
        _ => return Err(FormatError::Unknown(operator.to_owned())),
    })
}

/// `X?Y):Z`
fn header(operator: &str, arguments: &str, of_request: bool) -> Result<HeaderField, FormatError> {
    let wrong = |rule| FormatError::Arguments(operator.to_owned(), rule);
    let (names, length) = arguments
        .rsplit_once(')')
        .ok_or_else(|| wrong("the parenthesis is not closed"))?;
    let at_most = match length {
        "" => None,
        length => Some(
            length
                .strip_prefix(':')
                .and_then(|length| length.parse().ok())
                .ok_or_else(|| wrong("after the parenthesis comes nothing, or :LENGTH"))?,
        ),
    };
    let names: Option<Vec<Name>> = names.split('?').map(|n| name(n, of_request)).collect();
    match names {
        Some(names) if names.len() <= 2 => Ok(HeaderField { names, at_most }),
        Some(_) => Err(wrong("has one name, or one and an alternative")),
        None => Err(wrong("not a header name")),
    }
}

fn name(text: &str, of_request: bool) -> Option<Name> {
    let lower = text.to_ascii_lowercase();
    match (lower.as_str(), of_request) {
        (":method", true) => Some(Name::Method),
        (":path", true) => Some(Name::Path),
        (":authority" | "host", true) => Some(Name::Authority),
        (":scheme", true) => Some(Name::Scheme),
        (":status", false) => Some(Name::Status),
        _ => HeaderName::from_bytes(lower.as_bytes())
            .ok()
            .filter(|name| *name != HOST)
            .map(Name::Header),
    }
}

impl Field {
    fn write(&self, headers: &HeaderMap, facts: &Facts<'_>, out: &mut String) -> std::fmt::Result {
        let mut text = |text: &str| {
            out.push_str(text);
            Ok(())
        };
        match self {
            Self::RemoteAddress => socket(facts.remote, out),
            Self::RemoteHost => host(facts.remote, out),
            Self::LocalAddress => socket(facts.local, out),
            Self::LocalHost => host(facts.local, out),
            Self::LocalPort => match facts.local {
                Some(local) => write!(out, "{}", local.port()),
                None => Ok(()),
            },
            Self::PeerUriSan => text(facts.peer_uri.unwrap_or_default()),
            Self::Protocol => text(facts.protocol),
            Self::ResponseCode => write!(out, "{}", facts.status.unwrap_or(0)),
            Self::UpstreamHost => socket(facts.upstream, out),
            Self::UpstreamCluster => text(facts.cluster),
            Self::RouteName => text(facts.route),
            Self::StartTime => match since_epoch(facts) {
                Some(since) => date(since, out),
                None => Ok(()),
            },
            Self::StartSeconds => match since_epoch(facts) {
                Some(since) => write!(out, "{}", since.as_secs()),
                None => Ok(()),
            },
            Self::Hostname => text(facts.hostname),
            Self::Request(field) => {
                let of = if facts.status.is_some() {
                    facts.request
                } else {
                    Some(headers)
                };
                field.write(of, facts, out);
                Ok(())
            }
            Self::Response(field) => {
                field.write(facts.status.map(|_| headers), facts, out);
                Ok(())
            }
        }
    }
}

impl HeaderField {
    fn write(&self, headers: Option<&HeaderMap>, facts: &Facts<'_>, out: &mut String) {
        let status;
        let found = self.names.iter().find_map(|name| {
            let value = match name {
                Name::Method => facts.method.as_bytes(),
                Name::Path => facts.path.as_bytes(),
                Name::Authority => facts.authority.as_bytes(),
                Name::Scheme => b"http",
                Name::Status => return None,
                Name::Header(name) => headers?.get(name)?.as_bytes(),
            };
            (!value.is_empty()).then_some(value)
        });
        let value = match (found, facts.status) {
            (Some(value), _) => value,
            (None, Some(code)) if self.names.contains(&Name::Status) => {
                status = code.to_string();
                status.as_bytes()
            }
            _ => return,
        };
        let most = self.at_most.unwrap_or(usize::MAX).min(value.len());
        let value = value.get(..most).unwrap_or(value);
        out.push_str(&String::from_utf8_lossy(value));
    }
}

fn socket(address: Option<SocketAddr>, out: &mut String) -> std::fmt::Result {
    match address {
        Some(address) => write!(out, "{address}"),
        None => Ok(()),
    }
}

fn host(address: Option<SocketAddr>, out: &mut String) -> std::fmt::Result {
    match address {
        Some(address) => write!(out, "{}", address.ip()),
        None => Ok(()),
    }
}

fn since_epoch(facts: &Facts<'_>) -> Option<Duration> {
    facts.started?.duration_since(UNIX_EPOCH).ok()
}

/// `2026-03-04T05:06:07.089Z`. Source of the calendar: Howard Hinnant, `civil_from_days`.
fn date(since: Duration, out: &mut String) -> std::fmt::Result {
    let seconds = since.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    write!(
        out,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}
