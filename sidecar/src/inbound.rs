//! What is particular to requests that others send to the application: who they come from, and that the application's
//! readiness is looked at when it cannot be reached.

use std::rc::Rc;

use bytes::Bytes;
use http::HeaderValue;
use outrigger_core::Direction;

use crate::{forward::call::Call, worker::connection::Connection};

/// Who calls, as TLS has verified it: the `x-forwarded-client-cert` of all requests of a connection.
pub(crate) fn introduction(connection: &Rc<Connection>) -> Option<HeaderValue> {
    if connection.bound.direction != Direction::Inbound {
        return None;
    }
    let (own, peer) = (connection.own_id.as_ref()?, connection.peer.as_ref()?);
    // SPIFFE ids have no character that would need quoting here.
    let value = format!("By={own};URI={}", peer.svid.id);
    HeaderValue::from_maybe_shared(Bytes::from(value)).ok()
}

/// The application took no connection: its readiness is checked at once.
pub(crate) fn unreachable(call: &Call) {
    if call.direction == Direction::Inbound {
        call.worker.shared.app_unreachable.notify_one();
    }
}
