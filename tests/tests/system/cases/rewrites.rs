//! `spec.http[].rewrite`.

use crate::system::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::http(
            "rewrite-prefix",
            "
            - match: [{uri: {prefix: /old/}}]
              rewrite: {uri: /new/}
              route: $v1
            - match: [{uri: {prefix: /slash/}}]
              rewrite: {uri: /}
              route: $v1
            - match: [{uri: {prefix: /bare}}]
              rewrite: {uri: /}
              route: $v1
            - match: [{uri: {prefix: /cut}}]
              rewrite: {uri: /c}
              route: $v1
            - match: [{uri: {prefix: /Case}, ignoreUriCase: true}]
              rewrite: {uri: /lower}
              route: $v1
            - rewrite: {uri: /all}
              route: $v2",
        )
        .asks(&[
            "GET /old/a -> 200; v1; >:path=/new/a",
            "GET /old/a?b=c -> 200; v1; >:path=/new/a?b=c",
            "GET /old/ -> 200; v1; >:path=/new/",
            "GET /old/old/x -> 200; v1; >:path=/new/old/x",
            "GET /slash/a -> 200; v1; >:path=/a",
            "GET /bare/a -> 200; v1; >:path=//a",
            "GET /bare -> 200; v1; >:path=/",
            "GET /bare?x -> 200; v1; >:path=/?x",
            "GET /cutter/a -> 200; v1; >:path=/cter/a",
            "GET /cASe/Keep -> 200; v1; >:path=/lower/Keep",
            "GET /other -> 200; v2",
            "GET / -> 200; v2",
        ]),
        Case::http(
            "rewrite-exact",
            "
            - match: [{uri: {exact: /one}}]
              rewrite: {uri: /two/three}
              route: $v1
            - route: $v2",
        )
        .asks(&[
            "GET /one -> 200; v1; >:path=/two/three",
            "GET /one?x=/one -> 200; v1; >:path=/two/three?x=/one",
            "GET /one/ -> 200; v2; >:path=/one/",
        ]),
        Case::http(
            "rewrite-authority",
            "
            - match: [{uri: {exact: /host}}]
              rewrite: {authority: inner.example}
              route: $v1
            - match: [{uri: {exact: /port}}]
              rewrite: {authority: 'inner.example:81'}
              route: $v1
            - match: [{uri: {prefix: /both}}]
              rewrite: {uri: /b, authority: inner.example}
              route: $v1",
        )
        .asks(&[
            "GET /host -> 200; v1; >host=inner.example",
            "GET /host | host: HOST:80 -> 200; v1; >host=inner.example",
            "GET /port -> 200; v1; >host=inner.example:81",
            "GET /both/x -> 200; v1; >host=inner.example; >:path=/b/x",
        ]),
    ]
}
