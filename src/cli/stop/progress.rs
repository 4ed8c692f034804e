//! The progress of a drain, on standard error: bars on a terminal, and lines elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::stream::{Delivery, Drain, Lane, Told};
use crate::cli::output::note;
use crate::cli::table::clean;

/// How often a plugin that is not done has a line.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows what the gateway tells.
pub(super) enum Progress {
    Bars(Bars),
    Lines(Lines),
}

impl Progress {
    pub(super) fn new() -> Self {
        if io::stderr().is_terminal() {
            Self::Bars(Bars::default())
        } else {
            Self::Lines(Lines::default())
        }
    }

    pub(super) fn show(&mut self, told: &Told) {
        match (self, told) {
            (Self::Bars(bars), Told::Drain(drain)) => bars.update(drain),
            (Self::Bars(bars), Told::Delivery(delivery)) => {
                if let Some(line) = failed(delivery) {
                    // Above the bars. A terminal that is gone shows nothing.
                    let _ = bars.all.println(line);
                }
            }
            (Self::Lines(lines), Told::Drain(drain)) => {
                for line in lines.update(drain, Instant::now()) {
                    note(&line);
                }
            }
            (Self::Lines(_), Told::Delivery(delivery)) => {
                if let Some(line) = failed(delivery) {
                    note(&line);
                }
            }
        }
    }

    /// Leaves the bars as they are.
    pub(super) fn finish(&self) {
        if let Self::Bars(bars) = self {
            bars.by_plugin.values().for_each(ProgressBar::abandon);
        }
    }
}

/// A bar per plugin.
#[derive(Default)]
pub(super) struct Bars {
    all: MultiProgress,
    by_plugin: HashMap<String, ProgressBar>,
}

impl Bars {
    fn update(&mut self, drain: &Drain) {
        let width = drain.plugins.iter().map(|lane| lane.name.len()).max();
        for lane in &drain.plugins {
            let bar = self.by_plugin.entry(lane.name.clone()).or_insert_with(|| {
                let bar = ProgressBar::new(lane.total).with_style(style());
                let width = width.unwrap_or_default();
                bar.set_prefix(format!("{:width$}", clean(&lane.name)));
                self.all.add(bar)
            });
            bar.set_length(lane.total);
            bar.set_position(lane.delivered);
            bar.set_message(state(lane));
        }
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{prefix}  {bar:40}  {pos:>7} of {len}  {msg}");
    style.expect("the template is one").progress_chars("━╸ ")
}

/// A line per plugin now and then, and one when it is done.
#[derive(Default)]
pub(super) struct Lines(HashMap<String, Instant>);

impl Lines {
    fn update(&mut self, drain: &Drain, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for lane in &drain.plugins {
            let due = self.0.get(&lane.name);
            // One that is done is not shown again: it is due never.
            let is_due = due.is_none_or(|due| *due <= now);
            let never = now + Duration::from_secs(365 * 86_400);
            if is_due || lane.done && due.is_some_and(|due| *due <= now + LINE_EVERY) {
                let (name, state) = (clean(&lane.name), state(lane));
                let line = format!("{name}: {} of {} {state}", lane.delivered, lane.total);
                lines.push(line.trim_end().to_owned());
                let next = if lane.done { never } else { now + LINE_EVERY };
                self.0.insert(lane.name.clone(), next);
            }
        }
        lines
    }
}

fn state(lane: &Lane) -> String {
    match (lane.done, lane.total.saturating_sub(lane.delivered)) {
        (false, _) => String::new(),
        (true, 0) => "done".into(),
        (true, owed) => format!("over, {owed} not told"),
    }
}

/// A delivery that went wrong.
fn failed(delivery: &Delivery) -> Option<String> {
    let (plugin, outcome) = (clean(&delivery.plugin), clean(&delivery.outcome));
    match (outcome.as_ref(), &delivery.error) {
        ("ok", _) => None,
        (outcome, None) => Some(format!("{plugin}: {outcome}")),
        (outcome, Some(error)) => Some(format!("{plugin}: {outcome}: {}", clean(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(delivered: u64, done: bool) -> Drain {
        let lane = Lane {
            name: "audit".into(),
            delivered,
            total: 11,
            done,
        };
        Drain {
            plugins: vec![lane],
        }
    }

    #[test]
    fn a_plugin_has_a_line_a_second_and_one_when_it_is_done() {
        let (mut lines, began) = (Lines::default(), Instant::now());
        let mut at = |millis, delivered, done| {
            let now = began + Duration::from_millis(millis);
            lines.update(&drain(delivered, done), now).join("|")
        };
        assert_eq!(at(0, 0, false), "audit: 0 of 11");
        assert_eq!(at(999, 3, false), "");
        assert_eq!(at(1000, 4, false), "audit: 4 of 11");
        assert_eq!(at(1100, 11, true), "audit: 11 of 11 done");
        assert_eq!(at(1200, 11, true), "");
        assert_eq!(at(9000, 11, true), "");
    }

    #[test]
    fn a_plugin_that_is_done_at_once_has_one_line() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        assert_eq!(
            lines.update(&drain(4, true), now),
            ["audit: 4 of 11 over, 7 not told"]
        );
        assert!(lines.update(&drain(4, true), now + LINE_EVERY).is_empty());
    }

    #[test]
    fn bars_follow_what_is_told() {
        let mut bars = Bars::default();
        bars.update(&drain(3, false));
        let bar = bars.by_plugin["audit"].clone();
        assert_eq!((bar.position(), bar.length()), (3, Some(11)));
        bars.update(&drain(11, true));
        assert_eq!((bar.position(), bar.message().as_str()), (11, "done"));
        assert_eq!(bars.by_plugin.len(), 1);
    }

    #[test]
    fn only_what_went_wrong_is_told_of_deliveries() {
        let delivery = |outcome: &str, error: Option<&str>| {
            failed(&Delivery {
                plugin: "crm".into(),
                outcome: outcome.into(),
                error: error.map(Into::into),
            })
        };
        assert_eq!(delivery("ok", None), None);
        assert_eq!(delivery("cut", None).as_deref(), Some("crm: cut"));
        let failed = delivery("error", Some("no\nroom"));
        assert_eq!(failed.as_deref(), Some("crm: error: no room"));
    }
}
