//! The stream that brings load reports.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_proto::envoy::service::load_stats::v3::{
    LoadStatsRequest, LoadStatsResponse, load_reporting_service_server::LoadReportingService,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::{INTERVAL, Loads};
use crate::{caller::Caller, spiffe::SpiffeId, xds::claim};

/// Largest report.
pub(crate) const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// A client that reports more often than it is told to is read no faster.
const READ_EVERY: Duration = Duration::from_millis(100);
/// Time for the first request, and without any.
const SILENCE: Duration = INTERVAL.saturating_mul(6);

/// What the generated trait is implemented for.
#[derive(Clone, Debug)]
pub(crate) struct LoadService(pub(crate) Arc<Loads>);

type Sender = mpsc::Sender<Result<LoadStatsResponse, Status>>;

#[tonic::async_trait]
impl LoadReportingService for LoadService {
    type StreamLoadStatsStream = ReceiverStream<Result<LoadStatsResponse, Status>>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let caller = Caller::of(request.extensions());
        let identity = caller.may_subscribe().map_err(Status::from)?.cloned();
        let loads = Arc::clone(&self.0);
        let (sender, receiver) = mpsc::channel(2);
        // Ends with the client: its half of the stream fails, or it is silent for too long.
        tokio::spawn(async move {
            if let Err(status) = serve(&loads, identity, request.into_inner(), &sender).await {
                debug!(%status, "load reports ended");
                // A client that is gone does not hear why. The channel has room for the one answer and for this.
                let _gone = sender.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn serve(
    loads: &Arc<Loads>,
    identity: Option<SpiffeId>,
    mut requests: Streaming<LoadStatsRequest>,
    sender: &Sender,
) -> Result<(), Status> {
    let Some(first) = read(&mut requests).await? else {
        return Ok(());
    };
    claim::node(first.node.as_ref(), identity.as_ref())?;
    let wanted = LoadStatsResponse {
        send_all_clusters: true,
        load_reporting_interval: prost_types::Duration::try_from(INTERVAL).ok(),
        ..LoadStatsResponse::default()
    };
    if sender.send(Ok(wanted)).await.is_err() {
        return Ok(());
    }
    let reporter = loads.reporter();
    while let Some(request) = read(&mut requests).await? {
        reporter.report(&request.cluster_stats, Instant::now());
        sleep(READ_EVERY).await;
    }
    Ok(())
}

async fn read(
    requests: &mut Streaming<LoadStatsRequest>,
) -> Result<Option<LoadStatsRequest>, Status> {
    timeout(SILENCE, requests.message())
        .await
        .map_err(|_elapsed| Status::deadline_exceeded(format!("no report within {SILENCE:?}")))?
}
