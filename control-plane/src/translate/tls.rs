//! TLS contexts. Keys come from the sidecar itself (SDS `default`), trust from SDS `ROOTCA`; TLS 1.3 only.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use outrigger_policy::{ClientTls, TlsMode};
use outrigger_proto::envoy::{
    config::{
        cluster::v3::cluster::TransportSocketMatch,
        core::v3::{
            ConfigSource, DataSource, TransportSocket, data_source::Specifier,
            transport_socket::ConfigType,
        },
    },
    extensions::transport_sockets::{
        raw_buffer::v3::RawBuffer,
        tls::v3::{
            CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
            SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
            certificate_validation_context::TrustChainVerification,
            common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
            subject_alt_name_matcher::SanType,
            tls_parameters::TlsProtocol,
        },
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};
use prost_types::{Any, Struct};

use super::{
    any::{ads, any, duration, object, text},
    secret::{DEFAULT, ROOTCA},
};

/// The system's roots where Debian, and most others by a link, have them.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A step of a push waits for 1 s: clusters that name the certificate are warm before that.
const OWN_WAIT: Duration = Duration::from_millis(500);

/// Path of an identity that nobody has.
pub(super) const NOBODY: &str = "/nobody-registered";

/// Who answers for a cluster.
pub(super) struct Peer<'a> {
    /// Its host.
    pub(super) service: &'a str,
    /// What mesh mTLS asks for.
    pub(super) sni: String,
    /// The identities that may answer.
    pub(super) identities: BTreeSet<&'a str>,
    pub(super) trust_domain: &'a str,
    /// What mesh mTLS says it carries.
    pub(super) alpn: &'static [&'static str],
}

impl Peer<'_> {
    /// How a cluster's connections are made: all alike, or chosen by what its endpoints say of themselves.
    ///
    /// Auto: mTLS to endpoints that have it, plain text to the rest. `ISTIO_MUTUAL` written by a person: mTLS to
    /// all, so that an endpoint without it fails rather than being called in plain text. `DISABLE`: nothing.
    /// `SIMPLE` and `MUTUAL`: TLS of the world outside, to all.
    pub(super) fn sockets(
        &self,
        tls: Option<&ClientTls>,
    ) -> (Option<TransportSocket>, Vec<TransportSocketMatch>) {
        let istio = |criteria: Struct| TransportSocketMatch {
            name: "tlsMode-istio".to_owned(),
            r#match: Some(criteria),
            transport_socket: Some(self.mesh(tls)),
        };
        match tls.map(|tls| (tls.mode, tls)) {
            Some((TlsMode::Disable, _)) => (None, Vec::new()),
            Some((TlsMode::IstioMutual, _)) => (None, vec![istio(Struct::default())]),
            Some((TlsMode::Simple | TlsMode::Mutual, tls)) => (Some(self.outside(tls)), Vec::new()),
            None => {
                let plain = TransportSocketMatch {
                    name: "tlsMode-disabled".to_owned(),
                    r#match: Some(Struct::default()),
                    transport_socket: Some(raw_buffer()),
                };
                let mesh = istio(object([("tlsMode", text("istio"))]));
                (None, vec![mesh, plain])
            }
        }
    }

    /// mTLS of the mesh.
    fn mesh(&self, tls: Option<&ClientTls>) -> TransportSocket {
        let written = tls.map_or(&[][..], |tls| tls.subject_alt_names.as_slice());
        let mut names: Vec<_> = if written.is_empty() {
            self.identities.iter().map(|name| san(name)).collect()
        } else {
            written.iter().map(|name| san(name)).collect()
        };
        if names.is_empty() {
            // No list at all would mean "any identity of the mesh". Nobody has this one.
            names.push(san(&format!("spiffe://{}{NOBODY}", self.trust_domain)));
        }
        let combined = CombinedCertificateValidationContext {
            default_validation_context: Some(CertificateValidationContext {
                match_typed_subject_alt_names: names,
                ..CertificateValidationContext::default()
            }),
            validation_context_sds_secret_config: Some(sds(ROOTCA)),
        };
        let common = CommonTlsContext {
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                combined,
            )),
            alpn_protocols: self.alpn.iter().map(|name| (*name).to_owned()).collect(),
            ..common()
        };
        let sni = tls.and_then(|tls| tls.sni.as_deref());
        upstream(common, sni.unwrap_or(&self.sni))
    }

    /// TLS to whoever has a certificate for the name, with files of the calling sidecar's.
    fn outside(&self, tls: &ClientTls) -> TransportSocket {
        let sni = tls.sni.as_deref().unwrap_or(self.service);
        let certificate = tls.client_certificate.as_ref();
        let pair = certificate.filter(|_| tls.mode == TlsMode::Mutual);
        let pair = pair.map(|certificate| TlsCertificate {
            certificate_chain: Some(file(certificate)),
            private_key: tls.private_key.as_deref().map(file),
            ..TlsCertificate::default()
        });
        let common = CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..TlsParameters::default()
            }),
            tls_certificates: pair.into_iter().collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation(
                tls, sni,
            ))),
            ..CommonTlsContext::default()
        };
        upstream(common, sni)
    }
}

fn validation(tls: &ClientTls, called: &str) -> CertificateValidationContext {
    if tls.insecure_skip_verify {
        return CertificateValidationContext {
            trust_chain_verification: TrustChainVerification::AcceptUntrusted as i32,
            ..CertificateValidationContext::default()
        };
    }
    let roots = tls.ca_certificates.as_deref();
    let roots = roots.filter(|roots| *roots != "system");
    CertificateValidationContext {
        trusted_ca: Some(file(roots.unwrap_or(SYSTEM_ROOTS))),
        crl: tls.ca_crl.as_deref().map(file),
        match_typed_subject_alt_names: if tls.subject_alt_names.is_empty() {
            vec![san(called)]
        } else {
            tls.subject_alt_names.iter().map(|name| san(name)).collect()
        },
        ..CertificateValidationContext::default()
    }
}

fn file(path: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::Filename(path.to_owned())),
        ..DataSource::default()
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

fn upstream(common: CommonTlsContext, sni: &str) -> TransportSocket {
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
        tls_certificate_sds_secret_configs: vec![own()],
        ..CommonTlsContext::default()
    }
}

/// The workload's own certificate, which is not served as long as its key is made where it is used: a client that waits
/// for it goes on without after a moment. Envoy's SotW client would wait 15 s, with every cluster that names it.
fn own() -> SdsSecretConfig {
    SdsSecretConfig {
        name: DEFAULT.to_owned(),
        sds_config: Some(ConfigSource {
            initial_fetch_timeout: Some(duration(OWN_WAIT)),
            ..ads()
        }),
    }
}

fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

/// A name that a certificate has to have: an identity, an address or a host.
fn san(identity: &str) -> SubjectAltNameMatcher {
    let kind = if identity.contains("://") {
        SanType::Uri
    } else if identity.parse::<IpAddr>().is_ok() {
        SanType::IpAddress
    } else {
        SanType::Dns
    };
    SubjectAltNameMatcher {
        san_type: kind as i32,
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

pub(super) fn raw_buffer() -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            &RawBuffer {},
        ))),
    }
}
