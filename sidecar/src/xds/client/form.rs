//! The two wire forms of one stream. The engine speaks delta; State of the World is translated at the door.

use std::future::Future;

use outrigger_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

use crate::xds::{engine::Engine, sotw::Sotw, state::Kind};

pub(super) type Ads = AggregatedDiscoveryServiceClient<Channel>;

/// How requests and answers look on the wire.
pub(super) trait Form: Send {
    type Request: Send + 'static;
    type Answer: Send + 'static;

    /// The requests of a new stream.
    fn first(&mut self, requests: Vec<DeltaDiscoveryRequest>) -> Vec<Self::Request>;

    /// Later ones.
    fn next(&mut self, requests: Vec<DeltaDiscoveryRequest>) -> Vec<Self::Request>;

    /// What an answer means to `engine`.
    fn read(&mut self, answer: Self::Answer, engine: &Engine) -> DeltaDiscoveryResponse;

    /// Opens the stream.
    fn call(
        ads: &mut Ads,
        requests: Request<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Answer>>, Status>> + Send;
}

/// Incremental.
#[derive(Debug)]
pub(super) struct Delta;

impl Form for Delta {
    type Request = DeltaDiscoveryRequest;
    type Answer = DeltaDiscoveryResponse;

    fn first(&mut self, requests: Vec<DeltaDiscoveryRequest>) -> Vec<Self::Request> {
        requests
    }

    fn next(&mut self, requests: Vec<DeltaDiscoveryRequest>) -> Vec<Self::Request> {
        requests
    }

    fn read(&mut self, answer: Self::Answer, _engine: &Engine) -> DeltaDiscoveryResponse {
        answer
    }

    fn call(
        ads: &mut Ads,
        requests: Request<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Answer>>, Status>> + Send {
        ads.delta_aggregated_resources(requests)
    }
}

impl Form for Sotw {
    type Request = DiscoveryRequest;
    type Answer = DiscoveryResponse;

    fn first(&mut self, requests: Vec<DeltaDiscoveryRequest>) -> Vec<Self::Request> {
        self.connected(requests)
    }

    fn next(&mut self, requests: Vec<DeltaDiscoveryRequest>) -> Vec<Self::Request> {
        self.requests(requests)
    }

    fn read(&mut self, answer: Self::Answer, engine: &Engine) -> DeltaDiscoveryResponse {
        let kind = Kind::from_type_url(&answer.type_url);
        self.response(answer, kind.map(|kind| engine.state(kind)))
    }

    fn call(
        ads: &mut Ads,
        requests: Request<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Answer>>, Status>> + Send {
        ads.stream_aggregated_resources(requests)
    }
}
