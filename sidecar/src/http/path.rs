//! The path that policy sees is the path that is forwarded: dot segments are resolved once, at the door, and what needs
//! no `%` is written without.
//!
//! Always refused, because servers read it in ways that no rule can foresee: `\\`, `%00`, ASCII in overlong UTF-8
//! (`%c0%af`), `%u002f`, and dot segments in disguise (`..;a`, `..%2f`, `%5c..`), which some servers resolve.
//! As listeners ask: `//` merged, `%2f` and `%5c` refused or decoded; who asks for either of these is also spared what is
//! decoded twice (`%252f`) and, with `//`, segments that are nothing but parameters (`/;a/`).
//! Source: RFC 3986 sections 5.2.4 and 6.2.2.2, as Envoy's `normalize_path`; encoded dots (`%2e`) count as dots. `%2f`
//! and `//` are left as they are.

use std::borrow::Cow;

use outrigger_core::{EscapedSlashes, HeadSettings};

/// Resolves dot segments, and decodes letters, digits and `-._~`.
///
/// # Errors
/// What is wrong with the path.
pub(crate) fn normalise(path: &str) -> Result<Cow<'_, str>, &'static str> {
    let bytes = path.as_bytes();
    if bytes.contains(&b'\\') {
        return Err("the path has a backslash; write / or %5C");
    }
    let path = decoded(path);
    // `%2%65`: what is decoded would be an escape, which the application decodes.
    if matches!(path, Cow::Owned(_)) && decoded(&path) != path {
        return Err("the path has an escape inside of an escape");
    }
    if path.contains("%00") {
        return Err("the path has an encoded NUL");
    }
    if path.contains(['%', ';']) {
        disguised(&path)?;
    }
    let is_dots = |segment: &str| dots(segment).is_some();
    if !path.split('/').any(is_dots) {
        return Ok(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match dots(segment) {
            None => kept.push(segment),
            Some(count) => {
                if count == 2 && kept.pop().is_none() {
                    return Err("the path leads above its root");
                }
                if segments.peek().is_none() {
                    kept.push("");
                }
            }
        }
    }
    Ok(Cow::Owned(format!("/{}", kept.join("/"))))
}

/// What some servers see in a path, and others not.
fn disguised(path: &str) -> Result<(), &'static str> {
    let bytes = path.as_bytes();
    for (at, _) in path.match_indices('%') {
        let byte = |from: usize| {
            let hex = bytes.get(at + from..at + from + 3)?.strip_prefix(b"%")?;
            u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
        };
        // RFC 3629: the shortest form is the only one.
        let is_overlong = matches!(
            (byte(0), byte(3), byte(6)),
            (Some(0xc0 | 0xc1), Some(0x80..=0xbf), _)
                | (Some(0xe0), Some(0x80 | 0x81), Some(0x80..=0xbf))
                | (Some(0xf0), Some(0x80), Some(0x80))
        );
        if is_overlong {
            return Err("the path has ASCII in overlong UTF-8");
        }
        let rest = bytes.get(at + 1..).unwrap_or_default();
        if matches!(rest, [b'u' | b'U', a, b, c, d, ..] if [a, b, c, d].iter().all(|b| b.is_ascii_hexdigit()))
        {
            return Err("the path has an escape of the form %uXXXX");
        }
    }
    // Those that are written as such are resolved afterwards.
    let others = path.split('/').filter(|segment| dots(segment).is_none());
    let mut parts = others.flat_map(Separated);
    if parts.any(|part| dots(without_parameters(part)).is_some()) {
        return Err(
            "the path has a dot segment with parameters or white space, or beside an escaped slash",
        );
    }
    Ok(())
}

/// Neither parameters, nor the white space that some file systems leave out at the end of a name.
fn without_parameters(part: &str) -> &str {
    let ends = [";", "%3b", "%3B"];
    let at = ends.iter().filter_map(|end| part.find(end)).min();
    let mut name = at.and_then(|at| part.get(..at)).unwrap_or(part);
    while let Some(shorter) = WHITE.iter().find_map(|white| {
        let end = name.strip_suffix(white);
        end.or_else(|| name.strip_prefix(white))
    }) {
        name = shorter;
    }
    name
}

const WHITE: [&str; 8] = ["%20", "%09", "%0a", "%0A", "%0b", "%0B", "%0d", "%0D"];

/// What stands between escaped slashes and backslashes.
struct Separated<'a>(&'a str);

impl<'a> Iterator for Separated<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.0.is_empty() {
            return None;
        }
        let ends = ["%2f", "%2F", "%5c", "%5C"];
        let found = ends
            .iter()
            .filter_map(|end| Some((self.0.find(end)?, end.len())));
        let (part, rest) = match found.min() {
            Some((at, length)) => (self.0.get(..at)?, self.0.get(at + length..)?),
            None => (self.0, ""),
        };
        self.0 = rest;
        Some(part)
    }
}

/// 1 or 2 for `.` and `..`.
fn dots(segment: &str) -> Option<usize> {
    match segment {
        "." => Some(1),
        ".." => Some(2),
        _ => None,
    }
}

/// `%61` is `a` to every reader: a rule for `/admin` is one for `/%61dmin`.
fn decoded(path: &str) -> Cow<'_, str> {
    let Some(first) = path.find('%') else {
        return Cow::Borrowed(path);
    };
    let (start, mut rest) = path.split_at(first);
    let mut out = String::with_capacity(path.len());
    out.push_str(start);
    while let Some(at) = rest.find('%') {
        let (before, encoded) = rest.split_at(at);
        out.push_str(before);
        let byte = encoded
            .get(1..3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte));
        let taken = match byte {
            Some(byte) => {
                out.push(char::from(byte));
                3
            }
            None => {
                out.push('%');
                1
            }
        };
        rest = encoded.get(taken..).unwrap_or_default();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The path as a listener wants it, if that is another one: escaped slashes first, then dot segments that they hid,
/// then slashes in a row (Envoy's order).
///
/// # Errors
/// What is wrong with the path.
pub(crate) fn rewritten(path: &str, head: HeadSettings) -> Result<Option<String>, &'static str> {
    if head.escaped_slashes != EscapedSlashes::Keep && is_decoded_twice(path) {
        return Err("the path has an escaped escape, which is another path to who decodes twice");
    }
    if head.merge_slashes && has_empty_segment(path) {
        return Err("the path has a segment of nothing but parameters");
    }
    let escapes = ["%2f", "%2F", "%5c", "%5C"];
    let mut new = Cow::Borrowed(path);
    if head.escaped_slashes != EscapedSlashes::Keep && escapes.iter().any(|one| path.contains(one))
    {
        if head.escaped_slashes == EscapedSlashes::Reject {
            return Err("the path has an escaped slash");
        }
        let unescaped = escapes
            .iter()
            .fold(path.to_owned(), |text, one| text.replace(one, "/"));
        new = Cow::Owned(normalise(&unescaped)?.into_owned());
    }
    if head.merge_slashes && new.contains("//") {
        let mut merged = String::with_capacity(new.len());
        for part in new.chars() {
            if part != '/' || !merged.ends_with('/') {
                merged.push(part);
            }
        }
        new = Cow::Owned(merged);
    }
    Ok(match new {
        Cow::Borrowed(_) => None,
        Cow::Owned(new) => Some(new),
    })
}

/// `%25` before two hexadecimal digits, however often it is escaped.
fn is_decoded_twice(path: &str) -> bool {
    let mut all = path.match_indices("%25");
    all.any(|(at, _)| {
        let rest = path.as_bytes().get(at + 3..).unwrap_or_default();
        matches!(rest, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
    })
}

/// `/;a/`: to who leaves parameters out, `//`. At the end it means nothing.
fn has_empty_segment(path: &str) -> bool {
    let empty =
        |rest: &str| rest.starts_with("/;") || rest.starts_with("/%3b") || rest.starts_with("/%3B");
    let mut all = path.match_indices('/');
    all.any(|(at, _)| {
        let rest = path.get(at..).unwrap_or_default();
        empty(rest) && rest.get(1..).is_some_and(|after| after.contains('/'))
    })
}

#[cfg(test)]
mod tests {
    use outrigger_core::{EscapedSlashes, HeadSettings};

    use super::{normalise, rewritten};

    #[test]
    fn slashes_are_merged_unescaped_or_refused_as_a_listener_says() {
        let rewrite = |merge_slashes, escaped_slashes, path| {
            let head = HeadSettings {
                merge_slashes,
                escaped_slashes,
                ..HeadSettings::default()
            };
            rewritten(path, head)
        };
        let ok = |path: &str| Ok(Some(path.to_owned()));
        use EscapedSlashes::{Keep, Reject, Unescape};
        assert_eq!(rewrite(true, Keep, "//a///b/"), ok("/a/b/"));
        assert_eq!(rewrite(true, Keep, "/a%2F/b"), Ok(None));
        assert_eq!(rewrite(false, Keep, "//a%2fb"), Ok(None));
        assert_eq!(rewrite(false, Unescape, "/a%2fb%5Cc"), ok("/a/b/c"));
        assert_eq!(rewrite(false, Unescape, "/a%2F..%2fadmin"), ok("/admin"));
        assert_eq!(rewrite(true, Unescape, "/a%2F/b"), ok("/a/b"));
        assert!(rewrite(true, Keep, "/;a/b").is_err());
        assert!(rewrite(true, Keep, "/a/%3Bb/c").is_err());
        assert_eq!(rewrite(true, Keep, "/;jsessionid=1"), Ok(None));
        assert_eq!(rewrite(false, Keep, "/;a/b"), Ok(None));
        for twice in ["/%252fb", "/%2561dmin", "/%25252e%25252e/b", "/a%25%32%66"] {
            let found = rewrite(false, Unescape, twice);
            assert_eq!(found.is_err(), twice != "/a%25%32%66", "{twice}");
        }
        assert_eq!(rewrite(false, Keep, "/%252fb"), Ok(None));
        assert!(rewrite(false, Reject, "/a%5cb").is_err());
        assert_eq!(rewrite(false, Reject, "/a/b"), Ok(None));
    }

    #[test]
    fn dot_segments_are_resolved_in_every_spelling() {
        for (given, resolved) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e", "/"),
            ("/a/b/..", "/a/"),
            ("/a/...", "/a/..."),
            ("/a//b", "/a//b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/%61dmin/%7Eb%2d%5F", "/admin/~b-_"),
            ("/a%20b%c3%A4%", "/a%20b%c3%A4%"),
            ("/%2561", "/%2561"),
            ("/a;x=1/b;y", "/a;x=1/b;y"),
            ("/a%3bx/b", "/a%3bx/b"),
            ("/a/..b;c", "/a/..b;c"),
            ("/a%2fb%5cc", "/a%2fb%5cc"),
            ("/a/../b%2fc", "/b%2fc"),
            ("/%c3%80%e9%e0%a0%80", "/%c3%80%e9%e0%a0%80"),
            ("/%+1%zz%6", "/%+1%zz%6"),
            ("*", "*"),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(resolved), "{given}");
        }
        for given in [
            "/..",
            "/a/../../b",
            "/%2e%2E/b",
            "/a%00b",
            "/a\\..\\b",
            "/a/%2%65%2%65/b",
            "/a%0%30b",
            "/a/..;x/b",
            "/a/.;/b",
            "/a/..%20/b",
            "/a/%09..%0D%0a;x/b",
            "/a/..%3bx/b",
            "/a/%2e%2e;/b",
            "/a%2f..%2fb",
            "/a/..%2Fb",
            "/a/..%5cb",
            "/a%5C..",
            "/a%2f./b",
            "/a%c0%afb",
            "/%C0%AE%c0%ae/b",
            "/a%e0%80%afb",
            "/a%f0%80%80%afb",
            "/a%u002fb",
        ] {
            assert!(normalise(given).is_err(), "{given}");
        }
    }
}
