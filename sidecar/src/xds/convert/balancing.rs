//! Which endpoint next, as CDS says it: `lb_policy` with its config, or `load_balancing_policy`.

use std::time::Duration;

use outrigger_core::{LbPolicy, LocalityPolicy, SlowStart};
use outrigger_proto::envoy::{
    config::cluster::v3::{
        self as proto,
        cluster::{
            ClusterDiscoveryType, CommonLbConfig, DiscoveryType, LbConfig, LbPolicy as ProtoPolicy,
            SlowStartConfig, common_lb_config::LocalityConfigSpecifier,
            ring_hash_lb_config::HashFunction,
        },
    },
    extensions::load_balancing_policies::{
        common::v3::{self as common, ConsistentHashingLbConfig},
        least_request::v3::LeastRequest,
        maglev::v3::Maglev,
        random::v3::Random,
        ring_hash::v3::RingHash,
        round_robin::v3::RoundRobin,
        wrr_locality::v3::WrrLocality,
    },
};
use prost_types::Any;

use super::{Converted, beyond::Beyond, fields, positive, refuse, unpack};

const MINIMUM_RING: u64 = 1024; // Envoy's default
const MAXIMUM_RING: u64 = 8_388_608; // Envoy's default and bound
const MAGLEV_TABLE: u64 = 65_537; // Envoy's default
const MAXIMUM_MAGLEV_TABLE: u64 = 5_000_011; // Envoy's bound
const MIN_WEIGHT_PERCENT: f64 = 10.0; // Envoy's default
/// Lists inside each other.
const DEPTH: u32 = 4;
const POLICIES: &str = "envoy.extensions.load_balancing_policies";

/// What a cluster says about the choice of endpoints.
#[derive(Debug, Default)]
pub(super) struct Balancing {
    pub(super) lb: LbPolicy,
    pub(super) slow_start: Option<SlowStart>,
    pub(super) localities: LocalityPolicy,
    pub(super) hash_balance_percent: Option<u32>,
}

impl Balancing {
    fn of(lb: LbPolicy) -> Self {
        Self {
            lb,
            ..Self::default()
        }
    }

    fn is_hash(&self) -> bool {
        matches!(self.lb, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. })
    }
}

pub(super) fn balancing(from: &proto::Cluster, beyond: &Beyond) -> Converted<Balancing> {
    let mut found = match &from.load_balancing_policy {
        Some(list) => policy_list(list, DEPTH).map_err(|e| e.under("load_balancing_policy"))?,
        None => policy(from)?,
    };
    if let Some(common) = &from.common_lb_config {
        read_common(&mut found, common).map_err(|error| error.under("common_lb_config"))?;
    }
    let ours = "metadata.filter_metadata[\"outrigger\"]";
    if let Some(decay) = beyond.peak_ewma {
        if found.lb != LbPolicy::LeastRequest {
            let path = format!("{ours}.balancer.type");
            return refuse(path, "PEAK_EWMA needs lb_policy LEAST_REQUEST");
        }
        found.lb = LbPolicy::PeakEwma { decay };
    }
    if let Some(minimum_endpoints) = beyond.zone_aware {
        let path = format!("{ours}.zone_aware");
        if found.is_hash() {
            return refuse(path, "has no effect on a consistent hash");
        }
        if found.localities != LocalityPolicy::Ignored {
            return refuse(path, "contradicts locality_weighted_lb_config");
        }
        found.localities = LocalityPolicy::ZoneAware { minimum_endpoints };
    }
    Ok(found)
}

fn read_common(into: &mut Balancing, from: &CommonLbConfig) -> Converted<()> {
    match from.locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            into.localities = LocalityPolicy::Weighted;
        }
        // Refused already, by name.
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) | None => {}
    }
    let factor = from.consistent_hashing_lb_config.as_ref();
    if let Some(factor) = factor.and_then(|hashing| hashing.hash_balance_factor) {
        into.hash_balance_percent = bounded(factor, into.is_hash())
            .map_err(|error| error.under("consistent_hashing_lb_config"))?;
    }
    Ok(())
}

fn bounded(percent: u32, is_hash: bool) -> Converted<Option<u32>> {
    let path = "hash_balance_factor";
    match percent {
        _ if !is_hash => refuse(path, "has no effect without RING_HASH or MAGLEV"),
        0..100 => refuse(path, format!("{percent}; must be 100 or more")),
        percent => Ok(Some(percent)),
    }
}

fn is_original_dst(from: &proto::Cluster) -> bool {
    let original = i32::from(DiscoveryType::OriginalDst);
    matches!(from.cluster_discovery_type, Some(ClusterDiscoveryType::Type(kind)) if kind == original)
}

fn policy(from: &proto::Cluster) -> Converted<Balancing> {
    let Ok(policy) = ProtoPolicy::try_from(from.lb_policy) else {
        return refuse("lb_policy", format!("{} is unknown", from.lb_policy));
    };
    let name = policy.as_str_name();
    let found = match (policy, &from.lb_config) {
        (ProtoPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            return warming(LbPolicy::RoundRobin, config.slow_start_config.as_ref())
                .map_err(|error| error.under("round_robin_lb_config"));
        }
        (ProtoPolicy::RoundRobin, None) => Ok(LbPolicy::RoundRobin),
        (ProtoPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            return choices(config.choice_count)
                .and_then(|lb| warming(lb, config.slow_start_config.as_ref()))
                .map_err(|error| error.under("least_request_lb_config"));
        }
        (ProtoPolicy::LeastRequest, None) => Ok(LbPolicy::LeastRequest),
        (ProtoPolicy::Random, None) => Ok(LbPolicy::Random),
        (ProtoPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config))) => {
            if config.hash_function != i32::from(HashFunction::XxHash) {
                return refuse("ring_hash_lb_config.hash_function", "must be XX_HASH");
            }
            ring(config.minimum_ring_size, config.maximum_ring_size)
                .map_err(|error| error.under("ring_hash_lb_config"))
        }
        (ProtoPolicy::RingHash, None) => ring(None, None),
        (ProtoPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config))) => {
            maglev(config.table_size).map_err(|error| error.under("maglev_lb_config"))
        }
        (ProtoPolicy::Maglev, None) => maglev(None),
        // There is nothing to choose from.
        (ProtoPolicy::ClusterProvided, None) if is_original_dst(from) => Ok(LbPolicy::RoundRobin),
        (ProtoPolicy::ClusterProvided | ProtoPolicy::LoadBalancingPolicyConfig, _) => {
            refuse("lb_policy", format!("{name} needs load_balancing_policy"))
        }
        (_, Some(_)) => refuse(
            "lb_config",
            format!("belongs to another policy than {name}"),
        ),
    };
    found.map(Balancing::of)
}

/// The first policy of the list that we know. `depth` more lists may be inside it.
fn policy_list(list: &proto::LoadBalancingPolicy, depth: u32) -> Converted<Balancing> {
    for (index, policy) in list.policies.iter().enumerate() {
        let Some(any) = policy
            .typed_extension_config
            .as_ref()
            .and_then(|config| config.typed_config.as_ref())
        else {
            return refuse(
                format!("policies[{index}].typed_extension_config"),
                "missing",
            );
        };
        if let Some(found) = extension(any, depth) {
            return found.map_err(|error| error.under(format!("policies[{index}]")));
        }
    }
    refuse(
        "policies",
        "none of them is known here: least_request, round_robin, random, ring_hash, maglev, wrr_locality",
    )
}

/// None = not one of ours.
fn extension(any: &Any, depth: u32) -> Option<Converted<Balancing>> {
    let full = fields::type_name(&any.type_url);
    Some(match full.strip_prefix(POLICIES)? {
        ".least_request.v3.LeastRequest" => unpack(any, full).and_then(|config: LeastRequest| {
            let lb = choices(config.choice_count)?;
            let slow = config.slow_start_config.map(in_cluster);
            let found = warming(lb, slow.as_ref())?;
            Ok(found.by_locality(config.locality_lb_config.is_some()))
        }),
        ".round_robin.v3.RoundRobin" => unpack(any, full).and_then(|config: RoundRobin| {
            let slow = config.slow_start_config.map(in_cluster);
            let found = warming(LbPolicy::RoundRobin, slow.as_ref())?;
            Ok(found.by_locality(config.locality_lb_config.is_some()))
        }),
        ".random.v3.Random" => unpack(any, full).map(|config: Random| {
            let found = Balancing::of(LbPolicy::Random);
            found.by_locality(config.locality_lb_config.is_some())
        }),
        ".ring_hash.v3.RingHash" => unpack(any, full).and_then(|config: RingHash| {
            if config.hash_function > 1 {
                return refuse("hash_function", "must be XX_HASH");
            }
            let lb = ring(config.minimum_ring_size, config.maximum_ring_size)?;
            hashing(lb, config.consistent_hashing_lb_config.as_ref())
                .map(|found| found.by_locality(config.locality_weighted_lb_config.is_some()))
        }),
        ".maglev.v3.Maglev" => unpack(any, full).and_then(|config: Maglev| {
            hashing(
                maglev(config.table_size)?,
                config.consistent_hashing_lb_config.as_ref(),
            )
            .map(|found| found.by_locality(config.locality_weighted_lb_config.is_some()))
        }),
        ".wrr_locality.v3.WrrLocality" => unpack(any, full).and_then(|config: WrrLocality| {
            let path = "endpoint_picking_policy";
            let (Some(inner), Some(depth)) =
                (&config.endpoint_picking_policy, depth.checked_sub(1))
            else {
                return refuse(path, "missing, or inside too many others");
            };
            let found = policy_list(inner, depth).map_err(|error| error.under(path))?;
            Ok(found.by_locality(true))
        }),
        _ => return None,
    })
}

impl Balancing {
    /// Of the kinds of `LocalityLbConfig`, all but the weighted one are refused by name.
    fn by_locality(self, weighted: bool) -> Self {
        Self {
            localities: if weighted {
                LocalityPolicy::Weighted
            } else {
                self.localities
            },
            ..self
        }
    }
}

fn hashing(lb: LbPolicy, from: Option<&ConsistentHashingLbConfig>) -> Converted<Balancing> {
    let factor = from.and_then(|from| from.hash_balance_factor);
    let bound = factor.map(|factor| bounded(factor, true)).transpose();
    Ok(Balancing {
        hash_balance_percent: bound
            .map_err(|error| error.under("consistent_hashing_lb_config"))?
            .flatten(),
        ..Balancing::of(lb)
    })
}

/// The same message under another name.
fn in_cluster(from: common::SlowStartConfig) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: from.slow_start_window,
        aggression: from.aggression,
        min_weight_percent: from.min_weight_percent,
    }
}

fn warming(lb: LbPolicy, from: Option<&SlowStartConfig>) -> Converted<Balancing> {
    let slow_start = from
        .map(slow_start)
        .transpose()
        .map_err(|error| error.under("slow_start_config"))?;
    Ok(Balancing {
        slow_start,
        ..Balancing::of(lb)
    })
}

fn slow_start(from: &SlowStartConfig) -> Converted<SlowStart> {
    if from.slow_start_window.is_none() {
        return refuse("slow_start_window", "missing");
    }
    let window = positive(
        "slow_start_window",
        from.slow_start_window.as_ref(),
        Duration::ZERO,
    )?;
    let aggression = from
        .aggression
        .as_ref()
        .map_or(1.0, |one| one.default_value);
    if !(aggression > 0.0 && aggression.is_finite()) {
        let message = format!("{aggression}; must be more than 0");
        return refuse("aggression.default_value", message);
    }
    let least = from.min_weight_percent.as_ref();
    let min_weight_percent = least.map_or(MIN_WEIGHT_PERCENT, |percent| percent.value);
    if !(0.0..=100.0).contains(&min_weight_percent) {
        let message = format!("{min_weight_percent}; must be 0 to 100");
        return refuse("min_weight_percent.value", message);
    }
    Ok(SlowStart {
        window,
        aggression,
        min_weight_percent,
    })
}

fn choices(count: Option<u32>) -> Converted<LbPolicy> {
    match count {
        None | Some(2) => Ok(LbPolicy::LeastRequest),
        Some(count) => refuse(
            "choice_count",
            format!("{count} is not supported yet; must be 2"),
        ),
    }
}

fn ring(minimum: Option<u64>, maximum: Option<u64>) -> Converted<LbPolicy> {
    let minimum_ring_size = minimum.unwrap_or(MINIMUM_RING);
    let maximum_ring_size = maximum.unwrap_or(MAXIMUM_RING);
    if !(1..=MAXIMUM_RING).contains(&minimum_ring_size) {
        return refuse(
            "minimum_ring_size",
            format!("{minimum_ring_size}; must be 1 to {MAXIMUM_RING}"),
        );
    }
    if !(minimum_ring_size..=MAXIMUM_RING).contains(&maximum_ring_size) {
        return refuse(
            "maximum_ring_size",
            format!("{maximum_ring_size}; must be {minimum_ring_size} to {MAXIMUM_RING}"),
        );
    }
    Ok(LbPolicy::RingHash {
        minimum_ring_size,
        maximum_ring_size,
    })
}

fn maglev(size: Option<u64>) -> Converted<LbPolicy> {
    let table_size = size.unwrap_or(MAGLEV_TABLE);
    let is_prime = table_size > 1
        && (2..)
            .take_while(|d| d * d <= table_size)
            .all(|d| !table_size.is_multiple_of(d));
    if table_size > MAXIMUM_MAGLEV_TABLE || !is_prime {
        return refuse(
            "table_size",
            format!("{table_size}; must be a prime number of at most {MAXIMUM_MAGLEV_TABLE}"),
        );
    }
    Ok(LbPolicy::Maglev { table_size })
}
