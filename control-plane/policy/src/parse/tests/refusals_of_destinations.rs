//! Policies of destinations that are wrong, and the very words in which that is said.

use super::refusals::refused;

#[test]
fn clients_of_a_rule_are_refused_in_words_that_help() {
    refused(
        "DestinationRule",
        &[
            (
                "{host: a, exportTo: [b], workloadSelector: {matchLabels: {a: b}}}",
                &[
                    "f:4:50: spec.workloadSelector: has no effect: it selects workloads of the document's own namespace, and exportTo leaves that out; add \".\" to it",
                ],
            ),
            (
                "{host: a, workloadSelector: {labels: {a: b}}}",
                &[
                    "f:4:35: spec.workloadSelector.matchLabels: missing; want labels to select by",
                    "f:4:36: spec.workloadSelector.labels: unknown field; a DestinationRule's workload selector has matchLabels",
                ],
            ),
            (
                "{host: a, workloadSelector: {matchLabels: {}}, exportTo: ['*', '.']}",
                &[
                    "f:4:49: spec.workloadSelector.matchLabels: found none, which would select everything; name one",
                    "f:4:64: spec.exportTo: \"*\" stands alone; remove it, or the others",
                ],
            ),
        ],
    );
}

#[test]
fn settings_of_ports_are_refused_in_words_that_help() {
    refused(
        "DestinationRule",
        &[
            (
                "{host: a, trafficPolicy: {portLevelSettings: [{}, {port: 80}, {port: {number: 80}}, {port: {number: 80}, tls: {mode: DISABLE}}, {port: {number: 81}, retryBudget: {}}]}}",
                &[
                    "f:4:53: spec.trafficPolicy.portLevelSettings[0].port: missing; want the port, as {number: 80}",
                    "f:4:64: spec.trafficPolicy.portLevelSettings[1].port: found the number 80, want a port: a mapping with number",
                    "f:4:91: spec.trafficPolicy.portLevelSettings[3].port.number: \"80\" is used twice, first in line 4, column 69; put both together",
                    "f:4:156: spec.trafficPolicy.portLevelSettings[4].retryBudget: unknown field; a setting of a port has port, loadBalancer, connectionPool, outlierDetection, tls",
                ],
            ),
            (
                "{host: a, trafficPolicy: {retryBudget: {percent: 101, minRetryConcurrency: -1}, tunnel: {}, proxyProtocol: {version: V3}}}",
                &[
                    "f:4:56: spec.trafficPolicy.retryBudget.percent: found the number 101, want a number from 0 to 100",
                    "f:4:82: spec.trafficPolicy.retryBudget.minRetryConcurrency: found the number -1, want a whole number from 0 to 2147483647",
                    "f:4:87: spec.trafficPolicy.tunnel: not supported yet; remove it, nothing would act on it",
                    "f:4:124: spec.trafficPolicy.proxyProtocol.version: found \"V3\", want a version: V1, V2; did you mean \"V1\"?",
                ],
            ),
        ],
    );
}

#[test]
fn localities_are_refused_in_words_that_help() {
    refused(
        "DestinationRule",
        &[
            (
                "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {eu: 50, us: 49}}], failover: [{from: a, to: b}], failoverPriority: [a]}}}}",
                &[
                    "f:4:96: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: the percentages sum to 99, want 100",
                    "f:4:126: spec.trafficPolicy.loadBalancer.localityLbSetting.failover: beside distribute, which says where requests go; remove one of them",
                    "f:4:164: spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority: beside distribute, which says where requests go; remove one of them",
                ],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: eu/*/a, to: {'eu//b': 100}}, {from: eu/a, to: {eu/a: 0}}, {from: 'eu/a/*', to: {eu/*: 50, eu/b: 50}}, {}]}}}}",
                &[
                    "f:4:88: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].from: found \"eu/*/a\", want region, region/zone or region/zone/subzone, of which the last may be *",
                    "f:4:101: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to.eu//b: found \"eu//b\", want region, region/zone or region/zone/subzone, of which the last may be *",
                    "f:4:141: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[1].to.eu/a: found the number 0, want a whole number from 1 to 100",
                    "f:4:153: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[2].from: \"eu/a\" and \"eu/a/*\" have callers in common; make them disjoint",
                    "f:4:167: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[2].to: \"eu/*\" and \"eu/b\" have endpoints in common; make them disjoint",
                    "f:4:190: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[3].from: missing; want the callers' locality",
                    "f:4:190: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[3].to: missing; want localities and percentages",
                ],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: eu/a, to: us}, {from: eu, to: eu}, {from: eu, to: us}, {to: x}], failoverPriority: ['-a', b, b=c]}}}}",
                &[
                    "f:4:86: spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].from: found \"eu/a\", want a region alone, such as eu",
                    "f:4:116: spec.trafficPolicy.loadBalancer.localityLbSetting.failover[1].to: is the region that it comes from; want another",
                    "f:4:128: spec.trafficPolicy.loadBalancer.localityLbSetting.failover[2].from: \"eu\" is there already; keep one",
                    "f:4:141: spec.trafficPolicy.loadBalancer.localityLbSetting.failover[3].from: missing; want the callers' region",
                    "f:4:170: spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority[0]: \"-a\" is no label: want 1 to 63 letters, digits, - _ . that start and end with a letter or digit",
                    "f:4:179: spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority[2]: \"b\" is there already; keep one",
                ],
            ),
        ],
    );
}

#[test]
fn a_warmup_is_refused_in_words_that_help() {
    refused(
        "DestinationRule",
        &[
            (
                "{host: a, trafficPolicy: {loadBalancer: {warmup: {}, warmupDurationSecs: 1s}}}",
                &[
                    "f:4:56: spec.trafficPolicy.loadBalancer.warmup.duration: missing; want how long a new endpoint warms up",
                    "f:4:80: spec.trafficPolicy.loadBalancer.warmupDurationSecs: found warmup and warmupDurationSecs; only one of them can be",
                ],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM, warmup: {duration: 0s, minimumPercent: 101, aggression: 0.5}}}}",
                &[
                    "f:4:72: spec.trafficPolicy.loadBalancer.warmup: has no effect: only ROUND_ROBIN and LEAST_REQUEST warm up; remove it",
                    "f:4:83: spec.trafficPolicy.loadBalancer.warmup.duration: found zero, want at least 1ms",
                    "f:4:103: spec.trafficPolicy.loadBalancer.warmup.minimumPercent: found the number 101, want a number from 0 to 100",
                    "f:4:120: spec.trafficPolicy.loadBalancer.warmup.aggression: found the number 0.5, want a number from 1 to 1000000",
                ],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}, warmupDurationSecs: 10}}}",
                &[
                    "f:4:105: spec.trafficPolicy.loadBalancer.warmupDurationSecs: found the number 10, want a duration such as 30s, 1.5s, 500ms or 1h30m; which unit?",
                    "f:4:105: spec.trafficPolicy.loadBalancer.warmupDurationSecs: has no effect: only ROUND_ROBIN and LEAST_REQUEST warm up; remove it",
                ],
            ),
        ],
    );
}

#[test]
fn cookies_are_refused_in_words_that_help() {
    refused(
        "DestinationRule",
        &[
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: [{name: SameSite, value: 'a;b'}]}}}}}",
                &[
                    "f:4:99: spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes: has no effect without ttl: the cookie is never set by us; add one, 0s for the session",
                    "f:4:124: spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[0].value: found \"a;b\"; an attribute has no semicolon",
                ],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: 0s, attributes: [{name: Path, value: /}, {value: a}, {name: 'a b'}]}}}}}",
                &[
                    "f:4:116: spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[0].name: \"Path\" is said by path and ttl of the cookie",
                    "f:4:133: spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[1].name: missing; want the attribute's name",
                    "f:4:152: spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[2].name: \"a b\" is no attribute name: letters, digits and - are",
                ],
            ),
        ],
    );
}

#[test]
fn a_pool_is_refused_in_words_that_help() {
    refused(
        "DestinationRule",
        &[
            (
                "{host: a, trafficPolicy: {connectionPool: {tcp: {tcpKeepalive: {probes: 0, time: 1500ms, interval: 10h}, maxConnectionDuration: 0s, idleTimeout: 5}, http: {h2UpgradePolicy: UPGRADES, maxConcurrentStreams: 0}}}}",
                &[
                    "f:4:79: spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.probes: found the number 0, want a whole number from 1 to 127",
                    "f:4:88: spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.time: found 1.5s, want whole seconds, from 1s to 32767s",
                    "f:4:106: spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.interval: found 36000s, want whole seconds, from 1s to 32767s",
                    "f:4:135: spec.trafficPolicy.connectionPool.tcp.maxConnectionDuration: found zero, want at least 1ms",
                    "f:4:152: spec.trafficPolicy.connectionPool.tcp.idleTimeout: found the number 5, want a duration such as 30s, 1.5s, 500ms or 1h30m; which unit?",
                    "f:4:180: spec.trafficPolicy.connectionPool.http.h2UpgradePolicy: found \"UPGRADES\", want an upgrade policy: DEFAULT, UPGRADE, DO_NOT_UPGRADE; did you mean \"UPGRADE\"?",
                    "f:4:212: spec.trafficPolicy.connectionPool.http.maxConcurrentStreams: found 0, which could mean none or unlimited (to Istio, unlimited); remove the field for unlimited",
                ],
            ),
            (
                "{host: a, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}}",
                &[
                    "f:4:102: spec.trafficPolicy.connectionPool.http.useClientProtocol: found true beside an h2UpgradePolicy, and only one of them can choose the protocol; remove one",
                ],
            ),
        ],
    );
}

#[test]
fn an_outlier_detection_is_refused_in_words_that_help() {
    refused(
        "DestinationRule",
        &[
            (
                "{host: a, trafficPolicy: {outlierDetection: {consecutiveLocalOriginFailures: 5}}}",
                &[
                    "f:4:84: spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures: has no effect without splitExternalLocalOriginErrors: true; add that, or remove it",
                ],
            ),
            (
                "{host: a, trafficPolicy: {outlierDetection: {splitExternalLocalOriginErrors: 1, consecutiveErrors: 5}}}",
                &[
                    "f:4:84: spec.trafficPolicy.outlierDetection.splitExternalLocalOriginErrors: found the number 1, want true or false",
                    "f:4:87: spec.trafficPolicy.outlierDetection.consecutiveErrors: not supported yet; Istio has removed it; write consecutive5xxErrors",
                ],
            ),
        ],
    );
}

#[test]
fn tls_is_refused_in_words_that_help() {
    refused(
        "DestinationRule",
        &[
            (
                "{host: a, trafficPolicy: {tls: {mode: DISABLE, subjectAltNames: [a], sni: b, clientCertificate: /a}}}",
                &[
                    "f:4:71: spec.trafficPolicy.tls.subjectAltNames: has no effect with mode DISABLE; remove it, or choose another mode",
                    "f:4:81: spec.trafficPolicy.tls.sni: has no effect with mode DISABLE; remove it, or choose another mode",
                    "f:4:103: spec.trafficPolicy.tls.clientCertificate: has no effect with mode DISABLE; remove it, or choose another mode",
                ],
            ),
            (
                "{host: a, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, caCertificates: /a, privateKey: /b, insecureSkipVerify: true, subjectAltNames: [a]}}}",
                &[
                    "f:4:75: spec.trafficPolicy.tls.caCertificates: has no effect with mode ISTIO_MUTUAL; remove it, or choose another mode",
                    "f:4:91: spec.trafficPolicy.tls.privateKey: has no effect with mode ISTIO_MUTUAL; remove it, or choose another mode",
                    "f:4:115: spec.trafficPolicy.tls.insecureSkipVerify: has no effect with mode ISTIO_MUTUAL; remove it, or choose another mode",
                ],
            ),
            (
                "{host: a, trafficPolicy: {tls: {mode: SIMPLE, clientCertificate: /a, credentialName: b, sni: '*.a'}}}",
                &[
                    "f:4:72: spec.trafficPolicy.tls.clientCertificate: has no effect with mode SIMPLE; remove it, or choose another mode",
                    "f:4:76: spec.trafficPolicy.tls.credentialName: not supported yet; it names a Kubernetes Secret; write files: clientCertificate, privateKey, caCertificates",
                    "f:4:100: spec.trafficPolicy.tls.sni: found \"*.a\": a wildcard is not supported yet here; name one host",
                ],
            ),
            (
                "{host: a, trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: a.pem}}}",
                &[
                    "f:4:38: spec.trafficPolicy.tls.privateKey: missing; mode MUTUAL needs a file",
                    "f:4:72: spec.trafficPolicy.tls.clientCertificate: found \"a.pem\", want the full path of a file where the sidecar runs, such as /etc/certs/ca.pem",
                ],
            ),
            (
                "{host: a, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true, caCertificates: system, subjectAltNames: [a]}}}",
                &[
                    "f:4:95: spec.trafficPolicy.tls.caCertificates: has no effect with insecureSkipVerify: true, which accepts any server; remove one of them",
                    "f:4:120: spec.trafficPolicy.tls.subjectAltNames: has no effect with insecureSkipVerify: true, which accepts any server; remove one of them",
                ],
            ),
            (
                "{host: a, trafficPolicy: {tls: {mode: SIMPEL}}}",
                &[
                    "f:4:45: spec.trafficPolicy.tls.mode: found \"SIMPEL\", want a mode: ISTIO_MUTUAL, MUTUAL, SIMPLE, DISABLE; did you mean \"SIMPLE\"?",
                ],
            ),
        ],
    );
}

#[test]
fn a_destination_policy_is_refused_in_words_that_help() {
    refused(
        "DestinationPolicy",
        &[
            (
                "{}",
                &[
                    "f:4:7: spec.host: missing; want the host that the policy is for",
                    "f:4:7: spec: says nothing; want one or more of balancer, zoneAware, boundedLoad, circuitBreaker, limits, hedging",
                ],
            ),
            (
                "{host: '*.a', subset: _, balancer: {}, boundedLoad: {percent: 100}, zoneAware: {minimumEndpoints: -1}}",
                &[
                    "f:4:14: spec.host: found \"*.a\": a wildcard is not supported yet here; name one host",
                    "f:4:29: spec.subset: found \"_\": '_' cannot be in it; letters, digits and - can",
                    "f:4:42: spec.balancer.peakEwma: missing; want peakEwma, possibly {}",
                    "f:4:69: spec.boundedLoad.percent: found the number 100, want a whole number from 101 to 1000",
                    "f:4:105: spec.zoneAware.minimumEndpoints: found the number -1, want a whole number from 0 to 2147483647",
                ],
            ),
            (
                "{host: a, balancer: {peakEwma: {decay: 0s}}, circuitBreaker: {consecutiveFailures: 0, resetTimeout: 0s, scope: ENDPOINTS}, limits: {scope: PROXY}, hedging: {budgetPercent: 0}}",
                &[
                    "f:4:46: spec.balancer.peakEwma.decay: found zero, want at least 1ms",
                    "f:4:90: spec.circuitBreaker.consecutiveFailures: found the number 0, want a whole number from 1 to 2147483647",
                    "f:4:107: spec.circuitBreaker.resetTimeout: found zero, want at least 1ms",
                    "f:4:118: spec.circuitBreaker.scope: found \"ENDPOINTS\", want a scope: ENDPOINT, SERVICE, BOTH; did you mean \"ENDPOINT\"?",
                    "f:4:146: spec.limits.scope: found \"PROXY\", want a scope: SERVICE",
                    "f:4:163: spec.hedging.after: missing; want how long to wait for the first answer",
                    "f:4:179: spec.hedging.budgetPercent: found 0, which would never send a copy; remove hedging",
                ],
            ),
            (
                "{host: a, hedging: {after: 1h1s}}",
                &["f:4:34: spec.hedging.after: found 3601s, want 1ms to 1h"],
            ),
            (
                "{host: a, boundedLoad: {}, limits: {}, hedging: {after: 0s}, ballancer: {}}",
                &[
                    "f:4:30: spec.boundedLoad.percent: missing; want a percentage of the average load, above 100",
                    "f:4:42: spec.limits.scope: missing; want SERVICE",
                    "f:4:63: spec.hedging.after: found zero, want at least 1ms",
                    "f:4:68: spec.ballancer: unknown field; did you mean \"balancer\"?",
                ],
            ),
        ],
    );
}
