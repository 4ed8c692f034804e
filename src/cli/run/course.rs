//! The course of a `run`: the program's life, and the stop of the gateway after it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep_until, timeout};
use tracing::{info, warn};

use super::program::{Exit, Program};
use super::{Identity, orphans};
use crate::cli::serve::Running;
use crate::cli::{COULD_NOT_START, LOST, fail, notify};
use crate::shutdown::{Deferral, Shutdown, Signal, is_ignored};
use crate::supervisor::Hold;

/// The trigger of a stop that the program's exit began.
const CHILD_EXIT: &str = "child-exit";

/// How long a program that was killed may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_millis(50);

/// What the course is made of.
pub(super) struct Course<'a> {
    pub(super) gateway: &'a Running,
    /// Keeps the stop back as long as the program is waited for.
    pub(super) deferral: Deferral,
    pub(super) identity: Identity,
    /// How long the program has to exit.
    pub(super) grace: Duration,
    /// How long the ends of its sessions may take to be recorded.
    pub(super) cap: Duration,
}

impl Course<'_> {
    /// Runs the program until both it and the gateway are gone. What the process exits with.
    pub(super) async fn run(&self, command: &[OsString]) -> ExitCode {
        let (supervisor, addresses) = (&self.gateway.supervisor, &self.gateway.addresses);
        let started = self.start(command).await;
        let life = async {
            let request = match &started {
                Ok((_, program)) => tokio::select! {
                    biased;
                    request = self.live(program) => request,
                    never = pass_on(program) => match never {},
                    never = orphans::reap() => match never {},
                },
                Err(code) => ended_by_itself(*code),
            };
            self.deferral.lift(request.clone());
            // It joins one that was forced meanwhile.
            let _ = supervisor.begin_shutdown(request).await;
        };
        let ((), stopped) = join(life, notify::until_stopped(supervisor, addresses)).await;
        if let Ok((_, program)) = started {
            program.bury();
        }
        match stopped {
            Ok(report) => ExitCode::from(report.exit_code),
            Err(error) => fail(LOST, &format_args!("stopped without a report: {error}")),
        }
    }

    /// Takes the lease, which ends what a run before has left, and starts the program. If that can't
    /// be, says why and answers the exit code.
    async fn start(&self, command: &[OsString]) -> Result<(Hold, Program), u8> {
        let Identity { holder, run_id, .. } = &self.identity;
        let supervisor = &self.gateway.supervisor;
        let hold = supervisor.hold_as_parent(holder.clone(), run_id.clone());
        let hold = hold.await.map_err(|error| {
            tracing::error!(%error, "the program gets no lease");
            COULD_NOT_START
        })?;
        let program = Program::start(command, self.environment()).map_err(|error| {
            tracing::error!(%error, "the program can't be started");
            COULD_NOT_START
        })?;
        info!(pid = program.pid(), "the program was started");
        Ok((hold, program))
    }

    /// What the program finds the gateway by.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let Identity {
            holder,
            run_id,
            secret,
        } = &self.identity;
        let address = self.gateway.addresses.first();
        vec![
            (
                "SESSION_SUPERVISOR_URL",
                address.map_or_else(String::new, |address| format!("http://{address}")),
            ),
            ("SESSION_SUPERVISOR_TOKEN", secret.clone()),
            ("SESSION_SUPERVISOR_HOLDER", holder.to_string()),
            ("SESSION_SUPERVISOR_RUN_ID", run_id.to_string()),
        ]
    }

    /// Waits for the program's exit, or for a request to stop and then for the program. How to stop
    /// the gateway.
    async fn live(&self, program: &Program) -> Shutdown {
        let asked = tokio::select! {
            biased;
            exit = program.exited() => {
                info!(%exit, "the program has exited");
                self.end_sessions(exit).await;
                return ended_by_itself(exit.code());
            }
            asked = self.deferral.asked() => asked,
        };
        program.signal(passed_on(asked.signal()));
        let trigger = asked.trigger();
        info!(trigger, grace = ?self.grace, "to shut down: waiting for the program");
        let exit = tokio::select! {
            biased;
            exit = program.exited() => Some(exit),
            () = sleep_until(asked.asked_at() + self.grace) => None,
            () = self.deferral.given_up() => None,
        };
        let exit = match exit {
            Some(exit) => exit,
            None => {
                warn!("the program is late, and is killed");
                program.kill();
                let exit = timeout(KILL_PATIENCE, program.exited()).await;
                exit.unwrap_or(Exit::KILLED)
            }
        };
        info!(%exit, "the program has exited");
        asked.beginning_now().with_exit_code(exit.code())
    }

    /// The program has died, or is done: so are its sessions.
    async fn end_sessions(&self, exit: Exit) {
        let supervisor = &self.gateway.supervisor;
        let holder = self.identity.holder.clone();
        // The stop that follows tells the plugins; what matters is that it is on record.
        let ended = supervisor.close_holder(holder, exit.reason());
        let ended = tokio::select! {
            biased;
            ended = timeout(self.cap, ended) => ended,
            () = self.deferral.given_up() => return,
        };
        match ended {
            Ok(Ok(sessions)) => info!(sessions, reason = %exit.reason(), "its sessions have ended"),
            Ok(Err(error)) => warn!(%error, "not all of its sessions have ended"),
            Err(_) => warn!("its sessions could not be ended in time"),
        }
    }
}

fn ended_by_itself(code: u8) -> Shutdown {
    Shutdown::now()
        .with_trigger(CHILD_EXIT)
        .with_exit_code(code)
}

/// What the program is sent when it is to stop. A restart means nothing to it.
fn passed_on(asked: Option<Signal>) -> SignalKind {
    match asked {
        Some(signal @ (Signal::Int | Signal::Quit | Signal::TerminalGone)) => signal.kind(),
        _ => SignalKind::terminate(),
    }
}

/// Passes on what has a meaning for the program alone, and a hang-up that is not the terminal's.
async fn pass_on(program: &Program) -> Infallible {
    let mut kinds = vec![SignalKind::user_defined1(), SignalKind::window_change()];
    let hangup = SignalKind::hangup();
    if !io::stdin().is_terminal() && !is_ignored(hangup) {
        kinds.push(hangup);
    }
    let listen = |kind| async move {
        let Ok(mut arrivals) = signal(kind) else {
            return pending().await;
        };
        while arrivals.recv().await.is_some() {
            program.signal(kind);
        }
        pending().await
    };
    let listening = kinds.into_iter().map(|kind| Box::pin(listen(kind)));
    futures_util::future::select_all(listening).await.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_gets_the_signal_that_asked_and_else_sigterm() {
        assert_eq!(passed_on(Some(Signal::Int)), SignalKind::interrupt());
        assert_eq!(passed_on(Some(Signal::Quit)), SignalKind::quit());
        assert_eq!(passed_on(Some(Signal::TerminalGone)), SignalKind::hangup());
        for asked in [None, Some(Signal::Term), Some(Signal::Usr2)] {
            assert_eq!(passed_on(asked), SignalKind::terminate(), "{asked:?}");
        }
    }
}
