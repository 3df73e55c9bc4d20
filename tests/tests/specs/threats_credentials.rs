//! Attacks on credentials, configuration and secrets, tried against real processes. Each fails, and is counted or told.

mod requests;
mod rogue;
mod servers;
mod tokens;

use std::time::Duration;

use outrigger_proto::outrigger::v1::{
    IssueCertificateRequest, IssueCertificateResponse, identity_client::IdentityClient,
};
use outrigger_tests::{Mesh, WorkloadIdentity};
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Request, Status};

/// A request for a certificate that claims nothing.
fn csr() -> Vec<u8> {
    request(&CertificateParams::default(), &KeyPair::generate().unwrap())
}

fn request(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}

/// Asks for a certificate with a bearer token, as a stranger.
async fn ask(mesh: &Mesh, bearer: &str, csr: Vec<u8>) -> Result<IssueCertificateResponse, Status> {
    ask_as(mesh, None, Some(bearer), csr).await
}

async fn ask_as(
    mesh: &Mesh,
    identity: Option<&WorkloadIdentity>,
    bearer: Option<&str>,
    csr: Vec<u8>,
) -> Result<IssueCertificateResponse, Status> {
    let mut request = Request::new(IssueCertificateRequest {
        csr_der: csr,
        ttl: None,
    });
    if let Some(bearer) = bearer {
        let bearer = format!("Bearer {bearer}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    request.set_timeout(Duration::from_secs(30));
    let channel = mesh.channel(identity).await;
    let issued = IdentityClient::new(channel)
        .issue_certificate(request)
        .await;
    issued.map(tonic::Response::into_inner)
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, words: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{status:?}");
}
