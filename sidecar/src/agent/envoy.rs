//! An Envoy as the sidecar of the application: its bootstrap file, when it is ready, and how it drains. It has its key
//! from [`super::sds`], its configuration from the control plane, over mTLS with that key.
//!
//! Source: Envoy's bootstrap v3; names of clusters as Istio's agent has them.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::{net::TcpStream, sync::watch, time::Instant};

use super::AgentConfig;
use crate::{
    identity::verify::{CONTROL_PLANE, trust_domain},
    readiness::AppHealth,
    xds::{
        convert::tls::{BUNDLE, CERTIFICATE},
        node::short_name,
    },
};

/// Its name in the directory.
pub(super) const FILE: &str = "envoy.json";
/// What stands for the file's path in the command.
const PLACEHOLDER: &str = "{bootstrap}";
/// Cluster of the control plane.
const XDS: &str = "xds-grpc";
/// Cluster of our socket; what the node says under `SDS_CLUSTER`.
const SDS: &str = "sds-grpc";
/// Envoy starts within this, or is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// One call of its admin side.
const CALL: Duration = Duration::from_secs(2);
const MAX_PAGE: usize = 1 << 20;

/// Where Envoy listens.
#[derive(Clone, Copy, Debug)]
pub struct EnvoyListeners {
    /// HTTP proxy for the application. Default `127.0.0.1:15080`. Loopback only.
    pub outbound: SocketAddr,
    /// mTLS for others, if there is an application that takes calls. Default `0.0.0.0:15006`.
    pub inbound: SocketAddr,
    /// Envoy's own admin side. Default `127.0.0.1:15004`. Loopback only.
    pub admin: SocketAddr,
}

/// What is known only when the process runs.
pub(super) struct Place<'a> {
    /// `host:port` of the control plane.
    pub(super) server: &'a str,
    /// Others reach Envoy there.
    pub(super) ip: IpAddr,
    /// Our socket of secrets.
    pub(super) socket: &'a Path,
    /// Who we are.
    pub(super) spiffe_id: &'a str,
}

pub(super) fn bootstrap(
    config: &AgentConfig,
    listeners: &EnvoyListeners,
    place: &Place<'_>,
) -> Value {
    let over = |cluster: &str, form: &str| {
        json!({
            "api_type": form,
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{ "envoy_grpc": { "cluster_name": cluster } }],
        })
    };
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    json!({
        "node": node(config, listeners, place.ip),
        "admin": { "address": socket_address(&listeners.admin.ip().to_string(), listeners.admin.port()) },
        "dynamic_resources": {
            "ads_config": over(XDS, "DELTA_GRPC"),
            "lds_config": ads,
            "cds_config": ads,
        },
        "cluster_manager": { "load_stats_config": over(XDS, "GRPC") },
        "static_resources": { "clusters": [control_plane(place, &over(SDS, "GRPC")), secrets(place.socket)] },
    })
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

fn cluster(name: &str, kind: &str, address: &Value) -> Value {
    json!({
        "name": name,
        "type": kind,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {
                "connection_keepalive": { "interval": "10s", "timeout": "5s" },
            }},
        }},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

/// TLS 1.3, our certificate, and nobody but the control plane of our trust domain.
fn control_plane(place: &Place<'_>, sds: &Value) -> Value {
    let (host, port) = place.server.rsplit_once(':').unwrap_or((place.server, ""));
    let host = host.trim_matches(['[', ']']);
    let port = port.parse().unwrap_or(15012);
    let is_address = host.parse::<IpAddr>().is_ok();
    let kind = if is_address { "STATIC" } else { "STRICT_DNS" };
    let secret = |name: &str| json!({ "name": name, "sds_config": { "api_config_source": sds, "resource_api_version": "V3" } });
    let domain = trust_domain(place.spiffe_id).unwrap_or_default();
    let expected = format!("spiffe://{domain}{CONTROL_PLANE}");
    let mut context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [secret(CERTIFICATE)],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": expected } }],
                },
                "validation_context_sds_secret_config": secret(BUNDLE),
            },
        },
    });
    if !is_address {
        context["sni"] = host.into();
    }
    let mut cluster = cluster(XDS, kind, &socket_address(host, port));
    cluster["transport_socket"] =
        json!({ "name": "envoy.transport_sockets.tls", "typed_config": context });
    cluster
}

fn secrets(socket: &Path) -> Value {
    cluster(SDS, "STATIC", &json!({ "pipe": { "path": socket } }))
}

/// As `docs/WIRE.md` has it.
fn node(config: &AgentConfig, listeners: &EnvoyListeners, ip: IpAddr) -> Value {
    let workload = &config.workload;
    let namespace = &workload.namespace;
    let (service, domain) = short_name(&workload.service, namespace);
    let mut own = Map::new();
    own.insert("SERVICE".to_owned(), workload.service.as_str().into());
    own.insert("SDS_CLUSTER".to_owned(), SDS.into());
    own.insert(
        "HTTP_PROXY".to_owned(),
        listeners.outbound.to_string().into(),
    );
    let mut port = listeners.outbound.port();
    if let Some(app) = &config.app {
        own.insert("INBOUND".to_owned(), listeners.inbound.to_string().into());
        own.insert("APP".to_owned(), app.address.to_string().into());
        own.insert("PORT".to_owned(), app.port.into());
        own.insert("PROTOCOL".to_owned(), app.protocol.as_str().into());
        port = listeners.inbound.port();
    }
    let [region, zone, sub_zone] = &workload.locality;
    json!({
        "id": format!("sidecar~{ip}~{service}-{port}.{namespace}~{namespace}.svc.{domain}"),
        "cluster": format!("{service}.{namespace}"),
        "locality": { "region": region, "zone": zone, "sub_zone": sub_zone },
        "metadata": {
            "NAMESPACE": namespace,
            "SERVICE_ACCOUNT": workload.service_account,
            "WORKLOAD_NAME": service,
            "INSTANCE_IPS": ip.to_string(),
            "LABELS": workload.labels,
            "OUTRIGGER": own,
        },
    })
}

/// The command with the file's path in it.
pub(super) fn with_path(command: &[String], file: &Path) -> Vec<String> {
    let path = file.display().to_string();
    let words = command.iter();
    words.map(|word| word.replace(PLACEHOLDER, &path)).collect()
}

/// The application's health as others see it: it is reached through Envoy, so that Envoy has to listen. For ever.
pub(super) async fn gate(
    inbound: SocketAddr,
    mut app: watch::Receiver<AppHealth>,
    seen: watch::Sender<AppHealth>,
    every: Duration,
) {
    let inbound = here(inbound);
    let mut was_there = false;
    loop {
        let is_there = tokio::time::timeout(CALL, TcpStream::connect(inbound))
            .await
            .is_ok_and(|connected| connected.is_ok());
        if is_there != was_there {
            tracing::info!(%inbound, listens = is_there, "Envoy's readiness changed");
        }
        was_there = is_there;
        let health = if is_there {
            *app.borrow_and_update()
        } else {
            AppHealth::Unhealthy
        };
        seen.send_if_modified(|now| std::mem::replace(now, health) != health);
        let pause = if is_there {
            every
        } else {
            LOOK_EVERY.min(every)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = app.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whoever listens everywhere listens here, too.
fn here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let here: IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(here);
    }
    address
}

/// Takes no new connections and waits until no request is in flight, for `within` at most: Envoy ends at once when it is
/// told to.
pub(super) async fn drain(admin: SocketAddr, within: Duration) {
    let deadline = Instant::now() + within;
    if let Err(error) = call(admin, "POST", "/drain_listeners?graceful").await {
        tracing::warn!(error, "Envoy was not told to drain");
        return;
    }
    while Instant::now() < deadline {
        match call(admin, "GET", "/stats?filter=downstream_(rq|cx)_active$").await {
            Ok(page) if in_flight(&page) == 0 => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error, "Envoy does not tell what is in flight");
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tracing::warn!(
        ?within,
        "requests were still in flight when Envoy was ended"
    );
}

/// Requests of HTTP, and connections of anything else.
fn in_flight(page: &str) -> u64 {
    let counts = page.lines().filter_map(|line| {
        let (name, count) = line.split_once(": ")?;
        let of_requests = name.starts_with("http.") && name.ends_with(".downstream_rq_active");
        let of_bytes = name.starts_with("tcp.") && name.ends_with(".downstream_cx_active");
        let is_traffic = (of_requests || of_bytes) && !name.starts_with("http.admin.");
        is_traffic.then(|| count.trim().parse::<u64>().ok())?
    });
    counts.sum()
}

async fn call(admin: SocketAddr, method: &str, path: &str) -> Result<String, String> {
    let exchange = async {
        let tcp = TcpStream::connect(admin)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
            .await
            .map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, admin.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_PAGE).collect().await;
        connection.abort();
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        if !status.is_success() {
            return Err(format!("{path} answered {status}"));
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(CALL, exchange)
        .await
        .unwrap_or_else(|_elapsed| Err(format!("{path}: no answer in time")))
}

#[cfg(test)]
mod tests;
