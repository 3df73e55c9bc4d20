//! `jwt_authn`, field by field.

use outrigger_core::{
    Filter,
    jwt::{Keys, Location},
};
use outrigger_proto::envoy::{
    config::core::v3::{DataSource, HttpUri, data_source, http_uri::HttpUpstreamType},
    extensions::filters::http::jwt_authn::v3::{
        self as proto, JwtAuthentication, JwtProvider, JwtRequirement, RemoteJwks,
        jwt_provider::JwksSourceSpecifier, jwt_requirement::RequiresType,
        requirement_rule::RequirementType,
    },
};

use super::*;

const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn local(text: &str) -> Option<JwksSourceSpecifier> {
    Some(JwksSourceSpecifier::LocalJwks(DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    }))
}

fn remote(uri: &str, cluster: &str, timeout: i64) -> Option<JwksSourceSpecifier> {
    Some(JwksSourceSpecifier::RemoteJwks(RemoteJwks {
        http_uri: Some(HttpUri {
            uri: uri.to_owned(),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.to_owned())),
            timeout: Some(prost_types::Duration {
                seconds: timeout,
                nanos: 0,
            }),
        }),
        ..RemoteJwks::default()
    }))
}

fn provider(keys: Option<JwksSourceSpecifier>) -> JwtProvider {
    JwtProvider {
        issuer: "i".to_owned(),
        jwks_source_specifier: keys,
        ..JwtProvider::default()
    }
}

fn requires(one: RequiresType) -> JwtRequirement {
    JwtRequirement {
        requires_type: Some(one),
    }
}

fn filter_of(provider: JwtProvider, requirement: JwtRequirement) -> Any {
    let rule = proto::RequirementRule {
        r#match: Some(rds::RouteMatch {
            path_specifier: Some(rds::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..rds::RouteMatch::default()
        }),
        requirement_type: Some(RequirementType::Requires(requirement)),
    };
    let filter = JwtAuthentication {
        providers: BTreeMap::from([("p".to_owned(), provider)]),
        rules: vec![rule],
        ..JwtAuthentication::default()
    };
    any(JWT, &filter)
}

fn named(name: &str) -> JwtRequirement {
    requires(RequiresType::ProviderName(name.to_owned()))
}

#[test]
fn a_provider_that_cannot_be_followed_is_refused_by_its_field() {
    let good = || provider(local(KEYS));
    let in_p = "providers[\"p\"].";
    for (provider, expected) in [
        (good(), "accepted"),
        (provider(remote("http://idp/keys", "idp", 1)), "accepted"),
        (provider(None), "local_jwks: missing"),
        (provider(local("{")), "local_jwks: not JSON"),
        (provider(local("{}")), "local_jwks: has no list"),
        (
            provider(local(r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#)),
            "local_jwks: no key can be used: keys[0]: is a symmetric key",
        ),
        (
            provider(remote("idp", "idp", 1)),
            "remote_jwks.http_uri.uri: \"idp\" is not",
        ),
        (
            provider(remote("ftp://idp/", "idp", 1)),
            "remote_jwks.http_uri.uri",
        ),
        (
            provider(remote("http://idp/", "", 1)),
            "remote_jwks.http_uri.cluster: missing",
        ),
        (
            provider(remote("http://idp/", "idp", 0)),
            "remote_jwks.http_uri.timeout: 0s",
        ),
        (
            JwtProvider {
                from_params: vec![String::new()],
                ..good()
            },
            "from_params[0]: is empty",
        ),
        (
            JwtProvider {
                forward_payload_header: "a b".to_owned(),
                ..good()
            },
            "forward_payload_header: \"a b\" is not a header name",
        ),
        (
            JwtProvider {
                pad_forward_payload_header: true,
                ..good()
            },
            "pad_forward_payload_header: has no effect",
        ),
        (
            JwtProvider {
                header_in_metadata: "h".to_owned(),
                ..good()
            },
            "header_in_metadata: not supported yet",
        ),
    ] {
        let found = refusal_of(filter_of(provider.clone(), named("p")));
        let found = found.strip_prefix(in_p).unwrap_or(&found);
        assert!(found.starts_with(expected), "{provider:?}: {found}");
    }
}

#[test]
fn a_requirement_that_cannot_be_met_is_refused_by_its_place() {
    let any_of = |requirements| {
        requires(RequiresType::RequiresAny(proto::JwtRequirementOrList {
            requirements,
        }))
    };
    let mut deep = named("p");
    for _ in 0..10 {
        deep = any_of(vec![deep, named("p")]);
    }
    for (requirement, expected) in [
        (named("p"), "accepted"),
        (
            any_of(vec![named("p"), requires(RequiresType::AllowMissing(()))]),
            "accepted",
        ),
        (
            named("q"),
            "rules[0].requires.provider_name: \"q\" is not among",
        ),
        (
            any_of(vec![named("p")]),
            "rules[0].requires.requires_any.requirements: has 1 entries",
        ),
        (deep, "rules[0].requires.requires_any"),
    ] {
        let found = refusal_of(filter_of(provider(local(KEYS)), requirement));
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn what_is_asked_for_is_what_is_done() {
    let from = JwtProvider {
        from_cookies: vec!["c".to_owned()],
        clock_skew_seconds: 5,
        ..provider(remote("http://idp/keys", "idp", 3))
    };
    let settings = listening(vec![filter("it", filter_of(from, named("p")))]);
    let settings = settings.unwrap().unwrap();
    let Filter::JwtAuthn(found) = &settings.filters[0].filter else {
        panic!("{:?}", settings.filters);
    };
    let provider = &found.providers[0];
    assert_eq!(provider.locations, [Location::Cookie("c".into())]);
    assert_eq!(provider.clock_skew.as_secs(), 5);
    assert_eq!(provider.cache_size, 0, "nobody asked for it");
    let Keys::Remote(remote) = &provider.keys else {
        panic!("{:?}", provider.keys);
    };
    let name = &remote.name;
    let seconds = [name.timeout, name.cache_duration, name.retry_after].map(|time| time.as_secs());
    assert_eq!((&*name.cluster, seconds), ("idp", [3, 600, 1]));
}
