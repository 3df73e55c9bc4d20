//! What the control plane tells a sidecar, read as that sidecar would read it, and to its end.

use std::time::Duration;

use anyhow::Context as _;
use outrigger_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_sidecar::explain::Reader;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::Admin;

/// Largest answer of the control plane, as a sidecar takes it.
const MAX_MESSAGE: usize = 64 << 20;
/// The whole configuration has to arrive within this time.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests on their way out; one answer makes at most five.
const QUEUE: usize = 32;

/// Feeds `reader` until it is complete. `what` of the control plane is awaited is for the error.
pub(crate) async fn read(admin: &Admin, reader: &mut Reader, what: &str) -> anyhow::Result<()> {
    tokio::time::timeout(PATIENCE, follow(admin, reader))
        .await
        .with_context(|| {
            format!(
                "the control plane has not sent {what} within {} s",
                PATIENCE.as_secs()
            )
        })?
}

async fn follow(admin: &Admin, reader: &mut Reader) -> anyhow::Result<()> {
    let (requests, queue) = mpsc::channel(QUEUE);
    for request in reader.connected() {
        requests.send(request).await?;
    }
    let mut client = AggregatedDiscoveryServiceClient::new(admin.channel())
        .max_decoding_message_size(MAX_MESSAGE);
    let answers = client
        .delta_aggregated_resources(ReceiverStream::new(queue))
        .await;
    let mut answers = answers
        .map_err(|status| admin.refusal(&status))?
        .into_inner();
    while !reader.is_complete() {
        let answer = answers
            .message()
            .await
            .map_err(|status| admin.refusal(&status))?;
        let answer = answer.context("the control plane closed the stream")?;
        for request in reader.response(answer) {
            requests.send(request).await?;
        }
    }
    Ok(())
}
