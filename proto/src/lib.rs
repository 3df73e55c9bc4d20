//! xDS v3 and `outrigger.v1`, compiled from `api/`: the only thing that the control plane and the
//! sidecar share. Module paths follow the packages, e.g. [`envoy::config::cluster::v3::Cluster`].
//! No logic lives here but [`length`].

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

/// A `google.protobuf.Duration` that is well-formed and not negative: 0 to 315,576,000,000 s, less than 1,000,000,000 ns
/// more (its own bounds). `prost_types`' conversion overflows for some that are not.
pub fn length(value: &prost_types::Duration) -> Option<std::time::Duration> {
    let seconds = u64::try_from(value.seconds)
        .ok()
        .filter(|seconds| *seconds <= 315_576_000_000)?;
    let nanos = u32::try_from(value.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(std::time::Duration::new(seconds, nanos))
}
