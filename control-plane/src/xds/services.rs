//! The generated service traits, each one line of behaviour: open a stream of its type.

use std::sync::Arc;

use outrigger_proto::envoy::service::{
    cluster::v3::cluster_discovery_service_server as cds,
    discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_server as ads,
    },
    endpoint::v3::endpoint_discovery_service_server as eds,
    listener::v3::listener_discovery_service_server as lds,
    route::v3::{
        route_discovery_service_server as rds, virtual_host_discovery_service_server as vhds,
    },
    secret::v3::secret_discovery_service_server as sds,
};
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::server::{Delta, Responses, Sotw, Xds};
use crate::snapshot::ResourceType;

/// Largest request. Reconnecting, a client lists every resource that it holds with its version.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// What the generated traits are implemented for.
#[derive(Clone, Debug)]
struct Services(Arc<Xds>);

impl Xds {
    /// Adds all xDS services.
    pub(crate) fn add_services(self: &Arc<Self>, routes: Routes) -> Routes {
        let limit = MAX_REQUEST_BYTES;
        let all = || Services(Arc::clone(self));
        let ads = ads::AggregatedDiscoveryServiceServer::new(all());
        let cds = cds::ClusterDiscoveryServiceServer::new(all());
        let eds = eds::EndpointDiscoveryServiceServer::new(all());
        let lds = lds::ListenerDiscoveryServiceServer::new(all());
        let rds = rds::RouteDiscoveryServiceServer::new(all());
        let sds = sds::SecretDiscoveryServiceServer::new(all());
        let vhds = vhds::VirtualHostDiscoveryServiceServer::new(all());
        routes
            .add_service(ads.max_decoding_message_size(limit))
            .add_service(cds.max_decoding_message_size(limit))
            .add_service(eds.max_decoding_message_size(limit))
            .add_service(lds.max_decoding_message_size(limit))
            .add_service(rds.max_decoding_message_size(limit))
            .add_service(sds.max_decoding_message_size(limit))
            .add_service(vhds.max_decoding_message_size(limit))
    }
}

type DeltaStream = Responses<DeltaDiscoveryResponse>;
type SotwStream = Responses<DiscoveryResponse>;

/// One service: its trait, its two methods with their stream types, its type (None = all), and a unary method that is
/// not served.
macro_rules! service {
    ($trait:path, $delta:ident $Delta:ident, $sotw:ident $Sotw:ident, $only:expr $(, $fetch:ident)?) => {
        #[tonic::async_trait]
        impl $trait for Services {
            type $Delta = DeltaStream;
            type $Sotw = SotwStream;

            async fn $delta(
                &self,
                request: Request<Streaming<DeltaDiscoveryRequest>>,
            ) -> Result<Response<DeltaStream>, Status> {
                self.0.open::<Delta>(request, $only)
            }

            async fn $sotw(
                &self,
                request: Request<Streaming<DiscoveryRequest>>,
            ) -> Result<Response<SotwStream>, Status> {
                self.0.open::<Sotw>(request, $only)
            }

            $(async fn $fetch(
                &self,
                _request: Request<DiscoveryRequest>,
            ) -> Result<Response<DiscoveryResponse>, Status> {
                Err(Status::unimplemented("resources are served over streams only"))
            })?
        }
    };
}

service!(
    ads::AggregatedDiscoveryService,
    delta_aggregated_resources DeltaAggregatedResourcesStream,
    stream_aggregated_resources StreamAggregatedResourcesStream,
    None
);
service!(
    cds::ClusterDiscoveryService,
    delta_clusters DeltaClustersStream,
    stream_clusters StreamClustersStream,
    Some(ResourceType::Cluster)
);
service!(
    eds::EndpointDiscoveryService,
    delta_endpoints DeltaEndpointsStream,
    stream_endpoints StreamEndpointsStream,
    Some(ResourceType::Endpoint)
);
service!(
    lds::ListenerDiscoveryService,
    delta_listeners DeltaListenersStream,
    stream_listeners StreamListenersStream,
    Some(ResourceType::Listener)
);
service!(
    rds::RouteDiscoveryService,
    delta_routes DeltaRoutesStream,
    stream_routes StreamRoutesStream,
    Some(ResourceType::Route)
);
service!(
    sds::SecretDiscoveryService,
    delta_secrets DeltaSecretsStream,
    stream_secrets StreamSecretsStream,
    Some(ResourceType::Secret),
    fetch_secrets
);

#[tonic::async_trait]
impl vhds::VirtualHostDiscoveryService for Services {
    type DeltaVirtualHostsStream = DeltaStream;

    async fn delta_virtual_hosts(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<DeltaStream>, Status> {
        self.0
            .open::<Delta>(request, Some(ResourceType::VirtualHost))
    }
}
