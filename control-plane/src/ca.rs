//! The certificate authority: signs identities, for whoever proved to have one, and exchanges its own root in time.
//!
//! ```text
//! CSR ─csr─► public key ─┐
//! credential ─► SpiffeId ─┴─► authority ─signer─► X.509-SVID ─► records
//!                                 │ what is in force (state), in the store, keys sealed (seal)
//!              keeper ────────────┘ age, files, ACKs ─rotation─► next step
//! ```
//! Of a request only the key is used; the identity is the credential's. Keys of workloads are never seen here.
//! Source: SPIFFE X.509-SVID, sections 4 and 5.

use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::SerialNumber;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::refusal::Refusal;

pub(crate) mod authority;
pub(crate) mod csr;
mod given;
pub(crate) mod grpc;
pub(crate) mod keeper;
pub(crate) mod kubernetes;
pub(crate) mod limit;
pub(crate) mod metrics;
pub(crate) mod records;
pub(crate) mod report;
pub(crate) mod root;
pub(crate) mod rotation;
pub(crate) mod seal;
pub(crate) mod server_cert;
pub(crate) mod service;
pub(crate) mod signer;
pub(crate) mod state;
pub(crate) mod tokens;

pub(crate) use authority::{Authority, Issued};

/// Life of a certificate that asks for none.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(60 * 60);
/// Longest life.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest life: below, renewal at half-life would not keep up.
pub(crate) const MIN_TTL: Duration = Duration::from_secs(10);
/// Certificates begin this much earlier, for clocks that are behind.
pub(crate) const BACKDATED: Duration = Duration::from_secs(60);

/// The default for none or zero; refuses what is out of range.
fn checked_ttl(ttl: Option<Duration>) -> Result<Duration, Refusal> {
    match ttl {
        None | Some(Duration::ZERO) => Ok(DEFAULT_TTL),
        Some(ttl) if (MIN_TTL..=MAX_TTL).contains(&ttl) => Ok(ttl),
        Some(ttl) => Err(Refusal::invalid(
            "ttl",
            format!(
                "{} s is out of range; use {} s to {} s, or 0 for {} s",
                ttl.as_secs_f64(),
                MIN_TTL.as_secs(),
                MAX_TTL.as_secs(),
                DEFAULT_TTL.as_secs()
            ),
        )),
    }
}

/// 16 random bytes, positive (RFC 5280: at most 20, CA/B: at least 64 bits of randomness).
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_unspecified| rcgen::Error::RingUnspecified)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// A certificate as PEM, in lines of 64 (RFC 7468).
pub(crate) fn pem_text(der: &CertificateDer<'_>) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (n, character) in BASE64_STANDARD.encode(der).chars().enumerate() {
        if n > 0 && n % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(digit)
        .collect()
}

fn digit(nibble: u8) -> Option<char> {
    char::from_digit(nibble.into(), 16)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
