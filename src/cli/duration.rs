//! Durations on the command line.

use std::time::Duration;

use crate::config;

/// A duration with a unit.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected one with a unit such as 1500ms, 30m or 7d, up to 10y";
    let duration = config::parse_duration(text).ok();
    let duration = duration.filter(|duration| *duration <= config::LONGEST);
    duration.ok_or_else(|| format!("is no duration, {EXPECTED}"))
}

/// As the API takes it.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "5", "-1s", "s", "11y", "18446744073709551615s", "5s x"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
