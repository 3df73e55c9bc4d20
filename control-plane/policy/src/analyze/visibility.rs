//! Documents that are for nobody: no namespace sees them, or no host is what they are for.

use super::finder::{Finder, listed};
use crate::{At, Code, ExportTo, Object, Spec};

pub(super) fn export_to<'a>(finder: &mut Finder<'a>, object: &'a Object, export_to: &ExportTo) {
    let ExportTo::Only(names) = export_to else {
        return;
    };
    if names.is_empty() {
        let message = "\"~\" is no namespace at all, so that the document is in force for nobody; write \".\" for its own, or \
                       delete it";
        finder.find(Code::ExportToNowhere, object, "spec.exportTo", message);
        return;
    }
    // Who only calls has no documents: without the sidecars that there are, a name says nothing.
    if !finder.knows_who_runs() {
        return;
    }
    let called_from = finder.clients().into_iter().flatten();
    let mut known = finder
        .mesh
        .namespaces()
        .chain(called_from.map(|client| client.namespace.as_str()));
    if !known.any(|known| names.contains(known)) {
        let message = format!(
            "no namespace {} has a document, a service or a sidecar, so that the document is in force for nobody; is it spelt \
             right?",
            listed(names)
        );
        finder.find(Code::ExportToNowhere, object, "spec.exportTo", message);
    }
}

/// `written` is a host that the document is for.
pub(super) fn host<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    written: &At<String>,
    path: &str,
) {
    let host = finder.host(object, written);
    let mesh = finder.mesh;
    if host.is_wildcard() {
        let mut known = mesh.known_hosts();
        if known.any(|known| known.wildcards().any(|wildcard| wildcard == host)) {
            return;
        }
        drop(known);
        if let Some(whole) = mesh.wildcard_of_namespace(host.as_str()) {
            let message = format!(
                "no host falls under {host}: a wildcard is compared with whole names; for the services of that namespace write \
                 {whole}"
            );
            finder.find(Code::WildcardOfNothing, object, path, message);
        } else if finder.knows_who_runs() && matches!(object.spec, Spec::DestinationRule(_)) {
            let message = format!(
                "no host falls under {host}: nobody has registered one, and no ServiceEntry names one; is it spelt right?"
            );
            finder.find(Code::WildcardOfNothing, object, path, message);
        }
        return;
    }
    if mesh.knows(&host) || !matches!(object.spec, Spec::VirtualService(_)) {
        return;
    }
    if let Some(near) = mesh.served_like(&host) {
        let message = format!(
            "nobody serves {host}, so that these rules make a second name that can be called, on port 80; did you mean {near}?"
        );
        finder.find(Code::HostMisspelt, object, path, message);
    }
}
