//! What a route may do before its action: answer a browser's preflight, delay, or answer with a fault. In the order of
//! Istio's filters: CORS, then faults.

use std::{rc::Rc, time::Duration};

use http::{HeaderValue, Response, StatusCode, request::Parts};
use outrigger_core::{Abort, CorsVerdict, Fault, Features};

use super::{call::Call, finish::http_of_grpc, view};
use crate::http::{
    answer::{Code, Instead, Problem, grpc_of_http},
    body::DownBody,
};

/// An answer, if there is one already.
pub(crate) async fn look(
    call: &Rc<Call>,
    features: &Features,
    parts: &Parts,
    authority: &HeaderValue,
) -> Result<Option<Response<DownBody>>, Problem> {
    if let Some(response) = preflight(call, features, parts) {
        return Ok(Some(response));
    }
    if let Some(fault) = &features.fault {
        inject(call, fault, parts, authority).await?;
    }
    Ok(None)
}

/// The route's CORS policy: the answer to a preflight.
pub(super) fn preflight(
    call: &Rc<Call>,
    features: &Features,
    parts: &Parts,
) -> Option<Response<DownBody>> {
    match features.cors.as_ref()?.judge(&parts.method, &parts.headers) {
        CorsVerdict::Pass => None,
        CorsVerdict::Mark(origin) => {
            *call.origin.borrow_mut() = Some(origin);
            None
        }
        CorsVerdict::Answer(headers) => {
            let mut response = Response::new(DownBody::empty());
            *response.headers_mut() = headers;
            call.worker.handles.count_feature("cors_preflight");
            call.answered_directly(StatusCode::OK.as_u16());
            Some(response)
        }
    }
}

pub(super) async fn inject(
    call: &Rc<Call>,
    fault: &Fault,
    parts: &Parts,
    authority: &HeaderValue,
) -> Result<(), Problem> {
    let drawn = {
        let rng = &mut call.worker.rng.borrow_mut();
        fault.draw(&view(parts, authority), rng)
    };
    let (delay, abort) = drawn;
    if let Some(delay) = delay {
        call.worker.handles.count_feature("fault_delay");
        call.delayed.set(true);
        wait(call, delay).await;
    }
    let Some(abort) = abort else {
        return Ok(());
    };
    call.worker.handles.count_feature("fault_abort");
    let (instead, message) = match abort {
        Abort::Http(status) => (
            Instead {
                status,
                grpc: grpc_of_http(status),
            },
            format!("the route answers with status {status} on purpose (fault.abort)"),
        ),
        Abort::Grpc(status) => (
            Instead {
                status: http_of_grpc(status),
                grpc: status,
            },
            format!("the route answers with gRPC status {status} on purpose (fault.abort)"),
        ),
    };
    Err(Problem::new(Code::FaultInjected, message).answered(instead))
}

/// The caller's own deadline passes meanwhile; the route's timeout begins after it, as Envoy's does.
async fn wait(call: &Call, delay: Duration) {
    let delay = match call.caller_waits() {
        Some(left) => delay.min(left),
        None => delay,
    };
    tokio::time::sleep(delay).await;
    call.restart_clock();
}
