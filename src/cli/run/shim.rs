//! What runs between the start of a process and that of the program in it: it ties the program's life
//! to that of the gateway, gives it the terminal, and takes back what the gateway has changed of the
//! process for itself.
//!
//! It is this binary again, in a process that has one thread and shares nothing: between fork and exec
//! of the gateway itself next to nothing is safe to do.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use nix::unistd::getppid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::foreground;
use super::program::Unusable;

/// Stands in the place of a command. No user has a reason to.
const NAME: &str = "__exec";
const WITH_TERMINAL: &str = "foreground";
const WITHOUT_TERMINAL: &str = "background";
/// In the place of a limit of open files that is what it was.
const SAME: &str = "same";

/// What a process died of whose parent was gone before it began.
const ORPHANED: u8 = 128 + 9;

/// A program and its arguments, for a shim that sets the soft limit of open files back to `file_limit`,
/// if there is one.
pub(super) fn command(file_limit: Option<u64>, program: Vec<OsString>) -> Vec<OsString> {
    let file_limit = file_limit.map_or_else(|| SAME.to_owned(), |files| files.to_string());
    std::iter::once(file_limit.into()).chain(program).collect()
}

/// The arguments that come before a [`command`].
pub(super) fn arguments(parent: u32, takes_terminal: bool) -> [OsString; 3] {
    let terminal = if takes_terminal {
        WITH_TERMINAL
    } else {
        WITHOUT_TERMINAL
    };
    [NAME.into(), parent.to_string().into(), terminal.into()]
}

/// Becomes the program, if this process was started for that. Returns what to exit with where it can't.
pub(in crate::cli) fn become_program(
    mut arguments: impl Iterator<Item = OsString>,
) -> Option<ExitCode> {
    if arguments.nth(1)? != NAME {
        return None;
    }
    let parent = arguments.next()?.into_string().ok()?.parse().ok()?;
    let takes_terminal = arguments.next()? == WITH_TERMINAL;
    let file_limit: Option<u64> = match arguments.next()?.to_str()? {
        SAME => None,
        files => Some(files.parse().ok()?),
    };
    let program = arguments.next()?;
    if !dies_with(parent) {
        return Some(ExitCode::from(ORPHANED));
    }
    if takes_terminal {
        foreground::take();
    }
    if let Some(files) = file_limit {
        set_file_limit(files);
    }
    let error = Command::new(&program).args(arguments).exec();
    Some(Unusable::new(OsStr::new(&program), error).fail())
}

/// Sets the soft limit of open files. A program that waits with `select` relies on it: it can't wait for
/// a file whose number is higher than the usual limit.
fn set_file_limit(files: u64) {
    let limit = Rlimit {
        current: Some(files),
        ..getrlimit(Resource::Nofile)
    };
    // To lower it needs no privilege. Where it fails all the same, the program is better off with more
    // than not started.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Has this process killed when the thread that started it ends. Whether that is still there.
#[cfg(target_os = "linux")]
fn dies_with(parent: i32) -> bool {
    let told = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    // It may have ended before.
    told.is_ok() && getppid().as_raw() == parent
}

#[cfg(not(target_os = "linux"))]
fn dies_with(parent: i32) -> bool {
    getppid().as_raw() == parent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn become_with(arguments: &[&str]) -> Option<ExitCode> {
        become_program(arguments.iter().map(OsString::from))
    }

    #[test]
    fn other_commands_are_none_of_its_business() {
        assert!(become_with(&["session-supervisor"]).is_none());
        assert!(become_with(&["session-supervisor", "serve"]).is_none());
        assert!(become_with(&["session-supervisor", "run", "--", NAME]).is_none());
        // Nor is one that it can't have been started with.
        assert!(become_with(&["session-supervisor", NAME]).is_none());
        for arguments in [["x", "y", SAME, "true"], ["1", "y", "z", "true"]] {
            let arguments = ["session-supervisor", NAME].into_iter().chain(arguments);
            let arguments: Vec<_> = arguments.collect();
            assert!(become_with(&arguments).is_none(), "{arguments:?}");
        }
    }
}
