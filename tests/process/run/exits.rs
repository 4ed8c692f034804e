//! The command exits, or is killed.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Around, Python, TWO_SESSIONS, all, events, send};
use crate::gateway::AUDITED;

/// How soon after the exit of the program its sessions are on record as ended.
const NOTICED_WITHIN_MS: i128 = 100;

/// Kills the command of a `run`. How long after that, in milliseconds, its sessions were on record as
/// ended.
fn noticed_after(python: Python) -> i128 {
    let mut around = Around::start(python.folder(AUDITED, TWO_SESSIONS), &[]);
    let pid = around.wait_for("ready").parse().unwrap();
    let killed_at = jiff::Timestamp::now();
    send(pid, Signal::SIGKILL);
    assert_eq!(around.code(), 137);
    assert_eq!(around.ends(), all(&["A", "B"], "crash"));
    let report = around.report();
    assert_eq!(report["trigger"], "child-exit");
    assert_eq!(
        (&report["reason"], &report["outcome"]),
        (&json!("shutdown"), &json!("clean"))
    );
    let ends = events(around.dir.path(), "session_end").into_iter();
    let detected_at = ends.map(|end| end["detected_at"].as_str().unwrap().to_owned());
    let last = detected_at.max().expect("two ends");
    let last: jiff::Timestamp = last.parse().unwrap();
    last.duration_since(killed_at).as_millis()
}

#[test]
fn g11_the_sessions_of_a_command_that_is_killed_end_with_crash_within_100_ms() {
    let Some(python) = Python::find() else { return };
    // This machine has other tests to run, which may be what was late.
    let mut late = Vec::new();
    while late.len() < 3 {
        match noticed_after(python) {
            ..=NOTICED_WITHIN_MS => return,
            took => late.push(took),
        }
    }
    panic!("after so many ms: {late:?}");
}

#[test]
fn g11_the_sessions_of_a_command_that_exits_end_with_shutdown_or_else_with_crash() {
    let Some(python) = Python::find() else { return };
    for (code, reason) in [(0, "shutdown"), (3, "crash")] {
        let dir = python.folder(AUDITED, &format!("start('A'); sys.exit({code})"));
        let mut around = Around::start(dir, &[]);
        assert_eq!(around.code(), code);
        assert_eq!(around.ends(), all(&["A"], reason));
    }
}
