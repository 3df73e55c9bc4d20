//! `outrigger.v1.Identity` and Istio's certificate service over gRPC.

use std::time::{Duration, SystemTime};

use outrigger_proto::{
    istio::v1::auth::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::IstioCertificateService,
    },
    outrigger::v1::{self as api, identity_server::Identity},
};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{csr::MAX_CSR_BYTES, pem_text, service::IdentityService};
use crate::{
    caller::{Caller, Peer, Shown},
    refusal::Refusal,
};

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn issue_certificate(
        &self,
        request: Request<api::IssueCertificateRequest>,
    ) -> Result<Response<api::IssueCertificateResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let span = from(request.extensions());
        let shown = request.extensions().get::<Shown>().cloned();
        let request = request.into_inner();
        let ttl = request.ttl.map(duration).transpose()?;
        let (id, issued) = self
            .issue(&caller, &request.csr_der, ttl, shown.as_ref())
            .instrument(span)
            .await?;
        Ok(Response::new(api::IssueCertificateResponse {
            chain_der: issued.chain.iter().map(|der| der.to_vec()).collect(),
            roots_der: issued
                .in_force
                .bundle
                .ders
                .iter()
                .map(|der| der.to_vec())
                .collect(),
            spiffe_id: id.to_string(),
            not_after: Some(SystemTime::from(issued.not_after).into()),
        }))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for IdentityService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let span = from(request.extensions());
        let shown = request.extensions().get::<Shown>().cloned();
        let request = request.into_inner();
        // PEM is a third larger than DER, and has lines.
        if request.csr.len() > 2 * MAX_CSR_BYTES {
            return Err(Refusal::invalid("csr", "is too large").into());
        }
        let csr = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes())
            .map_err(|error| Refusal::invalid("csr", format!("no PEM request in it: {error}")))?;
        // Istio's agents ask for 24 h; what is longer is cut, as istiod does.
        let ttl = match u64::try_from(request.validity_duration) {
            Ok(seconds) => Duration::from_secs(seconds).min(super::MAX_TTL),
            Err(_negative) => {
                return Err(Refusal::invalid("validity_duration", "is negative").into());
            }
        };
        let (_, issued) = self
            .issue(&caller, &csr, Some(ttl), shown.as_ref())
            .instrument(span)
            .await?;
        let mut chain: Vec<String> = issued.chain.iter().map(pem_text).collect();
        // Whoever reads it takes the last part for the trust bundle, which may be several roots.
        chain.push(issued.in_force.bundle.pem.to_string());
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: chain,
        }))
    }
}

/// What is logged of a call says where it came from: who used a token is who may have stolen it.
fn from(extensions: &http::Extensions) -> tracing::Span {
    let peer = extensions.get::<Peer>().map(|peer| peer.0);
    tracing::info_span!("certificate", peer = peer.map(tracing::field::display))
}

/// Negative is refused, not cut.
pub(crate) fn duration(length: prost_types::Duration) -> Result<Duration, Refusal> {
    outrigger_proto::length(&length)
        .ok_or_else(|| Refusal::invalid("ttl", "is negative or malformed"))
}
