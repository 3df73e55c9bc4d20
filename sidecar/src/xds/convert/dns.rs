//! Clusters of names (STRICT_DNS, LOGICAL_DNS) → [`DnsSource`].

use std::time::Duration;

use outrigger_proto::envoy::config::cluster::v3::{self as proto, cluster::DnsLookupFamily};

use super::{Converted, endpoint, positive, refuse};
use crate::xds::dns::{DnsSource, Family, Pace};

/// Envoy's default.
const REFRESH: Duration = Duration::from_secs(5);
/// The system's resolver knows how long an answer holds and does not tell: with `respect_dns_ttl` it is asked no less
/// often than this, which costs nothing where it has the answer still.
const LONGEST_WITH_TTL: Duration = Duration::from_secs(5);
/// Nobody is asked more often.
const SHORTEST: Duration = Duration::from_millis(100);
/// Names and addresses of one cluster.
const MAX_HOSTS: usize = 1_000;

pub(super) fn source(from: &proto::Cluster, logical: bool) -> Converted<DnsSource> {
    if from.eds_cluster_config.is_some() {
        return refuse("eds_cluster_config", "has no effect on a cluster of names");
    }
    let Some(assignment) = &from.load_assignment else {
        return refuse("load_assignment", "missing on a cluster of names");
    };
    let hosts = endpoint::named(assignment).map_err(|error| error.under("load_assignment"))?;
    if logical && hosts.len() != 1 {
        let message = format!("has {}; a cluster of type LOGICAL_DNS has one", hosts.len());
        return refuse("load_assignment.endpoints", message);
    }
    if hosts.len() > MAX_HOSTS {
        let message = format!("{}; at most {MAX_HOSTS} in a cluster of names", hosts.len());
        return refuse("load_assignment.endpoints", message);
    }
    let refresh = at_least("dns_refresh_rate", from.dns_refresh_rate.as_ref(), REFRESH)?;
    let refresh = if from.respect_dns_ttl {
        refresh.min(LONGEST_WITH_TTL)
    } else {
        refresh
    };
    let (failure, failure_cap) = match &from.dns_failure_refresh_rate {
        None => (refresh, refresh),
        Some(rate) => {
            let path = "dns_failure_refresh_rate.base_interval";
            if rate.base_interval.is_none() {
                return refuse(path, "missing");
            }
            let base = at_least(path, rate.base_interval.as_ref(), refresh)?;
            let path = "dns_failure_refresh_rate.max_interval";
            let cap = at_least(path, rate.max_interval.as_ref(), base * 10)?;
            if cap < base {
                return refuse(path, format!("{cap:?} is less than base_interval {base:?}"));
            }
            (base, cap)
        }
    };
    let family = match DnsLookupFamily::try_from(from.dns_lookup_family) {
        Ok(DnsLookupFamily::Auto) => Family::Auto,
        Ok(DnsLookupFamily::V4Only) => Family::V4,
        Ok(DnsLookupFamily::V6Only) => Family::V6,
        Ok(DnsLookupFamily::V4Preferred) => Family::V4Preferred,
        Ok(DnsLookupFamily::All) => Family::All,
        Err(_unknown) => return refuse("dns_lookup_family", "is unknown"),
    };
    Ok(DnsSource {
        logical,
        family,
        pace: Pace {
            refresh,
            failure,
            failure_cap,
        },
        hosts,
    })
}

/// Settings of names on a cluster that has none. The family is a default that control planes write everywhere.
pub(super) fn has_no_effect(from: &proto::Cluster) -> Converted<()> {
    let path = if from.dns_refresh_rate.is_some() {
        "dns_refresh_rate"
    } else if from.respect_dns_ttl {
        "respect_dns_ttl"
    } else if from.dns_failure_refresh_rate.is_some() {
        "dns_failure_refresh_rate"
    } else {
        return Ok(());
    };
    refuse(path, "has an effect on STRICT_DNS and LOGICAL_DNS only")
}

fn at_least(
    path: &str,
    value: Option<&prost_types::Duration>,
    default: Duration,
) -> Converted<Duration> {
    let value = positive(path, value, default)?;
    if value < SHORTEST {
        return refuse(path, format!("{value:?}; at least {SHORTEST:?}"));
    }
    Ok(value)
}
