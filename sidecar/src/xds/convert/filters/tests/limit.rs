//! Local limits.

use super::*;

/// 5 tokens, 2 a second; all are asked and refused.
fn limit_config() -> limit_proto::LocalRateLimit {
    let all = core::RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: 100,
            denominator: 0,
        }),
        ..core::RuntimeFractionalPercent::default()
    };
    limit_proto::LocalRateLimit {
        stat_prefix: "it".to_owned(),
        token_bucket: Some(TokenBucket {
            max_tokens: 5,
            tokens_per_fill: Some(2),
            fill_interval: Some(seconds(1)),
        }),
        filter_enabled: Some(all.clone()),
        filter_enforced: Some(all),
        ..limit_proto::LocalRateLimit::default()
    }
}

fn limit_of(config: &limit_proto::LocalRateLimit) -> Option<Arc<LocalRateLimit>> {
    let filters = listening(vec![filter("it", any(LIMIT, config))]).unwrap();
    match &filters.unwrap().filters[0].filter {
        Filter::LocalRateLimit(limit) => limit.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_limit_is_what_it_says_and_nothing_where_it_is_silent() {
    let limit = limit_of(&limit_proto::LocalRateLimit {
        status: Some(HttpStatus { code: 503 }),
        enable_x_ratelimit_headers: 1,
        rate_limited_as_resource_exhausted: true,
        ..limit_config()
    })
    .unwrap();
    assert_eq!(
        (limit.status, limit.grpc_status, limit.tells),
        (503, 8, true)
    );
    assert_eq!((limit.enabled, limit.enforced), (Share::ALL, Share::ALL));
    assert_eq!(limit.bucket.most(), 5);
    let silent = limit_of(&limit_proto::LocalRateLimit {
        filter_enabled: None,
        filter_enforced: None,
        ..limit_config()
    })
    .unwrap();
    assert_eq!(
        (silent.status, silent.grpc_status, silent.tells),
        (429, 14, false)
    );
    assert_eq!(
        (silent.enabled, silent.enforced),
        (Share::NONE, Share::NONE)
    );
    let without = limit_proto::LocalRateLimit {
        token_bucket: None,
        ..limit_config()
    };
    assert!(limit_of(&without).is_none());
}

#[test]
fn a_limit_is_refused_by_the_name_of_the_field() {
    type Change = fn(&mut limit_proto::LocalRateLimit);
    let table: [(Change, &str); 14] = [
        (
            |l| l.token_bucket.as_mut().unwrap().max_tokens = 0,
            "token_bucket.max_tokens: 0",
        ),
        (
            |l| l.token_bucket.as_mut().unwrap().tokens_per_fill = Some(0),
            "token_bucket.tokens_per_fill: 0",
        ),
        (
            |l| l.token_bucket.as_mut().unwrap().fill_interval = None,
            "token_bucket.fill_interval: missing",
        ),
        (
            |l| {
                l.token_bucket.as_mut().unwrap().fill_interval = Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 49_000_000,
                });
            },
            "token_bucket.fill_interval: 49ms; at least 50ms",
        ),
        (
            |l| {
                let bucket = l.token_bucket.as_mut().unwrap();
                bucket.max_tokens = u32::MAX;
                bucket.fill_interval = Some(seconds(3600));
            },
            "token_bucket.fill_interval: 3600s; the bucket would need more than a century",
        ),
        (
            |l| l.status = Some(HttpStatus { code: 200 }),
            "status.code: 200; must be 400 to 599",
        ),
        (
            |l| l.enable_x_ratelimit_headers = 5,
            "enable_x_ratelimit_headers: 5 is unknown",
        ),
        (|l| l.stage = 1, "stage: not supported yet"),
        (
            |l| l.descriptors = vec![Default::default()],
            "descriptors: not supported yet",
        ),
        (
            |l| l.rate_limits = vec![Default::default()],
            "rate_limits: not supported yet",
        ),
        (
            |l| l.vh_rate_limits = 1,
            "vh_rate_limits: not supported yet",
        ),
        (
            |l| l.local_rate_limit_per_downstream_connection = true,
            "local_rate_limit_per_downstream_connection: not supported yet",
        ),
        (
            |l| l.local_cluster_rate_limit = Some(Default::default()),
            "local_cluster_rate_limit: not supported yet",
        ),
        (
            |l| l.response_headers_to_add = vec![Default::default()],
            "response_headers_to_add[0].header: missing",
        ),
    ];
    for (change, expected) in table {
        let mut config = limit_config();
        change(&mut config);
        let found = refusal_of(any(LIMIT, &config));
        assert!(found.starts_with(expected), "{expected}: {found}");
    }
}
