//! The path that policy sees is the path that is forwarded: dot segments are resolved once, at the door, and what needs
//! no `%` is written without.
//!
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
    if contains(bytes, b"%00") {
        return Err("the path has an encoded NUL");
    }
    let path = decoded(path);
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

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
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
        assert!(rewrite(false, Unescape, "/..%2f..%2fb").is_err());
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
            ("/%+1%zz%6", "/%+1%zz%6"),
            ("*", "*"),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(resolved), "{given}");
        }
        for given in ["/..", "/a/../../b", "/%2e%2E/b", "/a%00b", "/a\\..\\b"] {
            assert!(normalise(given).is_err(), "{given}");
        }
    }
}
