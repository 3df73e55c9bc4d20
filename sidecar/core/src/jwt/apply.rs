//! What is done to a request: what only we may say is taken out of it, and after its tokens were verified, put in.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Claim, Claims, Good, JwtAuthn, Location, locate};

impl JwtAuthn {
    /// Takes out, in every spelling, what only this filter may write. To be called before anything else is.
    pub fn sanitize(&self, headers: &mut HeaderMap) {
        if self.written.is_empty() {
            return;
        }
        // Many servers read `x_user` and `x-user` as the same name.
        let is_same = |own: &HeaderName, name: &HeaderName| {
            let (own, name) = (own.as_str().bytes(), name.as_str().bytes());
            let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
            own.map(dashed).eq(name.map(dashed))
        };
        let is_written = |name: &&HeaderName| self.written.iter().any(|own| is_same(own, name));
        let found: Vec<HeaderName> = headers.keys().filter(is_written).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }

    /// What follows from good tokens. Gives back another path and query, if it is to be another.
    #[must_use]
    pub fn apply(good: &[Good], headers: &mut HeaderMap, path_and_query: &str) -> Option<String> {
        let mut parameters = Vec::new();
        for one in good {
            let provider = &one.provider;
            if !provider.forward {
                match &one.at {
                    Location::Header(name, _) => drop(headers.remove(name)),
                    Location::Query(name) => parameters.push(&**name),
                    // As Envoy: other cookies stand in the same header.
                    Location::Cookie(_) => {}
                }
            }
        }
        for one in good {
            let provider = &one.provider;
            if let Some((name, padded)) = &provider.payload_header {
                let mut payload = one.token.payload.to_string();
                while *padded && payload.len() % 4 != 0 {
                    payload.push('=');
                }
                append(headers, name, payload);
            }
            for (name, claim) in &provider.claim_headers {
                if let Some(text) = lookup(&one.token.claims, claim).and_then(written) {
                    append(headers, name, text);
                }
            }
        }
        (!parameters.is_empty())
            .then(|| locate::without(path_and_query, &parameters))
            .flatten()
    }
}

/// What no header can say is left out: it would end the header, or the connection.
fn append(headers: &mut HeaderMap, name: &HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.append(name, value);
    }
}

/// By its own name, else as a path with dots.
fn lookup<'c>(claims: &'c Claims, name: &str) -> Option<&'c Claim> {
    claims.get(name).or_else(|| {
        let path: Vec<&str> = name.split('.').collect();
        claims.at(&path)
    })
}

/// As Envoy writes them; None = nothing that a header could say.
fn written(claim: &Claim) -> Option<String> {
    match claim {
        Claim::Text(text) if !text.is_empty() => Some(text.to_string()),
        Claim::Bool(value) => Some(value.to_string()),
        Claim::Number(number) if number.fract() == 0.0 && (0.0..WHOLE).contains(number) => {
            Some(format!("{number:.0}"))
        }
        Claim::Number(number) => Some(format!("{number:.6}")),
        Claim::Text(_) | Claim::Null | Claim::List(_) | Claim::Object(_) => None,
    }
}

/// 2^64.
const WHOLE: f64 = 18_446_744_073_709_551_616.0;
