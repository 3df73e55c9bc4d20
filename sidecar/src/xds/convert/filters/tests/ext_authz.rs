//! Authorization servers.

use std::time::Duration;

use outrigger_core::{CheckService, ExtAuthz};
use outrigger_proto::envoy::{
    config::core::v3::{
        GrpcService, HttpUri,
        grpc_service::{EnvoyGrpc, GoogleGrpc, TargetSpecifier},
        http_uri::HttpUpstreamType,
    },
    r#type::matcher::v3::{
        ListStringMatcher, ValueMatcher,
        metadata_matcher::{PathSegment, path_segment::Segment},
        value_matcher,
    },
};

use super::*;

fn grpc() -> ext_authz_proto::ExtAuthz {
    asking(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
        cluster_name: "opa".to_owned(),
        ..EnvoyGrpc::default()
    }))
}

fn asking(target: TargetSpecifier) -> ext_authz_proto::ExtAuthz {
    let service = GrpcService {
        target_specifier: Some(target),
        ..GrpcService::default()
    };
    ext_authz_proto::ExtAuthz {
        services: Some(ext_authz_proto::ext_authz::Services::GrpcService(service)),
        transport_api_version: 2,
        ..ext_authz_proto::ExtAuthz::default()
    }
}

fn http(path_prefix: &str) -> ext_authz_proto::ExtAuthz {
    let service = ext_authz_proto::HttpService {
        server_uri: Some(HttpUri {
            uri: "http://sessions".to_owned(),
            http_upstream_type: Some(HttpUpstreamType::Cluster("sessions".to_owned())),
            timeout: Some(seconds(3)),
        }),
        path_prefix: path_prefix.to_owned(),
        ..ext_authz_proto::HttpService::default()
    };
    ext_authz_proto::ExtAuthz {
        services: Some(ext_authz_proto::ext_authz::Services::HttpService(service)),
        ..grpc()
    }
}

fn selecting(filter: &str) -> MetadataMatcher {
    let key = "it_shadow_effective_policy_id".to_owned();
    MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![PathSegment {
            segment: Some(Segment::Key(key)),
        }],
        value: Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(exact("a"))),
        }),
        ..MetadataMatcher::default()
    }
}

fn check_of(config: &ext_authz_proto::ExtAuthz) -> Arc<ExtAuthz> {
    let found = listening(vec![filter("it", any(EXT_AUTHZ, config))]).unwrap();
    match &found.unwrap().filters[0].filter {
        Filter::ExtAuthz(check) => Arc::clone(check),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_is_what_it_says_and_envoys_where_it_is_silent() {
    let check = check_of(&grpc());
    assert_eq!(check.timeout, Duration::from_millis(200));
    assert_eq!((check.fails_open, check.status_on_error), (false, 403));
    assert!(check.body.is_none() && check.only.is_none());
    assert!(check.tells("cookie", true) && !check.tells("cookie", false));
    let check = check_of(&ext_authz_proto::ExtAuthz {
        allowed_headers: Some(ListStringMatcher {
            patterns: vec![exact("cookie")],
        }),
        status_on_error: Some(HttpStatus { code: 503 }),
        ..http("/check")
    });
    assert_eq!(check.timeout, Duration::from_secs(3));
    assert_eq!(check.status_on_error, 503);
    assert!(check.tells("cookie", false) && !check.tells("x-other", true));
    assert!(matches!(&check.service, CheckService::Http(http) if http.path_prefix == "/check"));
}

#[test]
fn what_is_not_done_of_a_question_is_refused_by_name() {
    let body = |max_request_bytes| ext_authz_proto::ExtAuthz {
        with_request_body: Some(ext_authz_proto::BufferSettings {
            max_request_bytes,
            ..ext_authz_proto::BufferSettings::default()
        }),
        ..grpc()
    };
    let only = |filter| ext_authz_proto::ExtAuthz {
        filter_enabled_metadata: Some(selecting(filter)),
        ..grpc()
    };
    for (config, expected) in [
        (grpc(), "accepted"),
        (only("envoy.filters.http.rbac"), "accepted"),
        (
            only("envoy.filters.http.lua"),
            "filter_enabled_metadata.filter: ",
        ),
        (body(0), "with_request_body.max_request_bytes: 0"),
        (body(u32::MAX), "with_request_body.max_request_bytes: "),
        (
            http("check"),
            "http_service.path_prefix: \"check\"; must begin with /",
        ),
        (
            asking(TargetSpecifier::GoogleGrpc(GoogleGrpc::default())),
            "grpc_service.google_grpc: not supported yet",
        ),
        (
            asking(TargetSpecifier::EnvoyGrpc(EnvoyGrpc::default())),
            "grpc_service.envoy_grpc.cluster_name: missing",
        ),
        (
            ext_authz_proto::ExtAuthz {
                status_on_error: Some(HttpStatus { code: 200 }),
                ..grpc()
            },
            "status_on_error.code: 200; must be 400 to 599",
        ),
        (
            ext_authz_proto::ExtAuthz {
                include_peer_certificate: true,
                ..grpc()
            },
            "include_peer_certificate: not supported yet",
        ),
        (
            ext_authz_proto::ExtAuthz {
                services: None,
                ..grpc()
            },
            "grpc_service: missing",
        ),
    ] {
        let found = refusal_of(any(EXT_AUTHZ, &config));
        assert!(found.starts_with(expected), "{expected}: {found}");
    }
}

#[test]
fn rules_leave_word_of_what_they_say_only_where_a_question_asks_for_it() {
    let rules = |prefix: &str| {
        let rules = rbac_config(Some(Rule::Any(true)), Some(Identifier::Any(true)));
        let filter = rbac_proto::Rbac {
            shadow_rules: Some(rules),
            shadow_rules_stat_prefix: prefix.to_owned(),
            ..rbac_proto::Rbac::default()
        };
        any(RBAC, &filter)
    };
    let question = ext_authz_proto::ExtAuthz {
        filter_enabled_metadata: Some(selecting("envoy.filters.http.rbac")),
        ..grpc()
    };
    let found = listening(vec![
        filter("wanted", rules("it_")),
        filter("other", rules("other_")),
        filter("question", any(EXT_AUTHZ, &question)),
    ]);
    let found = found.unwrap().unwrap();
    let marks = found
        .filters
        .iter()
        .filter_map(|filter| match &filter.filter {
            Filter::Rbac(rbac) => Some(rbac.marks.as_deref()),
            _ => None,
        });
    let marks: Vec<Option<&str>> = marks.collect();
    assert_eq!(marks, [Some("it_shadow_effective_policy_id"), None]);
}
