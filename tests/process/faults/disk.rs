//! Disks: full, stalled, read-only, torn and damaged; and ledgers that are not this release's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Shim;
use crate::gateway::{Ended, Gateway, agent, command, json_lines, run};
use crate::tools::skip;

const PATIENCE: Duration = Duration::from_secs(30);

const CONFIG: &str = "state_dir = \"state\"\n[shutdown]\ncap = \"1s\"\nteardown = \"500ms\"\n\
    [[plugin]]\nname = \"audit\"\nkind = \"log\"\npath = \"audit.jsonl\"\n";

/// From the signal to the exit, with [`CONFIG`]: cap, teardown, and a little for a busy machine.
const GONE_WITHIN: Duration = Duration::from_millis(2500);

/// A gateway of which the state directory is watched.
fn start_watched(shim: &Shim, folder: TempDir) -> Result<Gateway, Ended> {
    let mut command = Gateway::command_in(&folder, CONFIG);
    shim.watch(&mut command, &folder.path().join("state"));
    Gateway::launch(folder, command)
}

/// A command that first carries out a script of the shell, in a mount namespace of its own. None,
/// and `test` is said to be skipped, where nothing can be mounted.
fn with_mounts(test: &str, script: &str, command: &Command) -> Option<Command> {
    let script = format!("set -e; {script}; exec \"$0\" \"$@\"");
    let mut inside = Command::new("unshare");
    inside.args(["-m", "sh", "-c", &script]);
    let mut probe = Command::new("unshare");
    probe.args(["-m", "sh", "-c", "mount -t tmpfs none /mnt"]);
    probe.stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        skip(test, "unshare -m, and the right to mount");
        return None;
    }
    inside.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Some(inside)
}

/// Waits until `/readyz` answers `status`.
fn wait_until_ready_is(gateway: &Gateway, status: u16) {
    let until = Instant::now() + PATIENCE;
    while gateway.get("/readyz").0 != status {
        assert!(Instant::now() < until, "/readyz never answers {status}");
        sleep(Duration::from_millis(20));
    }
}

/// The distinct ids of the ends that the log has, by session.
fn ends_by_session(folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut ends = BTreeMap::<String, BTreeSet<String>>::new();
    for event in json_lines(&folder.join("audit.jsonl")) {
        if event["type"] == "session_end" {
            let id = event["session"]["id"].as_str().unwrap();
            let event_id = event["event_id"].as_str().unwrap();
            ends.entry(id.into()).or_default().insert(event_id.into());
        }
    }
    ends
}

/// Asserts that each of these sessions has one end, and no other has one.
#[track_caller]
fn assert_one_end_each<'a>(folder: &Path, ids: impl IntoIterator<Item = &'a str>) {
    let ends = ends_by_session(folder);
    assert!(ends.values().all(|ids| ids.len() == 1), "{ends:?}");
    let expected: BTreeSet<_> = ids.into_iter().collect();
    let found: BTreeSet<_> = ends.keys().map(String::as_str).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_full_disk_refuses_starts_and_ends_loses_nothing_and_recovers_by_itself() {
    let test = "a_full_disk_refuses_starts_and_ends_loses_nothing_and_recovers_by_itself";
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("state")).unwrap();
    let state = folder.path().join("state");
    let mount = format!("mount -t tmpfs -o size=2m none {}", state.display());
    let serve = Gateway::command_in(&folder, CONFIG);
    let Some(command) = with_mounts(test, &mount, &serve) else {
        return;
    };
    let Ok(gateway) = Gateway::launch(folder, command) else {
        panic!("it does not start");
    };
    gateway.begin("early");
    // The small disk as the gateway sees it.
    let seen = format!("/proc/{}/root{}/filler", gateway.pid(), state.display());
    let mut filler = fs::File::create(&seen).unwrap();
    while filler.write_all(&[b'x'; 4096]).is_ok() {}

    let (mut started, mut n) = (vec!["early".to_owned()], 0);
    let refused = loop {
        let id = format!("s{n}");
        let request = agent().post(format!("{}/v1/sessions", gateway.url()));
        let mut answer = request.send_json(json!({"id": id})).unwrap();
        let body: Value = answer.body_mut().read_json().unwrap();
        if answer.status() != 201 {
            break (answer, body);
        }
        started.push(id);
        n += 1;
        assert!(n < 5000, "the disk is never full");
    };
    let (answer, problem) = refused;
    assert_eq!(answer.status(), 503, "{problem}");
    assert_eq!(
        problem["type"],
        "urn:session-supervisor:problem:ledger-unavailable"
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("no space is left on the disk"), "{detail}");
    assert!(answer.headers().contains_key("retry-after"));
    let (status, problem) = gateway.post("/v1/sessions/early/end", &json!({}));
    assert_eq!(status, 503, "{problem}");
    wait_until_ready_is(&gateway, 503);
    assert_eq!(gateway.get("/readyz").1["type"], problem["type"]);
    assert_eq!(gateway.get("/v1/sessions/early").1["state"], "active");

    drop(filler);
    fs::remove_file(&seen).unwrap();
    wait_until_ready_is(&gateway, 200);
    gateway.begin("late");
    started.push("late".into());
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.took < GONE_WITHIN, "took {:?}", ended.took);
    assert_one_end_each(ended.dir.path(), started.iter().map(String::as_str));
}

#[test]
fn a_stop_on_a_full_disk_is_bounded_and_the_next_start_ends_the_same_sessions_once() {
    let test = "a_stop_on_a_full_disk_is_bounded_and_the_next_start_ends_the_same_sessions_once";
    let Some(shim) = Shim::for_test(test) else {
        return;
    };
    let Ok(gateway) = start_watched(&shim, tempfile::tempdir().unwrap()) else {
        panic!("it does not start");
    };
    gateway.begin("A");
    gateway.begin("B");
    shim.set("full", "");
    let ended = gateway.stop(Signal::SIGTERM);
    assert!(ended.took < GONE_WITHIN, "took {:?}", ended.took);
    assert_eq!(ended.status.code(), Some(3), "{}", ended.log);
    assert!(ended.log.contains("no space is left"), "{}", ended.log);
    assert_one_end_each(ended.dir.path(), ["A", "B"]);

    let Err(full) = start_watched(&shim, ended.dir) else {
        panic!("it starts on a full disk");
    };
    // Not 78, which says that a restart is of no use.
    assert_eq!(full.status.code(), Some(1), "{}", full.log);
    assert!(full.log.contains("No space left"), "{}", full.log);

    shim.clear("full");
    let ended = Gateway::start_in(full.dir, CONFIG).stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_one_end_each(ended.dir.path(), ["A", "B"]);
}

#[test]
fn g4_a_ledger_whose_disk_stalls_during_a_stop_is_not_waited_for() {
    let test = "g4_a_ledger_whose_disk_stalls_during_a_stop_is_not_waited_for";
    let Some(shim) = Shim::for_test(test) else {
        return;
    };
    let Ok(gateway) = start_watched(&shim, tempfile::tempdir().unwrap()) else {
        panic!("it does not start");
    };
    gateway.begin("A");
    gateway.begin("B");
    // For as long as the process lives, which is to be far less than 30 s.
    shim.set("stall", "");
    let ended = gateway.stop(Signal::SIGTERM);
    assert!(ended.took < GONE_WITHIN, "took {:?}", ended.took);
    assert_eq!(ended.status.code(), Some(3), "{}", ended.log);
    let report = ended.report();
    assert_eq!(report["outcome"], "lost", "{report}");
    assert_eq!(report["exit_code"], 3);
    let warnings = report["warnings"].as_array().unwrap();
    assert!(warnings.contains(&json!("ledger")), "{report}");
    // They are told all the same.
    assert_one_end_each(ended.dir.path(), ["A", "B"]);

    shim.clear("stall");
    let ended = Gateway::start_in(ended.dir, CONFIG).stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_one_end_each(ended.dir.path(), ["A", "B"]);
}

/// What `serve` says that does not start.
fn refused(folder: TempDir, command: Command) -> Ended {
    match Gateway::launch(folder, command) {
        Ok(_) => panic!("it starts"),
        Err(ended) => ended,
    }
}

#[test]
fn a_read_only_state_directory_is_refused_at_start() {
    let test = "a_read_only_state_directory_is_refused_at_start";
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let state = state.display();
    let mount = format!("mount --bind {state} {state}; mount -o remount,ro,bind {state}");
    let serve = Gateway::command_in(&folder, CONFIG);
    let Some(command) = with_mounts(test, &mount, &serve) else {
        return;
    };
    let ended = refused(folder, command);
    assert_eq!(ended.status.code(), Some(78), "{}", ended.log);
    for said in ["config.toml:1: ", "can't be written", "Read-only"] {
        assert!(ended.log.contains(said), "no `{said}` in {}", ended.log);
    }
}

/// The files of a ledger, byte for byte, without those that hold nothing.
fn ledger_files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder.join("state")).unwrap();
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| name.starts_with("ledger") && !name.ends_with("-shm"))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect()
}

/// What a gateway leaves that was killed with session `A`, or stopped.
fn left(signal: Signal) -> TempDir {
    let gateway = Gateway::start_in(tempfile::tempdir().unwrap(), CONFIG);
    gateway.begin("A");
    gateway.stop(signal).dir
}

/// Asserts that the ledger in `folder` is refused by `serve` and by `recover`, who say why and what
/// to do, and that it stays as it is.
fn assert_refused_and_untouched(folder: TempDir, said: &[&str]) {
    let before = ledger_files(folder.path());
    let serve = Gateway::command_in(&folder, CONFIG);
    let ended = refused(folder, serve);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    for said in said {
        assert!(ended.log.contains(said), "no `{said}` in {}", ended.log);
    }
    let config = ended.path("config.toml");
    for more in [&[][..], &["--dry-run"]] {
        let mut recover = command();
        recover.args(["recover", "--config"]).arg(&config);
        run(recover.args(more)).failed(1, said);
    }
    assert!(before == ledger_files(ended.dir.path()), "it was touched");
}

#[test]
fn a_ledger_of_a_newer_version_is_refused_and_left_as_it_is() {
    let folder = left(Signal::SIGTERM);
    let ledger = Connection::open(folder.path().join("state/ledger.db")).unwrap();
    let newer = "PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)";
    ledger.execute_batch(newer).unwrap();
    drop(ledger);
    assert_refused_and_untouched(folder, &["version 99", "start the release that wrote it"]);
}

#[test]
fn a_damaged_ledger_is_refused_with_what_to_do_and_never_made_anew() {
    let folder = left(Signal::SIGTERM);
    let path = folder.path().join("state/ledger.db");
    let mut bytes = fs::read(&path).unwrap();
    let from = bytes.len() / 4;
    bytes[from..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    assert_refused_and_untouched(folder, &["is damaged", "restore it"]);
}

#[test]
fn a_wal_file_without_its_ledger_is_refused_and_left_as_it_is() {
    let folder = left(Signal::SIGKILL);
    fs::remove_file(folder.path().join("state/ledger.db")).unwrap();
    let before = ledger_files(folder.path());
    let serve = Gateway::command_in(&folder, CONFIG);
    let ended = refused(folder, serve);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("is gone or empty"), "{}", ended.log);
    assert!(before == ledger_files(ended.dir.path()), "it was touched");
}

#[test]
fn a_torn_end_of_the_wal_file_costs_nothing_that_was_answered() {
    let folder = left(Signal::SIGKILL);
    let wal = folder.path().join("state/ledger.db-wal");
    let mut bytes = fs::read(&wal).unwrap();
    let frame = 24 + 4096;
    // A commit that was under way: the head of a frame that is, and half a page.
    let torn = bytes[32..32 + frame / 2].to_vec();
    bytes.extend(torn);
    fs::write(&wal, bytes).unwrap();

    let gateway = Gateway::start_in(folder, CONFIG);
    assert_eq!(gateway.get("/v1/sessions/A").1["reason"], "crash");
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_one_end_each(ended.dir.path(), ["A"]);
}

#[test]
fn a_truncated_wal_file_costs_the_last_commits_and_the_gateway_goes_on() {
    for part in 1..5 {
        let folder = left(Signal::SIGKILL);
        let wal = folder.path().join("state/ledger.db-wal");
        let length = fs::metadata(&wal).unwrap().len();
        let cut = fs::File::options().write(true).open(&wal).unwrap();
        cut.set_len(length * part / 5).unwrap();

        let gateway = Gateway::start_in(folder, CONFIG);
        assert_eq!(gateway.get("/v1/sessions").1["sessions"], json!([]));
        gateway.begin("B");
        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        let ends = ends_by_session(ended.dir.path());
        assert!(ends.contains_key("B"), "{ends:?}");
        assert!(ends.values().all(|ids| ids.len() == 1), "{ends:?}");
    }
}

#[test]
fn a_second_gateway_on_a_state_directory_is_refused_with_the_first_ones_process() {
    let gateway = Gateway::start_in(tempfile::tempdir().unwrap(), CONFIG);
    let other = tempfile::tempdir().unwrap();
    let mut second = Gateway::command_in(&other, CONFIG);
    second.arg("--state-dir").arg(gateway.path("state"));
    let refused = refused(other, second);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.log);
    let holder = format!("in use by process {}", gateway.pid());
    assert!(refused.log.contains(&holder), "{}", refused.log);

    gateway.begin("A");
    // Killed, it leaves its lock file, and nobody is held up by that.
    let ended = gateway.stop(Signal::SIGKILL);
    assert!(ended.path("state/lock").exists());
    let ended = Gateway::start_in(ended.dir, CONFIG).stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_one_end_each(ended.dir.path(), ["A"]);
}
