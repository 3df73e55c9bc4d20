//! How a stream of secrets in State of the World form is answered: taken, or refused with the reason.

use outrigger_proto::{
    envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    google::rpc::Status,
};

pub(crate) const SECRET: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Acknowledges `answer`, which was asked for by `name`, or refuses it.
pub(crate) fn reply(
    name: &str,
    answer: DiscoveryResponse,
    result: Result<(), String>,
) -> DiscoveryRequest {
    let refused = result.err().map(|message| Status {
        code: 3,
        message,
        ..Status::default()
    });
    DiscoveryRequest {
        version_info: if refused.is_none() {
            answer.version_info
        } else {
            String::new()
        },
        response_nonce: answer.nonce,
        resource_names: vec![name.to_owned()],
        type_url: SECRET.to_owned(),
        error_detail: refused,
        ..DiscoveryRequest::default()
    }
}
