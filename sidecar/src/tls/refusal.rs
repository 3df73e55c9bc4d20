//! Why a TLS peer was turned away: one closed set, for the counter's label and the log.

use std::fmt;

use rustls::{CertificateError, Error, PeerIncompatible};

/// Reason for a refused handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The client showed no certificate.
    NoCertificate,
    /// Bytes that are not TLS.
    Plaintext,
    /// No handshake within the time.
    Timeout,
    /// The peer went away.
    Closed,
    /// Not a chain to one of our roots, or expired, or for another use.
    Chain(String),
    /// Not a valid SVID: the rule that was broken.
    NotAnSvid(&'static str),
    /// A SPIFFE id of another trust domain.
    TrustDomain(String),
    /// A valid SVID, but not of the service that was called.
    UnexpectedPeer {
        /// Who answered.
        found: String,
        /// Who was expected.
        expected: String,
    },
    /// We hold no identity yet.
    NoIdentity,
    /// The files that a connection is to be made with cannot be used.
    Files(String),
    /// Anything else: versions, cipher suites, alerts of the peer.
    Protocol(String),
}

impl Refusal {
    /// For the metric's label; a closed set.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Plaintext => "plaintext",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Chain(_) => "chain",
            Self::NotAnSvid(_) => "not_an_svid",
            Self::TrustDomain(_) => "trust_domain",
            Self::UnexpectedPeer { .. } => "unexpected_peer",
            Self::NoIdentity => "no_identity",
            Self::Files(_) => "files",
            Self::Protocol(_) => "protocol",
        }
    }

    /// The fault is on this side: the peer was not even asked.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::NoIdentity | Self::Files(_))
    }

    /// The reason behind what a handshake failed with.
    pub(crate) fn of(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(CertificateError::Other(other))) => other
                .0
                .downcast_ref::<Self>()
                .cloned()
                .unwrap_or_else(|| Self::Chain(other.to_string())),
            Some(Error::InvalidCertificate(reason)) => Self::Chain(reason.to_string()),
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidMessage(_)) => Self::Plaintext,
            Some(Error::PeerIncompatible(
                PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
            )) => Self::NoCertificate,
            Some(other) => Self::Protocol(other.to_string()),
            None => match error.kind() {
                std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::BrokenPipe => Self::Closed,
                _ => Self::Protocol(error.to_string()),
            },
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(rustls::OtherError(
            std::sync::Arc::new(refusal),
        )))
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("the client showed no certificate"),
            Self::Plaintext => f.write_str("the peer did not speak TLS"),
            Self::Timeout => f.write_str("no TLS handshake within its time"),
            Self::Closed => f.write_str("the peer closed the connection during the TLS handshake"),
            Self::Chain(reason) => write!(f, "the certificate chain was refused: {reason}"),
            Self::NotAnSvid(rule) => write!(f, "not a SPIFFE certificate: {rule}"),
            Self::TrustDomain(id) => write!(f, "{id} is of another trust domain"),
            Self::UnexpectedPeer { found, expected } => {
                write!(f, "the server is {found}, expected {expected}")
            }
            Self::NoIdentity => f.write_str("this sidecar holds no certificate yet"),
            Self::Files(reason) => f.write_str(reason),
            Self::Protocol(reason) => write!(f, "TLS failed: {reason}"),
        }
    }
}
