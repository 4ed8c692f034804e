//! Ends that the ledger did not record while a shutdown waited for it. The plugins are told of them
//! all the same, once: the next start, which finds these sessions open, ends them again under the
//! same `event_id`.

use std::sync::Arc;

use tokio::time::Instant;

use super::lane::Outcome;
use super::runner::{LaneRunner, report_failure};
use crate::event::{Deadline, Event, Verdict};

/// How many sessions are named that a plugin was not told of.
const MAX_NAMED: usize = 1000;

/// What came of telling a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ToldUnrecorded {
    /// How many ends it took.
    pub(crate) told: u64,
    /// The others, by their place among the ends, at most 1,000.
    pub(crate) untold: Vec<usize>,
    /// Why the last of them failed that did.
    pub(crate) last_error: Option<Arc<str>>,
}

impl ToldUnrecorded {
    fn count(&mut self, index: usize, told: bool) {
        if told {
            self.told += 1;
        } else if self.untold.len() < MAX_NAMED {
            self.untold.push(index);
        }
    }
}

impl LaneRunner {
    /// Tells the plugin of `ends`, as far as the cut allows, and where it has had everything that
    /// comes before: it must not get an end before its start.
    pub(super) async fn tell_unrecorded(&self, ends: &[Event], cut: Instant) -> ToldUnrecorded {
        let spec = self.host.spec();
        let mut told = ToldUnrecorded::default();
        if !spec.hears_ends() {
            return told;
        }
        let mut can_tell = self.lane.is_idle();
        let mut indexed = ends.iter().enumerate().peekable();
        while indexed.peek().is_some() {
            let batch: Vec<_> = indexed.by_ref().take(spec.policy().max_batch).collect();
            let may_be_told = |event: &Event| can_tell && !self.lane.is_behind_parked(event);
            let (batch, held): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|(_, event)| may_be_told(event));
            held.iter().for_each(|(index, _)| told.count(*index, false));
            if batch.is_empty() {
                continue;
            }
            let events: Arc<[Event]> = batch.iter().map(|(_, event)| (*event).clone()).collect();
            let deadline = Deadline::at(cut.min(Instant::now() + spec.policy().timeout));
            let departed = Instant::now();
            let outcome = self.host.attempt(Arc::clone(&events), 1, deadline).await;
            report_failure(&events, &outcome);
            told.last_error = outcome.first_error().or(told.last_error);
            let (took, is_cut) = (departed.elapsed(), Instant::now() >= cut);
            self.monitor
                .delivered(&outcome.attempt(&events, 1, took, is_cut));
            can_tell = outcome.failure.is_none() && Instant::now() < cut;
            for ((index, _), took) in batch.iter().zip(taken(&outcome)) {
                told.count(*index, took);
            }
        }
        told
    }
}

/// Whether the plugin took each of the events.
fn taken(outcome: &Outcome) -> impl Iterator<Item = bool> {
    let by_default = outcome.failure.is_none();
    let said = outcome.verdicts.iter().map(move |verdict| match verdict {
        Verdict::Acknowledged => true,
        Verdict::Rejected(_) => false,
        Verdict::Open => by_default,
    });
    said.chain(std::iter::repeat(by_default))
}
