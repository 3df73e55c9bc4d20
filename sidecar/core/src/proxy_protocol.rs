//! PROXY protocol: which headers a listener takes, and which a cluster's connections begin with.
//!
//! Source: the specification that HAProxy publishes; Envoy's listener filter and transport socket.

use std::time::Duration;

/// Of the header's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What connections of a listener begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// A connection without a header is taken for what it is.
    pub optional: bool,
    /// Versions that are taken.
    pub versions: (bool, bool),
    /// The header has to be there by then.
    pub within: Duration,
    /// Where it is optional, a connection that has said nothing by then is taken for one without.
    pub silence_is_none: bool,
}

impl ProxyProtocol {
    /// Whether a header of this version is taken.
    #[must_use]
    pub fn takes(&self, version: ProxyVersion) -> bool {
        match version {
            ProxyVersion::V1 => self.versions.0,
            ProxyVersion::V2 => self.versions.1,
        }
    }
}
