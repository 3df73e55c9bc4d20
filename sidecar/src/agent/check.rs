//! Settings that cannot be are refused before anything is opened, by the flag that sets them.

use super::{AgentConfig, relay::may_listen};
use crate::{
    RunError,
    run::check::{check_app, check_credential, check_times, check_workload},
};

pub(super) fn check(config: &AgentConfig) -> Result<(), RunError> {
    let bad = |flag, value: String, expected| {
        Err(RunError::Setting {
            flag,
            value,
            expected,
        })
    };
    if !config.admin.ip().is_loopback() {
        let expected = "must be a loopback address, e.g. 127.0.0.1";
        return bad("admin", config.admin.to_string(), expected);
    }
    if let Some(relay) = config.xds_relay
        && !may_listen(&relay)
    {
        let expected = "must be a loopback address, e.g. 127.0.0.1:15013";
        return bad("xds-relay", relay.to_string(), expected);
    }
    if let Some(envoy) = &config.envoy {
        for (flag, address) in [("outbound", envoy.outbound), ("envoy-admin", envoy.admin)] {
            if !address.ip().is_loopback() {
                let expected = "must be a loopback address, e.g. 127.0.0.1";
                return bad(flag, address.to_string(), expected);
            }
        }
        if config.app.is_some() && envoy.inbound.port() == 0 {
            let expected = "needs a port: others have to be told where Envoy listens";
            return bad("inbound", envoy.inbound.to_string(), expected);
        }
        if !config.mtls || config.control_plane.starts_with("http://") {
            let expected = "needs certificates: a control plane over https:// and no --mtls false";
            return bad("envoy", "true".to_owned(), expected);
        }
    }
    if config.mtls && config.control_plane.starts_with("http://") {
        let expected =
            "must be false with a control plane in plain text, which gives no certificates";
        return bad("mtls", "true".to_owned(), expected);
    }
    if config
        .advertise_address
        .is_some_and(|ip| ip.is_unspecified() || ip.is_multicast())
    {
        let value = config.advertise_address.map(|ip| ip.to_string());
        let expected = "is nobody's; give the address that others connect to";
        return bad("advertise-address", value.unwrap_or_default(), expected);
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
    check_workload(&config.workload)?;
    config.app.as_ref().map_or(Ok(()), check_app)
}
