//! What one stream of secrets has asked for and holds, in both forms of xDS. No socket, no clock.
//!
//! Source: the xDS protocol. A refusal changes nothing: what was refused is not sent again, what is newer is.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use outrigger_proto::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, Secret, TlsCertificate, secret,
    },
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        Resource,
    },
};
use prost::Message as _;
use prost_types::Any;
use tonic::Status;

use crate::{
    agent::files::Material,
    xds::convert::tls::{BUNDLE, CERTIFICATE},
};

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// There are two; whoever asks for more than this is not an Envoy.
const MAX_NAMES: usize = 64;

/// What a request was.
#[derive(Debug)]
pub(super) enum Turn {
    Nothing,
    Acked,
    /// With the client's words.
    Refused(String),
    /// The stream ends.
    Wrong(Status),
}

/// One of the two forms.
pub(super) trait Form: Send + 'static {
    type Request: prost::Message + Default + 'static;
    type Response: Send + 'static;

    /// Learns from a request.
    fn take(&mut self, request: Self::Request) -> Turn;
    /// What is to be sent now.
    fn next(&mut self, material: &Material) -> Option<Self::Response>;
}

/// A secret as bytes, and the version that is their hash.
struct Named {
    name: &'static str,
    version: String,
    any: Any,
}

fn secrets(material: &Material) -> [Named; 2] {
    let inline = |text: &str| {
        Some(DataSource {
            specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())),
            ..DataSource::default()
        })
    };
    let own = secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: inline(&material.certificate),
        private_key: inline(&material.key),
        ..TlsCertificate::default()
    });
    let roots = secret::Type::ValidationContext(CertificateValidationContext {
        trusted_ca: inline(&material.roots),
        ..CertificateValidationContext::default()
    });
    // Not of the key: a version is shown where secrets are not.
    [
        named(CERTIFICATE, &material.certificate, own),
        named(BUNDLE, &material.roots, roots),
    ]
}

fn named(name: &'static str, public: &str, content: secret::Type) -> Named {
    let hash = digest::digest(&digest::SHA256, public.as_bytes());
    let version = hash.as_ref().iter().take(8);
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(content),
    };
    Named {
        name,
        version: version.map(|byte| format!("{byte:02x}")).collect(),
        any: Any {
            type_url: SECRET.to_owned(),
            value: secret.encode_to_vec(),
        },
    }
}

fn wrong_type(type_url: &str) -> Option<Turn> {
    let is_right = type_url.is_empty() || type_url == SECRET;
    (!is_right).then(|| {
        let message = format!("{type_url:?} is not served here; only {SECRET:?} is");
        Turn::Wrong(Status::invalid_argument(message))
    })
}

fn too_many() -> Turn {
    let message = format!("more than {MAX_NAMES} names; there are {CERTIFICATE} and {BUNDLE}");
    Turn::Wrong(Status::invalid_argument(message))
}

/// State of the World.
#[derive(Debug, Default)]
pub(super) struct Sotw {
    names: Vec<String>,
    /// Something was asked for that has not been answered.
    asked: bool,
    sent: BTreeMap<&'static str, String>,
    nonce: u64,
}

impl Form for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn take(&mut self, request: DiscoveryRequest) -> Turn {
        if let Some(wrong) = wrong_type(&request.type_url) {
            return wrong;
        }
        if !request.response_nonce.is_empty() && request.response_nonce != self.nonce.to_string() {
            // Of an answer before the last.
            return Turn::Nothing;
        }
        if request.resource_names.len() > MAX_NAMES {
            return too_many();
        }
        let is_first = request.response_nonce.is_empty();
        if is_first || request.resource_names != self.names {
            self.names = request.resource_names;
            self.asked = true;
        }
        match request.error_detail {
            Some(error) => Turn::Refused(error.message),
            None if is_first => Turn::Nothing,
            None => Turn::Acked,
        }
    }

    fn next(&mut self, material: &Material) -> Option<DiscoveryResponse> {
        let secrets = secrets(material);
        let wanted: Vec<&Named> = secrets
            .iter()
            .filter(|one| self.names.iter().any(|name| name == one.name))
            .collect();
        let is_new = |one: &&Named| self.sent.get(one.name) != Some(&one.version);
        if wanted.is_empty() || !(self.asked || wanted.iter().any(is_new)) {
            return None;
        }
        self.asked = false;
        self.sent = wanted
            .iter()
            .map(|one| (one.name, one.version.clone()))
            .collect();
        self.nonce += 1;
        let versions: Vec<&str> = wanted.iter().map(|one| one.version.as_str()).collect();
        Some(DiscoveryResponse {
            version_info: versions.join("-"),
            resources: wanted.iter().map(|one| one.any.clone()).collect(),
            type_url: SECRET.to_owned(),
            nonce: self.nonce.to_string(),
            ..DiscoveryResponse::default()
        })
    }
}

/// Incremental.
#[derive(Debug, Default)]
pub(super) struct Delta {
    /// What is asked for, and the version that the client has.
    names: BTreeMap<String, Option<String>>,
    /// Asked for, and not there.
    absent: Vec<String>,
    nonce: u64,
    begun: bool,
}

impl Form for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Turn {
        if let Some(wrong) = wrong_type(&request.type_url) {
            return wrong;
        }
        for name in &request.resource_names_unsubscribe {
            self.names.remove(name);
        }
        for name in request.resource_names_subscribe {
            // Subscribed again: sent again.
            self.names.insert(name, None);
        }
        if self.names.len() > MAX_NAMES {
            return too_many();
        }
        if !std::mem::replace(&mut self.begun, true) {
            for (name, version) in request.initial_resource_versions {
                self.names
                    .entry(name)
                    .and_modify(|has| *has = Some(version));
            }
        }
        let is_there = |name: &String| [CERTIFICATE, BUNDLE].contains(&name.as_str());
        let unknown = self
            .names
            .iter()
            .filter(|(name, has)| !is_there(name) && has.is_none());
        self.absent = unknown.map(|(name, _)| name.clone()).collect();
        match request.error_detail {
            Some(error) => Turn::Refused(error.message),
            None if request.response_nonce.is_empty() => Turn::Nothing,
            None => Turn::Acked,
        }
    }

    fn next(&mut self, material: &Material) -> Option<DeltaDiscoveryResponse> {
        let mut resources = Vec::new();
        for one in secrets(material) {
            if let Some(has) = self.names.get_mut(one.name)
                && has.as_ref() != Some(&one.version)
            {
                *has = Some(one.version.clone());
                resources.push(Resource {
                    name: one.name.to_owned(),
                    version: one.version,
                    resource: Some(one.any),
                    ..Resource::default()
                });
            }
        }
        let removed_resources = std::mem::take(&mut self.absent);
        for name in &removed_resources {
            // Told once.
            self.names.insert(name.clone(), Some(String::new()));
        }
        if resources.is_empty() && removed_resources.is_empty() {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            resources,
            removed_resources,
            type_url: SECRET.to_owned(),
            nonce: self.nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        })
    }
}
