//! Documents that are wrong, and the very words in which that is said.
//!
//! The position counts in the whole document; `spec:` stands on line 4.

use std::fmt::Write as _;

use super::{document, errors};
use crate::{ParseLimits, parse};

/// A spec, and the errors it gets.
pub(super) type Case = (&'static str, &'static [&'static str]);

/// All that differ are shown, so that one run is enough to see them.
pub(super) fn refused(kind: &str, table: &[Case]) {
    let mut wrong = String::new();
    for (spec, expected) in table {
        let found = errors(&document(kind, spec));
        if found != *expected {
            writeln!(wrong, "{kind} {spec}\nfound {found:#?}\nwant {expected:#?}").expect("text");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_virtual_service_is_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[
            (
                "{}",
                &["f:4:7: spec.http: missing; want a list of rules, here or under tls or tcp"],
            ),
            (
                "[]",
                &[
                    "f:4:7: spec: found a list, want a VirtualService's spec: a mapping with hosts, http, tls, tcp, gateways, exportTo",
                ],
            ),
            (
                "{hosts: [], http: []}",
                &[
                    "f:4:15: spec.hosts: found an empty list, want at least one item",
                    "f:4:25: spec.http: found an empty list, want at least one item",
                ],
            ),
            (
                "{hosts: [a], http: [{}], tcp: [], tls: [], gateway: [mesh]}",
                &[
                    "f:4:27: spec.http[0]: missing: want one of route, redirect, directResponse, delegate",
                    "f:4:37: spec.tcp: found an empty list, want at least one item",
                    "f:4:46: spec.tls: found an empty list, want at least one item",
                    "f:4:50: spec.gateway: unknown field; did you mean \"gateways\"?",
                ],
            ),
            (
                "{hosts: ['*', 10.0.0.1, 'http://a', a_-, a..b], http: [{route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:16: spec.hosts[0]: found \"*\": \"*\" would be every host of the mesh; name the hosts, or write *.suffix",
                    "f:4:21: spec.hosts[1]: found \"10.0.0.1\": an IP address is not supported yet as a host; want a DNS name",
                    "f:4:31: spec.hosts[2]: found \"http://a\": a host has no scheme; write only the name",
                    "f:4:43: spec.hosts[3]: found \"a_-\": a part of a DNS name starts and ends with a letter or digit",
                    "f:4:48: spec.hosts[4]: found \"a..b\": a part between the dots is empty",
                ],
            ),
            (
                "{hosts: [a], gateways: [mesh, ingress], exportTo: ['.'], http: [{route: [{destination: {host: '*.a'}}]}]}",
                &[
                    "f:4:37: spec.gateways[1]: the gateway \"ingress\" is not supported yet; want mesh, or no gateways",
                    "f:4:101: spec.http[0].route[0].destination.host: found \"*.a\": a wildcard is not supported yet here; name one host",
                ],
            ),
            (
                "{hosts: [a], http: [{retries: 1, fault: 1, mirror: 1, corsPolicy: 1, delegate: 1, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:37: spec.http[0].retries: found the number 1, want retries: a mapping with attempts, perTryTimeout, retryOn, retryRemoteLocalities, retryIgnorePreviousHosts, backoff",
                    "f:4:47: spec.http[0].fault: found the number 1, want a fault: a mapping with delay, abort",
                    "f:4:58: spec.http[0].mirror: found the number 1, want a destination: a mapping with host, subset, port",
                    "f:4:73: spec.http[0].corsPolicy: found the number 1, want a CORS policy: a mapping with allowOrigins, allowOrigin, allowMethods, allowHeaders, exposeHeaders, maxAge, allowCredentials, unmatchedPreflights",
                    "f:4:86: spec.http[0].delegate: found the number 1, want a delegate: a mapping with name, namespace",
                    "f:4:86: spec.http[0].delegate: found route and delegate; only one of them can be",
                ],
            ),
            (
                "{hosts: [a], http: [{route: [{destination: {host: a}, weight: 0}, {destination: {host: b}}]}]}",
                &[
                    "f:4:35: spec.http[0].route: the weights sum to 0, so no request could go anywhere; give one a weight above 0",
                ],
            ),
            (
                "{hosts: [a], http: [{route: [{destination: {host: a, subset: V_, port: {number: 0}}, weight: 1.5}]}]}",
                &[
                    "f:4:68: spec.http[0].route[0].destination.subset: found \"V_\": '_' cannot be in it; letters, digits and - can",
                    "f:4:87: spec.http[0].route[0].destination.port.number: found the number 0, want a whole number from 1 to 65535",
                    "f:4:100: spec.http[0].route[0].weight: found the number 1.5, want a whole number from 0 to 1000000",
                ],
            ),
            (
                "{hosts: [a], http: [{route: [{destination: {host: a, port: 80}, weight: 010}]}]}",
                &[
                    "f:4:66: spec.http[0].route[0].destination.port: found the number 80, want a port: a mapping with number",
                    "f:4:79: spec.http[0].route[0].weight: found the number 010, want a whole number from 0 to 1000000, without leading zeros",
                ],
            ),
            (
                "{hosts: [a], http: [{match: [{uri: {}, headers: {':path': {}, host: {exact: ''}, x: v}}], route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:42: spec.http[0].match[0].uri: missing: want one of exact, prefix, regex",
                    "f:4:56: spec.http[0].match[0].headers.:path: \":path\" is a pseudo-header; use the fields uri, method, scheme or authority",
                    "f:4:83: spec.http[0].match[0].headers.host.exact: found an empty text, want one, or {} for \"is there\"",
                    "f:4:91: spec.http[0].match[0].headers.x: found the text \"v\", want one of exact, prefix, regex under it, or {} for \"is there\"",
                ],
            ),
            (
                "{hosts: [a], http: [{match: [{uri: {regex: '(a'}, ignoreUriCase: true, sourceLabels: {}}], route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:50: spec.http[0].match[0].uri.regex: the regular expression \"(a\" is not RE2: unclosed group",
                ],
            ),
            (
                "{hosts: [a], http: [{match: [{uri: {regex: 'a{1000}{1000}'}, port: 65536, queryParams: {'': {}}, method: GET}], route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:50: spec.http[0].match[0].uri.regex: the regular expression \"a{1000}{1000}\" needs too much memory; repeat less in it",
                    "f:4:74: spec.http[0].match[0].port: found the number 65536, want a whole number from 1 to 65535",
                    "f:4:95: spec.http[0].match[0].queryParams.\"\": a parameter has a name",
                    "f:4:112: spec.http[0].match[0].method: found the text \"GET\", want one of exact, prefix, regex under it",
                ],
            ),
            (
                "{hosts: [a], http: [{rewrite: {uri: '/a#b', authority: \"a\\nb\"}, headers: {response: {remove: [Content-Length], add: {te: a}}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:43: spec.http[0].rewrite.uri: found \"/a#b\"; a path has no '#'; write %23",
                    "f:4:62: spec.http[0].rewrite.authority: found \"a\\nb\", want a host such as orders.example.com or orders.example.com:8080",
                    "f:4:101: spec.http[0].headers.response.remove[0]: \"Content-Length\" is about one connection; each proxy writes its own",
                    "f:4:124: spec.http[0].headers.response.add.te: \"te\" is about one connection; each proxy writes its own",
                ],
            ),
            (
                "{hosts: [a], http: [{headers: {request: {set: {Host: a, ':path': b, 'x y': c, X-A: 'a%b', X-B: \"a\\nb\", x-b: d}, remove: [host], ad: {}}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:54: spec.http[0].headers.request.set.Host: the Host header is changed by rewrite.authority",
                    "f:4:63: spec.http[0].headers.request.set.:path: \":path\" is a pseudo-header; use the fields uri, method, scheme or authority",
                    "f:4:75: spec.http[0].headers.request.set.\"x y\": \"x y\" is no header name: letters, digits and - are",
                    "f:4:90: spec.http[0].headers.request.set.X-A: found \"a%b\": the % at character 2 opens a substitution that nothing closes; write %% for the sign",
                    "f:4:102: spec.http[0].headers.request.set.X-B: found \"a\\nb\": a header's value has no line break or control character",
                    "f:4:110: spec.http[0].headers.request.set.x-b: is the same header as \"X-B\"; keep one",
                    "f:4:128: spec.http[0].headers.request.remove[0]: the Host header is changed by rewrite.authority",
                    "f:4:135: spec.http[0].headers.request.ad: unknown field; did you mean \"add\"?",
                ],
            ),
            (
                "{hosts: [a], http: [{rewrite: {}, timeout: 1d, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:37: spec.http[0].rewrite: changes nothing; want uri, uriRegexRewrite or authority",
                    "f:4:50: spec.http[0].timeout: found the text \"1d\", want a duration such as 30s, 1.5s, 500ms or 1h30m",
                ],
            ),
            (
                "{hosts: [a], http: [{rewrite: {uri: a b, uriRegexRewrite: {}}, timeout: -1s, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:43: spec.http[0].rewrite.uri: found \"a b\", want a path that starts with /",
                    "f:4:65: spec.http[0].rewrite.uriRegexRewrite: found uri and uriRegexRewrite; only one of them can be",
                    "f:4:65: spec.http[0].rewrite.uriRegexRewrite.match: missing; want an RE2 expression",
                    "f:4:65: spec.http[0].rewrite.uriRegexRewrite.rewrite: missing; want what takes the place of a match",
                    "f:4:79: spec.http[0].timeout: found the text \"-1s\", want a duration such as 30s, 1.5s, 500ms or 1h30m, not negative",
                ],
            ),
            (
                "{hosts: [a], http: [{redirect: {redirectCode: 304, derivePort: FROM_REQUEST_PORT}}, {redirect: {scheme: ftp, uri: '/%PREFIX()%'}, rewrite: {uri: /}}]}",
                &[
                    "f:4:53: spec.http[0].redirect.redirectCode: found 304, want 301, 302, 303, 307 or 308",
                    "f:4:111: spec.http[1].redirect.scheme: found \"ftp\", want a scheme: http, https",
                    "f:4:121: spec.http[1].redirect.uri: found \"/%PREFIX()%\"; %PREFIX()% stands first, and behind it the path that takes the prefix's place, such as %PREFIX()%/new",
                    "f:4:146: spec.http[1].rewrite: has no effect without \"route\"; remove it",
                ],
            ),
            (
                "{hosts: [a], http: [{directResponse: {body: {bytes: aGk=}}}, {directResponse: {status: '200'}}]}",
                &[
                    "f:4:44: spec.http[0].directResponse.status: missing; want a status from 200 to 599",
                    "f:4:94: spec.http[1].directResponse.status: found the text \"200\", want a whole number from 200 to 599; remove the quotes",
                ],
            ),
        ],
    );
}

#[test]
fn what_only_one_of_sidecar_and_envoy_would_understand_is_refused() {
    for (regex, fault) in [
        (
            "(?x)/v1 # first",
            "a flag other than i, m, s and U at character 3",
        ),
        (
            "[a-z&&[^b]]",
            "an intersection of classes (&&) at character 2",
        ),
        ("[[a]b]", "a class within a class at character 2"),
        (r"\u{e4}", r"\u (write \x{...}) at character 1"),
        (r"a\b{start}", "a special word boundary at character 2"),
        (r"\p{script=Greek}", "a class with a value at character 1"),
    ] {
        let spec = format!(
            "{{hosts: [a], http: [{{match: [{{uri: {{regex: '{regex}'}}}}], route: [{{destination: {{host: a}}}}]}}]}}"
        );
        let found = errors(&document("VirtualService", &spec));
        let expected = format!("is not RE2: it has {fault}");
        assert!(
            found.len() == 1 && found[0].ends_with(&expected),
            "{found:?}"
        );
    }
    let text = r"/(?i)a(?P<n>[^/]+)[[:alpha:]\d]\pL\b.{0,9}?\z";
    let spec = format!(
        "{{hosts: [a], http: [{{match: [{{uri: {{regex: '{text}'}}}}], route: [{{destination: {{host: a}}}}]}}]}}"
    );
    let limits = ParseLimits::default();
    let text = document("VirtualService", &spec);
    assert!(parse("f", &text, "default", &limits).is_ok(), "{spec}");
}

#[test]
fn no_more_is_looked_for_than_is_reported() {
    // Each unknown field is compared with all before it: 40,000 of them took a quarter of a minute.
    let fields: Vec<String> = (0..40_000).map(|n| format!("x{n}: 1")).collect();
    let found = errors(&document(
        "VirtualService",
        &format!("{{{}}}", fields.join(", ")),
    ));
    assert!(found.len() <= 51, "{}", found.len());
}

#[test]
fn a_destination_rule_is_refused_in_words_that_help() {
    refused(
        "DestinationRule",
        &[
            (
                "{}",
                &["f:4:7: spec.host: missing; want the host that the rule is for"],
            ),
            (
                "{host: a, workloadSelector: {}, subsets: [{name: v1}, {name: v1}, {labels: {a: b c, -x: y}}]}",
                &[
                    "f:4:35: spec.workloadSelector.matchLabels: missing; want labels to select by",
                    "f:4:68: spec.subsets[1].name: \"v1\" is used twice, first in line 4, column 56; name each subset once",
                    "f:4:73: spec.subsets[2].name: missing; want the subset's name",
                    "f:4:86: spec.subsets[2].labels.a: found \"b c\"; a label's value has at most 63 letters, digits, - _ . and starts and ends with a letter or digit",
                    "f:4:91: spec.subsets[2].labels.-x: \"-x\" is no label: want 1 to 63 letters, digits, - _ . that start and end with a letter or digit",
                    "f:4:95: spec.subsets[2].labels.-x: found y without quotes, which kubectl reads as a boolean; write \"y\"",
                ],
            ),
            (
                "{host: a, trafficPolicy: {portLevelSettings: [], loadBalancer: {simple: LEAST_CON, localityLbSetting: {}, warmup: {}}}}",
                &[
                    "f:4:79: spec.trafficPolicy.loadBalancer.simple: found \"LEAST_CON\", want a load balancer: UNSPECIFIED, LEAST_REQUEST, LEAST_CONN, ROUND_ROBIN, RANDOM; did you mean \"LEAST_CONN\"?",
                    "f:4:121: spec.trafficPolicy.loadBalancer.warmup.duration: missing; want how long a new endpoint warms up",
                ],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}, tls: {}, connectionPool: {tcp: {maxConnections: 0, tcpKeepalive: {}}}}}",
                &[
                    "f:4:56: spec.trafficPolicy.loadBalancer.simple: PASSTHROUGH is not supported yet; want a load balancer: UNSPECIFIED, LEAST_REQUEST, LEAST_CONN, ROUND_ROBIN, RANDOM",
                    "f:4:75: spec.trafficPolicy.tls.mode: missing; want ISTIO_MUTUAL, MUTUAL, SIMPLE or DISABLE",
                    "f:4:118: spec.trafficPolicy.connectionPool.tcp.maxConnections: found 0, which could mean none or unlimited (to Istio, unlimited); remove the field for unlimited",
                ],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {}}, tls: {mode: MUTUAL, sni: x}}}",
                &[
                    "f:4:64: spec.trafficPolicy.loadBalancer.consistentHash: missing: want one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName",
                    "f:4:74: spec.trafficPolicy.tls.clientCertificate: missing; mode MUTUAL needs a file",
                    "f:4:74: spec.trafficPolicy.tls.privateKey: missing; mode MUTUAL needs a file",
                ],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: 'a b', maglev: {tableSize: 1000}, ringHash: {minimumRingSize: 9000000}}}}}",
                &[
                    "f:4:78: spec.trafficPolicy.loadBalancer.consistentHash.useSourceIp: found httpHeaderName and useSourceIp; only one of them can be",
                    "f:4:100: spec.trafficPolicy.loadBalancer.consistentHash.httpHeaderName: \"a b\" is no header name: letters, digits and - are",
                    "f:4:115: spec.trafficPolicy.loadBalancer.consistentHash.maglev: found ringHash and maglev; only one of them can be",
                    "f:4:127: spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: found 1000, want a prime number such as 65537",
                    "f:4:162: spec.trafficPolicy.loadBalancer.consistentHash.ringHash.minimumRingSize: found the number 9000000, want a whole number from 1 to 8388608",
                ],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {ttl: soon, path: 'a;b', attributes: []}}}}}",
                &[
                    "f:4:77: spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name: missing; want the cookie's name",
                    "f:4:83: spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.ttl: found the text \"soon\", want a duration such as 30s, 1.5s, 500ms or 1h30m",
                    "f:4:95: spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.path: found \"a;b\"; a cookie's path has no semicolon",
                ],
            ),
            (
                "{host: a, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 600000000, idleTimeout: 0s, h2UpgradePolicy: UPGRADE}, tcp: 100}}}",
                &[
                    "f:4:83: spec.trafficPolicy.connectionPool.http.maxRequestsPerConnection: found the number 600000000, want a whole number from 0 to 536870912",
                    "f:4:107: spec.trafficPolicy.connectionPool.http.idleTimeout: found zero, want at least 1ms",
                    "f:4:143: spec.trafficPolicy.connectionPool.tcp: found the number 100, want a connection pool's tcp: a mapping with maxConnections, connectTimeout, tcpKeepalive, maxConnectionDuration, idleTimeout",
                ],
            ),
            (
                "{host: a, trafficPolicy: {outlierDetection: {consecutiveErrors: 5, consecutive5xxErrors: -1, interval: 10, maxEjectionPercent: 101}}}",
                &[
                    "f:4:52: spec.trafficPolicy.outlierDetection.consecutiveErrors: not supported yet; Istio has removed it; write consecutive5xxErrors",
                    "f:4:96: spec.trafficPolicy.outlierDetection.consecutive5xxErrors: found the number -1, want a whole number from 0 to 2147483647",
                    "f:4:110: spec.trafficPolicy.outlierDetection.interval: found the number 10, want a duration such as 30s, 1.5s, 500ms or 1h30m; which unit?",
                    "f:4:134: spec.trafficPolicy.outlierDetection.maxEjectionPercent: found the number 101, want a whole number from 0 to 100",
                ],
            ),
        ],
    );
}

#[test]
fn a_service_entry_is_refused_in_words_that_help() {
    refused(
        "ServiceEntry",
        &[
            (
                "{}",
                &[
                    "f:4:7: spec.hosts: missing; want the service's hosts",
                    "f:4:7: spec.ports: missing; want a list of ports",
                ],
            ),
            (
                "{hosts: ['*.a'], ports: [], resolution: DNS}",
                &[
                    "f:4:16: spec.hosts[0]: found \"*.a\": a wildcard is not supported yet here; name one host",
                    "f:4:31: spec.ports: found an empty list, want at least one item",
                    "f:4:47: spec.resolution: DNS is not supported yet; want a resolution: STATIC, NONE",
                ],
            ),
            (
                "{hosts: [a, a], resolution: STATIC, subjectAltNames: [], ports: [{number: 80, name: a, protocol: HTTP}, {number: 80, name: a, protocol: http2}]}",
                &[
                    "f:4:19: spec.hosts[1]: \"a\" is used twice, first in line 4, column 16; name each host once",
                    "f:4:43: spec.subjectAltNames: not supported yet; remove it, nothing would act on it",
                    "f:4:111: spec.ports[1].number: \"80\" is used twice, first in line 4, column 72; name each port once",
                    "f:4:111: spec.ports[1].name: \"a\" is used twice, first in line 4, column 72; name each port once",
                ],
            ),
            (
                "{hosts: [a], addresses: [10.0.0.1, 10.0.0.1/32, a, 0.0.0.0/0, 127.0.0.1, 224.0.0.1], ports: [{number: 80, name: http}], endpoints: [{address: 10.0.0.2}]}",
                &[
                    "f:4:42: spec.addresses[1]: \"10.0.0.1\" is used twice, first in line 4, column 32; keep one",
                    "f:4:55: spec.addresses[2]: found \"a\", want an address such as 10.1.2.3, or a network such as 10.1.0.0/16",
                    "f:4:58: spec.addresses[3]: found 0.0.0.0/0, which is every address: a service has addresses of its own",
                    "f:4:69: spec.addresses[4]: found 127.0.0.1, which is of the calling host itself: a service has addresses of its own",
                    "f:4:80: spec.addresses[5]: found 224.0.0.1, which is of a group of hosts: a service has addresses of its own",
                    "f:4:138: spec.endpoints: without a resolution (NONE) connections go to the address that the application connected to; write resolution: STATIC",
                ],
            ),
            (
                "{hosts: [a], resolution: NONE, ports: [{number: 80, name: web}], workloadSelector: {labels: {a: b}}}",
                &[
                    "f:4:45: spec.ports: the port 80 is bytes to us, which do not say whom they are for: with resolution NONE write the addresses of the service, or a protocol (HTTP, TLS) that says it",
                    "f:4:90: spec.workloadSelector: with resolution NONE connections go to the address that the application connected to; remove this, or write resolution: STATIC",
                ],
            ),
            (
                "{hosts: [a], resolution: STATIC, location: MESH_INTERN, ports: [{number: 80, name: A, protocol: UDP}, {number: 81, name: b, protocol: HTP, targetPort: 0}, {number: 82}]}",
                &[
                    "f:4:50: spec.location: found \"MESH_INTERN\", want a location: MESH_EXTERNAL, MESH_INTERNAL; did you mean \"MESH_INTERNAL\"?",
                    "f:4:90: spec.ports[0].name: found \"A\": 'A' cannot be in it; lower-case letters, digits and - can",
                    "f:4:103: spec.ports[0].protocol: UDP is not supported yet; want a protocol: HTTP, HTTP2, GRPC, TCP, MONGO, REDIS, MYSQL, TLS, HTTPS",
                    "f:4:141: spec.ports[1].protocol: found \"HTP\", want a protocol: HTTP, HTTP2, GRPC, TCP, MONGO, REDIS, MYSQL, TLS, HTTPS; did you mean \"HTTP\"?",
                    "f:4:158: spec.ports[1].targetPort: found the number 0, want a whole number from 1 to 65535",
                    "f:4:162: spec.ports[2].name: missing; want the port's name",
                ],
            ),
            (
                "{hosts: [a], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], workloadSelector: {labels: {}}, endpoints: [{address: 1.2.3}, {address: a.b, ports: {htp: 1}, weight: 0}, {address: 'unix:///x'}, {address: 10.0.0.1, network: n}, {address: 10.0.0.1, locality: a/b/c/d}]}",
                &[
                    "f:4:109: spec.workloadSelector: an entry has endpoints or a selector, not both; remove one",
                    "f:4:118: spec.workloadSelector.labels: found none, which would select everything; name one",
                    "f:4:145: spec.endpoints[0].address: found \"1.2.3\", want an IP address such as 10.0.0.7 or 2001:db8::7",
                    "f:4:163: spec.endpoints[1].address: found \"a.b\"; a name as address is not supported yet, want an IP address",
                    "f:4:176: spec.endpoints[1].ports.htp: found \"htp\", want the name of one of the ports: http; did you mean \"http\"?",
                    "f:4:193: spec.endpoints[1].weight: found the number 0, want a whole number from 1 to 1000000",
                    "f:4:207: spec.endpoints[2].address: found \"unix:///x\"; Unix sockets are not supported yet, want an IP address",
                    "f:4:241: spec.endpoints[3].network: not supported yet; remove it, nothing would act on it",
                    "f:4:254: spec.endpoints[4].address: \"10.0.0.1\" is used twice, first in line 4, column 221; keep one",
                    "f:4:284: spec.endpoints[4].locality: found \"a/b/c/d\", want region, region/zone or region/zone/subzone",
                ],
            ),
            (
                "{hosts: [a], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], workloadSelector: {}}",
                &["f:4:109: spec.workloadSelector.labels: missing; want labels to select by"],
            ),
        ],
    );
}

#[test]
fn a_workload_entry_is_refused_in_words_that_help() {
    refused(
        "WorkloadEntry",
        &[
            ("{}", &["f:4:7: spec.address: missing; want an IP address"]),
            (
                "{address: 10.0.0.256, ports: {http: 0}, labels: {a: true}, serviceAccount: A, locality: /}",
                &[
                    "f:4:17: spec.address: found \"10.0.0.256\", want an IP address such as 10.0.0.7 or 2001:db8::7",
                    "f:4:43: spec.ports.http: found the number 0, want a whole number from 1 to 65535",
                    "f:4:59: spec.labels.a: found true, want a text; write \"true\" in quotes",
                    "f:4:82: spec.serviceAccount: found \"A\": 'A' cannot be in it; lower-case letters, digits and - can",
                    "f:4:95: spec.locality: found \"/\", want region, region/zone or region/zone/subzone",
                ],
            ),
        ],
    );
}

#[test]
fn a_sidecar_is_refused_in_words_that_help() {
    refused(
        "Sidecar",
        &[
            (
                "{}",
                &["f:4:7: spec.egress: missing; want a list of egress listeners"],
            ),
            (
                "{egress: [], ingress: [], outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {}}}",
                &[
                    "f:4:16: spec.egress: found an empty list, want at least one item",
                    "f:4:20: spec.ingress: not supported yet; remove it, nothing would act on it",
                    "f:4:74: spec.outboundTrafficPolicy.egressProxy: not supported yet; remove it, nothing would act on it",
                ],
            ),
            (
                "{egress: [{bind: 127.0.0.1, hosts: []}, {captureMode: NONE, hosts: [a, /a, b.c/d, '*/d', './e f', ./g, ./g]}, {port: {number: 1, name: a, protocol: HTTP, targetPort: 1}, captureMode: IPTABLES, hosts: [./a]}]}",
                &[
                    "f:4:24: spec.egress[0].bind: has no effect without a port; add one, or remove it",
                    "f:4:42: spec.egress[0].hosts: found an empty list, want at least one item",
                    "f:4:61: spec.egress[1].captureMode: NONE is not supported yet; want a capture mode: DEFAULT, IPTABLES",
                    "f:4:75: spec.egress[1].hosts[0]: found \"a\": want namespace/host, such as ./orders or */orders.example.com",
                    "f:4:78: spec.egress[1].hosts[1]: found \"/a\": want a namespace, *, . or ~ before the /",
                    "f:4:82: spec.egress[1].hosts[2]: found \"b.c/d\": want a namespace, *, . or ~ before the /",
                    "f:4:89: spec.egress[1].hosts[3]: found \"*/d\": a short host needs a namespace; write its full name, or ./host",
                    "f:4:96: spec.egress[1].hosts[4]: found \"./e f\": ' ' cannot be in a DNS name",
                    "f:4:110: spec.egress[1].hosts[6]: \"./g\" is used twice, first in line 4, column 105; name each once",
                    "f:4:161: spec.egress[2].port.targetPort: not supported yet; remove it, nothing would act on it",
                ],
            ),
            (
                "{egress: [{port: {number: 1, name: a, protocol: HTTP}, bind: 0.0.0.0, hosts: [./a]}]}",
                &[
                    "f:4:68: spec.egress[0].bind: found \"0.0.0.0\"; others could call with this workload's identity: an address that is not loopback is not supported yet, want 127.0.0.1 or ::1",
                ],
            ),
            (
                "{egress: [{port: {number: 1, name: a, protocol: TCP}, hosts: [./*]}, {port: {number: 2, name: b, protocol: mysql}, hosts: [./a, ./b]}, {port: {number: 3, name: c, protocol: TLS}, hosts: [./*, ./b]}]}",
                &[
                    "f:4:68: spec.egress[0].hosts: found \"*\"; a TCP connection does not say which host it is for: name the one that this port leads to, or give the port protocol TLS, whose server name says it",
                    "f:4:129: spec.egress[1].hosts: found 2 hosts; a TCP connection does not say which one it is for: name one, give each host a port of its own, or give the port protocol TLS, whose server name says it",
                ],
            ),
            (
                "{workloadSelector: {labels: a}, egress: [{port: {number: 1, name: a, protocol: HTTP}, bind: localhost, hosts: [./a]}, {port: {number: 1, name: b, protocol: HTTP}, hosts: [./a]}]}",
                &[
                    "f:4:35: spec.workloadSelector.labels: found the text \"a\", want labels: a mapping of texts",
                    "f:4:99: spec.egress[0].bind: found \"localhost\"; a name as address is not supported yet, want an IP address",
                    "f:4:125: spec.egress[1].port: \"1\" is used twice, first in line 4, column 48; put their hosts together",
                ],
            ),
        ],
    );
}

#[test]
fn a_document_is_refused_in_words_that_help() {
    let table: &[Case] = &[
        (
            "kind: VirtualService\n",
            &[
                "f:1:1: apiVersion: missing; want one of networking.istio.io/v1, networking.istio.io/v1beta1, networking.istio.io/v1alpha3",
                "f:1:1: metadata: missing; want a mapping with a name",
                "f:1:1: spec: missing; want what the VirtualService says",
            ],
        ),
        (
            "- a\n",
            &[
                "f:1:1: found a list, want a document: a mapping with apiVersion, kind, metadata, spec, status",
            ],
        ),
        (
            "a\n",
            &[
                "f:1:1: found the text \"a\", want a document: a mapping with apiVersion, kind, metadata, spec, status",
            ],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: []}\n",
            &[
                "f:2:7: kind: kind Service is not supported yet; supported: VirtualService, DestinationRule, DestinationPolicy, ServiceEntry, WorkloadEntry, Sidecar, PeerAuthentication, AuthorizationPolicy, ExtensionProvider, RequestAuthentication",
            ],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: Destinationrule\n",
            &["f:2:7: kind: found \"Destinationrule\"; did you mean \"DestinationRule\"?"],
        ),
        (
            "apiVersion: x\nkind: Foo\n",
            &[
                "f:2:7: kind: kind \"Foo\" is unknown; supported: VirtualService, DestinationRule, DestinationPolicy, ServiceEntry, WorkloadEntry, Sidecar, PeerAuthentication, AuthorizationPolicy, ExtensionProvider, RequestAuthentication",
            ],
        ),
        (
            "kind: List\nitems: []\n",
            &[
                "f:1:7: kind: kind List is not supported yet; put its items one after the other, with --- between them",
            ],
        ),
        (
            "apiVersion: networking.istio.io/v1alpha1\nkind: Sidecar\nmetadata: {generateName: a, labels: {a: 1}, annotations: {a: true, 'b c': d}}\nspec: {egress: [{hosts: [./a]}]}\nstat: {}\n",
            &[
                "f:1:13: apiVersion: found \"networking.istio.io/v1alpha1\", want the API version of Sidecar: networking.istio.io/v1, networking.istio.io/v1beta1, networking.istio.io/v1alpha3; did you mean \"networking.istio.io/v1alpha3\"?",
                "f:3:11: metadata.name: missing; want the document's name",
                "f:3:12: metadata.generateName: not supported yet; remove it, nothing would act on it",
                "f:3:41: metadata.labels.a: found the number 1, want a text; write \"1\" in quotes",
                "f:3:62: metadata.annotations.a: found true, want a text; write \"true\" in quotes",
                "f:3:68: metadata.annotations.\"b c\": \"b c\" is no annotation: want 1 to 63 letters, digits, - _ . that start and end with a letter or digit",
                "f:5:1: stat: unknown field; a document has apiVersion, kind, metadata, spec, status",
            ],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: A_b, namespace: a.b}\nspec: {address: 10.0.0.1}\n",
            &[
                "f:3:18: metadata.name: found \"A_b\": 'A' cannot be in it; lower-case letters, digits and - can",
                "f:3:34: metadata.namespace: found \"a.b\": '.' cannot be in a DNS name",
            ],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec: {address: 10.0.0.1}\n---\napiVersion: networking.istio.io/v1beta1\nkind: WorkloadEntry\nmetadata: {name: a, namespace: default}\nspec: {address: 10.0.0.2}\n",
            &[
                "f:6:1: WorkloadEntry default/a is in this file twice, first in line 1, column 1; keep one, or rename one",
            ],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\nname: a\nspec:\nhost: a\n",
            &[
                "f:3:1: metadata: missing; want a mapping with a name",
                "f:4:1: name: unknown field; if it belongs to the empty \"metadata\" of line 3, column 1, indent it",
                "f:5:1: spec: missing; want what the DestinationRule says",
                "f:6:1: host: unknown field; if it belongs to the empty \"spec\" of line 5, column 1, indent it",
            ],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [b]}\nspec: {}\n",
            &[
                "f:4:7: spec.http: missing; want a list of rules, here or under tls or tcp",
                "f:5:1: the key \"spec\" is there twice, first in line 4, column 1; keep one",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(errors(text), *expected, "{text}");
    }
}
