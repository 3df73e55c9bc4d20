//! Builders for this crate's tests: clusters by the ports of their endpoints, all on 127.0.0.1.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    Cluster, ClusterConfig, Endpoint, EndpointConfig, EndpointId, Health, LbPolicy, Locality,
    Moment, NoEndpoint, Outcome, OutlierConfig, PickContext, Picked, balance::Leave,
};

pub(crate) fn config(lb: LbPolicy) -> ClusterConfig {
    ClusterConfig {
        name: "outbound|9080||reviews.default.svc.cluster.local".to_owned(),
        service: "reviews.default.svc.cluster.local".to_owned(),
        subset: String::new(),
        lb,
        ..ClusterConfig::default()
    }
}

pub(crate) fn endpoint(port: u16) -> EndpointConfig {
    EndpointConfig {
        address: ([127, 0, 0, 1], port).into(),
        weight: 1,
        health: Health::Healthy,
        priority: 0,
        locality: Locality::default(),
        locality_weight: 0,
        mtls: false,
        labels: BTreeMap::new(),
    }
}

pub(crate) fn weighted(pairs: &[(u16, u32)]) -> Vec<EndpointConfig> {
    pairs
        .iter()
        .map(|(port, weight)| EndpointConfig {
            weight: *weight,
            ..endpoint(*port)
        })
        .collect()
}

pub(crate) fn cluster(lb: LbPolicy, ports: impl IntoIterator<Item = u16>) -> Cluster {
    Cluster::new(config(lb), ports.into_iter().map(endpoint).collect(), None)
}

/// Envoy's and Istio's defaults, every endpoint but the last may be out.
pub(crate) fn outlier() -> OutlierConfig {
    OutlierConfig {
        consecutive_5xx: 5,
        consecutive_gateway_failure: 0,
        split_local: None,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_percent: 99,
        min_health_percent: 0,
    }
}

pub(crate) fn ejecting(outlier: OutlierConfig, ports: impl IntoIterator<Item = u16>) -> Cluster {
    let config = ClusterConfig {
        outlier: Some(outlier),
        ..config(LbPolicy::RoundRobin)
    };
    Cluster::new(config, ports.into_iter().map(endpoint).collect(), None)
}

pub(crate) fn secs(n: u64) -> Moment {
    Moment(n * 1000)
}

pub(crate) const OK: Outcome = Outcome::Status(200);
pub(crate) const BROKEN: Outcome = Outcome::Status(500);

impl Cluster {
    pub(crate) fn by_port(&self, port: u16) -> &Arc<Endpoint> {
        self.endpoints
            .iter()
            .find(|one| one.config.address.port() == port)
            .unwrap()
    }

    /// A choice of `port` as if it were in service.
    pub(crate) fn picked(&self, port: u16) -> Picked {
        Picked {
            endpoint: Arc::clone(self.by_port(port)),
            leave: Leave::default(),
            service_trial: None,
        }
    }

    pub(crate) fn pick_with(
        &self,
        rng: &mut fastrand::Rng,
        hash: Option<u64>,
        tried: &[EndpointId],
        now: Moment,
    ) -> Result<u16, NoEndpoint> {
        let mut context = PickContext {
            hash,
            tried,
            previous_priorities: &[],
            now,
            rng,
        };
        self.pick(&mut context)
            .map(|picked| picked.endpoint.config.address.port())
    }

    /// A pick with nothing special about it, long after the start.
    pub(crate) fn next(&self, rng: &mut fastrand::Rng) -> u16 {
        self.pick_with(rng, None, &[], secs(1)).unwrap()
    }

    pub(crate) fn for_key(&self, key: u64) -> u16 {
        let mut rng = fastrand::Rng::with_seed(0);
        self.pick_with(&mut rng, Some(key), &[], secs(1)).unwrap()
    }

    /// How often each port was picked.
    pub(crate) fn spread(&self, rng: &mut fastrand::Rng, picks: usize) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(self.next(rng)).or_default() += 1;
        }
        counts
    }

    pub(crate) fn fail(&self, port: u16, times: usize, now: Moment) -> bool {
        (0..times).any(|_| self.report(&self.picked(port), BROKEN, now).ejected)
    }

    pub(crate) fn ports_in_service(&self, now: Moment) -> Vec<u16> {
        self.in_service(now)
            .map(|one| one.config.address.port())
            .collect()
    }
}
