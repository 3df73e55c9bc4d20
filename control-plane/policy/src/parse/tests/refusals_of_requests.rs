//! Rules for HTTP requests that are wrong, and the very words in which that is said.

use super::refusals::refused;

#[test]
fn retries_are_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[
            (
                "{hosts: [a], http: [{retries: {}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:37: spec.http[0].retries.attempts: missing; want how often to try again; 0 = never",
                ],
            ),
            (
                "{hosts: [a], http: [{retries: {attempts: -1, retryOn: '', perTryTimeout: 0s, backoff: 1}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:48: spec.http[0].retries.attempts: found the number -1, want a whole number from 0 to 100",
                    "f:4:61: spec.http[0].retries.retryOn: found an empty text; write one, or remove the field",
                    "f:4:80: spec.http[0].retries.perTryTimeout: found zero, want at least 1ms",
                    "f:4:93: spec.http[0].retries.backoff: found the number 1, want a duration such as 30s, 1.5s, 500ms or 1h30m; which unit?",
                ],
            ),
            (
                "{hosts: [a], http: [{retries: {attempts: 101}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:48: spec.http[0].retries.attempts: found the number 101, want a whole number from 0 to 100",
                ],
            ),
            (
                "{hosts: [a], http: [{retries: {attempts: 2, retryOn: '5xx, conect-failure,5XX,,600', retryRemoteLocalities: 1}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:60: spec.http[0].retries.retryOn: found \"conect-failure\", want a condition or a status code: 5xx, gateway-error, reset, reset-before-request, connect-failure, refused-stream, envoy-ratelimited, retriable-4xx, retriable-status-codes, retriable-headers, http3-post-connect-failure, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable; did you mean \"connect-failure\"?",
                    "f:4:60: spec.http[0].retries.retryOn: found \"5XX\", want a condition or a status code: 5xx, gateway-error, reset, reset-before-request, connect-failure, refused-stream, envoy-ratelimited, retriable-4xx, retriable-status-codes, retriable-headers, http3-post-connect-failure, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable; did you mean \"5xx\"?",
                    "f:4:60: spec.http[0].retries.retryOn: found \"\", want a condition or a status code: 5xx, gateway-error, reset, reset-before-request, connect-failure, refused-stream, envoy-ratelimited, retriable-4xx, retriable-status-codes, retriable-headers, http3-post-connect-failure, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable",
                    "f:4:60: spec.http[0].retries.retryOn: found 600, want a status from 100 to 599",
                    "f:4:115: spec.http[0].retries.retryRemoteLocalities: found the number 1, want true or false",
                ],
            ),
            (
                "{hosts: [a], http: [{retries: {attempts: 0, retryOn: 5xx, backoff: 1s}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:60: spec.http[0].retries.retryOn: has no effect with attempts: 0; remove it",
                    "f:4:74: spec.http[0].retries.backoff: has no effect with attempts: 0; remove it",
                ],
            ),
        ],
    );
}

#[test]
fn faults_are_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[
            (
                "{hosts: [a], http: [{fault: {}, route: [{destination: {host: a}}]}]}",
                &["f:4:35: spec.http[0].fault: does nothing; want delay, abort or both"],
            ),
            (
                "{hosts: [a], http: [{fault: {delay: {exponentialDelay: 1s, percentage: {value: 100.1}}, abort: {http2Error: X, percent: 101}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:43: spec.http[0].fault.delay.fixedDelay: missing; want how long to wait, such as 5s",
                    "f:4:44: spec.http[0].fault.delay.exponentialDelay: not supported yet; remove it, nothing would act on it",
                    "f:4:86: spec.http[0].fault.delay.percentage.value: found the number 100.1, want a number from 0 to 100",
                    "f:4:103: spec.http[0].fault.abort.http2Error: not supported yet; remove it, nothing would act on it",
                    "f:4:127: spec.http[0].fault.abort.percent: found the number 101, want a whole number from 0 to 100",
                ],
            ),
            (
                "{hosts: [a], http: [{fault: {delay: {fixedDelay: 0s, percentage: {value: 1}, percent: 1}, abort: {httpStatus: 199, grpcStatus: UNAVAILABLE}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:56: spec.http[0].fault.delay.fixedDelay: found zero, want at least 1ms",
                    "f:4:93: spec.http[0].fault.delay.percent: found percentage and percent; only one of them can be",
                    "f:4:117: spec.http[0].fault.abort.httpStatus: found the number 199, want a whole number from 200 to 599",
                    "f:4:134: spec.http[0].fault.abort.grpcStatus: found httpStatus and grpcStatus; only one of them can be",
                ],
            ),
            (
                "{hosts: [a], http: [{fault: {abort: {grpcStatus: UNAVAILABL, percentage: {value: 0.00001}}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:56: spec.http[0].fault.abort.grpcStatus: found \"UNAVAILABL\", want a gRPC status by name, or by number from 0 to 16: OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED; did you mean \"UNAVAILABLE\"?",
                    "f:4:88: spec.http[0].fault.abort.percentage.value: is less than one request in a million; want 0.0001 or more, or 0",
                ],
            ),
            (
                "{hosts: [a], http: [{fault: {abort: {grpcStatus: '17', percentage: {}}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:56: spec.http[0].fault.abort.grpcStatus: found \"17\", want a gRPC status by name, or by number from 0 to 16: OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED",
                    "f:4:74: spec.http[0].fault.abort.percentage.value: missing; want a number from 0 to 100",
                ],
            ),
            (
                "{hosts: [a], http: [{fault: {abort: {percentage: 1}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:43: spec.http[0].fault.abort: missing: want one of httpStatus, grpcStatus",
                    "f:4:56: spec.http[0].fault.abort.percentage: found the number 1, want a percentage: a mapping with value",
                ],
            ),
        ],
    );
}

#[test]
fn mirrors_are_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[
            (
                "{hosts: [a], http: [{mirror: {host: b}, mirrors: [{destination: {host: b}}], route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:56: spec.http[0].mirrors: found mirror and mirrors; only one of them can be",
                ],
            ),
            (
                "{hosts: [a], http: [{mirrorPercent: 1, mirror_percent: 2, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:43: spec.http[0].mirrorPercent: has no effect without mirror; remove it",
                    "f:4:62: spec.http[0].mirror_percent: found mirrorPercent and mirror_percent; only one of them can be",
                    "f:4:62: spec.http[0].mirror_percent: has no effect without mirror; remove it",
                ],
            ),
            (
                "{hosts: [a], http: [{mirror: {host: b}, mirrorPercent: 1, mirrorPercentage: {value: 2}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:62: spec.http[0].mirrorPercent: found mirrorPercentage and mirrorPercent; only one of them can be",
                ],
            ),
            (
                "{hosts: [a], http: [{mirrors: [{percentage: {value: 1}}], route: [{destination: {host: a}}]}]}",
                &["f:4:38: spec.http[0].mirrors[0].destination: missing; want where copies go"],
            ),
            (
                "{hosts: [a], http: [{mirrors: [], route: [{destination: {host: a}}]}]}",
                &["f:4:37: spec.http[0].mirrors: found an empty list, want at least one item"],
            ),
        ],
    );
}

#[test]
fn a_cors_policy_is_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[
            (
                "{hosts: [a], http: [{corsPolicy: {}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:40: spec.http[0].corsPolicy: missing: want one of allowOrigins, allowOrigin",
                ],
            ),
            (
                "{hosts: [a], http: [{corsPolicy: {allowOrigins: [], allowMethods: [get, FETCH], allowHeaders: ['a b'], exposeHeaders: ['']}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:55: spec.http[0].corsPolicy.allowOrigins: found an empty list, want at least one item",
                    "f:4:74: spec.http[0].corsPolicy.allowMethods[0]: found \"get\", want a method: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT, TRACE, *; did you mean \"GET\"?",
                    "f:4:79: spec.http[0].corsPolicy.allowMethods[1]: found \"FETCH\", want a method: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT, TRACE, *",
                    "f:4:102: spec.http[0].corsPolicy.allowHeaders[0]: \"a b\" is no header name: letters, digits and - are",
                    "f:4:126: spec.http[0].corsPolicy.exposeHeaders[0]: found an empty text; write one, or remove the field",
                ],
            ),
            (
                "{hosts: [a], http: [{corsPolicy: {allowOrigins: [{regex: '('}, {exact: ''}], allowOrigin: ['*'], maxAge: 1500ms, unmatchedPreflights: DROP}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:64: spec.http[0].corsPolicy.allowOrigins[0].regex: the regular expression \"(\" is not RE2: unclosed group",
                    "f:4:78: spec.http[0].corsPolicy.allowOrigins[1].exact: found an empty text, want one",
                    "f:4:97: spec.http[0].corsPolicy.allowOrigin: found allowOrigins and allowOrigin; only one of them can be",
                    "f:4:112: spec.http[0].corsPolicy.maxAge: is not a whole number of seconds; want one such as 24h",
                    "f:4:141: spec.http[0].corsPolicy.unmatchedPreflights: found \"DROP\", want what to do: UNSPECIFIED, FORWARD, IGNORE",
                ],
            ),
        ],
    );
}

#[test]
fn rewrites_and_answers_are_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[
            (
                "{hosts: [a], http: [{rewrite: {uri: /a, uriRegexRewrite: {match: '/(a)', rewrite: /b}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:64: spec.http[0].rewrite.uriRegexRewrite: found uri and uriRegexRewrite; only one of them can be",
                ],
            ),
            (
                "{hosts: [a], http: [{rewrite: {uriRegexRewrite: {match: '/(a)', rewrite: '/\\2'}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:80: spec.http[0].rewrite.uriRegexRewrite.rewrite: found \"/\\\\2\": \\2 is a group that the expression does not have; it has 1",
                ],
            ),
            (
                "{hosts: [a], http: [{rewrite: {uriRegexRewrite: {match: '(', rewrite: '/a b'}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:63: spec.http[0].rewrite.uriRegexRewrite.match: the regular expression \"(\" is not RE2: unclosed group",
                ],
            ),
            (
                "{hosts: [a], http: [{rewrite: {uriRegexRewrite: {match: '/a', rewrite: '/a b'}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:78: spec.http[0].rewrite.uriRegexRewrite.rewrite: found \"/a b\": a path has no ' '",
                ],
            ),
            (
                "{hosts: [a], http: [{rewrite: {uriRegexRewrite: {match: '/a', rewrite: '/\\x'}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:78: spec.http[0].rewrite.uriRegexRewrite.rewrite: found \"/\\\\x\": what follows \\ has to be a group's number, 0 to 9",
                ],
            ),
            (
                "{hosts: [a], http: [{rewrite: {uriRegexRewrite: {}}, route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:55: spec.http[0].rewrite.uriRegexRewrite.match: missing; want an RE2 expression",
                    "f:4:55: spec.http[0].rewrite.uriRegexRewrite.rewrite: missing; want what takes the place of a match",
                ],
            ),
            (
                "{hosts: [a], http: [{redirect: {redirectCode: 304, port: 1, derivePort: FROM_REQUEST}}, {redirect: {scheme: ftp, uri: '/a%PREFIX()%'}, rewrite: {uri: /}, retries: {attempts: 1}, fault: {abort: {httpStatus: 500}}, mirror: {host: a}}]}",
                &[
                    "f:4:53: spec.http[0].redirect.redirectCode: found 304, want 301, 302, 303, 307 or 308",
                    "f:4:79: spec.http[0].redirect.derivePort: found port and derivePort; only one of them can be",
                    "f:4:79: spec.http[0].redirect.derivePort: found \"FROM_REQUEST\", want where the port comes from: FROM_PROTOCOL_DEFAULT, FROM_REQUEST_PORT",
                    "f:4:115: spec.http[1].redirect.scheme: found \"ftp\", want a scheme: http, https",
                    "f:4:125: spec.http[1].redirect.uri: found \"/a%PREFIX()%\"; %PREFIX()% stands first, and behind it the path that takes the prefix's place, such as %PREFIX()%/new",
                    "f:4:151: spec.http[1].rewrite: has no effect without \"route\"; remove it",
                    "f:4:170: spec.http[1].retries: has no effect without \"route\"; remove it",
                    "f:4:192: spec.http[1].fault: has no effect without \"route\"; remove it",
                    "f:4:228: spec.http[1].mirror: has no effect without \"route\"; remove it",
                ],
            ),
            (
                "{hosts: [a], http: [{redirect: {redirectCode: 301}}, {redirect: {uri: '%PREFIX()%'}}]}",
                &[
                    "f:4:38: spec.http[0].redirect: would lead back to the same place; want uri, authority, port or scheme",
                    "f:4:77: spec.http[1].redirect.uri: found \"%PREFIX()%\"; %PREFIX()% stands first, and behind it the path that takes the prefix's place, such as %PREFIX()%/new",
                ],
            ),
            (
                "{hosts: [a], http: [{directResponse: {body: {bytes: 'a GVs'}}}, {directResponse: {status: 200, body: {string: a, bytes: aGk=}}}, {directResponse: {status: 200, body: {}}}]}",
                &[
                    "f:4:44: spec.http[0].directResponse.status: missing; want a status from 200 to 599",
                    "f:4:59: spec.http[0].directResponse.body.bytes: found \"a GVs\", want base64 such as aGVsbG8=",
                    "f:4:127: spec.http[1].directResponse.body.bytes: found string and bytes; only one of them can be",
                    "f:4:173: spec.http[2].directResponse.body: missing: want one of string, bytes",
                ],
            ),
        ],
    );
}

#[test]
fn values_of_headers_are_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[(
            "{hosts: [a], http: [{headers: {request: {set: {A: '%RESP(x)%', B: '%USER%', C: '%REQ(a b)%'}, add: {D: '100%'}}, response: {set: {E: '%PROTOCOL(x)%'}}}, route: [{destination: {host: a}}]}]}",
            &[
                "f:4:57: spec.http[0].headers.request.set.A: found \"%RESP(x)%\": the substitution %RESP(x)% at character 1 is not known yet when the request is sent; write it into a response header",
                "f:4:73: spec.http[0].headers.request.set.B: found \"%USER%\": the substitution %USER% at character 1 is unknown: found \"USER\", want one of: DOWNSTREAM_REMOTE_ADDRESS, DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT, DOWNSTREAM_LOCAL_ADDRESS, DOWNSTREAM_PEER_URI_SAN, REQ, RESP, PROTOCOL, RESPONSE_CODE, UPSTREAM_HOST, UPSTREAM_CLUSTER, ROUTE_NAME, START_TIME, HOSTNAME",
                "f:4:86: spec.http[0].headers.request.set.C: found \"%REQ(a b)%\": the substitution %REQ(a b)% at character 1 names \"a b\", which is no header",
                "f:4:110: spec.http[0].headers.request.add.D: found \"100%\": the % at character 4 opens a substitution that nothing closes; write %% for the sign",
                "f:4:140: spec.http[0].headers.response.set.E: found \"%PROTOCOL(x)%\": the substitution %PROTOCOL(x)% at character 1 takes no argument; write %PROTOCOL%",
            ],
        )],
    );
}

#[test]
fn matches_of_the_caller_are_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[(
            "{hosts: [a], http: [{match: [{sourceLabels: {a: 1}, sourceNamespace: A, statPrefix: 'a b'}], route: [{destination: {host: a}}]}]}",
            &[
                "f:4:55: spec.http[0].match[0].sourceLabels.a: found the number 1, want a text; write \"1\" in quotes",
                "f:4:76: spec.http[0].match[0].sourceNamespace: found \"A\": 'A' cannot be in it; lower-case letters, digits and - can",
                "f:4:91: spec.http[0].match[0].statPrefix: found \"a b\", want at most 100 letters, digits, - _ .",
            ],
        )],
    );
}

#[test]
fn delegates_are_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[
            (
                "{hosts: [a], http: [{delegate: {}}, {delegate: {name: b}, route: [{destination: {host: a}}]}, {delegate: {name: B, namespace: a.b}}]}",
                &[
                    "f:4:38: spec.http[0].delegate.name: missing; want the name of a VirtualService without hosts",
                    "f:4:54: spec.http[1].delegate: found route and delegate; only one of them can be",
                    "f:4:119: spec.http[2].delegate.name: found \"B\": 'B' cannot be in it; lower-case letters, digits and - can",
                    "f:4:133: spec.http[2].delegate.namespace: found \"a.b\": '.' cannot be in a DNS name",
                ],
            ),
            (
                "{http: [{delegate: {name: b}}], tls: [{match: [{sniHosts: [b]}], route: [{destination: {host: a}}]}], tcp: [{route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:33: spec.http[0].delegate: a document without hosts is a delegate itself, and delegates no further; name the hosts, or the destination",
                    "f:4:44: spec.tls: has no effect without hosts: only http rules can be delegated; name the hosts",
                    "f:4:114: spec.tcp: has no effect without hosts: only http rules can be delegated; name the hosts",
                ],
            ),
        ],
    );
}

#[test]
fn visibility_is_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[
            (
                "{hosts: [a], exportTo: ['*', b, B], http: [{route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:30: spec.exportTo: \"*\" stands alone; remove it, or the others",
                    "f:4:39: spec.exportTo[2]: found \"B\": 'B' cannot be in it; lower-case letters, digits and - can",
                ],
            ),
            (
                "{hosts: [a], exportTo: ['~', '.'], http: [{route: [{destination: {host: a}}]}]}",
                &["f:4:30: spec.exportTo: \"~\" stands alone; remove it, or the others"],
            ),
        ],
    );
}
