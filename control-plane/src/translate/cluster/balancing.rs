//! Which endpoint of a cluster is chosen: balancer, warm-up, and what `common_lb_config` adds.
//! Source: Istio's `ApplyLoadBalancer`; Envoy's `lb_policy`.

use outrigger_policy::{
    Balancer, DestinationPolicy, HashAlgorithm, LoadBalancer, OutlierDetection, OwnBalancer, Warmup,
};
use outrigger_proto::envoy::{
    config::{
        cluster::v3::cluster::{
            CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig,
            RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig,
            common_lb_config::{
                ConsistentHashingLbConfig, LocalityConfigSpecifier, LocalityWeightedLbConfig,
            },
            ring_hash_lb_config::HashFunction,
        },
        core::v3::RuntimeDouble,
    },
    r#type::v3::Percent,
};

use super::super::{any::duration, locality};

/// `lb_policy` and its configuration.
pub(super) fn policy(
    balancer: Option<&LoadBalancer>,
    own: Option<&DestinationPolicy>,
) -> (LbPolicy, Option<LbConfig>) {
    let slow_start = || {
        balancer
            .and_then(|balancer| balancer.warmup)
            .map(slow_start)
    };
    let least_request = || {
        let config = LeastRequestLbConfig {
            choice_count: Some(2),
            slow_start_config: slow_start(),
            ..LeastRequestLbConfig::default()
        };
        let config = LbConfig::LeastRequestLbConfig(config);
        (LbPolicy::LeastRequest, Some(config))
    };
    match balancer.map(|balancer| &balancer.algorithm) {
        Some(Balancer::ConsistentHash { algorithm, .. }) => hash(algorithm),
        // Closest to it, for clients that do not read our metadata.
        _ if own_balancer(balancer, own).is_some() => least_request(),
        Some(Balancer::RoundRobin) => {
            let config = RoundRobinLbConfig {
                slow_start_config: slow_start(),
            };
            let config = LbConfig::RoundRobinLbConfig(config);
            (LbPolicy::RoundRobin, Some(config))
        }
        Some(Balancer::Random) => (LbPolicy::Random, None),
        Some(Balancer::LeastRequest) | None => least_request(),
    }
}

/// The balancer of a DestinationPolicy, which takes the place of a simple one.
pub(super) fn own_balancer(
    balancer: Option<&LoadBalancer>,
    own: Option<&DestinationPolicy>,
) -> Option<OwnBalancer> {
    let own = own?.balancer.as_ref()?.value;
    (!balancer.is_some_and(is_hash)).then_some(own)
}

/// What holds whatever the balancer is.
pub(super) fn common(
    balancer: Option<&LoadBalancer>,
    own: Option<&DestinationPolicy>,
    outlier: Option<&OutlierDetection>,
) -> CommonLbConfig {
    let bounded = own.and_then(|own| own.bounded_load.as_ref());
    let bounded = bounded.filter(|_| balancer.is_some_and(is_hash));
    let distributed = balancer.is_some_and(locality::distributes);
    CommonLbConfig {
        // 0 = no panic routing: unhealthy endpoints are not used while one healthy is left.
        healthy_panic_threshold: Some(Percent {
            value: outlier.map_or(0.0, |outlier| outlier.min_health_percent.into()),
        }),
        // Without this, weights of localities mean nothing to Envoy.
        locality_config_specifier: distributed.then_some(
            LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}),
        ),
        consistent_hashing_lb_config: bounded.map(|percent| ConsistentHashingLbConfig {
            hash_balance_factor: Some(percent.value),
            ..ConsistentHashingLbConfig::default()
        }),
        ..CommonLbConfig::default()
    }
}

/// Whether the same key goes to the same endpoint.
pub(super) fn is_hash(balancer: &LoadBalancer) -> bool {
    matches!(balancer.algorithm, Balancer::ConsistentHash { .. })
}

fn hash(algorithm: &HashAlgorithm) -> (LbPolicy, Option<LbConfig>) {
    match *algorithm {
        HashAlgorithm::RingHash { minimum_ring_size } => {
            let config = RingHashLbConfig {
                minimum_ring_size: Some(minimum_ring_size),
                hash_function: HashFunction::XxHash as i32,
                ..RingHashLbConfig::default()
            };
            (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config)))
        }
        HashAlgorithm::Maglev { table_size } => {
            let config = MaglevLbConfig {
                table_size: Some(table_size),
            };
            (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config)))
        }
    }
}

fn slow_start(warmup: Warmup) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(duration(warmup.duration)),
        aggression: Some(RuntimeDouble {
            default_value: warmup.aggression,
            // Envoy refuses one without a key; nobody sets this one.
            runtime_key: "outrigger".to_owned(),
        }),
        min_weight_percent: Some(Percent {
            value: warmup.minimum_percent,
        }),
    }
}
