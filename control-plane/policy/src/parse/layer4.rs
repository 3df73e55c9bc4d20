//! `tls` and `tcp` rules: connections by server name, address and port.
//! Source: Istio `networking/v1` TLSRoute, TCPRoute and their validation.

use super::{destination::of_connections, http_match::source_labels, visibility::mesh_only};
use crate::{
    At, ConnectionMatch, Subnet, TcpRoute, TlsMatch, TlsRoute,
    decode::{
        Decoder, Fields, Item, Shape, at, dns_label, filled_list, filled_text, host, list, port,
    },
    yaml::quoted,
};

pub(super) const ROUTE: Shape = Shape {
    what: "a rule",
    fields: &["match", "route"],
    not_yet: &[],
};
pub(super) const TLS_MATCH: Shape = Shape {
    what: "a match",
    fields: &[
        "sniHosts",
        "destinationSubnets",
        "port",
        "sourceLabels",
        "sourceNamespace",
        "gateways",
    ],
    not_yet: &[],
};
pub(super) const TCP_MATCH: Shape = Shape {
    what: "a match",
    fields: &[
        "destinationSubnets",
        "port",
        "sourceLabels",
        "sourceNamespace",
        "gateways",
    ],
    not_yet: &["sourceSubnet"],
};

pub(super) fn tls(d: &mut Decoder, item: Item<'_>, hosts: &[At<String>]) -> Option<TlsRoute> {
    let fields = Fields::open(d, item, &ROUTE)?;
    let matches = fields.required(d, "match", "which server names", |d, item| {
        filled_list(d, item, |d, item| tls_match(d, item, hosts))
    });
    let route = fields.required(d, "route", "where connections go", of_connections);
    Some(TlsRoute {
        position: d.position(item),
        matches: matches?,
        route: route?,
    })
}

fn tls_match(d: &mut Decoder, item: Item<'_>, hosts: &[At<String>]) -> Option<TlsMatch> {
    let fields = Fields::open(d, item, &TLS_MATCH)?;
    let common = connection(d, &fields);
    let sni_hosts = fields.required(d, "sniHosts", "server names", |d, item| {
        filled_list(d, item, |d, item| {
            let name = at(d, item, |d, item| host(d, item, true))?;
            if !hosts.is_empty() && !hosts.iter().any(|host| covers(&host.value, &name.value)) {
                let message = format!(
                    "found {}, which is under none of the document's hosts; add it to them",
                    quoted(&name.value)
                );
                d.refuse(item, message);
            }
            Some(name)
        })
    });
    Some(TlsMatch {
        sni_hosts: sni_hosts?,
        common,
    })
}

/// Whether a server name falls under a host as it is written: equal, below its wildcard, or its longer form.
fn covers(host: &str, name: &str) -> bool {
    let (host, name) = (host.to_ascii_lowercase(), name.to_ascii_lowercase());
    let (host, name) = (host.trim_end_matches('.'), name.trim_end_matches('.'));
    match host.strip_prefix('*') {
        Some(suffix) => name.trim_start_matches('*').ends_with(suffix),
        None => {
            let longer = name.strip_prefix(host);
            longer
                .is_some_and(|rest| rest.is_empty() || !host.contains('.') && rest.starts_with('.'))
        }
    }
}

pub(super) fn tcp(d: &mut Decoder, item: Item<'_>) -> Option<TcpRoute> {
    let fields = Fields::open(d, item, &ROUTE)?;
    let matches = fields.optional(d, "match", |d, item| {
        filled_list(d, item, |d, item| {
            let fields = Fields::open(d, item, &TCP_MATCH)?;
            Some(connection(d, &fields))
        })
    });
    let route = fields.required(d, "route", "where connections go", of_connections);
    Some(TcpRoute {
        position: d.position(item),
        matches: matches.unwrap_or_default(),
        route: route?,
    })
}

/// What both kinds of match have.
fn connection(d: &mut Decoder, fields: &Fields<'_>) -> ConnectionMatch {
    fields.optional(d, "gateways", mesh_only);
    ConnectionMatch {
        destination_subnets: fields
            .optional(d, "destinationSubnets", |d, item| list(d, item, subnet))
            .unwrap_or_default(),
        port: fields.optional(d, "port", port),
        source_labels: source_labels(d, fields),
        source_namespace: fields.optional(d, "sourceNamespace", dns_label),
    }
}

/// `10.1.2.3` or `10.1.0.0/16`.
pub(super) fn subnet(d: &mut Decoder, item: Item<'_>) -> Option<Subnet> {
    let found = filled_text(d, item)?;
    let parsed = found.parse::<Subnet>();
    parsed
        .map_err(|want| d.refuse(item, format!("found {}, {want}", quoted(&found))))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_server_name_falls_under_a_host() {
        for (host, name, expected) in [
            ("db", "db", true),
            ("DB.", "db.shop.svc.cluster.local", true),
            ("db", "db2", false),
            ("db.example.com", "db.example.com", true),
            ("db.example.com", "db.example.com.evil", false),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "*.db.example.com", true),
            ("*.example.com", "example.com", false),
            ("db.example.com", "*.example.com", false),
        ] {
            assert_eq!(covers(host, name), expected, "{host} {name}");
        }
    }
}
