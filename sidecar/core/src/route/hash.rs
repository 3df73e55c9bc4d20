//! From a request to the key of a consistent hash. Equal to Envoy's, so that sidecars of both kinds
//! send one key to one endpoint: xxHash64 with seed 0, several policies by rotate and xor.

use std::{fmt::Write, net::IpAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::{HashPolicy, RequestView, Route, matching::query_parameter};

/// A cookie that a request should have had and the answer has to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashCookie<'a> {
    /// Name.
    pub name: &'a str,
    /// Path attribute; empty = none.
    pub path: &'a str,
    /// Zero = session cookie.
    pub ttl: Duration,
    /// Further attributes: each `; Name` or `; Name=value`.
    pub attributes: &'a str,
}

impl Route {
    /// The hash of a request under this route's policies, if any yields a value. Same key, same hash in
    /// every sidecar (xxHash64, seed 0; several policies combined as Envoy does).
    #[must_use]
    pub fn hash(&self, request: &RequestView<'_>, client: Option<IpAddr>) -> Option<u64> {
        self.hash_with_cookie(request, client, None)
    }

    /// As [`Self::hash`], with `generated` as the value of the cookies in [`Self::missing_cookies`], so
    /// that the first request goes where the next ones will.
    #[must_use]
    pub fn hash_with_cookie(
        &self,
        request: &RequestView<'_>,
        client: Option<IpAddr>,
        generated: Option<&str>,
    ) -> Option<u64> {
        let mut hash: Option<u64> = None;
        for policy in &self.hash_policies {
            let new = match policy {
                HashPolicy::Header(name) => header_hash(request.headers, name),
                HashPolicy::Cookie { name, ttl, .. } => cookie(request.headers, name)
                    .or_else(|| generated.filter(|_| ttl.is_some()).map(str::as_bytes))
                    .map(|value| xxh64(value, 0)),
                HashPolicy::SourceIp => client.map(|ip| xxh64(ip.to_string().as_bytes(), 0)),
                HashPolicy::QueryParameter(name) => query_parameter(request.path_and_query, name)
                    .map(|value| xxh64(value.as_bytes(), 0)),
                HashPolicy::Terminal if hash.is_some() => break,
                HashPolicy::Terminal => None,
            };
            // The rotation keeps two equal values from cancelling each other out.
            hash = new
                .map(|new| hash.map_or(0, |old| old.rotate_left(1)) ^ new)
                .or(hash);
        }
        hash
    }

    /// Cookies of the hash policies that the request lacks and that have a TTL. The caller makes up a
    /// value, hashes with it ([`Self::hash_with_cookie`]), and sets it on the answer.
    pub fn missing_cookies<'a>(
        &'a self,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = HashCookie<'a>> {
        self.hash_policies.iter().filter_map(|policy| match policy {
            HashPolicy::Cookie {
                name,
                path,
                ttl: Some(ttl),
                attributes,
            } if cookie(headers, name).is_none() => Some(HashCookie {
                name,
                path,
                ttl: *ttl,
                attributes,
            }),
            _ => None,
        })
    }
}

impl HashCookie<'_> {
    /// The value of `Set-Cookie`, as Envoy writes it; None if one of its parts cannot be in a header.
    #[must_use]
    pub fn set_cookie(&self, value: &str) -> Option<HeaderValue> {
        let mut text = format!("{}=\"{value}\"", self.name);
        if !self.ttl.is_zero() {
            write!(text, "; Max-Age={}", self.ttl.as_secs()).ok()?;
        }
        if !self.path.is_empty() {
            write!(text, "; Path={}", self.path).ok()?;
        }
        text.push_str(self.attributes);
        text.push_str("; HttpOnly");
        HeaderValue::try_from(text).ok()
    }
}

/// Values are sorted, so that their order on the wire does not matter, and hashed one after the other.
fn header_hash(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return Some(xxh64(first, 0));
    };
    let mut all = vec![first, second.as_bytes()];
    all.extend(values.map(HeaderValue::as_bytes));
    all.sort_unstable();
    let mut hasher = Xxh64::new(0);
    all.iter().for_each(|value| hasher.update(value));
    Some(hasher.digest())
}

/// First cookie of that name, without quotes; an empty one counts as missing (Envoy).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .find_map(|pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            let unquoted = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""));
            Some(unquoted.unwrap_or(value))
        })
        .filter(|value| !value.is_empty())
}
