//! Waiting until a gateway is gone.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

use super::progress::Progress;
use super::stream::Told;
use crate::cli::client::{Client, Presence};
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::cli::table::exact;
use crate::state_dir::StateDir;

/// How often the gateway is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long beyond its deadline, which is that of hooks and drain, a gateway is waited for: it has teardown
/// and exit before it, and its clock may differ from ours.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the stream of a gateway that is gone may take to end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a gateway that tells no events may take until it no longer says that it is ready.
const SETTLED: Duration = Duration::from_secs(1);

/// Shows the progress until the gateway is gone.
pub(super) fn until_gone(
    client: &Client,
    mut events: Option<Receiver<Told>>,
    deadline_at: Timestamp,
    process: &Process,
) -> Result<(), Failure> {
    let began = Instant::now();
    let left = deadline_at.duration_since(Timestamp::now());
    let left: Duration = left.try_into().unwrap_or_default();
    let mut progress = Progress::new();
    let mut sight = Sight::default();
    let had_events = events.is_some();
    let mut untold = 0;
    while began.elapsed() < left + PATIENCE {
        let presence = client.presence();
        let is_over = events.is_none() && (had_events || began.elapsed() > SETTLED);
        if sight.is_gone(presence, is_over, || process.is_there()) {
            // What it told last may still be on its way.
            let until = Instant::now() + LAST_WORDS;
            while events.is_some() && Instant::now() < until {
                events = show(events, &mut progress, &mut untold);
            }
            progress.finish();
            let rest = match untold {
                0 => String::new(),
                untold => format!(
                    "; not told of their ends: {untold}, `report` says of what becomes of them"
                ),
            };
            let took = exact(began.elapsed());
            note(&format!("the gateway is gone after {took}{rest}"));
            return Ok(());
        }
        events = show(events, &mut progress, &mut untold);
    }
    progress.finish();
    Err(Failure::Failed(format!(
        "the gateway at {} is still there, {} after it was asked to stop\n  \
         what to do: see its log; a further signal forces its exit",
        client.url(),
        exact(began.elapsed())
    )))
}

/// Shows what is told until it is time to look again, and notes how many ends some plugin was not told
/// of. None once the stream has ended.
fn show(
    events: Option<Receiver<Told>>,
    progress: &mut Progress,
    untold: &mut u64,
) -> Option<Receiver<Told>> {
    let until = Instant::now() + LOOK_EVERY;
    let Some(events) = events else {
        thread::sleep(LOOK_EVERY);
        return None;
    };
    loop {
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(told) => {
                if let Told::Drain(drain) = &told {
                    *untold = drain.untold();
                }
                progress.show(&told);
            }
            Err(RecvTimeoutError::Timeout) => return Some(events),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// What a gateway says of its process. An older one says nothing.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Process {
    pid: Option<u32>,
    state_dir: Option<PathBuf>,
}

impl Process {
    /// Whether it is known to be there still: it closes its door before it has written its report and
    /// ends, and a next one can't start before that. On another machine, or in a container, another
    /// process or none has a directory of that name.
    fn is_there(&self) -> bool {
        let owner = self.state_dir.as_deref().and_then(StateDir::owner);
        owner.is_some() && owner == self.pid
    }
}

/// What was seen of the gateway since it was asked to stop.
#[derive(Debug, Default)]
struct Sight {
    was_closing: bool,
}

impl Sight {
    /// Whether it is gone. One that takes sessions again is another, which a service manager has
    /// started in its place: `is_over` says that the one before must have closed its door by now.
    /// `has_process` says whether its process is there all the same; not where another has been seen in its
    /// place, which in containers may well have the same number: a door that was closed never opens again.
    fn is_gone(
        &mut self,
        presence: Presence,
        is_over: bool,
        has_process: impl FnOnce() -> bool,
    ) -> bool {
        match presence {
            Presence::Gone => !has_process(),
            Presence::Ready => self.was_closing || is_over && !has_process(),
            Presence::Closing => {
                self.was_closing = true;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_back_is_another() {
        for has_process in [false, true] {
            let mut sight = Sight::default();
            assert!(
                !sight.is_gone(Presence::Ready, false, || has_process),
                "it has not begun to close"
            );
            assert!(!sight.is_gone(Presence::Closing, false, || has_process));
            assert!(
                !sight.is_gone(Presence::Closing, true, || has_process),
                "the next one recovers"
            );
            assert!(sight.is_gone(Presence::Ready, false, || has_process));
        }
    }

    #[test]
    fn one_that_was_quicker_back_than_seen_closing_is_another() {
        let mut sight = Sight::default();
        assert!(sight.is_gone(Presence::Ready, true, || false));
        assert!(
            !sight.is_gone(Presence::Ready, true, || true),
            "nor is it sure"
        );
    }

    #[test]
    fn a_process_is_there_as_long_as_it_has_its_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let process = |pid| Process {
            pid,
            state_dir: Some(dir.path().to_owned()),
        };
        let had = StateDir::open(dir.path()).unwrap();
        let own = std::process::id();
        assert!(process(Some(own)).is_there());
        assert!(!process(Some(own + 1)).is_there(), "another one has it");
        assert!(!process(None).is_there());
        assert!(!Process::default().is_there(), "an older gateway");
        drop(had);
        assert!(!process(Some(own)).is_there());
    }

    #[test]
    fn nobody_listening_is_gone_whatever_was_seen_before() {
        let mut sight = Sight::default();
        assert!(sight.is_gone(Presence::Gone, false, || false));
        assert!(!sight.is_gone(Presence::Gone, false, || true));
    }
}
