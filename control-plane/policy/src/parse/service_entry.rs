//! `ServiceEntry` and `WorkloadEntry`: services and instances that do not register themselves.
//! Source: Istio `networking/v1` ServiceEntry, WorkloadEntry.

use std::{collections::BTreeMap, net::IpAddr};

use super::{layer4::subnet, virtual_service::everywhere};
use crate::{
    At, Protocol, Resolution, ServiceEntry, ServicePort, Subnet, WorkloadEntry,
    decode::{
        Decoder, Fields, Item, Shape, at, dns_label, enumeration, filled_list, filled_text, host,
        integer32, ip_address, label_map, list, map, object_name, port, refuse_twice, text,
        unknown_word, workload_selector,
    },
    yaml::quoted,
};

pub(super) const SERVICE_ENTRY: Shape = Shape {
    what: "a ServiceEntry's spec",
    fields: &[
        "hosts",
        "addresses",
        "ports",
        "location",
        "resolution",
        "endpoints",
        "workloadSelector",
        "exportTo",
    ],
    not_yet: &["subjectAltNames"],
};

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<ServiceEntry> {
    let fields = Fields::open(d, item, &SERVICE_ENTRY)?;
    fields.optional(d, "exportTo", everywhere);
    let hosts = fields.required(d, "hosts", "the service's hosts", |d, item| {
        filled_list(d, item, |d, item| {
            at(d, item, |d, item| host(d, item, false))
        })
    });
    if let Some(hosts) = &hosts {
        let name = |host: &At<String>| (host.value.clone(), host.position.clone());
        refuse_twice(
            d,
            &fields,
            ("hosts", ""),
            hosts,
            name,
            "name each host once",
        );
    }
    let locations = [("MESH_EXTERNAL", false), ("MESH_INTERNAL", true)];
    let mesh_internal = fields.optional(d, "location", |d, item| {
        enumeration(d, item, "a location", &locations, &[])
    });
    let resolutions = [
        ("STATIC", Resolution::Static),
        ("NONE", Resolution::AsConnected),
    ];
    // Istio's default, which a document that lists endpoints never means: there it is refused below.
    let resolution = fields.optional(d, "resolution", |d, item| {
        let later = ["DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"];
        enumeration(d, item, "a resolution", &resolutions, &later)
    });
    let resolution = resolution.unwrap_or(Resolution::AsConnected);
    let addresses = fields.optional(d, "addresses", |d, item| {
        list(d, item, |d, item| at(d, item, address))
    });
    if let Some(addresses) = &addresses {
        let name = |one: &At<Subnet>| (one.value.to_string(), one.position.clone());
        refuse_twice(d, &fields, ("addresses", ""), addresses, name, "keep one");
    }
    if resolution == Resolution::AsConnected {
        let why = if fields.has("resolution") {
            "with resolution NONE connections go to the address that the application connected to; remove this, or write resolution: STATIC"
        } else {
            "without a resolution (NONE) connections go to the address that the application connected to; write resolution: STATIC"
        };
        fields.refuse_if_present(d, "endpoints", why);
        fields.refuse_if_present(d, "workloadSelector", why);
    }
    let ports = fields.required(d, "ports", "a list of ports", |d, item| {
        filled_list(d, item, |d, item| {
            at(d, item, |d, item| service_port(d, item, &SERVICE_PORT))
        })
    });
    if let Some(ports) = &ports {
        let number =
            |port: &At<ServicePort>| (port.value.number.to_string(), port.position.clone());
        refuse_twice(
            d,
            &fields,
            ("ports", ".number"),
            ports,
            number,
            "name each port once",
        );
        let name = |port: &At<ServicePort>| (port.value.name.clone(), port.position.clone());
        refuse_twice(
            d,
            &fields,
            ("ports", ".name"),
            ports,
            name,
            "name each port once",
        );
    }
    let unknown =
        |port: &At<ServicePort>| matches!(port.value.protocol, Protocol::Tcp | Protocol::Auto);
    if resolution == Resolution::AsConnected
        && addresses.as_ref().is_none_or(Vec::is_empty)
        && !fields.has("endpoints")
        && let Some(port) = ports.iter().flatten().find(|port| unknown(port))
    {
        let message = format!(
            "the port {} is bytes to us, which do not say whom they are for: with resolution NONE write the addresses of the service, or a protocol (HTTP, TLS) that says it",
            port.value.number
        );
        fields.refuse(d, "ports", message);
    }
    let endpoints = fields.optional(d, "endpoints", |d, item| {
        list(d, item, |d, item| workload(d, item, ports.as_deref()))
    });
    if let Some(endpoints) = &endpoints {
        let address = |entry: &WorkloadEntry| (endpoint_name(entry), entry.position.clone());
        refuse_twice(
            d,
            &fields,
            ("endpoints", ".address"),
            endpoints,
            address,
            "keep one",
        );
    }
    if fields.has("endpoints") {
        let message = "an entry has endpoints or a selector, not both; remove one";
        fields.refuse_if_present(d, "workloadSelector", message);
    }
    let workload_selector = workload_selector(d, &fields);
    Some(ServiceEntry {
        hosts: hosts?,
        addresses: addresses.unwrap_or_default(),
        resolution,
        ports: ports?.into_iter().map(|port| port.value).collect(),
        endpoints: endpoints.unwrap_or_default(),
        workload_selector,
        mesh_internal: mesh_internal.unwrap_or(false),
    })
}

/// An address that connections are redirected from, or a network of them.
fn address(d: &mut Decoder, item: Item<'_>) -> Option<Subnet> {
    let found = subnet(d, item)?;
    let fault = match found.address {
        IpAddr::V4(v4) if v4.is_unspecified() => "every address",
        IpAddr::V6(v6) if v6.is_unspecified() => "every address",
        address if address.is_loopback() => "of the calling host itself",
        address if address.is_multicast() => "of a group of hosts",
        _ => return Some(found),
    };
    let message = format!("found {found}, which is {fault}: a service has addresses of its own");
    d.refuse(item, message);
    None
}

/// Two endpoints may share an address if they listen on different ports.
fn endpoint_name(entry: &WorkloadEntry) -> String {
    let ports: Vec<String> = entry
        .ports
        .iter()
        .map(|(name, port)| format!("{name}:{port}"))
        .collect();
    [std::slice::from_ref(&entry.address.value), &ports]
        .concat()
        .join(" ")
}

pub(super) const SERVICE_PORT: Shape = Shape {
    what: "a port",
    fields: &["number", "name", "protocol", "targetPort"],
    not_yet: &[],
};

/// In upper case; read in any.
const PROTOCOLS: [(&str, Protocol); 9] = [
    ("HTTP", Protocol::Http),
    ("HTTP2", Protocol::Http2),
    ("GRPC", Protocol::Grpc),
    ("TCP", Protocol::Tcp),
    // Istio's Envoy knows more of these only in filters that are off by default: bytes, then.
    ("MONGO", Protocol::Tcp),
    ("REDIS", Protocol::Tcp),
    ("MYSQL", Protocol::Tcp),
    ("TLS", Protocol::Tls),
    // The application encrypts: only the server name can be seen.
    ("HTTPS", Protocol::Tls),
];
/// Istio's words for what is not carried.
const OTHER_PROTOCOLS: [&str; 3] = ["UDP", "GRPC-WEB", "HTTP_PROXY"];

pub(super) fn service_port(d: &mut Decoder, item: Item<'_>, shape: &Shape) -> Option<ServicePort> {
    let fields = Fields::open(d, item, shape)?;
    let number = fields.required(d, "number", "a port from 1 to 65535", port);
    let name = fields.required(d, "name", "the port's name", dns_label);
    let written = fields.has("protocol");
    let protocol = fields.optional(d, "protocol", protocol);
    let protocol = match (&name, written) {
        (_, true) => protocol,
        // As Kubernetes' ports do in Istio: the name says it, or the connections do.
        (Some(name), false) => Some(Protocol::of_port_name(name).unwrap_or(Protocol::Auto)),
        (None, false) => None,
    };
    let target_port = fields.optional(d, "targetPort", port);
    Some(ServicePort {
        number: number?,
        name: name?,
        protocol: protocol?,
        target_port,
    })
}

/// In any letter case, as Istio reads it.
fn protocol(d: &mut Decoder, item: Item<'_>) -> Option<Protocol> {
    let found = text(d, item)?;
    let upper = found.to_ascii_uppercase();
    let known = PROTOCOLS.iter().find(|(name, _)| *name == upper);
    if known.is_none() {
        let names = PROTOCOLS.map(|(name, _)| name);
        let message = if OTHER_PROTOCOLS.contains(&upper.as_str()) {
            let names = names.join(", ");
            format!("{found} is not supported yet; want a protocol: {names}")
        } else {
            unknown_word(&found, "a protocol", &names)
        };
        d.refuse(item, message);
    }
    known.map(|(_, protocol)| *protocol)
}

pub(super) const WORKLOAD: Shape = Shape {
    what: "a workload entry",
    fields: &[
        "address",
        "ports",
        "labels",
        "locality",
        "weight",
        "serviceAccount",
    ],
    not_yet: &["network"],
};

/// Envoy adds the weights of a cluster in 32 bits.
const HEAVIEST: u32 = 1_000_000;

/// An endpoint of a service with these `ports`, or a document of its own.
pub(super) fn workload(
    d: &mut Decoder,
    item: Item<'_>,
    ports: Option<&[At<ServicePort>]>,
) -> Option<WorkloadEntry> {
    let fields = Fields::open(d, item, &WORKLOAD)?;
    let address = fields.required_at(d, "address", "an IP address", ip_address);
    let numbers = fields.optional(d, "ports", |d, item| port_numbers(d, item, ports));
    let weight = fields.optional(d, "weight", |d, item| integer32(d, item, 1..=HEAVIEST));
    let locality = fields.optional(d, "locality", |d, item| {
        let text = filled_text(d, item)?;
        if text.split('/').count() > 3 || text.split('/').any(str::is_empty) {
            d.refuse(
                item,
                format!(
                    "found {}, want region, region/zone or region/zone/subzone",
                    quoted(&text)
                ),
            );
        }
        Some(text)
    });
    Some(WorkloadEntry {
        position: d.position(item),
        ports: numbers.unwrap_or_default(),
        labels: fields.optional(d, "labels", label_map).unwrap_or_default(),
        locality,
        weight: weight.unwrap_or(1),
        service_account: fields.optional(d, "serviceAccount", object_name),
        address: address?,
    })
}

fn port_numbers(
    d: &mut Decoder,
    item: Item<'_>,
    ports: Option<&[At<ServicePort>]>,
) -> Option<BTreeMap<String, u16>> {
    map(
        d,
        item,
        "names of ports and their numbers",
        |d, key, value| {
            if let Some(ports) = ports
                && !ports.iter().any(|port| port.value.name == key.text)
            {
                let names: Vec<&str> = ports.iter().map(|port| port.value.name.as_str()).collect();
                key.refuse(
                    d,
                    unknown_word(key.text, "the name of one of the ports", &names),
                );
            }
            Some((key.text.to_owned(), port(d, value)?))
        },
    )
}
