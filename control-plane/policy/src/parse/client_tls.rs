//! `tls`: how connections to a host are secured, and which combinations make sense.
//! Source: Istio `networking/v1` ClientTLSSettings and its validation.

use crate::{
    ClientTls, TlsMode,
    decode::{Decoder, Fields, Item, Shape, boolean, enumeration, filled_text, host, list},
    yaml::quoted,
};

pub(super) const TLS: Shape = Shape {
    what: "tls",
    fields: &[
        "mode",
        "clientCertificate",
        "privateKey",
        "caCertificates",
        "caCrl",
        "subjectAltNames",
        "sni",
        "insecureSkipVerify",
    ],
    // Names a Kubernetes Secret, and there is no Kubernetes.
    not_yet: &["credentialName"],
};

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<ClientTls> {
    let words = [
        ("ISTIO_MUTUAL", TlsMode::IstioMutual),
        ("MUTUAL", TlsMode::Mutual),
        ("SIMPLE", TlsMode::Simple),
        ("DISABLE", TlsMode::Disable),
    ];
    let fields = Fields::open(d, item, &TLS)?;
    let want = "ISTIO_MUTUAL, MUTUAL, SIMPLE or DISABLE";
    let mode = fields.required(d, "mode", want, |d, item| {
        enumeration(d, item, "a mode", &words, &[])
    });
    let tls = ClientTls {
        client_certificate: fields.optional(d, "clientCertificate", file),
        private_key: fields.optional(d, "privateKey", file),
        ca_certificates: fields.optional(d, "caCertificates", roots).flatten(),
        ca_crl: fields.optional(d, "caCrl", file),
        subject_alt_names: fields
            .optional(d, "subjectAltNames", |d, item| list(d, item, filled_text))
            .unwrap_or_default(),
        sni: fields.optional(d, "sni", |d, item| host(d, item, false)),
        insecure_skip_verify: fields
            .optional(d, "insecureSkipVerify", boolean)
            .unwrap_or(false),
        mode: mode?,
    };
    combination(d, &fields, &tls);
    Some(tls)
}

/// Refuses what the mode would not look at, and what it lacks.
fn combination(d: &mut Decoder, fields: &Fields<'_>, tls: &ClientTls) {
    let certificate = ["clientCertificate", "privateKey"];
    let verification = ["caCertificates", "caCrl", "sni", "insecureSkipVerify"];
    let without: &[&str] = match tls.mode {
        TlsMode::Disable => &["subjectAltNames"],
        TlsMode::IstioMutual | TlsMode::Mutual | TlsMode::Simple => &[],
    };
    let (certificate_has_effect, verification_has_effect, mode) = match tls.mode {
        TlsMode::Disable => (false, false, "DISABLE"),
        TlsMode::IstioMutual => (false, false, "ISTIO_MUTUAL"),
        TlsMode::Simple => (false, true, "SIMPLE"),
        TlsMode::Mutual => (true, true, "MUTUAL"),
    };
    let mut refuse = |names: &[&str]| {
        for name in names {
            let message =
                format!("has no effect with mode {mode}; remove it, or choose another mode");
            fields.refuse_if_present(d, name, &message);
        }
    };
    refuse(without);
    if !certificate_has_effect {
        refuse(&certificate);
    }
    if !verification_has_effect {
        refuse(&verification);
        return;
    }
    if certificate_has_effect {
        for name in certificate {
            if !fields.has(name) {
                fields.refuse(d, name, "missing; mode MUTUAL needs a file");
            }
        }
    }
    if tls.insecure_skip_verify {
        for name in ["caCertificates", "caCrl", "subjectAltNames"] {
            let message = "has no effect with insecureSkipVerify: true, which accepts any server; remove one of them";
            fields.refuse_if_present(d, name, message);
        }
    }
}

/// A file of the calling sidecar.
fn file(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let found = filled_text(d, item)?;
    if !found.starts_with('/') || found.contains(char::is_control) {
        let message = format!(
            "found {}, want the full path of a file where the sidecar runs, such as /etc/certs/ca.pem",
            quoted(&found)
        );
        d.refuse(item, message);
        return None;
    }
    Some(found)
}

/// A file, or `system`: the system's roots, as without the field.
#[expect(
    clippy::option_option,
    reason = "the outer one says whether it was refused"
)]
fn roots(d: &mut Decoder, item: Item<'_>) -> Option<Option<String>> {
    if matches!(&item.node.value, crate::yaml::Value::Text { text, .. } if text == "system") {
        return Some(None);
    }
    file(d, item).map(Some)
}
