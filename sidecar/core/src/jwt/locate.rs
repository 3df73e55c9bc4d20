//! Where tokens are in a request, and the request without them.

use std::borrow::Cow;

use http::{
    HeaderMap,
    header::{AUTHORIZATION, COOKIE},
};

use super::{Location, Provider};
use crate::RequestView;

/// The default's name of a query parameter (RFC 6750 section 2.3).
const ACCESS_TOKEN: &str = "access_token";
/// What stands before the default's token.
const BEARER: &str = "Bearer ";

impl Provider {
    /// Each place and what is there.
    pub(super) fn find<'a>(
        &self,
        request: &RequestView<'a>,
    ) -> impl Iterator<Item = (Location, Cow<'a, [u8]>)> {
        let request = *request;
        self.places().flat_map(move |place| {
            let found = place.find(&request);
            found.into_iter().map(move |token| (place.clone(), token))
        })
    }

    /// Where its tokens are.
    fn places(&self) -> impl Iterator<Item = Location> {
        let usual = || {
            [
                Location::Header(AUTHORIZATION, BEARER.into()),
                Location::Query(ACCESS_TOKEN.into()),
            ]
        };
        let is_usual = self.locations.is_empty();
        let usual = is_usual.then(usual).into_iter().flatten();
        usual.chain(self.locations.iter().cloned())
    }
}

impl Location {
    fn find<'a>(&self, request: &RequestView<'a>) -> Vec<Cow<'a, [u8]>> {
        match self {
            Self::Header(name, prefix) => {
                let values = request.headers.get_all(name).iter();
                values
                    .filter_map(|value| behind(value.as_bytes(), prefix))
                    .map(Cow::Borrowed)
                    .collect()
            }
            Self::Query(name) => parameters(request.path_and_query)
                .filter(|(_, key, _)| *key == name.as_bytes())
                .map(|(_, _, value)| value)
                .collect(),
            Self::Cookie(name) => cookies(request.headers)
                .filter(|(key, _)| *key == name.as_bytes())
                .map(|(_, value)| Cow::Borrowed(value))
                .collect(),
        }
    }
}

/// What stands behind `prefix` wherever it is in `value`. As Envoy: whatever cannot begin a token is passed over, unless
/// nothing is left.
fn behind<'a>(value: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let mut windows = value.windows(prefix.len());
    let at = windows.position(|part| part.eq_ignore_ascii_case(prefix.as_bytes()))?;
    let rest = value.get(at + prefix.len()..)?;
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    match rest.iter().position(is_of_token) {
        Some(start) => rest.get(start..),
        None => Some(value),
    }
}

/// Each as it stands, with its name and value as they are meant.
fn parameters(path_and_query: &str) -> impl Iterator<Item = (&str, Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    let query = path_and_query.split_once('?').map(|(_, query)| query);
    let all = query.into_iter().flat_map(|query| query.split('&'));
    all.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (pair, decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(byte));
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let values = headers.get_all(COOKIE).iter();
    let pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""));
        Some((name, quoted.unwrap_or(value)))
    })
}

/// The path without any parameter of these names; None = there is none.
pub(super) fn without(path_and_query: &str, names: &[&str]) -> Option<String> {
    let is_one = |key: &[u8]| names.iter().any(|name| name.as_bytes() == key);
    if !parameters(path_and_query).any(|(_, key, _)| is_one(&key)) {
        return None;
    }
    let rest = parameters(path_and_query).filter(|(_, key, _)| !is_one(key));
    let rest: Vec<&str> = rest.map(|(pair, ..)| pair).collect();
    let path = path_and_query.split('?').next().unwrap_or_default();
    Some(match rest.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", rest.join("&")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_stands_behind_its_prefix() {
        for (value, prefix, found) in [
            ("Bearer a.b.c", "Bearer ", Some("a.b.c")),
            ("bearer a.b.c", "Bearer ", Some("a.b.c")),
            ("BEARER a.b.c", "Bearer ", Some("a.b.c")),
            ("Bearer   a.b.c", "Bearer ", Some("a.b.c")),
            ("Bearer \"a.b.c\"", "Bearer ", Some("a.b.c\"")),
            (
                "Bearer a.b.c, Bearer d.e.f",
                "Bearer ",
                Some("a.b.c, Bearer d.e.f"),
            ),
            ("Basic YTpi", "Bearer ", None),
            ("Basic x Bearer a.b.c", "Bearer ", Some("a.b.c")),
            ("Bearer", "Bearer ", None),
            ("Bearer !!", "Bearer ", Some("Bearer !!")),
            ("a.b.c", "", Some("a.b.c")),
            ("", "", Some("")),
        ] {
            let behind = behind(value.as_bytes(), prefix);
            assert_eq!(behind, found.map(str::as_bytes), "{value:?}");
        }
    }

    #[test]
    fn a_query_loses_its_token_however_it_is_spelled() {
        for (given, left) in [
            ("/a?access_token=x", Some("/a")),
            ("/a?b=1&access_token=x&c=%20", Some("/a?b=1&c=%20")),
            ("/a?%61ccess_token=x&b", Some("/a?b")),
            ("/a?access_token=x&access_token=y", Some("/a")),
            ("/a?access_token", Some("/a")),
            ("/a?b=access_token", None),
            ("/a", None),
        ] {
            let found = without(given, &["access_token"]);
            assert_eq!(found.as_deref(), left, "{given}");
        }
    }

    #[test]
    fn what_is_no_escape_stays() {
        for (given, found) in [("%41", "A"), ("%4", "%4"), ("%zz%41", "%zzA"), ("%", "%")] {
            assert_eq!(&*decoded(given), found.as_bytes(), "{given}");
        }
    }
}
