//! Every misbehaviour beside two healthy plugins, in a real process that gets a real signal: the
//! example `misbehaving`. A binary of its own, and one test at a time, since time is what is tested.
//!
//! The suite runs each with 1 and with 1,000 sessions, the default cap, and 250 ms of slack, on a file
//! system in memory where there is one: what a slow disk does is a case of its own. All of it, on the
//! disk, with the bounds that are promised, and a table in the end:
//!
//! ```sh
//! MATRIX=full cargo test --release --test matrix -- --nocapture
//! ```
//!
//! `MATRIX_ROUNDS` (20), `MATRIX_SESSIONS` (`1,1000,100000`), `MATRIX_LOADS` (`idle,spinning`) and
//! `MATRIX_CASES` (all) make it shorter. It takes an hour and a half.

#[path = "../examples/mod.rs"]
mod examples;
mod program;
#[path = "../process/faults/shim.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod shim;
#[path = "../process/tools.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod tools;

use std::collections::HashMap;
use std::env;
use std::hint::spin_loop;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use self::examples::example;
use self::program::{Ended, Fault, Program, distinct_ends};
use self::shim::Shim;

/// One after the other, whatever the number of test threads.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed has left nothing behind.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a stop beside a misbehaving plugin comes to.
#[derive(Debug, Clone, Copy)]
struct Expected {
    /// How the plugin misbehaves, for the example.
    plugin: &'static str,
    fault: Fault,
    end: End,
    /// What the report says of the plugin.
    culprit: Culprit,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Exit(i32),
    /// It aborts, and the next start completes the stop, unless it is cut before.
    Abort,
    /// The watchdog ends it when the teardown's time is over, too.
    Watchdog,
}

/// How the misbehaving plugin stands in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Culprit {
    /// It was told of everything.
    Told,
    /// It was told of nothing, and its last error has this in it.
    Owed { error: &'static str, hangs: bool },
    /// The report could not be finished, or is not about plugins.
    NotNamed,
}

const fn exits(plugin: &'static str, error: &'static str, hangs: bool) -> Expected {
    Expected {
        plugin,
        fault: Fault::None,
        end: End::Exit(0),
        culprit: Culprit::Owed { error, hangs },
    }
}

const fn all_told(plugin: &'static str) -> Expected {
    Expected {
        culprit: Culprit::Told,
        ..exits(plugin, "", false)
    }
}

/// A fault that is none of a plugin's.
const fn fault(fault: Fault, code: i32) -> Expected {
    Expected {
        fault,
        end: End::Exit(code),
        culprit: Culprit::NotNamed,
        ..all_told("ok")
    }
}

const MATRIX: &[Expected] = &[
    all_told("ok"),
    all_told("slow"),
    exits("rejects", "rejected, as always", false),
    exits("hangs", "timed out", true),
    exits("blocks-thread", "timed out", true),
    exits("hangs-in-spawn-blocking", "timed out", true),
    exits("panics-in-handler", "died", false),
    exits("panics-in-future", "died", false),
    Expected {
        end: End::Abort,
        culprit: Culprit::NotNamed,
        ..exits("panics-while-unwinding", "", false)
    },
    exits("holds-stdout", "timed out", true),
    exits("dead", "died", false),
    exits("mailbox-full", "timed out", true),
    exits("blocks-main", "timed out", true),
    Expected {
        fault: Fault::FullStandardError,
        ..all_told("ok")
    },
    fault(Fault::LedgerStalls, 3),
    fault(Fault::DiskFull, 3),
    // The program's own log, which the coordinator waits for.
    Expected {
        fault: Fault::LogBlocks,
        end: End::Watchdog,
        culprit: Culprit::NotNamed,
        ..all_told("ok")
    },
];

/// How long teardown steps may take, as the example says.
const TEARDOWN: Duration = Duration::from_secs(1);

/// How long after the cap a process is gone at the latest, on a machine that has nothing else to do.
const IDLE_SLACK: Duration = Duration::from_millis(50);

/// One round in `dir`: starts the sessions, stops the process, looks what came of it, and starts the
/// next. Answers how long after the cap the process was gone, in milliseconds: negative if before.
fn round(
    expected: &Expected,
    dir: TempDir,
    sessions: usize,
    cap: Duration,
    slack: Duration,
) -> Option<f64> {
    let name = expected.name();
    let shim = match expected.fault {
        Fault::LedgerStalls | Fault::DiskFull => Some(Shim::for_test(&name)?),
        _ => None,
    };
    let program = Program::start(
        dir,
        expected.plugin,
        sessions,
        cap,
        expected.fault,
        shim.as_ref(),
    );
    let ended = program.stop(Signal::SIGTERM);
    let after_cap = ended.took.as_secs_f64() * 1000.0 - cap.as_secs_f64() * 1000.0;

    let context = format!("{name}, {sessions} sessions: {ended:?}");
    let limit = match expected.end {
        End::Watchdog => cap + TEARDOWN + slack,
        End::Abort | End::Exit(_) => cap + slack,
    };
    assert!(
        ended.took <= limit,
        "too late, {limit:?} allowed: {context}"
    );
    match expected.end {
        End::Exit(code) => assert_eq!(ended.status.code(), Some(code), "{context}"),
        End::Watchdog => assert_eq!(ended.status.code(), Some(4), "{context}"),
        End::Abort => {
            let (signal, code) = (ended.status.signal(), ended.status.code());
            let has_aborted = signal == Some(Signal::SIGABRT as i32);
            assert!(has_aborted || code == Some(0), "{context}");
        }
    }
    // What it says of two panics takes it some hundred milliseconds, and the cut may come first.
    let expected = &match (expected.end, ended.status.code()) {
        (End::Abort, Some(0)) => exits(expected.plugin, "timed out", true),
        _ => *expected,
    };
    let has_told = !matches!(expected.end, End::Abort | End::Watchdog);
    let told = ["first", "last"].map(|file| distinct_ends(ended.dir.path(), file));
    if has_told {
        for (healthy, told) in ["first", "last"].iter().zip(&told) {
            assert_eq!(told.len(), sessions, "{healthy} of {context}");
        }
        check_report(expected, &ended, sessions, cap);
    }

    next_start(expected, ended, sessions, &told);
    Some(after_cap)
}

fn check_report(expected: &Expected, ended: &Ended, sessions: usize, cap: Duration) {
    let context = || format!("{expected:?}, {sessions} sessions: {ended:?}");
    if expected.fault == Fault::DiskFull {
        // There is no room for a report either.
        return;
    }
    let report = ended.report();
    let sessions = sessions as u64;
    for healthy in [0, 2] {
        let plugin = &report["plugins"][healthy];
        assert_eq!(plugin["delivered"], sessions, "{report}\n{}", context());
        assert_eq!(plugin["timed_out"], false, "{report}\n{}", context());
    }
    let culprit = &report["plugins"][1];
    assert_eq!(culprit["name"], "culprit");
    match expected.culprit {
        // 25 deliveries of 4,096 take it longer than there is.
        Culprit::Told if expected.plugin == "slow" && culprit["owed"] != 0 => {
            assert!(sessions > 10_000, "{}", context());
            assert_eq!(report["outcome"], "owed", "{}", context());
            assert_eq!(culprit["timed_out"], true, "{}", context());
            let told = |name: &str| culprit[name].as_u64().unwrap();
            assert_eq!(told("delivered") + told("owed"), sessions, "{}", context());
        }
        Culprit::Told => {
            assert_eq!(report["outcome"], "clean", "{}", context());
            assert_eq!(culprit["delivered"], sessions, "{}", context());
        }
        Culprit::Owed { error, hangs } => {
            assert_eq!(report["outcome"], "owed", "{}", context());
            assert_eq!(culprit["owed"], sessions, "{}", context());
            let last_error = culprit["last_error"].as_str().unwrap_or_default();
            let unfinished = culprit["unfinished"].as_array().unwrap().len() as u64;
            assert_eq!(unfinished, sessions.min(1000), "{}", context());
            // Where others have the processor, the lane may say what hung only after the report.
            let has_waited = ended.took > cap + IDLE_SLACK;
            if hangs && has_waited && last_error == "its lane did not answer" {
                assert_eq!(culprit["timed_out"], true, "{}", context());
                return;
            }
            let hung = culprit["hung_threads"].as_u64() > Some(0);
            assert_eq!(hung, hangs, "{}", context());
            // One that rejects each of very many by itself is cut before it is through.
            let is_cut = sessions > 10_000 && culprit["timed_out"] == true && !hangs;
            let error = if is_cut { "timed out" } else { error };
            assert!(last_error.contains(error), "{}", context());
            assert_eq!(culprit["timed_out"], hangs || is_cut, "{}", context());
        }
        Culprit::NotNamed => {
            let warnings = report["warnings"].as_array().unwrap();
            assert!(warnings.iter().any(|it| it == "ledger"), "{}", context());
        }
    }
}

/// The next start delivers what was owed, under the ids that it had, and tells the others nothing new.
fn next_start(
    expected: &Expected,
    ended: Ended,
    sessions: usize,
    told: &[HashMap<String, String>; 2],
) {
    if expected.end == End::Watchdog {
        let report = ended.report();
        assert_eq!(report["outcome"], "watchdog", "{report}");
        assert_eq!(report["held_by"], "door", "{report}");
    }
    let cap = Duration::from_secs(10);
    let next = Program::start(ended.dir, "ok", 0, cap, Fault::None, None);
    let ended = next.stop(Signal::SIGTERM);
    let context = format!("the start after {expected:?}: {ended:?}");
    assert_eq!(ended.status.code(), Some(0), "{context}");
    let report = ended.report();
    assert_eq!(report["outcome"], "clean", "{context}");
    let ends = ["first", "last"].map(|file| distinct_ends(ended.dir.path(), file));
    for ((healthy, before), ends) in ["first", "last"].iter().zip(told).zip(&ends) {
        assert_eq!(ends.len(), sessions, "{healthy}: {context}");
        let is_same = before.iter().all(|(id, event)| ends.get(id) == Some(event));
        assert!(is_same, "{healthy} got other event ids: {context}");
    }
    let by_itself = expected.plugin == "ok" || expected.culprit != Culprit::Told;
    if by_itself {
        let culprit = distinct_ends(ended.dir.path(), "culprit");
        assert_eq!(culprit.len(), sessions, "{context}");
        assert!(culprit == ends[0], "other events: {context}");
    }
}

impl Expected {
    fn name(&self) -> String {
        match self.fault {
            Fault::None => self.plugin.into(),
            fault => format!("{fault:?}"),
        }
    }
}

/// Keeps both cores busy for as long as it lives.
struct Spinning<'a>(&'a AtomicBool);

impl Drop for Spinning<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn under_load(load: &str, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _spinning = Spinning(&over);
        if load == "spinning" {
            let cores = std::thread::available_parallelism().map_or(2, usize::from);
            for _ in 0..cores {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        spin_loop();
                    }
                });
            }
        }
        work();
    });
}

#[test]
fn g4_g5_g6_whatever_a_plugin_does_the_process_is_gone_in_time_and_the_others_are_told() {
    let _alone = alone();
    if env::var("MATRIX").is_ok_and(|it| it == "full") {
        return;
    }
    let (cap, slack) = (Duration::from_secs(2), Duration::from_millis(250));
    for expected in MATRIX {
        for sessions in [1, 1000] {
            let began = std::time::Instant::now();
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
            let late = round(expected, dir.unwrap(), sessions, cap, slack);
            eprintln!(
                "{} {sessions} {late:?} {:?}",
                expected.name(),
                began.elapsed()
            );
        }
    }
}

/// The whole matrix, by the command above.
#[test]
fn the_whole_matrix_keeps_its_bounds() {
    let _alone = alone();
    if env::var("MATRIX").is_ok_and(|it| it == "full") {
        whole_matrix();
    }
}

fn whole_matrix() {
    let list = |name, default: &str| {
        let text = env::var(name).unwrap_or_else(|_| default.into());
        text.split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    let rounds: usize = list("MATRIX_ROUNDS", "20")[0].parse().unwrap();
    let cases = list("MATRIX_CASES", "");
    let is_asked_for = |it: &Expected| cases == [""] || cases.contains(&it.name());
    let sessions = list("MATRIX_SESSIONS", "1,1000,100000");
    let sessions: Vec<usize> = sessions.iter().map(|it| it.parse().unwrap()).collect();
    let example = example("misbehaving");
    println!("{} rounds each, {}", rounds, example.display());
    println!("| case | load | sessions | cap | rounds | gone after the cap, ms: median | latest |");
    println!("|---|---|---|---|---|---|---|");
    let mut failed = 0;
    for load in list("MATRIX_LOADS", "idle,spinning") {
        let slack = match &*load {
            "idle" => IDLE_SLACK,
            _ => Duration::from_millis(100),
        };
        under_load(&load, || {
            for expected in MATRIX.iter().filter(|it| is_asked_for(it)) {
                for &sessions in &sessions {
                    let cap = match sessions {
                        0..10_000 => Duration::from_millis(500),
                        _ => Duration::from_secs(2),
                    };
                    // One that fails is counted, and the others still show how they stand.
                    let try_round = |_| {
                        let dir = tempfile::tempdir().unwrap();
                        let round = || round(expected, dir, sessions, cap, slack);
                        let late = catch_unwind(AssertUnwindSafe(round));
                        late.unwrap_or_else(|_| {
                            failed += 1;
                            None
                        })
                    };
                    let mut late: Vec<_> = (0..rounds).filter_map(try_round).collect();
                    late.sort_by(f64::total_cmp);
                    let (Some(latest), median) = (late.last(), late.len() / 2) else {
                        continue;
                    };
                    let (name, median) = (expected.name(), late[median]);
                    let cap = cap.as_millis();
                    println!(
                        "| {name} | {load} | {sessions} | {cap} ms | {} | {median:.0} | {latest:.0} |",
                        late.len()
                    );
                }
            }
        });
    }
    assert_eq!(failed, 0, "rounds failed, see above");
}

/// The matrix has every misbehaviour that the kit has.
#[test]
fn every_misbehaviour_is_in_the_matrix() {
    for known in session_supervisor::testing::Misbehaviour::ALL {
        let name = known.as_str();
        assert!(MATRIX.iter().any(|it| it.plugin == name), "{name}");
    }
}
