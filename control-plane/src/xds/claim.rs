//! Who a stream says it is, and whether it may: the same for every kind of stream that carries a node.

use outrigger_proto::envoy::config::core::v3::Node;
use prost::Message as _;
use prost_types::Struct;
use tonic::Status;

use super::subscription::MAX_NAME_BYTES;
use crate::{spiffe::SpiffeId, translate::NodeInfo};

/// Labels of a node.
const MAX_LABELS: usize = 256;
/// Keys and values of a node's labels.
const MAX_LABEL_BYTES: usize = 16 * 1024;

/// All that a node says about itself. Istio's agents bring a few KiB.
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// Reads the node of a stream's first request and holds it against the stream's identity (None = the operator, who
/// may claim any).
pub(crate) fn node(node: Option<&Node>, identity: Option<&SpiffeId>) -> Result<NodeInfo, Status> {
    let node = node.ok_or_else(|| {
        Status::invalid_argument("the first request of a stream has to carry a node")
    })?;
    if node.id.len() > MAX_NAME_BYTES {
        return Err(Status::invalid_argument(format!(
            "node.id has {} bytes; at most {MAX_NAME_BYTES}",
            node.id.len()
        )));
    }
    let metadata = node.metadata.as_ref().map_or(0, Struct::encoded_len);
    if metadata > MAX_METADATA_BYTES {
        return Err(Status::invalid_argument(format!(
            "node.metadata has {metadata} bytes; at most {MAX_METADATA_BYTES}"
        )));
    }
    let node = NodeInfo::parse(node).map_err(Status::invalid_argument)?;
    let names = [Some(&node.namespace), node.service_account.as_ref()];
    if names
        .into_iter()
        .flatten()
        .any(|name| name.len() > MAX_NAME_BYTES)
    {
        return Err(Status::invalid_argument(format!(
            "node.metadata: NAMESPACE and SERVICE_ACCOUNT have at most {MAX_NAME_BYTES} bytes"
        )));
    }
    // Foreign clients bring the labels of their platform, whose keys are not ours to judge.
    let labels = node
        .labels
        .iter()
        .map(|(key, value)| key.len() + value.len());
    if node.labels.len() > MAX_LABELS || labels.sum::<usize>() > MAX_LABEL_BYTES {
        return Err(Status::invalid_argument(format!(
            "node.metadata.LABELS has {} labels; at most {MAX_LABELS}, of {MAX_LABEL_BYTES} bytes together",
            node.labels.len()
        )));
    }
    if let Some(identity) = identity {
        let account = node.service_account.as_deref();
        if node.namespace != identity.namespace()
            || account.is_some_and(|account| account != identity.service_account())
        {
            return Err(Status::permission_denied(format!(
                "{identity} claims to be namespace {:?}, service account {:?}; a workload is served its own only",
                node.namespace,
                account.unwrap_or_default(),
            )));
        }
    }
    Ok(node)
}
