//! Our control plane and sidecars, as an operator would start them: nothing is tuned but the number of workers. Spans of
//! 1 % of the traces go to the collector unless a scenario says otherwise.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf};

use tokio::process::Command;

use super::{Features, Missing, Setup, Subject, Topology, free_port, until};
use crate::outrigger::{self, Mesh};

const SAMPLING: f64 = 1.0; // percent

pub(super) async fn start(setup: &Setup<'_>, binary: PathBuf) -> anyhow::Result<Subject> {
    let more = flags(setup, &binary).await?;
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let files = ["root.pem", "root.key"].map(|name| setup.pki.join(name).display().to_string());
    let [certificate, key] = &files;
    let mesh = Mesh::start_from(binary, &["--root-cert", certificate, "--root-key", key]).await?;
    let application = setup.application().to_string();
    if setup.topology == Topology::OneHop {
        mesh.apply(&external(setup.application())).await?;
        let (proxy, ready) = mesh.ready("client", setup.workers, &more).await?;
        let entry = outrigger::address(&ready, "outbound")?;
        return Ok(subject(
            mesh,
            vec![proxy],
            entry,
            None,
            "application.example",
        ));
    }
    let protocol = match setup.topology {
        Topology::OneHop | Topology::TwoHop => "http",
        Topology::Grpc => "grpc",
        Topology::Tcp => "tcp",
    };
    let server = [
        "--app",
        &application,
        "--port",
        "80",
        "--protocol",
        protocol,
    ];
    let server = [&server, more.as_slice()].concat();
    let (called, ready) = mesh.ready("server", setup.workers, &server).await?;
    let inbound = outrigger::address(&ready, "inbound")?;
    let local = free_port()?;
    if setup.topology == Topology::Tcp {
        mesh.apply(&local_port(local)).await?;
    }
    for document in policies(setup.features) {
        mesh.apply(&document).await?;
    }
    let (calling, ready) = mesh.ready("client", setup.workers, &more).await?;
    let entry = if setup.topology == Topology::Tcp {
        SocketAddr::from(([127, 0, 0, 1], local))
    } else {
        outrigger::address(&ready, "outbound")?
    };
    in_force(entry, setup.features).await?;
    Ok(subject(
        mesh,
        vec![calling, called],
        entry,
        Some(inbound),
        "server",
    ))
}

fn subject(
    mesh: Mesh,
    proxies: Vec<crate::process::Process>,
    entry: SocketAddr,
    inbound: Option<SocketAddr>,
    host: &str,
) -> Subject {
    let (control_plane, dir) = mesh.into_parts();
    Subject {
        entry,
        inbound,
        host: host.to_owned(),
        proxies,
        others: vec![control_plane],
        dir: Some(dir),
    }
}

async fn flags(setup: &Setup<'_>, binary: &PathBuf) -> anyhow::Result<Vec<String>> {
    let mut flags = Vec::new();
    let sampling = setup.features.sampling.unwrap_or(SAMPLING);
    if sampling > 0.0 {
        flags.push(format!("--otlp-endpoint=http://{}", setup.collector.http));
        flags.push(format!("--trace-sampling={}", sampling / 100.0));
    }
    if setup.features.access_log {
        let help = Command::new(binary)
            .args(["sidecar", "--help"])
            .output()
            .await?;
        if !String::from_utf8_lossy(&help.stdout).contains("--access-log") {
            return Err(
                Missing("has no access log yet (`sidecar --access-log`)".to_owned()).into(),
            );
        }
        flags.extend(["--access-log=/dev/null", "--access-log-format=json"].map(str::to_owned));
    }
    Ok(flags)
}

/// The application as a server outside of the mesh: one hop, nothing encrypted.
fn external(application: SocketAddr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: application}}\nspec:\n  \
         hosts: [application.example]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {}}}]\n  \
         endpoints: [{{address: {}}}]\n",
        application.port(),
        application.ip()
    )
}

/// A port of localhost that leads to the server.
fn local_port(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: client}}\nspec:\n  egress:\n  \
         - port: {{number: {port}, protocol: TCP, name: bytes}}\n    \
         hosts: [./server.default.svc.cluster.local]\n"
    )
}

/// Documents, each with something by which it can be seen to be in force.
fn policies(features: Features) -> Vec<String> {
    let mut documents = Vec::new();
    if features.routes > 0 {
        let mut text =
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: server}\n\
                        spec:\n  hosts: [server]\n  http:\n  \
                        - {match: [{uri: {exact: /in-force}}], directResponse: {status: 204}}\n"
                .to_owned();
        for route in 1..features.routes {
            writeln!(
                text,
                "  - {{match: [{{uri: {{prefix: /route-{route:04}/}}}}], \
                 route: [{{destination: {{host: server}}}}]}}"
            )
            .unwrap_or_default();
        }
        text += "  - {route: [{destination: {host: server}}]}\n";
        documents.push(text);
    }
    if features.rules > 0 {
        let mut text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: server}\n\
                        spec:\n  action: ALLOW\n  rules:\n"
            .to_owned();
        for rule in 1..=features.rules {
            let caller = if rule == features.rules {
                "client".to_owned()
            } else {
                format!("caller-{rule:03}")
            };
            writeln!(
                text,
                "  - {{from: [{{source: {{principals: [cluster.local/ns/default/sa/{caller}]}}}}], \
                 to: [{{operation: {{methods: [GET], paths: [/, \"/bytes/*\"]}}}}]}}"
            )
            .unwrap_or_default();
        }
        documents.push(text);
    }
    documents
}

async fn in_force(entry: SocketAddr, features: Features) -> anyhow::Result<()> {
    let expect = async |path: &str, status: u16| {
        let status = format!("HTTP/1.1 {status}");
        until(async || {
            let answer = outrigger::first_line(entry, "server", path).await?;
            anyhow::ensure!(answer.starts_with(&status), "{path}: {answer:?}");
            Ok(())
        })
        .await
    };
    if features.routes > 0 {
        expect("/in-force", 204).await?;
    }
    if features.rules > 0 {
        expect("/not-allowed", 403).await?;
    }
    Ok(())
}
