//! What the service manager is told: systemd, or another that speaks its protocol, `sd_notify(3)`.
//!
//! It happens on the thread that waits for the end of the supervisor, and never blocks it: a manager
//! that does not listen costs what it would have been told, and holds up neither start nor stop.

use std::cell::Cell;
use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join;
use indicatif::HumanCount;
use sd_notify::NotifyState;
use tokio::net::UnixDatagram;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::warn;

use super::table::clean;
use crate::error::Error;
use crate::monitor::DrainProgress;
use crate::shutdown::ShutdownReport;
use crate::supervisor::{ReloadState, SessionSupervisor};

/// Where the manager listens: the path of a socket, or an abstract name after an `@`.
const SOCKET: &str = "NOTIFY_SOCKET";

/// How often it is told how far a drain is.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How many plugins a status names.
const MAX_NAMED: usize = 3;

/// How long a status may be, in characters: managers cut off what is longer than they read at once.
const MAX_STATUS: usize = 500;

/// Waits until the supervisor has stopped, and tells the service manager meanwhile how it is, if one
/// wants to know.
pub(super) async fn until_stopped(
    supervisor: &SessionSupervisor,
    addresses: &[SocketAddr],
) -> Result<Arc<ShutdownReport>, Error> {
    let Some(manager) = ServiceManager::from_env() else {
        return supervisor.stopped().await;
    };
    let stopped = tokio::select! {
        // In this order, so that the manager hears of a stop that is over at once, too.
        biased;
        never = manager.attend(supervisor, addresses) => match never {},
        stopped = supervisor.stopped() => stopped,
    };
    let status = match &stopped {
        Ok(report) => farewell(report),
        Err(_) => "stopped without a report".into(),
    };
    let last = [NotifyState::Stopping, NotifyState::Status(&status)];
    // Now or never: the process is about to end.
    let _ = manager.tell(&last).now_or_never();
    stopped
}

/// The service manager that wants to know how this process is.
struct ServiceManager {
    socket: OsString,
    /// How long it waits for a sign of life before it restarts the process, if it does.
    watchdog: Option<Duration>,
    /// Whether it was heard to refuse: one line in the log is enough.
    failed: Cell<bool>,
}

impl ServiceManager {
    /// The one that the environment names.
    fn from_env() -> Option<Self> {
        Some(Self {
            socket: env::var_os(SOCKET).filter(|socket| !socket.is_empty())?,
            watchdog: sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()),
            failed: Cell::new(false),
        })
    }

    /// Tells what is to be told, for as long as it is asked to.
    async fn attend(&self, supervisor: &SessionSupervisor, addresses: &[SocketAddr]) -> Infallible {
        let (never, ()) = join(
            self.follow(supervisor, addresses),
            self.feed_watchdog(supervisor),
        )
        .await;
        never
    }

    /// Tells of the start, reloads, the stop and how far it is.
    async fn follow(&self, supervisor: &SessionSupervisor, addresses: &[SocketAddr]) -> Infallible {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let listening = format!("listening on {}", addresses.join(", "));
        let mut reloads = supervisor.reload_state();
        self.tell(&[NotifyState::Ready, NotifyState::Status(&listening)])
            .await;
        let mut is_reloading = false;
        loop {
            tokio::select! {
                biased;
                () = supervisor.stopping() => break,
                Ok(()) = reloads.changed() => {}
            }
            let state = reloads.borrow_and_update().clone();
            let reloaded = match state {
                ReloadState::Never => continue,
                ReloadState::Running => None,
                ReloadState::Over(Ok(())) => Some(format!("{listening}; reloaded")),
                ReloadState::Over(Err(error)) => {
                    Some(format!("{listening}; not reloaded: {error}"))
                }
            };
            // One that was over at once was not seen running.
            if !is_reloading || reloaded.is_none() {
                self.tell_reloading().await;
            }
            is_reloading = reloaded.is_none();
            if let Some(status) = reloaded {
                self.tell(&[NotifyState::Ready, NotifyState::Status(&status)])
                    .await;
            }
        }
        let mut told = "stopping".to_owned();
        self.tell(&[NotifyState::Stopping, NotifyState::Status(&told)])
            .await;
        loop {
            sleep(PROGRESS_EVERY).await;
            match progress(&supervisor.drain_progress()) {
                Some(status) if status != told => {
                    self.tell(&[NotifyState::Status(&status)]).await;
                    told = status;
                }
                _ => {}
            }
        }
    }

    /// That a reload has begun. The time tells the manager whether it is the one that it asked for.
    async fn tell_reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell(&[NotifyState::Reloading, now]).await;
        }
    }

    /// Gives a sign of life in time, as long as those who matter do.
    async fn feed_watchdog(&self, supervisor: &SessionSupervisor) {
        let Some(limit) = self.watchdog else {
            return pending().await;
        };
        // What is late by a quarter is still in time.
        let (every, patience) = (limit / 2, limit / 4);
        let mut times = interval(every.max(Duration::from_millis(1)));
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            let silent = supervisor.unresponsive(patience).await;
            if silent.is_empty() {
                self.tell(&[NotifyState::Watchdog]).await;
            } else {
                let silent = silent.join(", ");
                warn!(silent, "no sign of life: the watchdog gets none either");
            }
        }
    }

    /// Sends a message, as soon as the manager takes one.
    async fn tell(&self, states: &[NotifyState<'_>]) {
        let message = states.iter().map(line).collect::<String>();
        if let Err(error) = self.send(message.as_bytes()).await
            && !self.failed.replace(true)
        {
            let socket = self.socket.to_string_lossy();
            warn!(%error, %socket, "the service manager can't be told how it goes");
        }
    }

    /// From a socket of its own each time, so that a manager that was restarted is found again.
    async fn send(&self, message: &[u8]) -> io::Result<()> {
        let socket = net::UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address(&self.socket)?)?;
        let sent = match socket.send(message) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                UnixDatagram::from_std(socket)?.send(message).await
            }
            sent => sent,
        };
        sent.map(drop)
    }
}

/// A line of a message. What others wrote must not become one of its own.
fn line(state: &NotifyState<'_>) -> String {
    let line = state.to_string();
    let line: String = clean(&line).chars().take(MAX_STATUS).collect();
    line + "\n"
}

fn address(socket: &OsStr) -> io::Result<net::SocketAddr> {
    match socket.as_bytes() {
        [b'/', ..] => net::SocketAddr::from_pathname(socket),
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => net::SocketAddr::from_abstract_name(name),
        _ => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "neither an absolute path nor an abstract name",
        )),
    }
}

/// How far a drain is, if one has begun that has somebody to tell.
fn progress(drain: &DrainProgress) -> Option<String> {
    if drain.plugins.is_empty() {
        return None;
    }
    let plugins = drain.plugins.iter();
    let (delivered, total) = plugins.clone().fold((0, 0), |(delivered, total), plugin| {
        (delivered + plugin.delivered, total + plugin.total)
    });
    let deliveries = deliveries(delivered, total);
    let waiting = plugins.filter(|plugin| !plugin.done);
    let waiting: Vec<_> = waiting.map(|plugin| &*plugin.name).collect();
    let named = waiting[..waiting.len().min(MAX_NAMED)].join(", ");
    Some(match waiting.len() {
        0 => format!("drained: {deliveries}"),
        1..=MAX_NAMED => format!("draining: {deliveries}, waiting for {named}"),
        more => {
            let others = more - MAX_NAMED;
            format!("draining: {deliveries}, waiting for {named} and {others} more")
        }
    })
}

/// How a stop went.
fn farewell(report: &ShutdownReport) -> String {
    let drain = &report.drain;
    let total = drain.delivered + drain.owed + drain.dead + drain.lost;
    let outcome = report.outcome.as_str();
    format!("stopped: {outcome}, {}", deliveries(drain.delivered, total))
}

/// `812 of 1,000 deliveries`
fn deliveries(delivered: u64, total: u64) -> String {
    let (delivered, total) = (HumanCount(delivered), HumanCount(total));
    format!("{delivered} of {total} deliveries")
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::monitor::LaneProgress;
    use crate::shutdown::Shutdown;

    fn drain(plugins: &[(&str, u64, bool)]) -> DrainProgress {
        let plugins = plugins.iter().map(|(name, delivered, done)| LaneProgress {
            name: (*name).into(),
            delivered: *delivered,
            total: 1000,
            done: *done,
        });
        DrainProgress {
            sessions: 1000,
            plugins: plugins.collect(),
        }
    }

    #[test]
    fn the_progress_of_a_drain_names_who_is_waited_for() {
        let told = |plugins| progress(&drain(plugins));
        assert_eq!(told(&[]), None);
        assert_eq!(
            told(&[("audit", 12, false), ("crm", 1000, true)]).unwrap(),
            "draining: 1,012 of 2,000 deliveries, waiting for audit"
        );
        assert_eq!(
            told(&[("audit", 12, true), ("crm", 1000, true)]).unwrap(),
            "drained: 1,012 of 2,000 deliveries"
        );
        let many = ["a", "b", "c", "d", "e"].map(|name| (name, 0, false));
        assert_eq!(
            told(&many).unwrap(),
            "draining: 0 of 5,000 deliveries, waiting for a, b, c and 2 more"
        );
        assert_eq!(
            told(&many[..3]).unwrap(),
            "draining: 0 of 3,000 deliveries, waiting for a, b, c"
        );
    }

    #[tokio::test]
    async fn the_watchdog_gets_signs_of_life_only_as_long_as_the_actors_give_some() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager {
            socket: path.into(),
            watchdog: Some(Duration::from_millis(40)),
            failed: Cell::new(false),
        };
        let supervisor = SessionSupervisor::builder().start().await.unwrap();
        let look = async {
            let mut message = [0; 100];
            let length = socket.recv(&mut message).await.unwrap();
            assert_eq!(&message[..length], b"WATCHDOG=1\n");
            supervisor.shutdown(Shutdown::now()).await.unwrap();
            while supervisor.unresponsive(Duration::from_secs(1)).await.len() < 3 {}
            // What was on its way by then.
            sleep(Duration::from_millis(100)).await;
            while socket.try_recv(&mut message).is_ok() {}
            sleep(Duration::from_millis(200)).await;
            assert!(socket.try_recv(&mut message).is_err());
        };
        tokio::select! {
            () = manager.feed_watchdog(&supervisor) => unreachable!(),
            looked = timeout(Duration::from_secs(30), look) => looked.unwrap(),
        }
    }

    #[test]
    fn what_others_wrote_becomes_no_line_of_its_own_and_no_long_one() {
        let told = line(&NotifyState::Status("not reloaded: line 1\nSTOPPING=1\r"));
        assert_eq!(told, "STATUS=not reloaded: line 1 STOPPING=1\u{fffd}\n");
        let told = line(&NotifyState::Status(&"é".repeat(10_000)));
        assert_eq!(told.chars().count(), MAX_STATUS + 1);
        assert!(told.ends_with("é\n"));
    }
}
