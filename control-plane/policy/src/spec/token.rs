//! Whose tokens are verified: `RequestAuthentication`.
//! Source: Istio `security/v1` RequestAuthentication, JWTRule.

use std::{collections::BTreeMap, time::Duration};

use super::At;
use crate::Position;

/// Tokens of requests to the selected workloads.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestAuthentication {
    /// Labels of the workloads. None = every workload of the namespace; in the root namespace, of the mesh.
    pub selector: Option<At<BTreeMap<String, String>>>,
    /// At least one.
    pub rules: Vec<JwtRule>,
}

/// `jwtRules[]`: an issuer and its tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// Where it stands.
    pub position: Position,
    /// What `iss` has to be.
    pub issuer: At<String>,
    /// One of them has to be in `aud`. Empty = not looked at.
    pub audiences: Vec<String>,
    /// `jwks`, or `jwksUri`.
    pub keys: JwtKeys,
    /// `fromHeaders[]`: name and prefix. With the next two empty: `Authorization: Bearer`, and the query's `access_token`.
    pub from_headers: Vec<(String, String)>,
    /// `fromParams[]`.
    pub from_params: Vec<String>,
    /// `fromCookies[]`.
    pub from_cookies: Vec<String>,
    /// `outputPayloadToHeader`.
    pub payload_header: Option<String>,
    /// `outputClaimToHeaders[]`: header and claim.
    pub claim_headers: Vec<(String, String)>,
    /// `forwardOriginalToken`. Default false: a good token ends at the sidecar.
    pub forward: bool,
    /// `timeout` of a fetch of keys. Default 5 s.
    pub timeout: Duration,
    /// `spaceDelimitedClaims[]`, beside `scope` and `permission`.
    pub space_delimited: Vec<String>,
}

/// With what tokens are verified.
#[derive(Clone, Debug, PartialEq)]
pub enum JwtKeys {
    /// `jwks`: a key set, checked.
    Inline(At<String>),
    /// `jwksUri`.
    Url(At<JwksUrl>),
}

/// Where a key set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl {
    /// As written.
    pub text: String,
    /// The URL says `https`.
    pub https: bool,
    /// As written.
    pub host: String,
    /// As written, or the scheme's.
    pub port: u16,
}
