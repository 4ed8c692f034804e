//! What must hold whatever happens: checked at each departure, landing and record.

use super::bench::Bench;
use super::plugin::{name, names};
use crate::bus::lane::Flight;
use crate::bus::lane::careful::DIED;
use crate::event::{Event, Hooks, Seq};
use crate::ledger::Progress;
use crate::session::Incarnation;

pub(super) fn incarnation(event: &Event) -> Incarnation {
    event.session().expect("an event of a session").incarnation
}

impl Bench {
    pub(super) fn record(&mut self, progress: Progress) {
        if progress.cursor.is_some() || !progress.unpark.is_empty() {
            self.deaths = 0;
        }
        for row in progress.park {
            self.parked.insert(row.event.recorded_seq(), row);
        }
        for seq in progress.unpark {
            let row = self.parked.remove(&seq).expect("a parked event");
            let is_heard = self.hooks.contains(row.event.hook());
            assert!(self.acknowledged.contains(&seq) || !is_heard);
        }
        let passed = self.cursor + 1..=progress.cursor.unwrap_or(self.cursor);
        self.cursor = progress.cursor.unwrap_or(self.cursor);
        for seq in passed {
            let event = &self.log[usize::try_from(seq).unwrap() - 1];
            let is_settled = !self.hooks.contains(event.hook())
                || self.acknowledged.contains(&seq)
                || self.parked.contains_key(&seq)
                || self.discarded.contains(&seq)
                || seq <= self.kept_after;
            assert!(is_settled, "the cursor passed {} unsettled", name(event));
        }
    }

    pub(super) fn check_departure(&self, flight: &Flight) {
        let text = names(flight);
        assert!(!flight.events.is_empty(), "an empty delivery");
        assert!(flight.events.len() <= self.policy.max_batch, "{text}");
        assert!(flight.deadline > self.now.mono, "{text} has no time");
        let in_flight = self.flights.len() + 1;
        assert!(in_flight <= self.policy.max_in_flight, "{text} is too many");
        self.check_trial(flight, &text);
        let seqs: Vec<_> = flight.events.iter().map(Event::recorded_seq).collect();
        assert!(seqs.is_sorted(), "{text} is not in log order");
        for (index, event) in flight.events.iter().enumerate() {
            let seq = event.recorded_seq();
            assert!(
                self.hooks.contains(event.hook()),
                "{text} was not asked for"
            );
            assert!(!self.acknowledged.contains(&seq), "{text} again");
            assert!(!self.is_dead(seq), "a dead letter in {text}");
            let flying = self.flights.iter().flat_map(|it| it.events.iter());
            let beside = flying.filter_map(Event::session).map(|it| &it.id);
            let id = &event.session().unwrap().id;
            assert!(
                !beside.into_iter().any(|it| it == id),
                "{text} side by side"
            );
            self.check_order(event, &flight.events[..index], &text);
        }
    }

    /// A trial has the lane for itself, and its attempt is recorded.
    fn check_trial(&self, flight: &Flight, text: &str) {
        let Some(seq) = self.lane.parked.trial() else {
            return;
        };
        assert!(self.flights.is_empty(), "{text} beside others");
        assert_eq!(
            flight.events[0].recorded_seq(),
            seq,
            "{text} during a trial"
        );
        let row = &self.parked[&seq];
        assert_eq!(row.attempts, self.lane.parked.attempts(seq), "{text}");
        assert_eq!(&*row.error, DIED);
    }

    /// An earlier event of the same incarnation is settled, and no later one is.
    fn check_order(&self, event: &Event, before: &[Event], text: &str) {
        let seq = event.recorded_seq();
        for &other_seq in &self.lives[&incarnation(event)] {
            let other = &self.log[usize::try_from(other_seq).unwrap() - 1];
            if other_seq == seq || !self.hooks.contains(other.hook()) {
                continue;
            }
            let is_taken = self.acknowledged.contains(&other_seq);
            if other_seq > seq {
                assert!(!is_taken, "{text} after the end");
                continue;
            }
            let goes_before = before.iter().any(|it| it.recorded_seq() == other_seq);
            let is_settled =
                is_taken || self.is_dead(other_seq) || self.discarded.contains(&other_seq);
            assert!(is_settled || goes_before, "{text} before the start");
        }
    }

    fn is_dead(&self, seq: Seq) -> bool {
        self.parked.get(&seq).is_some_and(|row| row.dead)
    }

    /// Nothing is forgotten, and nothing counted twice.
    pub(super) fn check_counts(&self) {
        if self.hooks == Hooks::SESSION && self.announces {
            let settled = self.acknowledged.len() + self.lane.dead() + self.discarded.len();
            let all = self.lane.owed() + settled as u64 + self.lost;
            assert_eq!(all, self.log.len() as u64, "owed + dead + acknowledged");
        }
    }
}
