//! The crash-point sweep: a scripted run is killed at each call with which it changes a file, and
//! the next start must make good of what it finds.
//!
//! In the suite a part of the calls is swept, another one each time. All of them, each killed before,
//! within and after it:
//!
//! ```sh
//! FAULTS_SWEEP=all cargo test --test process crash_points -- --nocapture
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use super::Shim;
use crate::books::{
    Books, PLUGINS, Request, SCHEMA, look_at_ledger, told_in_database, told_in_log,
};
use crate::gateway::{Ended, Gateway};

const PATIENCE: Duration = Duration::from_secs(30);

/// How many runs of each sweep are killed, unless all are.
const KILLS: usize = 60;

/// Runs side by side: they wait most of the time.
const WORKERS: usize = 3;

/// In which the second kind of runs lets go of what ended: longer than the pause between two
/// rounds.
const TO_RECLAIM: &str = "11 11";

fn config() -> String {
    format!("state_dir = \"state\"\n[sessions]\nretention = \"1ms\"\n{PLUGINS}max_attempts = 6\n")
}

/// A folder with the plugins' database.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let database = Connection::open(folder.path().join("app.db")).unwrap();
    database.execute_batch(SCHEMA).unwrap();
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// When to kill.
#[derive(Debug, Clone, Copy)]
struct Kill {
    when: &'static str,
    call: usize,
}

/// One gateway that is watched, and perhaps killed.
struct Watched<'a> {
    shim: &'a Shim,
    kill: Option<Kill>,
    trace: Option<&'a Path>,
}

impl Watched<'_> {
    fn start(&self, folder: TempDir) -> Result<Gateway, Ended> {
        let mut command = Gateway::command_in(&folder, &config());
        self.shim.watch(&mut command, folder.path());
        if let Some(Kill { when, call }) = self.kill {
            command.env("FAULTS_KILL", format!("{when} {call}"));
        }
        if let Some(trace) = self.trace {
            command.env("FAULTS_TRACE", trace);
        }
        Gateway::launch(folder, command)
    }
}

/// Sends a request and notes what came of it. Whether there was an answer.
fn send(gateway: &Gateway, books: &mut Books, request: &Request<'_>) -> bool {
    let answer = gateway.try_post(&request.path(), &request.body());
    books.note(request, answer.as_ref())
}

/// Waits until every plugin has what it is owed, or there is no answer any more.
fn settle(gateway: &Gateway) -> bool {
    let until = Instant::now() + PATIENCE;
    while let Some((200, answer)) = gateway.try_get("/v1/plugins") {
        let plugins = answer["plugins"].as_array().unwrap();
        if plugins.iter().all(|plugin| plugin["owed"] == 0) {
            return true;
        }
        assert!(Instant::now() < until, "{answer}");
        sleep(Duration::from_millis(5));
    }
    false
}

/// What is done to a gateway before it is stopped. False as soon as it does not answer.
type Script = fn(&Gateway, &Shim, &mut Books) -> bool;

/// Starts, amends, replaces and ends; a plugin is down and comes back, rejects events for a while
/// and for good.
fn first_run(gateway: &Gateway, _: &Shim, books: &mut Books) -> bool {
    let key = || json!({"key": "k"});
    let all = |books: &mut Books, requests: &[Request<'_>]| {
        requests.iter().all(|request| send(gateway, books, request))
    };
    let begin = [
        Request::Start("a", json!({})),
        Request::Start("b", key()),
        Request::Start("c", json!({})),
        Request::Start("a", json!({"session_file": "/a", "metadata": {"n": 1}})),
        Request::Start("d", key()),
        Request::Start("shy", json!({})),
        Request::Start("poison", json!({})),
        Request::End("c"),
    ];
    if !all(books, &begin) {
        return false;
    }
    let database = Connection::open(gateway.path("app.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let down = [
        Request::Start("e", json!({})),
        Request::End("poison"),
        Request::End("shy"),
    ];
    let went_on = all(books, &down);
    sleep(Duration::from_millis(30));
    let welcome = "INSERT INTO welcome VALUES ('shy'); COMMIT";
    database.execute_batch(welcome).unwrap();
    // An incarnation after another.
    went_on && all(books, &[Request::Start("c", json!({}))]) && settle(gateway)
}

/// Goes on after a recovery, until what has ended is let go of.
fn second_run(gateway: &Gateway, shim: &Shim, books: &mut Books) -> bool {
    let again = [
        Request::Start("a", json!({})),
        Request::Start("z", json!({})),
    ];
    if !again.iter().all(|it| send(gateway, books, it)) || !settle(gateway) {
        return false;
    }
    shim.set("clock", TO_RECLAIM);
    let until = Instant::now() + PATIENCE;
    // It was told to everyone, and ended long ago.
    while let Some((status, answer)) = gateway.try_get("/v1/sessions/d") {
        if status == 404 {
            return true;
        }
        assert!(Instant::now() < until, "{answer}");
        sleep(Duration::from_millis(5));
        // The clock is looked at when there is something to do.
        let _ = gateway.try_get("/v1/plugins");
    }
    false
}

/// Carries out `script` and stops, being killed on the way or not. Answers the folder that it
/// leaves.
fn run(
    folder: TempDir,
    watched: &Watched<'_>,
    script: Script,
    books: &mut Books,
) -> (TempDir, bool) {
    let started = watched.start(folder);
    let ended = match started {
        Ok(gateway) => {
            if script(&gateway, watched.shim, books) {
                gateway.signal(Signal::SIGTERM);
            }
            gateway.wait()
        }
        Err(ended) => ended,
    };
    let was_killed = ended.status.code().is_none();
    assert!(
        was_killed || ended.status.code() == Some(0),
        "{}",
        ended.log
    );
    let left = look_at_ledger(ended.dir.path());
    let intent = left.and_then(|left| left.intent);
    books.gone(intent.as_deref().unwrap_or("crash"));
    (ended.dir, was_killed)
}

/// Starts a gateway in what was left, lets it tell everybody, stops it, and compares. Answers how
/// many events came twice.
fn make_good(folder: TempDir, books: &Books) -> usize {
    let database = Connection::open(folder.path().join("app.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    let welcome = "INSERT INTO welcome VALUES ('shy')";
    database.execute_batch(welcome).unwrap();
    let gateway = Gateway::start_in(folder, &config());
    let (_, active) = gateway.get("/v1/sessions");
    assert_eq!(active["sessions"], json!([]), "nobody holds them");
    assert!(settle(&gateway));
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);

    let left = look_at_ledger(ended.dir.path()).unwrap();
    assert_eq!(left.open, 0);
    let folder = ended.dir.path();
    books.check("audit", &told_in_log(&folder.join("audit.jsonl")), &[])
        + books.check("db", &told_in_database(folder), &left.dead)
}

/// The calls to sweep, of so many.
fn kills(calls: usize) -> Vec<Kill> {
    const WHEN: [&str; 3] = ["before", "within", "after"];
    let all = (1..=calls).flat_map(|call| WHEN.map(|when| Kill { when, call }));
    if std::env::var_os("FAULTS_SWEEP").is_some_and(|sweep| sweep == "all") {
        return all.collect();
    }
    // Other ones each time, evenly spread; each place of the stride gets each `when`.
    let stride = (calls * WHEN.len()).div_ceil(KILLS) | 1;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = now.as_millis() as usize % stride;
    all.skip(first).step_by(stride).collect()
}

/// Runs `script` once to number its calls, then kills it at each that is to be swept.
fn sweep(name: &str, base: &(impl Fn() -> (TempDir, Books) + Sync), script: Script) {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let shim = Shim::for_test(name).unwrap();
    let watched = Watched {
        shim: &shim,
        kill: None,
        trace: Some(trace.path()),
    };
    let (folder, mut books) = base();
    let (folder, was_killed) = run(folder, &watched, script, &mut books);
    assert!(!was_killed);
    make_good(folder, &books);
    let trace = fs::read_to_string(trace.path()).unwrap();
    let calls = trace.lines().count();
    let kinds: BTreeSet<_> = trace.lines().collect();

    let (kills, next) = (kills(calls), AtomicUsize::new(0));
    let (swept, twice) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = Mutex::new(Vec::new());
    scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(kill) = kills.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = || {
                        let shim = Shim::for_test(name).unwrap();
                        let watched = Watched {
                            shim: &shim,
                            kill: Some(*kill),
                            trace: None,
                        };
                        let (folder, mut books) = base();
                        let (folder, was_killed) = run(folder, &watched, script, &mut books);
                        swept.fetch_add(usize::from(was_killed), Ordering::Relaxed);
                        twice.fetch_add(make_good(folder, &books), Ordering::Relaxed);
                    };
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(one)).is_err() {
                        failed.lock().unwrap().push(*kill);
                    }
                }
            });
        }
    });
    let (swept, twice) = (swept.into_inner(), twice.into_inner());
    // Where the output of tests that pass is not shown either.
    let _ = writeln!(
        io::stderr(),
        "SWEPT: {name}: killed {swept} times at {calls} calls of {} kinds, {twice} events told twice",
        kinds.len()
    );
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{name}: {failed:?}");
    // Some runs have fewer calls than the one that was counted.
    assert!(swept * 2 >= kills.len(), "{swept} of {}", kills.len());
}

#[test]
fn g7_crash_points_of_a_run_leave_no_ghost_and_lose_nothing() {
    let name = "crash_points_of_a_run";
    if Shim::for_test(name).is_some() {
        sweep(name, &|| (folder(), Books::default()), first_run);
    }
}

/// What a run leaves that is killed while a plugin is down, once it was asked to stop or before.
fn killed_run(shim: &Shim, is_stopping: bool) -> (TempDir, Books) {
    let watched = Watched {
        shim,
        kill: None,
        trace: None,
    };
    let mut books = Books::default();
    let Ok(gateway) = watched.start(folder()) else {
        panic!("it does not start");
    };
    assert!(first_run(&gateway, shim, &mut books));
    let database = Connection::open(gateway.path("app.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert!(send(
        &gateway,
        &mut books,
        &Request::Start("owed", json!({}))
    ));
    if is_stopping {
        gateway.signal(Signal::SIGTERM);
        let until = Instant::now() + PATIENCE;
        let stops = || fs::read_to_string(gateway.path("audit.jsonl")).unwrap();
        while !stops().contains("\"reason\":\"shutdown\"") {
            assert!(Instant::now() < until, "nobody is told of the stop");
            sleep(Duration::from_millis(2));
        }
    }
    let ended = gateway.stop(Signal::SIGKILL);
    assert_eq!(ended.status.code(), None, "{}", ended.log);
    books.gone(if is_stopping { "shutdown" } else { "crash" });
    (ended.dir, books)
}

fn sweep_recovery(name: &str, is_stopping: bool) {
    let Some(shim) = Shim::for_test(name) else {
        return;
    };
    let (left, books) = killed_run(&shim, is_stopping);
    let base = || {
        let folder = tempfile::tempdir().unwrap();
        copy(left.path(), folder.path());
        (folder, books.clone())
    };
    sweep(name, &base, second_run);
}

#[test]
fn g7_crash_points_of_a_recovery_leave_no_ghost_and_lose_nothing() {
    sweep_recovery("crash_points_of_a_recovery", false);
}

#[test]
fn g7_crash_points_of_a_recovery_from_a_killed_stop_keep_its_reason() {
    sweep_recovery("crash_points_of_a_recovery_from_a_killed_stop", true);
}
