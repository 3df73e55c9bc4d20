//! The table, by field.

mod answers;
mod clusters;
mod headers;
mod matches;
mod redirects;
mod rewrites;
mod routes;
mod rules;

use super::case::Case;

pub(crate) fn all() -> Vec<Case> {
    [
        matches::cases(),
        routes::cases(),
        redirects::cases(),
        rewrites::cases(),
        answers::cases(),
        headers::cases(),
        clusters::cases(),
        rules::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
