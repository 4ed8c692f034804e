//! A child and its process group: started, signalled and reaped so that nothing of it is left, and
//! nobody else is ever signalled.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::pin::{Pin, pin};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::FusedFuture;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::net::unix::pipe;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::timeout;

use crate::children::{self, OwnChild};

/// How long a child that was given up may take to exit after SIGTERM, before it is killed.
const TERM_GRACE: Duration = Duration::from_millis(500);

/// How long a child may take to exit by itself when its input, or its output, has ended.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// How long to read on when a child has exited: a descendant that has left the group may have its
/// outputs open for ever.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);

/// How long to wait for the signal that a child has exited before looking oneself.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long a child may take to exit by itself where its thread ends: nobody waits for long then.
const LAST_EXIT_GRACE: Duration = Duration::from_millis(40);
/// The same, after SIGTERM.
const LAST_TERM_GRACE: Duration = Duration::from_millis(20);
/// How long to wait for a child that was killed, before others are left to reap it.
const REAP_PATIENCE: Duration = Duration::from_millis(20);

/// A child in a process group of its own, whose leader it is.
///
/// The number of a group is its leader's. It belongs to nobody else as long as the leader is not
/// reaped, so the group is signalled only until then, and killed right before. Dropped, it is killed
/// and reaped too, and where it was [allowed to](Self::with_last_grace), it has a moment to exit by
/// itself before.
#[derive(Debug)]
pub(super) struct Group {
    leader: OwnChild,
    id: Pid,
    /// Any of this process's children has exited.
    exits: unix::Signal,
    /// Its outputs, which stay open while it lives: a last word must not be what kills it.
    _outputs: [io::PipeReader; 2],
    has_last_grace: bool,
    /// It was told to end.
    was_told: bool,
    is_reaped: bool,
}

/// Our ends of a child's standard input and outputs.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) input: pipe::Sender,
    pub(super) output: pipe::Receiver,
    pub(super) errors: pipe::Receiver,
}

/// Why a child's life is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It has exited by itself.
    Exited,
    /// Its input or output was closed, by whomever: it is to exit by itself.
    Closed,
    /// It did not answer in time.
    GivenUp,
}

impl Group {
    /// Starts `command`, and answers it with our ends of its pipes.
    ///
    /// # Errors
    ///
    /// When it can't be started, or no more files can be opened.
    pub(super) fn start(mut command: Command) -> io::Result<(Self, Pipes)> {
        let exits = signal(SignalKind::child())?;
        let (input_end, input) = io::pipe()?;
        let (output, output_end) = io::pipe()?;
        let (errors, errors_end) = io::pipe()?;
        let outputs = [output.try_clone()?, errors.try_clone()?];
        let pipes = Pipes {
            input: pipe::Sender::from_owned_fd(input.into())?,
            output: receiver(output)?,
            errors: receiver(errors)?,
        };
        command.process_group(0);
        command
            .stdin(input_end)
            .stdout(output_end)
            .stderr(errors_end);
        // The child's ends are closed here with `command`, so that only the child has them.
        let leader = children::spawn(&mut command)?;
        let group = Self {
            id: Pid::from_child(&leader),
            leader,
            exits,
            _outputs: outputs,
            has_last_grace: false,
            was_told: false,
            is_reaped: false,
        };
        Ok((group, pipes))
    }

    /// Gives it a moment to exit by itself before it is killed in `drop`. Its input must be closed by
    /// then.
    pub(super) fn with_last_grace(mut self) -> Self {
        self.has_last_grace = true;
        self
    }

    pub(super) fn pid(&self) -> u32 {
        self.leader.id()
    }

    /// Whether it was told to end, since it did not exit by itself.
    pub(super) fn was_told_to_end(&self) -> bool {
        self.was_told
    }

    /// The leader's state, which is not reaped by the question. `Err` when somebody else has done so.
    fn look(&self) -> Result<bool, Errno> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.id), options).map(|state| state.is_some())
    }

    fn has_exited(&self) -> bool {
        // Reaped by somebody else, it has exited too.
        self.look().unwrap_or(true)
    }

    /// Completes when the leader has exited. It is not reaped by that.
    pub(super) async fn exited(&mut self) {
        while !self.has_exited() {
            // The signal never comes to a process that was started with it blocked.
            let _ = timeout(LOOK_AGAIN_AFTER, self.exits.recv()).await;
        }
    }

    /// Signals the whole group, unless its number may be somebody else's by now.
    fn signal(&mut self, signal: Signal) {
        if self.is_reaped || self.look().is_err() {
            return;
        }
        // It fails where nobody is left.
        let _ = kill_process_group(self.id, signal);
        if signal == Signal::KILL {
            // It may have joined another group.
            let _ = self.leader.kill();
        }
    }

    /// Kills what is left of the group, and reaps the leader, which has exited.
    fn bury(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.is_reaped = true;
        self.leader.wait()
    }

    /// Sees the child out, as `ending` says, while `io` serves its pipes. How the leader has exited.
    ///
    /// # Errors
    ///
    /// When somebody else has reaped it.
    pub(super) async fn see_out(
        &mut self,
        ending: Ending,
        mut io: Pin<&mut impl FusedFuture>,
    ) -> io::Result<ExitStatus> {
        if ending == Ending::Closed {
            let _ = beside(io.as_mut(), timeout(EXIT_GRACE, self.exited())).await;
        }
        if !self.has_exited() {
            (self.was_told, self.has_last_grace) = (true, false);
            self.signal(Signal::TERM);
            let _ = beside(io.as_mut(), timeout(TERM_GRACE, self.exited())).await;
            self.signal(Signal::KILL);
            beside(io.as_mut(), self.exited()).await;
        }
        let status = self.bury();
        if !io.is_terminated() {
            let _ = timeout(OUTPUT_GRACE, io).await;
        }
        status
    }

    /// Waits for the leader's exit, blocking the thread. Whether it came.
    fn wait(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while !self.has_exited() {
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.is_reaped {
            return;
        }
        if self.has_last_grace && !self.wait(LAST_EXIT_GRACE) {
            self.signal(Signal::TERM);
            self.wait(LAST_TERM_GRACE);
        }
        self.signal(Signal::KILL);
        if self.wait(REAP_PATIENCE) {
            let _ = self.bury();
        }
        // Else the system is slow to take it apart. The child is dead all the same, and stays a zombie
        // until this process ends, or reaps it as it does orphans.
    }
}

/// Waits for `work` while `io` goes on beside it.
pub(super) async fn beside<T>(
    mut io: Pin<&mut impl FusedFuture>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = &mut io, if !io.is_terminated() => {}
        }
    }
}

fn receiver(pipe: io::PipeReader) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(OwnedFd::from(pipe))
}
