//! What the control plane is started with. The command line fills it; nothing else reads flags or environment.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use outrigger_policy::{OutboundTrafficPolicy, Subnet};

/// Where the key is that encrypts the roots' private keys.
#[derive(Clone, Debug, Default)]
pub enum RootEncryption {
    /// `root-encryption.key` in the data directory, made at first start: protects copies of the store, not the directory.
    #[default]
    Beside,
    /// A file: one key a line, 32 bytes in hex or base64; the first encrypts, all decrypt.
    File(PathBuf),
    /// The same text, from the environment.
    Key(Hidden),
}

/// What becomes of a path before access rules, routes and the application see it: all three see the same one. Dot
/// segments are always resolved, and what disguises them is refused. Source: Istio `MeshConfig.pathNormalization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathNormalization {
    /// [`Self::MergeSlashes`] for workloads whose access rules look at paths, [`Self::Base`] for others. Default.
    #[default]
    Auto,
    /// Nothing else (Istio's default).
    Base,
    /// Several slashes in a row become one.
    MergeSlashes,
    /// `%2F` and `%5C` become slashes, too.
    DecodeAndMergeSlashes,
    /// A path with `%2F` or `%5C` is refused (400).
    RejectEscapedSlashes,
}

/// Where services have addresses from that redirected connections go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipPools {
    /// IPv4: 8 to 29 bits of prefix. Default 240.240.0.0/16 (Istio's).
    pub v4: Subnet,
    /// IPv6: 16 to 112 bits of prefix. Default 2001:2::/48 (Istio's).
    pub v6: Subnet,
}

impl Default for VipPools {
    fn default() -> Self {
        Self {
            v4: Subnet {
                address: Ipv4Addr::new(240, 240, 0, 0).into(),
                prefix: 16,
            },
            v6: Subnet {
                address: Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).into(),
                prefix: 48,
            },
        }
    }
}

impl VipPools {
    /// The default with these in place of those of their family.
    ///
    /// # Errors
    /// Which one is wrong, and what would be right.
    pub fn with(written: &[Subnet]) -> Result<Self, String> {
        let mut pools = Self::default();
        let (mut v4, mut v6) = (false, false);
        for net in written {
            let (pool, seen, range) = match net.address {
                IpAddr::V4(_) => (&mut pools.v4, &mut v4, 8..=29),
                IpAddr::V6(_) => (&mut pools.v6, &mut v6, 16..=112),
            };
            if std::mem::replace(seen, true) {
                return Err(format!("{net}: one network of each family"));
            }
            if !range.contains(&net.prefix) {
                return Err(format!(
                    "{net}: a network of {} to {} bits, e.g. {pool}",
                    range.start(),
                    range.end()
                ));
            }
            let address = net.address;
            if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
                return Err(format!(
                    "{net}: addresses that nothing else has, e.g. {pool}"
                ));
            }
            *pool = *net;
        }
        Ok(pools)
    }
}

/// Something that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// Hides `text`.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// Settings of one control plane. Addresses with port 0 pick a free port; the ready line says which.
#[derive(Clone, Debug)]
pub struct Config {
    /// gRPC (xDS, admin, registry, identity) and HTTP/JSON over TLS. Default `0.0.0.0:15012`.
    pub grpc: SocketAddr,
    /// The same in plain text, where every caller counts as the operator. Default off; loopback only.
    pub plaintext: Option<SocketAddr>,
    /// Metrics and health over plain HTTP. Default `0.0.0.0:15014`.
    pub http: SocketAddr,
    /// Store, authority's key, admin token. Created with mode 0700.
    pub data_dir: PathBuf,
    /// SPIFFE trust domain. Default `cluster.local`. Fixed once the root exists.
    pub trust_domain: String,
    /// DNS domain of short names. Default `cluster.local`.
    pub domain: String,
    /// Namespace whose security documents without a selector are for the whole mesh. Default `istio-system` (Istio's).
    pub root_namespace: String,
    /// Of requests that workloads are sent.
    pub path_normalization: PathNormalization,
    /// Addresses of services. Default `240.240.0.0/16` and `2001:2::/48`.
    pub vip_pools: VipPools,
    /// What becomes of redirected connections to where no service is, if no Sidecar document says. Default: they go on.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Root certificate (PEM) to use instead of one made at first start. Needs `root_key`.
    pub root_cert: Option<PathBuf>,
    /// Private key (PEM) of `root_cert`.
    pub root_key: Option<PathBuf>,
    /// Directory with `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem` (optional) and `root-cert.pem`, to sign with instead
    /// of a root made at first start: an intermediate, as a rule. Not beside `root_cert`.
    pub ca_dir: Option<PathBuf>,
    /// What the private keys of roots are encrypted with in the store.
    pub root_encryption: RootEncryption,
    /// Life of roots that are made here. Default 3650 days, at least one.
    pub root_ttl: Duration,
    /// For this long a certificate that has ended may still renew itself, and do nothing else. Default 24 h; zero: never.
    pub renewal_grace: Duration,
    /// Lease of a registration that asks for none. Default 30 s.
    pub lease_ttl: Duration,
    /// How often registrants are told to renew. Default 10 s.
    pub heartbeat_interval: Duration,
    /// Names (DNS or IP) in the server certificate beside `localhost` and the loopback addresses.
    pub server_names: Vec<String>,
    /// Roots (PEM) of another authority, SPIRE's, whose certificates clients of our trust domain may have. Default: ours only.
    pub spiffe_bundle: Option<PathBuf>,
    /// Whether Kubernetes' projected tokens buy certificates, and how they are checked. Default: they do not.
    pub kubernetes: Option<Kubernetes>,
}

/// How projected service-account tokens are checked.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// By keys or by the API server.
    pub check: KubernetesCheck,
    /// What `iss` has to be. None = not looked at; only for a review, which knows.
    pub issuer: Option<String>,
    /// One of these has to be among the token's. Default `outrigger-ca`, `istio-ca`.
    pub audiences: Vec<String>,
    /// Roots (PEM) of the API server. Default: those that a pod has.
    pub ca: Option<PathBuf>,
    /// Our own token for the API server, read for each call. Default: that of our pod.
    pub token_file: Option<PathBuf>,
}

/// Who knows whose a token is.
#[derive(Clone, Debug)]
pub enum KubernetesCheck {
    /// A file with the cluster's keys (JWKS).
    KeysFile(PathBuf),
    /// Where the cluster's keys are served, e.g. `https://kubernetes.default.svc/openid/v1/jwks`.
    KeysUrl(String),
    /// The API server, asked to review each token, e.g. `https://kubernetes.default.svc`.
    Review(String),
}

#[cfg(test)]
impl Config {
    /// Free ports, and defaults otherwise.
    pub(crate) fn for_tests(data_dir: &std::path::Path) -> Self {
        Self {
            grpc: ([127, 0, 0, 1], 0).into(),
            plaintext: None,
            http: ([127, 0, 0, 1], 0).into(),
            data_dir: data_dir.to_owned(),
            trust_domain: "cluster.local".into(),
            domain: "cluster.local".into(),
            root_cert: None,
            root_key: None,
            ca_dir: None,
            root_encryption: RootEncryption::default(),
            root_ttl: Duration::from_secs(3650 * 86_400),
            renewal_grace: Duration::from_secs(86_400),
            lease_ttl: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(10),
            server_names: Vec::new(),
            kubernetes: None,
            root_namespace: "istio-system".into(),
            path_normalization: PathNormalization::Auto,
            vip_pools: VipPools::default(),
            outbound_traffic_policy: OutboundTrafficPolicy::AllowAny,
            spiffe_bundle: None,
        }
    }
}
