//! What to change in one list of lines to get another.

/// Where a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// In the kernel, and not asked for.
    Kernel,
    /// Asked for, and not in the kernel.
    Wanted,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) side: Side,
    pub(crate) text: String,
}

/// The lines that are not on both sides, in order. Of a few hundred lines at most.
pub(crate) fn between(kernel: &[String], wanted: &[String]) -> Vec<Line> {
    let common = common(kernel, wanted);
    let mut lines = Vec::new();
    let (mut left, mut right) = (kernel.iter(), wanted.iter());
    let mut take = |list: &mut std::slice::Iter<'_, String>, side, until: Option<&String>| {
        for text in list.by_ref() {
            if Some(text) == until {
                return;
            }
            lines.push(Line {
                side,
                text: text.trim().to_owned(),
            });
        }
    };
    for text in common.into_iter().map(Some).chain([None]) {
        take(&mut left, Side::Kernel, text);
        take(&mut right, Side::Wanted, text);
    }
    lines
}

/// A longest list of lines that both have in this order.
fn common<'a>(left: &'a [String], right: &[String]) -> Vec<&'a String> {
    // best[n]: of all of `left` so far and the first n of `right`.
    let mut best: Vec<Vec<&String>> = vec![Vec::new(); right.len() + 1];
    for line in left {
        let mut before: Vec<&String> = Vec::new();
        let mut rows = best.iter_mut();
        let mut so_far = rows.next().cloned().unwrap_or_default();
        for (row, other) in rows.zip(right) {
            let above = row.clone();
            if line == other {
                *row = before;
                row.push(line);
            } else if so_far.len() > row.len() {
                row.clone_from(&so_far);
            }
            before = above;
            so_far.clone_from(row);
        }
    }
    best.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn only_what_differs_is_told() {
        let said = |kernel: &str, wanted: &str| {
            let lines = between(&lines(kernel), &lines(wanted));
            let said = lines.iter().map(|line| match line.side {
                Side::Kernel => format!("-{}", line.text),
                Side::Wanted => format!("+{}", line.text),
            });
            said.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(said("a b c", "a b c"), "");
        assert_eq!(said("a b c", "a x c d"), "-b +x +d");
        assert_eq!(said("", "a b"), "+a +b");
        assert_eq!(said("a b a b", "b a"), "-a -b");
        assert_eq!(said("a b", "b a"), "+b -b");
    }
}
