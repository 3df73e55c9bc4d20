//! Against a registry that records what it hears, over real sockets.

use std::sync::Mutex;

use outrigger_proto::outrigger::v1::{
    DeregisterResponse, HeartbeatResponse, RegisterResponse,
    registry_server::{Registry, RegistryServer},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

use super::*;
use crate::{
    settings_for_tests::{app, config},
    shared::Shared,
};

/// What a registry heard, in a story's words.
#[derive(Clone)]
struct Heard {
    story: mpsc::Sender<String>,
    /// Heartbeats are answered by NOT_FOUND while true.
    forgot: Arc<Mutex<bool>>,
    registration: Arc<Mutex<RegisterRequest>>,
}

#[tonic::async_trait]
impl Registry for Heard {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let request = request.into_inner();
        *self.forgot.lock().unwrap() = false;
        self.story
            .send(format!("register {}", request.health))
            .await
            .unwrap();
        *self.registration.lock().unwrap() = request;
        Ok(Response::new(RegisterResponse {
            instance_id: ID.to_owned(),
            heartbeat_interval: None,
            ttl: None,
            host: "reviews.default.svc.cluster.local".to_owned(),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.instance_id, ID);
        self.story
            .send(format!("heartbeat {}", request.health))
            .await
            .unwrap();
        if *self.forgot.lock().unwrap() {
            return Err(Status::not_found("no such instance"));
        }
        Ok(Response::new(HeartbeatResponse {
            heard: request.health == "DRAINING",
            ..HeartbeatResponse::default()
        }))
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        assert_eq!(request.into_inner().instance_id, ID);
        self.story.send("deregister".to_owned()).await.unwrap();
        Ok(Response::new(DeregisterResponse {}))
    }
}

struct Rig {
    story: mpsc::Receiver<String>,
    heard: Heard,
    health: watch::Sender<AppHealth>,
    leave: Option<oneshot::Sender<()>>,
    registrar: JoinHandle<Registered>,
    vitals: Arc<Vitals>,
}

impl Rig {
    async fn start(health: AppHealth, heartbeat_interval: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, story) = mpsc::channel(16);
        let heard = Heard {
            story: sender,
            forgot: Arc::default(),
            registration: Arc::default(),
        };
        let server = tonic::transport::Server::builder()
            .add_service(RegistryServer::new(heard.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let config = Config {
            control_plane: format!("http://{address}"),
            heartbeat_interval,
            ..config()
        };
        let vitals = Arc::new(Vitals::new(&prometheus::Registry::new(), true, false));
        let ip = "10.0.0.7".parse().unwrap();
        let inbound = "0.0.0.0:15006".parse().unwrap();
        let registrar = Registrar {
            control: Arc::new(
                Control::new(&config, Shared::new(crate::tls::files::Allowed::default())).unwrap(),
            ),
            vitals: Arc::clone(&vitals),
            registration: registration(&config, &app(), ip, inbound),
            heartbeat_interval,
            known: false,
        };
        let (leave, left) = oneshot::channel();
        let (health, watched) = watch::channel(health);
        Self {
            story,
            heard,
            health,
            leave: Some(leave),
            registrar: tokio::spawn(registrar.run(watched, left)),
            vitals,
        }
    }

    async fn next(&mut self) -> String {
        timeout(Duration::from_secs(10), self.story.recv())
            .await
            .expect("nothing came")
            .unwrap()
    }
}

const ID: &str = "10.0.0.7:15006";
const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_application_is_registered_at_our_inbound_port_with_mtls() {
    let mut rig = Rig::start(AppHealth::Unknown, NEVER).await;
    assert_eq!(rig.next().await, "register UNHEALTHY");
    let registration = rig.heard.registration.lock().unwrap().clone();
    assert_eq!(registration.address, "10.0.0.7");
    assert_eq!((registration.port, registration.target_port), (9080, 15006));
    assert!(registration.mtls);
    assert_eq!(registration.labels["version"], "v1");
}

#[tokio::test]
async fn a_change_of_health_is_told_at_once() {
    let mut rig = Rig::start(AppHealth::Unknown, NEVER).await;
    assert_eq!(rig.next().await, "register UNHEALTHY");
    rig.health.send_replace(AppHealth::Healthy);
    assert_eq!(rig.next().await, "heartbeat HEALTHY");
    rig.health.send_replace(AppHealth::Unhealthy);
    assert_eq!(rig.next().await, "heartbeat UNHEALTHY");
}

#[tokio::test]
async fn a_registration_that_is_gone_is_made_again() {
    let mut rig = Rig::start(AppHealth::Healthy, Duration::from_millis(20)).await;
    assert_eq!(rig.next().await, "register HEALTHY");
    assert_eq!(rig.next().await, "heartbeat HEALTHY");
    *rig.heard.forgot.lock().unwrap() = true;
    while rig.next().await != "register HEALTHY" {}
    assert_eq!(rig.next().await, "heartbeat HEALTHY");
}

#[tokio::test]
async fn leaving_is_announced_first_and_ends_the_registration_last() {
    let mut rig = Rig::start(AppHealth::Healthy, NEVER).await;
    assert_eq!(rig.next().await, "register HEALTHY");
    rig.leave.take().unwrap().send(()).unwrap();
    let registered = (&mut rig.registrar).await.unwrap();
    assert!(registered.is_known());
    assert!(registered.say_goodbye(Duration::from_secs(5)).await);
    assert_eq!(rig.next().await, "heartbeat DRAINING");
    registered.deregister().await;
    assert_eq!(rig.next().await, "deregister");
    assert!(!rig.vitals.is_registered());
}

#[tokio::test]
async fn who_was_never_registered_says_no_goodbye() {
    let config = Config {
        control_plane: "http://127.0.0.1:1".to_owned(),
        ..config()
    };
    let registrar = Registrar {
        control: Arc::new(
            Control::new(&config, Shared::new(crate::tls::files::Allowed::default())).unwrap(),
        ),
        vitals: Arc::new(Vitals::new(&prometheus::Registry::new(), true, false)),
        registration: RegisterRequest::default(),
        heartbeat_interval: NEVER,
        known: false,
    };
    let (leave, left) = oneshot::channel();
    let (_health, watched) = watch::channel(AppHealth::Healthy);
    leave.send(()).unwrap();
    let registered = timeout(Duration::from_secs(10), registrar.run(watched, left))
        .await
        .unwrap();
    assert!(!registered.is_known());
}
