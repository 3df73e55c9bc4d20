//! What the DNS server and the xDS client share: the names that are known, those that queries wait for, and whose names
//! they are.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use super::book::Book;
use crate::demand::Demand;

/// One per process.
#[derive(Debug)]
pub(crate) struct Names {
    book: Mutex<Book>,
    /// Names that queries wait for, where they are asked for one by one.
    pub(crate) demand: Demand,
    scope: OnceLock<Scope>,
    configured: watch::Sender<bool>,
}

/// Whose names they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The application's, for short names.
    pub(crate) namespace: String,
    /// The mesh's, e.g. `cluster.local`.
    pub(crate) domain: String,
    /// Names are asked for one by one; else all are sent.
    pub(crate) on_demand: bool,
}

impl Scope {
    /// Of a node's id, whose last part is `<namespace>.svc.<domain>`.
    pub(crate) fn of_node(id: &str, on_demand: bool) -> Self {
        let own = id.rsplit('~').next().unwrap_or_default();
        let (namespace, domain) = own
            .split_once(".svc.")
            .unwrap_or(("default", "cluster.local"));
        Self {
            namespace: namespace.to_ascii_lowercase(),
            domain: domain.trim_end_matches('.').to_ascii_lowercase(),
            on_demand,
        }
    }

    /// Whether a name is the mesh's and nobody else's.
    pub(crate) fn owns(&self, name: &str) -> bool {
        let parent = name.strip_suffix(self.domain.as_str());
        parent.is_some_and(|parent| parent.is_empty() || parent.ends_with('.'))
    }
}

impl Default for Names {
    fn default() -> Self {
        Self {
            book: Mutex::default(),
            demand: Demand::default(),
            scope: OnceLock::new(),
            configured: watch::Sender::new(false),
        }
    }
}

impl Names {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once, before [`Self::set_configured`].
    pub(crate) fn begin(&self, scope: Scope) {
        self.scope.get_or_init(|| scope);
    }

    /// None until there is an xDS client.
    pub(crate) fn scope(&self) -> Option<&Scope> {
        self.scope.get()
    }

    /// The first configuration is here: a name that is not known now is not the mesh's, or has to be asked for.
    pub(crate) fn set_configured(&self) {
        self.configured
            .send_if_modified(|is| !std::mem::replace(is, true));
    }

    pub(crate) fn configured(&self) -> watch::Receiver<bool> {
        self.configured.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_whose_names_are_short_and_which_are_the_meshs() {
        let scope = Scope::of_node("sidecar~10.0.0.1~a-1.shop~shop.svc.example.org", true);
        assert_eq!(scope.namespace, "shop");
        assert_eq!(scope.domain, "example.org");
        assert!(scope.owns("orders.shop.svc.example.org"));
        assert!(scope.owns("example.org"));
        assert!(!scope.owns("anexample.org"));
        assert!(!scope.owns("orders"));
        let foreign = Scope::of_node("node-1", false);
        assert_eq!(foreign.domain, "cluster.local");
    }
}
