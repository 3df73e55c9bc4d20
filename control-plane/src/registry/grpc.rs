//! `outrigger.v1.Registry` over gRPC.

use outrigger_proto::outrigger::v1::{self as api, registry_server::Registry};
use tonic::{Request, Response, Status};

use super::service::RegistryService;
use crate::caller::{Caller, Peer};

#[tonic::async_trait]
impl Registry for RegistryService {
    async fn register(
        &self,
        request: Request<api::RegisterRequest>,
    ) -> Result<Response<api::RegisterResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let peer = extensions.get::<Peer>().map(|peer| peer.0.ip());
        let caller = Caller::of(&extensions);
        Ok(Response::new(
            Self::register(self, &caller, peer, request).await?,
        ))
    }

    async fn heartbeat(
        &self,
        request: Request<api::HeartbeatRequest>,
    ) -> Result<Response<api::HeartbeatResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let caller = Caller::of(&extensions);
        Ok(Response::new(
            Self::heartbeat(self, &caller, request).await?,
        ))
    }

    async fn deregister(
        &self,
        request: Request<api::DeregisterRequest>,
    ) -> Result<Response<api::DeregisterResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let caller = Caller::of(&extensions);
        Ok(Response::new(
            Self::deregister(self, &caller, request).await?,
        ))
    }
}
