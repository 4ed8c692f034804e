//! A gateway whose plugin is a webhook: its stops, its death, and many sessions at once.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::gateway::{Gateway, agent, post, run};
use crate::receiver::{Address, Answer, Receiver, Request, SECRETS};
use crate::tools::{is_installed, skip};

const PATIENCE: Duration = Duration::from_secs(60);

/// A configuration with a webhook to `address`, and the files that it names in `dir`.
fn config(dir: &TempDir, address: &Address, more: &str) -> String {
    let (secrets, authority) = (dir.path().join("secrets"), dir.path().join("ca.pem"));
    fs::write(&secrets, SECRETS).unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(authority, address.authority()).unwrap();
    let url = address.url();
    format!(
        "state_dir = \"state\"\n[[plugin]]\nname = \"crm\"\nkind = \"webhook\"\nurl = \"{url}\"\n\
         secret_file = \"secrets\"\nca_file = \"ca.pem\"\nbackoff = \"10ms\"\nbackoff_max = \"50ms\"\n\
         {more}\n"
    )
}

/// Waits until the receiver has taken this many events, and answers which.
#[track_caller]
fn taken(receiver: &Receiver, count: usize) -> BTreeSet<String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let taken = BTreeSet::from_iter(receiver.taken());
        if taken.len() >= count {
            return taken;
        }
        assert!(Instant::now() < until, "{} of {count}", taken.len());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A receiver that answers so until it is repaired.
fn broken(answer: Answer) -> (Receiver, Arc<AtomicBool>) {
    let works = Arc::<AtomicBool>::default();
    let repaired = Arc::clone(&works);
    let receiver = Receiver::start(move |_| match works.load(Ordering::SeqCst) {
        true => Answer::Status(204),
        false => answer.clone(),
    });
    (receiver, repaired)
}

const SESSIONS: usize = 5;
const CAP: Duration = Duration::from_millis(500);
const TEARDOWN: Duration = Duration::from_secs(1);

#[test]
fn g4_a_receiver_that_does_not_answer_costs_a_stop_no_more_than_its_cap() {
    for (name, answer) in [
        ("stalled", Answer::Never),
        ("dripping headers", Answer::Drip("HTTP/1.1 200 OK\r\nx-")),
        (
            "failing",
            Answer::Drip("HTTP/1.1 500 \r\ncontent-length: 1000000\r\n\r\n"),
        ),
        ("closing", Answer::Torn("HTTP/1.1 200 OK\r\nx-")),
    ] {
        let (receiver, repaired) = broken(answer);
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir, receiver.address(), "[shutdown]\ncap = \"500ms\"");
        let gateway = Gateway::start_in(dir, &config);
        (0..SESSIONS).for_each(|n| gateway.begin(&format!("s{n}")));
        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.status.code(), Some(0), "{name}: {}", ended.log);
        assert!(ended.took <= CAP + TEARDOWN, "{name}: {:?}", ended.took);
        let drain = &ended.report()["drain"];
        assert_eq!(drain["owed"], SESSIONS, "{name}: {drain}");

        // What it was owed it gets from the next one, under the ids that it has seen.
        repaired.store(true, Ordering::SeqCst);
        let seen = receiver.event_ids();
        assert!(!seen.is_empty(), "{name}");
        let gateway = Gateway::start_in(ended.dir, &config);
        let taken = taken(&receiver, 2 * SESSIONS);
        assert_eq!(gateway.stop(Signal::SIGTERM).status.code(), Some(0));
        assert_eq!(receiver.event_ids(), taken, "{name}");
        assert!(taken.is_superset(&seen), "{name}");
        let ends = receiver.requests().into_iter();
        let ends = ends.filter(|it| it.body["type"] == "session_end");
        assert!(
            ends.into_iter().all(|it| it.body["reason"] == "shutdown"),
            "{name}"
        );
    }
}

#[test]
fn g7_what_a_killed_gateway_was_sending_is_sent_again_under_the_same_id() {
    let (receiver, repaired) = broken(Answer::Never);
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, receiver.address(), "");
    let gateway = Gateway::start_in(dir, &config);
    (0..SESSIONS).for_each(|n| gateway.begin(&format!("s{n}")));
    let until = Instant::now() + PATIENCE;
    while receiver.requests().is_empty() {
        assert!(Instant::now() < until, "nothing is sent");
        thread::sleep(Duration::from_millis(5));
    }
    let ended = gateway.stop(Signal::SIGKILL);
    let seen = receiver.event_ids();
    repaired.store(true, Ordering::SeqCst);
    let gateway = Gateway::start_in(ended.dir, &config);
    let taken = taken(&receiver, 2 * SESSIONS);
    assert_eq!(gateway.stop(Signal::SIGTERM).status.code(), Some(0));
    assert_eq!(
        (taken.len(), receiver.event_ids()),
        (2 * SESSIONS, taken.clone())
    );
    assert!(taken.is_superset(&seen));
    let ends = receiver.requests().into_iter();
    let mut ends = ends.filter(|it| it.body["type"] == "session_end");
    assert!(ends.all(|it| it.body["reason"] == "crash"));
}

#[test]
fn a_webhook_is_tested_and_its_secrets_are_shown_nowhere() {
    let receiver = Receiver::start(|request| match request.body["synthetic"] == true {
        true => Answer::Status(204),
        false => Answer::Status(500),
    });
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, receiver.address(), "");
    let mut gateway = Gateway::start_in(dir, &config);
    let tested = gateway.run(&["plugins", "test", "crm"]).done();
    assert!(
        tested.starts_with("crm took a start and an end in "),
        "{tested}"
    );
    gateway.begin("A");
    let failed = gateway.wait_for_log("500 Internal Server Error");
    let listed = gateway.run(&["plugins", "list", "--format", "json"]).done();
    let mut check = crate::gateway::command();
    let checked = run(check
        .arg("check")
        .arg("--config")
        .arg(gateway.path("config.toml")));
    let checked = checked.done();
    assert!(checked.contains("webhook"), "{checked}");
    let ended = gateway.stop(Signal::SIGTERM);
    let report = ended.report().to_string();
    for text in [&failed, &listed, &checked, &report, &ended.log] {
        for secret in SECRETS.split(' ').chain(["hooks?from"]) {
            assert!(
                !text.contains(secret.trim_start_matches("whsec_")),
                "{text}"
            );
        }
    }
    let first = &receiver.requests()[0];
    assert_eq!(first.body["synthetic"], true);
}

#[test]
fn proxies_of_the_environment_are_not_used() {
    let receiver = Receiver::start(|_| Answer::Status(204));
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, receiver.address(), "");
    // Nobody listens there.
    let env = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"].map(|name| (name, "http://127.0.0.1:1"));
    let gateway = Gateway::start_with_env(dir, &config, &env);
    gateway.begin("A");
    taken(&receiver, 1);
    assert_eq!(gateway.stop(Signal::SIGTERM).report()["outcome"], "clean");
}

/// Starts sessions, many at a time.
fn begin_many(gateway: &Gateway, sessions: usize) {
    const THREADS: usize = 32;
    let url = format!("{}/v1/sessions", gateway.url());
    thread::scope(|scope| {
        for part in 0..THREADS {
            let url = &url;
            scope.spawn(move || {
                let agent = agent();
                for n in (part..sessions).step_by(THREADS) {
                    let (status, _) = post(&agent, url, &json!({ "id": format!("s{n}") })).unwrap();
                    assert_eq!(status, 201);
                }
            });
        }
    });
}

/// How long a bare client takes to send these again, at the same concurrency.
fn bare(address: &Address, requests: &[Request]) -> Duration {
    let authority = Certificate::from_pem(address.authority().as_bytes()).unwrap();
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[authority]));
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .tls_config(tls.build());
    let agent: ureq::Agent = config.build().into();
    let began = Instant::now();
    thread::scope(|scope| {
        for part in 0..4 {
            let agent = agent.clone();
            scope.spawn(move || {
                for request in requests.iter().skip(part).step_by(4) {
                    let mut sent = agent.post(address.url());
                    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
                        sent = sent.header(name, request.header(name));
                    }
                    sent.content_type("application/json")
                        .send(request.body.to_string())
                        .unwrap();
                }
            });
        }
    });
    began.elapsed()
}

#[test]
fn ten_thousand_sessions_end_at_a_webhook() {
    const SESSIONS: usize = 10_000;
    let mut figures = String::new();
    for body in ["event", "batch"] {
        let receiver = Receiver::start(|_| Answer::Status(204));
        let dir = tempfile::tempdir().unwrap();
        let more = format!(
            "hooks = [\"session_end\"]\nbody = \"{body}\"\n\
             [shutdown]\ncap = \"1m\"\nkill_after = \"2m\"\n[ledger]\ndurability = \"process\""
        );
        let config = config(&dir, receiver.address(), &more);
        let gateway = Gateway::start_in(dir, &config);
        begin_many(&gateway, SESSIONS);
        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        let drain = ended.report()["drain"].clone();
        assert_eq!(drain["delivered"], SESSIONS, "{drain}");
        assert_eq!(receiver.taken().len(), SESSIONS);
        let requests = receiver.requests();
        let connections: BTreeSet<_> = requests.iter().map(|it| it.connection).collect();
        // One may be on its way back when the next request is made.
        assert!(connections.len() <= 8, "{connections:?}");
        let took = Duration::from_millis(drain["duration_ms"].as_u64().unwrap());
        let bare = bare(receiver.address(), &requests);
        let _ = writeln!(
            figures,
            "webhook, body = {body:?}: {SESSIONS} ends in {} requests over {} connections: {took:?}; \
             a bare client: {bare:?}",
            requests.len(),
            connections.len(),
        );
    }
    eprint!("{figures}");
}

/// A program that is ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_receiver_of_the_guide_verifies_and_takes_events() {
    if !is_installed("python3") {
        return skip("the receiver of the guide", "python3");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/webhook_receiver.py");
    let mut command = Command::new("python3");
    command.arg(script).arg("0").env("WEBHOOK_SECRET", SECRETS);
    let mut program = Program(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    let port = line();
    let port = port.strip_prefix("listening on port ").unwrap();
    let url = format!("http://127.0.0.1:{port}");
    for body in ["event", "batch"] {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "state_dir = \"state\"\n[[plugin]]\nname = \"crm\"\nkind = \"webhook\"\nurl = \"{url}\"\n\
             secret_env = \"CRM\"\nbody = \"{body}\"\n"
        );
        // A key that the receiver knows is enough.
        let known = SECRETS.split(' ').next_back().unwrap();
        let gateway = Gateway::start_with_env(dir, &config, &[("CRM", known)]);
        gateway.begin("A");
        assert_eq!(line(), "session_start A None");
        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.report()["outcome"], "clean");
        assert_eq!(line(), "session_end A shutdown");
    }
    let forged = json!({ "type": "session_end", "event_id": "x" });
    assert_eq!(post(&agent(), &url, &forged), Some((401, Value::Null)));
}
