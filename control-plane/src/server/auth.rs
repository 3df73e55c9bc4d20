//! Reads credentials off a request.

use std::{fmt, net::IpAddr};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use http::{HeaderMap, Request, Version, header};
use tonic::Code;

use crate::{
    caller::{Caller, Secret},
    refusal::Refusal,
    server::tls::Client,
};

/// Longest bearer token that is looked at. A Kubernetes token has about 1 KiB.
const MAX_BEARER_BYTES: usize = 8 * 1024;

/// Knows the admin token, as a hash.
pub(crate) struct Authenticator {
    admin: digest::Digest,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

impl Authenticator {
    /// `admin_token` is the content of `<data-dir>/admin.token`.
    pub(crate) fn new(admin_token: &str) -> Self {
        Self {
            admin: digest::digest(&digest::SHA256, admin_token.as_bytes()),
        }
    }

    /// The admin token wins over a certificate, a certificate over any other token, and any token over a certificate that
    /// has ended.
    pub(crate) fn caller(&self, client: Option<&Client>, headers: &HeaderMap) -> Caller {
        let bearer = bearer(headers);
        if bearer.is_some_and(|token| self.is_admin(token)) {
            return Caller::Operator;
        }
        match (client, bearer) {
            (Some(client), _) if !client.left().is_zero() => Caller::Workload(client.id.clone()),
            (_, Some(token)) => Caller::Bearer(Secret(token.into())),
            (Some(client), None) => Caller::Expired(client.id.clone()),
            (None, None) => Caller::Anonymous,
        }
    }

    /// Compares hashes, so that neither content nor length of the real token shows in the time it takes.
    fn is_admin(&self, token: &str) -> bool {
        let shown = digest::digest(&digest::SHA256, token.as_bytes());
        verify_slices_are_equal(shown.as_ref(), self.admin.as_ref()).is_ok()
    }
}

/// The token of the one `authorization: Bearer` header; two of them are none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let good = scheme.eq_ignore_ascii_case("bearer")
        && !token.is_empty()
        && token.len() <= MAX_BEARER_BYTES;
    good.then_some(token)
}

/// On the plain-text port the only credential is to be on this machine, and so is every page in a browser:
/// refuse what a page can send (an `Origin`, or a host name of its own that resolves to here). No browser
/// speaks HTTP/2 without TLS, and Envoy sends its cluster's name as `:authority`: there the name is free.
pub(crate) fn not_a_web_page<B>(request: &Request<B>) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(Code::PermissionDenied, message));
    if request.headers().contains_key(header::ORIGIN) {
        return refuse("the plain-text port does not serve web pages".to_owned());
    }
    if request.version() == Version::HTTP_2 {
        return Ok(());
    }
    let host = match request.uri().host() {
        Some(host) => Some(host),
        None => request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .map(name_of),
    };
    let local = host.is_none_or(|host| {
        host.eq_ignore_ascii_case("localhost")
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    });
    if local {
        Ok(())
    } else {
        refuse(format!(
            "the plain-text port answers to localhost or an IP address, not to {:?}",
            host.unwrap_or_default()
        ))
    }
}

/// `host` of `host:port`; an IPv6 address keeps its brackets.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;
    use crate::spiffe::SpiffeId;

    fn headers(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn the_caller_is_who_the_best_credential_says() {
        let authenticator = Authenticator::new("admin");
        let id = SpiffeId::new("cluster.local", "default", "reviews").unwrap();
        let workload = Caller::Workload(id.clone());
        let expired = Caller::Expired(id.clone());
        let now = std::time::SystemTime::now();
        let ending = |not_after| Client {
            id: id.clone(),
            not_before: now,
            not_after,
            serial: "01".into(),
            issuer: Vec::new(),
        };
        let (live, ended) = (ending(now + Duration::from_secs(60)), ending(now));
        let other = Caller::Bearer(Secret("other".into()));
        let table: &[(Option<&Client>, &[&str], Caller)] = &[
            (None, &[], Caller::Anonymous),
            (None, &["Bearer admin"], Caller::Operator),
            (None, &["bearer admin"], Caller::Operator),
            (Some(&live), &["Bearer admin"], Caller::Operator),
            (Some(&live), &[], workload.clone()),
            (Some(&live), &["Bearer other"], workload),
            (Some(&ended), &["Bearer admin"], Caller::Operator),
            (Some(&ended), &["Bearer other"], other.clone()),
            (Some(&ended), &[], expired),
            (None, &["Bearer other"], other),
            (None, &["Bearer"], Caller::Anonymous),
            (None, &["Bearer "], Caller::Anonymous),
            (None, &["Basic admin"], Caller::Anonymous),
            (None, &["Bearer admin", "Bearer admin"], Caller::Anonymous),
        ];
        for (client, values, caller) in table {
            assert_eq!(
                authenticator.caller(*client, &headers(values)),
                *caller,
                "{values:?}"
            );
        }
    }

    #[test]
    fn a_web_page_gets_nothing_from_the_plain_text_port() {
        let request = |uri: &str, name: &str, value: &str| {
            Request::get(uri).header(name, value).body(()).unwrap()
        };
        for (uri, name, value) in [
            ("/", "host", "localhost:15010"),
            ("/", "host", "127.0.0.1:15010"),
            ("/", "host", "[::1]:15010"),
            ("http://127.0.0.1:15010/", "x", "y"),
        ] {
            assert_eq!(
                not_a_web_page(&request(uri, name, value)),
                Ok(()),
                "{uri} {value}"
            );
        }
        let mut envoy = request("http://xds/", "content-type", "application/grpc");
        *envoy.version_mut() = Version::HTTP_2;
        assert_eq!(not_a_web_page(&envoy), Ok(()));
        for (uri, name, value) in [
            ("/", "host", "evil.example:15010"),
            ("http://evil.example:15010/", "host", "localhost"),
            ("/", "origin", "http://localhost"),
        ] {
            assert!(
                not_a_web_page(&request(uri, name, value)).is_err(),
                "{uri} {value}"
            );
        }
    }
}
