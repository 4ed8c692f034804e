//! Very many sessions through a program, beside the bare program doing the same.
//!
//! In the suite they are 1,000 for the mode `per_event`, which starts a program for each. For 10,000:
//!
//! ```sh
//! COMMAND_SESSIONS=10000 cargo test --release --test process very_many -- --nocapture
//! ```

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread::scope;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::{event_ids, json_lines, quoted, wait_until_nothing_is_owed};
use crate::gateway::{Gateway, agent, post};

const CLIENTS: usize = 4;
/// As many as there are side by side by default.
const SIDE_BY_SIDE: usize = 4;

const PER_EVENT: &str = "exec cat >> told.jsonl";
const STREAM: &str = r#"
    exec 3>> told.jsonl
    while IFS= read -r line; do
        printf '%s\n' "$line" >&3
        id=${line#*\"event_id\":\"}
        printf '{"ack":"%s"}\n' "${id%%\"*}"
    done
"#;

/// Starts `count` sessions, ends them all at once, and waits until the program has taken every end.
/// The file of events that it was told, and how long that took.
fn tell(mode: &str, script: &str, count: usize) -> (tempfile::TempDir, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let script = quoted(script);
    let config = format!(
        "state_dir = \"state\"\n[ledger]\ndurability = \"process\"\n\
         [[plugin]]\nname = \"audit\"\nkind = \"log\"\nhooks = [\"session_end\"]\npath = \"audit.jsonl\"\n\
         [[plugin]]\nname = \"program\"\nkind = \"command\"\nhooks = [\"session_end\"]\n\
         command = [\"/bin/sh\", \"-c\", {script}]\nmode = \"{mode}\"\n\
         pass_env = [\"PATH\"]\ncwd = \".\"\n"
    );
    let gateway = Gateway::start_in(dir, &config);
    scope(|scope| {
        for client in 0..CLIENTS {
            let url = format!("{}/v1/sessions", gateway.url());
            scope.spawn(move || {
                let agent = agent();
                for n in 0..count / CLIENTS {
                    let start = json!({"id": format!("sess-{client}-{n}")});
                    let (status, answer) = post(&agent, &url, &start).unwrap();
                    assert_eq!(status, 201, "{answer}");
                }
            });
        }
    });
    let began = Instant::now();
    let (status, answer) = gateway.post("/v1/bulk-end", &json!({"all": true}));
    assert_eq!(
        (status, answer["ended"].as_u64()),
        (200, Some(count as u64))
    );
    wait_until_nothing_is_owed(&gateway, "program");
    let took = began.elapsed();
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.report()["outcome"], "clean", "{}", ended.log);
    assert_eq!(
        json_lines(&ended.path("told.jsonl")).len(),
        count,
        "told more than once"
    );
    let told = event_ids(&ended.path("told.jsonl"));
    assert_eq!(told, event_ids(&ended.path("audit.jsonl")));
    (ended.dir, took)
}

fn report(mode: &str, count: usize, took: Duration, bare: Duration) {
    let rate = |took: Duration| count as f64 / took.as_secs_f64();
    let (ours, bare) = (rate(took), rate(bare));
    let _ = writeln!(
        io::stderr(),
        "COMMAND: {count} ends through `{mode}`: {ours:.0}/s, the bare program {bare:.0}/s"
    );
}

#[test]
fn very_many_sessions_end_through_a_program_for_each() {
    let count = std::env::var("COMMAND_SESSIONS").map_or(1000, |count| count.parse().unwrap());
    let (dir, took) = tell("per_event", PER_EVENT, count);

    let events = std::fs::read_to_string(dir.path().join("told.jsonl")).unwrap();
    let events: Vec<_> = events.lines().collect();
    let bare = tempfile::tempdir().unwrap();
    let began = Instant::now();
    scope(|scope| {
        for events in events.chunks(count.div_ceil(SIDE_BY_SIDE)) {
            let directory = bare.path();
            scope.spawn(move || {
                for event in events {
                    let mut child = Command::new("/bin/sh")
                        .args(["-c", PER_EVENT])
                        .current_dir(directory)
                        .stdin(Stdio::piped())
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .spawn()
                        .unwrap();
                    let mut input = child.stdin.take().unwrap();
                    input.write_all(event.as_bytes()).unwrap();
                    drop(input);
                    assert!(child.wait().unwrap().success());
                }
            });
        }
    });
    report("per_event", count, took, began.elapsed());
}

#[test]
fn very_many_sessions_end_through_one_program() {
    let count = 10_000;
    let (dir, took) = tell("stream", STREAM, count);

    let mut events = BufReader::new(File::open(dir.path().join("told.jsonl")).unwrap());
    let bare = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut child = Command::new("/bin/sh")
        .args(["-c", STREAM])
        .current_dir(bare.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let answers = BufReader::new(child.stdout.take().unwrap());
    let answers = std::thread::spawn(move || answers.lines().count());
    io::copy(&mut events, &mut input).unwrap();
    drop(input);
    assert_eq!(answers.join().unwrap(), count);
    assert!(child.wait().unwrap().success());
    report("stream", count, took, began.elapsed());
}
