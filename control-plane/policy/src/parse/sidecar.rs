//! `Sidecar`: what the selected workloads may call, and on which local ports.
//! Source: Istio `networking/v1` Sidecar.

use std::net::IpAddr;

use super::service_entry::service_port;
use crate::{
    At, CaptureMode, EgressHost, EgressListener, OutboundTrafficPolicy, Position, Protocol,
    Sidecar,
    decode::{
        Decoder, Fields, Item, Shape, at, dns_fault, enumeration, filled_list, filled_text,
        ip_address, refuse_twice, workload_selector,
    },
    yaml::quoted,
};

pub(super) const SIDECAR: Shape = Shape {
    what: "a Sidecar's spec",
    fields: &["workloadSelector", "egress", "outboundTrafficPolicy"],
    not_yet: &["ingress", "inboundConnectionPool"],
};
pub(super) const POLICY: Shape = Shape {
    what: "an outbound traffic policy",
    fields: &["mode"],
    not_yet: &["egressProxy"],
};

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<Sidecar> {
    let fields = Fields::open(d, item, &SIDECAR)?;
    let modes = [
        ("REGISTRY_ONLY", OutboundTrafficPolicy::RegistryOnly),
        ("ALLOW_ANY", OutboundTrafficPolicy::AllowAny),
    ];
    let outbound_traffic_policy = fields.optional(d, "outboundTrafficPolicy", |d, item| {
        let fields = Fields::open(d, item, &POLICY)?;
        // Istio: REGISTRY_ONLY is the first of the words, and so what a policy without one means.
        let mode = fields.optional(d, "mode", |d, item| {
            enumeration(d, item, "a mode", &modes, &[])
        });
        Some(mode.unwrap_or(OutboundTrafficPolicy::RegistryOnly))
    });
    let workload_selector = workload_selector(d, &fields);
    let egress = fields.required(d, "egress", "a list of egress listeners", |d, item| {
        filled_list(d, item, listener)
    })?;
    let port = |listener: &EgressListener| {
        let name = listener.port.as_ref().map_or_else(
            || "the listener without a port".to_owned(),
            |port| port.number.to_string(),
        );
        (name, listener.position.clone())
    };
    refuse_twice(
        d,
        &fields,
        ("egress", ".port"),
        &egress,
        port,
        "put their hosts together",
    );
    Some(Sidecar {
        workload_selector,
        egress,
        outbound_traffic_policy,
    })
}

pub(super) const LISTENER: Shape = Shape {
    what: "an egress listener",
    fields: &["port", "bind", "hosts", "captureMode"],
    not_yet: &[],
};
pub(super) const PORT: Shape = Shape {
    what: "a listener's port",
    fields: &["number", "name", "protocol"],
    not_yet: &["targetPort"],
};

fn listener(d: &mut Decoder, item: Item<'_>) -> Option<EgressListener> {
    let fields = Fields::open(d, item, &LISTENER)?;
    let port = fields.optional(d, "port", |d, item| service_port(d, item, &PORT));
    let bind = fields.optional(d, "bind", loopback);
    if !fields.has("port") {
        fields.refuse_if_present(
            d,
            "bind",
            "has no effect without a port; add one, or remove it",
        );
    }
    let capture_mode = fields.optional(d, "captureMode", |d, item| {
        let words = [
            ("DEFAULT", CaptureMode::Default),
            ("IPTABLES", CaptureMode::Redirected),
            ("NONE", CaptureMode::Bound),
        ];
        // Without a port there is none to bind.
        let (words, later) = if fields.has("port") {
            (&words[..], &[][..])
        } else {
            (&words[..2], &["NONE"][..])
        };
        enumeration(d, item, "a capture mode", words, later)
    });
    if capture_mode == Some(CaptureMode::Redirected) {
        fields.refuse_if_present(
            d,
            "bind",
            "has no effect with captureMode IPTABLES: connections to a port of loopback are not redirected; remove it, or write captureMode: NONE",
        );
    }
    let hosts = fields.required(d, "hosts", "a list of namespace/host", |d, item| {
        filled_list(d, item, |d, item| at(d, item, egress_host))
    })?;
    let name = |host: &At<EgressHost>| -> (String, Position) {
        let text = format!("{}/{}", host.value.namespace, host.value.host);
        (text, host.position.clone())
    };
    refuse_twice(d, &fields, ("hosts", ""), &hosts, name, "name each once");
    if port
        .as_ref()
        .is_some_and(|port| port.protocol == Protocol::Tcp)
    {
        one_service(d, &fields, &hosts);
    }
    Some(EgressListener {
        position: d.position(item),
        port,
        bind,
        capture_mode: capture_mode.unwrap_or_default(),
        hosts,
    })
}

/// Bytes do not say whom they are for: such a port leads to one service, which has to be named.
fn one_service(d: &mut Decoder, fields: &Fields<'_>, hosts: &[At<EgressHost>]) {
    let many = |host: &str| host.starts_with('*');
    let message = match hosts {
        [one] if !many(&one.value.host) => return,
        [one] => format!(
            "found {}; a TCP connection does not say which host it is for: name the one that this port leads to, or give the port protocol TLS, whose server name says it",
            quoted(&one.value.host)
        ),
        hosts => format!(
            "found {} hosts; a TCP connection does not say which one it is for: name one, give each host a port of its own, or give the port protocol TLS, whose server name says it",
            hosts.len()
        ),
    };
    fields.refuse(d, "hosts", message);
}

/// The address that a listener for the workload itself is bound to.
fn loopback(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let text = ip_address(d, item)?;
    if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        return Some(text);
    }
    let message = format!(
        "found {}; others could call with this workload's identity: an address that is not loopback is not supported yet, want 127.0.0.1 or ::1",
        quoted(&text)
    );
    d.refuse(item, message);
    None
}

fn egress_host(d: &mut Decoder, item: Item<'_>) -> Option<EgressHost> {
    let text = filled_text(d, item)?;
    let fault = match text.split_once('/') {
        None => Some("want namespace/host, such as ./orders or */orders.example.com".to_owned()),
        Some((namespace, host)) => {
            namespace_fault(namespace).or_else(|| host_fault(namespace, host))
        }
    };
    if let Some(fault) = fault {
        d.refuse(item, format!("found {}: {fault}", quoted(&text)));
        return None;
    }
    let (namespace, host) = text.split_once('/')?;
    Some(EgressHost {
        namespace: namespace.to_owned(),
        host: host.to_owned(),
    })
}

fn namespace_fault(namespace: &str) -> Option<String> {
    if matches!(namespace, "*" | "." | "~") {
        return None;
    }
    if namespace.is_empty() || namespace.contains('.') {
        return Some("want a namespace, *, . or ~ before the /".to_owned());
    }
    dns_fault(namespace)
}

fn host_fault(namespace: &str, host: &str) -> Option<String> {
    if host == "*" {
        return None;
    }
    if let Some(suffix) = host.strip_prefix("*.") {
        return dns_fault(suffix);
    }
    if namespace == "*" && !host.contains('.') {
        return Some("a short host needs a namespace; write its full name, or ./host".to_owned());
    }
    dns_fault(host)
}
