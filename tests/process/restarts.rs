//! One run after another on one state directory: what the first leaves, the next makes good.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faults::Shim;
use crate::gateway::{Ended, Finished, Gateway, command, json_lines, run};

const PATIENCE: Duration = Duration::from_secs(30);

const AUDIT: &str = "state_dir = \"state\"\n[shutdown]\ncap = \"1s\"\n\
    [[plugin]]\nname = \"audit\"\nkind = \"log\"\npath = \"audit.jsonl\"\n";

/// A plugin that writes to the database, and rejects the end of `poison`.
fn db(name: &str) -> String {
    let insert = |hook: &str| {
        format!(
            "{hook} = \"INSERT INTO told VALUES ('{name}', :type, :session_id, :incarnation, \
             :event_id, :reason)\"\n"
        )
    };
    format!(
        "[[plugin]]\nname = \"{name}\"\nkind = \"sql\"\nurl = \"sqlite:app.db\"\ntimeout = \"200ms\"\n\
         backoff = \"10ms\"\nbackoff_max = \"50ms\"\nmax_attempts = 1\n{}{}",
        insert("session_start"),
        insert("session_end"),
    )
}

fn config() -> String {
    format!("{AUDIT}{}", db("db"))
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let database = Connection::open(folder.path().join("app.db")).unwrap();
    let schema = "CREATE TABLE told(plugin TEXT, type TEXT, id TEXT, incarnation TEXT,
            event_id TEXT, reason TEXT,
            CHECK (id <> 'poison' OR type <> 'session_end'))";
    database.execute_batch(schema).unwrap();
    folder
}

/// The database of a plugin, locked: the plugin is down until it is dropped.
fn lock(gateway: &Gateway) -> Connection {
    let database = Connection::open(gateway.path("app.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    database
}

/// Waits until each plugin has what it is owed.
fn settle(gateway: &Gateway) {
    wait_for_plugins(gateway, |plugin| plugin["owed"] == 0);
}

fn wait_for_plugins(gateway: &Gateway, is_so: impl Fn(&Value) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = gateway.get("/v1/plugins");
        let plugins = answer.1["plugins"].as_array();
        if plugins.is_some_and(|plugins| plugins.iter().all(&is_so)) {
            return;
        }
        assert!(Instant::now() < until, "{answer:?}");
        sleep(Duration::from_millis(10));
    }
}

fn stop(gateway: Gateway) -> Ended {
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    ended
}

/// What `plugin` was told through the database: `start A`, `end A crash`, in order. What came twice
/// under one id counts once.
fn told(ended: &Ended, plugin: &str) -> Vec<String> {
    let database = Connection::open(ended.path("app.db")).unwrap();
    let mut rows = database
        .prepare(
            "SELECT substr(type, 9) || ' ' || id || coalesce(' ' || reason, '') FROM told
             WHERE plugin = ?1 GROUP BY event_id ORDER BY min(rowid)",
        )
        .unwrap();
    let told = rows.query_map([plugin], |row| row.get(0)).unwrap();
    told.map(Result::unwrap).collect()
}

/// What the log has, in the same words.
fn logged(ended: &Ended) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let events = json_lines(&ended.path("audit.jsonl")).into_iter();
    events
        .filter(|event| seen.insert(event["event_id"].as_str().unwrap().to_owned()))
        .map(|event| {
            let (hook, id) = (event["type"].as_str().unwrap(), &event["session"]["id"]);
            let hook = hook.strip_prefix("session_").unwrap();
            let reason = event["reason"].as_str().unwrap_or_default();
            let text = format!("{hook} {} {reason}", id.as_str().unwrap());
            text.trim_end().to_owned()
        })
        .collect()
}

#[test]
fn a_stop_that_was_waited_for_has_its_report_and_makes_room_for_the_next_start() {
    let mut folder = folder();
    for _ in 0..5 {
        let gateway = Gateway::start_in(folder, AUDIT);
        gateway.run(&["stop", "--wait"]).done();
        let report = fs::read_to_string(gateway.path("state/last-shutdown.json")).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["outcome"], "clean");
        // At once, whether or not anybody has seen the process exit.
        let mut next = command();
        next.args(["recover", "--state-dir"])
            .arg(gateway.path("state"));
        run(&mut next).done();
        let ended = gateway.wait();
        let said = "\"outcome\":\"clean\"";
        assert!(ended.log.contains(said), "{}", ended.log);
        folder = ended.dir;
    }
}

#[test]
fn a_start_waits_a_moment_for_the_process_that_has_the_state_directory() {
    let folder = folder();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("lock"), "4711\n").unwrap();
    let lock = fs::File::open(state.join("lock")).unwrap();
    lock.lock().unwrap();

    let command = Gateway::command_in(&folder, AUDIT);
    let Err(refused) = Gateway::launch(folder, command) else {
        panic!("it started");
    };
    assert_eq!(refused.status.code(), Some(1), "{}", refused.log);
    for expected in [
        "waiting for process 4711, which has the state directory, to end",
        "state` is in use by process 4711: ",
    ] {
        assert!(refused.log.contains(expected), "{}", refused.log);
    }

    let folder = refused.dir;
    let letting_go = thread::spawn(move || {
        sleep(Duration::from_millis(300));
        drop(lock);
    });
    let gateway = Gateway::start_in(folder, AUDIT);
    letting_go.join().unwrap();
    stop(gateway);
}

#[test]
fn g6_a_plugin_that_is_down_over_a_stop_is_told_at_the_next_start() {
    let gateway = Gateway::start_in(folder(), &config());
    gateway.begin("A");
    settle(&gateway);
    let down = lock(&gateway);
    gateway.begin("B");
    // Nothing is lost, so it is no failure.
    let ended = stop(gateway);
    let report = ended.report();
    assert_eq!(report["outcome"], "owed", "{report}");
    assert_eq!(report["plugins"][1]["owed"], 2, "{report}");
    drop(down);

    let gateway = Gateway::start_in(ended.dir, &config());
    settle(&gateway);
    let ended = stop(gateway);
    let expected = ["start A", "start B", "end A shutdown", "end B shutdown"];
    assert_eq!(told(&ended, "db"), expected);
    assert_eq!(logged(&ended).len(), 4);
}

#[test]
fn g7_killed_inside_the_drain_its_sessions_end_for_the_reason_of_the_stop() {
    for (signal, reason) in [(Signal::SIGTERM, "shutdown"), (Signal::SIGUSR2, "restart")] {
        let gateway = Gateway::start_in(folder(), &config());
        for id in ["A", "B"] {
            gateway.begin(id);
        }
        settle(&gateway);
        let down = lock(&gateway);
        gateway.signal(signal);
        let until = Instant::now() + PATIENCE;
        let is_told = || std::fs::read_to_string(gateway.path("audit.jsonl")).unwrap();
        while !is_told().contains(&format!("\"reason\":\"{reason}\"")) {
            assert!(Instant::now() < until, "the drain does not begin");
            sleep(Duration::from_millis(2));
        }
        let ended = gateway.stop(Signal::SIGKILL);
        assert_eq!(ended.status.code(), None, "it was not killed");
        assert_eq!(ended.report()["outcome"], "unfinished");
        drop(down);

        let gateway = Gateway::start_in(ended.dir, &config());
        let (status, report) = gateway.get("/v1/reports/last");
        assert_eq!(status, 200);
        assert_ne!(report["outcome"], "unfinished", "{report}");
        assert_eq!(report["reason"], reason);
        assert!(report["recovery"].is_object(), "{report}");
        settle(&gateway);
        let ended = stop(gateway);
        let ends = ["A", "B"].map(|id| format!("end {id} {reason}"));
        assert_eq!(told(&ended, "db")[2..], ends);
    }
}

#[test]
fn g1_an_id_that_goes_on_after_a_crash_is_a_new_incarnation_and_drained_like_any() {
    let gateway = Gateway::start_in(folder(), &config());
    let (_, first) = gateway.post("/v1/sessions", &json!({"id": "A", "key": "k"}));
    assert_eq!(first["previous_incarnation"], Value::Null);
    let ended = gateway.stop(Signal::SIGKILL);

    let gateway = Gateway::start_in(ended.dir, &config());
    assert_eq!(gateway.get("/v1/sessions/A").1["reason"], "crash");
    let (status, second) = gateway.post("/v1/sessions", &json!({"id": "A", "key": "k"}));
    assert_eq!(status, 201, "{second}");
    assert_ne!(second["incarnation"], first["incarnation"]);
    assert_eq!(second["previous_incarnation"], first["incarnation"]);
    assert_eq!(second["replaced"], Value::Null, "{second}");
    let ended = stop(gateway);
    let expected = ["start A", "end A crash", "start A", "end A shutdown"];
    assert_eq!(told(&ended, "db"), expected);
    assert_eq!(logged(&ended), expected);
}

#[test]
fn a_new_plugin_is_told_of_no_start_from_before_its_time() {
    let gateway = Gateway::start_in(folder(), AUDIT);
    gateway.begin("done");
    let (status, answer) = gateway.post("/v1/sessions/done/end", &json!({}));
    assert_eq!(status, 200, "{answer}");
    gateway.begin("A");
    let ended = gateway.stop(Signal::SIGKILL);

    // It hears of the end of what was active when it came.
    let gateway = Gateway::start_in(ended.dir, &config());
    gateway.begin("B");
    let ended = stop(gateway);
    let expected = ["end A crash", "start B", "end B shutdown"];
    assert_eq!(told(&ended, "db"), expected);
}

#[test]
fn g6_a_removed_plugin_that_returns_is_told_what_it_missed() {
    let ended = stop({
        let gateway = Gateway::start_in(folder(), &config());
        gateway.begin("A");
        gateway
    });
    let ended = stop({
        let gateway = Gateway::start_in(ended.dir, AUDIT);
        gateway.begin("B");
        gateway
    });
    let gateway = Gateway::start_in(ended.dir, &config());
    settle(&gateway);
    let ended = stop(gateway);
    let expected = ["start A", "end A shutdown", "start B", "end B shutdown"];
    assert_eq!(told(&ended, "db"), expected);
}

#[test]
fn a_plugin_that_is_gone_for_longer_than_the_retention_is_dropped_with_a_warning() {
    let test = "a_plugin_that_is_gone_for_longer_than_the_retention_is_dropped_with_a_warning";
    let Some(shim) = Shim::for_test(test) else {
        return;
    };
    let gateway = Gateway::start_in(folder(), &config());
    gateway.begin("A");
    let ended = stop(gateway);

    let short = format!("{AUDIT}[sessions]\nretention = \"1ms\"\n");
    let mut command = Gateway::command_in(&ended.dir, &short);
    shim.watch(&mut command, ended.dir.path());
    let Ok(mut gateway) = Gateway::launch(ended.dir, command) else {
        panic!("it does not start");
    };
    gateway.begin("B");
    // Longer than the pause between two looks for what can go.
    shim.set("clock", "11 11");
    settle(&gateway);
    let dropped = gateway.wait_for_log("what it was owed is dropped");
    let dropped: Value = serde_json::from_str(&dropped).unwrap();
    let fields = &dropped["fields"];
    assert_eq!(
        (&fields["plugin"], &fields["events"]),
        (&json!("db"), &json!(1))
    );
    let ended = stop(gateway);

    // It comes back as one that is new.
    let gateway = Gateway::start_in(ended.dir, &config());
    gateway.begin("C");
    let ended = stop(gateway);
    let expected = ["start A", "end A shutdown", "start C", "end C shutdown"];
    assert_eq!(told(&ended, "db"), expected);
}

#[test]
fn what_became_of_an_ended_session_is_known_per_plugin_after_a_restart() {
    let gateway = Gateway::start_in(folder(), &config());
    for id in ["fine", "poison", "late"] {
        gateway.begin(id);
    }
    for id in ["fine", "poison"] {
        let (status, answer) = gateway.post(&format!("/v1/sessions/{id}/end"), &json!({}));
        assert_eq!(status, 200, "{answer}");
    }
    settle(&gateway);
    let _down = lock(&gateway);
    let (status, answer) = gateway.post("/v1/sessions/late/end", &json!({}));
    assert_eq!(status, 200, "{answer}");
    wait_for_plugins(&gateway, |plugin| {
        plugin["name"] == "db" || plugin["owed"] == 0
    });
    let ended = gateway.stop(Signal::SIGKILL);

    let gateway = Gateway::start_in(ended.dir, &config());
    wait_for_plugins(&gateway, |plugin| {
        plugin["name"] == "db" || plugin["owed"] == 0
    });
    for (id, state) in [("fine", "delivered"), ("poison", "dead"), ("late", "owed")] {
        let (_, session) = gateway.get(&format!("/v1/sessions/{id}"));
        assert_eq!(session["state"], "ended");
        let expected = json!({"audit": "delivered", "db": state});
        assert_eq!(session["plugins"], expected, "{id}");
    }
}

fn recover(ended: &Ended, more: &[&str]) -> Finished {
    let mut command = command();
    command.args(["recover", "--config"]);
    run(command.arg(ended.path("config.toml")).args(more))
}

/// The owed events of each plugin, as `recover` prints them.
fn owed(printed: &Value) -> BTreeMap<String, u64> {
    let plugins = printed["plugins"].as_array().unwrap().iter();
    plugins
        .map(|plugin| {
            let name = plugin["name"].as_str().unwrap();
            (name.to_owned(), plugin["owed"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn recover_delivers_without_a_gateway_what_a_dead_one_owes_and_its_rehearsal_changes_nothing() {
    let gateway = Gateway::start_in(folder(), &config());
    let down = lock(&gateway);
    for id in ["A", "B"] {
        gateway.begin(id);
    }
    let refused = gateway.run(&[
        "recover",
        "--config",
        gateway.path("config.toml").to_str().unwrap(),
    ]);
    refused.failed(1, &[&format!("in use by process {}", gateway.pid())]);
    wait_for_plugins(&gateway, |plugin| {
        plugin["name"] == "db" || plugin["owed"] == 0
    });
    let ended = gateway.stop(Signal::SIGKILL);

    let rehearsal = ["--dry-run", "--format", "json"];
    let shown = recover(&ended, &rehearsal).json();
    assert_eq!(
        (&shown["found"], &shown["reason"]),
        (&json!(2), &json!("crash"))
    );
    assert_eq!(shown["sessions"], json!(["A", "B"]));
    assert_eq!(owed(&shown), [("audit".into(), 2), ("db".into(), 4)].into());
    let again = recover(&ended, &rehearsal).json();
    assert_eq!(again, shown);
    assert_eq!(logged(&ended), ["start A", "start B"]);

    // One plugin is down: the others are told, and that says so.
    let failed = recover(&ended, &[]);
    failed.failed(1, &["1 plugin is still owed"]);
    assert_eq!(logged(&ended)[2..], ["end A crash", "end B crash"]);
    drop(down);
    let done = recover(&ended, &["--format", "json"]).json();
    assert_eq!((&done["found"], &done["reason"]), (&json!(0), &Value::Null));
    assert_eq!(owed(&done), [("audit".into(), 0), ("db".into(), 0)].into());
    assert_eq!(
        told(&ended, "db"),
        ["start A", "start B", "end A crash", "end B crash"]
    );

    let empty = tempfile::tempdir().unwrap();
    let mut nothing = command();
    nothing.args(["recover", "--state-dir"]).arg(empty.path());
    run(&mut nothing).failed(1, &["there is no ledger at", "what to do"]);
    std::fs::write(empty.path().join("c.toml"), "cap = 1").unwrap();
    let mut wrong = command();
    wrong
        .args(["recover", "--config"])
        .arg(empty.path().join("c.toml"));
    run(&mut wrong).failed(78, &["c.toml:1"]);
}
