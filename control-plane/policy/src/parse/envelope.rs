//! What all kinds share: `apiVersion`, `kind`, `metadata`; and which decoder reads `spec`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    authorization_policy, destination_policy, destination_rule, extension_provider,
    peer_authentication, request_authentication, service_entry, sidecar, virtual_service,
};
use crate::{
    Kind, Object, ObjectKey, Position, Spec,
    decode::{
        Decoder, Fields, Item, Key, Shape, dns_label, label_key_fault, label_map, map, object_name,
        text, unknown_word,
    },
    mesh::{DRY_RUN, ISTIO_DRY_RUN},
    suggest::nearest,
    yaml::quoted,
};

pub(super) const DOCUMENT: Shape = Shape {
    what: "a document",
    fields: &["apiVersion", "kind", "metadata", "spec", "status"],
    not_yet: &[],
};

/// Behind `name` to `annotations`, what a server adds when a document is read back from it. It says
/// nothing about policy, so it is let through and kept in the document's text.
pub(super) const METADATA: Shape = Shape {
    what: "metadata",
    fields: &[
        "name",
        "namespace",
        "labels",
        "annotations",
        "resourceVersion",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "managedFields",
        "selfLink",
        "ownerReferences",
        "finalizers",
    ],
    not_yet: &["generateName"],
};

const ISTIO: [&str; 3] = [
    "networking.istio.io/v1",
    "networking.istio.io/v1beta1",
    "networking.istio.io/v1alpha3",
];
const ISTIO_SECURITY: [&str; 2] = ["security.istio.io/v1", "security.istio.io/v1beta1"];
const OURS: [&str; 1] = ["outrigger.dev/v1"];

const fn api_versions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::DestinationPolicy | Kind::ExtensionProvider => &OURS,
        Kind::PeerAuthentication | Kind::AuthorizationPolicy | Kind::RequestAuthentication => {
            &ISTIO_SECURITY
        }
        Kind::VirtualService
        | Kind::DestinationRule
        | Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::Sidecar => &ISTIO,
    }
}

/// Kinds that operators of Istio and Kubernetes have in the same files.
const OTHER_KINDS: [&str; 39] = [
    "BackendTLSPolicy",
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "CronJob",
    "CustomResourceDefinition",
    "DaemonSet",
    "Deployment",
    "EndpointSlice",
    "Endpoints",
    "EnvoyFilter",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "HTTPRoute",
    "HorizontalPodAutoscaler",
    "Ingress",
    "IstioOperator",
    "Job",
    "List",
    "Namespace",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "Pod",
    "PodDisruptionBudget",
    "ProxyConfig",
    "ReferenceGrant",
    "ReplicaSet",
    "Role",
    "RoleBinding",
    "Secret",
    "Service",
    "ServiceAccount",
    "StatefulSet",
    "TCPRoute",
    "TLSRoute",
    "Telemetry",
    "WasmPlugin",
    "WorkloadGroup",
];

/// A document whose kind is known. Its name may be missing, which has been reported.
pub(super) struct Header<'a> {
    fields: Fields<'a>,
    kind: Kind,
    api_version: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    pub(super) key: Option<ObjectKey>,
}

/// Reads everything but `spec`. None where nothing can be said about the rest.
pub(super) fn header<'a>(
    d: &mut Decoder,
    root: Item<'a>,
    default_namespace: &str,
) -> Option<Header<'a>> {
    // The kind before the fields: the fields of another kind are none of our business.
    let kind = Fields::peek(root)
        .map(|fields| fields.required(d, "kind", &listed_kinds(), kind))
        .unwrap_or_default();
    if kind.is_none() && Fields::peek(root).is_some() {
        return None;
    }
    let fields = Fields::open(d, root, &DOCUMENT)?;
    let kind = kind?;
    let known = api_versions(kind);
    let want = match known {
        [one] => (*one).to_owned(),
        several => format!("one of {}", several.join(", ")),
    };
    let api_version = fields.required(d, "apiVersion", &want, |d, item| {
        let found = text(d, item)?;
        if known.contains(&found.as_str()) {
            return Some(found);
        }
        d.refuse(
            item,
            unknown_word(
                &found,
                &format!("the API version of {}", kind.as_str()),
                known,
            ),
        );
        None
    });
    let metadata = fields.required(d, "metadata", "a mapping with a name", |d, item| {
        metadata(d, item, kind, default_namespace)
    });
    let (key, labels, annotations) = metadata.unwrap_or_default();
    Some(Header {
        fields,
        kind,
        api_version,
        labels,
        annotations,
        key,
    })
}

/// Reads `spec` and puts the object together.
pub(super) fn object(
    d: &mut Decoder,
    root: Item<'_>,
    header: Header<'_>,
    yaml: Arc<str>,
    text_position: Position,
) -> Option<Object> {
    let want = format!("what the {} says", header.kind.as_str());
    let key = header.key.as_ref();
    let namespace = key.map_or("", |key| key.namespace.as_str());
    let spec = header
        .fields
        .required(d, "spec", &want, |d, item| match header.kind {
            Kind::VirtualService => {
                virtual_service::decode(d, item, namespace).map(Spec::VirtualService)
            }
            Kind::DestinationRule => {
                destination_rule::decode(d, item, namespace).map(Spec::DestinationRule)
            }
            Kind::DestinationPolicy => {
                destination_policy::decode(d, item).map(Spec::DestinationPolicy)
            }
            Kind::ServiceEntry => service_entry::decode(d, item).map(Spec::ServiceEntry),
            Kind::WorkloadEntry => service_entry::workload(d, item, None).map(Spec::WorkloadEntry),
            Kind::Sidecar => sidecar::decode(d, item).map(Spec::Sidecar),
            Kind::PeerAuthentication => {
                peer_authentication::decode(d, item).map(Spec::PeerAuthentication)
            }
            Kind::AuthorizationPolicy => {
                authorization_policy::decode(d, item, namespace).map(Spec::AuthorizationPolicy)
            }
            Kind::ExtensionProvider => {
                extension_provider::decode(d, item).map(Spec::ExtensionProvider)
            }
            Kind::RequestAuthentication => {
                request_authentication::decode(d, item).map(Spec::RequestAuthentication)
            }
        });
    Some(Object {
        key: header.key?,
        api_version: header.api_version?,
        labels: header.labels,
        annotations: header.annotations,
        position: d.position(root),
        text_position,
        yaml,
        spec: spec?,
    })
}

fn kind(d: &mut Decoder, item: Item<'_>) -> Option<Kind> {
    let found = text(d, item)?;
    if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == found) {
        return Some(kind);
    }
    let message = if found == "List" {
        "kind List is not supported yet; put its items one after the other, with --- between them"
            .to_owned()
    } else if OTHER_KINDS.contains(&found.as_str()) {
        format!(
            "kind {found} is not supported yet; supported: {}",
            listed_kinds()
        )
    } else {
        let known = Kind::ALL.into_iter().map(Kind::as_str).chain(OTHER_KINDS);
        match nearest(&found, known) {
            Some(near) => format!("found {}; did you mean {near:?}?", quoted(&found)),
            None => format!(
                "kind {} is unknown; supported: {}",
                quoted(&found),
                listed_kinds()
            ),
        }
    };
    d.refuse(item, message);
    None
}

fn listed_kinds() -> String {
    Kind::ALL.map(Kind::as_str).join(", ")
}

type Metadata = (
    Option<ObjectKey>,
    BTreeMap<String, String>,
    BTreeMap<String, String>,
);

fn metadata(
    d: &mut Decoder,
    item: Item<'_>,
    kind: Kind,
    default_namespace: &str,
) -> Option<Metadata> {
    let fields = Fields::open(d, item, &METADATA)?;
    let name = fields.required(d, "name", "the document's name", object_name);
    let namespace = if fields.has("namespace") {
        fields.optional(d, "namespace", dns_label)
    } else {
        Some(default_namespace.to_owned())
    };
    let labels = fields.optional(d, "labels", label_map).unwrap_or_default();
    let annotations = fields.optional(d, "annotations", |d, item| {
        map(
            d,
            item,
            "annotations: a mapping of texts",
            |d, key, value| {
                if let Some(fault) = label_key_fault(key.text) {
                    key.refuse(d, format!("{} is no annotation: {fault}", quoted(key.text)));
                }
                let found = text(d, value)?;
                dry_run(d, kind, key, value, &found);
                Some((key.text.to_owned(), found))
            },
        )
    });
    let key = name.zip(namespace).map(|(name, namespace)| ObjectKey {
        kind,
        namespace,
        name,
    });
    Some((key, labels, annotations.unwrap_or_default()))
}

/// Refuses an annotation for dry runs that would not make one.
fn dry_run(d: &mut Decoder, kind: Kind, key: Key<'_>, value: Item<'_>, found: &str) {
    let can = matches!(
        kind,
        Kind::PeerAuthentication | Kind::AuthorizationPolicy | Kind::RequestAuthentication
    );
    match key.text {
        DRY_RUN if can => {}
        ISTIO_DRY_RUN if kind == Kind::AuthorizationPolicy => {}
        ISTIO_DRY_RUN if can => {
            key.refuse(
                d,
                format!("has no effect on a {}; write {DRY_RUN}", kind.as_str()),
            );
        }
        DRY_RUN => key.refuse(
            d,
            format!(
                "has no effect on a {}, which cannot be a dry run",
                kind.as_str()
            ),
        ),
        _ => return,
    }
    if !matches!(found, "true" | "false") {
        let message = format!("found {}, want \"true\" or \"false\"", quoted(found));
        d.refuse(value, message);
    }
}
