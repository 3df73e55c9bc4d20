//! CSDS: what every connected client holds, resource by resource, as the streams themselves know it.
//!
//! ```text
//! FetchClientStatus ─► a question to each stream's task ─► what it sent, and what was said to it
//! ```
//! Nothing is kept for it: a stream that nobody asks about does nothing. For the operator alone.

mod matcher;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

#[cfg(test)]
use outrigger_proto::envoy::r#type::matcher::v3::NodeMatcher;
use outrigger_proto::envoy::{
    admin::v3::{ClientResourceStatus, UpdateFailureState},
    config::core::v3::Node,
    service::status::v3::{
        ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
        client_config::GenericXdsConfig,
        client_status_discovery_service_server::ClientStatusDiscoveryService,
    },
};
use prost::Message as _;
use prost_types::{Struct, Timestamp};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{stream::StreamState, subscription::Holding};
use crate::{
    caller::Caller,
    clients::{Asked, Clients},
};

/// A stream's task looks up between two answers; one that hangs is left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Resources in one answer. An operator who wants more has to say of which node.
const MAX_RESOURCES: usize = 200_000;

/// A question to a stream.
pub(crate) type Ask = oneshot::Sender<Vec<GenericXdsConfig>>;

/// What the generated trait is implemented for.
#[derive(Clone, Debug)]
pub(crate) struct StatusService(pub(crate) Arc<Clients>);

#[tonic::async_trait]
impl ClientStatusDiscoveryService for StatusService {
    type StreamClientStatusStream = ReceiverStream<Result<ClientStatusResponse, Status>>;

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        Caller::of(request.extensions())
            .may_administer()
            .map_err(Status::from)?;
        self.answer(request.get_ref()).await.map(Response::new)
    }

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        Caller::of(request.extensions())
            .may_administer()
            .map_err(Status::from)?;
        let (service, mut requests) = (self.clone(), request.into_inner());
        let (sender, receiver) = mpsc::channel(1);
        // Ends with the client: its half of the stream fails, or nobody takes the answers.
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let answer = service.answer(&request).await;
                let refused = answer.is_err();
                if sender.send(answer).await.is_err() || refused {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl StatusService {
    async fn answer(&self, request: &ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        let wanted =
            matcher::Clients::of(&request.node_matchers).map_err(Status::invalid_argument)?;
        let (mut config, mut resources) = (Vec::new(), 0);
        for Asked {
            node_id,
            metadata,
            ask,
        } in self.0.streams()
        {
            // Ours, encoded: it can be read.
            let metadata = wanted.need_metadata().then(|| Struct::decode(&*metadata));
            let metadata = metadata.and_then(Result::ok).unwrap_or_default();
            if !wanted.have(&node_id, &metadata) {
                continue;
            }
            let Some(mut held) = question(&ask).await else {
                continue;
            };
            resources += held.len();
            if resources > MAX_RESOURCES {
                return Err(Status::resource_exhausted(format!(
                    "more than {MAX_RESOURCES} resources; name clients in node_matchers"
                )));
            }
            if request.exclude_resource_contents {
                held.iter_mut().for_each(|one| one.xds_config = None);
            }
            config.push(ClientConfig {
                node: Some(Node {
                    id: node_id,
                    ..Node::default()
                }),
                generic_xds_configs: held,
                ..ClientConfig::default()
            });
        }
        Ok(ClientStatusResponse { config })
    }
}

/// Whether matchers are for a client.
#[cfg(test)]
pub(super) fn would_have(
    matchers: &[NodeMatcher],
    id: &str,
    metadata: &Struct,
) -> Result<bool, String> {
    matcher::Clients::of(matchers).map(|wanted| wanted.have(id, metadata))
}

/// None if the stream is gone, or has no time.
async fn question(stream: &mpsc::Sender<Ask>) -> Option<Vec<GenericXdsConfig>> {
    let (answer, receiver) = oneshot::channel();
    stream.try_send(answer).ok()?;
    timeout(PATIENCE, receiver).await.ok()?.ok()
}

/// What the client of a stream holds.
pub(super) fn of(state: &StreamState) -> Vec<GenericXdsConfig> {
    let (now, today) = (Instant::now(), SystemTime::now());
    // A stream counts in a clock that nobody sets.
    let time = |at: Instant| {
        let passed = now.saturating_duration_since(at);
        today.checked_sub(passed).map(Timestamp::from)
    };
    let held = state.holdings().map(|(kind, name, holding)| {
        let updated = holding.sent().and_then(time);
        let (config_status, client_status, error) = match &holding {
            Holding::NotSent => (ConfigStatus::NotSent, ClientResourceStatus::Requested, None),
            Holding::Absent => (
                ConfigStatus::NotSent,
                ClientResourceStatus::DoesNotExist,
                None,
            ),
            Holding::Sent { acked: false, .. } => {
                (ConfigStatus::Stale, ClientResourceStatus::Requested, None)
            }
            Holding::Sent { acked: true, .. } => {
                (ConfigStatus::Synced, ClientResourceStatus::Acked, None)
            }
            Holding::Refused { words, .. } => (
                ConfigStatus::Error,
                ClientResourceStatus::Nacked,
                Some(UpdateFailureState {
                    details: words.to_string(),
                    last_update_attempt: updated,
                    ..UpdateFailureState::default()
                }),
            ),
        };
        let (version, resource) = holding.resource();
        GenericXdsConfig {
            type_url: kind.url().to_owned(),
            name: name.to_string(),
            version_info: version.map(ToString::to_string).unwrap_or_default(),
            xds_config: resource.map(|resource| resource.any.clone()),
            config_status: config_status.into(),
            client_status: client_status.into(),
            error_state: error,
            last_updated: updated,
            ..GenericXdsConfig::default()
        }
    });
    held.collect()
}
