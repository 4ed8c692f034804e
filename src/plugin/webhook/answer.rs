//! What a receiver's answer means.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::plugin::{Disabled, Down};

/// How much of what the receiver wrote is quoted, in characters.
const QUOTED: usize = 200;

/// The failure that an answer is, if it is one. `body` is its beginning.
///
/// | answer | means |
/// |---|---|
/// | 2xx | taken |
/// | 410 | [`Disabled`] |
/// | 408, 429, 5xx | [`Down`] |
/// | anything else | what was sent is rejected |
pub(super) fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    body: &str,
    now: Timestamp,
) -> anyhow::Result<()> {
    if status.is_success() {
        return Ok(());
    }
    let redirect = match status.is_redirection() {
        true => ", which is not followed",
        false => "",
    };
    let quote = quote(body);
    let answer = anyhow::anyhow!("the receiver answered {status}{redirect}{quote}");
    Err(match status {
        StatusCode::GONE => Disabled::new(answer).into(),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => down(answer, headers, now),
        _ if status.is_server_error() => down(answer, headers, now),
        _ => answer,
    })
}

fn down(answer: anyhow::Error, headers: &HeaderMap, now: Timestamp) -> anyhow::Error {
    let down = Down::new(answer);
    let wait = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    match wait.and_then(|text| retry_after(text, now)) {
        Some(wait) => down.retry_after(wait).into(),
        None => down.into(),
    }
}

/// How long `Retry-After` asks to wait: so many seconds, or until a date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// The beginning of `text` on one line, made safe to show.
fn quote(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    if line.is_empty() {
        return line;
    }
    let shown = match line.char_indices().nth(QUOTED) {
        Some((end, _)) => Cow::Owned(format!("{}…", &line[..end])),
        None => Cow::Borrowed(&line),
    };
    format!(": {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-22T12:00:00Z";

    fn judged(status: u16, headers: &[(&'static str, &str)], body: &str) -> anyhow::Result<()> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        judge(status, &headers, body, NOW.parse().unwrap())
    }

    fn wait(headers: &[(&'static str, &str)]) -> Option<Duration> {
        let error = judged(429, headers, "").unwrap_err();
        error.downcast_ref::<Down>().unwrap().wait()
    }

    #[test]
    fn the_status_decides() {
        for status in 100..600 {
            let answer = judged(status, &[], "no");
            let expected = match status {
                200..=299 => "taken",
                410 => "disabled",
                408 | 429 | 500..=599 => "down",
                _ => "rejected",
            };
            let found = match &answer {
                Ok(()) => "taken",
                Err(error) if error.is::<Disabled>() => "disabled",
                Err(error) if error.is::<Down>() => "down",
                Err(_) => "rejected",
            };
            assert_eq!(found, expected, "{status}: {answer:?}");
        }
    }

    #[test]
    fn what_was_answered_is_quoted() {
        let problem = |status, body| format!("{:#}", judged(status, &[], body).unwrap_err());
        assert_eq!(
            problem(422, "no such\n\tcustomer\u{1b}[31m\r\n"),
            "the receiver answered 422 Unprocessable Entity: no such customer [31m"
        );
        assert_eq!(
            problem(302, ""),
            "the receiver answered 302 Found, which is not followed"
        );
        assert_eq!(problem(410, " "), "the receiver answered 410 Gone");
        let long = problem(500, &"ä".repeat(300));
        assert!(long.ends_with("ä…"), "{long}");
        assert_eq!(long.matches('ä').count(), QUOTED);
    }

    #[test]
    fn a_receiver_says_how_long_it_wants_to_be_left_alone() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (text, expected) in [
            ("0", seconds(0)),
            ("120", seconds(120)),
            ("Sun, 22 Nov 2026 12:01:30 GMT", seconds(90)),
            ("Sun, 22 Nov 2026 11:59:00 GMT", seconds(0)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(wait(&[("retry-after", text)]), expected, "{text:?}");
        }
        assert_eq!(wait(&[]), None);
    }
}
