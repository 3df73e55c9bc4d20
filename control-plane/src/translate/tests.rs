//! What worlds become, by theme. What several themes share is here.

mod capture;
mod clusters;
mod destination_policies;
mod destination_rules;
mod entries;
mod envoy;
mod filters;
mod golden;
mod grpc;
mod hosts;
mod outside_tls;
mod retries;
mod reuse;
mod routes;
mod scopes;
mod security;
mod views;

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    NodeInfo, NodeResources, Shared,
    node::Inbound,
    testing::{Given, Seen, at, node},
};
use crate::snapshot::ResourceType::{self, Cluster, Endpoint, Listener, Route, Secret};

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";

fn reviews() -> Given {
    Given::default()
        .instance("reviews", 9080, "v1", "10.0.0.1:15006")
        .instance("reviews", 9080, "v2", "10.0.0.2:15006")
}

/// The first transport socket match of a cluster, unwrapped.
fn socket_names(cluster: &Value) -> Vec<&str> {
    let all = cluster["transportSocketMatches"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    all.iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect()
}

fn san(cluster: &Value) -> Vec<&str> {
    let context = &cluster["transportSocketMatches"][0]["transportSocket"]["typedConfig"];
    let combined = &context["commonTlsContext"]["combinedValidationContext"];
    let names = combined["defaultValidationContext"]["matchTypedSubjectAltNames"].as_array();
    names
        .unwrap()
        .iter()
        .map(|one| one["matcher"]["exact"].as_str().unwrap())
        .collect()
}

/// Two services, and a VirtualService for the first.
fn given_routes(http: &str) -> Given {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: routes}}
spec:
  hosts: [reviews]
  http:
{http}"
    );
    let ratings = reviews().instance("ratings", 7070, "v1", "10.0.0.3:15006");
    ratings.policy("routes.yaml", &yaml)
}

fn routes(http: &str) -> Vec<Value> {
    let seen = given_routes(http).seen_by(&node());
    seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080")
}

const ENTRY: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: books}
spec:
  hosts: [books.example]
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: reviews}}
";

/// Three services under [`scopes::SIDECAR`].
fn scoped() -> Given {
    let shop = reviews().instance("ratings", 7070, "v1", "10.0.0.3:15006");
    shop.instance("details", 9081, "v1", "10.0.0.4:15006")
        .policy("sidecar.yaml", scopes::SIDECAR)
}
