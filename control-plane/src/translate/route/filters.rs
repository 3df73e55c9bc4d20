//! What a route asks of the filters before the router: `fault` and `corsPolicy`.
//! Source: Istio's `TranslateFault`, `TranslateCORSPolicy`; Envoy's HTTPFault and CorsPolicy.

use std::collections::BTreeMap;

use outrigger_policy::{AbortStatus, CorsPolicy, Fault, HttpRoute, Share};
use outrigger_proto::envoy::{
    config::core::v3::RuntimeFractionalPercent,
    extensions::filters::{
        common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
        http::{
            cors::v3::CorsPolicy as XdsCorsPolicy,
            fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
        },
    },
    r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
};
use prost_types::Any;

use super::super::{
    any::{any, duration},
    listener::{CORS, FAULT, HTTP_FAULT},
    matching::any_string,
};

/// `typed_per_filter_config` of the routes of `rule`.
pub(super) fn of(rule: &HttpRoute) -> BTreeMap<String, Any> {
    let fault = rule
        .fault
        .as_ref()
        .map(|at| (FAULT.to_owned(), any(HTTP_FAULT, &fault(&at.value))));
    let cors = rule.cors.as_ref().map(|at| {
        let policy = any(
            "envoy.extensions.filters.http.cors.v3.CorsPolicy",
            &cors(&at.value),
        );
        (CORS.to_owned(), policy)
    });
    cors.into_iter().chain(fault).collect()
}

/// Of a million requests, how many.
pub(super) fn fraction(share: Share) -> FractionalPercent {
    FractionalPercent {
        numerator: share.0,
        denominator: DenominatorType::Million as i32,
    }
}

fn fault(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.map(|delay| FaultDelay {
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.fixed_delay))),
            percentage: Some(fraction(delay.share)),
        }),
        abort: fault.abort.map(|abort| FaultAbort {
            error_type: Some(match abort.status {
                AbortStatus::Http(status) => ErrorType::HttpStatus(status.into()),
                AbortStatus::Grpc(status) => ErrorType::GrpcStatus(status.into()),
            }),
            percentage: Some(fraction(abort.share)),
        }),
        ..HttpFault::default()
    }
}

fn cors(cors: &CorsPolicy) -> XdsCorsPolicy {
    XdsCorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(any_string).collect(),
        allow_methods: cors.allow_methods.join(","),
        allow_headers: cors.allow_headers.join(","),
        expose_headers: cors.expose_headers.join(","),
        max_age: cors
            .max_age
            .map(|age| age.as_secs().to_string())
            .unwrap_or_default(),
        allow_credentials: cors.allow_credentials.then_some(true),
        filter_enabled: Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: 100,
                denominator: DenominatorType::Hundred as i32,
            }),
            ..RuntimeFractionalPercent::default()
        }),
        // Absent = forwarded.
        forward_not_matching_preflights: (!cors.forward_unmatched_preflights).then_some(false),
        ..XdsCorsPolicy::default()
    }
}
