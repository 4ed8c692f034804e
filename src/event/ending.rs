//! Sessions that end together, and the events of their ends.

use std::ops::Range;
use std::sync::Arc;

use super::{Content, Event, InstanceId, OpenSession};
use crate::session::End;

/// Sessions that end together, all in the same way. Their events share them: what is a session's alone
/// would cost a drain of a million a look into each.
#[derive(Debug)]
pub(crate) struct Ending {
    sessions: Arc<[OpenSession]>,
    pub(super) end: Arc<End>,
    pub(super) instance: InstanceId,
}

impl Ending {
    pub(crate) fn new(
        sessions: Arc<[OpenSession]>,
        end: Arc<End>,
        instance: InstanceId,
    ) -> Arc<Self> {
        Arc::new(Self {
            sessions,
            end,
            instance,
        })
    }

    /// The events of the ends of those sessions that are in `range`.
    pub(crate) fn events(self: &Arc<Self>, range: Range<usize>) -> Arc<[Event]> {
        if self.end.ended_at == self.end.detected_at {
            let which = range.map(|index| Content::OfMany(Arc::clone(self), index as u32));
            return which.map(|content| Event { seq: 0, content }).collect();
        }
        // No session ends before it began, and these may.
        let sessions = self.sessions[range].iter().cloned();
        let ends = sessions.map(|open| Event::end(open, Arc::clone(&self.end), self.instance));
        ends.collect()
    }

    pub(super) fn of(&self, index: u32) -> &OpenSession {
        &self.sessions[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::event::Hook;
    use crate::session::{EndDetails, EndReason, Incarnation, NewSession, Session, SessionId};

    fn open_sessions(count: u64) -> Arc<[OpenSession]> {
        let open = |seq| {
            let new = NewSession::new(SessionId::generate());
            let incarnation = Incarnation::generate();
            let session = Session::begin(new, incarnation, None, Timestamp::UNIX_EPOCH);
            OpenSession::new(Arc::new(session), seq)
        };
        (1..=count).map(open).collect()
    }

    fn closed() -> Arc<End> {
        let now = Timestamp::UNIX_EPOCH;
        Arc::new(End::now(EndReason::Closed, EndDetails::default(), now))
    }

    /// The ends of those in `range`, with places in the log from 101 on.
    fn ends(ending: &Arc<Ending>, range: Range<usize>) -> Vec<Event> {
        let first = range.start as u64 + 101;
        let ends = ending.events(range);
        let ends = ends.iter().cloned().zip(first..);
        ends.map(|(event, seq)| event.with_seq(seq)).collect()
    }

    #[test]
    fn an_end_of_many_tells_what_one_by_itself_does() {
        let (open, instance) = (open_sessions(3), InstanceId::generate());
        let shared = &ends(&Ending::new(open.clone(), closed(), instance), 0..3)[1];
        let alone = Event::end(open[1].clone(), closed(), instance).with_seq(102);
        for event in [shared.clone().by_itself(), alone] {
            assert_eq!(event.id(), shared.id());
            assert_eq!((event.seq(), event.hook()), (shared.seq(), shared.hook()));
            assert_eq!(event.start_seq(), shared.start_seq());
            assert_eq!(event.timestamp(), shared.timestamp());
            assert_eq!(event.instance(), shared.instance());
            assert_eq!(event.session(), shared.session());
            assert_eq!(event.how_ended(), shared.how_ended());
            assert!(event.lifecycle().is_none() && !event.is_synthetic());
        }
    }

    #[test]
    fn an_end_that_is_taken_by_itself_does_not_keep_the_sessions_that_ended_with_it() {
        let open = open_sessions(3);
        let other = Arc::downgrade(&open[2].session);
        let ending = Ending::new(open, closed(), InstanceId::generate());
        let event = ends(&ending, 0..3).swap_remove(0);
        drop(ending);
        assert!(other.upgrade().is_some());
        let event = event.by_itself();
        assert!(other.upgrade().is_none());
        assert!(event.synthetic().is_synthetic());
    }

    #[test]
    fn all_are_ends_if_first_and_last_show_that_nothing_else_is_between() {
        let instance = InstanceId::generate();
        let [one, other] = [5, 5].map(|count| {
            let open = open_sessions(count);
            Ending::new(open, closed(), instance)
        });
        let all = ends(&one, 0..5);
        assert_eq!(Event::hook_of_all(&all), Some(Hook::SessionEnd));
        assert_eq!(Event::hook_of_all(&all[1..4]), Some(Hook::SessionEnd));
        assert_eq!(Event::hook_of_all(&all[2..3]), Some(Hook::SessionEnd));
        assert_eq!(Event::hook_of_all(&[]), None);
        let holed = [all[0].clone(), all[2].clone()];
        assert_eq!(Event::hook_of_all(&holed), None);
        let mixed = [all[0].clone(), ends(&other, 1..2).remove(0)];
        assert_eq!(Event::hook_of_all(&mixed), None);
        let unplaced = one.events(0..2);
        assert_eq!(Event::hook_of_all(&unplaced), None);
        let alone = all[0].clone().by_itself();
        assert_eq!(Event::hook_of_all(&[alone]), None);
    }
}
