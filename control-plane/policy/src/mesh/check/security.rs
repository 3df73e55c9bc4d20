//! Security documents that are refused for what they are, or for what is beside them.

use std::sync::Arc;

use super::Checker;
use crate::{
    At, AuthorizationAction, AuthorizationPolicy, CheckProtocol, Code, ExtensionProvider, Object,
    PeerAuthentication, mesh::security::Level, suggest::nearest,
};

impl Checker<'_> {
    pub(super) fn authorization_policy(
        &mut self,
        object: &Arc<Object>,
        spec: &AuthorizationPolicy,
    ) {
        match &spec.action {
            AuthorizationAction::Audit if object.is_dry_run() => {
                let message = "a dry run of AUDIT has no effect, because AUDIT refuses nothing; remove the annotation";
                self.found.error(
                    Code::WithoutEffectBeside,
                    object,
                    &object.position,
                    "metadata.annotations",
                    message.to_owned(),
                );
            }
            AuthorizationAction::Custom(provider) => self.provider(object, provider),
            _ => {}
        }
    }

    /// A second one for the same workloads, which never holds.
    pub(super) fn peer_authentication(&mut self, object: &Arc<Object>, spec: &PeerAuthentication) {
        let mesh = self.mesh;
        let level = mesh.level(object, spec);
        let labels = |spec: &PeerAuthentication| {
            spec.selector
                .as_ref()
                .map(|selector| selector.value.clone())
        };
        let mut all = mesh.security.peers.iter();
        let oldest = all.find(|(other, found)| {
            other.is_dry_run() == object.is_dry_run()
                && mesh.level(other, found) == level
                && (level == Level::Mesh || other.key.namespace == object.key.namespace)
                && labels(found) == labels(spec)
        });
        let Some((oldest, _)) = oldest.filter(|(oldest, _)| oldest.key != object.key) else {
            return;
        };
        let whom = match level {
            Level::Mesh => "the whole mesh".to_owned(),
            Level::Namespace => format!("the namespace {}", object.key.namespace),
            Level::Workload => "the same labels".to_owned(),
        };
        let message = format!(
            "never holds: {} is for {whom} already, and older; put both into one document",
            super::named(oldest)
        );
        let position = &object.position;
        self.found.warn(
            Code::PeerAuthenticationShadowed,
            object,
            position,
            "spec",
            message,
        );
    }

    fn provider(&mut self, object: &Arc<Object>, provider: &At<String>) {
        if object.is_dry_run() {
            let message = "a dry run of CUSTOM is not supported yet: the provider would be asked about requests for nothing; remove the annotation, or try the rules with action AUDIT";
            self.found.error(
                Code::ValueNotSupported,
                object,
                &object.position,
                "metadata.annotations",
                message.to_owned(),
            );
        }
        let mesh = self.mesh;
        let namespace = &object.key.namespace;
        if mesh.provider(namespace, &provider.value).is_some() {
            return;
        }
        let known = mesh.security.providers.keys();
        let seen = known
            .filter(|key| key.namespace == *namespace || key.namespace == mesh.root_namespace());
        let seen: Vec<&str> = seen.map(|key| key.name.as_str()).collect();
        let hint = match nearest(&provider.value, seen) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => format!(
                "; want the name of an ExtensionProvider of the namespace {namespace} or {}",
                mesh.root_namespace()
            ),
        };
        let message = format!("found no provider {:?}{hint}", provider.value);
        let path = "spec.provider.name";
        self.found.error(
            Code::ProviderUnknown,
            object,
            &provider.position,
            path,
            message,
        );
    }

    /// A server that nobody serves, or that nobody asks.
    pub(super) fn extension_provider(&mut self, object: &Arc<Object>, spec: &ExtensionProvider) {
        let mesh = self.mesh;
        let field = match spec.protocol {
            CheckProtocol::Grpc => "spec.envoyExtAuthzGrpc.service",
            CheckProtocol::Http(_) => "spec.envoyExtAuthzHttp.service",
        };
        let host = mesh.provider_host(object, spec);
        if mesh.knows(&host) {
            let path = field.replace("service", "port");
            let to = &spec.service;
            self.port((Code::UnknownPort, object), &host, spec.port, to, &path);
            return;
        }
        let message = format!(
            "nobody serves {host} yet: no instance has registered, and no ServiceEntry names it; until then requests that it is to be asked about {}",
            if spec.fail_open {
                "go on, because of failOpen"
            } else {
                "are refused"
            }
        );
        let position = &spec.service.position;
        self.found
            .warn(Code::UnknownHost, object, position, field, message);
    }
}
