//! Cross-origin requests of browsers, exactly as Envoy's CORS filter: nothing is refused here. A preflight of an allowed
//! origin is answered, other answers get headers, and without them it is the browser that refuses.

use http::{
    HeaderMap, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    },
};

use super::StringMatch;

/// A compiled `CorsPolicy`. What is None is not said.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// One must hold for the origin; one that holds for `*` allows every origin.
    pub allow_origins: Vec<StringMatch>,
    /// In answers to preflights.
    pub allow_methods: Option<HeaderValue>,
    /// In answers to preflights.
    pub allow_headers: Option<HeaderValue>,
    /// In answers to preflights.
    pub max_age: Option<HeaderValue>,
    /// In other answers.
    pub expose_headers: Option<HeaderValue>,
    /// In all answers.
    pub allow_credentials: bool,
    /// Preflights of other origins go to the application. Default true; else they are answered without headers.
    pub forward_not_matching_preflights: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsVerdict {
    /// As if there were no policy.
    Pass,
    /// Goes on; its answer gets the headers of [`Cors::mark`] for this origin.
    Mark(HeaderValue),
    /// 200 with these headers, at once.
    Answer(HeaderMap),
}

impl Cors {
    /// Judges a request by its head.
    #[must_use]
    pub fn judge(&self, method: &Method, headers: &HeaderMap) -> CorsVerdict {
        let origin = headers.get(ORIGIN).filter(|origin| !origin.is_empty());
        let Some(origin) = origin else {
            return CorsVerdict::Pass;
        };
        let preflight = *method == Method::OPTIONS
            && headers
                .get(ACCESS_CONTROL_REQUEST_METHOD)
                .is_some_and(|method| !method.is_empty());
        match (self.allows(origin), preflight) {
            (false, true) if !self.forward_not_matching_preflights => {
                CorsVerdict::Answer(HeaderMap::new())
            }
            (false, _) => CorsVerdict::Pass,
            (true, false) => CorsVerdict::Mark(origin.clone()),
            (true, true) => CorsVerdict::Answer(self.preflight(origin)),
        }
    }

    /// Edits the answer to a request of `origin`.
    pub fn mark(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        self.both(origin, headers);
        if let Some(expose) = &self.expose_headers {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    fn preflight(&self, origin: &HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.both(origin, &mut headers);
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.allow_methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, &self.allow_headers),
            (ACCESS_CONTROL_EXPOSE_HEADERS, &self.expose_headers),
            (ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        headers
    }

    fn both(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.allow_credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.allow_origins
            .iter()
            .any(|allowed| allowed.holds(Some(b"*")) || allowed.holds(Some(origin.as_bytes())))
    }
}
