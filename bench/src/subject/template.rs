//! Fills in configuration files of peers: `@NAME@` anywhere in a line is a word; on a line of its own it is a block
//! of lines, that takes the line's indentation and may be empty.

/// With blocks first, because they may hold words.
pub(super) fn fill(
    template: &str,
    blocks: &[(&str, &str)],
    words: &[(&str, &str)],
) -> anyhow::Result<String> {
    let mut text = template.to_owned();
    for (name, block) in blocks {
        let wanted = format!("@{name}@");
        let mut filled = String::with_capacity(text.len() + block.len());
        for line in text.lines() {
            if line.trim() != wanted {
                filled += line;
                filled.push('\n');
                continue;
            }
            let indentation = line.len() - line.trim_start().len();
            for inner in block.lines().filter(|inner| !inner.starts_with('#')) {
                filled += &" ".repeat(indentation);
                filled += inner;
                filled.push('\n');
            }
        }
        text = filled;
    }
    for (name, word) in words {
        text = text.replace(&format!("@{name}@"), word);
    }
    // A comment may name them.
    let left = text.lines().find(|line| {
        let mut parts = line.split('@').skip(1).step_by(2);
        let name = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        };
        !line.trim_start().starts_with('#') && parts.any(name)
    });
    anyhow::ensure!(left.is_none(), "not filled in: {left:?}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_take_the_indentation_and_words_are_filled_in() {
        let template = "# @A@ and @B@\na:\n  @A@\n  x: @W@\n";
        let block = "# a comment\n- 1\n- {b: @W@}\n";
        assert_eq!(
            fill(template, &[("A", block)], &[("W", "7")]).unwrap(),
            "# @A@ and @B@\na:\n  - 1\n  - {b: 7}\n  x: 7\n"
        );
        assert_eq!(fill("a\n @A@\nb\n", &[("A", "")], &[]).unwrap(), "a\nb\n");
        assert!(fill("x: @W@", &[], &[]).is_err());
    }
}
