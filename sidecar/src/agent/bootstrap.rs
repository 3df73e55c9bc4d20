//! The bootstrap file of a gRPC library (`GRPC_XDS_BOOTSTRAP`): where its configuration comes from, who it is, and which
//! files it has its certificates from. Sources: gRFC A27, A29 (file watcher), A36 (servers), A65 (mTLS to the server).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{
    AgentConfig,
    files::{CERTIFICATE, CertificateFiles, KEY, ROOTS},
};
use crate::xds::node::short_name;

/// Its name in the directory.
pub(super) const FILE: &str = "bootstrap.json";
/// The certificate provider instance that resources name.
const PROVIDER: &str = "default";
/// What a server asks for; `%s` is the address that it listens on (Istio's form).
const SERVER_LISTENER: &str = "xds.istio.io/grpc/lds/inbound/%s";

/// What is known only when the process runs.
pub(super) struct Place<'a> {
    /// `host:port` of the management server.
    pub(super) server: &'a str,
    /// It takes plain text.
    pub(super) is_plain: bool,
    /// Others reach the application there.
    pub(super) ip: IpAddr,
    /// Of a process without an application: what tells it apart from others of its service.
    pub(super) admin: SocketAddr,
}

/// Without `files` there are no certificates at all.
pub(super) fn bootstrap(
    config: &AgentConfig,
    place: &Place<'_>,
    files: Option<&CertificateFiles>,
) -> Value {
    let watcher = files.map(|files| {
        json!({
            "certificate_file": files.path(CERTIFICATE),
            "private_key_file": files.path(KEY),
            "ca_certificate_file": files.path(ROOTS),
            "refresh_interval": format!("{}s", refresh(config.certificate_ttl)),
        })
    });
    let to_server = watcher.as_ref().filter(|_| !place.is_plain);
    let credentials = to_server.map_or_else(
        || json!({ "type": "insecure" }),
        |watcher| json!({ "type": "tls", "config": watcher }),
    );
    let mut file = json!({
        "xds_servers": [{
            "server_uri": place.server,
            "channel_creds": [credentials],
            "server_features": ["xds_v3"],
        }],
        "server_listener_resource_name_template": SERVER_LISTENER,
        "node": node(config, place),
    });
    if let Some(watcher) = watcher.filter(|_| config.mtls) {
        file["certificate_providers"] =
            json!({ PROVIDER: { "plugin_name": "file_watcher", "config": watcher } });
    }
    file
}

/// As `docs/WIRE.md` has it.
fn node(config: &AgentConfig, place: &Place<'_>) -> Value {
    let workload = &config.workload;
    let namespace = &workload.namespace;
    let (service, domain) = short_name(&workload.service, namespace);
    let mut own = Map::new();
    own.insert("SERVICE".to_owned(), workload.service.as_str().into());
    if config.mtls {
        own.insert("CERTIFICATE_PROVIDER".to_owned(), PROVIDER.into());
    }
    let app = config.app.as_ref();
    if let Some(app) = app {
        own.insert("PORT".to_owned(), app.port.into());
        own.insert("PROTOCOL".to_owned(), app.protocol.as_str().into());
    }
    let port = app.map_or_else(|| place.admin.port(), |app| app.address.port());
    let ip = place.ip;
    // grpc-js wants to be told of a place, be it nowhere.
    let [region, zone, sub_zone] = &workload.locality;
    let locality: Map<String, Value> = [("region", region), ("zone", zone), ("sub_zone", sub_zone)]
        .into_iter()
        .filter(|(_, name)| !name.is_empty())
        .map(|(key, name)| (key.to_owned(), name.as_str().into()))
        .collect();
    json!({
        "id": format!("grpc~{ip}~{service}-{port}.{namespace}~{namespace}.svc.{domain}"),
        "cluster": format!("{service}.{namespace}"),
        "locality": locality,
        "metadata": {
            "GENERATOR": "grpc",
            "NAMESPACE": namespace,
            "SERVICE_ACCOUNT": workload.service_account,
            "WORKLOAD_NAME": service,
            "INSTANCE_IPS": ip.to_string(),
            "LABELS": workload.labels,
            "OUTRIGGER": own,
        },
    })
}

/// Whole seconds. A certificate is renewed at half of its life, so that the new one is read many times before the old
/// one ends. Default of libraries, and their most here: 600 s.
fn refresh(ttl: Duration) -> u64 {
    (ttl.as_secs() / 20).clamp(1, 600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::config;

    fn place() -> Place<'static> {
        Place {
            server: "mesh.example.org:15012",
            is_plain: false,
            ip: IpAddr::from([10, 0, 0, 7]),
            admin: "127.0.0.1:15000".parse().unwrap(),
        }
    }

    #[test]
    fn with_certificates_all_of_it_names_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles::open(dir.path()).unwrap();
        let file = bootstrap(&config(), &place(), Some(&files));
        let watcher = json!({
            "certificate_file": files.path("cert.pem"),
            "private_key_file": files.path("key.pem"),
            "ca_certificate_file": files.path("root.pem"),
            "refresh_interval": "180s",
        });
        let server = &file["xds_servers"][0];
        assert_eq!(server["server_uri"], "mesh.example.org:15012");
        assert_eq!(
            server["channel_creds"],
            json!([{ "type": "tls", "config": watcher }])
        );
        assert_eq!(file["certificate_providers"]["default"]["config"], watcher);
        let node = &file["node"];
        assert_eq!(
            node["id"],
            "grpc~10.0.0.7~reviews-50051.default~default.svc.cluster.local"
        );
        assert_eq!(
            node["metadata"]["OUTRIGGER"]["CERTIFICATE_PROVIDER"],
            "default"
        );
        assert_eq!(node["metadata"]["LABELS"], json!({ "version": "v1" }));
        assert_eq!(node["locality"]["zone"], "a");
    }

    #[test]
    fn without_mtls_calls_are_plain_but_the_control_plane_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles::open(dir.path()).unwrap();
        let plain = AgentConfig {
            mtls: false,
            ..config()
        };
        let file = bootstrap(&plain, &place(), Some(&files));
        assert_eq!(file["xds_servers"][0]["channel_creds"][0]["type"], "tls");
        assert!(file["certificate_providers"].is_null());
        assert!(file["node"]["metadata"]["OUTRIGGER"]["CERTIFICATE_PROVIDER"].is_null());
    }

    #[test]
    fn by_a_relay_configuration_is_plain_and_calls_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles::open(dir.path()).unwrap();
        let place = Place {
            server: "127.0.0.1:15013",
            is_plain: true,
            ..place()
        };
        let file = bootstrap(&config(), &place, Some(&files));
        let server = &file["xds_servers"][0];
        assert_eq!(server["server_uri"], "127.0.0.1:15013");
        assert_eq!(server["channel_creds"], json!([{ "type": "insecure" }]));
        let provider = &file["certificate_providers"]["default"];
        assert_eq!(provider["plugin_name"], "file_watcher");
    }

    #[test]
    fn without_an_identity_nothing_is_named_that_is_not_there() {
        let plain = AgentConfig {
            mtls: false,
            app: None,
            ..config()
        };
        let place = Place {
            is_plain: true,
            ..place()
        };
        let file = bootstrap(&plain, &place, None);
        assert_eq!(
            file["xds_servers"][0]["channel_creds"],
            json!([{ "type": "insecure" }])
        );
        // Two clients of a service on one address.
        assert_eq!(
            file["node"]["id"],
            "grpc~10.0.0.7~reviews-15000.default~default.svc.cluster.local"
        );
    }

    #[test]
    fn files_are_read_again_often_enough_for_short_lives() {
        for (ttl, seconds) in [(10, 1), (60, 3), (3600, 180), (86_400, 600)] {
            assert_eq!(refresh(Duration::from_secs(ttl)), seconds, "{ttl}");
        }
    }
}
