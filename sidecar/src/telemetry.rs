//! Metrics and spans of the data plane. Nothing here ever makes traffic wait.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::Config;

mod authorization;
pub(crate) mod breakers;
pub(crate) mod demand;
mod export;
pub(crate) mod filters;
pub(crate) mod handles;
pub(crate) mod metrics;
pub(crate) mod propagate;
pub(crate) mod span;
mod tcp;

pub(crate) use authorization::Decided;
pub(crate) use handles::{Ended, HandleCache, Handles};
pub(crate) use metrics::Metrics;
pub(crate) use span::{Span, SpanSink, Trace};

use span::Message;

/// Spans that wait for the exporter.
const SPAN_QUEUE: usize = 8192;

/// One per process.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) metrics: Metrics,
    /// None = no spans are made, and trace headers travel untouched.
    pub(crate) spans: Option<SpanSink>,
    /// Share of new traces that are sampled.
    pub(crate) sampling: f64,
}

impl Telemetry {
    /// Makes the registry and, with `otlp_endpoint`, the exporter's task. To be called inside the control runtime.
    pub(crate) fn start(config: &Config) -> Arc<Self> {
        let metrics = Metrics::new();
        let spans = config.otlp_endpoint.clone().map(|endpoint| {
            let (channel, messages) = mpsc::channel(SPAN_QUEUE);
            let counters = export::Counters {
                exported: metrics.spans_exported.clone(),
                failed: metrics.spans_failed.clone(),
            };
            // Ends when the last sender, and with it this struct, is gone.
            tokio::spawn(export::run(
                endpoint,
                export::resource(config),
                messages,
                counters,
            ));
            SpanSink {
                channel,
                dropped: metrics.spans_dropped.clone(),
            }
        });
        Arc::new(Self {
            metrics,
            spans,
            sampling: config.trace_sampling,
        })
    }

    /// Sends what is left, for at most `within`.
    pub(crate) async fn flush(&self, within: Duration) {
        let Some(spans) = &self.spans else {
            return;
        };
        let (tell, told) = oneshot::channel();
        let flushed = timeout(within, async {
            if spans.channel.send(Message::Flush(tell)).await.is_ok() {
                // An exporter that ended has nothing left to send.
                drop(told.await);
            }
        });
        if flushed.await.is_err() {
            tracing::warn!(?within, "the last spans were not exported in time");
        }
    }
}

#[cfg(test)]
mod tests;
