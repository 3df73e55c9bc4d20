//! `VirtualService`: its hosts and its list of rules. A rule is read in `http_route`.
//! Source: Istio `networking/v1` VirtualService.

use super::http_route;
use crate::{
    VirtualService,
    decode::{Decoder, Fields, Item, Shape, at, filled_list, host, list, refuse_twice, text},
    yaml::quoted,
};

pub(super) const VIRTUAL_SERVICE: Shape = Shape {
    what: "a VirtualService's spec",
    fields: &["hosts", "http", "gateways", "exportTo"],
    not_yet: &["tls", "tcp"],
};

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<VirtualService> {
    let fields = Fields::open(d, item, &VIRTUAL_SERVICE)?;
    let hosts = fields.required(d, "hosts", "the hosts that the rules are for", |d, item| {
        filled_list(d, item, |d, item| {
            at(d, item, |d, item| host(d, item, true))
        })
    });
    if let Some(hosts) = &hosts {
        let name = |host: &crate::At<String>| (host.value.clone(), host.position.clone());
        refuse_twice(
            d,
            &fields,
            ("hosts", ""),
            hosts,
            name,
            "name each host once",
        );
    }
    fields.optional(d, "gateways", mesh_only);
    fields.optional(d, "exportTo", everywhere);
    let http = fields.required(d, "http", "a list of rules", |d, item| {
        filled_list(d, item, http_route::decode)
    });
    Some(VirtualService {
        hosts: hosts?,
        export_to: crate::ExportTo::All,
        http: http?,
        tls: Vec::new(),
        tcp: Vec::new(),
    })
}

/// `gateways`: the reserved word `mesh`, which is also what an absent list means.
pub(super) fn mesh_only(d: &mut Decoder, item: Item<'_>) -> Option<()> {
    list(d, item, |d, item| {
        let name = text(d, item)?;
        if name != "mesh" {
            let message = format!(
                "the gateway {} is not supported yet; want mesh, or no gateways",
                quoted(&name)
            );
            d.refuse(item, message);
        }
        Some(())
    })
    .map(|_| ())
}

/// `exportTo`: everywhere, which is also what an absent list means.
pub(super) fn everywhere(d: &mut Decoder, item: Item<'_>) -> Option<()> {
    list(d, item, |d, item| {
        let namespace = text(d, item)?;
        if namespace != "*" {
            let message = format!(
                "{} is not supported yet; want \"*\", or no exportTo",
                quoted(&namespace)
            );
            d.refuse(item, message);
        }
        Some(())
    })
    .map(|_| ())
}
