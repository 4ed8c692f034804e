//! Where names are found.

use std::hash::{BuildHasher as _, Hash, RandomState};

use hashbrown::HashTable;

use super::Slot;

/// A place of a name, with the hash of that: an index that grows need not look into every session.
#[derive(Debug, Clone, Copy)]
struct Indexed {
    hash: u32,
    slot: Slot,
}

/// The places of names.
#[derive(Debug, Default)]
pub(super) struct Index {
    hasher: RandomState,
    slots: HashTable<Indexed>,
}

impl Index {
    fn hash(&self, name: impl Hash) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    /// The table looks at both ends of its hashes.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The place of `name`, which is that of one of the slots that `is_it` finds.
    pub(super) fn find(&self, name: impl Hash, is_it: impl Fn(Slot) -> bool) -> Option<Slot> {
        let hash = self.hash(name);
        let found = self
            .slots
            .find(Self::spread(hash), |it| it.hash == hash && is_it(it.slot));
        found.map(|it| it.slot)
    }

    /// Notes that `name` is at `slot`, in place of the one that `is_it` finds.
    pub(super) fn set(&mut self, name: impl Hash, slot: Slot, is_it: impl Fn(Slot) -> bool) {
        let hash = self.hash(name);
        let is_it = |it: &Indexed| it.hash == hash && is_it(it.slot);
        let spread = |it: &Indexed| Self::spread(it.hash);
        let place = self.slots.entry(Self::spread(hash), is_it, spread);
        place.insert(Indexed { hash, slot });
    }

    /// Forgets that `name` is at `slot`, if it is.
    pub(super) fn remove(&mut self, name: impl Hash, slot: Slot) {
        let hash = Self::spread(self.hash(name));
        if let Ok(place) = self.slots.find_entry(hash, |it| it.slot == slot) {
            place.remove();
        }
    }
}
