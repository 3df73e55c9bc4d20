//! State of the World: the engine's requests and answers in the other wire form. Holds what that form needs to know
//! of a stream; decides nothing that the engine decides.
//!
//! ```text
//! engine ── +a -b, ACK n ─► all names, version_info, nonce n ─► server
//! engine ◄─ changed, gone ── the whole set (listeners, clusters), or what changed (the rest) ◄── server
//! ```
//! Only listeners and clusters can go by being absent; what else is absent has not changed.
//! Source: the xDS protocol, "State of the world"; Envoy for the version of a NACK.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use prost::Message;
use prost_types::Any;

use super::{
    convert::fields,
    state::{Kind, TypeState},
};

const WRAPPER: &str = "envoy.service.discovery.v3.Resource";

/// One type on the wire.
#[derive(Debug, Default)]
struct Wire {
    names: BTreeSet<String>,
    /// Of the last answer that was accepted as a whole; kept over streams.
    version: String,
    /// Of the last answer on this stream, and the version that came with it.
    nonce: String,
    offered: String,
    /// Dropped since that answer, and of these what is asked for again. A server that had already said the next thing
    /// has heard of neither.
    dropped: BTreeSet<String>,
    again: BTreeSet<String>,
}

/// The form of one client, over all of its streams.
#[derive(Debug, Default)]
pub(crate) struct Sotw {
    types: BTreeMap<String, Wire>,
}

impl Sotw {
    /// The requests of a new stream. What is held is not sent again if the version is still the newest: it is named
    /// only if everything that is asked for is held.
    pub(crate) fn connected(
        &mut self,
        requests: Vec<DeltaDiscoveryRequest>,
    ) -> Vec<DiscoveryRequest> {
        for wire in self.types.values_mut() {
            wire.nonce.clear();
            wire.names.clear();
            wire.dropped.clear();
            wire.again.clear();
        }
        for request in &requests {
            let held = &request.initial_resource_versions;
            let mut names = request.resource_names_subscribe.iter();
            if !names.all(|name| name == "*" || held.contains_key(name))
                && let Some(wire) = self.types.get_mut(&request.type_url)
            {
                wire.version.clear();
            }
        }
        self.write(requests)
    }

    /// The same requests in this form. A change of names beside the answer to the same type travels with it, so that
    /// every nonce is answered once. What was dropped and asked for again between two answers is left out of the
    /// acknowledgement and asked for right after it: if the server ignored both as stale, it would not send it. A type whose first names on a stream are new ones has no version: with the one of
    /// an earlier stream the server might take them for delivered.
    pub(crate) fn requests(
        &mut self,
        requests: Vec<DeltaDiscoveryRequest>,
    ) -> Vec<DiscoveryRequest> {
        for request in &requests {
            if !request.resource_names_subscribe.is_empty()
                && let Some(wire) = self.types.get_mut(&request.type_url)
                && wire.nonce.is_empty()
            {
                wire.version.clear();
            }
        }
        self.write(requests)
    }

    fn write(&mut self, requests: Vec<DeltaDiscoveryRequest>) -> Vec<DiscoveryRequest> {
        let answered: BTreeSet<String> = requests
            .iter()
            .filter(|request| !request.response_nonce.is_empty() || request.error_detail.is_some())
            .map(|request| request.type_url.clone())
            .collect();
        for request in &requests {
            let wire = self.types.entry(request.type_url.clone()).or_default();
            for name in &request.resource_names_unsubscribe {
                wire.names.remove(name);
                wire.again.remove(name);
                wire.dropped.insert(name.clone());
            }
            let named = request.resource_names_subscribe.iter();
            for name in named.filter(|name| *name != "*") {
                wire.names.insert(name.clone());
                if wire.dropped.contains(name) {
                    wire.again.insert(name.clone());
                }
            }
        }
        let mut written = Vec::new();
        for request in requests {
            let is_answer = !request.response_nonce.is_empty() || request.error_detail.is_some();
            if !is_answer && answered.contains(&request.type_url) {
                continue;
            }
            let wire = self.types.entry(request.type_url.clone()).or_default();
            if is_answer && request.error_detail.is_none() {
                wire.version.clone_from(&wire.offered);
            }
            let with = |names: Vec<String>, node, error_detail| DiscoveryRequest {
                version_info: wire.version.clone(),
                node,
                resource_names: names,
                type_url: request.type_url.clone(),
                response_nonce: wire.nonce.clone(),
                error_detail,
                ..DiscoveryRequest::default()
            };
            let all = wire.names.iter().cloned().collect();
            if is_answer && !wire.again.is_empty() {
                let others = wire.names.difference(&wire.again).cloned().collect();
                written.push(with(others, request.node, request.error_detail));
                written.push(with(all, None, None));
            } else {
                written.push(with(all, request.node, request.error_detail));
            }
            if is_answer {
                wire.dropped.clear();
                wire.again.clear();
            }
        }
        written
    }

    /// What an answer means: what it brings, and, of the types that come whole, what of `held` is gone.
    pub(crate) fn response(
        &mut self,
        response: DiscoveryResponse,
        held: Option<&TypeState>,
    ) -> DeltaDiscoveryResponse {
        let wire = self.types.entry(response.type_url.clone()).or_default();
        wire.nonce.clone_from(&response.nonce);
        wire.offered.clone_from(&response.version_info);
        let version = &response.version_info;
        let resources: Vec<Resource> = response
            .resources
            .into_iter()
            .map(|any| resource(any, version))
            .collect();
        for resource in &resources {
            wire.again.remove(&resource.name);
        }
        let comes_whole = matches!(
            Kind::from_type_url(&response.type_url),
            Some(Kind::Cluster | Kind::Listener)
        );
        // What cannot be read may be any of those that seem to be gone.
        let is_readable = resources.iter().all(|resource| !resource.name.is_empty());
        let removed_resources = match held {
            Some(held) if comes_whole && is_readable => {
                let here: BTreeSet<&str> = resources.iter().map(|r| r.name.as_str()).collect();
                let gone = held.entries().keys();
                gone.filter(|name| !here.contains(name.as_str()))
                    .cloned()
                    .collect()
            }
            _ => Vec::new(),
        };
        DeltaDiscoveryResponse {
            system_version_info: response.version_info,
            type_url: response.type_url,
            nonce: response.nonce,
            resources,
            removed_resources,
            ..DeltaDiscoveryResponse::default()
        }
    }
}

/// The name in the first field, which it is for all of our types but tables of names.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// A resource with its name; an empty name if it cannot be read.
fn resource(any: Any, version: &str) -> Resource {
    if fields::type_name(&any.type_url) == WRAPPER {
        return match Resource::decode(any.value.as_slice()) {
            Ok(wrapped) => Resource {
                version: version.to_owned(),
                ..wrapped
            },
            Err(_unreadable) => Resource {
                resource: Some(any),
                ..Resource::default()
            },
        };
    }
    // One table of all names has none itself.
    let named = match Kind::from_type_url(&any.type_url) {
        Some(Kind::NameTable) => Named::default(),
        _ => Named::decode(any.value.as_slice()).unwrap_or_default(),
    };
    Resource {
        name: named.name,
        version: version.to_owned(),
        resource: Some(any),
        ..Resource::default()
    }
}
