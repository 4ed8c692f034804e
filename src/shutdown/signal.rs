//! Signals, for programs that leave them to the supervisor.

use std::io::{self, IsTerminal as _};

use actix::{Message, Recipient};
use tokio::signal::unix::{SignalKind, signal};

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub(crate) enum Signal {
    Term,
    Int,
    Quit,
    /// A planned restart.
    Usr2,
    /// SIGHUP where there is no terminal: read the configuration again.
    Reload,
    /// SIGHUP where there was a terminal: it went away, and the program with it.
    TerminalGone,
}

impl Signal {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Usr2 => "SIGUSR2",
            Self::Reload | Self::TerminalGone => "SIGHUP",
        }
    }

    pub(crate) fn kind(self) -> SignalKind {
        match self {
            Self::Term => SignalKind::terminate(),
            Self::Int => SignalKind::interrupt(),
            Self::Quit => SignalKind::quit(),
            Self::Usr2 => SignalKind::user_defined2(),
            Self::Reload | Self::TerminalGone => SignalKind::hangup(),
        }
    }

    /// Whether it can force the exit once a shutdown is under way. A terminal that goes away asks
    /// for the same as before.
    pub(crate) fn can_force(self) -> bool {
        matches!(self, Self::Term | Self::Int | Self::Quit)
    }

    /// What a process exits with that this signal ended.
    pub(crate) fn exit_code(self) -> u8 {
        u8::try_from(128 + self.kind().as_raw_value()).unwrap_or(u8::MAX)
    }
}

/// Sends `receiver` every signal that this process gets from now on, and does not keep it alive.
pub(super) fn listen(receiver: &Recipient<Signal>) -> io::Result<()> {
    let hup = if io::stdin().is_terminal() {
        Signal::TerminalGone
    } else {
        Signal::Reload
    };
    for kind in [Signal::Term, Signal::Int, Signal::Quit, Signal::Usr2, hup] {
        // As `nohup` leaves it: who ignores a hang-up wants the program to outlive it.
        if kind.kind() == SignalKind::hangup() && is_ignored(SignalKind::hangup()) {
            continue;
        }
        let mut arrivals = signal(kind.kind())?;
        let receiver = receiver.downgrade();
        actix_rt::spawn(async move {
            while arrivals.recv().await.is_some() {
                let Some(receiver) = receiver.upgrade() else {
                    return;
                };
                receiver.do_send(kind);
            }
        });
    }
    Ok(())
}

/// Whether this process was started with the signal ignored. Asked of /proc, since the system
/// call for it is not safe to use from Rust; where there is no /proc nothing counts as ignored.
pub(crate) fn is_ignored(kind: SignalKind) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (kind.as_raw_value() - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_request_to_stop_forces_the_exit_but_neither_a_restart_nor_a_hang_up() {
        let all = [
            Signal::Term,
            Signal::Int,
            Signal::Quit,
            Signal::Usr2,
            Signal::Reload,
            Signal::TerminalGone,
        ];
        let forcing: Vec<_> = all.into_iter().filter(|it| it.can_force()).collect();
        assert_eq!(forcing, [Signal::Term, Signal::Int, Signal::Quit]);
    }
}
