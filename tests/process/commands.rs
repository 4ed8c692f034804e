//! The commands: what they print, what they ask for, and the exit codes that scripts rely on.

use std::fs;
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::fake::{Fake, reply};
use crate::gateway::{Finished, Gateway, command, run};

fn against(url: &str, arguments: &[&str]) -> Finished {
    run(command().args(arguments).env("SESSION_SUPERVISOR_URL", url))
}

/// Where nobody listens.
fn nowhere() -> String {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", free.local_addr().unwrap())
}

#[test]
fn check_shows_budgets_and_plugins_and_makes_nothing() {
    let dir = TempDir::new().unwrap();
    let config = "[shutdown]\ncap = \"4s\"\n[[plugin]]\nname = \"audit\"\nkind = \"log\"\n\
                  path = \"audit.jsonl\"\n";
    fs::write(dir.path().join("c.toml"), config).unwrap();
    let check = ["check", "--config", "c.toml"];
    let shown = run(command().args(check).current_dir(dir.path())).done();
    for expected in ["3.95s  cut", "4s  cap", "10s  kill_after", "audit   log"] {
        assert!(shown.contains(expected), "no `{expected}` in\n{shown}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn check_exits_78_with_a_line_per_problem() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("c.toml"), "cap = 2\n[shutdown]\ncap = 2\n").unwrap();
    let mut command = command();
    let command = command.arg("check").current_dir(dir.path());
    let refused = run(command.env("SESSION_SUPERVISOR_CONFIG", "c.toml"));
    refused.failed(78, &["c.toml:1: ", "c.toml:3: "]);
    assert_eq!(refused.stdout, "");
}

#[test]
fn status_is_for_health_checks() {
    let gateway = Gateway::start_with_defaults();
    let expected = format!("alive at {}\n", gateway.url());
    assert_eq!(gateway.run(&["status"]).done(), expected);
    let expected = format!("ready at {}\n", gateway.url());
    assert_eq!(gateway.run(&["status", "--ready"]).done(), expected);

    let nowhere = nowhere();
    against(&nowhere, &["status"]).failed(1, &[&nowhere]);
    let closing = r#"{"type": "urn:session-supervisor:problem:shutting-down",
        "title": "shutting down", "status": 503}"#;
    let closing = Fake::answering("503 Service Unavailable", closing);
    against(&closing.url, &["status", "--ready"]).failed(1, &["shutting down"]);
    assert_eq!(closing.requests()[0].line, "GET /readyz");
    let other = Fake::answering("200 OK", "<html>");
    against(&other.url, &["status"]).failed(1, &["is no gateway"]);
}

#[test]
fn a_gateway_that_is_not_there_exits_69_and_says_what_to_do() {
    let nowhere = nowhere();
    for arguments in [
        &["sessions", "list"][..],
        &["sessions", "end", "--all"],
        &["plugins", "reload"],
        &["stop"],
        &["stop", "--wait"],
    ] {
        let refused = against(&nowhere, arguments);
        refused.failed(69, &[&nowhere, "session-supervisor serve", "--url"]);
    }
    let proxy = Fake::answering("502 Bad Gateway", "<html>");
    against(&proxy.url, &["plugins", "list"]).failed(69, &["502"]);
}

#[test]
fn wrong_usage_exits_2_and_asks_nobody() {
    let fake = Fake::answering("200 OK", "{}");
    for arguments in [
        &["sessions", "end"][..],
        &["sessions", "end", "--dry-run"],
        &["sessions", "end", "A", "--all"],
        &["sessions", "list", "--idle-for", "5"],
        &["sessions", "list", "--limit", "0"],
        &["sessions", "show", ""],
        &["plugins", "test"],
        &["stop", "--reason", "shutdown", "--expected-downtime", "1s"],
        &["stop", "--wait", "--dry-run"],
        &["status", "--url", "localhost:7467"],
    ] {
        let refused = against(&fake.url, arguments);
        assert_eq!(refused.code, Some(2), "{arguments:?}: {refused:?}");
    }
    against("localhost", &["status"]).failed(2, &["SESSION_SUPERVISOR_URL", "expected"]);
    let mut command = command();
    let command = command.args(["status", "--url", &fake.url]);
    let refused = run(command.env("SESSION_SUPERVISOR_TOKEN", "s3 cret"));
    refused.failed(2, &["SESSION_SUPERVISOR_TOKEN"]);
    assert!(!refused.stderr.contains("s3"), "{refused:?}");
    assert!(fake.requests().is_empty());
}

#[test]
fn an_empty_variable_counts_as_unset_and_a_flag_comes_first() {
    // A gateway may or may not be there; it is named either way.
    let asked = against("", &["status"]);
    let said = format!("{}{}", asked.stdout, asked.stderr);
    assert!(said.contains("http://127.0.0.1:7467"), "{said}");

    let fake = Fake::answering("200 OK", r#"{"status": "alive"}"#);
    let mut command = command();
    let command = command
        .args(["status", "--url", &fake.url])
        .env("SESSION_SUPERVISOR_TOKEN", "")
        .env("SESSION_SUPERVISOR_URL", nowhere());
    run(command).done();
    assert_eq!(fake.requests()[0].authorization, None);
}

#[test]
fn the_token_is_sent_and_never_printed() {
    let refusal = r#"{"type": "urn:session-supervisor:problem:unauthorized",
        "title": "unauthorized", "status": 401, "detail": "the token is unknown"}"#;
    let fake = Fake::answering("401 Unauthorized", refusal);
    for arguments in [&["sessions", "list"][..], &["stop", "--wait"]] {
        let mut command = command();
        let refused = run(command
            .args(arguments)
            .env("SESSION_SUPERVISOR_URL", &fake.url)
            .env("SESSION_SUPERVISOR_TOKEN", "s3cret")
            .env("RUST_LOG", "trace"));
        refused.failed(1, &["the token is unknown", "SESSION_SUPERVISOR_TOKEN"]);
        assert!(!format!("{refused:?}").contains("s3cret"), "{refused:?}");
    }
    let requests = fake.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert_eq!(request.authorization.as_deref(), Some("Bearer s3cret"));
    }
}

#[test]
fn a_session_is_started_shown_and_ended() {
    let gateway = Gateway::start_with_defaults();
    let id = "a/b?c#%ü .";
    let start = [
        "sessions",
        "start",
        id,
        "--key",
        "k",
        "--metadata",
        r#"{"n":1}"#,
    ];
    let started = gateway.run(&start).done();
    assert!(started.starts_with(&format!("{id} is active")), "{started}");
    let replacing = gateway
        .run(&["sessions", "start", "B", "--key", "k"])
        .done();
    assert!(
        replacing.contains(&format!("{id} had its key")),
        "{replacing}"
    );

    let shown = gateway.run(&["sessions", "show", id]).done();
    for expected in [id, "replaced", "PLUGIN  TOLD"] {
        assert!(shown.contains(expected), "no `{expected}` in\n{shown}");
    }
    let shown = gateway.run(&["sessions", "show", id, "--format", "json"]);
    let shown = shown.json();
    assert_eq!(
        (&shown["id"], &shown["metadata"]),
        (&json!(id), &json!({"n": 1}))
    );
    assert_eq!(
        (&shown["state"], &shown["reason"]),
        (&json!("ended"), &json!("replaced"))
    );

    let end = ["sessions", "end", "B"];
    let rehearsed = gateway.run(&[&end[..], &["--dry-run"]].concat()).done();
    assert_eq!(rehearsed, "B would end\n");
    assert_eq!(gateway.get("/v1/sessions/B").1["state"], "active");
    assert_eq!(gateway.run(&end).done(), "B has ended: closed\n");
    assert_eq!(gateway.get("/v1/sessions/B").1["reason"], "closed");
}

#[test]
fn ending_several_ends_those_that_can_and_exits_1_for_the_others() {
    let gateway = Gateway::start_with_defaults();
    for id in ["A", "B"] {
        gateway.begin(id);
    }
    let ended = gateway.run(&["sessions", "end", "A", "X", "B", "--reason", "deleted"]);
    ended.failed(
        1,
        &[
            "X: refused: not found (404 not-found)",
            "1 of 3 sessions refused",
        ],
    );
    assert_eq!(ended.stdout, "A has ended: deleted\nB has ended: deleted\n");
    assert_eq!(gateway.get("/v1/sessions/B").1["reason"], "deleted");

    gateway.begin("C");
    let refused = gateway.run(&["sessions", "end", "C", "--reason", "crash"]);
    refused.failed(1, &["reserved-reason", "#/reason", "such as `closed`"]);
    assert_eq!(gateway.get("/v1/sessions/C").1["state"], "active");
}

#[test]
fn the_list_has_all_pages_unless_limited() {
    let gateway = Gateway::start_with_defaults();
    let none = gateway.run(&["sessions", "list"]);
    assert_eq!(
        (none.stderr.as_str(), none.code),
        ("no session matches\n", Some(0))
    );
    let empty = gateway
        .run(&["sessions", "list", "--format", "json"])
        .json();
    assert_eq!(empty, json!({"sessions": [], "next_cursor": null}));

    for n in 0..503 {
        gateway.begin(&format!("s{n:03}"));
    }
    let all = gateway.run(&["sessions", "list"]).done();
    assert_eq!(all.lines().count(), 504);
    assert!(all.lines().nth(503).unwrap().starts_with("s502"), "{all}");
    let two = gateway.run(&["sessions", "list", "--limit", "2"]);
    assert!(two.stderr.contains("there are more"), "{two:?}");
    assert_eq!(two.stdout.lines().count(), 3);
    let two = ["sessions", "list", "--limit", "2", "--format", "json"];
    assert_eq!(
        gateway.run(&two).json(),
        gateway.get("/v1/sessions?limit=2").1
    );
}

#[test]
fn filters_are_asked_for() {
    let fake = Fake::answering("200 OK", r#"{"matched": 3, "ended": 0}"#);
    let end = [
        "sessions",
        "end",
        "--key-prefix",
        "a:",
        "--idle-for",
        "2h",
        "--dry-run",
    ];
    let told = against(&fake.url, &end).done();
    assert_eq!(told, "3 sessions match and would end\n");
    let request = &fake.requests()[0];
    assert_eq!(request.line, "POST /v1/bulk-end");
    let expected = json!({"key_prefix": "a:", "idle_for_ms": 7_200_000, "dry_run": true,
        "reason": "closed"});
    assert_eq!(request.body, expected);
}

#[test]
fn a_plugin_that_takes_no_test_exits_1() {
    let failed = r#"{"outcome": "error", "error": "no such table", "duration_ms": 3}"#;
    let fake = Fake::answering("200 OK", failed);
    against(&fake.url, &["plugins", "test", "db"])
        .failed(1, &["db did not take a start and an end: error"]);
    let told = against(&fake.url, &["plugins", "test", "db", "--format", "json"]);
    told.failed(1, &["no such table"]);
    assert_eq!(told.stdout.trim_end(), failed);
    assert_eq!(fake.requests()[0].line, "POST /v1/plugins/db/test");
}

#[test]
fn a_stop_is_watched_until_the_gateway_is_gone() {
    let stream = Mutex::new(None::<TcpStream>);
    let fake = Fake::start(
        move |request, mut connection, door| match request.line.as_str() {
            "GET /v1/events?types=delivery,drain" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                        connection: close\r\n\r\n: welcome\n\n";
                connection.write_all(head.as_bytes()).unwrap();
                *stream.lock().unwrap() = Some(connection);
            }
            "POST /v1/shutdown" => {
                let mut events = stream
                    .lock()
                    .unwrap()
                    .take()
                    .expect("the stream comes first");
                let asked = r#"{"instance": "i", "reason": "restart",
                "deadline_at": "2026-11-22T11:00:00.000Z"}"#;
                reply(connection, "202 Accepted", asked);
                for (delivered, done) in [(0, false), (4, false), (11, true)] {
                    let drain = json!({"plugins": [{"name": "audit", "delivered": delivered,
                    "total": 11, "done": done}], "sessions": 11, "remaining_ms": 1800});
                    write!(events, "event: drain\ndata: {drain}\n\n").unwrap();
                }
                let cut = json!({"plugin": "crm", "outcome": "cut", "events": 1, "duration_ms": 9,
                "error": null});
                write!(events, "event: delivery\ndata: {cut}\n\n").unwrap();
                // It stays for a while, as one that writes its report.
                thread::sleep(Duration::from_millis(300));
                door.close();
            }
            _ => reply(connection, "503 Service Unavailable", "{}"),
        },
    );
    let stop = ["stop", "--expected-downtime", "1500ms", "--wait"];
    let stopped = against(&fake.url, &stop);
    assert!(
        stopped.stderr.contains("the gateway is gone after "),
        "{stopped:?}"
    );
    for line in ["audit: 0 of 11\n", "audit: 11 of 11 done\n", "crm: cut\n"] {
        assert!(stopped.stderr.contains(line), "no `{line}` in {stopped:?}");
    }
    let told = stopped.done();
    assert!(
        told.starts_with("the gateway is stopping, reason restart"),
        "{told}"
    );
    let requests = fake.requests();
    assert_eq!(requests[1].body, json!({"restart_expected_ms": 1500}));
}

#[test]
fn a_gateway_is_gone_when_its_process_has_let_go_of_the_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let pid = std::process::id();
    fs::write(dir.path().join("lock"), pid.to_string()).unwrap();
    let lock = fs::File::open(dir.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let asked = json!({"instance": "i", "reason": "shutdown", "pid": pid,
        "deadline_at": "2026-11-22T11:00:00.000Z", "state_dir": dir.path()});
    let (closed, is_closed) = std::sync::mpsc::channel();
    let fake = Fake::start(
        move |request, connection, door| match request.line.as_str() {
            "POST /v1/shutdown" => {
                reply(connection, "202 Accepted", &asked.to_string());
                door.close();
                closed.send(Instant::now()).unwrap();
            }
            "GET /v1/events?types=delivery,drain" => {
                let none = r#"{"type": "urn:session-supervisor:problem:not-found",
                    "title": "there is none", "status": 404}"#;
                reply(connection, "404 Not Found", none);
            }
            _ => reply(connection, "503 Service Unavailable", "{}"),
        },
    );
    let writing = Duration::from_millis(700);
    let process = thread::spawn(move || {
        // It writes its report when it no longer answers.
        let closed = is_closed.recv_timeout(Duration::from_secs(10)).unwrap();
        thread::sleep(writing);
        drop(lock);
        closed
    });
    let stopped = against(&fake.url, &["stop", "--wait"]);
    let took = process.join().unwrap().elapsed();
    assert!(took >= writing, "{took:?}: {stopped:?}");
    stopped.done();
}

#[test]
fn the_last_report_is_read_from_the_disk() {
    let gateway = Gateway::start_with_defaults();
    gateway.begin("A");
    let ended = gateway.stop(Signal::SIGUSR2);
    let mut in_dir = command();
    let shown = run(in_dir.arg("report").current_dir(ended.dir.path())).done();
    for expected in [
        "LAST STOP  clean",
        "asked by   SIGUSR2",
        "sessions   1 ended",
    ] {
        assert!(shown.contains(expected), "no `{expected}` in\n{shown}");
    }
    let state = ended.path("state");
    let state = state.to_str().unwrap();
    let report = ["report", "--format", "json", "--state-dir", state];
    assert_eq!(run(command().args(report)).json(), ended.report());

    let empty = TempDir::new().unwrap();
    let mut command = command();
    let none = run(command
        .arg("report")
        .env("SESSION_SUPERVISOR_STATE_DIR", empty.path()));
    none.failed(1, &[empty.path().to_str().unwrap(), "--state-dir"]);
}

#[test]
fn completions_and_manual_pages_are_made() {
    for (shell, expected) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef session-supervisor"),
    ] {
        let script = run(command().args(["completions", shell])).done();
        assert!(script.contains(expected), "{script}");
        assert!(script.contains("--expected-downtime"), "{script}");
    }
    let help = run(command().arg("--help")).done();
    for name in ["completions", "man"] {
        assert!(help.contains(&format!("\n  {name} ")), "{help}");
    }
    let page = run(command().arg("man")).done();
    assert!(page.contains(".TH session-supervisor 1"), "{page}");

    let dir = TempDir::new().unwrap();
    let pages = dir.path().join("man1");
    run(command().args(["man", "--out-dir"]).arg(&pages)).done();
    let page = fs::read_to_string(pages.join("session-supervisor-sessions-end.1")).unwrap();
    assert!(page.contains("older\\-than"), "{page}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = command()
        .args(["completions", "bash"])
        .stdout(writer)
        .status();
    assert_eq!(status.unwrap().code(), Some(0));
}
