use outrigger_core::SnapshotBuilder;
use outrigger_proto::envoy::{
    config::{
        core::v3::{CidrRange, Http2ProtocolOptions},
        listener::v3::Listener,
    },
    extensions::filters::network::http_connection_manager::v3::{
        Rds,
        http_connection_manager::{InternalAddressConfig, RouteSpecifier},
    },
};

use super::*;
use crate::xds::{
    convert::{fields, listener, unpack},
    testing::*,
};

type Change = fn(&mut HttpConnectionManager);

/// The whole way: field check, then conversion.
fn taken(change: impl FnOnce(&mut HttpConnectionManager)) -> Converted<Option<Arc<HttpSettings>>> {
    const NAME: &str = "envoy.config.listener.v3.Listener";
    let mut inner = manager(RouteSpecifier::Rds(Rds {
        config_source: Some(ads()),
        route_config_name: "9080".to_owned(),
    }));
    change(&mut inner);
    let any = any(NAME, &listener_with("out", &inner, None));
    fields::check(&any)?;
    let message: Listener = unpack(&any, NAME)?;
    let mut builder = SnapshotBuilder::default();
    let parsed = listener::convert(&message, &mut |name| builder.cluster_slot(name))?;
    Ok(parsed.chains[0].settings.clone())
}

fn settings(change: Change) -> HttpSettings {
    taken(change)
        .unwrap()
        .map(|found| (*found).clone())
        .unwrap()
}

#[test]
fn what_a_manager_says_about_heads_is_done() {
    let head = settings(|m| {
        m.merge_slashes = true;
        m.path_with_escaped_slashes_action = 4;
        m.strip_port_mode = Some(StripPortMode::StripAnyHostPort(true));
        m.use_remote_address = Some(true);
        m.generate_request_id = Some(true);
    })
    .head;
    assert_eq!(
        head,
        HeadSettings {
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Unescape,
            strip_port: StripPort::Always,
            forwarded: true,
            request_id: true,
        }
    );
    let head = settings(|m| {
        m.path_with_escaped_slashes_action = 2;
        m.strip_matching_host_port = true;
    })
    .head;
    assert_eq!(head.escaped_slashes, EscapedSlashes::Reject);
    assert_eq!(head.strip_port, StripPort::Matching);
}

#[test]
fn the_remote_address_is_where_a_manager_says_it_is() {
    let table: [(Change, bool, u32); 6] = [
        (|_| {}, false, 0),
        (|m| m.xff_num_trusted_hops = 2, false, 2),
        (|m| m.use_remote_address = Some(true), true, 0),
        (
            |m| {
                m.use_remote_address = Some(true);
                m.xff_num_trusted_hops = 1;
            },
            false,
            1,
        ),
        (
            |m| {
                m.use_remote_address = Some(true);
                m.skip_xff_append = true;
                m.xff_num_trusted_hops = 1;
            },
            false,
            0,
        ),
        (
            |m| {
                m.use_remote_address = Some(true);
                m.skip_xff_append = true;
            },
            true,
            0,
        ),
    ];
    for (change, own_address, trusted_hops) in table {
        let found = settings(change);
        assert_eq!(
            (found.own_address, found.trusted_hops),
            (own_address, trusted_hops)
        );
    }
}

#[test]
fn the_end_of_connections_and_the_servers_name_are_taken() {
    let found = settings(|m| {
        m.server_name = "istio-envoy".to_owned();
        m.common_http_protocol_options = Some(HttpProtocolOptions {
            idle_timeout: Some(seconds(60)),
            max_connection_duration: Some(seconds(0)),
            max_requests_per_connection: Some(7),
            ..HttpProtocolOptions::default()
        });
    });
    assert_eq!(
        found.server,
        Some((HeaderValue::from_static("istio-envoy"), Put::Overwrite))
    );
    assert_eq!(
        found.connection,
        ConnectionSettings {
            idle_timeout: Some(Duration::from_secs(60)),
            max_age: None,
            max_requests: Some(7),
            ..ConnectionSettings::default()
        }
    );
    let found = settings(|m| {
        m.server_name = "x".to_owned();
        m.server_header_transformation = 1;
    });
    assert_eq!(found.server.unwrap().1, Put::IfAbsent);
}

#[test]
fn protocols_that_requests_may_switch_to_are_taken_by_name() {
    let upgrade = |name: &str, enabled| UpgradeConfig {
        upgrade_type: name.to_owned(),
        enabled,
        ..UpgradeConfig::default()
    };
    let found = listener_with_upgrades(vec![
        upgrade("websocket", Some(false)),
        upgrade("TN3270", None),
        upgrade("CONNECT", Some(true)),
    ])
    .unwrap();
    for (name, says) in [
        ("websocket", Some(false)),
        ("tn3270", Some(true)),
        ("connect", Some(true)),
        ("other", None),
    ] {
        assert_eq!(found.upgrades.says(name), says, "{name}");
    }
    assert!(
        listener_with_upgrades(Vec::new())
            .unwrap()
            .upgrades
            .is_empty()
    );
    let twice = vec![upgrade("websocket", None), upgrade("WebSocket", None)];
    let error = listener_with_upgrades(twice).unwrap_err().to_string();
    assert!(
        error.ends_with("upgrade_configs: \"WebSocket\" is there twice; write one"),
        "{error}"
    );
}

fn listener_with_upgrades(upgrades: Vec<UpgradeConfig>) -> Converted<HttpSettings> {
    let found = taken(|m| m.upgrade_configs = upgrades)?;
    Ok(found.as_deref().cloned().unwrap())
}

#[test]
fn limits_for_callers_are_taken() {
    let found = settings(|m| {
        m.request_headers_timeout = Some(seconds(5));
        m.max_request_headers_kb = Some(96);
        m.common_http_protocol_options = Some(HttpProtocolOptions {
            max_headers_count: Some(50),
            ..HttpProtocolOptions::default()
        });
        m.http2_protocol_options = Some(Http2ProtocolOptions {
            max_concurrent_streams: Some(7),
            ..Http2ProtocolOptions::default()
        });
    });
    assert_eq!(
        found.connection,
        ConnectionSettings {
            head_timeout: Some(Duration::from_secs(5)),
            max_head: Some(96 * 1024),
            max_fields: Some(50),
            max_streams: Some(7),
            ..ConnectionSettings::default()
        }
    );
    let never = settings(|m| m.request_headers_timeout = Some(seconds(0)));
    assert_eq!(never.connection.head_timeout, Some(Duration::ZERO));
}

#[test]
fn what_we_keep_anyhow_may_be_said() {
    let table: [Change; 10] = [
        |m| m.use_remote_address = Some(false),
        |m| m.normalize_path = Some(true),
        |m| m.request_timeout = Some(seconds(0)),
        |m| m.request_headers_timeout = Some(seconds(10)),
        |m| m.max_request_headers_kb = Some(60),
        |m| m.generate_request_id = Some(false),
        |m| m.preserve_external_request_id = true,
        |m| m.server_header_transformation = 2,
        |m| m.path_with_escaped_slashes_action = 1,
        |m| {
            m.internal_address_config = Some(InternalAddressConfig {
                cidr_ranges: vec![CidrRange::default()],
                ..InternalAddressConfig::default()
            });
        },
    ];
    for change in table {
        let found = taken(change).unwrap().unwrap();
        assert_eq!(found.head, HeadSettings::default());
        assert!(found.server.is_none() && found.filters.is_empty());
    }
}

#[test]
fn what_we_do_not_do_is_refused_by_the_name_of_the_field() {
    let table: [(Change, &str); 20] = [
        (
            |m| m.request_timeout = Some(seconds(1)),
            "request_timeout: 1s",
        ),
        (
            |m| m.max_request_headers_kb = Some(0),
            "max_request_headers_kb: 0; must be 1 to 8192",
        ),
        (
            |m| m.max_request_headers_kb = Some(8193),
            "max_request_headers_kb: 8193; must be 1 to 8192",
        ),
        (
            |m| m.skip_xff_append = true,
            "skip_xff_append: has no effect",
        ),
        (|m| m.normalize_path = Some(false), "normalize_path: false"),
        (
            |m| m.path_with_escaped_slashes_action = 3,
            "path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT",
        ),
        (
            |m| {
                m.strip_matching_host_port = true;
                m.strip_port_mode = Some(StripPortMode::StripAnyHostPort(true));
            },
            "strip_matching_host_port: strip_any_host_port is set too",
        ),
        (
            |m| {
                m.upgrade_configs = vec![UpgradeConfig {
                    upgrade_type: "connect-udp".to_owned(),
                    ..UpgradeConfig::default()
                }];
            },
            "upgrade_configs[0].upgrade_type: \"connect-udp\" is not supported yet",
        ),
        (
            |m| m.server_header_transformation = 1,
            "server_name: missing",
        ),
        (
            |m| {
                m.server_name = "a".to_owned();
                m.server_header_transformation = 2;
            },
            "server_name: has no effect with PASS_THROUGH",
        ),
        (|m| m.server_name = "\n".to_owned(), "server_name: "),
        (
            |m| {
                m.common_http_protocol_options = Some(HttpProtocolOptions {
                    max_stream_duration: Some(seconds(1)),
                    ..HttpProtocolOptions::default()
                });
            },
            "common_http_protocol_options.max_stream_duration: not supported yet",
        ),
        (
            |m| m.tracing = Some(Default::default()),
            "tracing: not supported yet",
        ),
        (
            |m| m.access_log = vec![Default::default()],
            "access_log: not supported yet",
        ),
        (|m| m.via = "a".to_owned(), "via: not supported yet"),
        (
            |m| m.local_reply_config = Some(Default::default()),
            "local_reply_config: not supported yet",
        ),
        (
            |m| m.request_id_extension = Some(Default::default()),
            "request_id_extension: not supported yet",
        ),
        (
            |m| m.proxy_100_continue = true,
            "proxy_100_continue: not supported yet",
        ),
        (
            |m| {
                m.http2_protocol_options = Some(Http2ProtocolOptions {
                    max_concurrent_streams: Some(0),
                    ..Http2ProtocolOptions::default()
                });
            },
            "http2_protocol_options.max_concurrent_streams: 0 would let nobody in",
        ),
        (
            |m| {
                m.common_http_protocol_options = Some(HttpProtocolOptions {
                    max_headers_count: Some(0),
                    ..HttpProtocolOptions::default()
                });
            },
            "common_http_protocol_options.max_headers_count: 0 would let no request in",
        ),
    ];
    for (change, expected) in table {
        let found = taken(change).unwrap_err().to_string();
        let expected = format!("filter_chains[0].filters[0].typed_config.{expected}");
        assert!(
            found.starts_with(&expected),
            "{found} instead of {expected}"
        );
    }
}
