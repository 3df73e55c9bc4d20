//! Every metric of the data plane, with Istio's names for requests so that existing dashboards work.

use prometheus::Registry;

/// The registry; other parts of the sidecar may register their own collectors in it.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            registry: Registry::new(),
        }
    }
}
