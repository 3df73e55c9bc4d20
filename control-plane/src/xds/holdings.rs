//! CSDS: what every connected client holds, resource by resource, as the streams themselves know it.
//!
//! ```text
//! FetchClientStatus ─► a question to each stream's task ─► what it sent, and what was said to it
//! ```
//! Nothing is kept for it: a stream that nobody asks about does nothing. For the operator alone.

use std::{sync::Arc, time::Duration};

use outrigger_proto::envoy::{
    admin::v3::{ClientResourceStatus, UpdateFailureState},
    config::core::v3::Node,
    service::status::v3::{
        ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
        client_config::GenericXdsConfig,
        client_status_discovery_service_server::ClientStatusDiscoveryService,
    },
    r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{stream::StreamState, subscription::Holding};
use crate::{caller::Caller, clients::Clients};

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
        if let Some(matcher) = request
            .node_matchers
            .iter()
            .find(|one| !one.node_metadatas.is_empty())
        {
            return Err(Status::invalid_argument(format!(
                "node_matchers.node_metadatas has {} entries; match by node_id",
                matcher.node_metadatas.len()
            )));
        }
        let (mut config, mut resources) = (Vec::new(), 0);
        for (node_id, stream) in self.0.streams() {
            let matchers = &request.node_matchers;
            if !matchers.is_empty() && !matchers.iter().any(|one| matches(one, &node_id)) {
                continue;
            }
            let Some(mut held) = ask(&stream).await else {
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

/// None if the stream is gone, or has no time.
async fn ask(stream: &mpsc::Sender<Ask>) -> Option<Vec<GenericXdsConfig>> {
    let (answer, receiver) = oneshot::channel();
    stream.try_send(answer).ok()?;
    timeout(PATIENCE, receiver).await.ok()?.ok()
}

fn matches(matcher: &NodeMatcher, node_id: &str) -> bool {
    let Some(StringMatcher {
        match_pattern: Some(pattern),
        ignore_case,
    }) = &matcher.node_id
    else {
        return true;
    };
    let fold = |text: &str| {
        if *ignore_case {
            text.to_lowercase()
        } else {
            text.to_owned()
        }
    };
    let id = fold(node_id);
    match pattern {
        MatchPattern::Exact(text) => id == fold(text),
        MatchPattern::Prefix(text) => id.starts_with(&fold(text)),
        MatchPattern::Suffix(text) => id.ends_with(&fold(text)),
        MatchPattern::Contains(text) => id.contains(&fold(text)),
        MatchPattern::SafeRegex(regex) => regex::Regex::new(&format!("^(?:{})$", regex.regex))
            .is_ok_and(|regex| regex.is_match(node_id)),
        MatchPattern::Custom(_) => false,
    }
}

/// What the client of a stream holds.
pub(super) fn of(state: &StreamState) -> Vec<GenericXdsConfig> {
    let held = state.holdings().map(|(kind, name, holding)| {
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
            ..GenericXdsConfig::default()
        }
    });
    held.collect()
}
