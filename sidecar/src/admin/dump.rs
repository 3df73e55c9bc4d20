//! `/config_dump`: what the control plane sent, what is in force, and what was refused and why; in the JSON shape of
//! `envoy.service.status.v3.ClientConfig`. Private keys cannot be in it: none is ever accepted from a server.

use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use prost_types::{Any, Timestamp};
use serde_json::{Value, json};

use super::{Page, Query, Site, json as json_page};
use crate::xds::{
    client::lock,
    convert::fields::{self, POOL},
    engine::Engine,
    state::{Entry, Kind},
};

pub(super) fn show(site: &Site, query: Query<'_>) -> Page {
    let kind = query.value("resource").map(str::to_ascii_lowercase);
    let part = query.value("name").unwrap_or_default();
    let Some(engine) = site.engine.get() else {
        return json_page(&json!({ "generic_xds_configs": [] }));
    };
    // Copied under the lock, written without it.
    let (node, entries, warming) = {
        let engine = lock(engine);
        (
            engine.node().clone(),
            entries(&engine, kind.as_deref(), part),
            engine.warming(),
        )
    };
    let resources: Vec<Value> = entries
        .iter()
        .map(|(kind, name, entry)| resource(*kind, name, entry))
        .collect();
    let node = message(
        "envoy.config.core.v3.Node",
        &prost::Message::encode_to_vec(&node),
    );
    json_page(&json!({
        "node": node,
        "generic_xds_configs": resources,
        "warming": warming,
    }))
}

fn entries(engine: &Engine, kind: Option<&str>, part: &str) -> Vec<(Kind, String, Entry)> {
    let mut found = Vec::new();
    for candidate in Kind::ALL {
        if kind.is_some_and(|kind| !is_called(candidate, kind)) {
            continue;
        }
        let named = engine
            .state(candidate)
            .entries()
            .iter()
            .filter(|(name, _)| name.contains(part));
        found.extend(named.map(|(name, entry)| (candidate, name.clone(), entry.clone())));
    }
    found
}

fn is_called(kind: Kind, word: &str) -> bool {
    if kind == Kind::VirtualHost {
        return matches!(word.trim_end_matches('s'), "virtual_host" | "virtualhost");
    }
    let name = match kind {
        Kind::Cluster => "cluster",
        Kind::Endpoint => "endpoint",
        Kind::Listener => "listener",
        Kind::Route | Kind::VirtualHost => "route",
        Kind::Secret => "secret",
        Kind::NameTable => "name_table",
    };
    word.trim_end_matches('s') == name
}

fn resource(kind: Kind, name: &str, entry: &Entry) -> Value {
    let mut shown = json!({
        "type_url": kind.type_url(),
        "name": name,
        "version_info": entry.version,
        "client_status": entry.status.name(),
        "last_updated": Timestamp::from(entry.updated).to_string(),
    });
    if let Some(any) = &entry.accepted {
        shown["xds_config"] = resource_json(any);
    }
    if let Some(refusal) = &entry.refusal {
        shown["error_state"] = json!({
            "details": refusal.details,
            "version_info": refusal.version,
            "last_update_attempt": Timestamp::from(refusal.at).to_string(),
        });
    }
    shown
}

fn resource_json(any: &Any) -> Value {
    let mut shown = message(fields::type_name(&any.type_url), &any.value);
    if let Value::Object(shown) = &mut shown {
        shown.insert("@type".to_owned(), json!(any.type_url));
    }
    shown
}

fn message(name: &str, bytes: &[u8]) -> Value {
    let shown = POOL
        .get_message_by_name(name)
        .ok_or_else(|| format!("{name} is unknown"))
        .and_then(|descriptor| serialize(descriptor, bytes));
    shown.unwrap_or_else(|error| json!({ "error": error }))
}

fn serialize(descriptor: MessageDescriptor, bytes: &[u8]) -> Result<Value, String> {
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|error| error.to_string())?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| error.to_string())
}
