//! The two wire forms of a stream, as its task sees them.

use std::time::Instant;

use outrigger_proto::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
};

use crate::xds::{
    delta, sotw,
    stream::{Protocol, Refusal, StreamState},
    subscription::{Answer, Verdict},
};

/// One of the two protocols on the wire.
pub(in crate::xds) trait Wire: 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    const PROTOCOL: Protocol;

    fn node(request: &Self::Request) -> Option<&Node>;
    fn type_url(request: &mut Self::Request) -> &mut String;
    /// The version that a client has which was connected before, and the names that it asks for; if it is told so that
    /// nothing else is.
    fn comes_back_with(request: &Self::Request) -> Option<(&str, &[String])>;
    fn read(
        state: &mut StreamState,
        request: &Self::Request,
        now: Instant,
    ) -> Result<Option<Verdict>, Refusal>;
    fn response(answer: Answer) -> Self::Response;
}

/// Incremental.
pub(in crate::xds) struct Delta;

impl Wire for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn type_url(request: &mut Self::Request) -> &mut String {
        &mut request.type_url
    }

    fn comes_back_with(_: &Self::Request) -> Option<(&str, &[String])> {
        // It says of each resource what it holds.
        None
    }

    fn read(
        state: &mut StreamState,
        request: &Self::Request,
        now: Instant,
    ) -> Result<Option<Verdict>, Refusal> {
        state.delta_request(request, now)
    }

    fn response(answer: Answer) -> Self::Response {
        delta::response(answer)
    }
}

/// State of the world.
pub(in crate::xds) struct Sotw;

impl Wire for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Sotw;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn type_url(request: &mut Self::Request) -> &mut String {
        &mut request.type_url
    }

    fn comes_back_with(request: &Self::Request) -> Option<(&str, &[String])> {
        let known = request.response_nonce.is_empty() && !request.version_info.is_empty();
        known.then_some((&request.version_info, &request.resource_names))
    }

    fn read(
        state: &mut StreamState,
        request: &Self::Request,
        now: Instant,
    ) -> Result<Option<Verdict>, Refusal> {
        state.sotw_request(request, now)
    }

    fn response(answer: Answer) -> Self::Response {
        sotw::response(answer)
    }
}
