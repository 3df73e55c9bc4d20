//! Settings that cannot be are refused before anything is opened, by the flag that sets them.

use std::{path::Path, time::Duration};

use super::RunError;
use crate::{App, Config, Discovery, Workload, XdsProtocol};

pub(super) fn check(config: &Config) -> Result<(), RunError> {
    for (flag, address) in [("outbound", config.outbound), ("admin", config.admin)] {
        if !address.ip().is_loopback() {
            return Err(RunError::Setting {
                flag,
                value: address.to_string(),
                expected: "must be a loopback address, e.g. 127.0.0.1",
            });
        }
    }
    if let Some(dns) = &config.dns {
        check_dns(dns)?;
    }
    check_credential(
        &config.control_plane,
        config.token_file.as_deref(),
        config.spiffe_endpoint.as_deref(),
    )?;
    check_times(
        config.lease_ttl,
        config.heartbeat_interval,
        config.certificate_ttl,
    )?;
    if config.discovery == Some(Discovery::OnDemand) && config.xds_protocol() == XdsProtocol::Sotw {
        return Err(RunError::Setting {
            flag: "discovery",
            value: "on-demand".to_owned(),
            expected: "needs the incremental form (--xds-protocol delta): the State of the World has no virtual hosts on \
                       demand",
        });
    }
    let not_absolute = config
        .tls_files
        .iter()
        .find(|directory| !directory.is_absolute());
    if let Some(directory) = not_absolute {
        return Err(RunError::Setting {
            flag: "tls-files",
            value: directory.display().to_string(),
            expected: "must be an absolute path of a directory",
        });
    }
    if let (Some(bootstrap), Some(app)) = (&config.bootstrap, &config.app) {
        return Err(RunError::Setting {
            flag: "app",
            value: format!(
                "{} beside --bootstrap of {:?}",
                app.address,
                bootstrap.service()
            ),
            expected: "leave it out: calls of others are taken with an identity of our own control plane only",
        });
    }
    check_workload(&config.workload)?;
    config.app.as_ref().map_or(Ok(()), check_app)
}

fn check_dns(dns: &crate::Dns) -> Result<(), RunError> {
    let bad = |flag, value: String, expected| {
        Err(RunError::Setting {
            flag,
            value,
            expected,
        })
    };
    if !dns.address.ip().is_loopback() {
        let expected = "must be a loopback address, e.g. 127.0.0.1:15053";
        return bad("dns", dns.address.to_string(), expected);
    }
    if dns.upstreams.len() > crate::dns::MAX_SERVERS {
        let found = format!("{} servers", dns.upstreams.len());
        return bad("dns-upstream", found, "at most 8");
    }
    match dns.upstreams.iter().find(|server| server.port() == 0) {
        None => Ok(()),
        Some(server) => bad(
            "dns-upstream",
            server.to_string(),
            "must have a port, 1 to 65535",
        ),
    }
}

/// What would say who we are, to a control plane that gives no certificates.
pub(crate) fn check_credential(
    control_plane: &str,
    token_file: Option<&Path>,
    spiffe_endpoint: Option<&Path>,
) -> Result<(), RunError> {
    if !control_plane.starts_with("http://") {
        return Ok(());
    }
    let given = [
        ("token-file", token_file),
        ("spiffe-endpoint-socket", spiffe_endpoint),
    ];
    match given
        .into_iter()
        .find_map(|(flag, path)| Some((flag, path?)))
    {
        None => Ok(()),
        Some((flag, path)) => Err(RunError::Setting {
            flag,
            value: path.display().to_string(),
            expected: "is of no use with a control plane in plain text; give its https:// address",
        }),
    }
}

/// Of lease, heartbeats and certificate.
pub(crate) fn check_times(
    lease: Duration,
    heartbeat: Duration,
    certificate: Duration,
) -> Result<(), RunError> {
    let bad = |flag, value: Duration, expected| {
        Err(RunError::Setting {
            flag,
            value: format!("{value:?}"),
            expected,
        })
    };
    if lease.is_zero() {
        return bad("lease-ttl", lease, "must be more than zero");
    }
    if heartbeat.is_zero() {
        return bad("heartbeat-interval", heartbeat, "must be more than zero");
    }
    if certificate.is_zero() {
        let expected = "must be more than zero, at most 24 h";
        return bad("certificate-ttl", certificate, expected);
    }
    if certificate > Duration::from_secs(24 * 3600) {
        return bad("certificate-ttl", certificate, "at most 24 h");
    }
    if heartbeat >= lease {
        let expected = "must be shorter than --lease-ttl, best a third of it";
        return bad("heartbeat-interval", heartbeat, expected);
    }
    Ok(())
}

pub(crate) fn check_workload(workload: &Workload) -> Result<(), RunError> {
    for (flag, value) in [
        ("service", &workload.service),
        ("namespace", &workload.namespace),
        ("service-account", &workload.service_account),
    ] {
        let is_name = !value.is_empty()
            && value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if !is_name {
            return Err(RunError::Setting {
                flag,
                value: format!("{value:?}"),
                expected: "must be a name of letters, digits, '-' and '.'",
            });
        }
    }
    if workload.weight == 0 {
        return Err(RunError::Setting {
            flag: "weight",
            value: "0".to_owned(),
            expected: "must be 1 or more",
        });
    }
    Ok(())
}

pub(crate) fn check_app(app: &App) -> Result<(), RunError> {
    let bad = |flag, value: String, expected| {
        Err(RunError::Setting {
            flag,
            value,
            expected,
        })
    };
    if app.address.port() == 0 {
        return bad(
            "app",
            app.address.to_string(),
            "must have the port that the application listens on",
        );
    }
    if app.port == 0 {
        return bad("port", "0".to_owned(), "must be 1 to 65535");
    }
    if !matches!(
        app.protocol.as_str(),
        "http" | "http2" | "grpc" | "tcp" | "auto"
    ) {
        return bad(
            "protocol",
            format!("{:?}", app.protocol),
            "must be http, http2, grpc, tcp or auto",
        );
    }
    let rules = &app.readiness;
    if app.protocol == "tcp" && rules.http_path.is_some() {
        let path = rules.http_path.clone().unwrap_or_default();
        return bad(
            "ready-path",
            path,
            "an application of protocol tcp answers no HTTP; leave it out, a connection is enough",
        );
    }
    if rules.interval.is_zero() || rules.timeout.is_zero() {
        return bad(
            "ready-interval",
            "0s".to_owned(),
            "interval and timeout must be more than zero",
        );
    }
    if rules.healthy_threshold == 0 || rules.unhealthy_threshold == 0 {
        return bad("healthy-threshold", "0".to_owned(), "must be 1 or more");
    }
    if rules
        .http_path
        .as_ref()
        .is_some_and(|path| !path.starts_with('/'))
    {
        let path = rules.http_path.clone().unwrap_or_default();
        return bad("ready-path", path, "must start with '/'");
    }
    Ok(())
}
