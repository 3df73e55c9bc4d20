//! Chains of a listener that others reach, as a control plane writes them for each mode of mutual TLS.

use outrigger_core::{Greeting, SnapshotBuilder};
use outrigger_proto::envoy::config::{core::v3 as core, listener::v3 as lds};
use prost_types::{Struct, Value, value};

use super::TLS_INSPECTOR;
use crate::xds::{
    convert::{
        Converted, fields,
        listener::{self, ParsedListener},
        unpack,
    },
    testing::{any, inbound},
};

fn take(message: &lds::Listener) -> Converted<ParsedListener> {
    let name = "envoy.config.listener.v3.Listener";
    let any = any(name, message);
    fields::check(&any)?;
    let mut builder = SnapshotBuilder::default();
    let mut slots = move |name: &str| builder.cluster_slot(name);
    listener::convert(&unpack(&any, name)?, &mut slots)
}

/// The mesh's own port, for everybody, with these matches; None = under TLS.
fn chains(inspected: bool, all: &[(&str, bool)]) -> lds::Listener {
    let mut message = inbound("virtualInbound");
    let Some(core::address::Address::SocketAddress(address)) =
        &mut message.address.as_mut().unwrap().address
    else {
        panic!();
    };
    address.address = "0.0.0.0".to_owned();
    let one = message.filter_chains.remove(0);
    message.filter_chains = all
        .iter()
        .map(|(transport, has_tls)| lds::FilterChain {
            filter_chain_match: Some(lds::FilterChainMatch {
                transport_protocol: (*transport).to_owned(),
                ..lds::FilterChainMatch::default()
            }),
            transport_socket: one.transport_socket.clone().filter(|_| *has_tls),
            ..one.clone()
        })
        .collect();
    if inspected {
        message.listener_filters = vec![lds::ListenerFilter {
            name: "envoy.filters.listener.tls_inspector".to_owned(),
            config_type: Some(lds::listener_filter::ConfigType::TypedConfig(
                prost_types::Any {
                    type_url: format!("type.googleapis.com/{TLS_INSPECTOR}"),
                    value: Vec::new(),
                },
            )),
            ..lds::ListenerFilter::default()
        }];
    }
    message
}

#[test]
fn each_mode_of_mutual_tls_has_its_chains() {
    let strict = take(&chains(false, &[("", true)])).unwrap();
    assert!(strict.lookup.is_none() && strict.chains[0].tls.is_some());
    let disabled = take(&chains(false, &[("raw_buffer", false)])).unwrap();
    assert!(disabled.lookup.is_none() && disabled.chains[0].tls.is_none());
    let permissive = take(&chains(true, &[("tls", true), ("raw_buffer", false)])).unwrap();
    assert!(permissive.lookup.is_some());
    assert!(permissive.chains[0].tls.is_some() && permissive.chains[1].tls.is_none());
}

#[test]
fn plain_text_from_others_has_to_be_asked_for() {
    for (inspected, all) in [
        (false, &[("", false)][..]),
        (true, &[("tls", true), ("", false)]),
        (true, &[("tls", false), ("raw_buffer", false)]),
    ] {
        let refused = take(&chains(inspected, all)).unwrap_err().to_string();
        assert!(refused.contains("transport_socket: missing"), "{refused}");
    }
}

#[test]
fn positions_of_policies_and_what_is_only_tried_are_read() {
    let text = |text: &str| Value {
        kind: Some(value::Kind::StringValue(text.to_owned())),
    };
    let of = |fields: Vec<(&str, Value)>| Struct {
        fields: fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    };
    let inside = |key: &str, fields| {
        let inner = Value {
            kind: Some(value::Kind::StructValue(of(fields))),
        };
        Some(core::Metadata {
            filter_metadata: [("outrigger".to_owned(), of(vec![(key, inner)]))].into(),
            ..core::Metadata::default()
        })
    };
    let mut message = chains(false, &[("", true)]);
    message.filter_chains[0].metadata = inside("policies", vec![("p", text("p.yaml:1:2"))]);
    let written = vec![("mtls", text("DISABLE")), ("position", text("m.yaml:3:4"))];
    message.metadata = inside("dry_run", written);
    let found = take(&message).unwrap();
    assert_eq!(
        found.chains[0].policies.of("p").unwrap().as_ref(),
        "p.yaml:1:2"
    );
    assert_eq!(found.chains[0].policies.of("q"), None);
    let dry_run = found.dry_run.unwrap();
    assert_eq!((dry_run.plain_text, dry_run.mutual_tls), (true, false));
    assert_eq!(dry_run.position.as_deref(), Some("m.yaml:3:4"));

    message.metadata = inside("dry_run", vec![("mtls", text("MAYBE"))]);
    let refused = take(&message).unwrap_err().to_string();
    assert!(refused.contains("\"MAYBE\"; must be STRICT"), "{refused}");
}

#[test]
fn bytes_lead_to_their_chain() {
    let message = chains(true, &[("raw_buffer", false), ("tls", true)]);
    let lookup = take(&message).unwrap().lookup.unwrap();
    let tls = Greeting {
        tls: true,
        ..Greeting::default()
    };
    assert_eq!(lookup.find(&Greeting::default()), Some(0));
    assert_eq!(lookup.find(&tls), Some(1));
}
