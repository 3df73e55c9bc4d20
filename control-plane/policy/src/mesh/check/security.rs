//! Security documents that are refused for what they are, or for what is beside them.

use std::sync::Arc;

use super::Checker;
use crate::{
    AuthorizationAction, AuthorizationPolicy, Code, Object, PeerAuthentication,
    mesh::security::Level,
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

    fn provider(&mut self, object: &Arc<Object>, provider: &crate::At<String>) {
        let message = format!(
            "the provider {:?} is not supported yet; want ALLOW, DENY or AUDIT",
            provider.value
        );
        let path = "spec.provider.name";
        self.found.error(
            Code::ValueNotSupported,
            object,
            &provider.position,
            path,
            message,
        );
    }
}
