//! Flags of `outrigger control-plane` for its certificate authority.

use std::{env, path::PathBuf, time::Duration};

use clap::Args;
use outrigger_control_plane::{Hidden, RootEncryption};

use crate::{duration, failure::Failure};

/// Where the encryption key itself may stand, as text.
const KEY_VARIABLE: &str = "OUTRIGGER_ROOT_KEY_ENCRYPTION_KEY";

/// What signs, and how its key is kept.
#[derive(Args, Debug)]
#[command(next_help_heading = "Certificate authority")]
pub(crate) struct AuthorityArgs {
    /// Directory with an intermediate to sign with: ca-cert.pem, ca-key.pem, cert-chain.pem (up to the root, if there is
    /// more between), root-cert.pem. Read again when it changes. Default: a root made at first start.
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["root_cert", "root_key"],
        env = "OUTRIGGER_CA_DIR"
    )]
    pub(crate) ca_dir: Option<PathBuf>,
    /// File with the key that encrypts private keys of roots in the store: 32 bytes in hex or base64, one key a line; the
    /// first encrypts, all decrypt. Or the same text in OUTRIGGER_ROOT_KEY_ENCRYPTION_KEY. Default:
    /// root-encryption.key in the data directory, made at first start.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_ROOT_KEY_ENCRYPTION_FILE")]
    root_key_encryption_file: Option<PathBuf>,
    /// Life of roots that are made here; each is replaced in time, by itself.
    #[arg(long, default_value = "3650d", value_name = "TIME", value_parser = duration::parse, env = "OUTRIGGER_ROOT_TTL")]
    pub(crate) root_ttl: Duration,
    /// For how long a certificate that has ended may still renew itself, after the control plane was away; 0 is never.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = duration::parse_or_zero, env = "OUTRIGGER_RENEWAL_GRACE")]
    pub(crate) renewal_grace: Duration,
}

impl AuthorityArgs {
    /// The file, else the environment, else the data directory.
    pub(crate) fn root_encryption(&self) -> Result<RootEncryption, Failure> {
        let key = env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty());
        match (&self.root_key_encryption_file, key) {
            (Some(_), Some(_)) => Err(Failure::Misused(format!(
                "--root-key-encryption-file and {KEY_VARIABLE} are both given; one of them is the key"
            ))),
            (Some(path), None) => Ok(RootEncryption::File(path.clone())),
            (None, Some(key)) => Ok(RootEncryption::Key(Hidden::new(key))),
            (None, None) => Ok(RootEncryption::Beside),
        }
    }
}
