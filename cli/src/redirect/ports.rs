//! Ports and ranges of ports.

use std::{fmt, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl PortRange {
    pub(crate) const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    pub(crate) const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// `8080`, or `8000-8999`.
impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no port; write 8080, or 8000-8999 for a range");
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(wrong()),
        };
        let range = match text.split_once('-') {
            None => Self::one(port(text)?),
            Some((first, last)) => Self {
                first: port(first)?,
                last: port(last)?,
            },
        };
        if range.first > range.last {
            return Err(format!(
                "\"{text}\" ends before it begins; write {}-{}",
                range.last, range.first
            ));
        }
        Ok(range)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Sorted; ranges that overlap or touch are one.
pub(crate) fn merged(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut kept: Vec<PortRange> = Vec::new();
    for range in ranges {
        match kept.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                last.last = last.last.max(range.last);
            }
            _ => kept.push(range),
        }
    }
    kept
}

/// Those of `ranges` that are not in `without`.
pub(crate) fn difference(ranges: Vec<PortRange>, without: &[PortRange]) -> Vec<PortRange> {
    let mut left = merged(ranges);
    for hole in without {
        let cut = |range: PortRange| {
            let before = (range.first < hole.first).then(|| PortRange {
                first: range.first,
                last: range.last.min(hole.first.saturating_sub(1)),
            });
            let after = (range.last > hole.last).then(|| PortRange {
                first: range.first.max(hole.last.saturating_add(1)),
                last: range.last,
            });
            before.into_iter().chain(after)
        };
        left = left.into_iter().flat_map(cut).collect();
    }
    left
}

pub(crate) fn list(ranges: &[PortRange]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Which ports of this host are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    Nothing,
    Only(Vec<PortRange>),
}

/// `all`, `none`, or a list.
impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::Nothing),
            _ => {
                let ranges: Result<_, String> = text.split(',').map(str::parse).collect();
                match ranges {
                    Ok(ranges) => Ok(Self::Only(merged(ranges))),
                    Err(why) => Err(format!("{why}; or all, or none")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Vec<PortRange> {
        text.split(' ').map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_one() {
        assert_eq!(
            list(&merged(ranges("25 100-200 26 150-300 65535"))),
            "25-26, 100-300, 65535"
        );
    }

    #[test]
    fn what_is_taken_out_leaves_what_is_around_it() {
        let left = |of: &str, without: &str| list(&difference(ranges(of), &ranges(without)));
        assert_eq!(left("20-30", "22 25-26"), "20-21, 23-24, 27-30");
        assert_eq!(left("22 80", "1-100"), "");
        assert_eq!(left("1-65535", "1 65535"), "2-65534");
        assert_eq!(left("22", "80"), "22");
    }

    #[test]
    fn what_is_no_port_is_refused_with_what_would_be_right() {
        for (text, says) in [
            ("0", "write 8080"),
            ("65536", "write 8080"),
            ("ssh", "write 8080"),
            ("200-100", "write 100-200"),
        ] {
            let error = text.parse::<PortRange>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(
            "some"
                .parse::<Wanted>()
                .unwrap_err()
                .ends_with("or all, or none")
        );
    }
}
