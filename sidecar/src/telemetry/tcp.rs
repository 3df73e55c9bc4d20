//! Counters of connections that are not HTTP, with Istio's names, resolved once a label set.

use std::cell::RefCell;

use prometheus::{IntCounter, IntCounterVec};

use super::Metrics;

/// Counters of one label set; those of connections that have closed by how they did.
#[derive(Debug)]
pub(crate) struct TcpHandles {
    fixed: Vec<String>,
    family: IntCounterVec,
    opened: Option<IntCounter>,
    sent: Option<IntCounter>,
    received: Option<IntCounter>,
    closed: RefCell<Vec<(&'static str, IntCounter)>>,
}

impl TcpHandles {
    pub(super) fn new(metrics: &Metrics, fixed: &[String]) -> Self {
        let of = |family: &IntCounterVec| counter(family, fixed, "-");
        Self {
            opened: of(&metrics.tcp_opened),
            sent: of(&metrics.tcp_sent_bytes),
            received: of(&metrics.tcp_received_bytes),
            closed: RefCell::default(),
            family: metrics.tcp_closed.clone(),
            fixed: fixed.to_vec(),
        }
    }

    /// One more connection.
    pub(crate) fn opened(&self) {
        if let Some(counter) = &self.opened {
            counter.inc();
        }
    }

    /// One less. `flags` is of a closed set.
    pub(crate) fn closed(&self, flags: &'static str) {
        let mut known = self.closed.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(one, _)| *one == flags) {
            counter.inc();
        } else if let Some(counter) = counter(&self.family, &self.fixed, flags) {
            counter.inc();
            known.push((flags, counter));
        }
    }

    /// Bytes to the caller, and from it.
    pub(crate) fn bytes(&self, sent: u64, received: u64) {
        for (counter, bytes) in [(&self.sent, sent), (&self.received, received)] {
            if let Some(counter) = counter.as_ref().filter(|_| bytes > 0) {
                counter.inc_by(bytes);
            }
        }
    }
}

fn counter(family: &IntCounterVec, fixed: &[String], flags: &str) -> Option<IntCounter> {
    let values: Vec<&str> = fixed
        .iter()
        .map(String::as_str)
        .chain(["tcp", flags])
        .collect();
    family.get_metric_with_label_values(&values).ok()
}
