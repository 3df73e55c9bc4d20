//! Metric handles resolved once for a destination (or caller), so that a request adds to counters without a lookup by
//! labels.

use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    hash::BuildHasher as _,
    rc::Rc,
    sync::Arc,
};

use outrigger_core::{Cluster, ClusterSlot, Direction, Endpoint, EndpointId};
use prometheus::{Histogram, IntCounter};

use super::{
    Telemetry,
    filters::FilterCounters,
    metrics::{BUCKET_LABELS, MAX_SERIES, REQUEST_LABELS},
    tcp::TcpHandles,
};
use crate::{config::Workload, tls::svid};

/// Kinds of responses that one destination is counted by.
const RESPONSES: usize = 64;

/// Names that routes may be counted under.
const PREFIXES: usize = 500;
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

const FIXED: usize = REQUEST_LABELS.len() - 4;

/// Handles of one label set.
#[derive(Debug)]
pub(crate) struct Handles {
    telemetry: Arc<Telemetry>,
    fixed: [String; FIXED],
    /// A handful for each destination; searched in order.
    by_response: RefCell<Vec<(Ended, IntCounter)>>,
    duration: Option<Histogram>,
    request_bytes: Option<Histogram>,
    response_bytes: Option<Histogram>,
    tcp: OnceCell<TcpHandles>,
}

/// What varies by response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) grpc: bool,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) flags: &'static str,
}

impl Handles {
    /// Counts one request.
    pub(crate) fn record(
        &self,
        ended: Ended,
        millis: f64,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        self.count(ended);
        for (histogram, value) in [
            (&self.duration, millis),
            (&self.request_bytes, precise(request_bytes)),
            (&self.response_bytes, precise(response_bytes)),
        ] {
            if let Some(histogram) = histogram {
                histogram.observe(value);
            }
        }
    }

    /// Counters of connections with these labels.
    pub(crate) fn tcp(&self) -> &TcpHandles {
        self.tcp
            .get_or_init(|| TcpHandles::new(&self.telemetry.metrics, &self.fixed))
    }

    fn count(&self, ended: Ended) {
        let mut known = self.by_response.borrow_mut();
        // A server that answers in ever new ways is counted in one.
        let folded = Ended {
            status: 0,
            grpc_status: None,
            ..ended
        };
        let find = |ended: Ended| known.iter().find(|(key, _)| *key == ended);
        let full = known.len() >= RESPONSES;
        if let Some((_, counter)) = find(ended).or_else(|| find(folded).filter(|_| full)) {
            counter.inc();
            return;
        }
        let ended = if full { folded } else { ended };
        if let Some(counter) = self.counter(ended) {
            counter.inc();
            known.push((ended, counter));
        }
    }

    fn counter(&self, ended: Ended) -> Option<IntCounter> {
        // A server may invent statuses; only real ones become labels.
        let status = if (100..600).contains(&ended.status) {
            ended.status.to_string()
        } else {
            "other".to_owned()
        };
        let grpc = match ended.grpc_status {
            Some(status @ 0..=16) => status.to_string(),
            Some(_) => "other".to_owned(),
            None => String::new(),
        };
        let protocol = if ended.grpc { "grpc" } else { "http" };
        let varying = [protocol, &status, &grpc, ended.flags];
        let values: Vec<&str> = self
            .fixed
            .iter()
            .map(String::as_str)
            .chain(varying)
            .collect();
        let requests = &self.telemetry.metrics.requests;
        requests.get_metric_with_label_values(&values).ok()
    }

    fn new(telemetry: &Arc<Telemetry>, fixed: [String; FIXED]) -> Self {
        let value_of = |label: &&str| {
            REQUEST_LABELS
                .iter()
                .zip(&fixed)
                .find(|(name, _)| *name == label)
                .map_or("", |(_, value)| value.as_str())
        };
        let values: Vec<&str> = BUCKET_LABELS.iter().map(value_of).collect();
        let metrics = &telemetry.metrics;
        let get = |vec: &prometheus::HistogramVec| vec.get_metric_with_label_values(&values).ok();
        Self {
            duration: get(&metrics.duration),
            request_bytes: get(&metrics.request_bytes),
            response_bytes: get(&metrics.response_bytes),
            telemetry: Arc::clone(telemetry),
            by_response: RefCell::new(Vec::new()),
            tcp: OnceCell::new(),
            fixed,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a histogram of sizes needs no last digit"
)]
fn precise(bytes: u64) -> f64 {
    bytes as f64
}

/// Cluster, and who called.
type Inbound = (Option<ClusterSlot>, Option<Arc<str>>);

/// A worker's handles.
#[derive(Debug)]
pub(crate) struct HandleCache {
    telemetry: Arc<Telemetry>,
    workload: Arc<Workload>,
    own_id: RefCell<Arc<str>>,
    outbound: RefCell<BTreeMap<(ClusterSlot, EndpointId), Rc<Handles>>>,
    nowhere: RefCell<BTreeMap<Option<ClusterSlot>, Rc<Handles>>>,
    inbound: RefCell<BTreeMap<Inbound, Rc<Handles>>>,
    /// Hashes of the label sets that were made: a set that is made again is no new series.
    made: RefCell<BTreeSet<u64>>,
    /// By hop and code, both of them closed sets.
    refusals: RefCell<BTreeMap<(&'static str, &'static str), IntCounter>>,
    /// By outcome.
    retries: RefCell<BTreeMap<&'static str, IntCounter>>,
    /// By event, a closed set.
    features: RefCell<BTreeMap<&'static str, IntCounter>>,
    filters: FilterCounters,
    /// By a route's `stat_prefix` and hundreds of the status.
    prefixes: RefCell<BTreeMap<Arc<str>, [Option<IntCounter>; 6]>>,
}

impl HandleCache {
    pub(crate) fn new(telemetry: &Arc<Telemetry>, workload: &Arc<Workload>) -> Self {
        Self {
            telemetry: Arc::clone(telemetry),
            workload: Arc::clone(workload),
            own_id: RefCell::new("".into()),
            outbound: RefCell::new(BTreeMap::new()),
            nowhere: RefCell::new(BTreeMap::new()),
            inbound: RefCell::new(BTreeMap::new()),
            made: RefCell::new(BTreeSet::new()),
            refusals: RefCell::new(BTreeMap::new()),
            retries: RefCell::new(BTreeMap::new()),
            features: RefCell::new(BTreeMap::new()),
            prefixes: RefCell::new(BTreeMap::new()),
            filters: FilterCounters::new(telemetry),
        }
    }

    /// Counters of filters.
    pub(crate) fn filters(&self) -> &FilterCounters {
        &self.filters
    }

    /// Counts an own answer.
    pub(crate) fn count_refusal(&self, hop: &'static str, code: &'static str) {
        let family = &self.telemetry.metrics.refusals;
        count(&self.refusals, (hop, code), || {
            family.get_metric_with_label_values(&[hop, code]).ok()
        });
    }

    /// Counts what a route's feature did.
    pub(crate) fn count_feature(&self, event: &'static str) {
        let family = &self.telemetry.metrics.features;
        count(&self.features, event, || {
            family.get_metric_with_label_values(&[event]).ok()
        });
    }

    /// Counts a request under its route's own name.
    pub(crate) fn count_prefix(&self, prefix: &Arc<str>, status: u16) {
        let class = usize::from(status / 100).min(5);
        let mut known = self.prefixes.borrow_mut();
        if !known.contains_key(prefix) {
            let room = known.len() < PREFIXES;
            let key = if room {
                Arc::clone(prefix)
            } else {
                "other".into()
            };
            if !room {
                self.telemetry.metrics.series_folded.inc();
            }
            let family = &self.telemetry.metrics.prefixes;
            let counters = CLASSES.map(|class| {
                let labels = [&*key, class];
                family.get_metric_with_label_values(&labels).ok()
            });
            if !room {
                if let Some(Some(counter)) = counters.get(class) {
                    counter.inc();
                }
                return;
            }
            known.insert(key, counters);
        }
        let counters = known.get(prefix).and_then(|counters| counters.get(class));
        if let Some(Some(counter)) = counters {
            counter.inc();
        }
    }

    /// Counts what was decided about a try that failed.
    pub(crate) fn count_retry(&self, outcome: &'static str) {
        let family = &self.telemetry.metrics.retries;
        count(&self.retries, outcome, || {
            family.get_metric_with_label_values(&[outcome]).ok()
        });
    }

    /// Forgets what was resolved; the counters themselves stay. To be called with every new snapshot or identity.
    pub(crate) fn forget(&self, own_id: Option<Arc<str>>) {
        if let Some(id) = own_id {
            *self.own_id.borrow_mut() = id;
        }
        self.outbound.borrow_mut().clear();
        self.nowhere.borrow_mut().clear();
        self.inbound.borrow_mut().clear();
    }

    /// Handles for requests to an endpoint.
    pub(crate) fn outbound(
        &self,
        slot: ClusterSlot,
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> Rc<Handles> {
        // Destinations are strangers' to choose, and have no labels.
        let id = if cluster.config.original_dst {
            EndpointId(0)
        } else {
            endpoint.id
        };
        let key = (slot, id);
        if let Some(handles) = self.outbound.borrow().get(&key) {
            return Rc::clone(handles);
        }
        let mtls = cluster.config.mesh_tls().is_some() && endpoint.config.mtls;
        let labels = &endpoint.config.labels;
        let handles = self.make(Parties {
            direction: Direction::Outbound,
            service: &cluster.config.service,
            subset: &cluster.config.subset,
            app: labels.get("app").map(String::as_str),
            version: labels.get("version").map(String::as_str),
            peer: cluster
                .config
                .tls
                .as_ref()
                .and_then(|tls| tls.subject_alt_names.first())
                .filter(|_| mtls)
                .map(String::as_str),
            mtls,
        });
        self.outbound.borrow_mut().insert(key, Rc::clone(&handles));
        handles
    }

    /// Handles for requests that reached no endpoint.
    pub(crate) fn nowhere(&self, cluster: Option<(ClusterSlot, &Cluster)>) -> Rc<Handles> {
        let key = cluster.map(|(slot, _)| slot);
        if let Some(handles) = self.nowhere.borrow().get(&key) {
            return Rc::clone(handles);
        }
        let handles = self.make(Parties {
            direction: Direction::Outbound,
            service: cluster.map_or("unknown", |(_, c)| &c.config.service),
            subset: cluster.map_or("", |(_, c)| &c.config.subset),
            app: None,
            version: None,
            peer: None,
            mtls: false,
        });
        self.nowhere.borrow_mut().insert(key, Rc::clone(&handles));
        handles
    }

    /// Handles for requests of a caller.
    pub(crate) fn inbound(
        &self,
        slot: Option<ClusterSlot>,
        peer: Option<&Arc<str>>,
    ) -> Rc<Handles> {
        let key = (slot, peer.cloned());
        if let Some(handles) = self.inbound.borrow().get(&key) {
            return Rc::clone(handles);
        }
        let handles = self.make(Parties {
            direction: Direction::Inbound,
            service: "",
            subset: "",
            app: None,
            version: None,
            peer: peer.map(|id| &**id),
            mtls: peer.is_some(),
        });
        self.inbound.borrow_mut().insert(key, Rc::clone(&handles));
        handles
    }

    fn make(&self, parties: Parties<'_>) -> Rc<Handles> {
        let mut labels = self.labels(&parties);
        let hash = foldhash::fast::FixedState::default().hash_one(&labels);
        let mut made = self.made.borrow_mut();
        if made.len() >= MAX_SERIES && !made.contains(&hash) {
            self.telemetry.metrics.series_folded.inc();
            for label in labels.iter_mut().skip(1) {
                "other".clone_into(label);
            }
        } else {
            made.insert(hash);
        }
        Rc::new(Handles::new(&self.telemetry, labels))
    }

    fn labels(&self, parties: &Parties<'_>) -> [String; FIXED] {
        let own = self.own_party();
        let other = parties.other();
        let inbound = parties.direction == Direction::Inbound;
        let (source, destination) = if inbound {
            (&other, &own)
        } else {
            (&own, &other)
        };
        let service = if inbound {
            // As callers name it; the mesh's domain is the trust domain.
            let id = self.own_id.borrow();
            let domain = svid::parse_id(&id).map_or("cluster.local", |(domain, _)| domain);
            format!("{}.{}.svc.{domain}", own.name, own.namespace)
        } else {
            parties.service.to_owned()
        };
        let (service_name, service_namespace) = if inbound {
            (own.name.clone(), own.namespace.clone())
        } else {
            (other.name.clone(), other.namespace.clone())
        };
        let text = |text: &str| text.to_owned();
        [
            text(if inbound { "destination" } else { "source" }),
            source.name.clone(),
            source.namespace.clone(),
            source.principal.clone(),
            source.app.clone(),
            source.version.clone(),
            text("default"),
            source.app.clone(),
            source.version.clone(),
            destination.name.clone(),
            destination.namespace.clone(),
            destination.principal.clone(),
            destination.app.clone(),
            destination.version.clone(),
            text("default"),
            destination.app.clone(),
            destination.version.clone(),
            service,
            service_name,
            service_namespace,
            text(if parties.mtls { "mutual_tls" } else { "none" }),
            text(parties.subset),
        ]
    }

    fn own_party(&self) -> Party {
        let label = |name: &str| self.workload.labels.get(name).cloned();
        let name = first_label(&self.workload.service);
        Party {
            app: label("app").unwrap_or_else(|| name.to_owned()),
            version: label("version").unwrap_or_else(|| "unknown".to_owned()),
            name: name.to_owned(),
            namespace: self.workload.namespace.clone(),
            principal: self.own_id.borrow().to_string(),
        }
    }
}

/// Adds one to a counter that is resolved once.
fn count<K: Ord>(
    known: &RefCell<BTreeMap<K, IntCounter>>,
    key: K,
    resolve: impl FnOnce() -> Option<IntCounter>,
) {
    let mut known = known.borrow_mut();
    if let Some(counter) = known.get(&key) {
        counter.inc();
    } else if let Some(counter) = resolve() {
        counter.inc();
        known.insert(key, counter);
    }
}

#[derive(Clone, Copy, Debug)]
struct Parties<'a> {
    direction: Direction,
    service: &'a str,
    subset: &'a str,
    app: Option<&'a str>,
    version: Option<&'a str>,
    peer: Option<&'a str>,
    mtls: bool,
}

#[derive(Debug)]
struct Party {
    name: String,
    namespace: String,
    app: String,
    version: String,
    principal: String,
}

impl Parties<'_> {
    /// The other side, as far as its certificate or the registry tells.
    fn other(&self) -> Party {
        let unknown = || "unknown".to_owned();
        let (name, namespace) = match self.direction {
            Direction::Outbound => {
                let mut parts = self.service.split('.');
                let name = parts.next().unwrap_or_default().to_owned();
                (name, parts.next().map_or_else(unknown, str::to_owned))
            }
            // ns/<namespace>/sa/<service account>
            Direction::Inbound => {
                let path = self.peer.and_then(|id| svid::parse_id(id).ok());
                let mut parts = path.map_or("", |(_, path)| path).split('/').skip(1);
                match (parts.next(), parts.next(), parts.next(), parts.next()) {
                    (Some("ns"), Some(ns), Some("sa"), Some(sa)) => (sa.to_owned(), ns.to_owned()),
                    _ => (unknown(), unknown()),
                }
            }
        };
        Party {
            app: self.app.map_or_else(|| name.clone(), str::to_owned),
            version: self.version.map_or_else(unknown, str::to_owned),
            principal: self.peer.map_or_else(unknown, str::to_owned),
            name,
            namespace,
        }
    }
}

fn first_label(service: &str) -> &str {
    service.split('.').next().unwrap_or(service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    #[tokio::test]
    async fn beyond_the_limit_only_new_kinds_of_responses_are_folded() {
        let config = config();
        let telemetry = Telemetry::start(&config);
        let cache = HandleCache::new(&telemetry, &Arc::new(config.workload));
        let handles = cache.nowhere(None);
        let answered = |status| {
            let ended = Ended {
                grpc: false,
                status,
                grpc_status: None,
                flags: "-",
            };
            handles.record(ended, 1.0, 0, 0);
        };
        (200..300).for_each(answered);
        answered(200);
        answered(299);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&telemetry.metrics.registry.gather())
            .unwrap();
        for (code, times) in [("200", Some(2)), ("other", Some(37)), ("299", None)] {
            let label = format!("response_code=\"{code}\"");
            let line = text.lines().find(|line| line.contains(&label));
            let found = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            assert_eq!(found, times, "{code}");
        }
    }
}
