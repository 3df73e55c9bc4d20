//! `spec.http[].directResponse`.

use crate::system::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::http(
            "direct",
            r#"
            - match: [{uri: {exact: /empty}}]
              directResponse: {status: 503}
            - match: [{uri: {exact: /text}}]
              directResponse: {status: 418, body: {string: "short and stout"}}
            - match: [{uri: {exact: /json}}]
              directResponse: {status: 200, body: {string: '{"a": 1}'}}
              headers: {response: {set: {content-type: application/json}}}
            - match: [{uri: {exact: /no-content}}]
              directResponse: {status: 204}"#,
        )
        .asks(&[
            "GET /empty -> 503",
            "GET /text -> 418",
            "POST /text -> 418",
            "HEAD /text -> 418",
            "GET /json -> 200; <content-type=application/json",
            "GET /no-content -> 204",
        ]),
    ]
}
