//! CDS for a gRPC library that has certificates: mTLS for a cluster whose endpoints have it.
//!
//! A library calls all endpoints of a cluster alike. A service may have mTLS in some of its subsets only, so that a
//! cluster alone does not say which way: its endpoints do. They are those that the library gets, which depend on where it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{cluster, endpoint};
use crate::snapshot::{Adapted, Notes, ResourceBytes, Resources, TypeMap, View};

/// Places remembered of one scope, as its assignments are.
const MAX_REMEMBERED: usize = 256;

/// Clusters by the assignments that they were made for.
#[derive(Debug, Default)]
pub(in crate::translate) struct Secured(Mutex<Vec<(Arc<TypeMap>, Clusters)>>);

#[derive(Clone, Debug)]
struct Clusters {
    shared: Arc<TypeMap>,
    notes: Arc<Notes>,
}

impl Secured {
    /// What becomes of `clusters` whose endpoints are these. Follows what `before` has of the endpoints before.
    pub(in crate::translate) fn of(
        &self,
        clusters: &TypeMap,
        endpoints: &Arc<TypeMap>,
        before: Option<(&Self, &Arc<TypeMap>)>,
    ) -> Resources {
        let made = self.known(endpoints).unwrap_or_else(|| {
            let before = before.and_then(|(before, endpoints)| before.known(endpoints));
            self.remember(endpoints, make(clusters, endpoints, before.as_ref()))
        });
        Resources {
            shared: made.shared,
            // Of a sidecar's own application: a library is its own.
            own: TypeMap::empty(),
            view: View::Noted(made.notes),
        }
    }

    fn known(&self, endpoints: &Arc<TypeMap>) -> Option<Clusters> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(of, _)| Arc::ptr_eq(of, endpoints));
        found.map(|(_, made)| made.clone())
    }

    /// Whoever was first, so that all share one.
    fn remember(&self, endpoints: &Arc<TypeMap>, made: Clusters) -> Clusters {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, first)) = known.iter().find(|(of, _)| Arc::ptr_eq(of, endpoints)) {
            return first.clone();
        }
        if known.len() < MAX_REMEMBERED {
            known.push((Arc::clone(endpoints), made.clone()));
        }
        made
    }
}

fn make(clusters: &TypeMap, endpoints: &TypeMap, before: Option<&Clusters>) -> Clusters {
    let (mut resources, mut notes) = (Vec::new(), BTreeMap::new());
    for resource in clusters.iter() {
        let Adapted {
            resource: adapted,
            notes: remarks,
            ..
        } = adapted(resource, endpoints);
        resources.extend(adapted);
        if !remarks.is_empty() {
            notes.insert(Arc::clone(&resource.name), remarks);
        }
    }
    Clusters {
        shared: TypeMap::following(before.map(|before| &before.shared), resources),
        notes: Arc::new(notes),
    }
}

fn adapted(resource: &ResourceBytes, endpoints: &TypeMap) -> Adapted {
    let assignment = endpoints.get(&resource.name);
    let plain = assignment.and_then(|one| endpoint::WITH_CERTIFICATES.of(one));
    let plain = plain.is_some_and(|endpoints| endpoints.plain);
    let dialect = if plain {
        cluster::OF_PLAIN_ENDPOINTS
    } else {
        cluster::WITH_CERTIFICATES
    };
    dialect.of(resource).cloned().unwrap_or_default()
}
