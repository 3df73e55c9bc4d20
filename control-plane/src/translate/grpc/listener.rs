//! LDS for a gRPC library: a client's listener has no address, only the connection manager that leads to its routes.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_proto::envoy::{
    config::listener::v3::{ApiListener, Listener},
    extensions::filters::{
        http::{fault::v3::HttpFault, router::v3::Router},
        network::http_connection_manager::v3::{
            HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier,
        },
    },
};

use super::super::{
    any::{ads, any},
    listener::{FAULT, HTTP_FAULT, filter},
    on_demand::best,
};
use crate::snapshot::{ResourceBytes, ResourceType};

/// The listener called `name`: what stands behind `xds:///` in a channel's target. None if nobody is called so.
pub(super) fn of(domains: &BTreeMap<String, Arc<str>>, name: &str) -> Option<Arc<ResourceBytes>> {
    let host = best(domains, name)?;
    let rds = Rds {
        config_source: Some(ads()),
        route_config_name: host.to_string(),
    };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        // gRPC refuses a filter that it does not know, CORS among them; the router has to be the last.
        http_filters: vec![
            filter(FAULT, any(HTTP_FAULT, &HttpFault::default())),
            filter(
                "envoy.filters.http.router",
                any(
                    "envoy.extensions.filters.http.router.v3.Router",
                    &Router::default(),
                ),
            ),
        ],
        ..HttpConnectionManager::default()
    };
    let listener = Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener {
            api_listener: Some(any(
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                &manager,
            )),
        }),
        ..Listener::default()
    };
    Some(ResourceBytes::new(ResourceType::Listener, name, &listener))
}
