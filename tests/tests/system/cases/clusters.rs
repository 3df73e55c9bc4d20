//! DestinationRules: what one request at a time shows. Balance, limits and ejection are in files of their own.

use crate::system::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let more = |host, policy: &str| {
        Case::policy(host, policy)
            .any_upstream()
            .asks(&["GET / -> 200", "POST /a -> 200"])
    };
    let simple = |host, name: &str| {
        Case::policy(host, &format!("loadBalancer: {{simple: {name}}}"))
            .any_upstream()
            .asks(&["GET / -> 200", "GET /a -> 200"])
    };
    vec![
        simple("lb-round-robin", "ROUND_ROBIN"),
        simple("lb-least-request", "LEAST_REQUEST"),
        simple("lb-least-conn", "LEAST_CONN"),
        simple("lb-random", "RANDOM"),
        simple("lb-unspecified", "UNSPECIFIED"),
        more("warmup", "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 20, aggression: 2}}"),
        more("warmup-old", "loadBalancer: {simple: LEAST_REQUEST, warmupDurationSecs: 30s}"),
        more("outlier-split", "outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3}"),
        Case::policy("tls-disable", "tls: {mode: DISABLE}")
            .any_upstream()
            .asks(&["GET / -> 200"]),
        Case::policy(
            "pool",
            "
            connectionPool:
              tcp: {maxConnections: 7, connectTimeout: 3s}
              http: {http1MaxPendingRequests: 9, http2MaxRequests: 11, maxRequestsPerConnection: 2, maxRetries: 3, idleTimeout: 9s}",
        )
        .any_upstream()
        .asks(&["GET / -> 200"; 6]),
    ]
}
