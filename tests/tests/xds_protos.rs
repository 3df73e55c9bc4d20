//! `proto/api` is a subset of the public xDS API, written out again: this holds it against the
//! descriptors that PyPI's `xds-protos` publishes. Whatever we have, they must have, equal in name,
//! number, type, label, oneof and nesting; what they have beyond it does not matter.
//!
//! Needs the virtual environment made by `.ci/setup`; without it the comparison is skipped, loudly,
//! except under `CI=true`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{self, Write as _},
    path::Path,
    process::Command,
};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, field_descriptor_proto::Label, field_descriptor_proto::Type,
};

/// Not in `xds-protos`: ours, Istio's certificate service and names, and SPIFFE's Workload API, which has no package.
const ELSEWHERE: [&str; 4] = [
    "outrigger.v1",
    "istio.v1.auth",
    "istio.networking.nds.v1",
    "",
];

#[test]
fn every_xds_message_is_the_published_one() {
    let Some(public) = public_descriptors() else {
        return;
    };
    let ours = facts(&own_descriptors());
    let public = facts(&public);
    assert!(ours.len() > 2_000, "only {} facts in our files", ours.len());

    let differences: Vec<String> = ours
        .iter()
        .filter(|(what, fact)| public.get(*what) != Some(fact))
        .map(|(what, fact)| match public.get(what) {
            Some(theirs) => format!("{what}: ours is `{fact}`, the public one `{theirs}`"),
            None => format!("{what}: `{fact}` is not public"),
        })
        .collect();
    assert!(
        differences.is_empty(),
        "{} of {} facts differ:\n{}",
        differences.len(),
        ours.len(),
        differences.join("\n")
    );
}

#[test]
fn the_services_of_every_resource_type_are_there() {
    let ours = facts(&own_descriptors());
    let rpcs: BTreeSet<&str> = ours
        .keys()
        .filter_map(|key| key.strip_prefix("rpc envoy.service."))
        .collect();
    for wanted in [
        "discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        "discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        "listener.v3.ListenerDiscoveryService/DeltaListeners",
        "route.v3.RouteDiscoveryService/DeltaRoutes",
        "route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
        "cluster.v3.ClusterDiscoveryService/DeltaClusters",
        "endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        "secret.v3.SecretDiscoveryService/DeltaSecrets",
        "status.v3.ClientStatusDiscoveryService/FetchClientStatus",
        "load_stats.v3.LoadReportingService/StreamLoadStats",
    ] {
        assert!(rpcs.contains(wanted), "no {wanted} in {rpcs:#?}");
    }
}

#[test]
fn a_changed_field_is_noticed() {
    let mut files = own_descriptors();
    let before = facts(&files);
    let message = files
        .file
        .iter_mut()
        .flat_map(|file| &mut file.message_type)
        .find(|message| message.name() == "DeltaDiscoveryRequest")
        .expect("a delta request");
    message.field[1].number = Some(99);
    let after = facts(&files);
    assert_ne!(before, after);
}

/// One line for each thing that peers can see: what it is → how it is.
fn facts(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for file in &set.file {
        let package = file.package();
        if package.starts_with("google.protobuf") || ELSEWHERE.contains(&package) {
            continue;
        }
        for message in &file.message_type {
            message_facts(package, message, &mut facts);
        }
        for r#enum in &file.enum_type {
            enum_facts(package, r#enum, &mut facts);
        }
        service_facts(file, &mut facts);
    }
    facts
}

fn message_facts(scope: &str, message: &DescriptorProto, facts: &mut BTreeMap<String, String>) {
    let name = format!("{scope}.{}", message.name());
    let map = message
        .options
        .as_ref()
        .is_some_and(prost_types::MessageOptions::map_entry);
    let kind = if map { "map entry" } else { "message" };
    facts.insert(format!("message {name}"), kind.to_owned());
    for field in &message.field {
        facts.insert(
            format!("field {name} = {}", field.number()),
            field_fact(message, field),
        );
    }
    for nested in &message.nested_type {
        message_facts(&name, nested, facts);
    }
    for r#enum in &message.enum_type {
        enum_facts(&name, r#enum, facts);
    }
}

fn field_fact(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated ",
        Label::Required => "required ",
        Label::Optional if field.proto3_optional() => "optional ",
        Label::Optional => "",
    };
    let r#type = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().to_owned(),
        scalar => scalar.as_str_name().to_owned(),
    };
    let oneof = field
        .oneof_index
        .and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?))
        .map(|oneof| format!(" (oneof {})", oneof.name()))
        .unwrap_or_default();
    format!("{label}{} {}{oneof}", r#type, field.name())
}

fn enum_facts(scope: &str, r#enum: &EnumDescriptorProto, facts: &mut BTreeMap<String, String>) {
    let name = format!("{scope}.{}", r#enum.name());
    facts.insert(format!("enum {name}"), "enum".to_owned());
    for value in &r#enum.value {
        // By name: an alias shares its number.
        facts.insert(
            format!("enum {name}.{}", value.name()),
            value.number().to_string(),
        );
    }
}

fn service_facts(file: &FileDescriptorProto, facts: &mut BTreeMap<String, String>) {
    let stream = |yes| if yes { "stream " } else { "" };
    for service in &file.service {
        for rpc in &service.method {
            facts.insert(
                format!("rpc {}.{}/{}", file.package(), service.name(), rpc.name()),
                format!(
                    "({}{}) -> {}{}",
                    stream(rpc.client_streaming()),
                    rpc.input_type(),
                    stream(rpc.server_streaming()),
                    rpc.output_type()
                ),
            );
        }
    }
}

fn own_descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(outrigger_proto::DESCRIPTORS).expect("our own descriptors")
}

/// None = there is no virtual environment and nobody insists.
fn public_descriptors() -> Option<FileDescriptorSet> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = here.join(".venv/bin/python");
    if !python.exists() {
        assert!(
            env::var("CI").as_deref() != Ok("true"),
            "{} is missing; run .ci/setup",
            python.display()
        );
        // Not `eprintln!`: the test harness would swallow it.
        io::stderr()
            .write_all(b"SKIPPED: comparison with the public xDS descriptors; run .ci/setup\n")
            .expect("standard error");
        return None;
    }
    let output = Command::new(&python)
        .arg(here.join("tools/xds_protos.py"))
        .output()
        .expect("python starts");
    assert!(
        output.status.success(),
        "tools/xds_protos.py: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let public = FileDescriptorSet::decode(output.stdout.as_slice()).expect("a descriptor set");
    assert!(
        public.file.len() > 500,
        "only {} public files",
        public.file.len()
    );
    Some(public)
}
