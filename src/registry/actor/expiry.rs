//! Sessions that end by themselves, after their time.

use std::sync::Arc;

use actix::prelude::*;
use tracing::info;

use super::super::Limits;
use super::SessionRegistry;
use crate::bus::MAX_ENDS_AT_ONCE;
use crate::session::{End, EndDetails, EndReason};

impl SessionRegistry {
    /// Looks for sessions whose time is over as often as the limits need it, and no more once the
    /// door is closed: with a timer the registry would outlive everyone who has its address.
    pub(super) fn schedule_sweeps(&mut self, ctx: &mut Context<Self>) {
        if let Some(sweeps) = self.sweeps.take() {
            ctx.cancel_future(sweeps);
        }
        let period = self.settings.limits.expiry.period();
        let period = period.filter(|_| self.closing.is_none());
        self.sweeps = period.map(|period| ctx.run_interval(period, Self::sweep));
    }

    fn sweep(&mut self, ctx: &mut Context<Self>) {
        let expired = self.active.expired(self.settings.limits.expiry);
        for reason in [EndReason::Expired, EndReason::Idle] {
            let of_reason = expired.iter().filter(|(_, why)| *why == reason);
            let sessions: Vec<_> = of_reason
                .map(|(open, _)| open)
                .filter(|open| self.is_free(open))
                .cloned()
                .collect();
            if sessions.is_empty() {
                continue;
            }
            info!(sessions = sessions.len(), %reason, "sessions end by themselves");
            let now = self.settings.clock.now();
            let end = Arc::new(End::now(reason, EndDetails::default(), now));
            for sessions in sessions.chunks(MAX_ENDS_AT_ONCE) {
                self.end_many(sessions.into(), Arc::clone(&end), None, ctx);
            }
        }
    }
}

impl Handler<Limits> for SessionRegistry {
    type Result = ();

    fn handle(&mut self, limits: Limits, ctx: &mut Context<Self>) {
        if self.settings.limits != limits {
            self.settings.limits = limits;
            self.schedule_sweeps(ctx);
        }
    }
}
