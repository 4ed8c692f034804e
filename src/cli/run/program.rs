//! The program that a gateway is around: how it is found, started, signalled, and how it exits.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tracing::warn;

use super::{foreground, shim};
use crate::children::{self, OwnChild};
use crate::cli::fail;
use crate::session::EndReason;

/// As shells have it.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// How long to wait for the signal that a child has exited before looking oneself.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A program that can't be executed.
#[derive(Debug)]
pub(super) struct Unusable {
    program: OsString,
    error: io::Error,
}

impl Unusable {
    pub(super) fn new(program: &OsStr, error: io::Error) -> Self {
        Self {
            program: program.to_owned(),
            error,
        }
    }

    /// Says why, and gives the exit code that shells have for it.
    pub(super) fn fail(&self) -> ExitCode {
        let program = self.program.display();
        let code = match self.error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        };
        fail(code, &format_args!("can't run `{program}`: {}", self.error))
    }
}

/// Whether there is such a program, as far as that can be said without executing it.
pub(super) fn find(command: &[OsString]) -> Result<(), Unusable> {
    let program = command.first().map_or(OsStr::new(""), OsString::as_os_str);
    let found = find_in(program, env::var_os("PATH").as_deref());
    found.map_err(|error| Unusable::new(program, error))
}

fn find_in(program: &OsStr, path: Option<&OsStr>) -> io::Result<()> {
    let is_path = program.as_bytes().contains(&b'/');
    let files: Vec<PathBuf> = if is_path {
        vec![program.into()]
    } else if program.is_empty() {
        Vec::new()
    } else {
        // Without one the system has its own.
        let Some(path) = path else { return Ok(()) };
        env::split_paths(path)
            .map(|directory| directory.join(program))
            .collect()
    };
    let place = if is_path { "" } else { " in PATH" };
    let missing = format!("there is no such program{place}");
    let mut problem = io::Error::new(io::ErrorKind::NotFound, missing);
    for file in files {
        match check_executable(&file) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

fn check_executable(file: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

/// The program, which leads a process group of its own.
///
/// The number of the group is its leader's, and nobody else's as long as that is not reaped: so it is
/// reaped last of all.
#[derive(Debug)]
pub(super) struct Program {
    leader: OwnChild,
    id: Pid,
    /// Whether it was given the terminal.
    has_terminal: bool,
}

impl Program {
    /// Starts it by a [command of the shim](shim::command), with `environment` on top of this process's
    /// own. Standard input and outputs are the same, and the terminal is its, if it was this process's.
    ///
    /// To be called on a thread that lives as long as the process: with it the program dies.
    ///
    /// # Errors
    ///
    /// When no process can be started.
    pub(super) fn start(
        command: &[OsString],
        environment: Vec<(&'static str, String)>,
    ) -> io::Result<Self> {
        let has_terminal = foreground::is_ours();
        let mut shim = Command::new(own_program()?);
        shim.args(shim::arguments(process::id(), has_terminal))
            .args(command)
            .envs(environment)
            .process_group(0);
        let leader = children::spawn(&mut shim)?;
        Ok(Self {
            id: Pid::from_child(&leader),
            leader,
            has_terminal,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.leader.id()
    }

    /// How it has exited, if it has. It is not reaped by the question.
    fn look(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.id), options) {
            Ok(status) => {
                let status = status?;
                let by_signal = status.terminating_signal().map(Exit::Signal);
                by_signal.or(status.exit_status().map(Exit::Code))
            }
            Err(error) => {
                warn!(%error, "how the program has exited can't be told");
                Some(Exit::Unknown)
            }
        }
    }

    /// Completes when it has exited, which leaves it to be reaped.
    pub(super) async fn exited(&self) -> Exit {
        let mut exits = signal(SignalKind::child()).ok();
        loop {
            if let Some(exit) = self.look() {
                return exit;
            }
            let told = async {
                match &mut exits {
                    Some(exits) => exits.recv().await,
                    None => std::future::pending().await,
                }
            };
            let _ = timeout(LOOK_AGAIN_AFTER, told).await;
        }
    }

    /// Signals it and all that are still in its group.
    pub(super) fn signal(&self, kind: SignalKind) {
        if let Some(signal) = Signal::from_named_raw(kind.as_raw_value()) {
            // It fails where nobody is left.
            let _ = kill_process_group(self.id, signal);
        }
    }

    /// Kills it and all that are still in its group.
    pub(super) fn kill(&self) {
        let _ = kill_process_group(self.id, Signal::KILL);
    }

    /// Kills what is left of its group, reaps it, and takes the terminal back.
    pub(super) fn bury(mut self) {
        self.kill();
        if self.has_terminal {
            foreground::take();
        }
        // One that is slow to be taken apart is left to whoever inherits it.
        let _ = self.leader.try_wait();
    }
}

/// The program that this process runs, whatever has become of its file.
fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    env::current_exe()
}

/// How the program has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
    /// Somebody else has seen it.
    Unknown,
}

impl Exit {
    pub(super) const KILLED: Self = Self::Signal(9);

    /// What `run` exits with.
    pub(super) fn code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::Unknown => 1,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }

    /// Why the sessions of a program end that was not asked to exit.
    pub(super) fn reason(self) -> EndReason {
        match self {
            Self::Code(0) => EndReason::Shutdown,
            _ => EndReason::Crash,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_program_exits_as_it_does_in_a_shell_and_only_zero_is_no_crash() {
        for (exit, code, reason) in [
            (Exit::Code(0), 0, EndReason::Shutdown),
            (Exit::Code(1), 1, EndReason::Crash),
            (Exit::Code(255), 255, EndReason::Crash),
            (Exit::Signal(15), 143, EndReason::Crash),
            (Exit::KILLED, 137, EndReason::Crash),
            (Exit::Unknown, 1, EndReason::Crash),
        ] {
            assert_eq!((exit.code(), exit.reason()), (code, reason), "{exit}");
        }
    }

    #[test]
    fn a_program_is_found_by_its_path_or_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tool");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let path = Some(dir.path().as_os_str());
        let kind = |program: &OsStr, path| find_in(program, path).map_err(|error| error.kind());
        let denied = Err(io::ErrorKind::PermissionDenied);
        assert_eq!(kind(file.as_os_str(), None), denied);
        assert_eq!(kind(OsStr::new("tool"), path), denied);
        assert_eq!(kind(dir.path().as_os_str(), None), denied);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(kind(file.as_os_str(), None), Ok(()));
        assert_eq!(kind(OsStr::new("tool"), path), Ok(()));
        let missing = Err(io::ErrorKind::NotFound);
        assert_eq!(kind(OsStr::new("other"), path), missing);
        assert_eq!(kind(OsStr::new(""), path), missing);
        assert_eq!(kind(OsStr::new("./other"), path), missing);
    }
}
