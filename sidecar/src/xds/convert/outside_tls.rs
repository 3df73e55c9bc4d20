//! `UpstreamTlsContext` for a server outside of the mesh: names, and files of this machine. Whether the files may be
//! named is for who knows `--tls-files` to say; see [`check_files`].

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use outrigger_core::{OutsideTls, UpstreamTls};
use outrigger_proto::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsCertificate,
        TlsParameters, UpstreamTlsContext, certificate_validation_context::TrustChainVerification,
        common_tls_context::ValidationContextType, subject_alt_name_matcher::SanType,
        tls_parameters::TlsProtocol,
    },
    r#type::matcher::v3::string_matcher::MatchPattern,
};
use rustls_pki_types::ServerName;

use super::{Converted, FieldError, cluster::ParsedCluster, refuse};
use crate::tls::files::{Allowed, is_system_roots};

const VALIDATION: &str = "validation_context";

/// Whether a context is one for a server outside of the mesh.
pub(super) fn is_meant(from: &UpstreamTlsContext) -> bool {
    let common = from.common_tls_context.as_ref();
    common.is_some_and(|common| {
        common.tls_certificate_sds_secret_configs.is_empty()
            && matches!(
                common.validation_context_type,
                Some(ValidationContextType::ValidationContext(_))
            )
    })
}

pub(super) fn convert(from: &UpstreamTlsContext) -> Converted<UpstreamTls> {
    let common = from.common_tls_context.clone().unwrap_or_default();
    read(from, &common).map_err(|error| error.under("common_tls_context"))
}

fn read(from: &UpstreamTlsContext, common: &CommonTlsContext) -> Converted<UpstreamTls> {
    let Some(ValidationContextType::ValidationContext(validation)) =
        &common.validation_context_type
    else {
        return refuse(VALIDATION, "missing");
    };
    let unverified =
        validation.trust_chain_verification == i32::from(TrustChainVerification::AcceptUntrusted);
    let under = |error: FieldError| error.under(VALIDATION);
    if unverified {
        without_effect(validation).map_err(under)?;
    }
    let outside = OutsideTls {
        tls12: allows_tls12(common.tls_params.as_ref()).map_err(|e| e.under("tls_params"))?,
        roots: roots(validation, unverified).map_err(under)?,
        revoked: file("crl", validation.crl.as_ref()).map_err(under)?,
        client: client(&common.tls_certificates)?,
        unverified,
    };
    let names = names(&validation.match_typed_subject_alt_names).map_err(under)?;
    if !unverified && names.is_empty() && ServerName::try_from(from.sni.as_str()).is_err() {
        let message = "missing, and the sni is no name either; nothing says who may answer";
        return refuse(
            format!("{VALIDATION}.match_typed_subject_alt_names"),
            message,
        );
    }
    Ok(UpstreamTls {
        subject_alt_names: names,
        sni: from.sni.clone(),
        alpn: common.alpn_protocols.clone(),
        outside: Some(Arc::new(outside)),
        ..UpstreamTls::default()
    })
}

/// Who writes more than that any server will do believes that it is checked.
fn without_effect(from: &CertificateValidationContext) -> Converted<()> {
    let written = [
        ("trusted_ca", from.trusted_ca.is_some()),
        ("crl", from.crl.is_some()),
        (
            "match_typed_subject_alt_names",
            !from.match_typed_subject_alt_names.is_empty(),
        ),
    ];
    match written.iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => refuse(*field, "has no effect with ACCEPT_UNTRUSTED"),
        None => Ok(()),
    }
}

/// None = the system's.
fn roots(from: &CertificateValidationContext, unverified: bool) -> Converted<Option<PathBuf>> {
    match file("trusted_ca", from.trusted_ca.as_ref())? {
        None if unverified => Ok(None),
        // Envoy would then take any server for the right one.
        None => refuse(
            "trusted_ca",
            "missing; a file of roots, or trust_chain_verification ACCEPT_UNTRUSTED",
        ),
        Some(path) if path.to_str().is_some_and(is_system_roots) => Ok(None),
        Some(path) => Ok(Some(path)),
    }
}

fn client(from: &[TlsCertificate]) -> Converted<Option<(PathBuf, PathBuf)>> {
    match from {
        [] => Ok(None),
        [one] => {
            let part = |name, source| {
                let path = format!("tls_certificates[0].{name}");
                file(&path, source)?.ok_or_else(|| FieldError::new(path, "missing"))
            };
            let chain = part("certificate_chain", one.certificate_chain.as_ref())?;
            Ok(Some((
                chain,
                part("private_key", one.private_key.as_ref())?,
            )))
        }
        several => refuse(
            "tls_certificates",
            format!(
                "has {} entries; at most one is supported yet",
                several.len()
            ),
        ),
    }
}

/// Keys and roots do not come from a server: they are files, if anything.
fn file(path: &str, from: Option<&DataSource>) -> Converted<Option<PathBuf>> {
    match from.and_then(|source| source.specifier.as_ref()) {
        None => Ok(None),
        Some(Specifier::Filename(name)) if !name.is_empty() => Ok(Some(name.into())),
        Some(_) => refuse(path, "must be a filename"),
    }
}

fn names(from: &[SubjectAltNameMatcher]) -> Converted<Vec<String>> {
    let mut names = Vec::with_capacity(from.len());
    for (index, matcher) in from.iter().enumerate() {
        let path = format!("match_typed_subject_alt_names[{index}]");
        let string = matcher.matcher.as_ref();
        let Some(MatchPattern::Exact(name)) =
            string.and_then(|string| string.match_pattern.clone())
        else {
            return refuse(format!("{path}.matcher"), "must be exact");
        };
        let kind = if name.contains("://") {
            SanType::Uri
        } else if name.parse::<IpAddr>().is_ok() {
            SanType::IpAddress
        } else {
            SanType::Dns
        };
        if matcher.san_type != i32::from(kind) {
            let kind = kind.as_str_name();
            return refuse(
                format!("{path}.san_type"),
                format!("must be {kind} for {name:?}"),
            );
        }
        if kind == SanType::Dns && ServerName::try_from(name.as_str()).is_err() {
            return refuse(
                format!("{path}.matcher"),
                format!("{name:?} is not a DNS name"),
            );
        }
        names.push(name);
    }
    Ok(names)
}

fn allows_tls12(from: Option<&TlsParameters>) -> Converted<bool> {
    let Some(from) = from else {
        return Ok(true);
    };
    match TlsProtocol::try_from(from.tls_maximum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => {}
        _ => return refuse("tls_maximum_protocol_version", "must be TLSv1_3, or unset"),
    }
    match TlsProtocol::try_from(from.tls_minimum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv12) => Ok(true),
        Ok(TlsProtocol::TlSv13) => Ok(false),
        _ => refuse("tls_minimum_protocol_version", "must be TLSv1_2 or TLSv1_3"),
    }
}

/// Refuses files that this sidecar's operator has not allowed.
pub(crate) fn check_files(cluster: &ParsedCluster, allowed: &Allowed) -> Converted<()> {
    let Some(outside) = cluster
        .config
        .tls
        .as_ref()
        .and_then(|tls| tls.outside.as_ref())
    else {
        return Ok(());
    };
    let context = "transport_socket.typed_config.common_tls_context";
    let client = outside.client.iter().flat_map(|(chain, key)| {
        let part = |name| format!("{context}.tls_certificates[0].{name}.filename");
        [
            (part("certificate_chain"), chain),
            (part("private_key"), key),
        ]
    });
    let part = |name| format!("{context}.{VALIDATION}.{name}.filename");
    let roots = outside.roots.iter().map(|path| (part("trusted_ca"), path));
    let revoked = outside.revoked.iter().map(|path| (part("crl"), path));
    for (field, path) in roots.chain(revoked).chain(client) {
        if let Some(objection) = allowed.objection(path) {
            return refuse(field, objection);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
