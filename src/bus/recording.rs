//! What is told is recorded first: starts and ends get their places in the log.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::PluginBus;
use super::messages::{RecordEach, RecordedEnds, SessionEnd, SessionStart, ToRecord};
use crate::error::Error;
use crate::event::{Ending, Event, InstanceId, OpenSession, Seq};
use crate::ledger::{
    Append, Appended, Ledger, LedgerError, LedgerFuture, LedgerHealth, answer_within,
};
use crate::monitor::Monitor;

/// How many ends are recorded in one step: a drain's first deliveries leave while the rest is
/// still being recorded.
pub(crate) const MAX_ENDS_AT_ONCE: usize = 4096;

/// Tells the lanes how long the log is by now.
fn announce(head: &watch::Sender<Seq>, seq: Seq) {
    head.send_if_modified(|head| {
        let is_news = seq > *head;
        *head = seq.max(*head);
        is_news
    });
}

/// Records, and has it seen how that goes.
#[derive(Clone)]
struct Recorder {
    ledger: Arc<dyn Ledger>,
    monitor: Monitor,
    health: LedgerHealth,
}

impl Recorder {
    /// Places an append in the log. One that would be found by nobody is refused.
    fn append(&self, append: Append) -> LedgerFuture<Arc<[Event]>> {
        match self.health.lost() {
            Some(error) => Box::pin(std::future::ready(Err(error.clone()))),
            None => self.ledger.append(append),
        }
    }

    /// Places each of `appends` in the log, in this order, in steps of their own.
    fn append_each(&self, appends: Vec<Append>) -> LedgerFuture<Vec<Appended>> {
        match self.health.lost() {
            Some(error) => Box::pin(std::future::ready(Err(error.clone()))),
            None => self.ledger.append_each(appends),
        }
    }

    /// Waits until an append is recorded, and has it counted.
    async fn counted(&self, appended: impl Future<Output = Appended>) -> Appended {
        let began = Instant::now();
        self.count(appended.await, began.elapsed())
    }

    /// What an append came to that took so long.
    fn count(&self, outcome: Appended, took: Duration) -> Appended {
        // What was being recorded when the files were found gone may not be in them.
        let outcome = outcome.and_then(|events| match self.health.lost() {
            Some(error) => Err(error.clone()),
            None => Ok(events),
        });
        self.monitor.appended(took, &outcome);
        if let Err(error) = &outcome {
            self.health.append_failed(error);
        }
        outcome
    }
}

/// What `ledger` answers, or that it did not answer in time: not by `until`, or not while it got on.
async fn within<T>(
    ledger: &dyn Ledger,
    patience: Option<Duration>,
    until: Option<Instant>,
    answer: LedgerFuture<T>,
) -> Result<T, LedgerError> {
    let answer = async {
        match patience {
            Some(patience) => answer_within(ledger, patience, answer).await,
            None => answer.await,
        }
    };
    let Some(until) = until else {
        return answer.await;
    };
    let answered = tokio::time::timeout_at(until, answer).await;
    answered.unwrap_or_else(|_| Err(LedgerError::late()))
}

impl PluginBus {
    fn recorder(&self) -> Recorder {
        Recorder {
            ledger: Arc::clone(&self.ledger),
            monitor: self.settings.monitor.clone(),
            health: self.settings.health.clone(),
        }
    }
}

impl Handler<RecordEach> for PluginBus {
    type Result = ResponseFuture<Vec<Result<Seq, Error>>>;

    fn handle(&mut self, RecordEach(to_record): RecordEach, _: &mut Context<Self>) -> Self::Result {
        let instance = self.settings.instance;
        let appends = to_record.into_iter();
        let appends: Vec<_> = appends.map(|it| it.into_append(instance)).collect();
        let (recorder, head) = (self.recorder(), self.settings.head.clone());
        let turn = Arc::clone(&self.turn);
        Box::pin(async move {
            let count = appends.len();
            let turn = turn.lock().await;
            let appended = recorder.append_each(appends);
            drop(turn);
            let began = Instant::now();
            let appended = appended.await;
            let took = began.elapsed();
            // One error is that of all.
            let mut appended = appended.unwrap_or_else(|error| vec![Err(error); count]);
            appended.resize_with(count, || Err(LedgerError::too_few_answers()));
            let places = appended.into_iter().map(|outcome| {
                let events = recorder.count(outcome, took)?;
                Ok(events.last().map_or(0, Event::recorded_seq))
            });
            let places: Vec<Result<Seq, Error>> = places.collect();
            let last = places.iter().flatten().max();
            announce(&head, last.copied().unwrap_or(0));
            places
        })
    }
}

impl ToRecord {
    fn into_append(self, instance: InstanceId) -> Append {
        let start = match self {
            Self::End(open, end) => return Append::from([Event::end(open, end, instance)]),
            Self::Start(start) => start,
        };
        let (session, at) = (start.session, start.timestamp);
        let displaced = start.displaced;
        let displaced = displaced.map(|(open, end)| Event::end(open, end, instance));
        let (begun, amended) = match start.amends {
            Some(start_seq) => (None, Some(OpenSession::new(session, start_seq))),
            None => (Some(Event::start(session, at, instance)), None),
        };
        let events = displaced.into_iter().chain(begun).collect();
        Append { events, amended }
    }
}

impl Handler<SessionStart> for PluginBus {
    type Result = ResponseFuture<Result<Seq, Error>>;

    fn handle(&mut self, message: SessionStart, ctx: &mut Context<Self>) -> Self::Result {
        let is_new = message.amends.is_none();
        let recorded = self.handle(RecordEach(vec![ToRecord::Start(message)]), ctx);
        Box::pin(async move {
            let recorded = recorded.await.pop().unwrap_or(Err(Error::Stopped))?;
            Ok(if is_new { recorded } else { 0 })
        })
    }
}

impl Handler<SessionEnd> for PluginBus {
    type Result = ResponseFuture<Result<RecordedEnds, Error>>;

    fn handle(&mut self, message: SessionEnd, _: &mut Context<Self>) -> Self::Result {
        let instance = self.settings.instance;
        let (recorder, head) = (self.recorder(), self.settings.head.clone());
        let turn = Arc::clone(&self.turn);
        Box::pin(async move {
            let mut turn = Some(turn.lock().await);
            let mut placed = 0;
            let mut recorded = RecordedEnds::default();
            let count = message.sessions.len();
            let ending = Ending::new(message.sessions, message.end, instance);
            while placed < count {
                let step = placed..count.min(placed + MAX_ENDS_AT_ONCE);
                placed = step.end;
                let appended = recorder.append(ending.events(step).into());
                if placed == count {
                    turn = None;
                }
                let appended = within(&*recorder.ledger, message.patience, message.until, appended);
                let events = match recorder.counted(appended).await {
                    Ok(events) => events,
                    Err(error) if recorded.count == 0 => return Err(error.into()),
                    Err(error) => {
                        let left = count - recorded.count;
                        warn!(left, %error, "only a part of the ends is recorded");
                        return Ok(recorded);
                    }
                };
                if let (Some(first), Some(last)) = (events.first(), events.last()) {
                    if recorded.count == 0 {
                        recorded.first = first.recorded_seq();
                    }
                    recorded.last = last.recorded_seq();
                    recorded.count += events.len();
                    announce(&head, recorded.last);
                }
                // Lets the lanes of this thread take what is there already.
                tokio::task::yield_now().await;
            }
            drop(turn);
            Ok(recorded)
        })
    }
}
