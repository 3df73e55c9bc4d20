//! DestinationRules: what one request at a time shows. Balance, limits and ejection are in files of their own.

use crate::system::case::Case;

pub(crate) fn cases() -> Vec<Case> {
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
