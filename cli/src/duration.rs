//! Durations as people write them: `250ms`, `30s`, `10m`, `1h30m`.

use std::time::Duration;

/// Parses a sum of whole numbers with units ms, s, m, h, d. Used as a value parser of `clap`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a duration; write 250ms, 30s, 10m or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_ignored| wrong())?;
        let length = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(length).ok_or_else(wrong)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(milliseconds).ok_or_else(wrong)?;
        total = total
            .checked_add(Duration::from_millis(part))
            .ok_or_else(wrong)?;
        rest = after;
    }
    if total.is_zero() {
        Err(if text.is_empty() {
            wrong()
        } else {
            "must be above 0".to_owned()
        })
    } else {
        Ok(total)
    }
}

/// The same, where `0` means never.
pub(crate) fn parse_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" || text == "0s" {
        return Ok(Duration::ZERO);
    }
    parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5_400)));
    }

    #[test]
    fn a_number_without_unit_is_refused_with_an_example() {
        for text in ["30", "", "s", "1x", "-1s", "99999999999999999999s"] {
            assert!(
                parse(text).is_err_and(|error| error.contains("30s")),
                "{text}"
            );
        }
    }

    #[test]
    fn nothing_is_a_duration_but_too_short() {
        for text in ["0s", "0ms", "0h0m"] {
            assert_eq!(parse(text), Err("must be above 0".to_owned()), "{text}");
        }
    }
}
