//! What the handle offers holders, and those who speak for them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
#[cfg(feature = "gateway")]
use tokio_util::sync::CancellationToken;

use super::SessionSupervisor;
use crate::bus::DeliveryState;
use crate::error::Error;
use crate::holder::{HolderStatus, check_grace, check_ttl};
use crate::registry::{
    Connect, Connected, EndHolder, Heartbeat, HolderStatuses, Reconcile, Reconciled,
    StartedByHolder, StartedSession,
};
use crate::session::{EndReason, HolderId, NewSession, RunId, SessionId};

/// How often to look whether the plugins were told.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A lease that lasts as long as this, and its grace after it: what stands for a holder's connection.
///
/// Dropping it tells the registry that the connection is gone.
#[derive(Debug)]
#[must_use = "the lease ends when this is dropped"]
pub struct Hold(Connected);

impl Hold {
    /// The holder.
    pub fn holder(&self) -> &HolderId {
        &self.0.holder
    }

    /// Completes when this is a lease no longer: another connection of the holder has taken its place,
    /// another run has, or the holder has ended.
    pub async fn replaced(&self) {
        self.0.replaced.cancelled().await;
    }

    /// Fires when this is a lease no longer.
    #[cfg(feature = "gateway")]
    pub(crate) fn until(&self) -> CancellationToken {
        self.0.replaced.clone()
    }
}

impl SessionSupervisor {
    /// Takes a lease for a run of a holder that lasts as long as the answer is kept, and `grace`
    /// after it: at most an hour. It takes the place of the [`Hold`] before. If the holder has
    /// another run, this one takes its place too, and the sessions of that run end with
    /// [`EndReason::Crash`]. Recorded when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::RunIsOver`], [`Error::ShuttingDown`], [`Error::Ledger`],
    /// [`Error::Stopped`].
    pub async fn hold(
        &self,
        holder: HolderId,
        run_id: RunId,
        grace: Duration,
    ) -> Result<Hold, Error> {
        check_grace(grace)?;
        let message = Connect {
            holder,
            run_id,
            grace,
            is_parent: false,
        };
        Ok(Hold(self.registry.send(message).await??))
    }

    /// As [`hold`](Self::hold), for the parent of the holder's process, which would see it die: a
    /// lease beside those that the process takes itself, and that lasts whichever its run, until the
    /// answer is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`hold`](Self::hold).
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "the command line's"))]
    pub(crate) async fn hold_as_parent(
        &self,
        holder: HolderId,
        run_id: RunId,
    ) -> Result<Hold, Error> {
        let message = Connect {
            holder,
            run_id,
            grace: Duration::ZERO,
            is_parent: true,
        };
        Ok(Hold(self.registry.send(message).await??))
    }

    /// Takes a lease for a run of a holder that lasts for `ttl`, from a second to an hour, in place of
    /// that of the heartbeat before. As with [`hold`](Self::hold), a new run takes the place of
    /// another. Recorded when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::RunIsOver`], [`Error::ShuttingDown`], [`Error::Ledger`],
    /// [`Error::Stopped`].
    pub async fn heartbeat(
        &self,
        holder: HolderId,
        run_id: RunId,
        ttl: Duration,
    ) -> Result<(), Error> {
        check_ttl(ttl)?;
        let message = Heartbeat {
            holder,
            run_id,
            ttl,
        };
        self.registry.send(message).await?
    }

    /// Says which sessions a run of a holder has: the others that it held end with
    /// [`EndReason::Lost`]. A run that the holder did not have before takes the place of another, as
    /// with [`hold`](Self::hold). Recorded when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::RunIsOver`], [`Error::ShuttingDown`], [`Error::Stopped`]; [`Error::Ledger`]: some may
    /// have ended, and asking again ends the others.
    pub async fn reconcile(
        &self,
        holder: HolderId,
        run_id: RunId,
        ids: Vec<SessionId>,
    ) -> Result<Reconciled, Error> {
        let message = Reconcile {
            holder,
            run_id,
            ids,
        };
        self.registry.send(message).await?
    }

    /// Ends all sessions of a holder, and its lease: how a program says that it stops, or whoever has
    /// seen it die does with [`EndReason::Crash`]. The answer says how many ended, and comes when
    /// every plugin was told, or when `patience` is over.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for [`EndReason::Lost`]; [`Error::Ledger`]: some may have ended, and asking
    /// again ends the others. [`Error::Stopped`].
    pub async fn end_holder(
        &self,
        holder: HolderId,
        reason: EndReason,
        patience: Duration,
    ) -> Result<usize, Error> {
        let ended = self.registry.send(EndHolder { holder, reason }).await??;
        if let Some(last) = &ended.last {
            // Those who don't hear of it in time have it owed.
            let _ = timeout(patience, self.told(last)).await;
        }
        Ok(ended.ended)
    }

    /// Waits until every plugin that is not waiting for something else has had what there is of a
    /// session, and so all before it.
    async fn told(&self, id: &SessionId) -> Result<(), Error> {
        let Some(record) = self.find(id).await? else {
            return Ok(());
        };
        loop {
            let states = self.delivery_states(&record).await?;
            let is_owed = |name: &Arc<str>| states.get(name) == Some(&DeliveryState::Owed);
            let plugins = self.plugins().await?;
            let mut working = plugins.iter().filter(|plugin| !plugin.state.waits());
            if !working.any(|plugin| is_owed(&plugin.name)) {
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// How the holders are, by name.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    pub async fn holders(&self) -> Result<Vec<HolderStatus>, Error> {
        Ok(self.registry.send(HolderStatuses).await?)
    }

    /// As [`started`](Self::started), asked for by the holder that `new` names: it may neither start
    /// an id again that is not its own, nor take a key from one.
    ///
    /// # Errors
    ///
    /// Those of [`started`](Self::started); [`Error::HeldElsewhere`].
    #[cfg_attr(not(feature = "gateway"), expect(dead_code, reason = "the gateway's"))]
    pub(crate) async fn started_by_holder(&self, new: NewSession) -> Result<StartedSession, Error> {
        self.registry.send(StartedByHolder(new)).await?
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::holder::LeaseState;
    use crate::supervisor::Threads;

    #[actix::test]
    async fn a_lease_for_which_nobody_waits_any_more_is_given_back() {
        let builder = SessionSupervisor::builder().threads(Threads::Current);
        let supervisor = builder.start().await.unwrap();
        let holder = HolderId::new("h").unwrap();
        let run_id = RunId::new("r").unwrap();
        let mut asked = Box::pin(supervisor.hold(holder, run_id, Duration::from_secs(60)));
        assert!((&mut asked).now_or_never().is_none());
        let is = async |state| {
            loop {
                let holders = supervisor.holders().await.unwrap();
                if holders.iter().any(|status| status.lease == state) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(10);
        let connected = timeout(limit, is(LeaseState::Connected)).await;
        connected.expect("it has none");
        // The answer is on its way when whoever asked goes.
        drop(asked);
        let disconnected = timeout(limit, is(LeaseState::Disconnected)).await;
        disconnected.expect("it is held for ever");
    }
}
