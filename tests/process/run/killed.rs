//! `run` itself is killed, and what its command can do to its lease.

use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::{Around, ORDERLY, Python, TWO_SESSIONS, all, distinct_ends, is_alive, run_command};
use crate::gateway::{AUDITED, command, run};

/// A folder in which a `run` was killed while its program had two sessions.
fn killed(python: Python) -> Around {
    let mut around = Around::start(python.folder(AUDITED, TWO_SESSIONS), &[]);
    let pid = around.wait_for("ready");
    around.signal(Signal::SIGKILL);
    around.child.wait().unwrap();
    around.wait_until("end of the command", || !is_alive(&pid));
    assert_eq!(around.ends(), []);
    around
}

#[test]
fn g11_with_the_wrapper_killed_the_command_dies_and_the_next_run_ends_its_sessions() {
    let Some(python) = Python::find() else { return };
    let around = killed(python);
    let again = run(&mut run_command(around.dir.path(), &[], &["true"]));
    again.done();
    assert_eq!(around.ends(), all(&["A", "B"], "crash"));
}

#[test]
fn g11_what_a_killed_wrapper_has_left_ends_whichever_command_comes_next() {
    let Some(python) = Python::find() else { return };
    let around = killed(python);
    let mut recover = command();
    recover.args(["recover", "--config", "config.toml"]);
    let said = run(recover.current_dir(around.dir.path())).done();
    let expected = "2 sessions ended, reason crash\n";
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(around.ends(), all(&["A", "B"], "crash"));

    let mut around = killed(python);
    let mut serve = command();
    serve
        .args([
            "serve",
            "--config",
            "config.toml",
            "--listen",
            "127.0.0.1:0",
        ])
        .current_dir(around.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    around.child = serve.spawn().unwrap();
    around.wait_until("end", || around.ends().len() == 2);
    assert_eq!(around.ends(), all(&["A", "B"], "crash"));
}

/// Why the run of this ledger is about to stop.
fn intent(dir: &Path) -> Option<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let ledger = Connection::open_with_flags(dir.join("state/ledger.db"), flags).ok()?;
    let reason = ledger.query_row("SELECT reason FROM instances", [], |row| row.get(0));
    reason.ok()?
}

#[test]
fn g11_a_wrapper_killed_while_it_stops_leaves_the_reason_that_it_had() {
    let Some(python) = Python::find() else { return };
    let slow = "[[plugin]]\nname = \"slow\"\nkind = \"command\"\n\
                command = [\"sleep\", \"20\"]\npass_env = [\"PATH\"]\n";
    let mut around = Around::start(python.folder(&format!("{AUDITED}{slow}"), ORDERLY), &[]);
    around.wait_for("ready");
    around.signal(Signal::SIGUSR2);
    around.wait_until("reason on record", || intent(around.dir.path()).is_some());
    around.signal(Signal::SIGKILL);
    assert_eq!(around.child.wait().unwrap().code(), None);
    std::fs::write(around.dir.path().join("config.toml"), AUDITED).unwrap();
    run(&mut run_command(around.dir.path(), &[], &["true"])).done();
    let ends = distinct_ends(&around);
    let mut expected = all(&["A"], "completed");
    expected.extend(all(&["B", "late"], "restart"));
    assert_eq!(ends, expected, "{}", around.log());
}

#[test]
fn g11_the_lease_outlives_what_the_command_makes_of_it() {
    let Some(python) = Python::find() else { return };
    let program = "
def hold(run_id):
    return send('POST', '/v1/holders/run/hold', {'run_id': run_id, 'grace_ms': 0})
def lease():
    status, answer = ask('GET', '/v1/holders')
    return {it['holder']: it for it in answer['holders']}['run']
own = os.environ['SESSION_SUPERVISOR_RUN_ID']

start('ended')
status, answer = ask('POST', '/v1/holders/run/end', {'reason': 'completed'})
assert (status, answer) == (200, {'ended': 1}), answer
start('superseded')
hold(own).close()
status, answer = ask('POST', '/v1/holders/run/heartbeat', {'run_id': own, 'ttl_ms': 1000})
assert status == 204, answer
# A program that takes another name for its process.
stream = hold('another')
start('last')
stream.close()
# By then every lease that it took itself is over.
time.sleep(1.5)
status, session = ask('GET', '/v1/sessions/last')
assert session['state'] == 'active', session
say('lease', json.dumps(lease()))
";
    let mut around = Around::start(python.folder(AUDITED, program), &[]);
    assert_eq!(around.code(), 0, "{}", around.log());
    let lease: Value = serde_json::from_str(&around.wait_for("lease")).unwrap();
    let state = (&lease["lease"], &lease["expires_in_ms"]);
    assert_eq!(state, (&json!("connected"), &Value::Null), "{lease}");
    let ends = around.ends();
    let ends: Vec<_> = ends.iter().map(|(id, why)| (&**id, &**why)).collect();
    let expected = [
        ("ended", "completed"),
        ("last", "shutdown"),
        ("superseded", "crash"),
    ];
    assert_eq!(ends, expected);
}
