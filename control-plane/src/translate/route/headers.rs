//! Header edits in xDS' words.

use outrigger_policy::{HeaderEdits, HeaderOps};
use outrigger_proto::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};

/// What a route or a weighted cluster does to headers on both ways.
pub(super) struct Edits {
    pub(super) request_add: Vec<HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
}

impl Edits {
    pub(super) fn of(edits: &HeaderEdits) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self {
            request_add: options(&edits.request),
            request_remove: lower(&edits.request.remove),
            response_add: options(&edits.response),
            response_remove: lower(&edits.response.remove),
        }
    }
}

/// `set`, then `add`. Neither names `Host`: `parse` refuses that in favour of `rewrite.authority`.
fn options(edits: &HeaderOps) -> Vec<HeaderValueOption> {
    let set = edits
        .set
        .iter()
        .map(|(name, value)| option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = edits
        .add
        .iter()
        .map(|(name, value)| option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn option(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: action as i32,
        append: None,
        // Or else an empty value would mean: no such header.
        keep_empty_value: value.is_empty(),
    }
}
