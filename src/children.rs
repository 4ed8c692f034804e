//! The children of this process: who waits for which.
//!
//! A process that is to reap orphans, such as the first one of a container, can't tell them from its
//! own children by anything but their numbers. Who starts a child with [`spawn`] is the only one to
//! learn how it ended.

use std::collections::BTreeSet;
use std::io;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

/// Shared by those who start a child, until its number is in [`OWN`]; alone for those who look for
/// orphans.
static STARTING: RwLock<()> = RwLock::new(());
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A child that is its owner's to wait for. Dropped without, it is left to those who reap orphans.
#[derive(Debug)]
pub(crate) struct OwnChild {
    child: Child,
    id: u32,
}

/// Starts a child that nobody but the caller waits for.
///
/// # Errors
///
/// When it can't be started.
pub(crate) fn spawn(command: &mut Command) -> io::Result<OwnChild> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn().map_err(explained)?;
    let id = child.id();
    own().insert(id);
    Ok(OwnChild { child, id })
}

/// Why a program can't be executed, with what is most often at fault.
fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOEXEC) => {
            io::Error::new(error.kind(), format!("{error}: has it a `#!` line?"))
        }
        _ => error,
    }
}

/// Lets `look` at children while none is being started. It is told which numbers are those of children
/// that have an owner.
#[cfg(feature = "cli")]
pub(crate) fn look_for_orphans<T>(look: impl FnOnce(&dyn Fn(u32) -> bool) -> T) -> T {
    let _nobody_starts = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    look(&|id| own().contains(&id))
}

fn own() -> MutexGuard<'static, BTreeSet<u32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for OwnChild {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for OwnChild {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for OwnChild {
    fn drop(&mut self) {
        own().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_does_not_say_what_runs_it_is_told_so() {
        let told = |number| explained(io::Error::from_raw_os_error(number)).to_string();
        let script = told(libc::ENOEXEC);
        assert!(script.ends_with(": has it a `#!` line?"), "{script}");
        assert!(!told(libc::ENOENT).contains("#!"));
    }
}
