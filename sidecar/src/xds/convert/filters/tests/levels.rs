//! What tables, hosts and routes say about filters.

use super::{
    mutation::{mutations, writing},
    *,
};

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
    type Holds = Option<(bool, Option<bool>)>;
    let table: [(Levels<'_>, Holds); 8] = [
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
