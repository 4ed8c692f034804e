//! What operators ask of the bus: to test a plugin, to look after its dead letters, to try it at
//! once.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::info;

use super::host::PluginHost;
use super::lane::{Failure, Outcome};
use super::runner::{Command, LettersChange, LettersChanged, LettersJob, Operation};
use super::{LaneHandle, PluginBus, PluginStatus};
use crate::error::Error;
use crate::event::{Deadline, Event, EventId, InstanceId, OpenSession, Seq, Verdict};
use crate::ledger::Parked;
use crate::session::{
    End, EndDetails, EndReason, Incarnation, InvalidField, NewSession, Session, SessionId,
};

/// The id of the session that a test tells of.
const TEST_SESSION: &str = "synthetic";

/// Sends a plugin a start and an end of a session that does not exist, past its lane and the
/// ledger.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<PluginTest, Error>")]
pub(crate) struct TestPlugin(pub(crate) String);

/// Tries a plugin at once that waits for its next attempt.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<PluginStatus, Error>")]
pub(crate) struct ResumePlugin(pub(crate) String);

/// Asks for dead letters, in log order.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<Parked>, Error>")]
pub(crate) struct ListDeadLetters {
    pub(crate) plugin: String,
    /// Only those after this place in the log.
    pub(crate) after: Seq,
    pub(crate) limit: usize,
}

/// Puts dead letters back into their lane.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Redelivered, Error>")]
pub(crate) struct Redeliver {
    pub(crate) plugin: String,
    /// Only this one, with those of its incarnation; all if none.
    pub(crate) event: Option<EventId>,
}

/// Lets go of dead letters. The answer is how many.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<u64, Error>")]
pub(crate) struct DiscardDeadLetters {
    pub(crate) plugin: String,
    /// Only this one; all if none.
    pub(crate) event: Option<EventId>,
}

/// How a plugin took a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TestOutcome {
    /// It acknowledged both events.
    Ok,
    /// It rejected one, or failed.
    Error,
    /// It did not answer in time.
    Timeout,
    /// It panicked.
    Panic,
}

/// What came of a test of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginTest {
    /// How the plugin took it.
    pub outcome: TestOutcome,
    /// What went wrong.
    pub error: Option<Arc<str>>,
    /// How long it took.
    pub duration: Duration,
}

/// How many dead letters were put back into their lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redelivered {
    /// Those that were put back.
    pub redelivered: u64,
    /// The dead letters that are left: for those that there was no room for, ask again when the
    /// others are delivered.
    pub left: u64,
}

impl PluginBus {
    /// Whether a shutdown was asked for.
    pub(super) fn is_stopping(&self) -> bool {
        self.cut.borrow().is_some()
    }

    fn lane(&self, plugin: &str) -> Result<&LaneHandle, Error> {
        let mut lanes = self.lanes.iter();
        let lane = lanes.find(|lane| lane.host.spec().name() == plugin);
        lane.ok_or_else(|| Error::UnknownPlugin(plugin.into()))
    }

    /// Has a lane do something, and waits for its answer.
    fn ask<T: 'static>(
        &self,
        plugin: String,
        operation: impl FnOnce(oneshot::Sender<T>) -> Operation,
    ) -> ResponseFuture<Result<T, Error>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.lane(&plugin).and_then(|lane| {
            if self.is_stopping() {
                return Err(Error::ShuttingDown);
            }
            let _ = lane.commands.send(Command::Operate(operation(reply)));
            Ok(())
        });
        Box::pin(async move {
            sent?;
            // A lane that is gone was removed.
            answer.await.map_err(|_| Error::UnknownPlugin(plugin))
        })
    }

    fn change_letters(
        &self,
        plugin: String,
        event: Option<EventId>,
        change: LettersChange,
    ) -> ResponseFuture<Result<LettersChanged, Error>> {
        let changed = self.ask(plugin, |reply| {
            Operation::Letters(LettersJob::new(change, event, reply))
        });
        Box::pin(async move { changed.await? })
    }
}

impl Handler<TestPlugin> for PluginBus {
    type Result = ResponseFuture<Result<PluginTest, Error>>;

    fn handle(&mut self, TestPlugin(plugin): TestPlugin, _: &mut Context<Self>) -> Self::Result {
        let host = self.lane(&plugin).map(|lane| Rc::clone(&lane.host));
        let (now, instance) = (self.settings.clock.now(), self.settings.instance);
        let mut cut = self.cut.subscribe();
        Box::pin(async move {
            let host = host?;
            let events = synthetic_events(now, instance)?;
            let listens = |event: &Event| host.spec().hooks().contains(event.hook());
            let events: Vec<_> = events.into_iter().filter(listens).collect();
            tokio::select! {
                biased;
                // A shutdown has better use for the plugin's time: the test is given up.
                _ = cut.wait_for(Option::is_some) => Err(Error::ShuttingDown),
                tested = test(&host, &events) => Ok(tested),
            }
        })
    }
}

/// A start and an end of a session that there never was.
fn synthetic_events(now: Timestamp, instance: InstanceId) -> Result<[Event; 2], InvalidField> {
    let new = NewSession::new(SessionId::new(TEST_SESSION)?);
    let session = Session::begin(new, Incarnation::generate(), None, now);
    let session = Arc::new(session);
    let start = Event::start(Arc::clone(&session), now, instance);
    let end = End::now(EndReason::Closed, EndDetails::default(), now);
    let end = Event::end(OpenSession::new(session, 0), Arc::new(end), instance);
    Ok([start.synthetic(), end.synthetic()])
}

/// Delivers `events` as a lane would, and says how it went.
async fn test(host: &PluginHost, events: &[Event]) -> PluginTest {
    let policy = host.spec().policy();
    let began = Instant::now();
    let answer = |outcome, error| PluginTest {
        outcome,
        error,
        duration: began.elapsed(),
    };
    if events.is_empty() {
        let problem = "it listens to neither `session_start` nor `session_end`";
        return answer(TestOutcome::Error, Some(problem.into()));
    }
    for batch in events.chunks(policy.max_batch) {
        let deadline = CancelledOnDrop(Deadline::at(Instant::now() + policy.timeout));
        let outcome = host.attempt(batch.into(), 1, deadline.0.clone()).await;
        if let Some(error) = cause(&outcome) {
            info!(plugin = host.spec().name(), %error, "test failed");
            return answer(TestOutcome::of(&outcome), Some(error));
        }
    }
    info!(plugin = host.spec().name(), "test passed");
    answer(TestOutcome::Ok, None)
}

/// Why the plugin did not take a delivery: what it has against an event says more than that it
/// failed.
fn cause(outcome: &Outcome) -> Option<Arc<str>> {
    let rejected = outcome.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::Rejected(error) => Some(error.as_str().into()),
        Verdict::Open | Verdict::Acknowledged => None,
    });
    rejected.or(outcome.first_error())
}

/// Tells the plugin that the time is over when nobody waits for its answer any more.
struct CancelledOnDrop(Deadline);

impl Drop for CancelledOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl TestOutcome {
    fn of(outcome: &Outcome) -> Self {
        match &outcome.failure {
            Some(Failure::Down(..) | Failure::Disabled(_) | Failure::Error(_)) => Self::Error,
            Some(Failure::TimedOut(_)) => Self::Timeout,
            Some(Failure::Panicked(_)) => Self::Panic,
            // Some event was rejected.
            None => Self::Error,
        }
    }
}

impl Handler<ResumePlugin> for PluginBus {
    type Result = ResponseFuture<Result<PluginStatus, Error>>;

    fn handle(&mut self, message: ResumePlugin, _: &mut Context<Self>) -> Self::Result {
        let ResumePlugin(plugin) = message;
        let resumed = self.ask(plugin.clone(), Operation::Resume);
        let (ledger, now) = (Arc::clone(&self.ledger), self.settings.clock.now());
        // Asked after the resumption, so answered after it.
        let lane = self.lane(&plugin).ok();
        let status = lane.map(|lane| lane.full_status(ledger, now));
        Box::pin(async move {
            resumed.await?;
            let status = status.ok_or(Error::UnknownPlugin(plugin))?;
            Ok(status.await)
        })
    }
}

impl Handler<ListDeadLetters> for PluginBus {
    type Result = ResponseFuture<Result<Vec<Parked>, Error>>;

    fn handle(&mut self, message: ListDeadLetters, _: &mut Context<Self>) -> Self::Result {
        let (plugin, after) = (message.plugin, message.after);
        let letters = self
            .lane(&plugin)
            .map(|_| self.ledger.dead_letters(&plugin, after, message.limit));
        Box::pin(async move { Ok(letters?.await?) })
    }
}

impl Handler<Redeliver> for PluginBus {
    type Result = ResponseFuture<Result<Redelivered, Error>>;

    fn handle(&mut self, message: Redeliver, _: &mut Context<Self>) -> Self::Result {
        let Redeliver { plugin, event } = message;
        let changed = self.change_letters(plugin, event, LettersChange::Redeliver);
        Box::pin(async move {
            let LettersChanged { changed, left } = changed.await?;
            Ok(Redelivered {
                redelivered: changed,
                left,
            })
        })
    }
}

impl Handler<DiscardDeadLetters> for PluginBus {
    type Result = ResponseFuture<Result<u64, Error>>;

    fn handle(&mut self, message: DiscardDeadLetters, _: &mut Context<Self>) -> Self::Result {
        let DiscardDeadLetters { plugin, event } = message;
        let changed = self.change_letters(plugin, event, LettersChange::Discard);
        Box::pin(async move { Ok(changed.await?.changed) })
    }
}
