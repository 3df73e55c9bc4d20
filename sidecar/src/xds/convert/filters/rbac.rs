//! Access rules → [`Rbac`]. What is not done is refused, never left out: a condition less would let somebody in, or
//! out.

use outrigger_core::{
    Cidr, ClaimMatch, Condition, Policy, Rbac, RbacAction, Rules, StringMatch, ValueMatch,
};
use outrigger_proto::envoy::{
    config::{
        core::v3::{CidrRange, TypedExtensionConfig},
        rbac::v3::{
            self as proto, Permission, Principal, permission::Rule, principal::Identifier,
            rbac::Action,
        },
        route::v3::HeaderMatcher,
    },
    extensions::{
        filters::{http::rbac::v3 as http, network::rbac::v3 as network},
        path::r#match::uri_template::v3::UriTemplateMatchConfig,
    },
    r#type::matcher::v3::{
        MetadataMatcher, PathMatcher, ValueMatcher, double_matcher, list_matcher,
        metadata_matcher::path_segment, path_matcher, value_matcher,
    },
};

use super::super::{Converted, FieldError, fields, matches, refuse, unpack, unsupported};

/// What there is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Requests,
    Connections,
}

pub(super) fn of_requests(from: &http::Rbac) -> Converted<Rbac> {
    let rbac = both(
        from.rules.as_ref(),
        from.shadow_rules.as_ref(),
        Of::Requests,
    )?;
    let key = format!("{}{MARKING}", from.shadow_rules_stat_prefix);
    Ok(Rbac {
        marks: rbac.shadow.is_some().then(|| key.into()),
        ..rbac
    })
}

/// Where Envoy writes which of the policies that are only counted has matched.
const MARKING: &str = "shadow_effective_policy_id";

/// Of a chain without HTTP. Both `enforcement_type`s are the same here: what is known of a connection does not change.
pub(crate) fn of_connections(from: &network::Rbac) -> Converted<Rbac> {
    both(
        from.rules.as_ref(),
        from.shadow_rules.as_ref(),
        Of::Connections,
    )
}

fn both(in_force: Option<&proto::Rbac>, shadow: Option<&proto::Rbac>, of: Of) -> Converted<Rbac> {
    let part = |name: &str, part: Option<&proto::Rbac>| {
        let rules = part.map(|part| rules(part, of)).transpose();
        rules.map_err(|error| error.under(name))
    };
    Ok(Rbac {
        rules: part("rules", in_force)?,
        shadow: part("shadow_rules", shadow)?,
        marks: None,
    })
}

fn rules(from: &proto::Rbac, of: Of) -> Converted<Rules> {
    let action = match Action::try_from(from.action) {
        Ok(Action::Allow) => RbacAction::Allow,
        Ok(Action::Deny) => RbacAction::Deny,
        Ok(Action::Log) => RbacAction::Log,
        Err(_unknown) => return refuse("action", format!("{} is unknown", from.action)),
    };
    let mut policies = Vec::with_capacity(from.policies.len());
    for (name, policy) in &from.policies {
        let converted = convert(name, policy, of);
        policies.push(converted.map_err(|error| error.under(format!("policies[{name:?}]")))?);
    }
    Ok(Rules::new(action, policies))
}

fn convert(name: &str, from: &proto::Policy, of: Of) -> Converted<Policy> {
    let permissions = each("permissions", &from.permissions, |one| permission(one, of))?;
    let principals = each("principals", &from.principals, |one| principal(one, of))?;
    Ok(Policy::new(name, permissions, principals))
}

/// At least one.
fn each<T>(
    field: &str,
    from: &[T],
    convert: impl Fn(&T) -> Converted<Condition>,
) -> Converted<Vec<Condition>> {
    if from.is_empty() {
        return refuse(field, "is empty; at least one is needed");
    }
    let all = from.iter().enumerate();
    all.map(|(index, one)| convert(one).map_err(|error| error.under(format!("{field}[{index}]"))))
        .collect()
}

fn permission(from: &Permission, of: Of) -> Converted<Condition> {
    let inner = |one: &Permission| permission(one, of);
    match &from.rule {
        Some(Rule::AndRules(set)) => {
            each("and_rules.rules", &set.rules, inner).map(Condition::all_of)
        }
        Some(Rule::OrRules(set)) => {
            each("or_rules.rules", &set.rules, inner).map(Condition::one_of)
        }
        Some(Rule::NotRule(one)) => {
            let one = permission(one, of).map_err(|error| error.under("not_rule"))?;
            Ok(Condition::opposite(one))
        }
        Some(Rule::Any(any)) => always(*any),
        Some(Rule::Header(found)) => header(found, of),
        Some(Rule::UrlPath(found)) => path(found, of),
        Some(Rule::DestinationIp(found)) => {
            range("destination_ip", found).map(Condition::DestinationIp)
        }
        Some(Rule::DestinationPort(port)) if *port <= 65_535 => {
            Ok(Condition::DestinationPorts(*port, port + 1))
        }
        Some(Rule::DestinationPort(port)) => refuse(
            "destination_port",
            format!("{port} is not a port; at most 65535"),
        ),
        Some(Rule::DestinationPortRange(found)) => ports(found.start, found.end),
        Some(Rule::RequestedServerName(found)) => matches::string_match(found)
            .map(Condition::ServerName)
            .map_err(|error| error.under("requested_server_name")),
        Some(Rule::Metadata(found)) => metadata(found, of),
        Some(Rule::SourcedMetadata(_)) => unsupported("sourced_metadata"),
        Some(Rule::Matcher(_)) => unsupported("matcher"),
        Some(Rule::UriTemplate(found)) => {
            template(found, of).map_err(|error| error.under("uri_template"))
        }
        None => refuse("any", "missing; a permission has one rule"),
    }
}

fn principal(from: &Principal, of: Of) -> Converted<Condition> {
    let inner = |one: &Principal| principal(one, of);
    match &from.identifier {
        Some(Identifier::AndIds(set)) => {
            each("and_ids.ids", &set.ids, inner).map(Condition::all_of)
        }
        Some(Identifier::OrIds(set)) => each("or_ids.ids", &set.ids, inner).map(Condition::one_of),
        Some(Identifier::NotId(one)) => {
            let one = principal(one, of).map_err(|error| error.under("not_id"))?;
            Ok(Condition::opposite(one))
        }
        Some(Identifier::Any(any)) => always(*any),
        Some(Identifier::Authenticated(found)) => match &found.principal_name {
            None => Ok(Condition::Authenticated),
            Some(name) => matches::string_match(name)
                .map(Condition::Principal)
                .map_err(|error| error.under("authenticated.principal_name")),
        },
        Some(Identifier::SourceIp(found)) => {
            range("source_ip", found).map(Condition::DirectRemoteIp)
        }
        Some(Identifier::DirectRemoteIp(found)) => {
            range("direct_remote_ip", found).map(Condition::DirectRemoteIp)
        }
        Some(Identifier::RemoteIp(found)) => range("remote_ip", found).map(Condition::RemoteIp),
        Some(Identifier::Header(found)) => header(found, of),
        Some(Identifier::UrlPath(found)) => path(found, of),
        Some(Identifier::Metadata(found)) => metadata(found, of),
        Some(Identifier::SourcedMetadata(_)) => unsupported("sourced_metadata"),
        Some(Identifier::FilterState(_)) => unsupported("filter_state"),
        Some(Identifier::Custom(_)) => unsupported("custom"),
        None => refuse("any", "missing; a principal has one identifier"),
    }
}

fn always(any: bool) -> Converted<Condition> {
    if any {
        return Ok(Condition::Any);
    }
    refuse("any", "false means nothing; leave it out, or write true")
}

fn header(from: &HeaderMatcher, of: Of) -> Converted<Condition> {
    if of == Of::Connections {
        return refuse("header", "a connection that is not HTTP has none");
    }
    let header = matches::header_match(from).map_err(|error| error.under("header"))?;
    Ok(Condition::Header(header))
}

fn path(from: &PathMatcher, of: Of) -> Converted<Condition> {
    if of == Of::Connections {
        return refuse("url_path", "a connection that is not HTTP has none");
    }
    let text: StringMatch = match &from.rule {
        Some(path_matcher::Rule::Path(text)) => {
            matches::string_match(text).map_err(|error| error.under("url_path.path"))?
        }
        None => return refuse("url_path.path", "missing"),
    };
    Ok(Condition::Path(text))
}

/// Segments of a path, `*` for one of them, `**` for any number (Envoy).
fn template(from: &TypedExtensionConfig, of: Of) -> Converted<Condition> {
    if of == Of::Connections {
        return refuse("", "a connection that is not HTTP has no path");
    }
    let any = from.typed_config.as_ref();
    let Some(any) = any.filter(|any| fields::type_name(&any.type_url) == URI_TEMPLATE) else {
        return unsupported("typed_config");
    };
    let found: UriTemplateMatchConfig = unpack(any, URI_TEMPLATE)?;
    let path = "typed_config.path_template";
    let Some(rest) = found.path_template.strip_prefix('/') else {
        return refuse(
            path,
            format!("{:?} does not start with /", found.path_template),
        );
    };
    let mut expression = String::new();
    for segment in rest.split('/') {
        expression.push('/');
        match segment {
            "*" => expression.push_str(ONE_SEGMENT),
            "**" => expression.push_str(SEGMENTS),
            literal if literal.contains(['*', '{', '}']) => {
                let message = format!("{literal:?} is not supported yet; want a text, * or **");
                return refuse(path, message);
            }
            literal => expression.push_str(&regex::escape(literal)),
        }
    }
    let expression = matches::whole(path, &expression)?;
    Ok(Condition::Path(StringMatch::Regex(expression)))
}

const URI_TEMPLATE: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
/// What Envoy takes for a segment (RFC 3986, `pchar`).
const ONE_SEGMENT: &str = "[a-zA-Z0-9\\-._~%!$&'()+,;:@=]+";
const SEGMENTS: &str = "[a-zA-Z0-9\\-._~%!$&'()+,;:@=/]*";

/// What verified tokens say: the one thing that other filters tell access rules here.
fn metadata(from: &MetadataMatcher, of: Of) -> Converted<Condition> {
    if of == Of::Connections {
        return refuse("metadata", "a connection that is not HTTP has no tokens");
    }
    claim(from)
        .map(Condition::Claim)
        .map_err(|error| error.under("metadata"))
}

fn claim(from: &MetadataMatcher) -> Converted<ClaimMatch> {
    if from.filter != JWT_AUTHN {
        return refuse(
            "filter",
            format!(
                "{:?} is not supported yet; must be {JWT_AUTHN:?}",
                from.filter
            ),
        );
    }
    let mut keys: Vec<Box<str>> = Vec::with_capacity(from.path.len());
    for (index, segment) in from.path.iter().enumerate() {
        match &segment.segment {
            Some(path_segment::Segment::Key(key)) if !key.is_empty() => {
                keys.push(key.as_str().into());
            }
            _ => return refuse(format!("path[{index}].key"), "missing"),
        }
    }
    let Some((metadata, path)) = keys.split_first() else {
        return refuse("path", "is empty; at least one is needed");
    };
    let Some(value) = &from.value else {
        return refuse("value", "missing");
    };
    Ok(ClaimMatch {
        metadata: metadata.clone(),
        path: path.into(),
        value: value_match(value).map_err(|error| error.under("value"))?,
        invert: from.invert,
    })
}

fn value_match(from: &ValueMatcher) -> Converted<ValueMatch> {
    use value_matcher::MatchPattern;
    Ok(match &from.match_pattern {
        Some(MatchPattern::NullMatch(_)) => ValueMatch::Null,
        Some(MatchPattern::DoubleMatch(found)) => match &found.match_pattern {
            Some(double_matcher::MatchPattern::Exact(number)) => ValueMatch::Number(*number),
            Some(double_matcher::MatchPattern::Range(range)) => {
                ValueMatch::NumberIn(range.start..range.end)
            }
            None => return refuse("double_match.exact", "missing"),
        },
        Some(MatchPattern::StringMatch(found)) => matches::string_match(found)
            .map(ValueMatch::Text)
            .map_err(|error| error.under("string_match"))?,
        Some(MatchPattern::BoolMatch(found)) => ValueMatch::Bool(*found),
        Some(MatchPattern::PresentMatch(found)) => ValueMatch::Present(*found),
        Some(MatchPattern::ListMatch(found)) => match &found.match_pattern {
            Some(list_matcher::MatchPattern::OneOf(one)) => {
                let one = value_match(one).map_err(|error| error.under("list_match.one_of"))?;
                ValueMatch::OneOf(Box::new(one))
            }
            None => return refuse("list_match.one_of", "missing"),
        },
        Some(MatchPattern::OrMatch(found)) => {
            let all = found.value_matchers.iter().enumerate();
            let all = all.map(|(index, one)| {
                value_match(one)
                    .map_err(|error| error.under(format!("or_match.value_matchers[{index}]")))
            });
            ValueMatch::Or(all.collect::<Converted<_>>()?)
        }
        None => return refuse("string_match", "missing"),
    })
}

/// Under which Envoy keeps what tokens say.
const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";

/// The end is not in it (Envoy).
fn ports(start: i32, end: i32) -> Converted<Condition> {
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(first), Ok(end)) if first < end && end <= 65_536 => {
            Ok(Condition::DestinationPorts(first, end))
        }
        _ => refuse(
            "destination_port_range",
            format!("{start} to {end}; must be 0 to 65536, and start before its end"),
        ),
    }
}

fn range(field: &str, from: &CidrRange) -> Converted<Cidr> {
    let address = from.address_prefix.parse().map_err(|_error| {
        FieldError::new(
            format!("{field}.address_prefix"),
            format!("{:?} is not an IP address", from.address_prefix),
        )
    })?;
    // Absent is 0, every address of the family (Envoy).
    let bits = from.prefix_len.unwrap_or(0);
    Cidr::new(address, bits).ok_or_else(|| {
        FieldError::new(
            format!("{field}.prefix_len"),
            format!("{bits}; {address} has fewer bits"),
        )
    })
}
