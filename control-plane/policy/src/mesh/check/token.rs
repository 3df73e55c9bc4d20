//! Where keys of issuers are to be had: a host that the mesh knows, called as its URL says.

use std::sync::Arc;

use super::Checker;
use crate::{At, Code, JwksUrl, JwtKeys, Object, RequestAuthentication, TlsMode};

impl Checker<'_> {
    pub(super) fn request_authentication(
        &mut self,
        object: &Arc<Object>,
        spec: &RequestAuthentication,
    ) {
        for (index, rule) in spec.rules.iter().enumerate() {
            if let JwtKeys::Url(url) = &rule.keys {
                let path = format!("spec.jwtRules[{index}].jwksUri");
                self.keys(object, url, &path);
            }
        }
    }

    fn keys(&mut self, object: &Arc<Object>, url: &At<JwksUrl>, path: &str) {
        let written = At {
            value: url.value.host.clone(),
            position: url.position.clone(),
        };
        self.known(object, &written, path);
        let (host, port) = (
            self.mesh.host(&written.value, &object.key.namespace),
            url.value.port,
        );
        self.port((Code::UnknownPort, object), &host, port, &written, path);
        // Calls to a registered service have the mesh's own TLS.
        if !url.value.https || self.mesh.is_registered(&host) || !self.mesh.knows(&host) {
            return;
        }
        let policy = self.mesh.traffic_policy(&host, None);
        let of_port = policy.at_port(port);
        let tls = of_port.tls.as_ref().map(|tls| tls.value.mode);
        if !matches!(tls, Some(TlsMode::Simple | TlsMode::Mutual)) {
            let message = format!(
                "says https, but nothing asks for TLS to {host} port {port}: without, its keys cannot be fetched; add a DestinationRule for {host} with trafficPolicy.tls.mode: SIMPLE"
            );
            self.found
                .warn(Code::KeysWithoutTls, object, &url.position, path, message);
        }
    }
}
