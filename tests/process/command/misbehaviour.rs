//! Programs that misbehave: whatever they do, nothing is lost, a stop keeps its cap, and nothing of
//! them is left.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{PATIENCE, assert_nobody_lives, event_ids, lines, quoted, wait_until_nothing_is_owed};
use crate::gateway::Gateway;

const CAP: Duration = Duration::from_millis(600);
const TEARDOWN: Duration = Duration::from_secs(1);

/// What the scripts share: each notes its group, and before it acknowledges an event its id.
const PREAMBLE: &str = r#"
    echo $$ >> groups
    id_of() { id=${1#*\"event_id\":\"}; id=${id%%\"*}; }
    take() { echo "$id" >> "${1:-taken}"; }
    ack() { take; printf '{"ack":"%s"}\n' "$id"; }
    next() { IFS= read -r line || exit 0; id_of "$line"; }
"#;

/// What takes every event in the end.
const GOOD: &str = "while next; do take told; printf '{\"ack\":\"%s\"}\\n' \"$id\"; done";

fn config(mode: &str, script: &str) -> String {
    let script = quoted(&format!("{PREAMBLE}\n{script}"));
    format!(
        "state_dir = \"state\"\n\
         [shutdown]\ncap = \"600ms\"\nteardown = \"1s\"\n\
         [[plugin]]\nname = \"audit\"\nkind = \"log\"\npath = \"audit.jsonl\"\n\
         [[plugin]]\nname = \"program\"\nkind = \"command\"\nmode = \"{mode}\"\n\
         command = [\"/bin/sh\", \"-c\", {script}]\n\
         pass_env = [\"PATH\"]\ncwd = \".\"\n\
         timeout = \"400ms\"\nbackoff = \"10ms\"\nbackoff_max = \"50ms\"\nmax_attempts = 1000\n"
    )
}

/// Has a gateway tell a program that runs `script` of sessions, stops it in the middle, and has the
/// next one tell what is left to a program that behaves.
fn is_borne(mode: &str, name: &str, script: &str) {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start_in(dir, &config(mode, script));
    for n in 0..12 {
        gateway.begin(&format!("sess-{n}"));
    }
    for n in 0..6 {
        gateway
            .run(&["sessions", "end", &format!("sess-{n}")])
            .done();
    }
    let ended = gateway.stop(Signal::SIGTERM);
    assert_nobody_lives(&ended.path("groups"));
    assert!(!lines(&ended.path("groups")).is_empty(), "{name}");
    assert_eq!(ended.status.code(), Some(0), "{name}: {}", ended.log);
    assert!(ended.took < CAP + TEARDOWN, "{name}: {:?}", ended.took);
    let report = ended.report();
    let plugin = &report["plugins"][1];
    let count = |key: &str| plugin[key].as_u64().unwrap();
    let told = count("delivered") + count("owed") + count("dead");
    assert_eq!((told, count("lost")), (6, 0), "{name}: {report}");

    let gateway = Gateway::start_in(ended.dir, &config("stream", GOOD));
    wait_until_nothing_is_owed(&gateway, "program");
    let ended = gateway.stop(Signal::SIGTERM);
    assert_nobody_lives(&ended.path("groups"));
    let all = event_ids(&ended.path("audit.jsonl"));
    assert_eq!(all.len(), 24);
    let told = lines(&ended.path("told"));
    let taken = lines(&ended.path("taken"));
    assert!(told.is_subset(&all) && taken.is_subset(&all), "{name}");
    let reached: Vec<_> = all
        .iter()
        .filter(|id| told.contains(*id) || taken.contains(*id))
        .collect();
    assert_eq!(reached.len(), all.len(), "{name}: some were told to nobody");
}

#[test]
fn g4_g6_programs_per_event_that_misbehave_lose_nothing_and_are_not_left_behind() {
    let read = "input=$(cat); id_of \"$input\";";
    for (name, script) in [
        (
            "ignores SIGTERM",
            "trap '' TERM; (sleep 1000) & while :; do sleep 1000; done",
        ),
        ("never reads", "sleep 1000"),
        ("forks", "(trap '' TERM; sleep 1000) & READ take"),
        (
            "writes megabytes",
            "READ head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2; take",
        ),
        ("closes its input", "exec 0<&-; exit 1"),
        ("dies", "READ kill -9 $$"),
        ("asks for later", "READ exit 75"),
        (
            "drips",
            "READ for n in 1 2 3 4; do printf .; printf . >&2; sleep 0.02; done; take",
        ),
    ] {
        is_borne("per_event", name, &script.replace("READ", read));
    }
}

#[test]
fn g4_g6_programs_in_a_stream_that_misbehave_lose_nothing_and_are_not_left_behind() {
    for (name, script) in [
        (
            "ignores SIGTERM",
            "trap '' TERM; (sleep 1000) & while :; do sleep 1000; done",
        ),
        ("never reads", "sleep 1000"),
        ("never answers", "while next; do :; done"),
        (
            "forks",
            "(trap '' TERM; sleep 1000) & while next; do ack; done",
        ),
        (
            "writes megabytes",
            "(while :; do echo noise; echo noise >&2; done) & while next; do ack; done",
        ),
        ("closes its input", "next; ack; exec 0<&-; sleep 1000"),
        ("closes its output", "next; ack; exec 1>&-; sleep 1000"),
        ("dies", "next; ack; next; kill -9 $$"),
        ("exits at once", "exit 3"),
        (
            "answers out of order",
            "while next; do one=$id; next; ack; id=$one; ack; done",
        ),
        (
            "writes garbage",
            "while next; do printf '{\\n\\377\\033[2J\\n{\"ack\":7}\\n{\"ack\":\"%s\"}\\n' \"x$id\"; ack; ack; done",
        ),
        (
            "drips",
            "while next; do take; printf '{\"ack\"'; sleep 0.02; printf ':\"%s\"' \"$id\"; sleep 0.02; echo '}'; done",
        ),
    ] {
        is_borne("stream", name, script);
    }
}

#[test]
fn g7_what_a_program_had_in_hand_when_the_gateway_was_killed_it_gets_again_under_the_same_id() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start_in(dir, &config("stream", "while next; do take seen; done"));
    gateway.begin("A");
    let until = Instant::now() + PATIENCE;
    while lines(&gateway.path("seen")).is_empty() {
        assert!(Instant::now() < until, "the program is told nothing");
        sleep(Duration::from_millis(10));
    }
    let killed = gateway.stop(Signal::SIGKILL);
    // Nobody ends it, but its input has ended.
    assert_nobody_lives(&killed.path("groups"));
    let gateway = Gateway::start_in(killed.dir, &config("stream", GOOD));
    wait_until_nothing_is_owed(&gateway, "program");
    let told = lines(&gateway.path("told"));
    assert_eq!(told.len(), 2, "a start, and its end by the crash");
    assert!(lines(&gateway.path("seen")).is_subset(&told));
    assert_eq!(told, event_ids(&gateway.path("audit.jsonl")));
}

#[test]
fn a_program_that_is_missing_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("program");
    let good = format!("#!/bin/sh\n{PREAMBLE}\n{GOOD}\n");
    let write = || {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(&script, &good).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write();
    let config = "state_dir = \"state\"\n[[plugin]]\nname = \"program\"\nkind = \"command\"\n\
                  command = [\"./program\"]\nmode = \"stream\"\ncwd = \".\"\nbackoff = \"10ms\"\n";
    let gateway = Gateway::start_in(dir, config);
    gateway
        .run(&[
            "check",
            "--config",
            gateway.path("config.toml").to_str().unwrap(),
        ])
        .done();
    fs::remove_file(&script).unwrap();
    let refused = gateway.run(&[
        "check",
        "--config",
        gateway.path("config.toml").to_str().unwrap(),
    ]);
    refused.failed(78, &["config.toml:5: `plugin.command`: `", "is not there"]);
    gateway.begin("A");
    super::wait_for_plugin(&gateway, "program", |plugin| {
        let error = plugin["last_error"].as_str().unwrap_or_default();
        plugin["state"] == "retrying" && error.contains("program` is not there")
    });
    write();
    wait_until_nothing_is_owed(&gateway, "program");
    assert_eq!(lines(&gateway.path("told")).len(), 1);
}

#[test]
fn a_program_that_answers_nothing_it_was_asked_is_told_of_when_it_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let config = "state_dir = \"state\"\n[[plugin]]\nname = \"program\"\nkind = \"command\"\n\
                  command = [\"/bin/cat\"]\nmode = \"stream\"\ntimeout = \"300ms\"\n";
    let mut gateway = Gateway::start_in(dir, config);
    gateway.begin("A");
    let line = gateway.wait_for_log("lines that answer nothing it was asked: 1)");
    for expected in ["WARN", "did not answer in time, and was ended"] {
        assert!(line.contains(expected), "{line}");
    }
    super::wait_for_plugin(&gateway, "program", |plugin| {
        let error = plugin["last_error"].as_str().unwrap_or_default();
        error.starts_with("timed out; the program wrote what is no answer: {")
    });
}
