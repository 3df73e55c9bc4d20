//! Whose tokens are verified for one workload. Documents add up: each issuer of each of them is believed (Istio).

use std::sync::Arc;

use super::{HostName, Mesh, security::WorkloadView};
use crate::{JwksUrl, JwtKeys, JwtRule, Object, RequestAuthentication};

impl Mesh {
    /// Every RequestAuthentication that is for a workload, dry runs included, oldest first.
    pub fn request_authentications<'m>(
        &'m self,
        workload: WorkloadView<'m>,
    ) -> impl Iterator<Item = (&'m Arc<Object>, &'m RequestAuthentication)> {
        let all = self.tokens.iter();
        all.filter(move |(object, spec)| {
            let selector = spec.selector.as_ref().map(|labels| &labels.value);
            self.selects(&object.key.namespace, selector, workload)
        })
        .map(|(object, spec)| (object, spec))
    }

    /// The host that has the keys, as a document of `namespace` means it.
    #[must_use]
    pub fn host_of_keys(&self, url: &JwksUrl, namespace: &str) -> HostName {
        self.host(&url.host, namespace)
    }

    /// Hosts that sidecars of `namespace` fetch keys from.
    pub fn hosts_of_keys<'m>(&'m self, namespace: &'m str) -> impl Iterator<Item = HostName> + 'm {
        let all = self.tokens.iter();
        let here = all.filter(move |(object, _)| {
            let own = &object.key.namespace;
            own == namespace || own == self.root_namespace()
        });
        here.flat_map(|(object, spec)| {
            let urls = spec.rules.iter().filter_map(JwtRule::url);
            urls.map(|url| self.host_of_keys(url, &object.key.namespace))
        })
    }
}

impl JwtRule {
    /// Where its keys are fetched.
    #[must_use]
    pub fn url(&self) -> Option<&JwksUrl> {
        match &self.keys {
            JwtKeys::Inline(_) => None,
            JwtKeys::Url(url) => Some(&url.value),
        }
    }
}
