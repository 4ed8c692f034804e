//! The dead letters of a lane, as far as it has to know them: where they are and whose. The events
//! themselves stay in the ledger, so that a plugin that rejects everything costs little memory.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::event::Seq;
use crate::session::Incarnation;

/// The places of a lane's dead letters.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    places: BTreeSet<Seq>,
    by_incarnation: BTreeSet<(Incarnation, Seq)>,
}

impl FromIterator<(Seq, Incarnation)> for DeadLetters {
    fn from_iter<I: IntoIterator<Item = (Seq, Incarnation)>>(letters: I) -> Self {
        let mut dead = Self::default();
        for (seq, incarnation) in letters {
            dead.insert(seq, incarnation);
        }
        dead
    }
}

impl DeadLetters {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.places.contains(&seq)
    }

    /// The place of the last one.
    pub(super) fn last(&self) -> Option<Seq> {
        self.places.last().copied()
    }

    pub(super) fn count_after(&self, seq: Seq) -> usize {
        self.places.range(seq + 1..).count()
    }

    pub(super) fn count_in(&self, range: &RangeInclusive<Seq>) -> usize {
        if range.is_empty() {
            return 0;
        }
        self.places.range(range.clone()).count()
    }

    /// The places of those of one incarnation, in log order.
    pub(super) fn of(&self, incarnation: Incarnation) -> impl Iterator<Item = Seq> {
        let all = (incarnation, 0)..=(incarnation, Seq::MAX);
        self.by_incarnation.range(all).map(|&(_, seq)| seq)
    }

    pub(super) fn insert(&mut self, seq: Seq, incarnation: Incarnation) {
        self.places.insert(seq);
        self.by_incarnation.insert((incarnation, seq));
    }

    /// Lets go of one. Whether it was there at all.
    pub(super) fn remove(&mut self, seq: Seq, incarnation: Incarnation) -> bool {
        self.by_incarnation.remove(&(incarnation, seq));
        self.places.remove(&seq)
    }
}
