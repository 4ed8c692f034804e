//! `recover` ends what a dead gateway has left, and not what other programs hold.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{assert_active, ends, incarnation, reasons, start, start_again, wait_until};
use crate::gateway::{Ended, Finished, command, run};

fn recover(ended: &Ended, more: &[&str]) -> Finished {
    let mut command = command();
    command.args(["recover", "--config"]);
    run(command.arg(ended.path("config.toml")).args(more))
}

#[test]
fn g11_recover_leaves_held_sessions_to_the_next_gateway() {
    let gateway = start();
    let beat = json!({"run_id": "run-1", "ttl_ms": 60_000});
    let (status, answer) = gateway.post("/v1/holders/worker/heartbeat", &beat);
    assert_eq!(status, 204, "{answer}");
    for id in ["A", "B"] {
        let body = json!({"id": id, "holder": "worker"});
        assert_eq!(gateway.post("/v1/sessions", &body).0, 201);
    }
    gateway.begin("own");
    let first = incarnation(&gateway, "A");
    let url = gateway.url().to_owned();
    let ended = gateway.stop(Signal::SIGKILL);

    let shown = recover(&ended, &["--dry-run", "--format", "json"]).json();
    let counts = (&shown["found"], &shown["held"], &shown["sessions"]);
    assert_eq!(counts, (&json!(1), &json!(2), &json!(["own"])));
    let shown = recover(&ended, &["--dry-run"]).done();
    assert!(shown.contains("\n2 held sessions would go on: "), "{shown}");
    let done = recover(&ended, &[]).done();
    let expected = "1 session ended, reason crash\n2 held sessions go on: ";
    assert!(done.starts_with(expected), "{done}");
    let again = recover(&ended, &["--format", "json"]).json();
    assert_eq!((&again["found"], &again["held"]), (&json!(0), &json!(2)));
    let again = recover(&ended, &[]).done();
    assert!(again.starts_with("no session ended\n2 held "), "{again}");

    let gateway = start_again(ended.dir, &url);
    assert_eq!(incarnation(&gateway, "A"), first);
    assert_active(&gateway, &["B"]);
    let holder = &gateway.get("/v1/holders").1["holders"][0];
    assert_eq!(
        (&holder["lease"], &holder["sessions"]),
        (&json!("awaited"), &json!(2))
    );
    let left = Duration::from_millis(holder["expires_in_ms"].as_u64().unwrap());
    assert!(
        left > Duration::from_secs(50),
        "it is given a whole lease: {left:?}"
    );
    gateway.settle();
    let log = gateway.path("audit.jsonl");
    wait_until(|| log.exists());
    assert_eq!(reasons(&ends(&log)), [("own", "crash")]);
}
