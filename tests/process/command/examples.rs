//! The examples of `docs/examples`, with the interpreters of the machine.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;

use super::{quoted, wait_until_nothing_is_owed};
use crate::gateway::{Ended, Gateway, json_lines};
use crate::tools::{is_installed, skip};

/// Tells an example of four sessions, of which the stop ends two.
fn run(interpreter: &str, example: &str, argument: &str, keys: &str) -> Option<Ended> {
    if !is_installed(interpreter) {
        skip(example, interpreter);
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples");
    let example = quoted(examples.join(example).to_str().unwrap());
    let config = format!(
        "state_dir = \"state\"\n[[plugin]]\nname = \"example\"\nkind = \"command\"\n\
         command = [\"{interpreter}\", {example}, \"{argument}\"]\n\
         pass_env = [\"PATH\", \"HOME\"]\ncwd = \".\"\n{keys}\n"
    );
    let gateway = Gateway::start_in(dir, &config);
    for id in ["A", "B", "C", "a/../\u{e4}"] {
        gateway.begin(id);
    }
    gateway
        .run(&["sessions", "end", "A", "B", "--reason", "completed"])
        .done();
    wait_until_nothing_is_owed(&gateway, "example");
    gateway.run(&["plugins", "test", "example"]).done();
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.report()["outcome"], "clean", "{}", ended.log);
    Some(ended)
}

#[test]
fn the_example_that_archives_sessions_keeps_each_that_has_ended() {
    let keys = "hooks = [\"session_end\"]";
    let Some(ended) = run("python3", "archive_session.py", "folder", keys) else {
        return;
    };
    let mut kept: Vec<(String, String)> = fs::read_dir(ended.path("folder"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let event: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert_eq!(event["event_id"], name);
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&event["session"]["id"]), text(&event["reason"]))
        })
        .collect();
    kept.sort();
    let kept: Vec<_> = kept.iter().map(|(id, reason)| (&**id, &**reason)).collect();
    let expected = [
        ("A", "completed"),
        ("B", "completed"),
        ("C", "shutdown"),
        ("a/../\u{e4}", "shutdown"),
    ];
    assert_eq!(kept, expected);
}

#[test]
fn the_example_in_python_keeps_a_table_of_sessions() {
    let keys = "mode = \"stream\"";
    let Some(ended) = run("python3", "stream_plugin.py", "sessions.db", keys) else {
        return;
    };
    let database = Connection::open(ended.path("sessions.db")).unwrap();
    let rows =
        "SELECT group_concat(id || ' ' || status || ' ' || reason, ', ' ORDER BY id) FROM sessions";
    let rows: String = database.query_row(rows, [], |row| row.get(0)).unwrap();
    let expected =
        "A ended completed, B ended completed, C ended shutdown, a/../\u{e4} ended shutdown";
    assert_eq!(rows, expected);
}

#[test]
fn the_example_in_node_keeps_a_file_for_each_session() {
    let keys = "mode = \"stream\"";
    let Some(ended) = run("node", "stream_plugin.mjs", "folder", keys) else {
        return;
    };
    let mut sessions: Vec<String> = Vec::new();
    for entry in fs::read_dir(ended.path("folder")).unwrap() {
        let events = json_lines(&entry.unwrap().path());
        let types: Vec<_> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        assert_eq!(types, ["session_start", "session_end"]);
        sessions.push(events[0]["session"]["id"].as_str().unwrap().to_owned());
    }
    sessions.sort();
    assert_eq!(sessions, ["A", "B", "C", "a/../\u{e4}"]);
}
