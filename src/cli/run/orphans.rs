//! Orphans: what the first process of a container, or of any PID namespace, inherits from those that
//! ended before their children.

use std::convert::Infallible;
use std::future::pending;
use std::process;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::children::look_for_orphans;

/// How soon to look again where a child of our own waits to be reaped: it may hide orphans.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Reaps orphans for as long as it is asked to, if this process is the one that gets them.
pub(super) async fn reap() -> Infallible {
    let exits = signal(SignalKind::child());
    let (1, Ok(mut exits)) = (process::id(), exits) else {
        return pending().await;
    };
    loop {
        match reap_all() {
            Seen::Own => drop(timeout(LOOK_AGAIN_AFTER, exits.recv()).await),
            _ => drop(exits.recv().await),
        }
    }
}

/// What was seen among the children that have exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nobody,
    /// One that others wait for, who learn from it how it ended.
    Own,
    Orphan,
}

fn reap_all() -> Seen {
    loop {
        match look_for_orphans(reap_one) {
            Seen::Orphan => {}
            seen => return seen,
        }
    }
}

#[cfg(target_os = "linux")]
fn reap_one(is_own: &dyn Fn(u32) -> bool) -> Seen {
    use nix::sys::wait::{Id, waitid};

    // A look first, which leaves it to be reaped.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let exited = waitid(Id::All, look).ok();
    let Some(pid) = exited.as_ref().and_then(WaitStatus::pid) else {
        return Seen::Nobody;
    };
    if is_own(pid.as_raw().unsigned_abs()) {
        return Seen::Own;
    }
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(_) => Seen::Orphan,
        Err(_) => Seen::Nobody,
    }
}

#[cfg(not(target_os = "linux"))]
fn reap_one(_: &dyn Fn(u32) -> bool) -> Seen {
    Seen::Nobody
}
