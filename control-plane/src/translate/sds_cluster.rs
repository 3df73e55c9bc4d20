//! Secrets from the client's own SDS server: what an Envoy is sent that has a key, from an agent beside it.
//!
//! The same clusters and listeners as everybody's, but for where their secrets come from: not from here, where no key is
//! served, but from the cluster [`NAME`] of the client's bootstrap file. Made when such a client asks, and kept with the
//! resource.

use outrigger_proto::envoy::{
    config::{
        cluster::v3::Cluster,
        core::v3::{
            ApiConfigSource, ApiVersion, ConfigSource, GrpcService, TransportSocket,
            api_config_source::ApiType,
            config_source::ConfigSourceSpecifier,
            grpc_service::{EnvoyGrpc, TargetSpecifier},
            transport_socket::ConfigType,
        },
        listener::v3::Listener,
    },
    extensions::transport_sockets::tls::v3::{
        CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext,
        common_tls_context::ValidationContextType,
    },
};
use prost::Message as _;

use super::{any::any, proxy_protocol};
use crate::snapshot::{Adapted, Dialected, ResourceBytes, ResourceType, Resources, Snapshot, View};

/// The cluster of a bootstrap file that leads to its SDS server (Istio's name).
pub(crate) const NAME: &str = "sds-grpc";

/// Clusters and listeners: a resource is one of them, so that they may share a place.
const SLOT: usize = 3;
const CLUSTERS: Dialected = Dialected {
    slot: SLOT,
    adapt: cluster,
};
const LISTENERS: Dialected = Dialected {
    slot: SLOT,
    adapt: listener,
};

const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

/// What such a client sees.
pub(super) fn snapshot(plain: Snapshot) -> Snapshot {
    let seen = |resources: Resources, dialect| Resources {
        view: View::Adapted(dialect),
        ..resources
    };
    Snapshot {
        clusters: seen(plain.clusters, CLUSTERS),
        listeners: seen(plain.listeners, LISTENERS),
        ..plain
    }
}

fn cluster(resource: &ResourceBytes) -> Adapted {
    // Our own bytes.
    let Ok(mut cluster) = Cluster::decode(resource.any.value.as_slice()) else {
        return Adapted::default();
    };
    let by_match = cluster.transport_socket_matches.iter_mut();
    let by_match = by_match.filter_map(|one| one.transport_socket.as_mut());
    for socket in cluster.transport_socket.iter_mut().chain(by_match) {
        proxy_protocol::inside(socket, redirect);
    }
    adapted(ResourceType::Cluster, resource, &cluster)
}

fn listener(resource: &ResourceBytes) -> Adapted {
    let Ok(mut listener) = Listener::decode(resource.any.value.as_slice()) else {
        return Adapted::default();
    };
    let others = listener.default_filter_chain.iter_mut();
    for chain in listener.filter_chains.iter_mut().chain(others) {
        chain.transport_socket.iter_mut().for_each(redirect);
    }
    adapted(ResourceType::Listener, resource, &listener)
}

fn adapted(kind: ResourceType, from: &ResourceBytes, to: &impl prost::Message) -> Adapted {
    Adapted {
        resource: Some(ResourceBytes::new(kind, &from.name, to)),
        ..Adapted::default()
    }
}

/// What is not TLS by SDS stays as it is.
fn redirect(socket: &mut TransportSocket) {
    let Some(ConfigType::TypedConfig(config)) = &mut socket.config_type else {
        return;
    };
    let name = config.type_url.rsplit('/').next().unwrap_or_default();
    if name == UPSTREAM
        && let Ok(mut context) = UpstreamTlsContext::decode(config.value.as_slice())
    {
        context.common_tls_context.iter_mut().for_each(common);
        *config = any(UPSTREAM, &context);
    } else if name == DOWNSTREAM
        && let Ok(mut context) = DownstreamTlsContext::decode(config.value.as_slice())
    {
        context.common_tls_context.iter_mut().for_each(common);
        *config = any(DOWNSTREAM, &context);
    }
}

fn common(context: &mut CommonTlsContext) {
    let own = context.tls_certificate_sds_secret_configs.iter_mut();
    own.for_each(secret);
    match &mut context.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => secret(config),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let config = combined.validation_context_sds_secret_config.iter_mut();
            config.for_each(secret);
        }
        Some(ValidationContextType::ValidationContext(_)) | None => {}
    }
}

fn secret(config: &mut SdsSecretConfig) {
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: NAME.to_owned(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    };
    let source = ApiConfigSource {
        api_type: ApiType::Grpc as i32,
        transport_api_version: ApiVersion::V3 as i32,
        set_node_on_first_message_only: true,
        grpc_services: vec![service],
        ..ApiConfigSource::default()
    };
    // It is there before the client is: no time is set for what does not come.
    config.sds_config = Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
        resource_api_version: ApiVersion::V3 as i32,
        ..ConfigSource::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::tls;

    #[test]
    fn every_secret_of_a_context_comes_from_the_clients_own_server() {
        let mut socket = tls::downstream(&tls::ALPN_HTTP);
        redirect(&mut socket);
        let Some(ConfigType::TypedConfig(config)) = socket.config_type else {
            panic!("no configuration");
        };
        let context = DownstreamTlsContext::decode(config.value.as_slice()).unwrap();
        let text = format!("{context:?}");
        assert_eq!(text.matches("sds-grpc").count(), 2, "{text}");
        assert!(!text.contains("Ads("), "{text}");
        assert_eq!(context.require_client_certificate, Some(true));
    }

    #[test]
    fn what_has_no_secrets_is_left_alone() {
        let plain = TransportSocket {
            name: "envoy.transport_sockets.raw_buffer".to_owned(),
            config_type: None,
        };
        let mut same = plain.clone();
        redirect(&mut same);
        assert_eq!(same, plain);
    }
}
