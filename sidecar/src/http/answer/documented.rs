//! Holds `docs/ERRORS.md` to the codes: each has its row, with the status, gRPC status and flag that are really sent.

use std::collections::BTreeSet;

use super::Code;

const ALL: &[Code] = &[
    Code::NoRouteHost,
    Code::NoRoutePath,
    Code::NoRouteYet,
    Code::NotInRegistry,
    Code::NoEndpoints,
    Code::NoHealthyEndpoints,
    Code::BreakerOpen,
    Code::ClusterUnknown,
    Code::OverflowOnDemand,
    Code::OverflowPending,
    Code::OverflowRequests,
    Code::OverflowRetries,
    Code::ConnectFailed,
    Code::TlsFailed,
    Code::UpstreamReset,
    Code::UpstreamClosed,
    Code::Timeout,
    Code::PerTryTimeout,
    Code::DeadlineExceeded,
    Code::FaultInjected,
    Code::RbacDenied,
    Code::ExtAuthzDenied,
    Code::ExtAuthzError,
    Code::JwtMissing,
    Code::JwtMalformed,
    Code::JwtTooLarge,
    Code::JwtTooMany,
    Code::JwtExpired,
    Code::JwtNotYetValid,
    Code::JwtIssuer,
    Code::JwtAudience,
    Code::JwtClaims,
    Code::JwtNoKey,
    Code::JwtSignature,
    Code::JwtKeysAway,
    Code::JwtRequirement,
    Code::RateLimited,
    Code::BadRequest,
    Code::HeadersTooLarge,
    Code::BodyTimeout,
    Code::NotSupported,
    Code::UpgradeNotAllowed,
    Code::LoopDetected,
    Code::Draining,
];

/// The cells of each row of the table.
fn rows() -> Vec<Vec<&'static str>> {
    let page = include_str!("../../../../docs/ERRORS.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        row.trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim_matches(['`', ' ']))
            .collect()
    })
    .collect()
}

#[test]
fn every_code_has_its_row_in_docs_errors() {
    let expected: Vec<[String; 4]> = ALL
        .iter()
        .map(|code| {
            let numbers = [
                code.status().as_u16().to_string(),
                code.grpc_status().to_string(),
            ];
            let [status, grpc] = numbers;
            [
                code.as_str().to_owned(),
                status,
                grpc,
                code.flag().to_owned(),
            ]
        })
        .collect();
    let mut documented = rows();
    for row in &mut documented {
        assert_eq!(
            row.len(),
            6,
            "{row:?}: code, status, gRPC, flag, what happened, what to do"
        );
        assert!(
            row[4..]
                .iter()
                .all(|cell| cell.ends_with('.') || cell.ends_with('?')),
            "{row:?}"
        );
        row.truncate(4);
    }
    assert_eq!(documented, expected);
}

#[test]
fn no_code_is_left_out_here() {
    let source = include_str!("../answer.rs");
    let texts = source
        .split("fn as_str")
        .nth(1)
        .and_then(|rest| rest.split("fn status").next())
        .unwrap();
    let written: BTreeSet<&str> = texts
        .lines()
        .filter_map(|line| line.split("=> \"").nth(1)?.split('"').next())
        .collect();
    let listed: BTreeSet<&str> = ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(written, listed);
}
