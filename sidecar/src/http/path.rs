//! The path that policy sees is the path that is forwarded: dot segments are resolved once, at the door.
//!
//! Source: RFC 3986 section 5.2.4; encoded dots (`%2e`) count as dots. `%2f` and `//` are left as they are.

use std::borrow::Cow;

/// Resolves dot segments.
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
    let is_dots = |segment: &str| dots(segment).is_some();
    if !path.split('/').any(is_dots) {
        return Ok(Cow::Borrowed(path));
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

/// 1 or 2 for `.` and `..` in any spelling.
fn dots(segment: &str) -> Option<usize> {
    if segment.is_empty() || segment.len() > 6 {
        return None;
    }
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() {
        rest = rest
            .strip_prefix('.')
            .or_else(|| rest.strip_prefix("%2e"))
            .or_else(|| rest.strip_prefix("%2E"))?;
        count += 1;
    }
    (count <= 2).then_some(count)
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::normalise;

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
            ("*", "*"),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(resolved), "{given}");
        }
        for given in ["/..", "/a/../../b", "/a%00b", "/a\\..\\b"] {
            assert!(normalise(given).is_err(), "{given}");
        }
    }
}
