//! Filter chains of `virtualInbound`: who gets to the application, and how its connections have to be.
//!
//! ```text
//!              HTTP                        bytes                          nobody knows
//! STRICT       mtls                        mtls (istio)                   mtls-http (h2, http/1.1), mtls
//! PERMISSIVE   mtls, plain                 mtls (istio), plain,           mtls-http, mtls (istio), plain-http, plain,
//!                                          passthrough (other TLS)        passthrough
//! DISABLE      one, raw_buffer             one, raw_buffer                plain-http, plain
//! ```
//! Where connections are redirected these are for the application's port alone. Its other ports get bytes behind the same
//! rules, and the port of the listener itself is nobody's: it would lead to itself.
//! Source: Istio's `virtualInbound`.

use std::time::Duration;

use outrigger_policy::MtlsMode;
use outrigger_proto::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, ListenerFilter,
};

use super::{
    authz::{self, Workload},
    capture::{
        self,
        ports::{DETECTION, plain_http},
    },
    cluster::inbound_name,
    layer4, listener,
    node::Inbound,
    tls,
};

/// Between sidecars, whatever an application's other ports speak.
const ALPN_ANY: [&str; 3] = [tls::ALPN_ISTIO, "h2", "http/1.1"];

/// What a listener is made of.
#[derive(Debug, Default)]
pub(super) struct Chains {
    pub(super) chains: Vec<FilterChain>,
    /// What has to be known of a connection before one is chosen.
    pub(super) filters: Vec<ListenerFilter>,
    /// For that to be known.
    pub(super) timeout: Option<Duration>,
    /// A client that says nothing until then is let through as it is: its server may be the one to speak first.
    pub(super) goes_on: bool,
}

/// All of a workload. `captured`: its connections are redirected.
pub(super) fn chains(inbound: &Inbound, workload: &Workload<'_>, captured: bool) -> Chains {
    let name = inbound_name(inbound.port);
    let speaks = inbound.protocol;
    let own = Port {
        name: "",
        number: captured.then(|| inbound.app.port()),
        http: speaks
            .may_be_http()
            .then(|| vec![listener::requests_in(&name, workload)]),
        bytes: (!speaks.is_http()).then(|| bytes(&name, workload)),
        alpn: if speaks.is_http() {
            &tls::ALPN_HTTP
        } else {
            &[tls::ALPN_ISTIO]
        },
        workload,
    };
    let mut all = Chains::default();
    if !captured {
        own.add(&mut all);
        return all;
    }
    all.filters.push(capture::original_dst());
    all.chains.push(FilterChain {
        name: "virtualInbound-blackhole".to_owned(),
        filter_chain_match: at_port(Some(inbound.listen.port())),
        filters: vec![layer4::plain(capture::BLACK_HOLE, capture::BLACK_HOLE)],
        ..FilterChain::default()
    });
    own.add(&mut all);
    // Documents may say of other ports how connections to them have to be.
    let said = workload.mesh.peer_ports(workload.view());
    let others = said.into_iter().filter(|port| *port != inbound.port);
    let others = others.filter(|port| ![inbound.app.port(), inbound.listen.port()].contains(port));
    for port in others {
        let workload = workload.at(port);
        Port::other(&format!("port-{port}-"), Some(port), &workload).add(&mut all);
    }
    Port::other("other-", None, &workload.anywhere()).add(&mut all);
    all
}

/// What takes bytes to `cluster`, behind access rules.
fn bytes(cluster: &str, workload: &Workload<'_>) -> Vec<Filter> {
    let mut filters = authz::network_filters(workload);
    filters.push(layer4::inbound(cluster));
    filters
}

/// One port, or all that are not said of.
struct Port<'a> {
    /// What names of its chains begin with.
    name: &'a str,
    /// That a connection was going to.
    number: Option<u16>,
    http: Option<Vec<Filter>>,
    bytes: Option<Vec<Filter>>,
    /// Of mTLS, where only one of them is.
    alpn: &'a [&'a str],
    workload: &'a Workload<'a>,
}

impl<'a> Port<'a> {
    /// One that the application is not registered with.
    fn other(name: &'a str, number: Option<u16>, workload: &'a Workload<'a>) -> Self {
        Self {
            name,
            number,
            http: None,
            bytes: Some(bytes(capture::INBOUND_PASSTHROUGH, workload)),
            alpn: &ALPN_ANY,
            workload,
        }
    }

    fn add(&self, to: &mut Chains) {
        match (&self.http, &self.bytes) {
            (Some(http), Some(bytes)) => self.add_either(http, bytes, to),
            (Some(only), None) | (None, Some(only)) => self.add_only(only, to),
            (None, None) => {}
        }
    }

    fn add_only(&self, filters: &[Filter], to: &mut Chains) {
        let is_http = self.http.is_some();
        let all = self.chain("", at_port(self.number), filters);
        match self.workload.mode().mode {
            MtlsMode::Strict => to.chains.push(mtls(all, self.alpn)),
            // Said in so many words: a sidecar takes plain text from others only so. Nothing looks at first bytes,
            // so that every connection counts as it.
            MtlsMode::Disable => {
                to.chains
                    .push(self.chain("", self.matched("raw_buffer", &[]), filters));
            }
            MtlsMode::Permissive => {
                to.asks_for_tls();
                to.goes_on |= !is_http;
                // What is not HTTP may have TLS of its own, which is passed through as the bytes that it is.
                let only = if is_http { &[][..] } else { self.alpn };
                let secure = self.chain("mtls", self.matched("tls", only), filters);
                to.chains.push(mtls(secure, self.alpn));
                to.chains
                    .push(self.chain("plain", self.matched("raw_buffer", &[]), filters));
                if !is_http {
                    // Of TLS as well: beside a chain that says so, one that says nothing is never looked at.
                    to.chains
                        .push(self.chain("passthrough", self.matched("tls", &[]), filters));
                }
            }
        }
    }

    /// A connection between sidecars says by its application protocol what was found; of others the first bytes do.
    fn add_either(&self, http: &[Filter], bytes: &[Filter], to: &mut Chains) {
        let mode = self.workload.mode().mode;
        if mode != MtlsMode::Disable {
            to.asks_for_tls();
            let requests = self.chain("mtls-http", self.matched("tls", &tls::ALPN_HTTP), http);
            to.chains.push(mtls(requests, &tls::ALPN_HTTP));
            // Where nobody else gets in, one that says nothing is a sidecar's, too: Envoy's has no word for bytes.
            let only: &[&str] = match mode {
                MtlsMode::Permissive => self.alpn,
                MtlsMode::Strict | MtlsMode::Disable => &[],
            };
            let rest = self.chain("mtls", self.matched("tls", only), bytes);
            to.chains.push(mtls(rest, self.alpn));
        }
        if mode == MtlsMode::Strict {
            return;
        }
        to.goes_on = true;
        to.timeout = Some(DETECTION);
        to.filters.push(listener::http_inspector());
        let plain = FilterChainMatch {
            destination_port: self.number.map(u32::from),
            ..plain_http()
        };
        to.chains.push(self.chain("plain-http", Some(plain), http));
        to.chains
            .push(self.chain("plain", self.matched("raw_buffer", &[]), bytes));
        if mode == MtlsMode::Permissive {
            to.chains
                .push(self.chain("passthrough", self.matched("tls", &[]), bytes));
        }
    }

    fn matched(&self, transport: &str, alpn: &[&str]) -> Option<FilterChainMatch> {
        Some(FilterChainMatch {
            destination_port: self.number.map(u32::from),
            transport_protocol: transport.to_owned(),
            application_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
            ..FilterChainMatch::default()
        })
    }

    fn chain(
        &self,
        name: &str,
        matched: Option<FilterChainMatch>,
        filters: &[Filter],
    ) -> FilterChain {
        let name = format!("{}{name}", self.name);
        FilterChain {
            name: name.trim_end_matches('-').to_owned(),
            filter_chain_match: matched,
            filters: filters.to_vec(),
            metadata: authz::chain_metadata(self.workload),
            ..FilterChain::default()
        }
    }
}

impl Chains {
    fn asks_for_tls(&mut self) {
        let inspector = listener::tls_inspector();
        if !self.filters.contains(&inspector) {
            self.filters.push(inspector);
        }
        self.timeout = self.timeout.or(Some(listener::CLIENT_HELLO_TIMEOUT));
    }
}

fn at_port(number: Option<u16>) -> Option<FilterChainMatch> {
    number.map(|number| FilterChainMatch {
        destination_port: Some(number.into()),
        ..FilterChainMatch::default()
    })
}

fn mtls(chain: FilterChain, alpn: &[&str]) -> FilterChain {
    FilterChain {
        transport_socket: Some(tls::downstream(alpn)),
        ..chain
    }
}
