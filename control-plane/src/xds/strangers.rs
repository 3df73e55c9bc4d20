//! Whatever a stranger sends on a stream: nothing panics, what is refused is refused in words, and limits hold.

use std::time::{Duration, Instant};

use outrigger_proto::envoy::{
    config::{core::v3::Node, endpoint::v3::ClusterStats},
    service::{
        discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
        load_stats::v3::LoadStatsRequest,
        status::v3::ClientStatusRequest,
    },
};
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use tonic::Code;

use super::{
    claim, holdings,
    stream::{Protocol, StreamState},
    subscription::{MAX_NAME_BYTES, MAX_NAMES},
};
use crate::{
    loads::Loads,
    snapshot::ResourceType,
    strangers::{SEEDS, Stranger},
    translate::{NodeResources, testing::Given},
};

const MESSAGES: usize = 100;
/// Of gRPC clients.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

fn given() -> Given {
    Given::default()
        .instance("reviews", 9080, "v1", "10.0.0.1:15006")
        .plain("reviews", 9080, "v2", "10.0.0.2:9080")
}

/// Mostly of a type that is served, as strangers' types end the stream soon.
fn type_url(stranger: &mut Stranger, sent: &mut String) {
    if stranger.choose(10) > 0 {
        let kind = ResourceType::ALL[stranger.choose(ResourceType::ALL.len())];
        kind.url().clone_into(sent);
    }
}

/// A node of a stranger that is served, and what it is served.
fn known_node(stranger: &mut Stranger) -> (crate::translate::NodeInfo, crate::snapshot::Snapshot) {
    let shared = given().shared();
    loop {
        let Some(node) = stranger.message::<Node>("envoy.config.core.v3.Node") else {
            continue;
        };
        match claim::node(Some(&node), None) {
            Ok(info) => {
                assert!(info.id.len() <= MAX_NAME_BYTES);
                assert!(info.namespace.len() <= MAX_NAME_BYTES);
                let snapshot = shared.snapshot(&info, &NodeResources::of(&info));
                return (info, snapshot);
            }
            Err(status) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{status}");
                assert!(!status.message().is_empty());
            }
        }
    }
}

#[test]
fn a_stream_of_either_protocol_answers_a_stranger_or_says_why_it_ends() {
    for seed in 0..SEEDS {
        let stranger = &mut Stranger::new(seed);
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let (info, snapshot) = known_node(stranger);
            let open = || {
                let mut state = StreamState::new(protocol, "s", std::sync::Arc::default());
                state.set_snapshot(snapshot.clone());
                state
            };
            let (mut state, mut now, mut last) = (open(), Instant::now(), String::new());
            for message in 0..MESSAGES {
                let words = format!("seed {seed}, {protocol:?}, message {message}, {info:?}");
                now += Duration::from_millis(stranger.choose(5000) as u64);
                let answers_last = stranger.choose(2) == 0;
                let taken = match protocol {
                    Protocol::Delta => {
                        let name = "envoy.service.discovery.v3.DeltaDiscoveryRequest";
                        let Some(mut request) = stranger.message::<DeltaDiscoveryRequest>(name)
                        else {
                            continue;
                        };
                        type_url(stranger, &mut request.type_url);
                        if answers_last {
                            request.response_nonce.clone_from(&last);
                        }
                        state.delta_request(&request, now)
                    }
                    Protocol::Sotw => {
                        let name = "envoy.service.discovery.v3.DiscoveryRequest";
                        let Some(mut request) = stranger.message::<DiscoveryRequest>(name) else {
                            continue;
                        };
                        type_url(stranger, &mut request.type_url);
                        if answers_last {
                            request.response_nonce.clone_from(&last);
                        }
                        state.sotw_request(&request, now)
                    }
                };
                if let Err(refusal) = taken {
                    assert!(!refusal.to_string().is_empty(), "{words}");
                    state = open();
                    continue;
                }
                for answer in state.poll(now) {
                    let bytes = answer.resources.iter().map(|one| one.any.value.len());
                    assert!(bytes.sum::<usize>() < MESSAGE_LIMIT, "{words}");
                    last.clone_from(&answer.nonce);
                }
                let held = state.holdings();
                let names = held.map(|(_, name, _)| name.len());
                let (many, longest) = names.fold((0, 0), |(many, longest), bytes| {
                    (many + 1, longest.max(bytes))
                });
                assert!(many <= ResourceType::ALL.len() * 2 * MAX_NAMES, "{words}");
                assert!(longest <= MAX_NAME_BYTES, "{words}");
                holdings::of(&state);
            }
        }
    }
}

#[test]
fn reports_of_load_are_counted_as_far_as_they_can_be_read() {
    for seed in 0..SEEDS {
        let stranger = &mut Stranger::new(seed);
        let loads = std::sync::Arc::<Loads>::default();
        let (one, other) = (loads.reporter(), loads.reporter());
        for _ in 0..MESSAGES {
            let name = "envoy.service.load_stats.v3.LoadStatsRequest";
            let Some(mut request) = stranger.message::<LoadStatsRequest>(name) else {
                continue;
            };
            for stats in &mut request.cluster_stats {
                let ours: &mut ClusterStats = stats;
                ours.cluster_name = format!("outbound|80||{}", stranger.choose(3));
            }
            one.report(&request.cluster_stats, Instant::now());
            other.report(&request.cluster_stats, Instant::now());
            loads.by_host(Instant::now());
        }
    }
}

#[test]
fn questions_about_clients_are_answered_or_refused_by_their_field() {
    for seed in 0..SEEDS {
        let stranger = &mut Stranger::new(seed);
        for _ in 0..MESSAGES {
            let name = "envoy.service.status.v3.ClientStatusRequest";
            let node = stranger.message::<Node>("envoy.config.core.v3.Node");
            let Some(request) = stranger.message::<ClientStatusRequest>(name) else {
                continue;
            };
            let node = node.unwrap_or_default();
            let metadata = node.metadata.unwrap_or_default();
            if let Err(why) = holdings::would_have(&request.node_matchers, &node.id, &metadata) {
                assert!(why.starts_with("node_matchers["), "seed {seed}: {why}");
            }
        }
    }
}

/// So many structs inside each other.
fn nested(depth: usize) -> Vec<u8> {
    let mut inner = Struct::default();
    for _ in 0..depth {
        let value = Value {
            kind: Some(Kind::StructValue(inner)),
        };
        inner = Struct {
            fields: [("OUTRIGGER".to_owned(), value)].into(),
        };
    }
    Node {
        metadata: Some(inner),
        ..Node::default()
    }
    .encode_to_vec()
}

#[test]
fn metadata_that_is_too_deep_or_too_large_is_refused() {
    assert!(Node::decode(nested(1000).as_slice()).is_err());
    let deep = Node::decode(nested(20).as_slice()).unwrap();
    assert!(claim::node(Some(&deep), None).is_ok());

    let text = Value {
        kind: Some(Kind::StringValue("x".repeat(100 * 1024))),
    };
    let large = Node {
        metadata: Some(Struct {
            fields: [("ANY".to_owned(), text)].into(),
        }),
        ..Node::default()
    };
    let status = claim::node(Some(&large), None).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().starts_with("node.metadata has"),
        "{status}"
    );
}
