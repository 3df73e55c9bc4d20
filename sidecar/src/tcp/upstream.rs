//! How a connection comes by its endpoint: one that takes it, out of as many as its route lets it try. Nothing of it
//! has been sent until one has.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use outrigger_core::{
    Cluster, ClusterSlot, ConnectionRoute, Direction, Endpoint, EndpointId, InFlight, NoEndpoint,
    Outcome, PickContext, Picked,
};

use super::refusal::Refused;
use crate::{
    connect::{ConnectError, Seen, Whose},
    http::io::Io,
    pool::exclusive::{Exclusive, Under},
    proxy_protocol::header::Ends,
    tls::Refusal,
    worker::{Worker, connection::Server},
};

/// Where a connection goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) slot: ClusterSlot,
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) route: &'a ConnectionRoute,
    pub(crate) source: IpAddr,
    /// Where the connection was going before it was redirected.
    pub(crate) destination: Option<SocketAddr>,
    /// For whom, if the cluster's connections tell that.
    pub(crate) ends: Option<Ends>,
    pub(crate) direction: Direction,
}

/// An endpoint's connection, and what is held as long as it is open.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) io: Io,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) under: Under,
    /// Who answered, and whom we would accept.
    pub(crate) server: Option<Server>,
    _in_flight: InFlight,
    _exclusive: Exclusive,
}

/// Opens one, or says why there is none.
pub(crate) async fn open(worker: &Worker, target: Target<'_>) -> Result<Upstream, Refused> {
    let cluster = target.cluster;
    let exclusive = worker.pools.exclusive(target.slot, cluster);
    let exclusive = exclusive.ok_or_else(|| Refused::overflow(cluster))?;
    let hash = target.route.hash(target.source);
    let keeps = target.direction == Direction::Inbound && worker.shared.capture.keeps_sources();
    let seen = target.destination.filter(|_| keeps).map(|to| Seen {
        source: target.source,
        at: to.ip(),
    });
    let whose = Whose {
        ends: target.ends,
        seen,
    };
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last = None;
    for attempt in 1..=target.route.attempts {
        let now = worker.shared.now();
        let picked = if !cluster.config.original_dst {
            cluster.pick(&mut PickContext {
                hash,
                tried: &tried,
                previous_priorities: &[],
                now,
                rng: &mut worker.rng.borrow_mut(),
            })
        } else if tried.is_empty() {
            cluster.toward(target.destination, now)
        } else {
            // There is one only.
            Err(NoEndpoint::Exhausted)
        };
        let picked = match picked {
            Ok(picked) => picked,
            Err(none) => return Err(last.unwrap_or_else(|| Refused::no_endpoint(cluster, none))),
        };
        if attempt > 1 {
            worker.handles.count_retry("again");
        }
        tried.push(picked.endpoint.id);
        let mut choice = Choice {
            worker,
            cluster,
            picked,
            told: false,
        };
        let endpoint = Arc::clone(&choice.picked.endpoint);
        let in_flight = endpoint.begin();
        let opened = exclusive.connect(&worker.pools, cluster, &endpoint, whose);
        match opened.await {
            Ok((opened, under)) => {
                choice.tell(CONNECTED);
                let chain = opened.chain();
                let tls = cluster.config.mesh_tls();
                let server = chain.zip(tls).map(|(chain, tls)| Server {
                    chain,
                    expected: tls.subject_alt_names.as_slice().into(),
                });
                return Ok(Upstream {
                    io: Io::new(opened.transport),
                    under,
                    server,
                    endpoint,
                    _in_flight: in_flight,
                    _exclusive: exclusive,
                });
            }
            Err(error) => {
                if target.direction == Direction::Inbound {
                    // The application took no connection: its readiness is checked at once.
                    worker.shared.app_unreachable.notify_one();
                }
                // That we have nothing to show says nothing of the endpoint.
                let ours = Refusal::is_ours;
                if !matches!(&error, ConnectError::Tls(_, refusal) if ours(refusal)) {
                    choice.tell(Outcome::LocalError);
                }
                let address = endpoint.config.address;
                last = Some(Refused::not_connected(&error, address, attempt));
            }
        }
    }
    Err(last.unwrap_or_else(|| Refused::no_endpoint(cluster, NoEndpoint::Exhausted)))
}

/// What ejection is told of an endpoint that took a connection: what it does with it, nobody sees.
const CONNECTED: Outcome = Outcome::Status(200);

/// An endpoint that was chosen. Given back unused if nothing was told of it.
struct Choice<'a> {
    worker: &'a Worker,
    cluster: &'a Cluster,
    picked: Picked,
    told: bool,
}

impl Choice<'_> {
    fn tell(&mut self, outcome: Outcome) {
        self.told = true;
        self.worker.report(self.cluster, &self.picked, outcome);
    }
}

impl Drop for Choice<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.cluster.unused(&self.picked, self.worker.shared.now());
        }
    }
}
