//! TLS contexts and secrets. A private key never comes from a server: the certificate is always our own (`default`),
//! and trust is always the trust domain's bundle (`ROOTCA`), which SDS may replace.

use outrigger_core::{DownstreamTls, UpstreamTls};
use outrigger_proto::envoy::{
    config::core::v3::{TransportSocket, transport_socket},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
        Secret, TlsParameters, UpstreamTlsContext, common_tls_context::ValidationContextType,
        downstream_tls_context::SessionTicketKeysType, secret, subject_alt_name_matcher::SanType,
        tls_parameters::TlsProtocol,
    },
    r#type::matcher::v3::string_matcher::MatchPattern,
};
use prost_types::Any;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

pub(crate) use super::route::inline;
use super::{
    Converted, FieldError, must_be_ads_or_beside, outside_tls, refuse, unpack, unsupported,
};

/// SDS name of our own certificate.
pub(crate) const CERTIFICATE: &str = "default";
/// SDS name of the trust bundle.
pub(crate) const BUNDLE: &str = "ROOTCA";
/// Application protocols that a peer may be offered.
const ALPN: [&str; 3] = ["h2", "http/1.1", ISTIO];
/// What Istio's proxies offer beside these, and speak only among themselves: not offered, which ALPN is made for.
const AMONG_ISTIO: [&str; 4] = [
    "istio-peer-exchange",
    "istio-http/1.0",
    "istio-http/1.1",
    "istio-h2",
];
/// Istio's name, between sidecars, for what is not HTTP.
pub(crate) const ISTIO: &str = "istio";
/// Certificates in a bundle: old and new root of a rotation, and some to spare.
const MAX_BUNDLE: usize = 64;

const PACKAGE: &str = "envoy.extensions.transport_sockets";

/// The message inside a transport socket.
pub(super) fn config(socket: &TransportSocket) -> Converted<&Any> {
    match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) => Ok(any),
        None => refuse("typed_config", "missing"),
    }
}

pub(super) fn is_raw_buffer(any: &Any) -> bool {
    super::fields::type_name(&any.type_url) == format!("{PACKAGE}.raw_buffer.v3.RawBuffer")
}

/// None = plain text, asked for by name.
pub(super) fn downstream(socket: &TransportSocket) -> Converted<Option<DownstreamTls>> {
    let any = config(socket)?;
    if is_raw_buffer(any) {
        return Ok(None);
    }
    downstream_context(any)
        .map(Some)
        .map_err(|error| error.under("typed_config"))
}

fn downstream_context(any: &Any) -> Converted<DownstreamTls> {
    let context: DownstreamTlsContext =
        unpack(any, &format!("{PACKAGE}.tls.v3.DownstreamTlsContext"))?;
    if context.require_client_certificate != Some(true) {
        return refuse(
            "require_client_certificate",
            "must be true: TLS is always mutual here",
        );
    }
    match &context.session_ticket_keys_type {
        // There are no tickets: resumption would skip verification.
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(_)) | None => {}
        Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
            return unsupported("session_ticket_keys");
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
            return unsupported("session_ticket_keys_sds_secret_config");
        }
    }
    let common = common(context.common_tls_context.as_ref())?;
    if !common.names.is_empty() {
        return refuse(
            "common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names",
            "not supported yet on a listener",
        );
    }
    Ok(DownstreamTls {
        certificate: CERTIFICATE.to_owned(),
        validation: BUNDLE.to_owned(),
        alpn: common.alpn,
    })
}

pub(super) fn upstream(any: &Any) -> Converted<UpstreamTls> {
    let context: UpstreamTlsContext = unpack(any, &format!("{PACKAGE}.tls.v3.UpstreamTlsContext"))?;
    if outside_tls::is_meant(&context) {
        return outside_tls::convert(&context);
    }
    let common = common(context.common_tls_context.as_ref())?;
    Ok(UpstreamTls {
        certificate: CERTIFICATE.to_owned(),
        validation: BUNDLE.to_owned(),
        subject_alt_names: common.names,
        sni: context.sni,
        alpn: common.alpn,
        outside: None,
    })
}

struct Common {
    alpn: Vec<String>,
    names: Vec<String>,
}

fn common(from: Option<&CommonTlsContext>) -> Converted<Common> {
    let Some(from) = from else {
        return refuse("common_tls_context", "missing");
    };
    read_common(from).map_err(|error| error.under("common_tls_context"))
}

fn read_common(from: &CommonTlsContext) -> Converted<Common> {
    if let Some(parameters) = &from.tls_params {
        tls_parameters(parameters).map_err(|error| error.under("tls_params"))?;
    }
    match from.tls_certificate_sds_secret_configs.as_slice() {
        [one] => must_name("tls_certificate_sds_secret_configs[0]", one, CERTIFICATE)?,
        found => {
            return refuse(
                "tls_certificate_sds_secret_configs",
                format!(
                    "has {} entries; must have one, {CERTIFICATE:?}",
                    found.len()
                ),
            );
        }
    }
    let mut names = Vec::new();
    match &from.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            must_name("validation_context_sds_secret_config", secret, BUNDLE)?;
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let path = "combined_validation_context";
            let Some(secret) = &combined.validation_context_sds_secret_config else {
                return refuse(
                    format!("{path}.validation_context_sds_secret_config"),
                    "missing",
                );
            };
            must_name(
                &format!("{path}.validation_context_sds_secret_config"),
                secret,
                BUNDLE,
            )?;
            if let Some(context) = &combined.default_validation_context {
                names = subject_alt_names(context)
                    .map_err(|e| e.under(format!("{path}.default_validation_context")))?;
            }
        }
        Some(ValidationContextType::ValidationContext(_)) => {
            return unsupported("validation_context");
        }
        None => {
            return refuse(
                "combined_validation_context",
                format!("missing; peers are verified against the bundle {BUNDLE:?}"),
            );
        }
    }
    let alpn: Vec<String> = from
        .alpn_protocols
        .iter()
        .filter(|protocol| !AMONG_ISTIO.contains(&protocol.as_str()))
        .cloned()
        .collect();
    if alpn.is_empty() && !from.alpn_protocols.is_empty() {
        return refuse("alpn_protocols", "has none of h2, http/1.1, istio");
    }
    for (index, protocol) in from.alpn_protocols.iter().enumerate() {
        if AMONG_ISTIO.contains(&protocol.as_str()) {
            continue;
        }
        if !ALPN.contains(&protocol.as_str()) {
            return refuse(
                format!("alpn_protocols[{index}]"),
                format!("{protocol:?} is not supported yet; one of h2, http/1.1, istio"),
            );
        }
    }
    Ok(Common { alpn, names })
}

/// TLS 1.3 is all there is.
fn tls_parameters(from: &TlsParameters) -> Converted<()> {
    let path = "tls_minimum_protocol_version";
    let least = from.tls_minimum_protocol_version;
    // A lower minimum is kept by 1.3, too; it is what Istio sends.
    if TlsProtocol::try_from(least).is_err() {
        return refuse(path, format!("{least} is unknown"));
    }
    let path = "tls_maximum_protocol_version";
    let most = from.tls_maximum_protocol_version;
    match TlsProtocol::try_from(most) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => Ok(()),
        Ok(other @ (TlsProtocol::TlSv10 | TlsProtocol::TlSv11 | TlsProtocol::TlSv12)) => {
            refuse(path, format!("{}; must be TLSv1_3", other.as_str_name()))
        }
        Err(_unknown) => refuse(path, format!("{most} is unknown")),
    }
}

fn must_name(path: &str, found: &SdsSecretConfig, name: &str) -> Converted<()> {
    if found.name != name {
        return refuse(
            format!("{path}.name"),
            format!("{:?}; only {name:?} is supported", found.name),
        );
    }
    // Our certificate is there before the first listener is, and the bundle from the start: nobody waits for either.
    must_be_ads_or_beside(&format!("{path}.sds_config"), found.sds_config.as_ref())
}

fn subject_alt_names(from: &CertificateValidationContext) -> Converted<Vec<String>> {
    if from.trusted_ca.is_some() {
        return refuse("trusted_ca", format!("must come from SDS as {BUNDLE:?}"));
    }
    let mut names = Vec::with_capacity(from.match_typed_subject_alt_names.len());
    for (index, matcher) in from.match_typed_subject_alt_names.iter().enumerate() {
        let path = format!("match_typed_subject_alt_names[{index}]");
        if matcher.san_type != i32::from(SanType::Uri) {
            return refuse(format!("{path}.san_type"), "must be URI");
        }
        let string = matcher.matcher.as_ref();
        match string.and_then(|string| string.match_pattern.as_ref()) {
            Some(MatchPattern::Exact(id))
                if id.starts_with("spiffe://") && string.is_some_and(|s| !s.ignore_case) =>
            {
                names.push(id.clone());
            }
            _ => {
                return refuse(
                    format!("{path}.matcher"),
                    "must be the exact URI of a SPIFFE id",
                );
            }
        }
    }
    Ok(names)
}

/// The trust bundle inside a secret; at least one certificate, each usable as a root.
pub(crate) fn bundle(from: &Secret) -> Converted<Vec<CertificateDer<'static>>> {
    let Some(secret::Type::ValidationContext(context)) = &from.r#type else {
        return refuse(
            "validation_context",
            "missing; other secrets are not supported yet",
        );
    };
    if !context.match_typed_subject_alt_names.is_empty() {
        return unsupported("validation_context.match_typed_subject_alt_names");
    }
    let path = "validation_context.trusted_ca";
    let Some(pem) = inline(path, context.trusted_ca.as_ref())? else {
        return refuse(path, "missing");
    };
    let mut roots = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| FieldError::new(path, format!("is not PEM: {error}")))?;
        if roots.len() == MAX_BUNDLE {
            return refuse(path, format!("more than {MAX_BUNDLE} certificates"));
        }
        webpki::anchor_from_trusted_cert(&certificate).map_err(|error| {
            FieldError::new(
                path,
                format!("certificate {} is not a root: {error}", roots.len() + 1),
            )
        })?;
        roots.push(certificate);
    }
    if roots.is_empty() {
        return refuse(path, "holds no certificate");
    }
    Ok(roots)
}
