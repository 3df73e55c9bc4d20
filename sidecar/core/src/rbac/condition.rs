//! What a policy may ask about a subject. One type for what is asked and who asks, since the two share most of it.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use foldhash::fast::FixedState;

use super::{Cidr, ClaimMatch, PeerNames, Subject};
use crate::{
    HeaderMatch, StringMatch,
    route::{RequestView, path_of},
};

/// A condition. Its regular expressions match as a whole.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Always holds.
    Any,
    /// All of them.
    All(Box<[Self]>),
    /// At least one of them.
    OneOf(Box<[Self]>),
    /// The opposite.
    Not(Box<Self>),
    /// A header; without a request it is missing.
    Header(HeaderMatch),
    /// The path without its query; without a request there is none.
    Path(StringMatch),
    /// The path is one of these.
    PathIn(Names),
    /// Where the caller connected to.
    DestinationIp(Cidr),
    /// Port that it connected to: the first, and the one after the last.
    DestinationPorts(u32, u32),
    /// Server name that TLS asked for.
    ServerName(StringMatch),
    /// The caller has shown a certificate.
    Authenticated,
    /// A name of its certificate: URI, DNS name or subject.
    Principal(StringMatch),
    /// A name of its certificate is one of these.
    PrincipalIn(Names),
    /// Address of the connection's other end.
    DirectRemoteIp(Cidr),
    /// Address that `x-forwarded-for` ends in, or else the connection's.
    RemoteIp(Cidr),
    /// What a verified token says.
    Claim(ClaimMatch),
}

/// Exact names, however many: one look each.
#[derive(Clone, Debug)]
pub struct Names(HashSet<Box<str>, FixedState>);

impl Names {
    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        Self(names.into_iter().map(Box::from).collect())
    }
}

impl Condition {
    /// At least one of `conditions`; of none, it never holds. Exact names become one set.
    #[must_use]
    pub fn one_of(conditions: Vec<Self>) -> Self {
        let (mut principals, mut paths, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for condition in conditions {
            match condition {
                Self::Any => return Self::Any,
                Self::Principal(StringMatch::Exact(name, false)) => principals.push(name),
                Self::Path(StringMatch::Exact(path, false)) => paths.push(path),
                other => others.push(other.anchored()),
            }
        }
        let set = |names: &[String]| names.iter().map(String::as_str).collect::<Names>();
        if !paths.is_empty() {
            others.insert(0, Self::PathIn(set(&paths)));
        }
        if !principals.is_empty() {
            others.insert(0, Self::PrincipalIn(set(&principals)));
        }
        match others.len() {
            1 => others.swap_remove(0),
            _ => Self::OneOf(others.into()),
        }
    }

    /// All of `conditions`; of none, it always holds.
    #[must_use]
    pub fn all_of(conditions: Vec<Self>) -> Self {
        let conditions: Vec<Self> = conditions.into_iter().map(Self::anchored).collect();
        Self::All(conditions.into())
    }

    /// The opposite of `condition`.
    #[must_use]
    pub fn opposite(condition: Self) -> Self {
        Self::Not(Box::new(condition.anchored()))
    }

    fn anchored(self) -> Self {
        match self {
            Self::Header(header) => Self::Header(header.whole()),
            Self::Path(text) => Self::Path(text.whole()),
            Self::ServerName(text) => Self::ServerName(text.whole()),
            Self::Principal(text) => Self::Principal(text.whole()),
            Self::Claim(claim) => Self::Claim(claim.whole()),
            other => other,
        }
    }

    pub(super) fn holds(&self, subject: &Subject<'_>) -> bool {
        let caller = &subject.caller;
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().all(|one| one.holds(subject)),
            Self::OneOf(some) => some.iter().any(|one| one.holds(subject)),
            Self::Not(one) => !one.holds(subject),
            Self::Header(header) => subject.request.is_some_and(|request| header.holds(request)),
            Self::Path(text) => path(subject).is_some_and(|path| text.holds(Some(path.as_bytes()))),
            Self::PathIn(names) => path(subject).is_some_and(|path| names.contains(path)),
            Self::DestinationIp(range) => {
                caller.local.is_some_and(|local| range.contains(local.ip()))
            }
            Self::DestinationPorts(first, end) => {
                let port = caller.local.as_ref().map(SocketAddr::port);
                port.is_some_and(|port| (*first..*end).contains(&u32::from(port)))
            }
            Self::ServerName(text) => text.holds(Some(caller.server_name.as_bytes())),
            Self::Authenticated => caller.peer.is_some(),
            Self::Principal(text) => one_name(caller.peer.as_ref(), |name| {
                text.holds(Some(name.as_bytes()))
            }),
            Self::PrincipalIn(names) => one_name(caller.peer.as_ref(), |name| names.contains(name)),
            Self::DirectRemoteIp(range) => range.contains(caller.remote),
            Self::RemoteIp(range) => range.contains(remote_ip(subject)),
            Self::Claim(claim) => claim.holds(subject.claims),
        }
    }
}

fn path<'a>(subject: &Subject<'a>) -> Option<&'a str> {
    subject
        .request
        .map(|request| path_of(request.path_and_query))
}

/// Envoy's order; the first that is right is enough.
fn one_name(peer: Option<&PeerNames<'_>>, is_right: impl Fn(&str) -> bool) -> bool {
    peer.is_some_and(|peer| {
        is_right(peer.uri) || peer.dns.iter().any(|name| is_right(name)) || is_right(peer.subject)
    })
}

/// As Envoy's with `use_remote_address: false`: what the last proxy before us says, if it says an address.
fn remote_ip(subject: &Subject<'_>) -> IpAddr {
    let request = subject.request.filter(|_| subject.believes);
    let said = request.and_then(|request| forwarded_for(request, subject.trusted_hops));
    said.unwrap_or(subject.caller.remote)
}

fn forwarded_for(request: &RequestView<'_>, hops: u32) -> Option<IpAddr> {
    let values = request.headers.get_all(FORWARDED_FOR).iter().rev();
    let mut addresses = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let address = addresses.nth(usize::try_from(hops).ok()?)?;
    std::str::from_utf8(address).ok()?.trim().parse().ok()
}

const FORWARDED_FOR: &str = "x-forwarded-for";
