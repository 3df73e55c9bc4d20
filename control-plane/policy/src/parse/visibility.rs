//! For whom a document is: `gateways` and `exportTo`.

use std::collections::BTreeSet;

use crate::{
    ExportTo,
    decode::{Decoder, Item, dns_label, list, text},
    yaml::quoted,
};

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

/// `exportTo` of a document of `own`: namespaces, `.` (its own), `*` (all) or `~` (none).
pub(super) fn export_to(d: &mut Decoder, item: Item<'_>, own: &str) -> Option<ExportTo> {
    let mut only = BTreeSet::new();
    let mut alone = None;
    let count = list(d, item, |d, item| {
        match text(d, item)?.as_str() {
            "." => {
                only.insert(own.to_owned());
            }
            "*" => alone = Some(("*", ExportTo::All)),
            "~" => alone = Some(("~", ExportTo::Only(BTreeSet::new()))),
            _ => {
                only.insert(dns_label(d, item)?);
            }
        }
        Some(())
    })?
    .len();
    match alone {
        Some((word, _)) if count > 1 => {
            let message = format!("{} stands alone; remove it, or the others", quoted(word));
            d.refuse(item, message);
            None
        }
        Some((_, export_to)) => Some(export_to),
        None if count == 0 => Some(ExportTo::All),
        None => Some(ExportTo::Only(only)),
    }
}
