//! `Upgrade`.

use bytes::Bytes;
use futures_util::{FutureExt as _, future::LocalBoxFuture};
use http::Request;
use http_body_util::Full;

use super::{Behaviour, Stage};
use crate::system::case::Case;

pub(super) fn all() -> Vec<Behaviour> {
    vec![Behaviour {
        case: Case::policy("upgrades", "connectionPool: {http: {http2MaxRequests: 99}}"),
        applications: 1,
        run: asked,
        expected: "websocket 200, tn3270 403, h2c 200",
    }]
}

/// What an application that switches to nothing is heard to say, where it is asked at all.
fn asked(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let mut heard = Vec::new();
        for protocol in ["websocket", "tn3270", "h2c"] {
            let request = Request::get("/")
                .header("host", stage.host)
                .header("connection", "upgrade")
                .header("upgrade", protocol)
                .body(Full::<Bytes>::default())
                .unwrap();
            let reply = stage.caller.send(request).await;
            heard.push(format!("{protocol} {}", reply.status.as_u16()));
        }
        heard.join(", ")
    }
    .boxed_local()
}
