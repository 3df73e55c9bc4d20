//! The services of the mesh and their names: registered instance by instance, as an operator may, and changed one
//! instance at a time. A change gives the first instance of a service a label with the number of the change, which
//! travels to every client with the endpoints.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use http::Uri;
use outrigger_proto::outrigger::v1::{Locality, RegisterRequest, registry_client::RegistryClient};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tonic::transport::{Channel, Endpoint};

use super::{Options, board::Board};

/// The control plane takes 100 calls at a time on one connection.
const CONNECTIONS: u32 = 6;
const CALLS_OF_ONE: u32 = 90;
/// Long enough for any run.
const LEASE: prost_types::Duration = prost_types::Duration {
    seconds: 86_400,
    nanos: 0,
};
/// In front of the number of a change.
const MARK: &[u8] = b"push-";
const PORT: u32 = 80;

/// All services, and the way to change them.
pub(super) struct Mesh {
    calls: Vec<RegistryClient<Channel>>,
    services: u32,
    endpoints: u32,
    namespaces: u32,
}

impl Mesh {
    pub(super) async fn connect(
        plaintext: SocketAddr,
        options: &Options,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let uri: Uri = format!("http://{plaintext}").parse()?;
        let mut calls = Vec::new();
        for _ in 0..CONNECTIONS {
            let endpoint = Endpoint::from(uri.clone()).timeout(patience);
            calls.push(RegistryClient::new(endpoint.connect().await?));
        }
        Ok(Self {
            calls,
            services: options.services,
            endpoints: options.endpoints,
            namespaces: options.namespaces,
        })
    }

    /// Registers everything: first one instance of each service, then the rest.
    pub(super) async fn load(&self) -> anyhow::Result<()> {
        let all = self.endpoints;
        let next = Arc::new(AtomicU32::new(0));
        let mut callers = JoinSet::new();
        for calls in &self.calls {
            for _ in 0..CALLS_OF_ONE {
                let (mut calls, next) = (calls.clone(), Arc::clone(&next));
                let (services, namespaces) = (self.services, self.namespaces);
                callers.spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= all {
                            return Ok(());
                        }
                        let (service, instance) = (number % services, number / services);
                        let request = instance_of(service, instance, namespaces, 0);
                        calls.register(request).await?;
                    }
                });
            }
        }
        while let Some(done) = callers.join_next().await {
            done?.map_err(|status: tonic::Status| anyhow::anyhow!("Register: {status}"))?;
        }
        Ok(())
    }

    /// Makes one change; done when it is acknowledged.
    pub(super) async fn change(&self, board: &Board, service: u32) -> anyhow::Result<()> {
        let calls = self.calls.first().context("no connection")?.clone();
        change(calls, board, service, self.namespaces).await
    }

    /// Makes these changes, so many a second, and waits until all clients have heard of all. Gives how far the calls
    /// were behind the rate at the end.
    pub(super) async fn change_at_rate(
        &self,
        board: &Arc<Board>,
        services: &[u32],
        rate: u32,
    ) -> anyhow::Result<Duration> {
        let mut due = interval(Duration::from_secs(1) / rate);
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut made, begun) = (JoinSet::new(), Instant::now());
        for (service, calls) in services.iter().zip(self.calls.iter().cycle()) {
            due.tick().await;
            let (service, calls, board) = (*service, calls.clone(), Arc::clone(board));
            let namespaces = self.namespaces;
            made.spawn(async move { change(calls, &board, service, namespaces).await });
        }
        while let Some(done) = made.join_next().await {
            done??;
        }
        let planned = Duration::from_secs(1) / rate * u32::try_from(services.len())?;
        let behind = begun.elapsed().saturating_sub(planned);
        board.settled().await;
        Ok(behind)
    }
}

async fn change(
    mut calls: RegistryClient<Channel>,
    board: &Board,
    service: u32,
    namespaces: u32,
) -> anyhow::Result<()> {
    let number = board.begin(service);
    let request = instance_of(service, 0, namespaces, number);
    calls.register(request).await.context("Register")?;
    Ok(())
}

fn instance_of(service: u32, instance: u32, namespaces: u32, change: u32) -> RegisterRequest {
    let [_, high, middle, low] = (service * 97 + instance * 1_000_003).to_be_bytes();
    let mut labels = vec![
        ("app", format!("s-{service}")),
        ("version", "v1".to_owned()),
    ];
    if instance == 0 {
        let mark = String::from_utf8_lossy(MARK);
        labels.push(("change", format!("{mark}{change:08}")));
    }
    let labels = labels.into_iter();
    RegisterRequest {
        service: format!("s-{service}"),
        namespace: format!("n-{}", service % namespaces),
        instance_id: format!("i-{instance}"),
        address: Ipv4Addr::new(10, high, middle, low).to_string(),
        port: PORT,
        target_port: 15_006,
        labels: labels.map(|(key, value)| (key.to_owned(), value)).collect(),
        locality: Some(Locality {
            region: "eu".to_owned(),
            zone: format!("eu-{}", instance % 3),
            sub_zone: String::new(),
        }),
        ttl: Some(LEASE),
        mtls: true,
        ..RegisterRequest::default()
    }
}

/// What clients call it.
pub(super) fn authority(service: u32, namespaces: u32) -> String {
    format!("s-{service}.n-{}", service % namespaces)
}

/// The name of its cluster.
pub(super) fn cluster(service: u32, namespaces: u32) -> String {
    let authority = authority(service, namespaces);
    format!("outbound|{PORT}||{authority}.svc.cluster.local")
}

/// The service of a cluster of that name.
pub(super) fn service_of(cluster: &str) -> Option<u32> {
    let (_, host) = cluster.rsplit_once('|')?;
    let (service, _) = host.strip_prefix("s-")?.split_once('.')?;
    service.parse().ok()
}

/// The number of the last change in serialised endpoints.
pub(super) fn change_in(endpoints: &[u8]) -> Option<u32> {
    let at = endpoints
        .windows(MARK.len())
        .position(|part| part == MARK)?;
    let digits = endpoints.get(at + MARK.len()..)?.get(..8)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_named_after_its_service() {
        assert_eq!(service_of(&cluster(412, 20)), Some(412));
        assert_eq!(service_of("inbound|80||"), None);
    }

    #[test]
    fn a_change_is_found_by_its_mark() {
        assert_eq!(change_in(b"..push-00000042.."), Some(42));
        assert_eq!(change_in(b"..push-0042"), None);
    }
}
