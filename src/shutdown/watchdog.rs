//! The end of the process, for programs that leave it to the supervisor: a plain thread, behind
//! everything that could be stuck.
//!
//! From the moment that it is armed it prints nothing, takes no lock and allocates nothing, since
//! whoever is stuck may hold the lock in question, and it ends the process without running what was
//! registered for its exit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// What the process exits with when it had to be ended.
pub(super) const EXIT_CODE: u8 = 4;

/// How long the supervisor's own threads may take to end when a stop is over.
const SYSTEM_GRACE: Duration = Duration::from_millis(20);

/// How long the program may take for its own end, counted from the end of the stop.
const PROGRAM_GRACE: Duration = Duration::from_millis(50);

/// Later than this the watchdog does not wake up where a process gets its share of the processor: it
/// was frozen, and nobody in it had the time that has passed.
const FROZEN: Duration = Duration::from_millis(50);

/// How long the others get then to come to an end after all.
const FROZEN_GRACE: Duration = Duration::from_millis(100);

const NEVER: u64 = u64::MAX;

/// Ends the process when a stop takes longer than it may, or when the process outlives it.
#[derive(Debug, Clone)]
pub(crate) struct Watchdog {
    state: Arc<State>,
    thread: Thread,
}

#[derive(Debug)]
struct State {
    base: Instant,
    /// When the process is ended, in nanoseconds after `base`.
    due: AtomicU64,
    /// When it has to be gone, whatever else is granted.
    end: AtomicU64,
    exit_code: AtomicI32,
    is_over: AtomicBool,
}

impl Watchdog {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let state = Arc::new(State {
            base: Instant::now(),
            due: AtomicU64::new(NEVER),
            end: AtomicU64::new(NEVER),
            exit_code: AtomicI32::new(i32::from(EXIT_CODE)),
            is_over: AtomicBool::new(false),
        });
        let watched = Arc::clone(&state);
        let thread = thread::Builder::new().name("watchdog".into());
        let thread = thread.spawn(move || exit(watched.wait()))?;
        Ok(Self {
            state,
            thread: thread.thread().clone(),
        })
    }

    /// A stop was asked for: at `end` the process is gone.
    pub(super) fn arm(&self, end: Instant) {
        let due = self.state.nanos(end);
        let first =
            self.state
                .due
                .compare_exchange(NEVER, due, Ordering::Release, Ordering::Relaxed);
        if first.is_ok() {
            self.state.end.store(due, Ordering::Relaxed);
            self.thread.unpark();
        }
    }

    /// The stop is over, and the program about to exit with this code.
    pub(super) fn over(&self, exit_code: u8) {
        if self.state.is_over.swap(true, Ordering::AcqRel) {
            return;
        }
        self.state
            .exit_code
            .store(i32::from(exit_code), Ordering::Relaxed);
        self.grant(SYSTEM_GRACE);
    }

    /// The supervisor's own threads have ended after that.
    pub(crate) fn returned(&self) {
        if self.state.is_over.load(Ordering::Acquire) {
            self.grant(PROGRAM_GRACE - SYSTEM_GRACE);
        }
    }

    /// The process is ended after `grace`, or when it was due in any case.
    fn grant(&self, grace: Duration) {
        let now = Instant::now();
        let end = self.state.end.load(Ordering::Relaxed);
        let mut due = self.state.nanos(now + grace);
        // One that was frozen is past its end, and has its grace all the same.
        if end > self.state.nanos(now) {
            due = due.min(end);
        }
        self.state.due.store(due, Ordering::Release);
        self.thread.unpark();
    }
}

impl State {
    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos()).unwrap_or(NEVER - 1)
    }

    /// Waits until the process has to end. What it exits with.
    fn wait(&self) -> i32 {
        let mut is_excused = false;
        loop {
            let due = self.due.load(Ordering::Acquire);
            if due == NEVER {
                thread::park();
                continue;
            }
            let now = self.nanos(Instant::now());
            if now < due {
                thread::park_timeout(Duration::from_nanos(due - now));
                continue;
            }
            let is_over = self.is_over.load(Ordering::Acquire);
            if !is_over && !is_excused && now - due > duration_nanos(FROZEN) {
                is_excused = true;
                let later = now + duration_nanos(FROZEN_GRACE);
                // Whoever has set it meanwhile knows better.
                let _ = self
                    .due
                    .compare_exchange(due, later, Ordering::AcqRel, Ordering::Relaxed);
                continue;
            }
            return self.exit_code.load(Ordering::Relaxed);
        }
    }
}

const fn duration_nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Ends the process at once. `std::process::exit` runs what was registered for the exit first, which
/// can take any time, or wait for a lock.
fn exit(code: i32) {
    #[allow(unsafe_code)]
    // SAFETY: `_exit` takes a number, touches no memory of ours and does not return.
    unsafe {
        libc::_exit(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            base: Instant::now(),
            due: AtomicU64::new(NEVER),
            end: AtomicU64::new(NEVER),
            exit_code: AtomicI32::new(4),
            is_over: AtomicBool::new(false),
        }
    }

    /// A watchdog that waits, but does not bite: its thread answers what it would exit with.
    fn leashed() -> (Watchdog, thread::JoinHandle<i32>) {
        let state = Arc::new(state());
        let watched = Arc::clone(&state);
        let waiting = thread::spawn(move || watched.wait());
        let thread = waiting.thread().clone();
        (Watchdog { state, thread }, waiting)
    }

    #[test]
    fn a_stop_that_does_not_get_over_is_ended_when_its_time_has_passed() {
        let (watchdog, waiting) = leashed();
        let end = Instant::now() + Duration::from_millis(30);
        watchdog.arm(end);
        // A second request does not move it.
        watchdog.arm(end + Duration::from_secs(3600));
        assert_eq!(waiting.join().unwrap(), 4);
        assert!(Instant::now() >= end);
    }

    #[test]
    fn a_stop_that_is_over_ends_the_process_soon_with_the_code_of_its_report() {
        let (watchdog, waiting) = leashed();
        watchdog.arm(Instant::now() + Duration::from_secs(3600));
        watchdog.over(3);
        watchdog.over(0);
        watchdog.returned();
        assert_eq!(waiting.join().unwrap(), 3);
    }

    #[test]
    fn a_process_that_was_frozen_gets_a_moment_to_come_to_its_end() {
        let state = state();
        let before = Instant::now();
        // As if it had been due long ago.
        state.due.store(0, Ordering::Relaxed);
        thread::sleep(FROZEN * 2);
        assert_eq!(state.wait(), 4);
        assert!(before.elapsed() >= FROZEN * 2 + FROZEN_GRACE);
    }
}
