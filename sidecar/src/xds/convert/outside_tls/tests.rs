use outrigger_proto::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    r#type::matcher::v3::StringMatcher,
};

use super::*;

fn at(path: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::Filename(path.to_owned())),
        ..DataSource::default()
    })
}

fn san(kind: SanType, name: &str) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.to_owned())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    }
}

/// As the control plane sends it for SIMPLE or MUTUAL.
fn context(
    change: impl FnOnce(&mut CommonTlsContext, &mut CertificateValidationContext),
) -> UpstreamTlsContext {
    let mut validation = CertificateValidationContext {
        trusted_ca: at("/certs/ca.pem"),
        match_typed_subject_alt_names: vec![san(SanType::Dns, "pay.example.com")],
        ..CertificateValidationContext::default()
    };
    let mut common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..TlsParameters::default()
        }),
        ..CommonTlsContext::default()
    };
    change(&mut common, &mut validation);
    common.validation_context_type = Some(ValidationContextType::ValidationContext(validation));
    UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: "pay.example.com".to_owned(),
        ..UpstreamTlsContext::default()
    }
}

#[test]
fn files_names_and_versions_are_kept_as_they_are_said() {
    let mutual = context(|common, validation| {
        common.tls_certificates = vec![TlsCertificate {
            certificate_chain: at("/certs/shop.pem"),
            private_key: at("/certs/shop.key"),
            ..TlsCertificate::default()
        }];
        validation.crl = at("/certs/crl.pem");
        validation.match_typed_subject_alt_names.extend([
            san(SanType::IpAddress, "192.0.2.1"),
            san(SanType::Uri, "spiffe://other.example/pay"),
        ]);
    });
    assert!(is_meant(&mutual));
    let found = convert(&mutual).unwrap();
    assert_eq!(found.sni, "pay.example.com");
    assert_eq!(
        found.subject_alt_names,
        ["pay.example.com", "192.0.2.1", "spiffe://other.example/pay"]
    );
    assert_eq!(
        *found.outside.unwrap(),
        OutsideTls {
            roots: Some("/certs/ca.pem".into()),
            client: Some(("/certs/shop.pem".into(), "/certs/shop.key".into())),
            revoked: Some("/certs/crl.pem".into()),
            tls12: true,
            unverified: false,
        }
    );
}

#[test]
fn the_systems_roots_are_no_file_that_needs_leave() {
    let system = context(|_, validation| {
        validation.trusted_ca = at("/etc/ssl/certs/ca-certificates.crt");
    });
    let found = convert(&system).unwrap().outside.unwrap();
    assert_eq!(found.roots, None);
    let unverified = context(|_, validation| {
        *validation = CertificateValidationContext {
            trust_chain_verification: TrustChainVerification::AcceptUntrusted as i32,
            ..CertificateValidationContext::default()
        };
    });
    assert!(convert(&unverified).unwrap().outside.unwrap().unverified);
}

#[test]
fn what_would_weaken_the_check_is_refused_by_its_field() {
    type Change = fn(&mut CommonTlsContext, &mut CertificateValidationContext);
    let table: &[(&str, Change)] = &[
        ("validation_context.trusted_ca: missing", |_, v| {
            v.trusted_ca = None;
        }),
        (
            "validation_context.trusted_ca: must be a filename",
            |_, v| {
                v.trusted_ca = Some(DataSource {
                    specifier: Some(Specifier::InlineString("PEM".to_owned())),
                    ..DataSource::default()
                });
            },
        ),
        ("validation_context.trusted_ca: has no effect", |_, v| {
            v.trust_chain_verification = TrustChainVerification::AcceptUntrusted as i32;
        }),
        ("validation_context.crl: has no effect", |_, v| {
            v.trust_chain_verification = TrustChainVerification::AcceptUntrusted as i32;
            (v.trusted_ca, v.crl) = (None, at("/certs/crl.pem"));
        }),
        (
            "validation_context.match_typed_subject_alt_names: has no effect",
            |_, v| {
                v.trust_chain_verification = TrustChainVerification::AcceptUntrusted as i32;
                (v.trusted_ca, v.crl) = (None, None);
                v.match_typed_subject_alt_names = vec![san(SanType::Dns, "pay.example.com")];
            },
        ),
        (
            "validation_context.match_typed_subject_alt_names[0].san_type: must be DNS",
            |_, v| {
                v.match_typed_subject_alt_names = vec![san(SanType::Email, "a.example")];
            },
        ),
        (
            "validation_context.match_typed_subject_alt_names[0].matcher: \"*.example\"",
            |_, v| {
                v.match_typed_subject_alt_names = vec![san(SanType::Dns, "*.example")];
            },
        ),
        (
            "validation_context.match_typed_subject_alt_names[0].matcher: must be exact",
            |_, v| {
                v.match_typed_subject_alt_names = vec![SubjectAltNameMatcher::default()];
            },
        ),
        ("tls_certificates[0].private_key: missing", |c, _| {
            c.tls_certificates = vec![TlsCertificate {
                certificate_chain: at("/certs/shop.pem"),
                ..TlsCertificate::default()
            }];
        }),
        ("tls_certificates: has 2 entries", |c, _| {
            c.tls_certificates = vec![TlsCertificate::default(); 2];
        }),
        (
            "tls_params.tls_minimum_protocol_version: must be TLSv1_2",
            |c, _| {
                let parameters = c.tls_params.as_mut().unwrap();
                parameters.tls_minimum_protocol_version = TlsProtocol::TlSv10 as i32;
            },
        ),
        (
            "tls_params.tls_maximum_protocol_version: must be TLSv1_3",
            |c, _| {
                let parameters = c.tls_params.as_mut().unwrap();
                parameters.tls_maximum_protocol_version = TlsProtocol::TlSv12 as i32;
            },
        ),
    ];
    for (expected, change) in table {
        let error = convert(&context(change)).unwrap_err().to_string();
        let expected = format!("common_tls_context.{expected}");
        assert!(error.starts_with(&expected), "{expected:?}: {error}");
    }
    let nameless = UpstreamTlsContext {
        sni: String::new(),
        ..context(|_, validation| validation.match_typed_subject_alt_names.clear())
    };
    let error = convert(&nameless).unwrap_err().to_string();
    assert!(error.contains("nothing says who may answer"), "{error}");
}
