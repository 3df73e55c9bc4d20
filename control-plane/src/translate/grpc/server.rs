//! LDS for a gRPC server (A36): it asks by the address that it listens on, and is told whose calls it takes.
//!
//! With a certificate provider only certificates of the mesh get in, as at a sidecar's inbound port; without, plain text.

use std::{net::SocketAddr, sync::Arc};

use outrigger_proto::envoy::{
    config::{
        core::v3::{TrafficDirection, TransportSocket, transport_socket::ConfigType},
        listener::v3::{Filter, FilterChain, Listener, filter},
        route::v3::{NonForwardingAction, Route, RouteConfiguration, VirtualHost, route::Action},
    },
    extensions::{
        filters::{
            http::router::v3::Router,
            network::http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
        },
        transport_sockets::tls::v3::{
            CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext,
            DownstreamTlsContext, common_tls_context::ValidationContextType,
        },
    },
};

use super::{
    super::{
        any::{address, any},
        listener::filter as http_filter,
        matching::everything,
    },
    Credentials, PROVIDER,
};
use crate::snapshot::{ResourceBytes, ResourceType};

/// What `server_listener_resource_name_template` has before `%s` (Istio's).
const PREFIX: &str = "xds.istio.io/grpc/lds/inbound/";

/// The listener of this name. None if it is not a server's.
pub(super) fn of(name: &str, credentials: Credentials) -> Option<Arc<ResourceBytes>> {
    let listen: SocketAddr = name.strip_prefix(PREFIX)?.parse().ok()?;
    let route = Route {
        name: "default".to_owned(),
        r#match: Some(everything()),
        action: Some(Action::NonForwardingAction(NonForwardingAction {})),
        ..Route::default()
    };
    let host = VirtualHost {
        name: "inbound".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            name: "inbound".to_owned(),
            virtual_hosts: vec![host],
            ..RouteConfiguration::default()
        })),
        http_filters: vec![http_filter(
            "envoy.filters.http.router",
            any(
                "envoy.extensions.filters.http.router.v3.Router",
                &Router::default(),
            ),
        )],
        ..HttpConnectionManager::default()
    };
    let chain = FilterChain {
        name: "inbound".to_owned(),
        filters: vec![Filter {
            name: "envoy.filters.network.http_connection_manager".to_owned(),
            config_type: Some(filter::ConfigType::TypedConfig(any(
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                &manager,
            ))),
        }],
        transport_socket: match credentials {
            Credentials::None => None,
            Credentials::Provider => Some(mesh_only()),
        },
        ..FilterChain::default()
    };
    let listener = Listener {
        name: name.to_owned(),
        address: Some(address(listen)),
        filter_chains: vec![chain],
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Listener::default()
    };
    Some(ResourceBytes::new(ResourceType::Listener, name, &listener))
}

fn mesh_only() -> TransportSocket {
    let instance = || CertificateProviderPluginInstance {
        instance_name: PROVIDER.to_owned(),
        ..CertificateProviderPluginInstance::default()
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_provider_instance: Some(instance()),
            validation_context_type: Some(ValidationContextType::ValidationContext(
                CertificateValidationContext {
                    ca_certificate_provider_instance: Some(instance()),
                    ..CertificateValidationContext::default()
                },
            )),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: Some(true),
        ..DownstreamTlsContext::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            &context,
        ))),
    }
}
