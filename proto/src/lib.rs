//! xDS v3 and `outrigger.v1`, compiled from `api/`: the only thing that the control plane and the
//! sidecar share. Module paths follow the packages, e.g. [`envoy::config::cluster::v3::Cluster`].
//! No logic lives here.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    reason = "generated from api/, where the documentation is"
)]
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    reason = "generated from api/"
)]

include!(concat!(env!("OUT_DIR"), "/api.rs"));

/// The `google.protobuf.FileDescriptorSet` of everything in `api/`, serialised.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
