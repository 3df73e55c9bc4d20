//! Policies of a route and of a cluster, named as in the documents that they come from.

use std::{sync::Arc, time::Duration};

use outrigger_core::{
    ClusterConfig, Health, LbPolicy, LimitsScope, Locality, RetryOn, RetryPolicy, Rewrite, Route,
    UpstreamProtocol, UpstreamTls,
};

pub(super) fn route(route: &Route) -> Vec<(&'static str, String)> {
    let features = route.features();
    let lines = features.map(|features| &features.positions);
    let at = |line: Option<&Option<Arc<str>>>| match line.and_then(Option::as_deref) {
        Some(line) => format!(" ({line})"),
        None => String::new(),
    };
    let timeout = route.timeout.map_or_else(|| "none".to_owned(), time);
    let mut policy = vec![
        ("timeout", timeout + &at(lines.map(|lines| &lines.timeout))),
        (
            "retries",
            retries(&route.retry) + &at(lines.map(|lines| &lines.retries)),
        ),
    ];
    match &route.rewrite {
        Some(Rewrite::Prefix(prefix)) => policy.push(("rewrite.uri", prefix.clone())),
        Some(Rewrite::Regex(regex, _)) => {
            policy.push(("uriRegexRewrite", regex.as_str().to_owned()));
        }
        None => {}
    }
    if let Some(host) = &route.host_rewrite {
        let host = String::from_utf8_lossy(host.as_bytes()).into_owned();
        policy.push(("rewrite.authority", host));
    }
    if !route.hash_policies.is_empty() {
        policy.push(("consistentHash", format!("{:?}", route.hash_policies)));
    }
    let Some(features) = features else {
        return policy;
    };
    let lines = &features.positions;
    if let Some(fault) = &features.fault {
        policy.push(("fault", format!("{fault:?}{}", at(Some(&lines.fault)))));
    }
    if features.cors.is_some() {
        policy.push(("corsPolicy", format!("yes{}", at(Some(&lines.cors)))));
    }
    for mirror in &features.mirrors {
        let share = format!("{:?} of them to {}", mirror.share, mirror.name);
        policy.push(("mirror", share + &at(Some(&lines.mirrors))));
    }
    if let Some(hedge) = &features.hedge {
        let text = format!(
            "after {}, at most {} %",
            time(hedge.after),
            hedge.budget_percent
        );
        policy.push(("hedging", text));
    }
    policy
}

fn retries(policy: &RetryPolicy) -> String {
    if policy.attempts <= 1 {
        return "never".to_owned();
    }
    let on = if policy.on == RetryOn::NOTHING {
        "what is provably unsent".to_owned()
    } else {
        let methods = if policy.implied {
            ", idempotent methods"
        } else {
            ""
        };
        let codes: Vec<String> = policy.codes.iter().map(u16::to_string).collect();
        let codes = if codes.is_empty() {
            String::new()
        } else {
            format!(" {}", codes.join(","))
        };
        let words: Vec<&str> = policy.on.words().collect();
        format!("what is unsent, and {}{codes}{methods}", words.join(","))
    };
    let each = policy
        .per_try_timeout
        .map_or_else(String::new, |each| format!(", {} each", time(each)));
    format!("{} tries{each}, of {on}", policy.attempts)
}

pub(super) fn cluster(config: &ClusterConfig) -> Vec<(&'static str, String)> {
    let mut policy = vec![
        ("loadBalancer", balancer(&config.lb)),
        ("connectTimeout", time(config.connect_timeout)),
        ("idleTimeout", time(config.idle_timeout)),
    ];
    let limits = &config.thresholds;
    for (name, limit) in [
        ("maxConnections", limits.max_connections),
        ("http1MaxPendingRequests", limits.max_pending_requests),
        ("http2MaxRequests", limits.max_requests),
        ("maxRetries", limits.max_retries),
    ] {
        if limit != u32::MAX {
            policy.push((name, limit.to_string()));
        }
    }
    if let Some(requests) = config.max_requests_per_connection {
        policy.push(("maxRequestsPerConnection", requests.to_string()));
    }
    if let Some(outlier) = &config.outlier {
        let text = format!(
            "{} errors in a row, out for {}, at most {} %",
            outlier.consecutive_5xx,
            time(outlier.base_ejection_time),
            outlier.max_ejection_percent
        );
        policy.push(("outlierDetection", text));
    }
    if let Some(breaker) = &config.breaker {
        let line = breaker
            .position
            .as_deref()
            .map_or_else(String::new, |line| format!(" ({line})"));
        let text = format!(
            "opens after {} failures in a row for {}{line}",
            breaker.consecutive_failures,
            time(breaker.reset_timeout)
        );
        policy.push(("circuitBreaker", text));
    }
    if config.limits_scope == LimitsScope::Service {
        policy.push(("limits", "over all sidecars together".to_owned()));
    }
    if let Some(warmup) = &config.slow_start {
        policy.push(("warmup", time(warmup.window)));
    }
    if let Some(percent) = config.hash_balance_percent {
        policy.push(("boundedLoad", format!("{percent} %")));
    }
    let protocol = match config.protocol {
        UpstreamProtocol::Http1 => "HTTP/1.1",
        UpstreamProtocol::Http2 => "HTTP/2",
        UpstreamProtocol::AsDownstream => "as the request came",
    };
    policy.push(("protocol", protocol.to_owned()));
    policy
}

fn balancer(policy: &LbPolicy) -> String {
    format!("{policy:?}")
}

pub(super) const fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
        Health::Draining => "draining",
    }
}

pub(super) fn locality(locality: &Locality) -> String {
    let parts = [&locality.region, &locality.zone, &locality.sub_zone];
    let filled: Vec<&str> = parts
        .into_iter()
        .map(String::as_str)
        .take_while(|part| !part.is_empty())
        .collect();
    filled.join("/")
}

fn time(duration: Duration) -> String {
    format!("{duration:?}")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share to show, of weights below 2^32"
)]
pub(super) const fn float(number: u64) -> f64 {
    number as f64
}

/// What a connection to an endpoint with TLS is.
pub(super) fn tls(config: &UpstreamTls) -> &'static str {
    let Some(outside) = &config.outside else {
        return "mutual";
    };
    match (outside.client.is_some(), outside.unverified) {
        (false, false) => "simple",
        (false, true) => "simple, unverified",
        (true, false) => "mutual with files",
        (true, true) => "mutual with files, unverified",
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::OutsideTls;

    use super::*;

    #[test]
    fn each_kind_of_tls_is_called_by_its_own_name() {
        let file = || Some(("a".into(), "b".into()));
        for (outside, expected) in [
            (None, "mutual"),
            (Some((None, false)), "simple"),
            (Some((None, true)), "simple, unverified"),
            (Some((file(), false)), "mutual with files"),
        ] {
            let outside = outside.map(|(client, unverified)| OutsideTls {
                client,
                unverified,
                ..OutsideTls::default()
            });
            let config = UpstreamTls {
                certificate: String::new(),
                validation: String::new(),
                subject_alt_names: Vec::new(),
                sni: String::new(),
                alpn: Vec::new(),
                outside: outside.map(Arc::new),
            };
            assert_eq!(tls(&config), expected);
        }
    }
}
