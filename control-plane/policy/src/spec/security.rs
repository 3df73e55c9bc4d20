//! Who may call a workload, and how: mutual TLS and access rules.
//! Source: Istio `security/v1` PeerAuthentication and AuthorizationPolicy.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::At;
use crate::Position;

/// How the selected workloads take connections.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    /// Labels of the workloads. None = every workload of the namespace; in the root namespace, of the mesh.
    pub selector: Option<At<BTreeMap<String, String>>>,
    /// None = as what is less specific says (`UNSET`).
    pub mode: Option<At<MtlsMode>>,
    /// By the workload's port: the one that it is registered with. Only with a selector.
    pub ports: BTreeMap<u16, At<MtlsMode>>,
}

/// What a connection has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MtlsMode {
    /// Plain text.
    Disable,
    /// Either.
    Permissive,
    /// Mutual TLS of the mesh.
    #[default]
    Strict,
}

impl MtlsMode {
    /// `STRICT`, `PERMISSIVE`, `DISABLE`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

impl fmt::Display for MtlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Labels of the workloads. None = every workload of the namespace; in the root namespace, of the mesh.
    pub selector: Option<At<BTreeMap<String, String>>>,
    /// What is done with what the rules match.
    pub action: AuthorizationAction,
    /// One that matches is enough. Empty only with [`AuthorizationAction::Allow`], and then nothing is allowed.
    pub rules: Vec<AuthorizationRule>,
}

/// What is done with what a policy's rules match.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthorizationAction {
    /// Only what some ALLOW policy of the workload matches is let through.
    Allow,
    /// It is refused, whatever is allowed.
    Deny,
    /// It is counted.
    Audit,
    /// A server is asked: the provider of this name.
    Custom(At<String>),
}

impl AuthorizationAction {
    /// `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom(_) => "CUSTOM",
        }
    }
}

/// `rules[]`: matches if one of `from`, one of `to` and all of `when` do.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationRule {
    /// Where it stands.
    pub position: Position,
    /// `from[].source`: all clauses of one have to hold. Empty = anybody.
    pub from: Vec<Vec<Clause>>,
    /// `to[].operation`. Empty = anything.
    pub to: Vec<Vec<Clause>>,
    /// All have to hold.
    pub when: Vec<Clause>,
}

impl AuthorizationRule {
    /// Every clause, with its path below the rule: `from[0].source.principals`.
    pub fn clauses(&self) -> impl Iterator<Item = &Clause> {
        let groups = self.from.iter().chain(&self.to).flatten();
        groups.chain(&self.when)
    }
}

/// A field and its `not` twin, or one condition of `when`.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    /// What is looked at.
    pub attribute: Attribute,
    /// Where it stands below the rule: `from[0].source.principals`, `when[1]`.
    pub path: String,
    /// One of these has to hold. Empty = no matter.
    pub values: Vec<At<ClauseValue>>,
    /// None of these may hold.
    pub not_values: Vec<At<ClauseValue>>,
}

/// What a clause looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `principals`, `source.principal`: `<trust domain>/ns/<namespace>/sa/<service account>` of the certificate.
    SourcePrincipal,
    /// `namespaces`, `source.namespace`: of the certificate.
    SourceNamespace,
    /// `serviceAccounts`: of the certificate.
    SourceServiceAccount,
    /// `ipBlocks`, `source.ip`: the connection's other end.
    SourceIp,
    /// `remoteIpBlocks`, `remote.ip`: what `x-forwarded-for` says, if it is believed.
    RemoteIp,
    /// `requestPrincipals`, `request.auth.principal`: issuer and subject of a token.
    RequestPrincipal,
    /// `request.auth.audiences`.
    RequestAudiences,
    /// `request.auth.presenter`.
    RequestPresenter,
    /// `request.auth.claims[a][b]`.
    RequestClaim(Vec<String>),
    /// `request.headers[name]`, in lower case.
    RequestHeader(String),
    /// `hosts`.
    Host,
    /// `methods`.
    Method,
    /// `paths`.
    Path,
    /// `ports`, `destination.port`: the port that the workload is registered with.
    Port,
    /// `destination.ip`.
    DestinationIp,
    /// `connection.sni`.
    ServerName,
}

impl Attribute {
    /// Whether connections that are not HTTP have none.
    #[must_use]
    pub const fn is_http_only(&self) -> bool {
        matches!(
            self,
            Self::RequestPrincipal
                | Self::RequestAudiences
                | Self::RequestPresenter
                | Self::RequestClaim(_)
                | Self::RequestHeader(_)
                | Self::Host
                | Self::Method
                | Self::Path
        )
    }

    /// Whether it is about what is asked, and not about who asks.
    #[must_use]
    pub const fn is_of_the_destination(&self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::Method
                | Self::Path
                | Self::Port
                | Self::DestinationIp
                | Self::ServerName
        )
    }

    /// Whether only a certificate of the caller has it.
    #[must_use]
    pub const fn is_of_the_certificate(&self) -> bool {
        matches!(
            self,
            Self::SourcePrincipal | Self::SourceNamespace | Self::SourceServiceAccount
        )
    }
}

/// What a value of a clause asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClauseValue {
    /// A text.
    Text(TextMatch),
    /// A path by its segments, in Envoy's words: `*` = one segment, `**` = the rest.
    Template(String),
    /// Addresses; the bits beyond the prefix are 0.
    Network(IpAddr, u8),
    /// A port.
    Port(u16),
    /// A service account.
    Account {
        /// Its namespace; that of the document where none is written.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// A text as Istio writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// `abc`.
    Exact(String),
    /// `abc*`.
    Prefix(String),
    /// `*abc`.
    Suffix(String),
    /// `*`: anything but nothing.
    Present,
}

impl TextMatch {
    /// Reads `abc`, `abc*`, `*abc` and `*`.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if text == "*" {
            return Self::Present;
        }
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(suffix), _) => Self::Suffix(suffix.to_owned()),
            (None, Some(prefix)) => Self::Prefix(prefix.to_owned()),
            (None, None) => Self::Exact(text.to_owned()),
        }
    }

    /// Whether it holds for `text`.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => text == wanted,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
            Self::Present => !text.is_empty(),
        }
    }
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
        }
    }
}
