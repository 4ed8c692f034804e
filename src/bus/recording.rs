//! What is told is recorded first: starts and ends get their places in the log.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::PluginBus;
use super::messages::{RecordedEnds, SessionEnd, SessionStart};
use crate::error::Error;
use crate::event::{Event, OpenSession, Seq};
use crate::ledger::{Append, Ledger, LedgerError, LedgerFuture, LedgerHealth, answer_within};
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

    /// Waits until an append is recorded, and has it counted.
    async fn counted(
        &self,
        appended: impl Future<Output = Result<Arc<[Event]>, LedgerError>>,
    ) -> Result<Arc<[Event]>, LedgerError> {
        let began = Instant::now();
        let outcome = appended.await;
        // What was being recorded when the files were found gone may not be in them.
        let outcome = outcome.and_then(|events| match self.health.lost() {
            Some(error) => Err(error.clone()),
            None => Ok(events),
        });
        self.monitor.appended(began.elapsed(), &outcome);
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

impl Handler<SessionStart> for PluginBus {
    type Result = ResponseFuture<Result<Seq, Error>>;

    fn handle(&mut self, message: SessionStart, _: &mut Context<Self>) -> Self::Result {
        let instance = self.settings.instance;
        let SessionStart {
            session,
            amends,
            displaced,
            timestamp,
        } = message;
        let mut append = Append::default();
        if let Some((displaced, end)) = displaced {
            append.events.push(Event::end(displaced, end, instance));
        }
        match amends {
            Some(start_seq) => append.amended = Some(OpenSession::new(session, start_seq)),
            None => append
                .events
                .push(Event::start(session, timestamp, instance)),
        }
        let (recorder, head) = (self.recorder(), self.settings.head.clone());
        let turn = Arc::clone(&self.turn);
        Box::pin(async move {
            let turn = turn.lock().await;
            let appended = recorder.append(append);
            drop(turn);
            let events = recorder.counted(appended).await?;
            let last = events.last().map_or(0, Event::recorded_seq);
            announce(&head, last);
            Ok(if amends.is_none() { last } else { 0 })
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
            for sessions in message.sessions.chunks(MAX_ENDS_AT_ONCE) {
                let ends = sessions
                    .iter()
                    .map(|open| Event::end(open.clone(), Arc::clone(&message.end), instance));
                let append = Append {
                    events: ends.collect(),
                    amended: None,
                };
                let appended = recorder.append(append);
                placed += sessions.len();
                if placed == message.sessions.len() {
                    turn = None;
                }
                let appended = within(&*recorder.ledger, message.patience, message.until, appended);
                let events = match recorder.counted(appended).await {
                    Ok(events) => events,
                    Err(error) if recorded.count == 0 => return Err(error.into()),
                    Err(error) => {
                        let left = message.sessions.len() - recorded.count;
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
