//! How a lane is, for everybody to see.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::super::PluginState;
use super::LaneRunner;
use crate::event::Seq;

/// How far a lane may be behind the log and still count as healthy, in deliveries.
const LAG_DELIVERIES: u64 = 4;

impl LaneRunner {
    pub(super) fn state(&self) -> PluginState {
        let lag = LAG_DELIVERIES * self.host.spec().policy().max_batch as u64;
        if self.lane.is_disabled() {
            PluginState::Disabled
        } else if self.lane.is_quarantined() {
            PluginState::Quarantined
        } else if self.lane.is_retrying() {
            PluginState::Retrying
        } else if self.lane.owed() > lag {
            PluginState::Lagging
        } else {
            PluginState::Healthy
        }
    }

    /// Since when the oldest event has been owed. Of one that is not read yet only the earliest
    /// moment is known.
    pub(super) fn owed_since(&self) -> Option<Timestamp> {
        let owed_since = self.owed_since?;
        let unread = self.read_up_to.map_or(owed_since, |at| at.max(owed_since));
        Some(self.lane.oldest_in_hand().unwrap_or(unread))
    }

    /// Makes the lane's state visible.
    pub(super) fn publish(&mut self) {
        self.up_to.set(self.lane.told_up_to());
        let (state, owed) = (self.state(), self.lane.owed());
        self.owed_since = match owed {
            0 => None,
            _ => self.owed_since.or_else(|| Some(self.clock.now())),
        };
        let dead = self.lane.dead() as u64;
        let last_error = self.lane.last_error();
        self.status.send_if_modified(|status| {
            report_change(status.state, state, last_error);
            let is_same = status.state == state
                && (status.owed, status.dead) == (owed, dead)
                && status.last_error.as_ref() == last_error;
            status.state = state;
            (status.owed, status.dead) = (owed, dead);
            status.last_error = last_error.cloned();
            // To the microsecond: more is noise.
            let rounded = |mean: f64| (mean * 1000.0).round() / 1000.0;
            status.latency_ms = self.latency_ms.map(rounded);
            !is_same
        });
    }

    /// Answers those who wait until the plugin is told of all up to a place, once it is.
    pub(super) fn say_when_told(&mut self) {
        if self.awaited.is_empty() {
            return;
        }
        // What it does not take is parked, and the lane goes on; not so where it takes nothing.
        let takes_nothing = self.lane.is_disabled() || self.lane.is_quarantined();
        let waits = takes_nothing || self.lane.waits_until().is_some();
        let is_over = |up_to: Seq| waits || self.lane.is_past(up_to);
        let (told, awaited): (Vec<_>, _) = std::mem::take(&mut self.awaited)
            .into_iter()
            .partition(|(up_to, reply)| reply.is_closed() || is_over(*up_to));
        self.awaited = awaited;
        for (_, reply) in told {
            let _ = reply.send(());
        }
    }
}

/// Logs that a plugin is in another state now.
fn report_change(from: PluginState, to: PluginState, error: Option<&Arc<str>>) {
    let (was, is) = (from.as_str(), to.as_str());
    if from == to {
        return;
    }
    if to.is_given_up() {
        let error = error.map_or("", |error| &**error);
        warn!(
            was,
            is, error, "the plugin is told nothing for now: its events stay owed"
        );
    } else if from.is_given_up() {
        info!(was, is, "the plugin is told again");
    } else {
        debug!(was, is, "plugin state changed");
    }
}
