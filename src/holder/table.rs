//! The table of holders.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease::{Connection, ConnectionId, Holder, HolderRecord, SignsOfLife};
use super::{FIRST_LEASE, HolderStatus, Refused};
use crate::session::{EndReason, HolderId, RunId, Session};

/// How many holders there may be: each heartbeat under another name makes one, for an hour at the most.
const MAX_HOLDERS: usize = 65_536;

/// How many holders that are gone are remembered, for the sake of their runs.
const MAX_GONE: usize = 16_384;

/// The holders that have a lease, or sessions.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    holders: BTreeMap<HolderId, Holder>,
    /// Those that were forgotten last, and their runs: the last one may come back as long as no other
    /// has, and the others may not.
    gone: HashMap<HolderId, Gone>,
    /// Their names, oldest first.
    order_gone: VecDeque<HolderId>,
    connections: u64,
}

#[derive(Debug)]
struct Gone {
    last_run: Option<RunId>,
    past_runs: VecDeque<RunId>,
}

/// What a sign of life has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Change {
    /// What a later process should know, if that is something else now.
    pub(crate) keep: Option<HolderRecord>,
    /// Whether a new run has taken the place of another, whose sessions end.
    pub(crate) takes_over: bool,
}

/// Why a session of a holder has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// The lease is over.
    Lost,
    /// It is of a run whose place was taken.
    Superseded,
    /// Its holder holds nothing any more.
    Closed(EndReason),
}

impl Due {
    /// Why it ends.
    pub(crate) fn reason(self) -> EndReason {
        match self {
            Self::Lost => EndReason::Lost,
            Self::Superseded => EndReason::Crash,
            Self::Closed(reason) => reason,
        }
    }
}

impl Holders {
    pub(crate) fn len(&self) -> usize {
        self.holders.len()
    }

    pub(crate) fn knows(&self, holder: &HolderId) -> bool {
        self.holders.contains_key(holder)
    }

    /// All of them.
    pub(crate) fn names(&self) -> Vec<HolderId> {
        self.holders.keys().cloned().collect()
    }

    /// Takes in a holder that a process before has kept: it has a while to come back. It was last
    /// seen at `seen_at`.
    pub(crate) fn restore(&mut self, kept: HolderRecord, seen_at: Timestamp, now: Instant) {
        let holder = Holder {
            run_id: kept.run_id,
            past_runs: kept.past_runs.into(),
            is_first_run: kept.is_first_run,
            awaited_until: Some(now + kept.lease.max(FIRST_LEASE)),
            lease: kept.lease,
            is_kept: true,
            ..Holder::new(now, seen_at)
        };
        self.holders.insert(kept.holder, holder);
    }

    /// Takes in the holder of an active session, if it is not known, such as when the start was being
    /// recorded while it was forgotten: it has its first lease before it, and those of its runs that were
    /// over still are.
    pub(crate) fn take_back(&mut self, session: &Session, seen_at: Timestamp, now: Instant) {
        let unknown = session.holder.as_ref().filter(|holder| !self.knows(holder));
        let Some(holder) = unknown else { return };
        let gone = self.gone.get(holder);
        let past_runs = gone.map(|gone| gone.past_runs.clone()).unwrap_or_default();
        let run_id = session.run_id().cloned();
        let run_id = run_id.filter(|run_id| !past_runs.contains(run_id));
        let last_run = gone.and_then(|gone| gone.last_run.clone());
        let entry = Holder {
            last_run: last_run.filter(|last| run_id.as_ref() != Some(last)),
            run_id,
            past_runs,
            ..Holder::new(now, seen_at)
        };
        self.holders.insert(holder.clone(), entry);
    }

    /// A start names a holder and, perhaps, one of its runs. Answers the run that the session is of.
    pub(crate) fn mention(
        &mut self,
        holder: &HolderId,
        run_id: Option<&RunId>,
        now: Instant,
        wall: Timestamp,
    ) -> Result<(Option<RunId>, Change), Refused> {
        let change = self.change(holder, now, wall, |entry| {
            let takes_over = match run_id {
                Some(run_id) => entry.enter(holder, run_id, wall)?,
                None => false,
            };
            if takes_over || entry.is_over(now) {
                entry.awaited_until = Some(now + FIRST_LEASE);
            }
            Ok(takes_over)
        })?;
        let run_id = self.holders.get(holder).and_then(|it| it.run_id.clone());
        Ok((run_id, change))
    }

    /// A connection becomes the lease of a run, in place of the connection before. The token fires
    /// when another takes its place. Where `is_parent`, it stands for the parent of the holder's
    /// process, beside whatever that does itself.
    pub(crate) fn connect(
        &mut self,
        holder: &HolderId,
        run_id: &RunId,
        grace: Duration,
        is_parent: bool,
        (now, wall): (Instant, Timestamp),
    ) -> Result<(ConnectionId, CancellationToken, Change), Refused> {
        let id = ConnectionId(self.connections + 1);
        let replaced = CancellationToken::new();
        let connection = Connection {
            id,
            grace,
            _replaced: replaced.clone().drop_guard(),
        };
        let change = self.change(holder, now, wall, |entry| {
            let takes_over = entry.enter(holder, run_id, wall)?;
            match is_parent {
                true => entry.parent = Some(connection),
                false => entry.connection = Some(connection),
            }
            entry.disconnected_until = None;
            entry.awaited_until = None;
            let beats = entry.beat_until.filter(|until| *until > now);
            entry.set_lease(grace.max(beats.map_or(Duration::ZERO, |_| entry.ttl)));
            Ok(takes_over)
        })?;
        self.connections += 1;
        Ok((id, replaced, change))
    }

    /// A connection is gone. Nothing if another has taken its place.
    pub(crate) fn disconnect(
        &mut self,
        holder: &HolderId,
        connection: ConnectionId,
        now: Instant,
        wall: Timestamp,
    ) {
        let Some(entry) = self.holders.get_mut(holder) else {
            return;
        };
        let mut open = [&mut entry.parent, &mut entry.connection].into_iter();
        let gone = open.find_map(|open| open.take_if(|open| open.id == connection));
        if let Some(gone) = gone {
            let until = now + gone.grace;
            entry.disconnected_until = entry.disconnected_until.max(Some(until));
            entry.seen_at = wall;
        }
    }

    /// A run is alive, and will be for `ttl`.
    pub(crate) fn beat(
        &mut self,
        holder: &HolderId,
        run_id: &RunId,
        ttl: Duration,
        now: Instant,
        wall: Timestamp,
    ) -> Result<Change, Refused> {
        self.change(holder, now, wall, |entry| {
            let takes_over = entry.enter(holder, run_id, wall)?;
            (entry.beat_until, entry.ttl) = (Some(now + ttl), ttl);
            entry.awaited_until = None;
            let connection = entry.connection.as_ref();
            let grace = connection.map_or(Duration::ZERO, |open| open.grace);
            entry.set_lease(ttl.max(grace));
            Ok(takes_over)
        })
    }

    /// Changes a holder, or a new one, at a sign of life. Nothing is changed where `change` fails.
    fn change(
        &mut self,
        holder: &HolderId,
        now: Instant,
        wall: Timestamp,
        change: impl FnOnce(&mut Holder) -> Result<bool, Refused>,
    ) -> Result<Change, Refused> {
        let is_new = !self.holders.contains_key(holder);
        let gone = self.gone.get(holder);
        if is_new && self.holders.len() >= MAX_HOLDERS {
            return Err(Refused::TooMany);
        }
        let entry = self
            .holders
            .entry(holder.clone())
            .or_insert_with(|| match gone {
                Some(gone) => Holder {
                    last_run: gone.last_run.clone(),
                    past_runs: gone.past_runs.clone(),
                    ..Holder::new(now, wall)
                },
                None => Holder::new(now, wall),
            });
        let changed = match entry.closed {
            Some(_) => Err(Refused::Closed),
            None => change(entry),
        };
        let takes_over = match changed {
            Ok(takes_over) => takes_over,
            Err(error) => {
                if is_new {
                    self.holders.remove(holder);
                }
                return Err(error);
            }
        };
        entry.seen_at = wall;
        entry.signs += 1;
        entry.is_leaving = false;
        entry.is_lost = false;
        let is_kept = std::mem::replace(&mut entry.is_kept, true);
        Ok(Change {
            keep: (!is_kept).then(|| entry.record(holder)),
            takes_over,
        })
    }

    /// The ledger could not keep what a holder is: its next sign of life tries again.
    pub(crate) fn not_kept(&mut self, holder: &HolderId) {
        if let Some(entry) = self.holders.get_mut(holder) {
            entry.is_kept = false;
        }
    }

    /// The holder, as which its run `run_id` speaks if it says so, is to be done. Answers what
    /// [`leave`](Self::leave) wants to know.
    pub(crate) fn begin_to_leave(
        &self,
        holder: &HolderId,
        run_id: Option<&RunId>,
    ) -> Result<SignsOfLife, Refused> {
        let (entry, gone) = (self.holders.get(holder), self.gone.get(holder));
        let is_over = |run_id: &&RunId| match entry {
            Some(entry) => {
                let current = entry.run_id.as_ref();
                let is_other = current.is_some_and(|current| current != *run_id);
                is_other || entry.past_runs.contains(run_id)
            }
            None => gone.is_some_and(|gone| gone.past_runs.contains(run_id)),
        };
        match run_id.filter(is_over) {
            Some(run_id) => Err(Refused::RunIsOver {
                holder: holder.clone(),
                run_id: run_id.clone(),
            }),
            None => Ok(SignsOfLife(entry.map_or(0, |entry| entry.signs))),
        }
    }

    /// The holder is closed: it is heard no more, and what it has or gets ends for this reason.
    pub(crate) fn close(&mut self, holder: &HolderId, reason: EndReason) {
        if let Some(entry) = self.holders.get_mut(holder) {
            entry.closed = Some(reason);
        }
    }

    /// The holder is done, unless it has shown since that it lives. It is forgotten when it has no
    /// sessions, and has a while for that if their ends can't be recorded now. One with a parent stays
    /// as long as that says so.
    pub(crate) fn leave(
        &mut self,
        holder: &HolderId,
        since: SignsOfLife,
        now: Instant,
        wall: Timestamp,
    ) {
        let entry = self.holders.get_mut(holder);
        if let Some(entry) = entry.filter(|entry| entry.signs == since.0) {
            entry.drop_leases();
            entry.awaited_until = Some(now + FIRST_LEASE);
            entry.seen_at = wall;
            entry.is_leaving = true;
        }
    }

    /// Whether `session` has to end now because of its holder, and when that was last seen.
    pub(crate) fn due(&self, session: &Session, now: Instant) -> Option<(Due, Timestamp)> {
        let entry = self.holders.get(session.holder.as_ref()?)?;
        // The first run has what was started before it.
        let is_of_run = match session.run_id() {
            None => entry.is_first_run,
            run_id => run_id == entry.run_id.as_ref(),
        };
        if let Some(reason) = entry.closed {
            Some((Due::Closed(reason), entry.seen_at))
        } else if !is_of_run {
            Some((Due::Superseded, entry.past_seen_at))
        } else if entry.is_over(now) {
            Some((Due::Lost, entry.seen_at))
        } else {
            None
        }
    }

    /// Finds the holders whose lease is over by now and was not when this was asked before.
    pub(crate) fn find_lost(&mut self, now: Instant) -> Vec<HolderId> {
        let mut lost = Vec::new();
        for (holder, entry) in &mut self.holders {
            if !entry.is_lost && entry.is_over(now) {
                entry.is_lost = true;
                lost.push(holder.clone());
            }
        }
        lost
    }

    /// When a holder's lease is over; none as long as it is connected, is none, or was
    /// [found](Self::find_lost) to be lost.
    pub(crate) fn until(&self, holder: &HolderId) -> Option<Instant> {
        let entry = self.holders.get(holder)?;
        entry.until().filter(|_| !entry.is_lost)
    }

    /// When the next lease is over that was not found to be.
    pub(crate) fn next_over(&self) -> Option<Instant> {
        let living = self.holders.values().filter(|entry| !entry.is_lost);
        living.filter_map(Holder::until).min()
    }

    /// Every lease that was not found to be over lasts longer by a time in which nobody could be heard,
    /// which is over `now`; but none longer than one that is taken now.
    pub(crate) fn extend(&mut self, by: Duration, now: Instant) {
        for entry in self.holders.values_mut().filter(|entry| !entry.is_lost) {
            let longest = now + entry.lease;
            let longest_first = now + entry.lease.max(FIRST_LEASE);
            let until = [
                (&mut entry.disconnected_until, longest),
                (&mut entry.beat_until, longest),
                (&mut entry.awaited_until, longest_first),
            ];
            for (until, longest) in until {
                *until = until.map(|until| until.max(longest.min(until + by)));
            }
        }
    }

    /// Forgets a holder that has no sessions, if its lease is over or it has said that it is done.
    /// Answers whether it is forgotten now.
    pub(crate) fn forget(&mut self, holder: &HolderId, now: Instant) -> bool {
        let is_done =
            |entry: &Holder| !entry.is_connected() && (entry.is_leaving || entry.is_over(now));
        if !self.holders.get(holder).is_some_and(is_done) {
            return false;
        }
        let Some(entry) = self.holders.remove(holder) else {
            return false;
        };
        let gone = Gone {
            last_run: entry.run_id.or(entry.last_run),
            past_runs: entry.past_runs,
        };
        if gone.last_run.is_some() {
            if self.gone.insert(holder.clone(), gone).is_some() {
                self.order_gone.retain(|name| name != holder);
            }
            self.order_gone.push_back(holder.clone());
        }
        if self.order_gone.len() > MAX_GONE
            && let Some(oldest) = self.order_gone.pop_front()
        {
            self.gone.remove(&oldest);
        }
        true
    }

    /// How the holders are, by name, with the numbers of their sessions.
    pub(crate) fn statuses(
        &self,
        now: Instant,
        sessions: impl Fn(&HolderId) -> usize,
    ) -> Vec<HolderStatus> {
        let statuses = self.holders.iter().map(|(holder, entry)| HolderStatus {
            holder: holder.clone(),
            run_id: entry.run_id.clone(),
            lease: entry.state(),
            expires_in_ms: entry.until().map(|until| {
                let left = until.saturating_duration_since(now).as_millis();
                u64::try_from(left).unwrap_or(u64::MAX)
            }),
            sessions: sessions(holder),
        });
        statuses.collect()
    }
}

#[cfg(test)]
mod tests;
