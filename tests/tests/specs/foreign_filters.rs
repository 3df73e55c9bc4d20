//! Filters that somebody else's management server puts into listeners and routes do what they say, in both wire forms.
//! See `foreign_server`.

use std::collections::BTreeMap;

use http::Request;
use http_body_util::Full;
use outrigger_proto::envoy::{
    config::{
        common::mutation_rules::v3::{HeaderMutation as Edit, header_mutation::Action},
        core::v3::{CidrRange, HeaderValue, HeaderValueOption, RuntimeFractionalPercent},
        listener::v3::{Filter, FilterChain, Listener, filter},
        rbac::v3::{
            self as rbac, Permission, Policy, Principal, permission::Rule, principal::Identifier,
        },
        route::v3::FilterConfig,
    },
    extensions::filters::{
        http::{
            header_mutation::v3::{HeaderMutation, HeaderMutationPerRoute, Mutations},
            local_ratelimit::v3::LocalRateLimit,
            rbac::v3::{Rbac, RbacPerRoute},
        },
        network::{
            http_connection_manager::v3::HttpFilter,
            rbac::v3::Rbac as NetworkRbac,
            tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
        },
    },
    r#type::{
        matcher::v3::{PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern},
        v3::{FractionalPercent, TokenBucket},
    },
};
use outrigger_tests::{Caller, Reply, TestApp, packed};
use prost_types::Any;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::foreign_server::{FORMS, Joined, LDS, RDS, at, http_filter, routes};

const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const RBAC_OF_ROUTE: &str = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
const LIMIT: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const MUTATION: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const MUTATION_OF_ROUTE: &str =
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute";
const WRAPPED: &str = "envoy.config.route.v3.FilterConfig";

/// One policy, `admins`, for paths that begin so.
fn rules(action: rbac::rbac::Action, prefix: &str) -> rbac::Rbac {
    let path = StringMatcher {
        match_pattern: Some(MatchPattern::Prefix(prefix.to_owned())),
        ..StringMatcher::default()
    };
    let permission = Rule::UrlPath(PathMatcher {
        rule: Some(path_matcher::Rule::Path(path)),
    });
    policy(action, permission, Identifier::Any(true))
}

fn policy(action: rbac::rbac::Action, rule: Rule, identifier: Identifier) -> rbac::Rbac {
    let policy = Policy {
        permissions: vec![Permission { rule: Some(rule) }],
        principals: vec![Principal {
            identifier: Some(identifier),
        }],
        ..Policy::default()
    };
    rbac::Rbac {
        action: action as i32,
        policies: BTreeMap::from([("admins".to_owned(), policy)]),
        ..rbac::Rbac::default()
    }
}

fn deny(prefix: &str) -> Rbac {
    Rbac {
        rules: Some(rules(rbac::rbac::Action::Deny, prefix)),
        ..Rbac::default()
    }
}

/// Tokens that never come again, for every request.
fn limit(tokens: u32) -> Any {
    let all = Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: 100,
            ..FractionalPercent::default()
        }),
        ..RuntimeFractionalPercent::default()
    });
    let message = LocalRateLimit {
        stat_prefix: "limit".to_owned(),
        token_bucket: Some(TokenBucket {
            max_tokens: tokens,
            tokens_per_fill: Some(1),
            fill_interval: Some(prost_types::Duration {
                seconds: 86_400,
                nanos: 0,
            }),
        }),
        filter_enabled: all.clone(),
        filter_enforced: all,
        enable_x_ratelimit_headers: 1,
        ..LocalRateLimit::default()
    };
    packed(LIMIT, &message)
}

fn writing(value: &str) -> Option<Mutations> {
    let edit = |name: &str| Edit {
        action: Some(Action::Append(HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_owned(),
                value: value.to_owned(),
                ..HeaderValue::default()
            }),
            append_action: 2, // OVERWRITE_IF_EXISTS_OR_ADD
            ..HeaderValueOption::default()
        })),
    };
    Some(Mutations {
        request_mutations: vec![edit("x-there")],
        response_mutations: vec![edit("x-back")],
        ..Mutations::default()
    })
}

impl Joined {
    /// Replaces the listener's filters, and waits for the answer: the error of a NACK.
    async fn filters(&mut self, version: &str, filters: Vec<HttpFilter>) -> Option<String> {
        let nonce = format!("f{version}");
        self.listener(version, &nonce, "r", filters).await;
        self.stream.answer_to(&nonce).await.error
    }

    /// What the routes `r` say about filters: host, and route.
    async fn overrides(&mut self, version: &str, host: &[(&str, Any)], route: &[(&str, Any)]) {
        let map = |all: &[(&str, Any)]| -> BTreeMap<String, Any> {
            let all = all.iter();
            all.map(|(name, any)| ((*name).to_owned(), any.clone()))
                .collect()
        };
        let mut table = routes("r", "app");
        table.virtual_hosts[0].typed_per_filter_config = map(host);
        table.virtual_hosts[0].routes[0].typed_per_filter_config = map(route);
        let nonce = format!("o{version}");
        let resources = vec![("r", packed(RDS, &table))];
        self.stream.say(RDS, version, &nonce, resources, &[]).await;
        assert_eq!(self.stream.answer_to(&nonce).await.error, None);
    }

    async fn reply(&self, path: &str) -> Reply {
        Caller::through(self.out).get("anything", path).await
    }

    /// Waits until `path` has this status: a snapshot comes after its ACK.
    async fn until(&self, path: &str, status: u16) -> Reply {
        let mut last = None;
        outrigger_tests::eventually(&format!("{path} is answered with {status}"), async || {
            let reply = self.reply(path).await;
            let found = reply.status.as_u16();
            let text = reply.text();
            last = Some(reply);
            if found == status { Ok(()) } else { Err(text) }
        })
        .await;
        last.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_rules_of_a_listener_and_its_routes_hold_and_name_the_policy() {
    let app = TestApp::start("v1").await;
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&app).await;
        let filter = http_filter("access", packed(RBAC, &deny("/admin")));
        assert_eq!(joined.filters("2", vec![filter]).await, None);
        let denied = joined.until("/admin/users", 403).await;
        assert_eq!(&denied.body[..], b"RBAC: access denied");
        assert_eq!(denied.reason(), Some("rbac_denied"));
        assert_eq!(denied.headers["x-outrigger-policy"], "admins");
        assert_eq!(joined.reply("/").await.status, 200);
        // The route's own rules replace the listener's.
        let rbac = Some(deny("/other"));
        let own = packed(RBAC_OF_ROUTE, &RbacPerRoute { rbac });
        joined.overrides("2", &[], &[("access", own)]).await;
        joined.until("/other", 403).await;
        assert_eq!(joined.reply("/admin").await.status, 200);
        // A host switches them off; what is nearer has the last word.
        let wrapped = |disabled| {
            let message = FilterConfig {
                disabled,
                ..FilterConfig::default()
            };
            packed(WRAPPED, &message)
        };
        joined
            .overrides("3", &[("access", wrapped(true))], &[])
            .await;
        joined.until("/admin", 200).await;
        let (host, route) = (wrapped(true), wrapped(false));
        joined
            .overrides("4", &[("access", host)], &[("access", route)])
            .await;
        joined.until("/admin", 403).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_we_cannot_keep_are_refused_whole_and_the_old_ones_hold() {
    let app = TestApp::start("v1").await;
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&app).await;
        let filter = http_filter("access", packed(RBAC, &deny("/admin")));
        assert_eq!(joined.filters("2", vec![filter]).await, None);
        joined.until("/admin", 403).await;
        let metadata = Rbac {
            rules: Some(policy(
                rbac::rbac::Action::Deny,
                Rule::Metadata(Default::default()),
                Identifier::Any(true),
            )),
            ..Rbac::default()
        };
        // Optional means that it may be unknown, not that it may be half done.
        let filter = HttpFilter {
            is_optional: true,
            ..http_filter("access", packed(RBAC, &metadata))
        };
        let nack = joined.filters("3", vec![filter]).await.unwrap();
        let field = "typed_config.rules.policies[\"admins\"].permissions[0].metadata";
        assert!(
            nack.starts_with("Listener \"out\": ") && nack.contains(field),
            "{nack}"
        );
        assert_eq!(joined.reply("/admin").await.status, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_limit_holds_over_all_connections_and_says_what_is_left() {
    let app = TestApp::start("v1").await;
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&app).await;
        // Nothing by itself; a host says how much.
        let silent = packed(LIMIT, &LocalRateLimit::default());
        let filter = http_filter("limit", silent);
        assert_eq!(joined.filters("2", vec![filter]).await, None);
        assert_eq!(joined.reply("/").await.status, 200);
        joined.overrides("2", &[("limit", limit(5))], &[]).await;
        let mut allowed = 0;
        let refused = joined.until("/", 429).await;
        assert_eq!(&refused.body[..], b"local_rate_limited");
        assert_eq!(refused.reason(), Some("rate_limited"));
        assert_eq!(refused.headers["x-ratelimit-limit"], "5");
        assert_eq!(refused.headers["x-ratelimit-remaining"], "0");
        // A new bucket.
        joined.overrides("3", &[("limit", limit(7))], &[]).await;
        joined.until("/", 200).await;
        while joined.reply("/").await.status == 200 {
            allowed += 1;
        }
        assert_eq!(allowed, 6, "and the one before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_edited_on_every_level_in_the_order_that_the_listener_says() {
    let app = TestApp::start("v1").await;
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&app).await;
        let of = |value: &str| {
            let mutations = writing(value);
            packed(MUTATION_OF_ROUTE, &HeaderMutationPerRoute { mutations })
        };
        joined
            .overrides("2", &[("edit", of("host"))], &[("edit", of("route"))])
            .await;
        for (version, wins, last) in [("2", false, "host"), ("3", true, "route")] {
            let own = HeaderMutation {
                mutations: writing("listener"),
                most_specific_header_mutations_wins: wins,
            };
            let filter = http_filter("edit", packed(MUTATION, &own));
            assert_eq!(joined.filters(version, vec![filter]).await, None);
            outrigger_tests::eventually(&format!("{last} comes last"), async || {
                let reply = joined.reply("/").await;
                let seen = reply.json();
                let mut seen = seen["headers"].as_array().unwrap().iter();
                let there = seen.find(|pair| pair[0] == "x-there");
                let there = there.and_then(|pair| pair[1].as_str()).map(str::to_owned);
                let back = reply
                    .headers
                    .get("x-back")
                    .map(|value| value.to_str().unwrap());
                if (back, there.as_deref()) == (Some(last), Some(last)) {
                    Ok(())
                } else {
                    Err(format!("{back:?} {there:?}"))
                }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_manager_says_how_heads_look_and_whom_addresses_are_taken_from() {
    let app = TestApp::start("v1").await;
    let joined_form = FORMS[0];
    let mut joined = Joined::start(joined_form).await;
    joined.configure(&app).await;
    let from = |address: &str| {
        let range = CidrRange {
            address_prefix: address.to_owned(),
            prefix_len: Some(32),
        };
        let rules = policy(
            rbac::rbac::Action::Deny,
            Rule::Any(true),
            Identifier::RemoteIp(range),
        );
        let rbac = Rbac {
            rules: Some(rules),
            ..Rbac::default()
        };
        vec![http_filter("access", packed(RBAC, &rbac))]
    };
    let call = async |joined: &Joined| {
        let request = Request::get("/")
            .header("host", "anything")
            .header("x-forwarded-for", "9.9.9.9")
            .body(Full::default())
            .unwrap();
        let reply = Caller::through(joined.out).send(request).await;
        reply.status.as_u16()
    };
    // What the caller says is believed...
    assert_eq!(joined.filters("2", from("9.9.9.9")).await, None);
    joined.until_status(&call, 403).await;
    // ...unless the listener writes it itself.
    let change = |manager: &mut super::foreign_server::Manager| {
        manager.use_remote_address = Some(true);
        manager.server_name = "mesh".to_owned();
    };
    joined.manager("3", "m3", from("9.9.9.9"), change).await;
    assert_eq!(joined.stream.answer_to("m3").await.error, None);
    joined.until_status(&call, 200).await;
    assert_eq!(joined.reply("/").await.headers["server"], "mesh");
    let change = |manager: &mut super::foreign_server::Manager| manager.via = "mesh".to_owned();
    joined.manager("4", "m4", Vec::new(), change).await;
    let nack = joined.stream.answer_to("m4").await.error.unwrap();
    assert_eq!(
        nack,
        "Listener \"out\": filter_chains[0].filters[0].typed_config.via: not supported yet"
    );
}

impl Joined {
    async fn until_status(&self, call: &impl AsyncFn(&Self) -> u16, status: u16) {
        outrigger_tests::eventually(&format!("the answer is {status}"), async || {
            let found = call(self).await;
            if found == status {
                Ok(())
            } else {
                Err(found.to_string())
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_rules_hold_for_connections_that_are_not_http() {
    let app = TestApp::start("v1").await;
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&app).await;
        let says = async |joined: &Joined| {
            let mut stream = TcpStream::connect(joined.out).await.unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await
                .ok();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.ok();
            if heard.is_empty() { 0 } else { 200 }
        };
        for (version, range, expected) in [("2", "127.0.0.0", 0), ("3", "10.0.0.0", 200)] {
            let range = CidrRange {
                address_prefix: range.to_owned(),
                prefix_len: Some(8),
            };
            let access = NetworkRbac {
                rules: Some(policy(
                    rbac::rbac::Action::Deny,
                    Rule::Any(true),
                    Identifier::DirectRemoteIp(range),
                )),
                stat_prefix: "tcp".to_owned(),
                ..NetworkRbac::default()
            };
            let proxy = TcpProxy {
                stat_prefix: "tcp".to_owned(),
                cluster_specifier: Some(ClusterSpecifier::Cluster("app".to_owned())),
                ..TcpProxy::default()
            };
            let filter = |config| Filter {
                name: "it".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(config)),
            };
            let filters = vec![
                filter(packed(
                    "envoy.extensions.filters.network.rbac.v3.RBAC",
                    &access,
                )),
                filter(packed(
                    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    &proxy,
                )),
            ];
            let listener = Listener {
                name: "out".to_owned(),
                address: Some(at(&joined.out.ip().to_string(), joined.out.port())),
                filter_chains: vec![FilterChain {
                    filters,
                    ..FilterChain::default()
                }],
                ..Listener::default()
            };
            let nonce = format!("t{version}");
            let resources = vec![("out", packed(LDS, &listener))];
            joined
                .stream
                .say(LDS, version, &nonce, resources, &[])
                .await;
            assert_eq!(joined.stream.answer_to(&nonce).await.error, None);
            joined.until_status(&says, expected).await;
        }
    }
}
