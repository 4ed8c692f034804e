//! A program that holds by heartbeats: a loop in a shell.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{
    Gateway, assert_active, assert_within, ends, incarnation, reasons, session, start,
    wait_for_ends, wait_until,
};
use crate::tools::{is_installed, skip};

/// Many times as long as it takes to start a program on a busy machine.
const TTL: Duration = Duration::from_secs(4);

/// The loop, in a process group of its own. Killed when dropped.
struct Loop(Child);

impl Loop {
    /// Beats as the run `run_id` of the holder `name`, and answers once that has a lease.
    #[track_caller]
    fn start(gateway: &Gateway, name: &str, run_id: &str) -> Self {
        let path = format!("{}/v1/holders/{name}/heartbeat", gateway.url());
        let beat = json!({"run_id": run_id, "ttl_ms": TTL.as_millis() as u64});
        // One that fails on a busy machine ends nothing: the next one comes all the same.
        let script = "while :; do curl --silent --max-time 1 \"$0\" --json \"$1\"; sleep 0.2; done";
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script, &path, &beat.to_string()])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = Self(shell.spawn().unwrap());
        wait_until(|| lease(gateway, name)["run_id"] == run_id);
        child
    }

    fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(self.0.id().try_into().unwrap());
        killpg(group, signal).unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// How a holder is; null if it is unknown.
fn lease(gateway: &Gateway, name: &str) -> Value {
    let (_, list) = gateway.get("/v1/holders");
    let mut holders = list["holders"].as_array().unwrap().iter();
    let holder = holders.find(|holder| holder["holder"] == name);
    holder.cloned().unwrap_or_default()
}

#[track_caller]
fn begin(gateway: &Gateway, id: &str, holder: &str) -> Value {
    let body = json!({"id": id, "holder": holder});
    let (status, session) = gateway.post("/v1/sessions", &body);
    assert_eq!(status, 201, "{session}");
    session
}

fn is_curl_missing(test: &str) -> bool {
    let is_missing = !is_installed("curl");
    if is_missing {
        skip(test, "curl");
    }
    is_missing
}

#[test]
fn g11_a_program_that_is_killed_loses_its_sessions_when_its_last_heartbeat_is_over() {
    if is_curl_missing("a heartbeat that ends") {
        return;
    }
    let gateway = start();
    let victim = Loop::start(&gateway, "victim", "1");
    let _other = Loop::start(&gateway, "other", "1");
    for (id, holder) in [("A", "victim"), ("B", "victim"), ("C", "other")] {
        begin(&gateway, id, holder);
    }
    // They go on for longer than one heartbeat holds.
    let first = incarnation(&gateway, "A");
    let began = Instant::now();
    wait_until(|| {
        assert_eq!(incarnation(&gateway, "A"), first);
        began.elapsed() > 3 * TTL / 2
    });

    drop(victim);
    wait_for_ends(&gateway, &["A", "B"], "lost");
    assert_active(&gateway, &["C"]);
    gateway.settle();
    let ends = ends(&gateway.path("audit.jsonl"));
    assert_eq!(reasons(&ends), [("A", "lost"), ("B", "lost")]);
    for told in ends.values() {
        assert_within(TTL, told);
    }
}

#[test]
fn g11_a_program_that_was_paused_for_longer_than_its_lease_finds_its_sessions_lost() {
    if is_curl_missing("a paused program") {
        return;
    }
    let gateway = start();
    let paused = Loop::start(&gateway, "paused", "1");
    let _other = Loop::start(&gateway, "other", "1");
    let first = begin(&gateway, "A", "paused");
    begin(&gateway, "B", "other");
    paused.signal(Signal::SIGSTOP);
    wait_for_ends(&gateway, &["A"], "lost");
    assert_active(&gateway, &["B"]);

    paused.signal(Signal::SIGCONT);
    wait_until(|| lease(&gateway, "paused")["lease"] == "heartbeat");
    // What it says of the session that it thinks it has changes nothing.
    let of_first = json!({"incarnation": first["incarnation"]});
    let (status, answer) = gateway.post("/v1/sessions/A/touch", &of_first);
    assert_eq!(
        (status, &answer["type"]),
        (404, &json!("urn:session-supervisor:problem:not-active"))
    );
    let again = begin(&gateway, "A", "paused");
    assert_eq!(again["previous_incarnation"], first["incarnation"]);
    let (status, answer) = gateway.post("/v1/sessions/A/end", &of_first);
    assert_eq!(status, 200, "{answer}");
    let active = session(&gateway, "A");
    assert_eq!(
        (&active["state"], &active["incarnation"]),
        (&json!("active"), &again["incarnation"])
    );
    gateway.settle();
    let ends = ends(&gateway.path("audit.jsonl"));
    assert_eq!(reasons(&ends), [("A", "lost")], "nothing fired");
}
