//! What is particular to requests that others send to the application: who they come from, and that the application's
//! readiness is looked at when it cannot be reached.

use std::rc::Rc;

use http::{HeaderMap, HeaderValue};
use outrigger_core::Direction;

use crate::{forward::call::Call, http::headers::XFCC, worker::connection::Connection};

/// Says who calls, as TLS has verified it. Every spelling that the caller sent is gone already.
pub(crate) fn introduce(connection: &Rc<Connection>, headers: &mut HeaderMap) {
    let (Some(own), Some(peer)) = (&connection.own_id, &connection.peer) else {
        return;
    };
    // SPIFFE ids have no character that would need quoting here.
    let value = format!("By={own};URI={}", peer.svid.id);
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(XFCC, value);
    }
}

/// The application took no connection: its readiness is checked at once.
pub(crate) fn unreachable(call: &Call) {
    if call.direction == Direction::Inbound {
        call.worker.shared.app_unreachable.notify_one();
    }
}
