//! One DestinationPolicy of a namespace for each host and subset: the newer of two is refused.

use std::sync::Arc;

use super::{Found, named};
use crate::{Code, DestinationPolicy, HostName, Object};

pub(super) fn merge(
    host: &HostName,
    subset: &str,
    mut documents: Vec<(&Arc<Object>, &DestinationPolicy)>,
    found: &mut Found,
) -> Option<(Arc<Object>, DestinationPolicy)> {
    documents.sort_by_key(|(object, _)| found.age(object));
    let mut by_age = documents.into_iter();
    let (oldest, policy) = by_age.next()?;
    for (object, newer) in by_age {
        let what = if subset.is_empty() {
            host.to_string()
        } else {
            format!("the subset {subset:?} of {host}")
        };
        let message = format!(
            "{what} has a DestinationPolicy already, {}; put both into one document",
            named(oldest)
        );
        let place = newer.subset.as_ref().unwrap_or(&newer.host);
        let path = if subset.is_empty() {
            "spec.host"
        } else {
            "spec.subset"
        };
        found.error(Code::PolicyInTwo, object, &place.position, path, message);
    }
    Some((Arc::clone(oldest), policy.clone()))
}
