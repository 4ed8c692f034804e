//! Text for people: tables, ages, and what others wrote made safe for a terminal.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement};
use jiff::Timestamp;

/// What stands where there is nothing.
const NOTHING_THERE: &str = "-";

/// A table without borders, as wide as its cells. The names of columns of numbers begin with `>`.
#[derive(Debug)]
pub(super) struct Table(comfy_table::Table);

impl Table {
    pub(super) fn new(columns: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table
            .load_preset(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(columns.iter().map(|name| name.trim_start_matches('>')));
        for (column, name) in table.column_iter_mut().zip(columns) {
            column.set_padding((0, 2));
            if name.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    pub(super) fn row<'a>(&mut self, cells: impl IntoIterator<Item = Cow<'a, str>>) {
        let cells = cells.into_iter().map(|cell| match clean(&cell) {
            Cow::Borrowed("") => NOTHING_THERE.to_owned(),
            cell => cell.into_owned(),
        });
        self.0.add_row(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}

/// A cell that may be empty.
pub(super) fn or_nothing(text: Option<&str>) -> Cow<'_, str> {
    Cow::Borrowed(text.unwrap_or_default())
}

/// `text` with every control character replaced: what plugins and clients wrote must neither
/// break a line nor command a terminal.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        let replace = |c: char| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        text.chars().map(replace).collect::<String>().into()
    } else {
        text.into()
    }
}

/// A duration as people say it: its two largest units, and milliseconds only below a second.
pub(super) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let Some(first) = units.iter().position(|(count, _)| *count > 0) else {
        return match duration.as_millis() {
            0 => "0s".into(),
            millis => format!("{millis}ms"),
        };
    };
    let shown = units[first..].iter().take(2);
    let shown = shown.filter(|(count, _)| *count > 0);
    let shown: Vec<_> = shown
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    shown.join(" ")
}

/// How long `since` is past; clocks that differ make it none.
pub(super) fn age_since(since: Timestamp, now: Timestamp) -> String {
    age(now.duration_since(since).try_into().unwrap_or_default())
}

/// A duration to the millisecond, in seconds from one second on.
pub(super) fn exact(duration: Duration) -> String {
    if duration < Duration::from_secs(1) && !duration.is_zero() {
        format!("{}ms", duration.as_millis())
    } else {
        let text = format!("{:.3}", duration.as_secs_f64());
        format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// `1 session`, `2 sessions`.
pub(super) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn numbers_stand_at_the_right_and_nothing_is_a_dash() {
        let mut table = Table::new(&["NAME", ">OWED", "LAST ERROR"]);
        table.row(["audit".into(), "7".into(), or_nothing(None)]);
        table.row([
            "memory-db".into(),
            "12345".into(),
            "first\nsecond\u{1b}[31m".into(),
        ]);
        assert_snapshot!(table, @r"
        NAME        OWED  LAST ERROR
        audit          7  -
        memory-db  12345  first second�[31m
        ");
    }

    #[test]
    fn ages_have_their_two_largest_units() {
        for (millis, expected) in [
            (0, "0s"),
            (7, "7ms"),
            (999, "999ms"),
            (1_999, "1s"),
            (192_000, "3m 12s"),
            (180_000, "3m"),
            (3_661_000, "1h 1m"),
            (3_601_000, "1h"),
            (200_000_000, "2d 7h"),
        ] {
            assert_eq!(age(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn what_has_not_begun_yet_has_no_age() {
        let now = Timestamp::UNIX_EPOCH;
        let later = now + Duration::from_secs(60);
        assert_eq!(age_since(now, later), "1m");
        assert_eq!(age_since(later, now), "0s");
    }

    #[test]
    fn budgets_are_exact() {
        for (millis, expected) in [
            (0, "0s"),
            (250, "250ms"),
            (1000, "1s"),
            (1950, "1.95s"),
            (10_000, "10s"),
            (600_000, "600s"),
        ] {
            assert_eq!(exact(Duration::from_millis(millis)), expected);
        }
    }
}
