//! Asking an authorization server about each request: whom, what it is told, and what its verdict may change.
//!
//! ```text
//! request ──(a marking of access rules selects it)──► check ──► allowed: edits of the request
//!                                                           ├─► denied: the server's answer is given
//!                                                           └─► no verdict: refused, unless it fails open
//! ```
//! Never asks anybody: the caller does. Source: Envoy `ext_authz`; the marking is how Istio has one filter do what
//! several documents ask for.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use crate::{ClusterSlot, StringMatch};

/// See the module.
#[derive(Clone, Debug)]
pub struct ExtAuthz {
    /// Where the server is.
    pub cluster: ClusterSlot,
    /// The cluster's name, for messages.
    pub cluster_name: Arc<str>,
    /// How it is asked.
    pub service: CheckService,
    /// For the whole question, connecting included. Default 200 ms (Envoy).
    pub timeout: Duration,
    /// Without a verdict the request goes on. Default: it is refused.
    pub fails_open: bool,
    /// A request that goes on without a verdict carries `x-envoy-auth-failure-mode-allowed: true`.
    pub tells_failure: bool,
    /// Of a refusal without a verdict: 400 to 599. Default 403 (Envoy).
    pub status_on_error: u16,
    /// What of the body is sent along; None = nothing.
    pub body: Option<CheckBody>,
    /// The route is looked for again where the verdict has changed headers.
    pub clears_route: bool,
    /// Only requests with such a marking are asked about; None = all.
    pub only: Option<Marking>,
    /// Headers that the server is told; None = all (gRPC), or those that are told always (HTTP).
    pub told: Option<Vec<StringMatch>>,
    /// Headers that it is not told.
    pub untold: Vec<StringMatch>,
    /// The server name of TLS is sent along.
    pub tells_server_name: bool,
}

/// How a server is asked.
#[derive(Clone, Debug)]
pub enum CheckService {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc {
        /// In place of the cluster's name.
        authority: Option<HeaderValue>,
        /// Added to the call.
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    /// The request's own method, path and headers; 200 = allowed.
    // Boxed: a gRPC service would be as large.
    Http(Box<HttpCheck>),
}

/// See [`CheckService::Http`].
#[derive(Clone, Debug, Default)]
pub struct HttpCheck {
    /// Before the path.
    pub path_prefix: String,
    /// Written into the question, over what the caller says.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers of the answer that are set on the request.
    pub upstream: Vec<StringMatch>,
    /// The same, added.
    pub upstream_added: Vec<StringMatch>,
    /// Headers of a denial that the caller gets; None = all.
    pub client: Option<Vec<StringMatch>>,
    /// Headers of an approval that are added to the answer that the caller gets.
    pub client_on_success: Vec<StringMatch>,
}

/// How much of a body a server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckBody {
    /// Bytes, 1 or more. A longer body is refused, or cut.
    pub most: usize,
    /// A longer one is cut.
    pub partial: bool,
    /// As bytes, and not as text.
    pub raw: bool,
}

/// What access rules that are only counted leave for filters behind them.
#[derive(Clone, Debug)]
pub struct Marking {
    /// E.g. `istio_ext_authz_shadow_effective_policy_id`.
    pub key: Arc<str>,
    /// Of the policy's name.
    pub value: StringMatch,
}

/// The markings of one request: nothing is allocated until there is one.
#[derive(Clone, Debug, Default)]
pub struct Markings(Vec<(Arc<str>, Arc<str>)>);

impl Markings {
    /// The last word under `key` counts.
    pub fn put(&mut self, key: &Arc<str>, policy: &Arc<str>) {
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, value)) => *value = Arc::clone(policy),
            None => self.0.push((Arc::clone(key), Arc::clone(policy))),
        }
    }

    /// The policy that selects the request; `Err` if none does.
    ///
    /// # Errors
    /// It is not to be asked about.
    pub fn selects(&self, only: Option<&Marking>) -> Result<Option<&Arc<str>>, NotSelected> {
        let Some(only) = only else {
            return Ok(None);
        };
        let found = self.0.iter().find(|(key, _)| *key == only.key);
        match found {
            Some((_, policy)) if only.value.holds(Some(policy.as_bytes())) => Ok(Some(policy)),
            _ => Err(NotSelected),
        }
    }
}

/// No policy selects the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSelected;

/// Headers that no verdict changes: how a message is framed, where it goes, and who sent it.
const KEPT: [&str; 8] = [
    "x-forwarded-client-cert",
    "x-outrigger-unsent",
    "x-outrigger-reason",
    "x-outrigger-policy",
    "x-outrigger-retries",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
];

/// Whether a verdict may set, add or remove this header of a request, however it is spelt.
#[must_use]
pub fn may_change(name: &HeaderName) -> bool {
    const FRAMING: [HeaderName; 8] = [
        HOST,
        CONNECTION,
        CONTENT_LENGTH,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        EXPECT,
    ];
    let kept =
        |name: &str| KEPT.contains(&name) || FRAMING.iter().any(|framing| framing.as_str() == name);
    let name = name.as_str();
    // Many servers read `x_forwarded_client_cert` as the same name.
    let is_twin = || name.contains('_') && kept(&name.replace('_', "-"));
    !(kept(name) || is_twin())
}

/// Whether one of the conditions holds for a header's name.
#[must_use]
pub fn names_header(all: &[StringMatch], name: &str) -> bool {
    all.iter().any(|one| one.holds(Some(name.as_bytes())))
}

impl ExtAuthz {
    /// Whether the server is told this header; `by_default` if nothing is said.
    #[must_use]
    pub fn tells(&self, name: &str, by_default: bool) -> bool {
        let told = self.told.as_deref();
        told.map_or(by_default, |told| names_header(told, name))
            && !names_header(&self.untold, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marking(prefix: &str) -> Marking {
        Marking {
            key: "k".into(),
            value: StringMatch::Prefix(prefix.to_owned(), false),
        }
    }

    #[test]
    fn the_last_marking_selects_and_another_does_not() {
        let mut markings = Markings::default();
        let only = marking("opa-");
        assert_eq!(markings.selects(Some(&only)), Err(NotSelected));
        assert_eq!(markings.selects(None), Ok(None), "all are asked about");
        let key: Arc<str> = "k".into();
        markings.put(&key, &"opa-one".into());
        assert_eq!(
            markings.selects(Some(&only)).unwrap().map(|name| &**name),
            Some("opa-one")
        );
        markings.put(&key, &"other-one".into());
        assert_eq!(markings.selects(Some(&only)), Err(NotSelected));
    }

    #[test]
    fn no_verdict_changes_who_sent_a_request_or_where_it_goes() {
        for (name, may) in [
            ("x-user", true),
            ("authorization", true),
            ("host", false),
            ("content-length", false),
            ("transfer-encoding", false),
            ("transfer_encoding", false),
            ("connection", false),
            ("x-forwarded-client-cert", false),
            ("x_forwarded_client-cert", false),
            ("x-outrigger-unsent", false),
        ] {
            assert_eq!(may_change(&HeaderName::from_static(name)), may, "{name}");
        }
    }
}
