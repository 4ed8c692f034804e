//! What a service manager is told, over a socket as systemd has one.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use sd_notify::NotifyState;
use serde_json::json;
use tempfile::TempDir;

use crate::gateway::{AUDITED, Gateway};

/// How long anything may take before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the progress of a drain is told at the most.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

const DATABASE: &str = r#"
[[plugin]]
name = "memory-db"
kind = "sql"
url = "sqlite:app.db"
session_end = "INSERT INTO ends(id) VALUES (:session_id)"
"#;

/// Stands for the service manager.
struct Manager {
    socket: UnixDatagram,
    /// As the environment names its socket.
    name: String,
    _dir: TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self::at(socket, path.to_str().unwrap().to_owned(), dir)
    }

    /// One whose socket has a name that is no path.
    fn abstract_one() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().display().to_string();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Self::at(socket, format!("@{name}"), dir)
    }

    fn at(socket: UnixDatagram, name: String, dir: TempDir) -> Self {
        Self {
            socket,
            name,
            _dir: dir,
        }
    }

    /// A gateway that tells this manager.
    fn start(&self, config: &str, env: &[(&str, &str)]) -> Gateway {
        self.start_in(tempfile::tempdir().unwrap(), config, env)
    }

    fn start_in(&self, dir: TempDir, config: &str, env: &[(&str, &str)]) -> Gateway {
        let mut all = vec![("NOTIFY_SOCKET", self.name.as_str())];
        all.extend(env);
        Gateway::start_with_env(dir, config, &all)
    }

    /// The lines of the next message, if one comes in time.
    fn next_within(&self, limit: Duration) -> Option<Vec<String>> {
        // A time-out of nothing would be one of forever.
        let limit = limit.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        let text = std::str::from_utf8(&message[..length]).unwrap();
        Some(text.lines().map(str::to_owned).collect())
    }

    #[track_caller]
    fn next(&self) -> Vec<String> {
        self.next_within(PATIENCE).expect("a message")
    }

    /// Everything that comes up to the message with this line.
    #[track_caller]
    fn until(&self, line: &str) -> Vec<Vec<String>> {
        let (mut seen, until) = (Vec::new(), Instant::now() + PATIENCE);
        while let Some(message) = self.next_within(until - Instant::now()) {
            let is_last = message.iter().any(|it| it == line);
            seen.push(message);
            if is_last {
                return seen;
            }
        }
        panic!("no `{line}` in {seen:?}");
    }

    /// How many signs of life come during this time.
    fn signs_of_life(&self, during: Duration) -> usize {
        let until = Instant::now() + during;
        let mut count = 0;
        while let Some(left) = until.checked_duration_since(Instant::now())
            && let Some(message) = self.next_within(left)
        {
            count += usize::from(message == ["WATCHDOG=1"]);
        }
        count
    }
}

fn statuses(messages: &[Vec<String>]) -> Vec<&str> {
    let lines = messages.iter().flatten();
    lines
        .filter_map(|line| line.strip_prefix("STATUS="))
        .collect()
}

#[test]
fn a_manager_is_told_of_the_start_once_it_listens_and_of_the_stop() {
    for manager in [Manager::new(), Manager::abstract_one()] {
        let gateway = manager.start(AUDITED, &[]);
        let address = gateway.url().strip_prefix("http://").unwrap();
        let listening = format!("STATUS=listening on {address}");
        assert_eq!(manager.next(), ["READY=1", &listening]);
        gateway.begin("A");
        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.status.code(), Some(0));
        assert_eq!(manager.next(), ["STOPPING=1", "STATUS=stopping"]);
        let last = ["STOPPING=1", "STATUS=stopped: clean, 1 of 1 deliveries"];
        assert_eq!(manager.next(), last);
        assert_eq!(manager.next_within(Duration::ZERO), None);
    }
}

#[test]
fn a_stop_that_is_asked_for_over_http_is_told_too() {
    let manager = Manager::new();
    let gateway = manager.start(AUDITED, &[]);
    gateway.post("/v1/shutdown", &json!({}));
    assert_eq!(gateway.wait().status.code(), Some(0));
    let messages = manager.until("STATUS=stopped: clean, 0 of 0 deliveries");
    let first: Vec<_> = messages.iter().map(|message| message[0].as_str()).collect();
    assert_eq!(first, ["READY=1", "STOPPING=1", "STOPPING=1"]);
}

/// A database that stays locked until the connection is dropped, in a folder of its own.
fn locked_database() -> (TempDir, PathBuf, Connection) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let database = Connection::open(&path).unwrap();
    let locked = "CREATE TABLE ends(id TEXT); BEGIN EXCLUSIVE";
    database.execute_batch(locked).unwrap();
    (dir, path, database)
}

#[test]
fn the_progress_of_a_drain_is_told_now_and_then() {
    let (dir, path, lock) = locked_database();
    let manager = Manager::new();
    let config = format!("{AUDITED}{DATABASE}[shutdown]\ncap = \"8s\"\n");
    let gateway = manager.start_in(dir, &config, &[]);
    for n in 0..500 {
        gateway.begin(&format!("sess-{n}"));
    }
    let began = Instant::now();
    gateway.signal(Signal::SIGTERM);
    let draining = "STATUS=draining: 500 of 1,000 deliveries, waiting for memory-db";
    let mut messages = manager.until(draining);
    drop(lock);
    let ended = gateway.wait();
    messages.extend(manager.until("STATUS=stopped: clean, 1,000 of 1,000 deliveries"));
    assert_eq!(ended.status.code(), Some(0));

    let stopping = statuses(&messages).iter().position(|it| *it == "stopping");
    assert_eq!(stopping, Some(1), "{messages:?}");
    let progress = messages.len() - 3;
    let most = began.elapsed().as_millis() / PROGRESS_EVERY.as_millis() + 1;
    assert!(progress as u128 <= most, "{messages:?}");
    let told = Connection::open(path).unwrap();
    let count = "SELECT count(*) FROM ends";
    let count: i64 = told.query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(count, 500);
}

#[test]
fn what_a_stop_leaves_owed_is_in_its_last_words() {
    let (dir, _, _lock) = locked_database();
    let manager = Manager::new();
    let gateway = manager.start_in(dir, &format!("{AUDITED}{DATABASE}"), &[]);
    gateway.begin("A");
    assert_eq!(gateway.stop(Signal::SIGTERM).status.code(), Some(0));
    manager.until("STATUS=stopped: owed, 1 of 2 deliveries");
}

/// How long the manager waits for a sign of life, in these tests.
const WATCHDOG: Duration = Duration::from_millis(800);

#[test]
fn signs_of_life_come_twice_in_the_time_of_the_watchdog_until_the_gateway_hangs() {
    let manager = Manager::new();
    let limit = WATCHDOG.as_micros().to_string();
    let gateway = manager.start(AUDITED, &[("WATCHDOG_USEC", &limit)]);
    manager.until("WATCHDOG=1");
    let alive = manager.signs_of_life(WATCHDOG * 4);
    assert!((4..=9).contains(&alive), "{alive}");

    gateway.signal(Signal::SIGSTOP);
    // What was on its way.
    manager.signs_of_life(WATCHDOG / 4);
    assert_eq!(manager.signs_of_life(WATCHDOG * 2), 0);
    gateway.signal(Signal::SIGCONT);
    manager.until("WATCHDOG=1");
    assert_eq!(gateway.stop(Signal::SIGTERM).status.code(), Some(0));
}

#[test]
fn signs_of_life_go_on_while_a_stop_drains() {
    let (dir, _, _lock) = locked_database();
    let manager = Manager::new();
    let limit = WATCHDOG.as_micros().to_string();
    let config = format!("{AUDITED}{DATABASE}[shutdown]\ncap = \"4s\"\n");
    let gateway = manager.start_in(dir, &config, &[("WATCHDOG_USEC", &limit)]);
    gateway.begin("A");
    gateway.signal(Signal::SIGTERM);
    manager.until("STOPPING=1");
    let alive = manager.signs_of_life(WATCHDOG * 3);
    assert!(alive >= 3, "{alive}");
    assert_eq!(gateway.wait().status.code(), Some(0));
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_gets_no_sign_of_life() {
    let manager = Manager::new();
    let env = [("WATCHDOG_USEC", "40000"), ("WATCHDOG_PID", "1")];
    let _gateway = manager.start(AUDITED, &env);
    manager.next();
    assert_eq!(manager.next_within(Duration::from_millis(200)), None);
}

fn monotonic_usec() -> i128 {
    match NotifyState::monotonic_usec_now() {
        Ok(NotifyState::MonotonicUsec(now)) => now,
        other => panic!("no clock: {other:?}"),
    }
}

#[test]
fn a_reload_is_told_from_its_beginning_to_its_end() {
    let manager = Manager::new();
    let gateway = manager.start(AUDITED, &[]);
    let [_, listening] = &manager.next()[..] else {
        panic!("no status");
    };
    let reload = |outcome: &str| {
        let asked = monotonic_usec();
        gateway.signal(Signal::SIGHUP);
        let [reloading, begun] = &manager.next()[..] else {
            panic!("no time");
        };
        assert_eq!(reloading, "RELOADING=1");
        let begun: i128 = begun
            .strip_prefix("MONOTONIC_USEC=")
            .unwrap()
            .parse()
            .unwrap();
        assert!((asked..=monotonic_usec()).contains(&begun), "{begun}");
        let [ready, status] = &manager.next()[..] else {
            panic!("no status");
        };
        assert_eq!(ready, "READY=1");
        let expected = format!("{listening}; {outcome}");
        assert!(status.starts_with(&expected), "{status}");
        status.clone()
    };
    reload("reloaded");
    let wrong = format!("max_idle = 1\nREADY = \"\\n\"\n{AUDITED}");
    std::fs::write(gateway.path("config.toml"), wrong).unwrap();
    let status = reload("not reloaded: ");
    assert!(status.contains("config.toml:1: "), "{status}");
    std::fs::write(gateway.path("config.toml"), AUDITED).unwrap();
    reload("reloaded");
    assert_eq!(gateway.stop(Signal::SIGTERM).status.code(), Some(0));
}

#[test]
fn g4_a_manager_that_does_not_listen_holds_up_neither_start_nor_stop() {
    let manager = Manager::new();
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    full.connect(&manager.name).unwrap();
    while full.send(b"WATCHDOG=1").is_ok() {}
    let env = [("WATCHDOG_USEC", "10000")];
    let gateway = manager.start(AUDITED, &env);
    gateway.begin("A");
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.took < Duration::from_secs(2), "took {:?}", ended.took);
    assert_eq!(ended.report()["outcome"], "clean");
}

#[test]
fn a_manager_that_listens_late_is_told_all_the_same() {
    let manager = Manager::new();
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    full.connect(&manager.name).unwrap();
    while full.send(b"WATCHDOG=1").is_ok() {}
    let _gateway = manager.start(AUDITED, &[]);
    manager.until("READY=1");
}

#[test]
fn a_manager_that_can_not_be_found_is_a_line_in_the_log() {
    for socket in ["/nowhere/to/be/found", "vsock:2:1234", "@"] {
        let dir = tempfile::tempdir().unwrap();
        let env = [("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", "10000")];
        let gateway = Gateway::start_with_env(dir, AUDITED, &env);
        gateway.begin("A");
        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.status.code(), Some(0));
        let told = ended.log.matches("the service manager can't be told");
        assert_eq!(told.count(), 1, "{}", ended.log);
    }
}
