//! TLS to the world outside, with files of the calling sidecar's: `tls.mode: SIMPLE` and `MUTUAL`.

use std::{fs, path::Path};

use outrigger_policy::{ClientTls, TlsMode};

use super::*;

fn tls(mode: TlsMode) -> ClientTls {
    ClientTls {
        mode,
        client_certificate: None,
        private_key: None,
        ca_certificates: None,
        ca_crl: None,
        subject_alt_names: Vec::new(),
        sni: None,
        insecure_skip_verify: false,
    }
}

fn with(tls: ClientTls) -> Given {
    reviews().destination_rule("reviews", move |rule| {
        rule.traffic_policy.tls = Some(at(2, tls.clone()));
    })
}

/// The one context of the cluster.
fn context(given: &Given) -> Value {
    let cluster = given.seen_by(&node()).json(Cluster, REVIEWS);
    assert_eq!(
        cluster["transportSocketMatches"],
        Value::Null,
        "the same for all endpoints"
    );
    cluster["transportSocket"]["typedConfig"].clone()
}

fn names(validation: &Value) -> Vec<(&str, &str)> {
    let all = validation["matchTypedSubjectAltNames"].as_array().unwrap();
    all.iter()
        .map(|one| {
            (
                one["sanType"].as_str().unwrap(),
                one["matcher"]["exact"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn simple_trusts_the_systems_roots_for_the_name_that_is_called() {
    let context = context(&with(tls(TlsMode::Simple)));
    let host = "reviews.default.svc.cluster.local";
    assert_eq!(context["sni"], host);
    let common = &context["commonTlsContext"];
    assert_eq!(common["tlsCertificates"], Value::Null);
    let validation = &common["validationContext"];
    assert_eq!(
        validation["trustedCa"]["filename"],
        "/etc/ssl/certs/ca-certificates.crt"
    );
    assert_eq!(names(validation), [("DNS", host)]);
    let sni = ClientTls {
        sni: Some("b.example".into()),
        ..tls(TlsMode::Simple)
    };
    let context = self::context(&with(sni));
    assert_eq!(context["sni"], "b.example");
    assert_eq!(
        names(&context["commonTlsContext"]["validationContext"]),
        [("DNS", "b.example")]
    );
}

/// A certificate that stands for all files at once.
fn files(dir: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (
        write("cert.pem", made.cert.pem()),
        write("key.pem", made.signing_key.serialize_pem()),
    )
}

#[test]
fn mutual_shows_a_certificate_and_asks_for_every_kind_of_name() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = files(dir.path());
    let given = with(ClientTls {
        client_certificate: Some(cert.clone()),
        private_key: Some(key.clone()),
        ca_certificates: Some(cert.clone()),
        subject_alt_names: ["a.example", "spiffe://a/b", "192.0.2.1"]
            .map(str::to_owned)
            .into(),
        ..tls(TlsMode::Mutual)
    });
    let context = context(&given);
    let common = &context["commonTlsContext"];
    let pair = json!([{"certificateChain": {"filename": cert}, "privateKey": {"filename": key}}]);
    assert_eq!(common["tlsCertificates"], pair);
    let validation = &common["validationContext"];
    assert_eq!(validation["trustedCa"]["filename"], cert);
    assert_eq!(
        names(validation),
        [
            ("DNS", "a.example"),
            ("URI", "spiffe://a/b"),
            ("IP_ADDRESS", "192.0.2.1")
        ]
    );
    envoy::accepts(&given);
}

#[test]
fn only_what_was_told_to_skips_verification() {
    let given = with(ClientTls {
        insecure_skip_verify: true,
        ..tls(TlsMode::Simple)
    });
    let validation = &context(&given)["commonTlsContext"]["validationContext"];
    assert_eq!(
        *validation,
        json!({"trustChainVerification": "ACCEPT_UNTRUSTED"})
    );
    envoy::accepts(&given);
}

#[test]
fn mesh_tls_takes_the_names_that_were_written() {
    let given = with(ClientTls {
        subject_alt_names: vec!["spiffe://cluster.local/ns/x/sa/y".into()],
        sni: Some("other.example".into()),
        ..tls(TlsMode::IstioMutual)
    });
    let cluster = given.seen_by(&node()).json(Cluster, REVIEWS);
    assert_eq!(san(&cluster), ["spiffe://cluster.local/ns/x/sa/y"]);
    let context = &cluster["transportSocketMatches"][0]["transportSocket"]["typedConfig"];
    assert_eq!(context["sni"], "other.example");
}

#[test]
fn servers_of_the_world_outside_are_spoken_to_as_the_port_says() {
    let explicit = |given: &Given| {
        let cluster = given.seen_by(&node()).json(Cluster, REVIEWS);
        let options = &cluster["typedExtensionProtocolOptions"];
        options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["explicitHttpConfig"]
            .clone()
    };
    let given = with(tls(TlsMode::Simple));
    assert_eq!(explicit(&given), json!({"httpProtocolOptions": {}}));
    let given = given.speaking("reviews", 9080, outrigger_policy::Protocol::Grpc);
    assert_eq!(
        explicit(&given),
        json!({"http2ProtocolOptions": {"allowConnect": true}})
    );
    assert_eq!(
        explicit(&reviews()),
        Value::Null,
        "a sidecar takes what the client speaks"
    );
}
