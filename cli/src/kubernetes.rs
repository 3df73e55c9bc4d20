//! Flags of `outrigger control-plane` for tokens that Kubernetes projects into pods.

use std::path::PathBuf;

use clap::Args;
use outrigger_control_plane::{Kubernetes, KubernetesCheck};

use crate::failure::Failure;

/// How tokens of pods are checked; without one of the first two they are not taken.
#[derive(Args, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct KubernetesArgs {
    /// Take projected service-account tokens for certificates, and check them with the cluster's keys (JWKS): a file, or
    /// a URL such as `https://kubernetes.default.svc/openid/v1/jwks`. Needs --kubernetes-issuer. Default: not taken.
    #[arg(
        long,
        value_name = "FILE|URL",
        requires = "issuer",
        conflicts_with = "review",
        env = "OUTRIGGER_KUBERNETES_JWKS"
    )]
    kubernetes_jwks: Option<String>,
    /// The same, and ask the API server at this URL about each token (TokenReview), which also knows whether its pod is
    /// still there.
    #[arg(
        id = "review",
        long = "kubernetes-token-review",
        value_name = "URL",
        env = "OUTRIGGER_KUBERNETES_TOKEN_REVIEW"
    )]
    review: Option<String>,
    /// Issuer (`iss`) of the tokens, as /.well-known/openid-configuration of the cluster says it.
    #[arg(
        id = "issuer",
        long = "kubernetes-issuer",
        value_name = "URL",
        env = "OUTRIGGER_KUBERNETES_ISSUER"
    )]
    issuer: Option<String>,
    /// Audience that a token must have; may be given several times.
    #[arg(
        long = "kubernetes-audience",
        value_name = "NAME",
        value_delimiter = ',',
        default_values = ["outrigger-ca", "istio-ca"],
        env = "OUTRIGGER_KUBERNETES_AUDIENCES"
    )]
    audiences: Vec<String>,
    /// Root certificates (PEM) of the API server. Default: those of the pod.
    #[arg(
        long = "kubernetes-ca",
        value_name = "FILE",
        env = "OUTRIGGER_KUBERNETES_CA"
    )]
    ca: Option<PathBuf>,
    /// The control plane's own token for the API server, read for each call. Default: that of the pod.
    #[arg(
        long = "kubernetes-token-file",
        value_name = "FILE",
        env = "OUTRIGGER_KUBERNETES_TOKEN_FILE"
    )]
    token_file: Option<PathBuf>,
}

impl KubernetesArgs {
    pub(crate) fn config(self) -> Result<Option<Kubernetes>, Failure> {
        let check = match (self.kubernetes_jwks, self.review) {
            (None, None) => return Ok(None),
            (Some(url), _) if url.contains("://") => KubernetesCheck::KeysUrl(url),
            (Some(file), _) => KubernetesCheck::KeysFile(file.into()),
            (None, Some(url)) => KubernetesCheck::Review(url),
        };
        if self.audiences.iter().any(String::is_empty) {
            return Err(Failure::Misused(
                "--kubernetes-audience is empty; a token for everybody is good anywhere".to_owned(),
            ));
        }
        Ok(Some(Kubernetes {
            check,
            issuer: self.issuer,
            audiences: self.audiences,
            ca: self.ca,
            token_file: self.token_file,
        }))
    }
}
