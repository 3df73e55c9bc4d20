//! `PeerAuthentication`: whether connections to a workload are mutual TLS.
//! Source: Istio `security/v1` PeerAuthentication and its validation.

use std::collections::BTreeMap;

use super::selector::selector;
use crate::{
    At, MtlsMode, PeerAuthentication,
    decode::{Decoder, Fields, Item, Shape, at, enumeration, map},
    yaml::quoted,
};

pub(super) const PEER_AUTHENTICATION: Shape = Shape {
    what: "a PeerAuthentication's spec",
    fields: &["selector", "mtls", "portLevelMtls"],
    not_yet: &[],
};
pub(super) const MTLS: Shape = Shape {
    what: "mtls",
    fields: &["mode"],
    not_yet: &[],
};

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<PeerAuthentication> {
    let fields = Fields::open(d, item, &PEER_AUTHENTICATION)?;
    let selector = selector(d, &fields);
    let mode = fields.optional(d, "mtls", mode_of).flatten();
    let ports = fields.optional(d, "portLevelMtls", |d, item| {
        map(d, item, "ports, each with a mode", |d, key, value| {
            let port = key.text.parse::<u16>().ok().filter(|port| *port > 0);
            let Some(port) = port else {
                let message = format!("found {}, want a port from 1 to 65535", quoted(key.text));
                key.refuse(d, message);
                return None;
            };
            Some((port.to_string(), (port, mode_of(d, value)?)))
        })
    });
    let ports: BTreeMap<u16, At<MtlsMode>> = ports
        .into_iter()
        .flat_map(BTreeMap::into_values)
        .filter_map(|(port, mode)| Some((port, mode?)))
        .collect();
    if selector.is_none() {
        let message = "has no effect without a selector, because a port is one of a workload; add the workload's labels";
        fields.refuse_if_present(d, "portLevelMtls", message);
    }
    Some(PeerAuthentication {
        selector,
        mode,
        ports,
    })
}

/// Inside: None = `UNSET`, or nothing.
#[expect(
    clippy::option_option,
    reason = "the outer one is a refusal, as everywhere here"
)]
fn mode_of(d: &mut Decoder, item: Item<'_>) -> Option<Option<At<MtlsMode>>> {
    let words = [
        ("STRICT", Some(MtlsMode::Strict)),
        ("PERMISSIVE", Some(MtlsMode::Permissive)),
        ("DISABLE", Some(MtlsMode::Disable)),
        ("UNSET", None),
    ];
    let fields = Fields::open(d, item, &MTLS)?;
    let mode = fields.optional(d, "mode", |d, item| {
        at(d, item, |d, item| {
            enumeration(d, item, "a mode", &words, &[])
        })
    });
    Some(mode.and_then(|At { value, position }| value.map(|value| At { value, position })))
}
