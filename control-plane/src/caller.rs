//! Who is calling: decided once where a connection or request enters, and carried as a request extension.
//!
//! ```text
//! plain-text port ─────────────► Plaintext ─┐
//! Bearer <admin token> ────────► Operator ──┤
//! client certificate ──────────► Workload ──┼─► request.extensions()
//! one that has ended ──────────► Expired ───┤   (only `Identity` takes it, for a while)
//! Bearer <anything else> ──────► Bearer ────┤   (only `Identity` knows join tokens)
//! nothing ─────────────────────► Anonymous ─┘
//! ```
//! The rules of who may do what are the table in `docs/WIRE.md`; the functions here are its cells.

use std::{net::SocketAddr, sync::Arc};

use tonic::{Code, Status};

use crate::spiffe::SpiffeId;

/// The other end of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Showed the admin token.
    Operator,
    /// Came by the plain-text port, which is loopback only: counts as the operator.
    Plaintext,
    /// Showed a certificate of the mesh.
    Workload(SpiffeId),
    /// Showed a certificate of the mesh that has ended: may renew it, for a while, and nothing else.
    Expired(SpiffeId),
    /// Showed a bearer token that is not the admin token: perhaps a join token.
    Bearer(Secret),
    /// Showed nothing.
    Anonymous,
}

/// Address of the other end, as a request extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The client's certificate, as a request extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) serial: Arc<str>,
    pub(crate) not_after: std::time::SystemTime,
}

/// Something that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) Arc<str>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Caller {
    /// The caller that the listener put into the request.
    ///
    /// A request without one did not come through a listener: it is treated as anonymous.
    pub(crate) fn of(extensions: &http::Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or(Self::Anonymous)
    }

    /// For the author of a revision and for logs.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Operator => "operator".to_owned(),
            Self::Plaintext => "plaintext".to_owned(),
            Self::Workload(id) | Self::Expired(id) => id.to_string(),
            Self::Bearer(_) => "bearer".to_owned(),
            Self::Anonymous => "anonymous".to_owned(),
        }
    }

    /// `Admin.*`
    pub(crate) fn may_administer(&self) -> Result<(), Denied> {
        match self {
            Self::Operator | Self::Plaintext => Ok(()),
            Self::Workload(id) => Err(Denied::forbidden(format!(
                "{id} is a workload; this call needs the operator's token (<data-dir>/admin.token)"
            ))),
            Self::Bearer(_) => Err(Denied::unknown(
                "the bearer token is not the operator's (<data-dir>/admin.token)",
            )),
            Self::Expired(id) => Err(ended(id)),
            Self::Anonymous => Err(Denied::unknown(
                "this call needs the operator's token (<data-dir>/admin.token) as `authorization: Bearer <token>`",
            )),
        }
    }

    /// `Registry.*` for one service. Gives the workload's identity, if it is one.
    pub(crate) fn may_register(
        &self,
        namespace: &str,
        service: &str,
    ) -> Result<Option<&SpiffeId>, Denied> {
        match self {
            Self::Operator | Self::Plaintext => Ok(None),
            Self::Workload(id)
                if id.namespace() == namespace && id.service_account() == service =>
            {
                Ok(Some(id))
            }
            Self::Workload(id) => Err(Denied::forbidden(format!(
                "{id} may register {}/{} only, not {namespace}/{service}",
                id.namespace(),
                id.service_account()
            ))),
            Self::Bearer(_) => Err(Denied::unknown(
                "the bearer token is not the operator's; a join token only buys a certificate (Identity.IssueCertificate)",
            )),
            Self::Expired(id) => Err(ended(id)),
            Self::Anonymous => Err(Denied::unknown(
                "this call needs a workload certificate or the operator's token",
            )),
        }
    }

    /// xDS: gives the workload's identity, None for the operator (who may claim any node).
    /// Whether the node that a workload claims fits its identity is for the stream to check.
    pub(crate) fn may_subscribe(&self) -> Result<Option<&SpiffeId>, Denied> {
        match self {
            Self::Operator | Self::Plaintext => Ok(None),
            Self::Workload(id) => Ok(Some(id)),
            Self::Bearer(_) => Err(Denied::unknown(
                "the bearer token is not the operator's; a join token only buys a certificate (Identity.IssueCertificate)",
            )),
            Self::Expired(id) => Err(ended(id)),
            Self::Anonymous => Err(Denied::unknown(
                "this call needs a workload certificate or the operator's token",
            )),
        }
    }
}

fn ended(id: &SpiffeId) -> Denied {
    Denied::unknown(format!(
        "the certificate of {id} has ended; renew it first (Identity.IssueCertificate)"
    ))
}

/// A refusal: of somebody known, or of somebody not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    /// `PermissionDenied` or `Unauthenticated`.
    pub(crate) code: Code,
    /// Why, and what would be right.
    pub(crate) message: String,
}

impl Denied {
    /// We know who it is; it may not.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self {
            code: Code::PermissionDenied,
            message: message.into(),
        }
    }

    /// We do not know who it is.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self {
            code: Code::Unauthenticated,
            message: message.into(),
        }
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        Self::new(denied.code, denied.message)
    }
}
