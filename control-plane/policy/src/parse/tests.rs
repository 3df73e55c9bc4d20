mod documents;
mod mutation;
mod reference;
mod refusals;
mod refusals_of_connections;
mod refusals_of_destinations;
mod refusals_of_requests;
mod refusals_of_security;

use crate::{Object, ParseLimits, parse};

/// Every effective field, each at least once.
const EVERYTHING: &str = include_str!("../../testdata/everything.yaml");

/// The one object of a text that is right.
fn one(text: &str) -> Object {
    match parse("f", text, "default", &ParseLimits::default()) {
        Ok(mut objects) if objects.len() == 1 => objects.remove(0),
        other => panic!("want one object, found {other:#?}"),
    }
}

fn errors(text: &str) -> Vec<String> {
    match parse("f", text, "default", &ParseLimits::default()) {
        Ok(objects) => panic!("want errors, found {objects:#?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// A document of `kind` whose spec is `spec`, a flow mapping on line 4.
fn document(kind: &str, spec: &str) -> String {
    let version = api_version(kind);
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n")
}

fn api_version(kind: &str) -> &'static str {
    match kind {
        "DestinationPolicy" | "ExtensionProvider" => "outrigger.dev/v1",
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => {
            "security.istio.io/v1"
        }
        _ => "networking.istio.io/v1",
    }
}

macro_rules! spec_of {
    ($kind:ident, $object:expr) => {
        match $object.spec {
            Spec::$kind(spec) => spec,
            other => panic!("want a {}, found {other:?}", stringify!($kind)),
        }
    };
}
pub(crate) use spec_of;
