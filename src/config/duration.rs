//! Durations as files, flags and the environment have them: parsed and written.

use std::time::Duration;

use humantime::{DurationError, format_duration};

/// None that makes sense is longer. Keeps sums of durations and moments representable.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 31_557_600);

/// Nor is the text of any; `humantime` panics near `u64::MAX` seconds.
const LONGEST_TEXT: usize = 24;

/// What is wrong with the text of a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    NoUnit,
    NoDuration,
}

/// The duration that a text such as `7d` or `1h 30m` says.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, Malformed> {
    if text.len() > LONGEST_TEXT {
        return Err(Malformed::NoDuration);
    }
    humantime::parse_duration(text).map_err(|error| match error {
        DurationError::UnknownUnit { unit, .. } if unit.is_empty() => Malformed::NoUnit,
        _ => Malformed::NoDuration,
    })
}

/// `duration` as a file would have it, such as `7d` or `1h 30m`.
pub(crate) fn as_written(duration: Duration) -> String {
    let text = format_duration(duration).to_string();
    let parts = text.split(' ').map(|part| {
        let unit = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let short = match unit.trim_end_matches('s') {
            "day" => "d",
            "month" => "M",
            "year" => "y",
            _ => unit,
        };
        format!("{}{short}", &part[..part.len() - unit.len()])
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_said_in_units_that_a_file_may_have() {
        for text in [
            "0s",
            "250ms",
            "1m 30s",
            "7d",
            "1d",
            "1M",
            "2M 3d",
            "10y",
            "1y 1M 1d 1h 1m 1s 1ms",
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(as_written(duration), text);
        }
    }

    #[test]
    fn every_unit_of_the_manual_is_taken() {
        for (text, seconds) in [
            ("1h 30m", 5400),
            ("1.5h", 5400),
            ("1w", 604_800),
            ("1d", 86_400),
            ("1y", 31_557_600),
        ] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
    }

    #[test]
    fn what_has_no_unit_is_told_from_what_is_no_duration() {
        assert_eq!(parse_duration("5"), Err(Malformed::NoUnit));
        for text in ["", "s", "-1s", "5s x", "184467440737095516150s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
