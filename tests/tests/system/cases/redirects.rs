//! `spec.http[].redirect`.

use crate::system::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::http(
            "redirect",
            "
            - match: [{uri: {exact: /uri}}]
              redirect: {uri: /new}
            - match: [{uri: {exact: /authority}}]
              redirect: {authority: other.example}
            - match: [{uri: {exact: /authority-port}}]
              redirect: {authority: 'other.example:8080'}
            - match: [{uri: {exact: /scheme}}]
              redirect: {scheme: https}
            - match: [{uri: {exact: /same-scheme}}]
              redirect: {scheme: http, uri: /x}
            - match: [{uri: {exact: /port}}]
              redirect: {port: 8443}
            - match: [{uri: {exact: /scheme-port}}]
              redirect: {scheme: https, port: 8443}
            - match: [{uri: {exact: /all}}]
              redirect: {uri: /n, authority: other.example, scheme: https, port: 444, redirectCode: 308}",
        )
        .asks(&[
            "GET /uri -> 301; <location=http://HOST/new",
            "GET /uri?a=b -> 301; <location=http://HOST/new?a=b",
            "GET /uri | host: HOST:80 -> 301",
            "GET /authority -> 301; <location=http://other.example/authority",
            "GET /authority?q | host: HOST:80 -> 301; <location=http://other.example/authority?q",
            "GET /authority-port -> 301; <location=http://other.example:8080/authority-port",
            "GET /scheme -> 301; <location=https://HOST/scheme",
            "GET /scheme | host: HOST:80 -> 301; <location=https://HOST/scheme",
            "GET /same-scheme | host: HOST:80 -> 301",
            "GET /port -> 301; <location=http://HOST:8443/port",
            "GET /port | host: HOST:80 -> 301; <location=http://HOST:8443/port",
            "GET /scheme-port -> 301; <location=https://HOST:8443/scheme-port",
            "GET /all?x=1 -> 308; <location=https://other.example:444/n?x=1",
            "POST /all -> 308",
            "HEAD /all -> 308",
        ]),
        Case::http(
            "redirect-codes",
            "
            - {match: [{uri: {exact: /301}}], redirect: {uri: /x, redirectCode: 301}}
            - {match: [{uri: {exact: /302}}], redirect: {uri: /x, redirectCode: 302}}
            - {match: [{uri: {exact: /303}}], redirect: {uri: /x, redirectCode: 303}}
            - {match: [{uri: {exact: /307}}], redirect: {uri: /x, redirectCode: 307}}
            - {match: [{uri: {exact: /308}}], redirect: {uri: /x, redirectCode: 308}}
            - {match: [{uri: {exact: /default}}], redirect: {uri: /x}}",
        )
        .asks(&[
            "GET /301 -> 301",
            "GET /302 -> 302",
            "GET /303 -> 303",
            "POST /307 -> 307",
            "PUT /308 -> 308",
            "GET /default -> 301; <location=http://HOST/x",
        ]),
        Case::http(
            "redirect-headers",
            "
            - redirect: {uri: /x}
              headers: {response: {set: {x-set: a}, add: {x-add: b}}}",
        )
        .asks(&["GET / -> 301; <x-set=a; <x-add=b"]),
    ]
}
