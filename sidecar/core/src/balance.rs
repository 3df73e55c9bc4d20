//! Which endpoint next.

/// Balancing policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LbPolicy {
    /// Power of `choices` on shared in-flight counts, weights respected. Default: 2.
    #[default]
    LeastRequest,
    /// Smooth weighted round robin over the proxy.
    RoundRobin,
    /// By weight.
    Random,
    /// Ketama-like ring, Envoy's sizes.
    RingHash {
        /// Default 1024.
        minimum_ring_size: u64,
        /// Default and bound 8,388,608.
        maximum_ring_size: u64,
    },
    /// Maglev table.
    Maglev {
        /// Prime, default 65,537.
        table_size: u64,
    },
}
