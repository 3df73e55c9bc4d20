//! CONNECT: a connection to a port of a service, through the proxy port, for programs that know a proxy and no mesh.
//!
//! ```text
//! route with connect_matcher ──► the cluster, as a connection of bytes (mTLS, endpoints, maxConnections) ──► 200, then bytes
//! host of HTTP, no such route ──► 200, then requests, as on any connection to this port: routes and policies as always
//! ```
//! Nobody is told 200 before there is a connection.

use std::{rc::Rc, sync::Arc};

use http::Response;
use outrigger_core::{Cluster, ClusterChoice, ClusterSlot, ConnectionRoute};

use super::{call::Call, tunnel::Tunnel};
use crate::{
    http::{
        answer::{Code, Problem},
        body::DownBody,
    },
    tcp::upstream::{self, Target},
};

/// Tries to connect, each to another endpoint: as for connections that come without CONNECT.
const ATTEMPTS: u32 = 2;

/// Opens a connection to an endpoint of `cluster`.
pub(super) async fn to_cluster(
    call: &Rc<Call>,
    slot: ClusterSlot,
    cluster: &Arc<Cluster>,
    clusters: &ClusterChoice,
) -> Result<Response<DownBody>, Problem> {
    let route = ConnectionRoute {
        position: None,
        clusters: clusters.clone(),
        idle_timeout: None,
        max_duration: None,
        attempts: ATTEMPTS,
        hash_source_ip: false,
        rbac: Vec::new(),
    };
    let target = Target {
        slot,
        cluster,
        route: &route,
        source: call.connection.remote.ip(),
        destination: None,
        ends: call.connection.ends(),
        direction: call.direction,
    };
    let opened = upstream::open(&call.worker, target).await;
    let upstream = opened.map_err(|refused| {
        let problem = Problem::new(refused.code.of_request(), refused.message);
        match refused.endpoint {
            Some(endpoint) => problem.at(endpoint, refused.attempts),
            None => problem,
        }
    })?;
    call.answered_by.set(Some(upstream.endpoint.config.address));
    let handles = call.handles(&upstream.endpoint);
    Ok(answer(call, Tunnel::connected(call, upstream, handles)))
}

/// The connection goes on with requests.
pub(super) fn to_requests(call: &Rc<Call>) -> Result<Response<DownBody>, Problem> {
    if call.connection.serves_connect.replace(true) {
        let message = "CONNECT inside of CONNECT: send the request itself, with its Host";
        return Err(Problem::new(Code::NotSupported, message));
    }
    Ok(answer(call, Tunnel::of_requests(call)))
}

fn answer(call: &Rc<Call>, tunnel: Tunnel) -> Response<DownBody> {
    call.answered_directly(200);
    // What is read from now on is not the request's.
    call.answered_here.set(false);
    *call.tunnel.borrow_mut() = Some(Box::new(tunnel));
    Response::new(DownBody::empty())
}
