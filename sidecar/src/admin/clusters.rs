//! `/clusters`: limits, connections and endpoints of every cluster, in Envoy's text form or as JSON.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use http::StatusCode;
use outrigger_core::{
    BreakerState, Cluster, Endpoint, Health, LbPolicy, Moment, breaker::BreakerCounts,
    limits::Gauge,
};
use serde_json::{Value, json};

use super::{Page, Query, Site, json as json_page, text};
use crate::worker::PoolStats;

pub(super) fn show(site: &Site, query: Query<'_>) -> Page {
    let snapshot = site.shared.snapshot.load();
    let now = site.shared.now();
    let pools: BTreeMap<String, PoolStats> = site
        .workers
        .pools()
        .into_iter()
        .map(|pool| (pool.cluster.clone(), pool))
        .collect();
    let mut clusters: Vec<&Cluster> = snapshot.clusters().map(|(_, cluster)| &**cluster).collect();
    clusters.sort_unstable_by(|a, b| a.config.name.cmp(&b.config.name));
    if query.value("format") == Some("json") {
        let all: Vec<Value> = clusters
            .iter()
            .map(|cluster| as_json(cluster, pools.get(&cluster.config.name), now))
            .collect();
        return json_page(&json!({ "clusters": all }));
    }
    let body: String = clusters
        .iter()
        .map(|cluster| as_text(cluster, pools.get(&cluster.config.name), now))
        .collect();
    text(StatusCode::OK, body)
}

fn gauges(cluster: &Cluster) -> [(&'static str, &Gauge); 4] {
    let limits = &cluster.limits;
    [
        ("connections", &limits.connections),
        ("pending_requests", &limits.pending),
        ("requests", &limits.requests),
        ("retries", &limits.retries),
    ]
}

fn as_text(cluster: &Cluster, pool: Option<&PoolStats>, now: Moment) -> String {
    let name = &cluster.config.name;
    let mut lines = String::new();
    let mut line = |text: String| {
        lines.push_str(&format!("{name}::{text}\n"));
    };
    for (gauge_name, gauge) in gauges(cluster) {
        line(format!(
            "default_priority::max_{gauge_name}::{}",
            gauge.limit()
        ));
        if let Some(share) = gauge.share() {
            line(format!("default_priority::scope_{gauge_name}::SERVICE"));
            line(format!("default_priority::share_{gauge_name}::{share}"));
            line(format!(
                "default_priority::service_max_{gauge_name}::{}",
                gauge.configured()
            ));
        }
        line(format!(
            "default_priority::used_{gauge_name}::{}",
            gauge.used()
        ));
        line(format!(
            "default_priority::{gauge_name}_overflow::{}",
            gauge.overflows()
        ));
    }
    if let Some(pool) = pool {
        line(format!("cx_open::{}", pool.open));
        line(format!("cx_idle::{}", pool.idle));
        line(format!("rq_waiting::{}", pool.waiting));
    }
    if let Some(breaker) = &cluster.config.breaker {
        let breakers = &cluster.breakers;
        if breaker.for_service {
            line(format!(
                "breaker::state::{}",
                word(breakers.service.state())
            ));
        }
        for (scope, counts) in [
            ("service", &breakers.service_counts),
            ("endpoint", &breakers.endpoint_counts),
        ] {
            let (opened, refused) = (&counts.opened, &counts.refused);
            line(format!(
                "breaker::{scope}_opened::{}",
                opened.load(Ordering::Relaxed)
            ));
            line(format!(
                "breaker::{scope}_refused::{}",
                refused.load(Ordering::Relaxed)
            ));
        }
    }
    for endpoint in &cluster.endpoints {
        let config = &endpoint.config;
        let address = config.address;
        let state = &endpoint.state;
        line(format!(
            "{address}::rq_active::{}",
            state.active_requests.load(Ordering::Relaxed)
        ));
        line(format!(
            "{address}::rq_total::{}",
            state.total_requests.load(Ordering::Relaxed)
        ));
        line(format!(
            "{address}::rq_error::{}",
            state.total_failures.load(Ordering::Relaxed)
        ));
        line(format!("{address}::health_flags::{}", flags(endpoint, now)));
        line(format!("{address}::weight::{}", config.weight));
        line(format!("{address}::region::{}", config.locality.region));
        line(format!("{address}::zone::{}", config.locality.zone));
        line(format!("{address}::sub_zone::{}", config.locality.sub_zone));
        line(format!("{address}::priority::{}", config.priority));
        line(format!("{address}::mtls::{}", config.mtls));
        line(format!(
            "{address}::idle_usable_ms::{}",
            state.keep_alive.usable_ms()
        ));
        if let Some(expected) = expected_ms(cluster, endpoint, now) {
            line(format!("{address}::expected_ms::{expected:.3}"));
        }
        if breaks(cluster) {
            line(format!(
                "{address}::breaker::{}",
                word(state.breaker.state())
            ));
        }
    }
    lines
}

fn breaks(cluster: &Cluster) -> bool {
    let breaker = cluster.config.breaker.as_ref();
    breaker.is_some_and(|breaker| breaker.for_endpoints)
}

fn word(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed { .. } => "closed",
        BreakerState::HalfOpen { .. } => "half_open",
        BreakerState::Open { .. } => "open",
    }
}

/// What peak EWMA expects of it.
fn expected_ms(cluster: &Cluster, endpoint: &Endpoint, now: Moment) -> Option<f32> {
    let LbPolicy::PeakEwma { decay } = cluster.config.lb else {
        return None;
    };
    let micros = endpoint.state.expected_micros(decay, now)?;
    Some(micros / 1000.0)
}

fn breaker_json(cluster: &Cluster) -> Option<Value> {
    let breaker = cluster.config.breaker.as_ref()?;
    let breakers = &cluster.breakers;
    let service = breaker.for_service.then(|| word(breakers.service.state()));
    let sum = |of: fn(&BreakerCounts) -> &AtomicU64| {
        [&breakers.service_counts, &breakers.endpoint_counts]
            .map(|counts| of(counts).load(Ordering::Relaxed))
            .iter()
            .sum::<u64>()
    };
    Some(json!({
        "consecutive_failures": breaker.consecutive_failures,
        "reset_timeout_ms": u64::try_from(breaker.reset_timeout.as_millis()).unwrap_or(u64::MAX),
        "position": breaker.position.as_deref(),
        "service": service,
        "opened": sum(|counts| &counts.opened),
        "refused": sum(|counts| &counts.refused),
    }))
}

/// Envoy's words.
fn flags(endpoint: &Endpoint, now: Moment) -> String {
    let mut flags = String::new();
    match endpoint.config.health {
        Health::Healthy => {}
        Health::Unhealthy => flags.push_str("/failed_eds_health"),
        Health::Draining => flags.push_str("/eds_status_draining"),
    }
    if is_ejected(endpoint, now) {
        flags.push_str("/failed_outlier_check");
    }
    if flags.is_empty() {
        "healthy".to_owned()
    } else {
        flags
    }
}

fn is_ejected(endpoint: &Endpoint, now: Moment) -> bool {
    endpoint.state.ejected_until.load(Ordering::Relaxed) > now.0
}

fn as_json(cluster: &Cluster, pool: Option<&PoolStats>, now: Moment) -> Value {
    let config = &cluster.config;
    let limits: serde_json::Map<String, Value> = gauges(cluster)
        .into_iter()
        .map(|(name, gauge)| {
            let limit = Some(gauge.limit()).filter(|limit| *limit != u32::MAX);
            (
                name.to_owned(),
                match gauge.share() {
                    None => json!({
                        "scope": "PROXY",
                        "used": gauge.used(),
                        "limit": limit,
                        "overflows": gauge.overflows(),
                    }),
                    Some(share) => json!({
                        "scope": "SERVICE",
                        "share": share,
                        "used": gauge.used(),
                        "limit": gauge.configured(),
                        "overflows": gauge.overflows(),
                    }),
                },
            )
        })
        .collect();
    let endpoints: Vec<Value> = cluster
        .endpoints
        .iter()
        .map(|endpoint| endpoint_json(cluster, endpoint, now))
        .collect();
    json!({
        "name": config.name,
        "service": config.service,
        "subset": config.subset,
        "position": config.position.as_deref(),
        "lb": format!("{:?}", config.lb),
        "limits": limits,
        "connections": pool.map(|pool| json!({
            "open": pool.open,
            "idle": pool.idle,
            "waiting": pool.waiting,
        })),
        "breaker": breaker_json(cluster),
        "endpoints": endpoints,
    })
}

fn endpoint_json(cluster: &Cluster, endpoint: &Endpoint, now: Moment) -> Value {
    let config = &endpoint.config;
    let state = &endpoint.state;
    let locality = &config.locality;
    json!({
        "address": config.address.to_string(),
        "health": format!("{:?}", config.health).to_uppercase(),
        "ejected": is_ejected(endpoint, now),
        "weight": config.weight,
        "priority": config.priority,
        "locality_weight": config.locality_weight,
        "breaker": breaks(cluster).then(|| word(state.breaker.state())),
        "expected_ms": expected_ms(cluster, endpoint, now),
        "idle_usable_ms": state.keep_alive.usable_ms(),
        "mtls": config.mtls,
        "labels": config.labels,
        "locality": {"region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone},
        "active_requests": state.active_requests.load(Ordering::Relaxed),
        "total_requests": state.total_requests.load(Ordering::Relaxed),
        "total_failures": state.total_failures.load(Ordering::Relaxed),
    })
}
