//! Counters: plain atomics, of which a snapshot is taken when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Attempt, DeliveryOutcome};
use crate::error::Error;
use crate::event::{Event, Hook};
use crate::session::EndReason;

/// Upper bounds of the histograms' buckets, in seconds: from a write to memory to a plugin that is
/// about to run out of its time.
const BOUNDS: [f64; 15] = [
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Why a session was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Refusal {
    /// A value was malformed.
    Invalid,
    /// As many sessions were active as may be.
    TooManySessions,
    /// The supervisor was shutting down.
    ShuttingDown,
    /// The ledger could not record it.
    LedgerUnavailable,
    /// Another holder, or a later run of the same, had it.
    HeldElsewhere,
}

impl Refusal {
    /// Every cause.
    pub const ALL: &[Self] = &[
        Self::Invalid,
        Self::TooManySessions,
        Self::ShuttingDown,
        Self::LedgerUnavailable,
        Self::HeldElsewhere,
    ];

    /// The cause's name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooManySessions => "too_many_sessions",
            Self::ShuttingDown => "shutting_down",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::HeldElsewhere => "held_elsewhere",
        }
    }

    /// The cause that `error` is, if it is one.
    pub(super) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Invalid(_) => Some(Self::Invalid),
            Error::TooManySessions { .. } => Some(Self::TooManySessions),
            Error::ShuttingDown => Some(Self::ShuttingDown),
            Error::Ledger(_) => Some(Self::LedgerUnavailable),
            Error::HeldElsewhere { .. } | Error::RunIsOver { .. } => Some(Self::HeldElsewhere),
            _ => None,
        }
    }
}

/// What was counted since the start of a supervisor.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Sessions that started, by the incarnation.
    pub started: u64,
    /// Sessions that ended, by the reason; each reason is there.
    pub ended: BTreeMap<EndReason, u64>,
    /// Starts that were refused, by the cause; each cause is there.
    pub refused: BTreeMap<Refusal, u64>,
    /// Holders with sessions whose lease ended by itself.
    pub holders_lost: u64,
    /// Calls of the ledger that failed, or were not answered in time.
    pub ledger_errors: u64,
    /// How long it took to record starts and ends.
    pub commits: HistogramCounts,
    /// Deliveries, by the plugin's name.
    pub plugins: BTreeMap<Arc<str>, PluginCounts>,
}

/// What was counted of one plugin.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct PluginCounts {
    /// Attempts to deliver an event, by its type and by what came of it; each pair is there. A
    /// delivery of many events counts as many.
    pub deliveries: Vec<DeliveryCount>,
    /// How long deliveries took, a delivery of many events as one.
    pub durations: HistogramCounts,
}

/// How many attempts to deliver an event of one type had one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryCount {
    /// The event's type.
    pub hook: Hook,
    /// What came of the attempts.
    pub outcome: DeliveryOutcome,
    /// How many there were.
    pub count: u64,
}

/// How durations are distributed.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct HistogramCounts {
    /// Upper bounds in seconds, the last one infinite, with how many durations lie between each and
    /// the one before.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all, in seconds.
    pub sum: f64,
    /// How many there are.
    pub count: u64,
}

/// A count per value of an enum that is listed.
#[derive(Debug)]
struct Table<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Table<N> {
    fn add(&self, index: usize, count: u64) {
        self.0[index].fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    started: AtomicU64,
    ended: Table<{ EndReason::ALL.len() }>,
    refused: Table<{ Refusal::ALL.len() }>,
    holders_lost: AtomicU64,
    ledger_errors: AtomicU64,
    commits: Histogram,
}

impl Counters {
    pub(super) fn refused(&self, cause: Refusal) {
        self.refused.add(cause as usize, 1);
    }

    /// Counts what was recorded in one step.
    pub(super) fn recorded(&self, events: &[Event], took: Duration) {
        let reason = |event: &Event| event.how_ended().map(|end| end.reason);
        let alike = Event::hook_of_all(events).and_then(|_| reason(events.first()?));
        if let Some(reason) = alike {
            self.ended.add(reason as usize, events.len() as u64);
            return self.commits.add(took);
        }
        for run in events.chunk_by(|a, b| reason(a) == reason(b)) {
            let count = run.len() as u64;
            match reason(&run[0]) {
                Some(reason) => self.ended.add(reason as usize, count),
                None => {
                    self.started.fetch_add(count, Ordering::Relaxed);
                }
            }
        }
        self.commits.add(took);
    }

    pub(super) fn holders_lost(&self, count: u64) {
        self.holders_lost.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn ledger_failed(&self) {
        self.ledger_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self, plugins: BTreeMap<Arc<str>, PluginCounts>) -> Counts {
        let ended = EndReason::ALL.iter();
        let refused = Refusal::ALL.iter();
        Counts {
            started: self.started.load(Ordering::Relaxed),
            ended: ended
                .map(|&reason| (reason, self.ended.get(reason as usize)))
                .collect(),
            refused: refused
                .map(|&cause| (cause, self.refused.get(cause as usize)))
                .collect(),
            holders_lost: self.holders_lost.load(Ordering::Relaxed),
            ledger_errors: self.ledger_errors.load(Ordering::Relaxed),
            commits: self.commits.snapshot(),
            plugins,
        }
    }
}

/// The counters of one plugin.
#[derive(Debug, Default)]
pub(super) struct PluginCounters {
    deliveries: Table<{ Hook::ALL.len() * DeliveryOutcome::ALL.len() }>,
    durations: Histogram,
}

impl PluginCounters {
    fn index(hook: Hook, outcome: DeliveryOutcome) -> usize {
        hook as usize * DeliveryOutcome::ALL.len() + outcome as usize
    }

    pub(super) fn count(&self, attempt: &Attempt<'_>) {
        // Added up first: a drain's deliveries have thousands of events of one type.
        let mut counts = [0; Hook::ALL.len() * DeliveryOutcome::ALL.len()];
        let hook = Event::hook_of_all(attempt.events);
        match (hook, attempt.verdicts, attempt.failure) {
            (Some(hook), [], failure) => {
                let outcome = failure.unwrap_or(DeliveryOutcome::Ok);
                counts[Self::index(hook, outcome)] += attempt.events.len() as u64;
            }
            _ => {
                for (event, outcome) in attempt.outcomes() {
                    counts[Self::index(event.hook(), outcome)] += 1;
                }
            }
        }
        let counts = counts.into_iter().enumerate();
        for (index, count) in counts.filter(|(_, count)| *count > 0) {
            self.deliveries.add(index, count);
        }
        self.durations.add(attempt.took);
    }

    pub(super) fn snapshot(&self) -> PluginCounts {
        let pairs = Hook::ALL.iter().flat_map(|&hook| {
            let outcomes = DeliveryOutcome::ALL.iter();
            outcomes.map(move |&outcome| (hook, outcome))
        });
        let deliveries = pairs.map(|(hook, outcome)| DeliveryCount {
            hook,
            outcome,
            count: self.deliveries.get(Self::index(hook, outcome)),
        });
        PluginCounts {
            deliveries: deliveries.collect(),
            durations: self.durations.snapshot(),
        }
    }
}

/// Counts durations by how long they are.
#[derive(Debug, Default)]
struct Histogram {
    /// One more than there are bounds.
    buckets: Table<{ BOUNDS.len() + 1 }>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    fn add(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.buckets
            .add(BOUNDS.partition_point(|bound| *bound < seconds), 1);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn snapshot(&self) -> HistogramCounts {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]).enumerate();
        let buckets: Vec<_> = bounds
            .map(|(index, bound)| (bound, self.buckets.get(index)))
            .collect();
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        HistogramCounts {
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
            sum: sum.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_value_is_at_its_place() {
        for (index, &reason) in EndReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason}");
        }
        for (index, &cause) in Refusal::ALL.iter().enumerate() {
            assert_eq!(cause as usize, index, "{}", cause.as_str());
        }
        for (index, &hook) in Hook::ALL.iter().enumerate() {
            assert_eq!(hook as usize, index, "{hook}");
        }
        for (index, &outcome) in DeliveryOutcome::ALL.iter().enumerate() {
            assert_eq!(outcome as usize, index, "{}", outcome.as_str());
        }
    }

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for millis in [0, 1, 2, 10_000, 60_000] {
            histogram.add(Duration::from_millis(millis));
        }
        let counts = histogram.snapshot();
        let filled: Vec<_> = counts
            .buckets
            .iter()
            .filter(|(_, count)| *count > 0)
            .copied()
            .collect();
        let expected = [(0.0001, 1), (0.001, 1), (0.0025, 1), (10.0, 1)];
        assert_eq!(filled[..4], expected);
        assert_eq!(filled[4], (f64::INFINITY, 1));
        assert_eq!((counts.count, counts.sum), (5, 70.003));
    }
}
