//! A delivery: a batch of events on its way to one plugin, its deadline, and the plugin's answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::Message;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Event;
use crate::session::SessionId;

/// Until when a delivery may take, and the signal that fires when it is over.
///
/// A plugin that is still at work then is given up on: what it acknowledges later does not count,
/// and its events are delivered again.
#[derive(Debug, Clone)]
pub struct Deadline {
    at: Instant,
    cancelled: CancellationToken,
}

impl Deadline {
    /// A deadline `timeout` from now.
    #[cfg(test)]
    pub(crate) fn after(timeout: Duration) -> Self {
        Self::at(Instant::now() + timeout)
    }

    pub(crate) fn at(at: Instant) -> Self {
        Self {
            at,
            cancelled: CancellationToken::new(),
        }
    }

    /// How much time is left; zero once the delivery was given up on.
    pub fn remaining(&self) -> Duration {
        if self.cancelled.is_cancelled() {
            return Duration::ZERO;
        }
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether the delivery is over: do not commit anything for it any more.
    pub fn is_over(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Completes when the delivery is over.
    pub async fn over(&self) {
        // A deadline can be moved forward by the end of a drain, which fires the token.
        let _ = tokio::time::timeout_at(self.at, self.cancelled.cancelled()).await;
    }

    /// Gives the delivery up.
    pub(crate) fn cancel(&self) {
        self.cancelled.cancel();
    }
}

/// What a plugin said of one event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Verdict {
    /// Nothing yet.
    #[default]
    Open,
    /// It took the event.
    Acknowledged,
    /// It will not take this event, with the reason it gave.
    Rejected(String),
}

#[derive(Debug, Default)]
struct Answers {
    /// Filled at the first answer: most batches are acknowledged as a whole.
    verdicts: Vec<Verdict>,
    remark: Option<Arc<str>>,
    closed: bool,
}

/// A plugin's answers to the events of one delivery, each by its index in the batch.
///
/// Answers are optional: returning `Ok(())` acknowledges everything that was not rejected. They
/// matter where a delivery fails or is cut off half-way: what was acknowledged by then is done.
/// Cheap to clone and to send to other threads.
#[derive(Debug, Clone)]
pub struct Acks {
    answers: Arc<Mutex<Answers>>,
    len: usize,
}

impl Acks {
    fn new(len: usize) -> Self {
        Self {
            answers: Arc::default(),
            len,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        // Nothing that can panic runs under the lock, so its content is whole.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, index: usize, verdict: Verdict) {
        assert!(
            index < self.len,
            "event {index} of a delivery of {}",
            self.len
        );
        let mut answers = self.lock();
        if answers.closed {
            return;
        }
        if answers.verdicts.is_empty() {
            answers.verdicts = vec![Verdict::Open; self.len];
        }
        answers.verdicts[index] = verdict;
    }

    /// Acknowledges the event at `index`.
    ///
    /// # Panics
    ///
    /// When the delivery has no event at `index`.
    pub fn acknowledge(&self, index: usize) {
        self.answer(index, Verdict::Acknowledged);
    }

    /// Rejects the event at `index`, and only that one: it is tried again later, and after some
    /// attempts it becomes a dead letter.
    ///
    /// # Panics
    ///
    /// When the delivery has no event at `index`.
    pub fn reject(&self, index: usize, error: impl Into<anyhow::Error>) {
        self.answer(index, Verdict::Rejected(format!("{:#}", error.into())));
    }

    /// Says what may be the matter if the delivery has no answer in time: it stands in the plugin's
    /// `last_error` then, behind `timed out`. The last one counts.
    pub fn remark(&self, remark: impl Into<Arc<str>>) {
        self.lock().remark = Some(remark.into());
    }

    pub(crate) fn last_remark(&self) -> Option<Arc<str>> {
        self.lock().remark.clone()
    }

    /// Ends the delivery: takes the answers given so far, and ignores all later ones. Empty when
    /// the plugin answered no event by itself.
    pub(crate) fn close(&self) -> Vec<Verdict> {
        let mut answers = self.lock();
        answers.closed = true;
        std::mem::take(&mut answers.verdicts)
    }
}

/// A batch of events for one plugin: starts and ends in log order, or one lifecycle event.
///
/// A plugin answers `Ok(())` when it took every event that it did not [reject](Acks::reject), at
/// the level of durability that it promises. An error is the failure of the events that have no
/// answer of their own; see [`Down`](crate::Down) for saying that the plugin itself can't work.
#[derive(Debug, Clone, Message)]
#[rtype(result = "anyhow::Result<()>")]
#[non_exhaustive]
pub struct Deliver {
    /// The events, in log order. Each has its own id, reason and times.
    pub events: Arc<[Event]>,
    /// Counts the attempts to deliver these events, from 1. A hint for logs: it may start over
    /// after a restart, or when an event is tried by itself.
    pub attempt: u32,
    /// Until when.
    pub deadline: Deadline,
    /// For answers to single events.
    pub acks: Acks,
    /// The ids of the sessions that are active now, with the one event `gateway_start`, for a plugin
    /// that [opens with them](crate::PluginSpec::with_opening).
    pub active: Option<Arc<[SessionId]>>,
}

impl Deliver {
    /// A first attempt.
    pub(crate) fn new(events: impl Into<Arc<[Event]>>, deadline: Deadline) -> Self {
        let events = events.into();
        Self {
            acks: Acks::new(events.len()),
            events,
            attempt: 1,
            deadline,
            active: None,
        }
    }

    pub(crate) fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    pub(crate) fn with_active(mut self, active: Arc<[SessionId]>) -> Self {
        self.active = Some(active);
        self
    }

    /// The events as JSON shows them in this attempt.
    pub fn wire(&self) -> impl Iterator<Item = super::WireEvent<'_>> {
        let remaining = self.deadline.remaining();
        self.events
            .iter()
            .map(move |event| event.wire(self.attempt, remaining))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_after_the_close_do_not_count() {
        let acks = Acks::new(3);
        acks.acknowledge(2);
        acks.reject(0, anyhow::anyhow!("no such row"));
        let verdicts = acks.close();
        let expected = [
            Verdict::Rejected("no such row".into()),
            Verdict::Open,
            Verdict::Acknowledged,
        ];
        assert_eq!(verdicts, expected);

        acks.acknowledge(1);
        assert!(acks.close().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_over_when_its_time_has_come_or_it_was_cancelled() {
        let deadline = Deadline::after(Duration::from_secs(5));
        assert_eq!(deadline.remaining(), Duration::from_secs(5));
        deadline.over().await;
        assert!(deadline.is_over());

        let deadline = Deadline::after(Duration::from_secs(5));
        deadline.cancel();
        deadline.over().await;
        assert!(deadline.is_over());
        assert!(deadline.remaining().is_zero());
    }
}
