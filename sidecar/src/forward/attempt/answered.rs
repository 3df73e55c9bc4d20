//! A try that brought a response, which may turn out to be nobody's.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use outrigger_core::{Cluster, Direction, retry::EXHAUSTED};
use tokio::time::timeout;

use crate::{
    forward::call::Call,
    http::{headers::UNSENT, replay::Upload},
    pool::lease::Lease,
};

/// The response, and the connection that it comes on.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
}

/// Most bytes, and longest time, that an answer which nobody gets is read for, to keep its connection.
const DISCARDED: usize = 64 * 1024;
const DISCARDED_WITHIN: Duration = Duration::from_secs(1);

impl Answered {
    /// Ends an answer that is not passed on: the connection is kept if the rest of it is short and comes soon.
    pub(crate) fn discard(self, cluster: &Arc<Cluster>) {
        let mut body = self.response.into_body();
        if body.is_end_stream() {
            // What another try reads of the upload is not this one's any more.
            self.lease.release(cluster, &Upload::default());
            return;
        }
        let (lease, cluster) = (self.lease, Arc::clone(cluster));
        tokio::task::spawn_local(async move {
            let mut left = DISCARDED;
            let read = async {
                while let Some(frame) = body.frame().await {
                    let size = frame.ok()?.data_ref().map_or(0, Bytes::len);
                    left = left.checked_sub(size)?;
                }
                Some(())
            };
            if timeout(DISCARDED_WITHIN, read).await == Ok(Some(())) {
                drop(body);
                lease.release(&cluster, &Upload::default());
            }
        });
    }

    /// A sidecar, known by its certificate, says that its application has not seen the request.
    pub(crate) fn says_unsent(&self, call: &Call) -> bool {
        self.is_of_sidecar(call) && self.response.headers().contains_key(UNSENT)
    }

    /// Nobody but a sidecar says whether hops below have used up their retries.
    pub(crate) fn distrust(&mut self, call: &Call) {
        if !self.is_of_sidecar(call) && self.response.headers().contains_key(EXHAUSTED) {
            self.response.headers_mut().remove(EXHAUSTED);
        }
    }

    /// It came from another sidecar, which its certificate has shown.
    pub(crate) fn is_of_sidecar(&self, call: &Call) -> bool {
        call.direction == Direction::Outbound && self.lease.is_mtls()
    }
}
