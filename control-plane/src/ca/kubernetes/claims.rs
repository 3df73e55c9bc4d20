//! What a projected service-account token has to say. Pure: the signature is somebody else's, the time an argument.
//!
//! Source: Kubernetes, "Managing Service Accounts" (bound tokens); RFC 7519, section 4.1.

use serde::Deserialize;

use super::Rejection;

/// How far two clocks may be apart, in seconds.
const SKEW: i64 = 30;

/// Who a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// For the log.
    pub(crate) pod: String,
}

/// What a token must be.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// None = whoever the API server takes for its own.
    pub(super) issuer: Option<String>,
    /// One of them.
    pub(super) audiences: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<i64>,
    nbf: Option<i64>,
    iat: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    bound: Option<Bound>,
}

/// One or several (RFC 7519, 4.1.3).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct Bound {
    namespace: String,
    pod: Option<Object>,
    serviceaccount: Object,
}

#[derive(Debug, Deserialize)]
struct Object {
    name: String,
    uid: String,
}

impl Claims {
    /// Checks all of them.
    pub(super) fn check(&self, rules: &Rules, now: i64) -> Result<ServiceAccount, Rejection> {
        self.check_issuer(rules)?;
        self.check_audience(rules)?;
        self.check_time(now)?;
        self.account()
    }

    fn check_issuer(&self, rules: &Rules) -> Result<(), Rejection> {
        let Some(expected) = &rules.issuer else {
            return Ok(());
        };
        match &self.iss {
            Some(found) if found == expected => Ok(()),
            found => Err(Rejection::new(
                "issuer",
                format!(
                    "its issuer is {:?}; this mesh takes tokens of {expected:?}",
                    found.as_deref().unwrap_or_default()
                ),
            )),
        }
    }

    fn check_audience(&self, rules: &Rules) -> Result<(), Rejection> {
        let found = match &self.aud {
            None => &[][..],
            Some(Audience::One(one)) => std::slice::from_ref(one),
            Some(Audience::Several(several)) => several,
        };
        if found.iter().any(|one| rules.audiences.contains(one)) {
            return Ok(());
        }
        Err(Rejection::new(
            "audience",
            format!(
                "its audience is {found:?}; project one for {}",
                rules.audiences.join(" or ")
            ),
        ))
    }

    fn check_time(&self, now: i64) -> Result<(), Rejection> {
        let Some(end) = self.exp else {
            return Err(Rejection::new(
                "expired",
                "it has no end (exp); only projected tokens are taken",
            ));
        };
        if end.saturating_add(SKEW) <= now {
            let ago = now.saturating_sub(end);
            return Err(Rejection::new(
                "expired",
                format!("it has expired {ago} s ago; is its file read anew?"),
            ));
        }
        for (name, begin) in [("nbf", self.nbf), ("iat", self.iat)] {
            if let Some(begin) = begin
                && begin.saturating_sub(SKEW) > now
            {
                let ahead = begin.saturating_sub(now);
                return Err(Rejection::new(
                    "not_yet",
                    format!("it begins in {ahead} s ({name}); are the clocks right?"),
                ));
            }
        }
        Ok(())
    }

    /// What it is bound to, told twice, and the same both times.
    fn account(&self) -> Result<ServiceAccount, Rejection> {
        let Some(bound) = &self.bound else {
            return Err(Rejection::new(
                "not_bound",
                "it has no \"kubernetes.io\" claims; only projected tokens are taken",
            ));
        };
        let pod = bound.pod.as_ref();
        let Some(pod) = pod.filter(|pod| !pod.name.is_empty() && !pod.uid.is_empty()) else {
            return Err(Rejection::new(
                "not_bound",
                "it is bound to no pod; only tokens that are projected into a pod are taken",
            ));
        };
        let account = subject(self.sub.as_deref().unwrap_or_default())?;
        let (namespace, name) = (&bound.namespace, &bound.serviceaccount.name);
        if account != (namespace.as_str(), name.as_str()) || bound.serviceaccount.uid.is_empty() {
            return Err(Rejection::new(
                "subject",
                format!(
                    "its subject is {:?}, and it is bound to the service account {name} of {namespace}",
                    self.sub.as_deref().unwrap_or_default()
                ),
            ));
        }
        Ok(ServiceAccount {
            namespace: namespace.clone(),
            name: name.clone(),
            pod: pod.name.clone(),
        })
    }
}

/// Namespace and name of `system:serviceaccount:<namespace>:<name>`.
pub(super) fn subject(text: &str) -> Result<(&str, &str), Rejection> {
    text.strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(|| {
            Rejection::new(
                "subject",
                format!("{text:?} is not system:serviceaccount:<namespace>:<name>"),
            )
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn rules() -> Rules {
        Rules {
            issuer: Some("https://kubernetes.default.svc".to_owned()),
            audiences: vec!["outrigger-ca".to_owned(), "istio-ca".to_owned()],
        }
    }

    fn claims() -> Value {
        json!({
            "iss": "https://kubernetes.default.svc",
            "sub": "system:serviceaccount:shop:reviews",
            "aud": ["outrigger-ca"],
            "exp": NOW + 600, "nbf": NOW, "iat": NOW,
            "kubernetes.io": {
                "namespace": "shop",
                "pod": { "name": "reviews-1", "uid": "p" },
                "serviceaccount": { "name": "reviews", "uid": "s" },
            },
        })
    }

    fn judge(claims: Value) -> Result<ServiceAccount, &'static str> {
        let claims: Claims = serde_json::from_value(claims).unwrap();
        claims.check(&rules(), NOW).map_err(|no| no.reason)
    }

    #[test]
    fn a_projected_token_is_for_the_account_that_it_is_bound_to() {
        let account = judge(claims()).unwrap();
        assert_eq!((&*account.namespace, &*account.name), ("shop", "reviews"));
        let mut one = claims();
        one["aud"] = "istio-ca".into();
        judge(one).unwrap();
    }

    #[test]
    fn each_broken_rule_is_told_from_the_others() {
        let table: &[(&str, Value, &str)] = &[
            ("/iss", json!("https://elsewhere"), "issuer"),
            ("/iss", Value::Null, "issuer"),
            (
                "/aud",
                json!(["https://kubernetes.default.svc"]),
                "audience",
            ),
            ("/aud", json!([]), "audience"),
            ("/aud", Value::Null, "audience"),
            ("/exp", json!(NOW - 31), "expired"),
            ("/exp", Value::Null, "expired"),
            ("/nbf", json!(NOW + 31), "not_yet"),
            ("/iat", json!(NOW + 31), "not_yet"),
            ("/kubernetes.io", Value::Null, "not_bound"),
            ("/kubernetes.io/pod", Value::Null, "not_bound"),
            ("/kubernetes.io/pod/uid", json!(""), "not_bound"),
            ("/sub", json!("system:serviceaccount:shop:admin"), "subject"),
            (
                "/sub",
                json!("system:serviceaccount:other:reviews"),
                "subject",
            ),
            ("/sub", json!("reviews"), "subject"),
            ("/kubernetes.io/namespace", json!("other"), "subject"),
        ];
        for (path, value, reason) in table {
            let mut claims = claims();
            *claims.pointer_mut(path).unwrap() = value.clone();
            assert_eq!(judge(claims), Err(*reason), "{path} = {value}");
        }
    }

    #[test]
    fn clocks_may_be_half_a_minute_apart() {
        for (path, value) in [("/exp", NOW - 29), ("/nbf", NOW + 30), ("/iat", NOW + 30)] {
            let mut claims = claims();
            *claims.pointer_mut(path).unwrap() = value.into();
            assert!(judge(claims).is_ok(), "{path}");
        }
    }
}
