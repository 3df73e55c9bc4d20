//! Tells the control plane that our application is here, how it is, and that it leaves.
//!
//! ```text
//! register ─► heartbeat every interval, and at once when health changes ─► draining (until all have heard) ─► deregister
//!     ^──────── NOT_FOUND (lease ran out, or the control plane lost it) ──┘
//! ```
//! The control plane may be away at any time; then it is tried again, and traffic does not notice.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use outrigger_proto::outrigger::v1::{
    DeregisterRequest, HeartbeatRequest, Locality, RegisterRequest, registry_client::RegistryClient,
};
use tokio::sync::{oneshot, watch};
use tonic::{Code, Status, transport::Channel};

use crate::{
    App, Config, Workload, backoff::Backoff, control::Control, identity::chain,
    readiness::AppHealth, vitals::Vitals,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the control plane may take for a goodbye.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps one registration.
#[derive(Debug)]
pub(crate) struct Registrar {
    pub(crate) control: Arc<Control>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) registration: RegisterRequest,
    pub(crate) heartbeat_interval: Duration,
    /// A registration was sent, so the control plane may list us.
    pub(crate) known: bool,
}

/// What a sidecar registers: the application as others reach it, at our inbound port.
pub(crate) fn registration(
    config: &Config,
    app: &App,
    ip: IpAddr,
    inbound: SocketAddr,
) -> RegisterRequest {
    // What is redirected to our inbound port is told of by its own.
    let port = if config.capture.is_on() {
        app.address.port()
    } else {
        inbound.port()
    };
    let address = SocketAddr::new(ip, port);
    RegisterRequest {
        mtls: true,
        ..instance(&config.workload, app, address, config.lease_ttl)
    }
}

/// An instance of the application that others reach at `address`, in plain text.
pub(crate) fn instance(
    workload: &Workload,
    app: &App,
    address: SocketAddr,
    lease_ttl: Duration,
) -> RegisterRequest {
    let [region, zone, sub_zone] = workload.locality.clone();
    RegisterRequest {
        service: workload.service.clone(),
        namespace: workload.namespace.clone(),
        // Chosen here, so that we can leave even if the answer to our registration got lost.
        instance_id: address.to_string(),
        address: address.ip().to_string(),
        port: app.port.into(),
        target_port: address.port().into(),
        protocol: app.protocol.clone(),
        labels: workload.labels.clone(),
        locality: Some(Locality {
            region,
            zone,
            sub_zone,
        }),
        weight: workload.weight,
        ttl: prost_types::Duration::try_from(lease_ttl).ok(),
        health: String::new(),
        mtls: false,
    }
}

impl Registrar {
    /// Registers and renews until `leave`.
    pub(crate) async fn run(
        mut self,
        mut health: watch::Receiver<AppHealth>,
        leave: oneshot::Receiver<()>,
    ) -> Registered {
        tokio::select! {
            biased;
            _ = leave => {}
            () = self.keep(&mut health) => {}
        }
        Registered(self)
    }

    async fn keep(&mut self, health: &mut watch::Receiver<AppHealth>) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut is_reported = false;
        loop {
            let word = health.borrow_and_update().word();
            let result = if self.vitals.is_registered() {
                self.heartbeat(word, None).await.map(drop)
            } else {
                self.register(word).await
            };
            let pause = match result {
                Ok(()) => {
                    if std::mem::take(&mut is_reported) {
                        tracing::info!("registration is renewed again");
                    }
                    backoff.reset();
                    // Jitter, so that instances that started together do not come together.
                    self.heartbeat_interval.mul_f64(0.9 + 0.1 * fastrand::f64())
                }
                Err(status) if status.code() == Code::NotFound && self.vitals.is_registered() => {
                    tracing::info!("registration is gone, registering again");
                    self.vitals.set_registered(false);
                    continue;
                }
                Err(status) => {
                    if !std::mem::replace(&mut is_reported, true) {
                        tracing::warn!(error = %chain(&status), "registration failed, trying again");
                    }
                    backoff.next()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = health.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn register(&mut self, health: &str) -> Result<(), Status> {
        let mut request = self.registration.clone();
        health.clone_into(&mut request.health);
        self.known = true;
        let response = within(self.client().register(timed(request)))
            .await?
            .into_inner();
        self.registration.instance_id = response.instance_id;
        if let Some(interval) = response
            .heartbeat_interval
            .and_then(|interval| outrigger_proto::length(&interval))
            && !interval.is_zero()
        {
            self.heartbeat_interval = self.heartbeat_interval.min(interval);
        }
        self.vitals.set_registered(true);
        tracing::info!(host = %response.host, instance = %self.registration.instance_id, %health, "registered");
        Ok(())
    }

    /// Says whether everybody has heard of it, if that is waited for.
    async fn heartbeat(&self, health: &str, wait: Option<Duration>) -> Result<bool, Status> {
        let request = HeartbeatRequest {
            service: self.registration.service.clone(),
            namespace: self.registration.namespace.clone(),
            instance_id: self.registration.instance_id.clone(),
            health: health.to_owned(),
            wait: wait.and_then(|wait| prost_types::Duration::try_from(wait).ok()),
        };
        let within = CALL_TIMEOUT + wait.unwrap_or_default();
        let mut request = tonic::Request::new(request);
        request.set_timeout(within);
        let mut client = self.client();
        let answered = tokio::time::timeout(within, client.heartbeat(request)).await;
        let answered = answered
            .unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("no answer in time")))?;
        Ok(answered.into_inner().heard)
    }

    fn client(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.control.channel())
    }
}

/// A registration that is kept no longer.
#[derive(Debug)]
pub(crate) struct Registered(Registrar);

impl Registered {
    /// The control plane may have listed us, so others may still be on their way.
    pub(crate) fn is_known(&self) -> bool {
        self.0.known
    }

    /// Says goodbye. Waits until everybody who may call us has heard it, if it is `patient` for that long; true if so.
    pub(crate) async fn say_goodbye(&self, patient: Duration) -> bool {
        if !self.0.known {
            return true;
        }
        let farewell = self.0.heartbeat("DRAINING", Some(patient));
        match tokio::time::timeout(patient + FAREWELL_TIMEOUT, farewell).await {
            Ok(Ok(heard)) => return heard,
            Ok(Err(status)) => {
                tracing::warn!(error = %chain(&status), "could not announce the drain");
            }
            Err(_elapsed) => tracing::warn!("could not announce the drain in time"),
        }
        false
    }

    /// Removes the registration.
    pub(crate) async fn deregister(self) {
        if !self.0.known {
            return;
        }
        let registration = &self.0.registration;
        let request = DeregisterRequest {
            service: registration.service.clone(),
            namespace: registration.namespace.clone(),
            instance_id: registration.instance_id.clone(),
        };
        let mut client = self.0.client();
        let call = client.deregister(timed(request));
        match tokio::time::timeout(FAREWELL_TIMEOUT, call).await {
            Ok(Ok(_)) => self.0.vitals.set_registered(false),
            Ok(Err(status)) => {
                tracing::warn!(error = %chain(&status), "could not deregister; the lease will run out");
            }
            Err(_elapsed) => tracing::warn!("could not deregister in time; the lease will run out"),
        }
    }
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Also bounds what the server's deadline does not: the connection.
async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("no answer in time")))
}

#[cfg(test)]
mod tests;
