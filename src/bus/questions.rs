//! What the bus is asked about its lanes.

use std::sync::Arc;

use actix::prelude::*;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::messages::{DeliveryStates, PluginStatuses, WaitUntilTold};
use super::runner::Command;
use super::{DeliveryState, PluginBus, PluginStatus};

impl Handler<PluginStatuses> for PluginBus {
    type Result = ResponseFuture<Vec<PluginStatus>>;

    fn handle(&mut self, _: PluginStatuses, _: &mut Context<Self>) -> Self::Result {
        let now = self.settings.clock.now();
        let statuses = self.lanes.iter();
        let statuses = statuses.map(|lane| lane.full_status(Arc::clone(&self.ledger), now));
        Box::pin(join_all(statuses))
    }
}

impl Handler<DeliveryStates> for PluginBus {
    type Result = ResponseFuture<Vec<(Arc<str>, DeliveryState)>>;

    fn handle(&mut self, message: DeliveryStates, _: &mut Context<Self>) -> Self::Result {
        let DeliveryStates(record) = message;
        let states = self.lanes.iter().filter_map(|lane| {
            let (name, last) = (lane.name(), lane.told().last_event_of(&record)?);
            let (reply, state) = oneshot::channel();
            let _ = lane.commands.send(Command::StateOf(last, reply));
            Some(async move { Some((name, state.await.ok()?)) })
        });
        let states = join_all(states);
        Box::pin(async move { states.await.into_iter().flatten().collect() })
    }
}

impl Handler<WaitUntilTold> for PluginBus {
    type Result = ResponseFuture<()>;

    fn handle(
        &mut self,
        WaitUntilTold(up_to): WaitUntilTold,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let told = self.lanes.iter().map(|lane| {
            let (reply, told) = oneshot::channel();
            let _ = lane.commands.send(Command::SayWhenTold(up_to, reply));
            told
        });
        let told = join_all(told);
        Box::pin(async move {
            // A lane that is gone tells nobody anything any more.
            told.await;
        })
    }
}
