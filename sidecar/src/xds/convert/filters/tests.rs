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
    Ok(parsed.settings)
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
            ".metadata: not supported yet",
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
            ".uri_template: not supported yet",
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
            ".metadata: not supported yet",
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
    let rules = rbac_config(Some(Rule::Metadata(MetadataMatcher::default())), None);
    for (is_optional, disabled) in [(true, false), (false, true)] {
        let it = hcm::HttpFilter {
            is_optional,
            disabled,
            ..filter("it", rbac_filter(rules.clone()))
        };
        let found = listening(vec![it]).unwrap_err().to_string();
        assert!(found.ends_with(".metadata: not supported yet"), "{found}");
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

/// 5 tokens, 2 a second; all are asked and refused.
fn limit_config() -> limit_proto::LocalRateLimit {
    let all = core::RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: 100,
            denominator: 0,
        }),
        ..core::RuntimeFractionalPercent::default()
    };
    limit_proto::LocalRateLimit {
        stat_prefix: "it".to_owned(),
        token_bucket: Some(TokenBucket {
            max_tokens: 5,
            tokens_per_fill: Some(2),
            fill_interval: Some(seconds(1)),
        }),
        filter_enabled: Some(all.clone()),
        filter_enforced: Some(all),
        ..limit_proto::LocalRateLimit::default()
    }
}

fn limit_of(config: &limit_proto::LocalRateLimit) -> Option<Arc<LocalRateLimit>> {
    let filters = listening(vec![filter("it", any(LIMIT, config))]).unwrap();
    match &filters.unwrap().filters[0].filter {
        Filter::LocalRateLimit(limit) => limit.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_limit_is_what_it_says_and_nothing_where_it_is_silent() {
    let limit = limit_of(&limit_proto::LocalRateLimit {
        status: Some(HttpStatus { code: 503 }),
        enable_x_ratelimit_headers: 1,
        rate_limited_as_resource_exhausted: true,
        ..limit_config()
    })
    .unwrap();
    assert_eq!(
        (limit.status, limit.grpc_status, limit.tells),
        (503, 8, true)
    );
    assert_eq!((limit.enabled, limit.enforced), (Share::ALL, Share::ALL));
    assert_eq!(limit.bucket.most(), 5);
    let silent = limit_of(&limit_proto::LocalRateLimit {
        filter_enabled: None,
        filter_enforced: None,
        ..limit_config()
    })
    .unwrap();
    assert_eq!(
        (silent.status, silent.grpc_status, silent.tells),
        (429, 14, false)
    );
    assert_eq!(
        (silent.enabled, silent.enforced),
        (Share::NONE, Share::NONE)
    );
    let without = limit_proto::LocalRateLimit {
        token_bucket: None,
        ..limit_config()
    };
    assert!(limit_of(&without).is_none());
}

#[test]
fn a_limit_is_refused_by_the_name_of_the_field() {
    type Change = fn(&mut limit_proto::LocalRateLimit);
    let table: [(Change, &str); 14] = [
        (
            |l| l.token_bucket.as_mut().unwrap().max_tokens = 0,
            "token_bucket.max_tokens: 0",
        ),
        (
            |l| l.token_bucket.as_mut().unwrap().tokens_per_fill = Some(0),
            "token_bucket.tokens_per_fill: 0",
        ),
        (
            |l| l.token_bucket.as_mut().unwrap().fill_interval = None,
            "token_bucket.fill_interval: missing",
        ),
        (
            |l| {
                l.token_bucket.as_mut().unwrap().fill_interval = Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 49_000_000,
                });
            },
            "token_bucket.fill_interval: 49ms; at least 50ms",
        ),
        (
            |l| {
                let bucket = l.token_bucket.as_mut().unwrap();
                bucket.max_tokens = u32::MAX;
                bucket.fill_interval = Some(seconds(3600));
            },
            "token_bucket.fill_interval: 3600s; the bucket would need more than a century",
        ),
        (
            |l| l.status = Some(HttpStatus { code: 200 }),
            "status.code: 200; must be 400 to 599",
        ),
        (
            |l| l.enable_x_ratelimit_headers = 5,
            "enable_x_ratelimit_headers: 5 is unknown",
        ),
        (|l| l.stage = 1, "stage: not supported yet"),
        (
            |l| l.descriptors = vec![Default::default()],
            "descriptors: not supported yet",
        ),
        (
            |l| l.rate_limits = vec![Default::default()],
            "rate_limits: not supported yet",
        ),
        (
            |l| l.vh_rate_limits = 1,
            "vh_rate_limits: not supported yet",
        ),
        (
            |l| l.local_rate_limit_per_downstream_connection = true,
            "local_rate_limit_per_downstream_connection: not supported yet",
        ),
        (
            |l| l.local_cluster_rate_limit = Some(Default::default()),
            "local_cluster_rate_limit: not supported yet",
        ),
        (
            |l| l.response_headers_to_add = vec![Default::default()],
            "response_headers_to_add[0].header: missing",
        ),
    ];
    for (change, expected) in table {
        let mut config = limit_config();
        change(&mut config);
        let found = refusal_of(any(LIMIT, &config));
        assert!(found.starts_with(expected), "{expected}: {found}");
    }
}

fn writing(name: &str, value: &str, append_action: i32) -> rules_proto::HeaderMutation {
    rules_proto::HeaderMutation {
        action: Some(Action::Append(HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_owned(),
                value: value.to_owned(),
                ..HeaderValue::default()
            }),
            append_action,
            ..HeaderValueOption::default()
        })),
    }
}

fn mutations(request: Vec<rules_proto::HeaderMutation>) -> mutation_proto::Mutations {
    mutation_proto::Mutations {
        request_mutations: request,
        ..mutation_proto::Mutations::default()
    }
}

#[test]
fn each_edit_of_a_header_is_taken_or_refused_by_its_name() {
    let remove = |name: &str| rules_proto::HeaderMutation {
        action: Some(Action::Remove(name.to_owned())),
    };
    let on_match = |key_matcher| rules_proto::HeaderMutation {
        action: Some(Action::RemoveOnMatch(
            rules_proto::header_mutation::RemoveOnMatch { key_matcher },
        )),
    };
    for (edit, expected) in [
        (writing("x-a", "1", 0), "accepted"),
        (writing("x-a", "%REQ(x-b)%", 1), "accepted"),
        (writing("x-a", "1", 2), "accepted"),
        (writing("x-a", "1", 3), "accepted"),
        (remove("x-a"), "accepted"),
        (on_match(Some(exact("x-a"))), "accepted"),
        (writing("x-a", "1", 4), "append.append_action: 4 is unknown"),
        (
            writing(":path", "/", 2),
            "append.header.key: \":path\" is not a header name",
        ),
        (
            writing("x-a", "%NONSENSE%", 2),
            "append.header.value: %NONSENSE% is not supported",
        ),
        (remove("host"), "remove: `host` cannot be edited"),
        (
            remove("content-length"),
            "remove: `content-length` is about one connection",
        ),
        (on_match(None), "remove_on_match.key_matcher: missing"),
        (rules_proto::HeaderMutation::default(), "remove: missing"),
    ] {
        let config = mutation_proto::HeaderMutation {
            mutations: Some(mutations(vec![edit.clone()])),
            ..mutation_proto::HeaderMutation::default()
        };
        let found = refusal_of(any(MUTATION, &config));
        let found = found
            .strip_prefix("mutations.request_mutations[0].")
            .unwrap_or(&found);
        assert!(found.starts_with(expected), "{edit:?}: {found}");
    }
    let trailers = mutation_proto::HeaderMutation {
        mutations: Some(mutation_proto::Mutations {
            response_trailers_mutations: vec![remove("x-a")],
            ..mutation_proto::Mutations::default()
        }),
        ..mutation_proto::HeaderMutation::default()
    };
    assert_eq!(
        refusal_of(any(MUTATION, &trailers)),
        "mutations.response_trailers_mutations: not supported yet"
    );
}

/// What the table, its host and its route say about filters → what holds for the route.
fn route_with(levels: [&[(&str, Any)]; 3]) -> Converted<Features> {
    let map = |level: &[(&str, Any)]| -> BTreeMap<String, Any> {
        let all = level.iter();
        all.map(|(name, any)| ((*name).to_owned(), any.clone()))
            .collect()
    };
    let mut table: rds::RouteConfiguration = routes("9080", CLUSTER);
    let [of_table, of_host, of_route] = levels;
    table.typed_per_filter_config = map(of_table);
    let host = &mut table.virtual_hosts[0];
    host.typed_per_filter_config = map(of_host);
    host.routes[0].typed_per_filter_config = map(of_route);
    let any = any(TABLE, &table);
    fields::check(&any)?;
    let mut builder = SnapshotBuilder::default();
    let found = route::convert(&unpack(&any, TABLE)?, &mut |name| {
        builder.cluster_slot(name)
    })?;
    let route = &found.virtual_hosts[0].routes[0];
    Ok(route.features().cloned().unwrap_or_default())
}

fn wrapped(config: Option<Any>, disabled: bool, is_optional: bool) -> Any {
    let message = FilterConfig {
        config,
        is_optional,
        disabled,
    };
    any(WRAPPED, &message)
}

fn rbac_of_route(rbac: Option<rbac_proto::Rbac>) -> Any {
    any(RBAC_OF_ROUTE, &rbac_proto::RbacPerRoute { rbac })
}

fn some_rules() -> Any {
    rbac_of_route(Some(rbac_proto::Rbac {
        rules: Some(rbac_config(Some(Rule::Any(true)), Some(named("a")))),
        ..rbac_proto::Rbac::default()
    }))
}

#[test]
fn the_most_specific_word_about_a_filter_holds() {
    let off = || wrapped(None, true, false);
    let on = || wrapped(None, false, false);
    let no_rules = || rbac_of_route(None);
    // What is said, whether the filter is on, and whether there are rules of the route's own; None = nothing is said.
    type Levels<'a> = [&'a [(&'a str, Any)]; 3];
    let table: [(Levels<'_>, Option<(bool, Option<bool>)>); 8] = [
        ([&[], &[], &[]], None),
        ([&[], &[], &[("r", some_rules())]], Some((true, Some(true)))),
        ([&[("r", some_rules())], &[], &[]], Some((true, Some(true)))),
        (
            [&[], &[("r", some_rules())], &[("r", no_rules())]],
            Some((true, Some(false))),
        ),
        (
            [&[("r", some_rules())], &[("r", off())], &[]],
            Some((false, Some(true))),
        ),
        (
            [&[("r", some_rules())], &[("r", off())], &[("r", on())]],
            Some((true, Some(true))),
        ),
        ([&[], &[], &[("r", on())]], Some((true, None))),
        (
            [
                &[],
                &[],
                &[("r", wrapped(Some(some_rules()), false, false))],
            ],
            Some((true, Some(true))),
        ),
    ];
    for (levels, expected) in table {
        let features = route_with(levels).unwrap();
        let found = features.overrides.of("r").map(|said| {
            let rules = said.settings.as_ref().map(|settings| match settings {
                Settings::Rbac(rbac) => rbac.rules.is_some(),
                other => panic!("{other:?}"),
            });
            (said.on, rules)
        });
        assert_eq!(found, expected, "{levels:?}");
    }
}

#[test]
fn header_mutations_of_all_levels_are_kept() {
    let edit = |value: &str| {
        let mutations = Some(mutations(vec![writing("x-a", value, 2)]));
        any(
            MUTATION_OF_ROUTE,
            &mutation_proto::HeaderMutationPerRoute { mutations },
        )
    };
    let features = route_with([
        &[("m", edit("1"))],
        &[("m", edit("2"))],
        &[("m", edit("3"))],
    ])
    .unwrap();
    let own = mutation_proto::HeaderMutation::default();
    let filters = listening(vec![filter("m", any(MUTATION, &own))])
        .unwrap()
        .unwrap();
    let found = filters.in_force(Some(&features.overrides)).next();
    let Some(InForce::HeaderMutation(mutations)) = found else {
        panic!("{found:?}")
    };
    assert_eq!(mutations.each().count(), 4);
}

#[test]
fn a_host_has_faults_and_a_policy_for_browsers_for_its_routes() {
    let fault = |seconds_of| HttpFault {
        delay: Some(FaultDelay {
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(seconds(seconds_of))),
            ..FaultDelay::default()
        }),
        ..HttpFault::default()
    };
    let (cors_name, fault_name) = (features::CORS_FILTER, features::FAULT_FILTER);
    let cors = || {
        (
            cors_name,
            any(features::CORS_POLICY, &CorsPolicy::default()),
        )
    };
    let faulty = |seconds_of| (fault_name, any(FAULT, &fault(seconds_of)));
    let found = route_with([&[], &[cors(), faulty(1)], &[]]).unwrap();
    assert!(found.cors.is_some() && found.fault.is_some());
    let found = route_with([&[], &[cors(), faulty(1)], &[faulty(2)]]).unwrap();
    assert_eq!(found.fault.unwrap().delay.unwrap().0.as_secs(), 2);
    let off = wrapped(None, true, false);
    let found = route_with([
        &[],
        &[cors(), faulty(1)],
        &[(cors_name, off.clone()), (fault_name, off)],
    ])
    .unwrap();
    assert!(found.cors.is_none() && found.fault.is_none());
    let twice = route_with([&[], &[cors()], &[cors()]])
        .unwrap_err()
        .to_string();
    assert!(twice.ends_with("write one CORS policy"), "{twice}");
}

#[test]
fn what_nobody_knows_of_a_route_is_left_out_only_if_it_is_optional() {
    let unknown = any("example.Wasm", &());
    let refused = route_with([&[], &[], &[("w", unknown.clone())]]).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("typed_per_filter_config[\"w\"]"),
        "{refused}"
    );
    let optional = wrapped(Some(unknown.clone()), false, true);
    assert!(
        route_with([&[], &[], &[("w", optional)]])
            .unwrap()
            .overrides
            .is_empty()
    );
    let required = wrapped(Some(unknown), false, false);
    let refused = route_with([&[], &[], &[("w", required)]]).unwrap_err();
    assert!(refused.to_string().contains("example.Wasm"), "{refused}");
    let limit = limit_proto::LocalRateLimit::default();
    let refused = route_with([&[], &[("l", any(LIMIT, &limit))], &[]]).unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("typed_per_filter_config[\"l\"].token_bucket: missing"),
        "{refused}"
    );
}

#[test]
fn a_connection_has_no_path_and_no_header_to_be_judged_by() {
    let convert = |rule| {
        let rbac = network::Rbac {
            rules: Some(rbac_config(Some(rule), Some(named(SPIFFE)))),
            ..network::Rbac::default()
        };
        let decoded = network::Rbac::decode(rbac.encode_to_vec().as_slice()).unwrap();
        of_connections(&decoded)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(convert(Rule::DestinationPort(5432)), Ok(()));
    for (rule, field) in [
        (Rule::UrlPath(path_is("/a")), "url_path"),
        (Rule::Header(header_there()), "header"),
    ] {
        let found = convert(rule).unwrap_err();
        let expected = format!(
            "rules.policies[\"p\"].permissions[0].{field}: a connection that is not HTTP has none"
        );
        assert_eq!(found, expected);
    }
}
