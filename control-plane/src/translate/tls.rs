//! TLS contexts. Keys come from the sidecar itself (SDS `default`), trust from SDS `ROOTCA`; TLS 1.3 only.

use outrigger_policy::TlsMode;
use outrigger_proto::envoy::{
    config::{
        cluster::v3::cluster::TransportSocketMatch,
        core::v3::{TransportSocket, transport_socket::ConfigType},
    },
    extensions::transport_sockets::{
        raw_buffer::v3::RawBuffer,
        tls::v3::{
            CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
            SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
            common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
            subject_alt_name_matcher::SanType,
            tls_parameters::TlsProtocol,
        },
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};
use prost_types::{Any, Struct};

use super::{
    any::{ads, any, object, text},
    secret::{DEFAULT, ROOTCA},
};

/// How a cluster's connections are made, chosen by what its endpoints say of themselves.
///
/// Auto: mTLS to endpoints that have it, plain text to the rest. `ISTIO_MUTUAL` written by a person: mTLS to
/// all, so that an endpoint without it fails rather than being called in plain text. `DISABLE`: nothing.
pub(super) fn matches<'a>(
    mode: Option<TlsMode>,
    sni: &str,
    identities: impl IntoIterator<Item = &'a str>,
    trust_domain: &str,
    alpn: &[&str],
) -> Vec<TransportSocketMatch> {
    let istio = |criteria: Struct| TransportSocketMatch {
        name: "tlsMode-istio".to_owned(),
        r#match: Some(criteria),
        transport_socket: Some(upstream(sni, identities, trust_domain, alpn)),
    };
    match mode {
        Some(TlsMode::Disable) => Vec::new(),
        Some(TlsMode::IstioMutual | TlsMode::Mutual | TlsMode::Simple) => {
            vec![istio(Struct::default())]
        }
        None => vec![
            istio(object([("tlsMode", text("istio"))])),
            TransportSocketMatch {
                name: "tlsMode-disabled".to_owned(),
                r#match: Some(Struct::default()),
                transport_socket: Some(raw_buffer()),
            },
        ],
    }
}

/// Application protocols of a port that speaks HTTP.
pub(super) const ALPN_HTTP: [&str; 2] = ["h2", "http/1.1"];
/// Istio's name for whatever is not HTTP, between sidecars.
pub(super) const ALPN_ISTIO: &str = "istio";

/// What an inbound listener asks of its peers: a certificate of the mesh.
pub(super) fn downstream(alpn: &[&str]) -> TransportSocket {
    let common = CommonTlsContext {
        alpn_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
        validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(
            sds(ROOTCA),
        )),
        ..common()
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(true),
        ..DownstreamTlsContext::default()
    };
    tls_socket(any(
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        &context,
    ))
}

fn upstream<'a>(
    sni: &str,
    identities: impl IntoIterator<Item = &'a str>,
    trust_domain: &str,
    alpn: &[&str],
) -> TransportSocket {
    let mut names: Vec<_> = identities.into_iter().map(uri).collect();
    if names.is_empty() {
        // No list at all would mean "any identity of the mesh". Nobody has this one.
        names.push(uri(&format!("spiffe://{trust_domain}/nobody-registered")));
    }
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: names,
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(sds(ROOTCA)),
    };
    let common = CommonTlsContext {
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        alpn_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
        ..common()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: sni.to_owned(),
        ..UpstreamTlsContext::default()
    };
    tls_socket(any(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        &context,
    ))
}

fn common() -> CommonTlsContext {
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13 as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: vec![sds(DEFAULT)],
        ..CommonTlsContext::default()
    }
}

fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

fn uri(identity: &str) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(identity.to_owned())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    }
}

fn tls_socket(config: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
    }
}

fn raw_buffer() -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            &RawBuffer {},
        ))),
    }
}
