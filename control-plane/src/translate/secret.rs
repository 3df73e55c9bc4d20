//! SDS: the trust bundle. Keys and certificates are made in the sidecar and never served.

use std::sync::Arc;

use outrigger_proto::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, secret},
};

use crate::snapshot::{ResourceBytes, ResourceType};

/// What TLS contexts call the trust bundle (Istio's name).
pub(crate) const ROOTCA: &str = "ROOTCA";
/// What TLS contexts call the workload's own certificate (Istio's name).
pub(super) const DEFAULT: &str = "default";

/// The trust bundle, inline.
pub(crate) fn root(roots_pem: &str) -> Arc<ResourceBytes> {
    let bundle = DataSource {
        specifier: Some(Specifier::InlineBytes(roots_pem.as_bytes().to_vec())),
        ..DataSource::default()
    };
    let context = CertificateValidationContext {
        trusted_ca: Some(bundle),
        ..CertificateValidationContext::default()
    };
    let secret = Secret {
        name: ROOTCA.to_owned(),
        r#type: Some(secret::Type::ValidationContext(context)),
    };
    ResourceBytes::new(ResourceType::Secret, ROOTCA, &secret)
}
