//! What the handle offers holders, and those who speak for them.

use std::time::Duration;

use tokio::time::timeout;
#[cfg(feature = "gateway")]
use tokio_util::sync::CancellationToken;

use super::SessionSupervisor;
use crate::bus::WaitUntilTold;
use crate::error::Error;
use crate::holder::{HolderStatus, check_grace, check_ttl};
use crate::registry::{
    Connect, Connected, CountHolders, EndHolder, Heartbeat, HolderStatuses, Reconcile, Reconciled,
    StartedByHolder, StartedSession,
};
use crate::session::{EndReason, HolderId, NewSession, RunId, SessionId};

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
    /// [`Error::Invalid`], [`Error::RunIsOver`], [`Error::ShuttingDown`], [`Error::Busy`],
    /// [`Error::Ledger`], [`Error::Stopped`].
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
    /// [`Error::Invalid`], [`Error::RunIsOver`], [`Error::ShuttingDown`], [`Error::Busy`],
    /// [`Error::Ledger`], [`Error::Stopped`].
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
    /// [`Error::RunIsOver`], [`Error::ShuttingDown`], [`Error::Busy`], [`Error::Stopped`]; [`Error::Ledger`]: some may
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
    /// seen it die does with [`EndReason::Crash`]. With a `run_id` it is that run which says so, and
    /// another may not have taken its place. The answer says how many ended, and comes when every
    /// plugin was told, but those that fail, or when `patience` is over.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for [`EndReason::Lost`]; [`Error::RunIsOver`]; [`Error::Ledger`]: some may
    /// have ended, and asking again ends the others. [`Error::Stopped`].
    pub async fn end_holder(
        &self,
        holder: HolderId,
        run_id: Option<RunId>,
        reason: EndReason,
        patience: Duration,
    ) -> Result<usize, Error> {
        let message = EndHolder {
            holder,
            run_id,
            reason,
            is_final: false,
        };
        let ended = self.registry.send(message).await??;
        // Also of what had ended before: whoever asks again wants to know as much. Those who don't hear
        // of it in time have it owed.
        let _ = timeout(patience, self.bus.send(WaitUntilTold(ended.up_to))).await;
        Ok(ended.ended)
    }

    /// As [`end_holder`](Self::end_holder), for good: the holder is heard no more, and what it was
    /// still starting ends for the same reason. The answer comes when the ends are recorded.
    ///
    /// # Errors
    ///
    /// [`Error::Ledger`], [`Error::Stopped`].
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "the command line's"))]
    pub(crate) async fn close_holder(
        &self,
        holder: HolderId,
        reason: EndReason,
    ) -> Result<usize, Error> {
        let message = EndHolder {
            holder,
            run_id: None,
            reason,
            is_final: true,
        };
        Ok(self.registry.send(message).await??.ended)
    }

    /// How many holders there are.
    #[cfg_attr(not(feature = "gateway"), expect(dead_code, reason = "the gateway's"))]
    pub(crate) async fn count_holders(&self) -> Result<usize, Error> {
        Ok(self.registry.send(CountHolders).await?)
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
    /// Those of [`started`](Self::started).
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

    #[cfg(feature = "cli")]
    #[actix::test]
    async fn what_a_closed_holder_was_starting_ends_as_the_rest_and_it_starts_no_more() {
        let builder = SessionSupervisor::builder().threads(Threads::Current);
        let supervisor = builder.start().await.unwrap();
        let (holder, run_id) = (HolderId::new("h").unwrap(), RunId::new("r").unwrap());
        let start = |id: &str| {
            let mut new = NewSession::new(SessionId::new(id).unwrap());
            new.holder = Some(HolderId::new("h").unwrap());
            supervisor.started(new)
        };
        let _parent = supervisor
            .hold_as_parent(holder.clone(), run_id)
            .await
            .unwrap();
        start("A").await.unwrap();
        let close = supervisor.close_holder(holder, EndReason::Crash);
        let (started, closed) = tokio::join!(start("late"), close);
        started.unwrap();
        assert_eq!(closed.unwrap(), 1);
        let ended = async {
            loop {
                let late = SessionId::new("late").unwrap();
                let late = supervisor.find(&late).await.unwrap().unwrap();
                if let Some((end, _)) = late.end {
                    return end.reason;
                }
                tokio::task::yield_now().await;
            }
        };
        let ended = timeout(Duration::from_secs(10), ended).await;
        assert_eq!(ended.expect("it is active"), EndReason::Crash);
        let refused = start("more").await.unwrap_err();
        assert!(matches!(refused, Error::ShuttingDown), "{refused}");
    }

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
