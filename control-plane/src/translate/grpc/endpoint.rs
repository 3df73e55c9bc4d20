//! EDS for a gRPC library: an endpoint that it can call, and no metadata.
//!
//! The rest is as gRPC wants it in the first place: localities named and weighted, priorities without gaps, each address once.

use outrigger_proto::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use prost::Message as _;

use super::Credentials;
use crate::snapshot::{Adapted, Dialected, ResourceBytes, ResourceType};

/// For a library without certificates.
pub(super) const WITHOUT_CERTIFICATES: Dialected = Dialected {
    slot: 0,
    adapt: |resource| adapt(resource, Credentials::None),
};
/// For one that has some.
pub(super) const WITH_CERTIFICATES: Dialected = Dialected {
    slot: 1,
    adapt: |resource| adapt(resource, Credentials::Provider),
};

fn adapt(resource: &ResourceBytes, credentials: Credentials) -> Adapted {
    // Our own bytes.
    let Ok(mut assignment) = ClusterLoadAssignment::decode(resource.any.value.as_slice()) else {
        return Adapted::default();
    };
    let all = || {
        assignment
            .endpoints
            .iter()
            .flat_map(|one| &one.lb_endpoints)
    };
    let secure = all().filter(|one| is_secure(one)).count();
    let plain = all().count() - secure;
    let mut notes = Vec::new();
    let keep_secure = match credentials {
        Credentials::None => {
            if secure > 0 {
                notes.push(format!(
                    "{secure} endpoints are left out: they need mTLS, and this client has no certificate provider"
                ));
            }
            false
        }
        // One way for all; the cluster follows.
        Credentials::Provider if secure > 0 => {
            if plain > 0 {
                notes.push(format!(
                    "{plain} endpoints are left out: they have no mTLS, and a gRPC client calls all of a cluster alike"
                ));
            }
            true
        }
        Credentials::Provider => false,
    };
    let mut next = 0;
    let mut last = None;
    assignment.endpoints.retain_mut(|locality| {
        locality
            .lb_endpoints
            .retain(|one| is_secure(one) == keep_secure);
        locality
            .lb_endpoints
            .iter_mut()
            .for_each(|one| one.metadata = None);
        if locality.lb_endpoints.is_empty() {
            return false;
        }
        // Sorted by priority; a gap that has come up is closed, because gRPC refuses one.
        if last.is_some_and(|last| last != locality.priority) {
            next += 1;
        }
        last = Some(locality.priority);
        locality.priority = next;
        true
    });
    Adapted {
        resource: Some(ResourceBytes::new(
            ResourceType::Endpoint,
            &resource.name,
            &assignment,
        )),
        notes,
        plain: plain > 0 && !keep_secure,
    }
}

fn is_secure(endpoint: &LbEndpoint) -> bool {
    let metadata = endpoint.metadata.as_ref();
    metadata.is_some_and(|metadata| {
        metadata
            .filter_metadata
            .contains_key("envoy.transport_socket_match")
    })
}
