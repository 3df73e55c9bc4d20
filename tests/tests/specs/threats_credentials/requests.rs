//! Requests for certificates that want more than they may have.

use outrigger_tests::eventually;
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, SanType};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_other_names_and_a_ca_is_given_its_own_name_and_no_ca() {
    let mesh = Mesh::start().await;
    let shopper = WorkloadIdentity::join(&mesh, "shopper").await;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let uri = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";
    let uri = SanType::URI(uri.try_into().unwrap());
    params.subject_alt_names.push(uri);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let csr = request(&params, &KeyPair::generate().unwrap());
    let issued = ask_as(&mesh, Some(&shopper), None, csr).await.unwrap();
    let (_, leaf) = parse_x509_certificate(&issued.chain_der[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI(&shopper.spiffe_id)]
    );
    assert!(!leaf.is_ca());
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_weak_and_oversized_requests_are_refused_and_cost_no_token() {
    let mesh = Mesh::start().await;
    let token = mesh.join_token("default", "reviews");
    let good = csr();
    let mut tampered = good.clone();
    // The last byte is of the signature, the one in the middle of the key.
    *tampered.last_mut().unwrap() ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    let weak = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let table = [
        (tampered, "signature"),
        (longer, "after its end"),
        (vec![0; 17 * 1024], "too many"),
        (weak_request(), "2048 bits or more"),
        (b"no request".to_vec(), "PKCS#10"),
    ];
    for (csr, words) in table {
        refused(ask(&mesh, &token, csr).await, Code::InvalidArgument, words);
    }
    // More than the server reads of any request.
    let status = ask(&mesh, &token, vec![0; 1 << 20]).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    // The token is as good as before; and so is RSA of 2,048 bits.
    let strong = request(&CertificateParams::default(), &weak);
    ask(&mesh, &token, strong).await.unwrap();
}

/// Of an RSA key of 1,024 bits, made by OpenSSL (rcgen makes none): `openssl req -new -newkey rsa:1024 -subj /CN=x`.
fn weak_request() -> Vec<u8> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD
        .decode(include_str!("rsa-1024.csr").replace('\n', ""))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_identity_that_asks_without_end_is_slowed_down_alone() {
    let mesh = Mesh::start().await;
    let greedy = WorkloadIdentity::join(&mesh, "greedy").await;
    let other = WorkloadIdentity::join(&mesh, "other").await;
    let csr = csr();
    let channel = mesh.channel(Some(&greedy)).await;
    let limited = eventually("the limit is reached", async || {
        let asks = (0..50).map(|_| {
            let mut client = IdentityClient::new(channel.clone());
            let csr_der = csr.clone();
            async move {
                let request = IssueCertificateRequest { csr_der, ttl: None };
                client.issue_certificate(request).await
            }
        });
        let answers = futures_util::future::join_all(asks).await;
        let refused = answers.into_iter().find_map(Result::err);
        refused.ok_or_else(|| "all were issued".to_owned())
    })
    .await;
    assert_eq!(limited.code(), Code::ResourceExhausted);
    assert!(limited.message().contains("try again in"), "{limited:?}");
    ask_as(&mesh, Some(&other), None, csr).await.unwrap();
}
