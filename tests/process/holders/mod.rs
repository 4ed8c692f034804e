//! G11: sessions of other programs, and what becomes of them when those programs die, are started
//! again, fall silent, or when it is the gateway that is gone for a while. The programs are the examples
//! of `docs/examples`, with the interpreters of the machine, and a loop of heartbeats in a shell.

mod crowd;
mod gap;
mod heartbeat;
mod killed;
mod operator;
mod program;
mod recover;
mod restarted;
mod unplugged;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use self::program::Example;
use crate::gateway::{AUDITED, Gateway, command, json_lines};

const PATIENCE: Duration = Duration::from_secs(30);

/// How much later than its lease a holder's sessions may end, on a machine that has other work.
const LATE: Duration = Duration::from_secs(2);

fn start() -> Gateway {
    Gateway::start_in(tempfile::tempdir().unwrap(), AUDITED)
}

/// Starts one where another was, in `dir`, at `url`.
fn start_again(dir: TempDir, url: &str) -> Gateway {
    let address = url.strip_prefix("http://").unwrap();
    let mut serve = command();
    serve
        .args(["serve", "--log-format", "json", "--listen", address])
        .arg("--config")
        .arg(dir.path().join("config.toml"));
    let gateway = Gateway::launch(dir, serve);
    gateway.unwrap_or_else(|ended| panic!("it ended:\n{}", ended.log))
}

fn session(gateway: &Gateway, id: &str) -> Value {
    let (status, session) = gateway.get(&format!("/v1/sessions/{id}"));
    assert_eq!(status, 200, "{session}");
    session
}

#[track_caller]
fn assert_active(gateway: &Gateway, ids: &[&str]) {
    for id in ids {
        let session = session(gateway, id);
        assert_eq!(session["state"], "active", "{session}");
    }
}

/// The incarnation of a session that is active.
#[track_caller]
fn incarnation(gateway: &Gateway, id: &str) -> Value {
    let session = session(gateway, id);
    assert_eq!(session["state"], "active", "{session}");
    session["incarnation"].clone()
}

/// Waits until each session has ended, for `reason`.
#[track_caller]
fn wait_for_ends(gateway: &Gateway, ids: &[&str], reason: &str) {
    for id in ids {
        let mut last = Value::Null;
        wait_until(|| {
            last = session(gateway, id);
            last["state"] == "ended"
        });
        assert_eq!(last["reason"], reason, "{last}");
    }
}

#[track_caller]
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "it does not come to that");
        sleep(Duration::from_millis(10));
    }
}

/// How a session ended, as the log has it.
#[derive(Debug)]
struct Told {
    reason: String,
    holder: String,
    /// From the last sign of life to the moment at which its absence was noticed.
    silence: Duration,
}

/// What the log of a gateway that has nothing left to tell was told. What came twice under one id, since
/// the gateway was killed before it could note that it was taken, counts once.
fn events(log: &Path) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut events = json_lines(log);
    events.retain(|event| seen.insert(event["event_id"].as_str().map(str::to_owned)));
    events
}

/// The ends in such a log, by session: one for each.
#[track_caller]
fn ends(log: &Path) -> BTreeMap<String, Told> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = |value: &Value| text(value).parse::<Timestamp>().unwrap();
    let mut ends = BTreeMap::new();
    for event in events(log) {
        if event["type"] != "session_end" {
            continue;
        }
        let silence = time(&event["detected_at"]).duration_since(time(&event["ended_at"]));
        let told = Told {
            reason: text(&event["reason"]),
            holder: text(&event["session"]["holder"]),
            silence: silence.try_into().expect("noticed after the end"),
        };
        let twice = ends.insert(text(&event["session"]["id"]), told);
        assert!(twice.is_none(), "told twice: {event}");
    }
    ends
}

/// The reason of each end, in the words of a test.
fn reasons(ends: &BTreeMap<String, Told>) -> Vec<(&str, &str)> {
    let reasons = ends.iter().map(|(id, told)| (&**id, &*told.reason));
    reasons.collect()
}

/// Asserts that a lease of this length was waited for, and not much longer.
#[track_caller]
fn assert_within(lease: Duration, told: &Told) {
    // Times on the wire are whole milliseconds, and the clocks of timers and people differ a little.
    let least = lease - Duration::from_millis(20);
    assert!((least..lease + LATE).contains(&told.silence), "{told:?}");
}
