//! `ExtensionProvider` (`outrigger.dev/v1`): a server that AuthorizationPolicies with action CUSTOM ask.
//! Source: Istio `mesh/v1alpha1` MeshConfig.ExtensionProvider, whose fields it has.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    At, BodyInCheck, CheckProtocol, ExtensionProvider, HttpCheck, NamePattern,
    decode::{
        Decoder, Fields, Item, Key, Shape, Way, boolean, check_header_name, check_header_value,
        dns_fault, edit_fault, filled_list, filled_text, header_name_fault, integer32, map, path,
        port, positive_duration,
    },
    yaml::{Value, quoted},
};

pub(super) const EXTENSION_PROVIDER: Shape = Shape {
    what: "an ExtensionProvider's spec",
    fields: &["envoyExtAuthzGrpc", "envoyExtAuthzHttp"],
    not_yet: &[
        "envoyTcpAls",
        "envoyHttpAls",
        "envoyFileAccessLog",
        "envoyOtelAls",
        "zipkin",
        "lightstep",
        "datadog",
        "stackdriver",
        "opencensus",
        "skywalking",
        "opentelemetry",
        "prometheus",
        "sds",
    ],
};
pub(super) const GRPC: Shape = Shape {
    what: "envoyExtAuthzGrpc",
    fields: &[
        "service",
        "port",
        "timeout",
        "failOpen",
        "clearRouteCache",
        "statusOnError",
        "includeRequestBodyInCheck",
    ],
    not_yet: &[],
};
pub(super) const HTTP: Shape = Shape {
    what: "envoyExtAuthzHttp",
    fields: &[
        "service",
        "port",
        "timeout",
        "pathPrefix",
        "failOpen",
        "clearRouteCache",
        "statusOnError",
        "includeHeadersInCheck",
        "includeRequestHeadersInCheck",
        "includeAdditionalHeadersInCheck",
        "includeRequestBodyInCheck",
        "headersToUpstreamOnAllow",
        "headersToDownstreamOnDeny",
        "headersToDownstreamOnAllow",
    ],
    not_yet: &[],
};
pub(super) const BODY: Shape = Shape {
    what: "includeRequestBodyInCheck",
    fields: &["maxRequestBytes", "allowPartialMessage", "packAsBytes"],
    not_yet: &[],
};

const TIMEOUT: Duration = Duration::from_secs(10);
const MOST_BODY: u32 = 1 << 20;

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<ExtensionProvider> {
    let fields = Fields::open(d, item, &EXTENSION_PROVIDER)?;
    if !fields.exactly_one(d, &["envoyExtAuthzGrpc", "envoyExtAuthzHttp"]) {
        return None;
    }
    let grpc = fields.optional(d, "envoyExtAuthzGrpc", |d, item| {
        let fields = Fields::open(d, item, &GRPC)?;
        common(d, &fields, CheckProtocol::Grpc)
    });
    let http = fields.optional(d, "envoyExtAuthzHttp", |d, item| {
        let fields = Fields::open(d, item, &HTTP)?;
        let check = http(d, &fields);
        common(d, &fields, CheckProtocol::Http(Box::new(check)))
    });
    grpc.or(http)
}

fn common(
    d: &mut Decoder,
    fields: &Fields<'_>,
    protocol: CheckProtocol,
) -> Option<ExtensionProvider> {
    let service = fields.required_at(d, "service", "the service that is asked", service);
    let port = fields.required(d, "port", "the service's port", port);
    let timeout = fields.optional(d, "timeout", positive_duration);
    let flag = |d: &mut Decoder, name| fields.optional(d, name, boolean).unwrap_or(false);
    let fail_open = flag(d, "failOpen");
    let clear_route_cache = flag(d, "clearRouteCache");
    let status_on_error = fields.optional(d, "statusOnError", status);
    let is_grpc = protocol == CheckProtocol::Grpc;
    let body = fields.optional(d, "includeRequestBodyInCheck", |d, item| {
        body(d, item, is_grpc)
    });
    let At { value, position } = service?;
    let (namespace, host) = value;
    Some(ExtensionProvider {
        service: At {
            value: host,
            position,
        },
        namespace,
        port: port?,
        timeout: timeout.unwrap_or(TIMEOUT),
        fail_open,
        clear_route_cache,
        status_on_error,
        body,
        protocol,
    })
}

/// `[namespace/]host`
fn service(d: &mut Decoder, item: Item<'_>) -> Option<(Option<String>, String)> {
    let text = filled_text(d, item)?;
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, text.as_str()),
    };
    let fault = namespace.and_then(dns_fault).or_else(|| dns_fault(host));
    if let Some(fault) = fault {
        d.refuse(
            item,
            format!(
                "found {}: {fault}; want a host, or namespace/host",
                quoted(&text)
            ),
        );
        return None;
    }
    Some((namespace.map(str::to_owned), host.to_owned()))
}

/// A text, as in Istio, or a number.
fn status(d: &mut Decoder, item: Item<'_>) -> Option<u16> {
    let (Value::Text { text, .. } | Value::Number(text)) = &item.node.value else {
        d.mismatch(item, "a status from 400 to 599");
        return None;
    };
    let status = text.parse::<u16>().ok();
    let status = status.filter(|status| (400..=599).contains(status));
    if status.is_none() {
        d.mismatch(item, "a status from 400 to 599");
    }
    status
}

fn body(d: &mut Decoder, item: Item<'_>, is_grpc: bool) -> Option<BodyInCheck> {
    let fields = Fields::open(d, item, &BODY)?;
    let want = "how many bytes of a body are looked at";
    let most = fields.required(d, "maxRequestBytes", want, |d, item| {
        integer32(d, item, 1..=MOST_BODY)
    });
    let partial = fields.optional(d, "allowPartialMessage", boolean);
    let raw = fields.optional(d, "packAsBytes", boolean);
    if !is_grpc {
        let message = "has no effect on envoyExtAuthzHttp, whose body is always bytes; remove it";
        fields.refuse_if_present(d, "packAsBytes", message);
    }
    Some(BodyInCheck {
        max_request_bytes: most?,
        allow_partial_message: partial.unwrap_or(false),
        pack_as_bytes: raw.unwrap_or(false),
    })
}

fn http(d: &mut Decoder, fields: &Fields<'_>) -> HttpCheck {
    let old = fields.optional(d, "includeHeadersInCheck", names);
    let new = fields.optional(d, "includeRequestHeadersInCheck", names);
    if new.is_some() {
        let message =
            "is the old name of includeRequestHeadersInCheck, which is there too; keep the new one";
        fields.refuse_if_present(d, "includeHeadersInCheck", message);
    }
    let mut of = |name| fields.optional(d, name, names).unwrap_or_default();
    HttpCheck {
        to_upstream_on_allow: of("headersToUpstreamOnAllow"),
        to_downstream_on_deny: of("headersToDownstreamOnDeny"),
        to_downstream_on_allow: of("headersToDownstreamOnAllow"),
        include_request_headers: new.or(old).unwrap_or_default(),
        path_prefix: fields.optional(d, "pathPrefix", path),
        include_additional_headers: fields
            .optional(d, "includeAdditionalHeadersInCheck", additional)
            .unwrap_or_default(),
    }
}

fn additional(d: &mut Decoder, item: Item<'_>) -> Option<BTreeMap<String, String>> {
    map(
        d,
        item,
        "headers, each with its value",
        |d, key: Key<'_>, value| {
            if !check_header_name(d, key) {
                return None;
            }
            if let Some(fault) = edit_fault(key.text) {
                key.refuse(d, fault);
                return None;
            }
            let text = check_header_value(d, value, Way::Request)?;
            if text.contains('%') {
                let message = "a % would be a substitution, which is not supported yet here";
                d.refuse(value, format!("found {}: {message}", quoted(&text)));
                return None;
            }
            Some((key.text.to_ascii_lowercase(), text))
        },
    )
}

fn names(d: &mut Decoder, item: Item<'_>) -> Option<Vec<NamePattern>> {
    filled_list(d, item, |d, item| {
        let text = filled_text(d, item)?.to_ascii_lowercase();
        let (pattern, name) = match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(start), _) => (NamePattern::Prefix(start.to_owned()), start),
            (None, Some(end)) => (NamePattern::Suffix(end.to_owned()), end),
            (None, None) => (NamePattern::Exact(text.clone()), text.as_str()),
        };
        // `*` alone is every name.
        let fault = (!name.is_empty())
            .then(|| header_name_fault(name))
            .flatten();
        if let Some(fault) = fault.or_else(|| name.contains('*').then(|| STAR.to_owned())) {
            d.refuse(item, format!("found {}: {fault}", quoted(&text)));
            return None;
        }
        Some(pattern)
    })
}

const STAR: &str = "one * is at the beginning or at the end";
