//! Whether a caller may do something with the application behind a sidecar's inbound port: for `outrigger can`.
//!
//! ```text
//! how it connects ─► the filter chain that takes it ─► its filters, in order ─► the first that refuses, or none
//! ```
//! The filters are converted and asked by what serves requests; so is the request checked before. Nothing is sent.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, HeaderValue, Request, header::HOST};
use outrigger_core::{
    Caller, ClusterSlot, Filter, HttpSettings, PeerNames, Rbac, RbacAction, Rules, Subject,
};
use outrigger_proto::envoy::{
    config::{
        core::v3::Metadata,
        listener::v3::{Filter as NetworkFilter, FilterChain, Listener, filter},
    },
    extensions::filters::network::{
        http_connection_manager::v3::HttpConnectionManager, rbac::v3::Rbac as NetworkRbac,
    },
};
use prost_types::{Any, Struct, value::Kind};

use crate::{
    forward,
    http::{
        check::{self, Refused},
        headers::{self, claims},
    },
    xds::convert::{fields, filters, manager, string, unpack},
};

const HCM: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const NETWORK_RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
/// Before the name of a server that is asked: rules that say whether it is.
const ASKED_RULES: &str = "envoy.filters.http.rbac.custom.";

/// Who wants to do what.
#[derive(Clone, Debug)]
pub struct AccessQuestion {
    /// Whom the caller's certificate names; None = it comes in plain text.
    pub identity: Option<String>,
    /// Where it comes from.
    pub from: IpAddr,
    /// Where it connects to.
    pub to: SocketAddr,
    /// Server name that its TLS asks for.
    pub server_name: String,
    /// Method.
    pub method: http::Method,
    /// Path, possibly with a query.
    pub path: String,
    /// Host, possibly with a port.
    pub host: String,
    /// Others.
    pub headers: Vec<(String, String)>,
}

/// What would come of it.
#[derive(Clone, Debug)]
pub struct Access {
    /// How connections have to be, and who says so.
    pub mode: WrittenMode,
    /// What a dry run would make of that.
    pub tried_mode: Option<WrittenMode>,
    /// The answer.
    pub verdict: AccessVerdict,
    /// Why, in words.
    pub why: String,
    /// The policy that decided, e.g. `ns[default]-policy[viewers]-rule[0]`.
    pub policy: Option<String>,
    /// Its line of YAML.
    pub position: Option<String>,
    /// Every filter that looked at it, in order.
    pub steps: Vec<AccessStep>,
    /// Whether the certificate counted: not on a port that is called in plain text.
    pub identity_seen: bool,
    /// Of HTTP: requests are judged. Else the connection.
    pub is_http: bool,
    /// Resources that the sidecar would refuse.
    pub refused: Vec<String>,
}

/// Whether a caller gets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessVerdict {
    /// It does.
    Allowed,
    /// It does not.
    Denied,
    /// A server decides: its name.
    Asks(String),
}

/// What a PeerAuthentication says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenMode {
    /// `STRICT`, `PERMISSIVE`, `DISABLE`.
    pub mode: String,
    /// Its line of YAML; None = nobody has said anything.
    pub position: Option<String>,
    /// The document.
    pub document: Option<String>,
}

/// What one filter said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessStep {
    /// Its name.
    pub filter: String,
    /// `ALLOW`, `DENY`, `LOG`; empty = rules that are only tried.
    pub action: &'static str,
    /// It lets the caller pass.
    pub passes: bool,
    /// The policy that matched, and its line of YAML.
    pub policy: Option<(String, Option<String>)>,
    /// What rules that are only tried would say.
    pub tried: Option<Tried>,
}

/// What rules that are not in force would say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// They would let the caller pass.
    pub passes: bool,
    /// The policy that matched, and its line of YAML.
    pub policy: Option<(String, Option<String>)>,
}

/// Asks the inbound side of a sidecar.
pub(super) fn judge(inbound: &Listener, question: &AccessQuestion) -> Result<Access, String> {
    let (mode, tried_mode) = modes(inbound);
    let mut access = Access {
        mode,
        tried_mode,
        verdict: AccessVerdict::Allowed,
        why: String::new(),
        policy: None,
        position: None,
        steps: Vec::new(),
        identity_seen: false,
        is_http: true,
        refused: Vec::new(),
    };
    let chains = || inbound.filter_chains.iter();
    let secure = chains().find(|chain| chain.transport_socket.is_some());
    let plain = chains().find(|chain| chain.transport_socket.is_none());
    let chain = match (question.identity.is_some(), secure, plain) {
        (true, Some(chain), _) => {
            access.identity_seen = true;
            chain
        }
        // Such ports are called in plain text, whoever calls.
        (true, None, Some(chain)) | (false, _, Some(chain)) => chain,
        (false, Some(_), None) => {
            access.verdict = AccessVerdict::Denied;
            access.why = "a caller without a certificate of the mesh is refused in the TLS handshake, before any policy".to_owned();
            access.position.clone_from(&access.mode.position);
            return Ok(access);
        }
        (_, None, None) => return Err("the inbound listener has no filter chain".to_owned()),
    };
    Chain::of(chain, question, &mut access)?.judge()?;
    Ok(access)
}

/// One filter chain, asked.
struct Chain<'a> {
    chain: &'a FilterChain,
    question: &'a AccessQuestion,
    access: &'a mut Access,
    local: SocketAddr,
}

impl<'a> Chain<'a> {
    fn of(
        chain: &'a FilterChain,
        question: &'a AccessQuestion,
        access: &'a mut Access,
    ) -> Result<Self, String> {
        if chain.filters.is_empty() {
            return Err("the filter chain is empty".to_owned());
        }
        Ok(Self {
            chain,
            question,
            access,
            local: question.to,
        })
    }

    fn judge(mut self) -> Result<(), String> {
        let last = self.chain.filters.last().and_then(config);
        let is = |any: &&Any| fields::type_name(&any.type_url) == HCM;
        if let Some(any) = last.filter(is) {
            let manager: HttpConnectionManager =
                unpack(any, HCM).map_err(|error| error.to_string())?;
            // Nobody is asked: which cluster would be does not matter.
            let mut slots = |_: &str| ClusterSlot(0);
            let settings =
                manager::settings(&manager, &mut slots).map_err(|error| error.to_string())?;
            return self.request(settings.as_deref());
        }
        self.access.is_http = false;
        let subject = Subject {
            caller: self.caller(),
            request: None,
            believes: false,
            trusted_hops: 0,
            claims: &[],
        };
        for filter in &self.chain.filters {
            let any = config(filter);
            let is = |any: &&Any| fields::type_name(&any.type_url) == NETWORK_RBAC;
            if let Some(any) = any.filter(is) {
                let rbac: NetworkRbac =
                    unpack(any, NETWORK_RBAC).map_err(|error| error.to_string())?;
                let rbac = filters::of_connections(&rbac).map_err(|error| error.to_string())?;
                if self.ask(&filter.name, &rbac, &subject).is_break() {
                    return Ok(());
                }
            }
        }
        self.passed();
        Ok(())
    }

    fn request(&mut self, settings: Option<&HttpSettings>) -> Result<(), String> {
        let mut parts = self.parts()?;
        let authority = match check::admit(&mut parts, None, usize::MAX) {
            Ok(authority) => authority,
            Err(refused) => {
                self.access.verdict = AccessVerdict::Denied;
                self.access.why = match refused {
                    Refused::Bad(message) => format!("the request is malformed (400): {message}"),
                    Refused::TooLarge(message) => format!("too large (431): {message}"),
                    Refused::NotSupported(message) => format!("not supported (501): {message}"),
                };
                return Ok(());
            }
        };
        headers::strip_hop_by_hop(&mut parts.headers, false);
        claims::strip_request(&mut parts.headers, self.caller().peer.is_some());
        let Some(settings) = settings else {
            self.passed();
            return Ok(());
        };
        let request = forward::view(&parts, &authority);
        let subject = Subject {
            caller: self.caller(),
            request: Some(&request),
            believes: !settings.own_address,
            trusted_hops: settings.trusted_hops,
            claims: &[],
        };
        for filter in settings.filters.iter().filter(|filter| !filter.disabled) {
            if let Filter::Rbac(rbac) = &filter.filter
                && self.ask(&filter.name, rbac, &subject).is_break()
            {
                return Ok(());
            }
        }
        self.passed();
        Ok(())
    }

    /// What one filter's rules say. Break = they refuse it.
    fn ask(
        &mut self,
        filter: &str,
        rbac: &Rbac,
        subject: &Subject<'_>,
    ) -> std::ops::ControlFlow<()> {
        let metadata = self.chain.metadata.as_ref();
        let named = |policy: Option<&std::sync::Arc<str>>| {
            policy.map(|name| (name.to_string(), position(metadata, name)))
        };
        let verdict = |rules: &Rules| {
            let judgement = rules.judge(subject);
            (judgement.allowed, named(judgement.policy))
        };
        let tried = rbac.shadow.as_ref().map(|rules| {
            let (passes, policy) = verdict(rules);
            Tried { passes, policy }
        });
        if let Some(provider) = filter.strip_prefix(ASKED_RULES) {
            if let Some((policy, position)) = tried.and_then(|tried| tried.policy)
                && self.access.verdict == AccessVerdict::Allowed
            {
                self.access.verdict = AccessVerdict::Asks(provider.to_owned());
                self.access.policy = Some(policy);
                self.access.position = position;
            }
            return std::ops::ControlFlow::Continue(());
        }
        let (mut passes, mut action, mut policy) = (true, "", None);
        if let Some(rules) = &rbac.rules {
            (passes, policy) = verdict(rules);
            action = match rules.action() {
                RbacAction::Allow => "ALLOW",
                RbacAction::Deny => "DENY",
                RbacAction::Log => "LOG",
            };
            if !passes {
                self.access.why = rules.why(&rules.judge(subject));
            }
        }
        if !passes || (action == "ALLOW" && self.access.verdict == AccessVerdict::Allowed) {
            let (name, position) = policy.clone().unzip();
            self.access.policy = name;
            self.access.position = position.flatten();
        }
        self.access.steps.push(AccessStep {
            filter: filter.to_owned(),
            action,
            passes,
            policy,
            tried,
        });
        if passes {
            return std::ops::ControlFlow::Continue(());
        }
        self.access.verdict = AccessVerdict::Denied;
        std::ops::ControlFlow::Break(())
    }

    fn passed(&mut self) {
        self.access.why = match &self.access.verdict {
            AccessVerdict::Asks(provider) => {
                format!(
                    "the provider {provider:?} is asked, and decides; everything else lets it pass"
                )
            }
            _ => match (&self.access.policy, self.access.steps.is_empty()) {
                (Some(policy), _) => format!("policy {policy:?} allows it"),
                (None, true) => "no policy asks for anything".to_owned(),
                (None, false) => "no policy refuses it".to_owned(),
            },
        };
    }

    fn caller(&self) -> Caller<'a> {
        let identity = self.question.identity.as_deref();
        let identity = identity.filter(|_| self.access.identity_seen);
        Caller {
            remote: self.question.from,
            local: Some(self.local),
            peer: identity.map(|uri| PeerNames {
                uri,
                dns: &[],
                subject: "",
            }),
            server_name: match self.access.identity_seen {
                true => &self.question.server_name,
                false => "",
            },
        }
    }

    fn parts(&self) -> Result<http::request::Parts, String> {
        let question = self.question;
        let request = Request::builder()
            .method(&question.method)
            .uri(&question.path)
            .header(HOST, &question.host)
            .body(());
        let (mut parts, ()) = request
            .map_err(|error| format!("{}: {error}", question.path))?
            .into_parts();
        for (name, value) in &question.headers {
            let key = HeaderName::from_bytes(name.as_bytes());
            let key = key.map_err(|error| format!("{name}: {error}"))?;
            let value = HeaderValue::from_str(value).map_err(|error| format!("{name}: {error}"))?;
            parts.headers.append(key, value);
        }
        Ok(parts)
    }
}

fn config(filter: &NetworkFilter) -> Option<&Any> {
    match filter.config_type.as_ref()? {
        filter::ConfigType::TypedConfig(any) => Some(any),
        filter::ConfigType::ConfigDiscovery(_) => None,
    }
}

fn ours(metadata: Option<&Metadata>) -> Option<&Struct> {
    metadata?.filter_metadata.get("outrigger")
}

fn inner<'a>(of: Option<&'a Struct>, key: &str) -> Option<&'a Struct> {
    match &of?.fields.get(key)?.kind {
        Some(Kind::StructValue(value)) => Some(value),
        _ => None,
    }
}

fn position(metadata: Option<&Metadata>, policy: &str) -> Option<String> {
    let policies = inner(ours(metadata), "policies")?;
    string(policies, policy).map(str::to_owned)
}

/// As the listener says it, else as its chains are.
fn modes(inbound: &Listener) -> (WrittenMode, Option<WrittenMode>) {
    let ours = ours(inbound.metadata.as_ref());
    let said = |of: Option<&Struct>, mode: &str| {
        let field = |name| Some(string(of?, name)?.to_owned());
        Some(WrittenMode {
            mode: field(mode)?,
            position: field("position"),
            document: field("document"),
        })
    };
    let all = || inbound.filter_chains.iter();
    let as_built = match (
        all().any(|chain| chain.transport_socket.is_some()),
        all().any(|chain| chain.transport_socket.is_none()),
    ) {
        (true, false) => "STRICT",
        (true, true) => "PERMISSIVE",
        _ => "DISABLE",
    };
    let in_force = said(inner(ours, "mtls"), "mode");
    let in_force = in_force.unwrap_or_else(|| WrittenMode {
        mode: as_built.to_owned(),
        ..WrittenMode::default()
    });
    (in_force, said(inner(ours, "dry_run"), "mtls"))
}
