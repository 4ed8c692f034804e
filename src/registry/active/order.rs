//! The order in which sessions started.

use super::Slot;
use crate::event::Seq;

/// From how many removed ones on it is looked whether they are most of all.
const WORTH_SWEEPING: usize = 64;

/// The slots of sessions in the order of their starts: one behind the other, since what starts comes
/// last as a rule, and to walk through a million takes a few milliseconds.
#[derive(Debug, Default)]
pub(super) struct StartOrder {
    /// By the places of the starts, ascending. What was removed has no slot.
    starts: Vec<(Seq, Option<Slot>)>,
    removed: usize,
}

impl StartOrder {
    fn position(&self, seq: Seq) -> Result<usize, usize> {
        self.starts.binary_search_by_key(&seq, |&(seq, _)| seq)
    }

    pub(super) fn get(&self, seq: Seq) -> Option<Slot> {
        self.starts[self.position(seq).ok()?].1
    }

    /// What started at `seq` is at `slot`.
    pub(super) fn insert(&mut self, seq: Seq, slot: Slot) {
        let start = (seq, Some(slot));
        if self.starts.last().is_none_or(|&(last, _)| last < seq) {
            return self.starts.push(start);
        }
        match self.position(seq) {
            Ok(known) => {
                let before = std::mem::replace(&mut self.starts[known], start);
                self.removed -= usize::from(before.1.is_none());
            }
            // Near the end, as what is recorded at the same time is heard of in any order.
            Err(at) => self.starts.insert(at, start),
        }
    }

    pub(super) fn remove(&mut self, seq: Seq) {
        let Ok(at) = self.position(seq) else {
            return;
        };
        self.removed += usize::from(self.starts[at].1.take().is_some());
        if self.removed >= WORTH_SWEEPING && self.removed > self.starts.len() / 2 {
            self.starts.retain(|(_, slot)| slot.is_some());
            self.removed = 0;
        }
    }

    /// All slots, in the order of the starts.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.starts.iter().filter_map(|&(_, slot)| slot)
    }

    /// Those of the starts after `seq`.
    pub(super) fn slots_after(&self, seq: Seq) -> impl Iterator<Item = Slot> {
        let first = self.starts.partition_point(|&(start, _)| start <= seq);
        self.starts[first..].iter().filter_map(|&(_, slot)| slot)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_in_the_order_of_its_keys(
            steps in proptest::collection::vec((1..200_u64, proptest::option::of(any::<Slot>())), 0..600),
        ) {
            let (mut order, mut model) = (StartOrder::default(), BTreeMap::new());
            for (seq, slot) in steps {
                match slot {
                    Some(slot) => {
                        order.insert(seq, slot);
                        model.insert(seq, slot);
                    }
                    None => {
                        order.remove(seq);
                        model.remove(&seq);
                    }
                }
                prop_assert_eq!(order.get(seq), model.get(&seq).copied());
                prop_assert!(order.slots().eq(model.values().copied()));
                let later = model.range(seq + 1..).map(|(_, slot)| *slot);
                prop_assert!(order.slots_after(seq).eq(later));
                let dead = order.starts.len() - model.len();
                prop_assert!(dead <= WORTH_SWEEPING.max(order.starts.len() / 2));
            }
        }
    }
}
