//! What one value of a clause is in Envoy's words: a permission where it is about what is asked, a principal where it is
//! about who asks.
//!
//! Namespaces and service accounts are those of our trust domain: only its certificates get in, and a name in another one
//! would be somebody else's.

use std::net::IpAddr;

use outrigger_policy::{Attribute, ClauseValue, TextMatch};
use outrigger_proto::envoy::{
    config::{
        core::v3::{CidrRange, TypedExtensionConfig},
        rbac::v3::{
            Permission, Principal, permission,
            permission::Rule,
            principal,
            principal::{Authenticated, Identifier},
        },
        route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
    },
    extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig,
    r#type::matcher::v3::{
        ListMatcher, MetadataMatcher, OrMatcher, PathMatcher, RegexMatcher, StringMatcher,
        ValueMatcher, list_matcher, metadata_matcher::PathSegment, metadata_matcher::path_segment,
        path_matcher, string_matcher::MatchPattern, value_matcher,
    },
};

use super::{super::any::any, Workload};

/// A permission or a principal.
pub(super) trait Term: Sized {
    /// Always holds.
    fn any() -> Self;
    /// Of several.
    fn set_of_all(all: Vec<Self>) -> Self;
    /// Of several.
    fn set_of_some(some: Vec<Self>) -> Self;
    fn opposite(one: Self) -> Self;
    /// What `value` asks of `attribute`.
    fn of(attribute: &Attribute, value: &ClauseValue, workload: &Workload<'_>) -> Self;

    fn never() -> Self {
        Self::opposite(Self::any())
    }

    fn all_of(mut all: Vec<Self>) -> Self {
        match (all.pop(), all.is_empty()) {
            (None, _) => Self::any(),
            (Some(only), true) => only,
            (Some(last), false) => {
                all.push(last);
                Self::set_of_all(all)
            }
        }
    }

    fn one_of(mut some: Vec<Self>) -> Self {
        match (some.pop(), some.is_empty()) {
            (None, _) => Self::never(),
            (Some(only), true) => only,
            (Some(last), false) => {
                some.push(last);
                Self::set_of_some(some)
            }
        }
    }
}

impl Term for Permission {
    fn any() -> Self {
        permission(Rule::Any(true))
    }

    fn set_of_all(rules: Vec<Self>) -> Self {
        permission(Rule::AndRules(permission::Set { rules }))
    }

    fn set_of_some(rules: Vec<Self>) -> Self {
        permission(Rule::OrRules(permission::Set { rules }))
    }

    fn opposite(one: Self) -> Self {
        permission(Rule::NotRule(Box::new(one)))
    }

    fn of(attribute: &Attribute, value: &ClauseValue, workload: &Workload<'_>) -> Self {
        match (attribute, value) {
            (Attribute::Host, ClauseValue::Text(text)) => {
                permission(Rule::Header(header(":authority", text, true)))
            }
            (Attribute::Method, ClauseValue::Text(text)) => {
                permission(Rule::Header(header(":method", text, false)))
            }
            (Attribute::Path, ClauseValue::Text(text)) => permission(Rule::UrlPath(PathMatcher {
                rule: Some(path_matcher::Rule::Path(string(text))),
            })),
            (Attribute::Path, ClauseValue::Template(template)) => {
                permission(Rule::UriTemplate(uri_template(template)))
            }
            (Attribute::Port, ClauseValue::Port(port)) if workload.elsewhere => {
                permission(Rule::DestinationPort(u32::from(*port)))
            }
            // The connection ends at the sidecar's own port. Which one the application has is known here.
            (Attribute::Port, ClauseValue::Port(port)) if *port == workload.port => Self::any(),
            (Attribute::DestinationIp, ClauseValue::Network(address, bits)) => {
                permission(Rule::DestinationIp(range(*address, *bits)))
            }
            (Attribute::ServerName, ClauseValue::Text(text)) => {
                permission(Rule::RequestedServerName(string(text)))
            }
            _ => Self::never(),
        }
    }
}

impl Term for Principal {
    fn any() -> Self {
        principal(Identifier::Any(true))
    }

    fn set_of_all(ids: Vec<Self>) -> Self {
        principal(Identifier::AndIds(principal::Set { ids }))
    }

    fn set_of_some(ids: Vec<Self>) -> Self {
        principal(Identifier::OrIds(principal::Set { ids }))
    }

    fn opposite(one: Self) -> Self {
        principal(Identifier::NotId(Box::new(one)))
    }

    fn of(attribute: &Attribute, value: &ClauseValue, workload: &Workload<'_>) -> Self {
        let domain = workload.trust_domain;
        match (attribute, value) {
            (Attribute::SourcePrincipal, ClauseValue::Text(text)) => named(spiffe(text, domain)),
            (Attribute::SourceNamespace, ClauseValue::Text(text)) => named(namespace(text, domain)),
            (Attribute::SourceServiceAccount, ClauseValue::Account { namespace, name }) => {
                let id = format!("spiffe://{domain}/ns/{namespace}/sa/{name}");
                named(MatchPattern::Exact(id))
            }
            (Attribute::SourceIp, ClauseValue::Network(address, bits)) => {
                principal(Identifier::DirectRemoteIp(range(*address, *bits)))
            }
            (Attribute::RemoteIp, ClauseValue::Network(address, bits)) => {
                principal(Identifier::RemoteIp(range(*address, *bits)))
            }
            (Attribute::RequestHeader(name), ClauseValue::Text(text)) => {
                principal(Identifier::Header(header(name, text, false)))
            }
            (Attribute::RequestPrincipal, ClauseValue::Text(text)) => request_principal(text),
            (Attribute::RequestAudiences, ClauseValue::Text(text)) => claim(&["aud"], text),
            (Attribute::RequestPresenter, ClauseValue::Text(text)) => claim(&["azp"], text),
            (Attribute::RequestClaim(path), ClauseValue::Text(text)) => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                claim(&path, text)
            }
            _ => Self::never(),
        }
    }
}

const fn permission(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

const fn principal(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

/// Of a certificate that has been verified.
fn named(name: MatchPattern) -> Principal {
    principal(Identifier::Authenticated(Authenticated {
        principal_name: Some(StringMatcher {
            match_pattern: Some(name),
            ..StringMatcher::default()
        }),
    }))
}

/// Where Istio's documents mean the mesh's own trust domain, whatever that is called.
const OWN_DOMAIN: &str = "cluster.local/";

/// `<trust domain>/ns/<namespace>/sa/<service account>`, which is written without its scheme.
fn spiffe(text: &TextMatch, domain: &str) -> MatchPattern {
    let own = |text: &str| match text.strip_prefix(OWN_DOMAIN) {
        Some(rest) => format!("spiffe://{domain}/{rest}"),
        None => format!("spiffe://{text}"),
    };
    match text {
        TextMatch::Exact(text) => MatchPattern::Exact(own(text)),
        TextMatch::Prefix(text) => MatchPattern::Prefix(own(text)),
        TextMatch::Suffix(text) => MatchPattern::Suffix(text.clone()),
        TextMatch::Present => MatchPattern::Prefix("spiffe://".to_owned()),
    }
}

fn namespace(text: &TextMatch, domain: &str) -> MatchPattern {
    match text {
        TextMatch::Exact(name) => MatchPattern::Prefix(format!("spiffe://{domain}/ns/{name}/sa/")),
        TextMatch::Prefix(name) => MatchPattern::Prefix(format!("spiffe://{domain}/ns/{name}")),
        TextMatch::Present => MatchPattern::Prefix(format!("spiffe://{domain}/ns/")),
        TextMatch::Suffix(name) => {
            let (domain, name) = (escaped(domain), escaped(name));
            regex(format!("spiffe://{domain}/ns/[^/]*{name}/sa/.*"))
        }
    }
}

/// As it stands, in an expression.
fn escaped(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            all.push('\\');
        }
        all.push(c);
    }
    all
}

fn regex(regex: String) -> MatchPattern {
    MatchPattern::SafeRegex(RegexMatcher { regex })
}

fn string(text: &TextMatch) -> StringMatcher {
    let pattern = match text {
        TextMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        TextMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        TextMatch::Suffix(text) => MatchPattern::Suffix(text.clone()),
        TextMatch::Present => regex(".+".to_owned()),
    };
    StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }
}

fn header(name: &str, text: &TextMatch, ignore_case: bool) -> HeaderMatcher {
    let specifier = match text {
        TextMatch::Present => HeaderMatchSpecifier::PresentMatch(true),
        text => HeaderMatchSpecifier::StringMatch(StringMatcher {
            ignore_case,
            ..string(text)
        }),
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    }
}

fn range(address: IpAddr, bits: u8) -> CidrRange {
    CidrRange {
        address_prefix: address.to_string(),
        prefix_len: Some(bits.into()),
    }
}

fn uri_template(template: &str) -> TypedExtensionConfig {
    let config = UriTemplateMatchConfig {
        path_template: template.to_owned(),
    };
    TypedExtensionConfig {
        name: "envoy.path.match.uri_template.uri_template_matcher".to_owned(),
        typed_config: Some(any(
            "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            &config,
        )),
    }
}

/// Where the filter for tokens leaves what they say.
const JWT: &str = "envoy.filters.http.jwt_authn";
/// Under this key.
const PAYLOAD: &str = "payload";

/// A claim that is this text, or a list that has it.
fn claim(path: &[&str], text: &TextMatch) -> Principal {
    let one = || ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::StringMatch(string(text))),
    };
    let in_list = ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::ListMatch(Box::new(
            ListMatcher {
                match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(one()))),
            },
        ))),
    };
    payload(
        path,
        ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::OrMatch(OrMatcher {
                value_matchers: vec![one(), in_list],
            })),
        },
    )
}

fn payload(path: &[&str], value: ValueMatcher) -> Principal {
    let path = [PAYLOAD].into_iter().chain(path.iter().copied());
    let segment = |key: &str| PathSegment {
        segment: Some(path_segment::Segment::Key(key.to_owned())),
    };
    principal(Identifier::Metadata(MetadataMatcher {
        filter: JWT.to_owned(),
        path: path.map(segment).collect(),
        value: Some(value),
        ..MetadataMatcher::default()
    }))
}

/// `<issuer>/<subject>`. Both may have slashes: wherever the one in the middle is, it is this text that they make.
fn request_principal(text: &TextMatch) -> Principal {
    let is = |name: &str, text: TextMatch| {
        payload(
            &[name],
            ValueMatcher {
                match_pattern: Some(value_matcher::MatchPattern::StringMatch(string(&text))),
            },
        )
    };
    let both = |issuer: TextMatch, subject: TextMatch| {
        Principal::all_of(vec![is("iss", issuer), is("sub", subject)])
    };
    let splits = |text: &str| -> Vec<(String, String)> {
        let slashes = text.match_indices('/').map(|(at, _)| at);
        let parts = slashes.filter_map(|at| {
            let (issuer, subject) = text.split_at_checked(at)?;
            Some((issuer.to_owned(), subject.strip_prefix('/')?.to_owned()))
        });
        parts.collect()
    };
    // An empty text at an end matches anything that is there.
    let prefix = |text: String| match text.is_empty() {
        true => TextMatch::Present,
        false => TextMatch::Prefix(text),
    };
    let suffix = |text: String| match text.is_empty() {
        true => TextMatch::Present,
        false => TextMatch::Suffix(text),
    };
    match text {
        TextMatch::Present => both(TextMatch::Present, TextMatch::Present),
        TextMatch::Exact(text) => Principal::one_of(
            splits(text)
                .into_iter()
                .filter(|(issuer, subject)| !issuer.is_empty() && !subject.is_empty())
                .map(|(issuer, subject)| both(TextMatch::Exact(issuer), TextMatch::Exact(subject)))
                .collect(),
        ),
        TextMatch::Prefix(text) => {
            let within = both(prefix(text.clone()), TextMatch::Present);
            let beyond = splits(text)
                .into_iter()
                .filter(|(issuer, _)| !issuer.is_empty())
                .map(|(issuer, subject)| both(TextMatch::Exact(issuer), prefix(subject)));
            Principal::one_of([within].into_iter().chain(beyond).collect())
        }
        TextMatch::Suffix(text) => {
            let within = both(TextMatch::Present, suffix(text.clone()));
            let beyond = splits(text)
                .into_iter()
                .filter(|(_, subject)| !subject.is_empty())
                .map(|(issuer, subject)| both(suffix(issuer), TextMatch::Exact(subject)));
            Principal::one_of([within].into_iter().chain(beyond).collect())
        }
    }
}
