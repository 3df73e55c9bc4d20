//! `TokenReview`: the API server says whose a token is, and whether its pod is still there.
//!
//! Source: Kubernetes API, authentication.k8s.io/v1.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;

use super::{Rejection, ServiceAccount, claims::subject};
use crate::fetch::Server;

/// Path of the call.
pub(super) const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Asks the API server.
#[derive(Debug)]
pub(super) struct Reviewer {
    pub(super) server: Server,
    /// Our own, which may create reviews (`system:auth-delegator`).
    pub(super) token_file: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    groups: Vec<String>,
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

impl Reviewer {
    pub(super) async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<ServiceAccount, Rejection> {
        let unavailable = |error: String| {
            tracing::warn!(%error, "the API server reviews no tokens");
            Rejection::unavailable("the API server reviews no tokens at the moment")
        };
        let own = super::own_token(&self.token_file)
            .await
            .map_err(unavailable)?;
        let ask = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": audiences },
        });
        let answer = self
            .server
            .call(Some(&own), Some(ask.to_string().into_bytes()))
            .await
            .map_err(|error| unavailable(super::chain(&error)))?;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|error| unavailable(format!("its answer: {error}")))?;
        judge(answer.status, audiences)
    }
}

fn judge(status: Status, audiences: &[String]) -> Result<ServiceAccount, Rejection> {
    if !status.authenticated {
        let why = match status.error.as_str() {
            "" => "it is not valid",
            error => error,
        };
        return Err(Rejection::new(
            "review",
            format!("the API server does not take it: {why}"),
        ));
    }
    // An API server that knows no audiences answers none: such a token would be good anywhere.
    if !status.audiences.iter().any(|one| audiences.contains(one)) {
        return Err(Rejection::new(
            "audience",
            format!(
                "it is good for {:?}; project one for {}",
                status.audiences,
                audiences.join(" or ")
            ),
        ));
    }
    let mut user = status.user;
    let (namespace, name) = subject(&user.username)?;
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    if !user
        .groups
        .iter()
        .any(|one| one == "system:serviceaccounts")
    {
        return Err(Rejection::new(
            "subject",
            format!("{} is no service account", user.username),
        ));
    }
    let mut first = |key| {
        let values = user.extra.remove(key).unwrap_or_default();
        values.into_iter().find(|value| !value.is_empty())
    };
    match (first(POD_NAME), first(POD_UID)) {
        (Some(pod), Some(_uid)) => Ok(ServiceAccount {
            namespace,
            name,
            pod,
        }),
        _ => Err(Rejection::new(
            "not_bound",
            "it is bound to no pod; only tokens that are projected into a pod are taken",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> serde_json::Value {
        json!({
            "authenticated": true,
            "audiences": ["outrigger-ca"],
            "user": {
                "username": "system:serviceaccount:shop:reviews",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": { POD_NAME: ["reviews-1"], POD_UID: ["u"] },
            },
        })
    }

    fn judged(status: serde_json::Value) -> Result<ServiceAccount, &'static str> {
        let status = serde_json::from_value(status).unwrap();
        judge(status, &["outrigger-ca".to_owned()]).map_err(|no| no.reason)
    }

    #[test]
    fn a_reviewed_token_is_for_its_user() {
        let account = judged(status()).unwrap();
        assert_eq!((&*account.namespace, &*account.name), ("shop", "reviews"));
    }

    #[test]
    fn what_the_api_server_does_not_say_is_not_assumed() {
        let without = |path: &str| {
            let mut status = status();
            *status.pointer_mut(path).unwrap() = serde_json::Value::Null;
            let mut text = status.to_string();
            text = text.replace(":null", ":[]");
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let mut refused = status();
        refused["authenticated"] = false.into();
        assert_eq!(judged(refused), Err("review"));
        assert_eq!(judged(without("/audiences")), Err("audience"));
        assert_eq!(judged(without("/user/groups")), Err("subject"));
        let mut person = status();
        person["user"]["username"] = "kubernetes-admin".into();
        assert_eq!(judged(person), Err("subject"));
        let mut anywhere = status();
        anywhere["user"]["extra"] = json!({});
        assert_eq!(judged(anywhere), Err("not_bound"));
    }
}
