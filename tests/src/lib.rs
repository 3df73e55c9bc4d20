//! The harness: real processes on free ports, applications of the test's own, and ways to look at what happens.
//!
//! ```no_run
//! # async fn example() {
//! use outrigger_tests::{Mesh, TestApp};
//! let mesh = Mesh::start().await;
//! let app = TestApp::start("v1").await;
//! let reviews = mesh.service("reviews").label("version", "v1").app(&app).start().await;
//! let shopper = mesh.service("shopper").start().await;
//! assert_eq!(shopper.caller().get("reviews:9080", "/").await.status, 200);
//! # }
//! ```
//! Nothing here sleeps to wait for something: [`eventually`] looks again until a deadline. Whatever is started
//! ends with the value that stands for it, and shows its logs if the test fails.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    reason = "a harness fails a test by panicking, and its reader is at a terminal"
)]

mod agent;
mod app;
mod authority;
mod authorizer;
mod binary;
mod bytes;
mod caller;
mod envoy;
mod envoy_member;
mod eventually;
mod foreign;
mod grpc;
pub mod h2_bytes;
mod identity;
mod issuer;
mod kubernetes;
mod line;
mod load;
mod mesh;
mod misbehave;
mod net;
mod operator;
mod otlp;
mod peer;
mod process;
mod recorder;
mod registry;
mod relay;
mod run;
mod sidecar;
mod spire;
mod tools;

pub use agent::{Agent, AgentBuilder};
pub use app::{Received, TestApp};
pub use authority::{MeshRoot, Shown, TlsImpostor, ask_over_tls, credulous, leaf};
pub use authorizer::Authorizer;
pub use binary::outrigger;
pub use bytes::{
    echo_app, free_port, mutual_tls_server, tell, tell_bytes, tls_server, until_heard,
};
pub use caller::{Caller, Reply};
pub use envoy::{Asks, Envoy};
pub use envoy_member::EnvoyMember;
pub use eventually::{eventually, within};
pub use foreign::{Conversation, ForeignServer, Heard, XdsForm, packed};
pub use grpc::{GrpcPeer, Outcomes};
pub use identity::{ForeignRoot, WorkloadIdentity};
pub use issuer::Issuer;
pub use kubernetes::{ISSUER, Kubernetes};
pub use line::Line;
pub use load::{Load, LoadReport};
pub use mesh::{Mesh, Output};
pub use misbehave::{Fault, Misbehaving};
pub use net::{
    APPLICATION, Arrival, CapturedMesh, Host, Member, Network, OriginalDestinations, SIDECAR, Wire,
};
pub use operator::Operator;
pub use otlp::{Collector, Span};
pub use peer::{say, say_plainly, tls_client, tls_connect};
pub use process::{Process, ended};
pub use recorder::{HeardRequest, Recorder};
pub use registry::HttpRegistry;
pub use relay::Relay;
pub use run::RunBuilder;
pub use sidecar::{Service, Sidecar};
pub use spire::{Spire, WorkloadSocket};
pub use tools::tool;
