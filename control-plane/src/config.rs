//! What the control plane is started with. The command line fills it; nothing else reads flags or environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

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
    /// Root certificate (PEM) to use instead of one made at first start. Needs `root_key`.
    pub root_cert: Option<PathBuf>,
    /// Private key (PEM, PKCS#8) of `root_cert`.
    pub root_key: Option<PathBuf>,
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
