//! Which endpoint next, as CDS says it: `lb_policy` with its config, or `load_balancing_policy`.

use outrigger_core::balance::LbPolicy;
use outrigger_proto::envoy::{
    config::cluster::v3::{
        self as proto,
        cluster::{LbConfig, LbPolicy as ProtoPolicy, ring_hash_lb_config::HashFunction},
    },
    extensions::load_balancing_policies::{
        least_request::v3::LeastRequest, maglev::v3::Maglev, ring_hash::v3::RingHash,
    },
};

use super::{Converted, fields, refuse, unpack};

const MINIMUM_RING: u64 = 1024; // Envoy's default
const MAXIMUM_RING: u64 = 8_388_608; // Envoy's default and bound
const MAGLEV_TABLE: u64 = 65_537; // Envoy's default
const MAXIMUM_MAGLEV_TABLE: u64 = 5_000_011; // Envoy's bound
const POLICIES: &str = "envoy.extensions.load_balancing_policies";

pub(super) fn policy(from: &proto::Cluster) -> Converted<LbPolicy> {
    if let Some(list) = &from.load_balancing_policy {
        return policy_list(list).map_err(|error| error.under("load_balancing_policy"));
    }
    let Ok(policy) = ProtoPolicy::try_from(from.lb_policy) else {
        return refuse("lb_policy", format!("{} is unknown", from.lb_policy));
    };
    let name = policy.as_str_name();
    match (policy, &from.lb_config) {
        (ProtoPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(_)) | None) => {
            Ok(LbPolicy::RoundRobin)
        }
        (ProtoPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            choices("least_request_lb_config.choice_count", config.choice_count)
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
        (ProtoPolicy::ClusterProvided | ProtoPolicy::LoadBalancingPolicyConfig, _) => {
            refuse("lb_policy", format!("{name} needs load_balancing_policy"))
        }
        (_, Some(_)) => refuse(
            "lb_config",
            format!("belongs to another policy than {name}"),
        ),
    }
}

/// The first policy of the list that we know.
fn policy_list(list: &proto::LoadBalancingPolicy) -> Converted<LbPolicy> {
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
        let full = fields::type_name(&any.type_url);
        let found = match full.strip_prefix(POLICIES) {
            Some(".least_request.v3.LeastRequest") => {
                let config: LeastRequest = unpack(any, full)?;
                choices("choice_count", config.choice_count)
            }
            Some(".round_robin.v3.RoundRobin") => Ok(LbPolicy::RoundRobin),
            Some(".random.v3.Random") => Ok(LbPolicy::Random),
            Some(".ring_hash.v3.RingHash") => {
                let config: RingHash = unpack(any, full)?;
                if config.hash_function > 1 {
                    return refuse(
                        format!("policies[{index}].hash_function"),
                        "must be XX_HASH",
                    );
                }
                ring(config.minimum_ring_size, config.maximum_ring_size)
            }
            Some(".maglev.v3.Maglev") => {
                let config: Maglev = unpack(any, full)?;
                maglev(config.table_size)
            }
            _ => continue,
        };
        return found.map_err(|error| error.under(format!("policies[{index}]")));
    }
    refuse(
        "policies",
        "none of them is known here: least_request, round_robin, random, ring_hash, maglev",
    )
}

fn choices(path: &str, count: Option<u32>) -> Converted<LbPolicy> {
    match count {
        None | Some(2) => Ok(LbPolicy::LeastRequest),
        Some(count) => refuse(path, format!("{count} is not supported yet; must be 2")),
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
