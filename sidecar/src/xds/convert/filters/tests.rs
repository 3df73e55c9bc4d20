//! Filters, field by field: what is taken, and what is refused by its name.

use std::collections::BTreeMap;

use outrigger_core::{HttpSettings, InForce, Share, SnapshotBuilder};
use outrigger_proto::envoy::{
    config::{
        common::mutation_rules::v3::{self as rules_proto, header_mutation::Action},
        core::v3::{self as core, CidrRange, HeaderValue, HeaderValueOption},
        listener::v3::Listener,
        rbac::v3::{
            self as rbac_config, Permission, Policy, Principal,
            permission::Rule,
            principal::{Authenticated, Identifier, Set as Ids},
        },
        route::v3::{self as rds, HeaderMatcher},
    },
    extensions::filters::{
        common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
        http::{cors::v3::CorsPolicy, fault::v3::HttpFault},
        network::{
            http_connection_manager::v3::http_connection_manager::RouteSpecifier,
            rbac::v3 as network,
        },
    },
    r#type::{
        matcher::v3::{
            FilterStateMatcher, MetadataMatcher, PathMatcher, RegexMatcher, StringMatcher,
            path_matcher, string_matcher::MatchPattern,
        },
        v3::{FractionalPercent, HttpStatus, Int32Range, TokenBucket},
    },
};
use prost::Message;

use super::*;
use crate::xds::{
    convert::{listener, route},
    testing::*,
};

mod ext_authz;
mod jwt;
mod levels;
mod limit;
mod mutation;

const LISTENER: &str = "envoy.config.listener.v3.Listener";
const TABLE: &str = "envoy.config.route.v3.RouteConfiguration";
const INSIDE: &str = "filter_chains[0].filters[0].typed_config.";

fn filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..hcm::HttpFilter::default()
    }
}

/// What a listener with these filters before its router becomes: field check, then conversion.
fn listening(before: Vec<hcm::HttpFilter>) -> Converted<Option<Arc<HttpSettings>>> {
    let rds = hcm::Rds {
        config_source: Some(ads()),
        route_config_name: "9080".to_owned(),
    };
    let mut inner = manager(RouteSpecifier::Rds(rds));
    inner.http_filters.splice(0..0, before);
    let message = listener_with("out", &inner, None);
    let any = any(LISTENER, &message);
    fields::check(&any)?;
    let mut builder = SnapshotBuilder::default();
    let message: Listener = unpack(&any, LISTENER)?;
    let parsed = listener::convert(&message, &mut |name| builder.cluster_slot(name))?;
    Ok(parsed.chains[0].settings.clone())
}

/// The refusal of a listener with this one filter, or nothing.
fn refusal_of(config: Any) -> String {
    match listening(vec![filter("it", config)]) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => {
            let error = error.to_string();
            let inner = error.strip_prefix(INSIDE).unwrap_or(&error);
            inner
                .strip_prefix("http_filters[0].typed_config.")
                .unwrap_or(inner)
                .to_owned()
        }
    }
}

fn rbac_config(permission: Option<Rule>, principal: Option<Identifier>) -> rbac_config::Rbac {
    let policy = Policy {
        permissions: vec![Permission { rule: permission }],
        principals: vec![Principal {
            identifier: principal,
        }],
        ..Policy::default()
    };
    rbac_config::Rbac {
        policies: BTreeMap::from([("p".to_owned(), policy)]),
        ..rbac_config::Rbac::default()
    }
}

fn rbac_filter(rules: rbac_config::Rbac) -> Any {
    let filter = rbac_proto::Rbac {
        rules: Some(rules),
        ..rbac_proto::Rbac::default()
    };
    any(RBAC, &filter)
}

fn exact(text: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::Exact(text.to_owned())),
        ..StringMatcher::default()
    }
}

fn range(address: &str, bits: u32) -> CidrRange {
    CidrRange {
        address_prefix: address.to_owned(),
        prefix_len: Some(bits),
    }
}

fn path_is(text: &str) -> PathMatcher {
    PathMatcher {
        rule: Some(path_matcher::Rule::Path(exact(text))),
    }
}

fn named(name: &str) -> Identifier {
    Identifier::Authenticated(Authenticated {
        principal_name: Some(exact(name)),
    })
}

fn header_there() -> HeaderMatcher {
    HeaderMatcher {
        name: "x-team".to_owned(),
        ..HeaderMatcher::default()
    }
}

#[test]
fn every_condition_of_a_policy_is_taken_or_refused_by_its_name() {
    let permissions = |set: Vec<Rule>| rbac_config::permission::Set {
        rules: set
            .into_iter()
            .map(|rule| Permission { rule: Some(rule) })
            .collect(),
    };
    let path = "rules.policies[\"p\"].permissions[0]";
    for (rule, expected) in [
        (Rule::Any(true), "accepted"),
        (Rule::Header(header_there()), "accepted"),
        (Rule::UrlPath(path_is("/a")), "accepted"),
        (Rule::DestinationIp(range("10.0.0.0", 8)), "accepted"),
        (Rule::DestinationPort(80), "accepted"),
        (
            Rule::DestinationPortRange(Int32Range {
                start: 1,
                end: 65_536,
            }),
            "accepted",
        ),
        (Rule::RequestedServerName(exact("a")), "accepted"),
        (
            Rule::AndRules(permissions(vec![Rule::Any(true)])),
            "accepted",
        ),
        (
            Rule::OrRules(permissions(vec![Rule::Any(true)])),
            "accepted",
        ),
        (
            Rule::NotRule(Box::new(Permission {
                rule: Some(Rule::Any(true)),
            })),
            "accepted",
        ),
        (Rule::Any(false), ".any: false means nothing"),
        (
            Rule::DestinationPort(70_000),
            ".destination_port: 70000 is not a port",
        ),
        (
            Rule::DestinationPortRange(Int32Range { start: 80, end: 80 }),
            ".destination_port_range: 80 to 80",
        ),
        (
            Rule::DestinationIp(range("10.0.0.0", 33)),
            ".destination_ip.prefix_len: 33; 10.0.0.0 has fewer bits",
        ),
        (
            Rule::DestinationIp(range("reviews", 8)),
            ".destination_ip.address_prefix: \"reviews\" is not an IP address",
        ),
        (
            Rule::UrlPath(PathMatcher::default()),
            ".url_path.path: missing",
        ),
        (
            Rule::AndRules(permissions(Vec::new())),
            ".and_rules.rules: is empty",
        ),
        (
            Rule::Metadata(MetadataMatcher::default()),
            ".metadata.filter: \"\" is not supported yet; must be \"envoy.filters.http.jwt_authn\"",
        ),
        (
            Rule::SourcedMetadata(Default::default()),
            ".sourced_metadata: not supported yet",
        ),
        (
            Rule::Matcher(Default::default()),
            ".matcher: not supported yet",
        ),
        (
            Rule::UriTemplate(Default::default()),
            ".uri_template.typed_config: not supported yet",
        ),
    ] {
        let found = refusal_of(rbac_filter(rbac_config(
            Some(rule.clone()),
            Some(Identifier::Any(true)),
        )));
        let found = found.strip_prefix(path).unwrap_or(&found);
        assert!(found.starts_with(expected), "{rule:?}: {found}");
    }
    let path = "rules.policies[\"p\"].principals[0]";
    for (identifier, expected) in [
        (Identifier::Any(true), "accepted"),
        (
            Identifier::Authenticated(Authenticated::default()),
            "accepted",
        ),
        (named(SPIFFE), "accepted"),
        (Identifier::SourceIp(range("10.0.0.0", 8)), "accepted"),
        (Identifier::DirectRemoteIp(range("::1", 128)), "accepted"),
        (Identifier::RemoteIp(range("10.0.0.0", 8)), "accepted"),
        (Identifier::Header(header_there()), "accepted"),
        (Identifier::UrlPath(path_is("/a")), "accepted"),
        (
            Identifier::OrIds(Ids {
                ids: vec![Principal {
                    identifier: Some(named("a")),
                }],
            }),
            "accepted",
        ),
        (
            Identifier::NotId(Box::new(Principal {
                identifier: Some(named("a")),
            })),
            "accepted",
        ),
        (
            Identifier::Authenticated(Authenticated {
                principal_name: Some(StringMatcher::default()),
            }),
            ".authenticated.principal_name.exact: missing",
        ),
        (Identifier::AndIds(Ids::default()), ".and_ids.ids: is empty"),
        (
            Identifier::NotId(Box::default()),
            ".not_id.any: missing; a principal has one identifier",
        ),
        (
            Identifier::Metadata(MetadataMatcher::default()),
            ".metadata.filter: \"\" is not supported yet; must be \"envoy.filters.http.jwt_authn\"",
        ),
        (
            Identifier::FilterState(FilterStateMatcher::default()),
            ".filter_state: not supported yet",
        ),
        (
            Identifier::Custom(Default::default()),
            ".custom: not supported yet",
        ),
    ] {
        let rules = rbac_config(Some(Rule::Any(true)), Some(identifier.clone()));
        let found = refusal_of(rbac_filter(rules));
        let found = found.strip_prefix(path).unwrap_or(&found);
        assert!(found.starts_with(expected), "{identifier:?}: {found}");
    }
}

#[test]
fn a_bad_expression_and_a_policy_without_conditions_are_refused() {
    let regex = StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(RegexMatcher {
            regex: "(".to_owned(),
        })),
        ..StringMatcher::default()
    };
    let name = Identifier::Authenticated(Authenticated {
        principal_name: Some(regex),
    });
    let found = refusal_of(rbac_filter(rbac_config(Some(Rule::Any(true)), Some(name))));
    assert!(
        found.contains("principal_name.safe_regex.regex: \"(\" is not a regular expression"),
        "{found}"
    );
    let mut rules = rbac_config(Some(Rule::Any(true)), Some(Identifier::Any(true)));
    rules.policies.insert("empty".to_owned(), Policy::default());
    assert_eq!(
        refusal_of(rbac_filter(rules)),
        "rules.policies[\"empty\"].permissions: is empty; at least one is needed"
    );
    let rules = rbac_config::Rbac {
        action: 7,
        ..rbac_config::Rbac::default()
    };
    assert_eq!(refusal_of(rbac_filter(rules)), "rules.action: 7 is unknown");
}

#[test]
fn what_we_do_of_access_rules_is_never_left_out_because_it_is_optional() {
    let rules = rbac_config(Some(Rule::SourcedMetadata(Default::default())), None);
    for (is_optional, disabled) in [(true, false), (false, true)] {
        let it = hcm::HttpFilter {
            is_optional,
            disabled,
            ..filter("it", rbac_filter(rules.clone()))
        };
        let found = listening(vec![it]).unwrap_err().to_string();
        assert!(
            found.ends_with(".sourced_metadata: not supported yet"),
            "{found}"
        );
    }
}

#[test]
fn cors_and_faults_alone_are_what_a_listener_has_anyhow() {
    let empty = |name| any(name, &());
    let usual = || vec![filter("c", empty(CORS)), filter("f", empty(FAULT))];
    assert!(listening(usual()).unwrap().is_none());
    assert_eq!(listening(Vec::new()).unwrap().unwrap().filters.len(), 0);
    let mut more = usual();
    more.insert(1, filter("r", any(RBAC, &rbac_proto::Rbac::default())));
    let found = listening(more).unwrap().unwrap();
    let names: Vec<_> = found.filters.iter().map(|filter| &*filter.name).collect();
    assert_eq!(names, ["c", "r", "f"]);
}

#[test]
fn two_filters_have_two_names() {
    let it = || filter("it", any(RBAC, &rbac_proto::Rbac::default()));
    let found = listening(vec![it(), it()]).unwrap_err().to_string();
    assert_eq!(
        found,
        format!("{INSIDE}http_filters[1].name: \"it\" is another filter's already")
    );
}
