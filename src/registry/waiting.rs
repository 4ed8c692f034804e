//! Requests that wait for an id or a key, of which one transition at a time is recorded.

use std::collections::{BTreeSet, HashMap};

use crate::session::{SessionId, SessionKey};

/// An id or a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Id(SessionId),
    Key(SessionKey),
}

/// The names that a request touches.
pub(super) type Names = Vec<Name>;

/// The ids and keys of `sessions`.
pub(super) fn names_of<'a>(
    sessions: impl IntoIterator<Item = (&'a SessionId, &'a Option<SessionKey>)>,
) -> Names {
    sessions
        .into_iter()
        .flat_map(|(id, key)| [Some(Name::Id(id.clone())), key.clone().map(Name::Key)])
        .flatten()
        .collect()
}

/// What waits, by its number in the order of arrival. Each name has a queue of its own, so that a
/// crowd that waits for one name costs the others nothing, and a name that becomes free one look.
#[derive(Debug)]
pub(super) struct Waiting<R> {
    requests: HashMap<u64, (R, Names)>,
    queues: HashMap<Name, BTreeSet<u64>>,
    arrived: u64,
}

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        Self {
            requests: HashMap::new(),
            queues: HashMap::new(),
            arrived: 0,
        }
    }
}

impl<R> Waiting<R> {
    /// The number of a request that arrives now.
    pub(super) fn arrive(&mut self) -> u64 {
        self.arrived += 1;
        self.arrived
    }

    pub(super) fn insert(&mut self, number: u64, request: R, names: Names) {
        for name in &names {
            let queue = self.queues.entry(name.clone()).or_default();
            queue.insert(number);
        }
        self.requests.insert(number, (request, names));
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<(R, Names)> {
        let (request, names) = self.requests.remove(&number)?;
        for name in &names {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.remove(&number);
                if queue.is_empty() {
                    self.queues.remove(name);
                }
            }
        }
        Some((request, names))
    }

    /// The names that a request waits for.
    pub(super) fn names(&self, number: u64) -> Option<&[Name]> {
        self.requests
            .get(&number)
            .map(|(_, names)| names.as_slice())
    }

    /// What has waited longest for `name`.
    pub(super) fn first(&self, name: &Name) -> Option<u64> {
        self.queues.get(name)?.first().copied()
    }

    /// Whether something that arrived before `number` waits for one of `names`.
    pub(super) fn is_behind(&self, number: u64, names: &[Name]) -> bool {
        let mut firsts = names.iter().filter_map(|name| self.first(name));
        firsts.any(|first| first < number)
    }

    /// The numbers of all.
    pub(super) fn numbers(&self) -> BTreeSet<u64> {
        self.requests.keys().copied().collect()
    }
}
