//! The recipe of `docs/recipes.md`, run as it stands there: a store of sessions stays free of ghosts.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway::{Ended, Gateway};

const PATIENCE: Duration = Duration::from_secs(30);
const GHOSTS: usize = 11;

/// The block of the page behind this mark.
fn block(mark: &str) -> &'static str {
    let page = include_str!("../../docs/recipes.md");
    let rest = page.split(&format!("<!-- {mark} -->\n```")).nth(1).unwrap();
    let (_, block) = rest.split("```").next().unwrap().split_once('\n').unwrap();
    block
}

/// The configuration of the page, with files of this test.
fn config() -> String {
    let config = block("config");
    for text in ["/var/lib/session-supervisor", "/var/lib/memory/memory.db"] {
        assert_eq!(config.matches(text).count(), 1, "{text}");
    }
    let config = config
        .replace("/var/lib/session-supervisor", "state")
        .replace("/var/lib/memory/memory.db", "memory.db");
    format!("{config}timeout = \"500ms\"\nbackoff = \"10ms\"\nbackoff_max = \"50ms\"\n")
}

/// The same without the plugin: before it was installed.
fn config_before() -> String {
    let config = config();
    config.split("[[plugin]]").next().unwrap().to_owned()
}

fn open(path: &Path) -> Connection {
    let store = Connection::open(path).unwrap();
    store.busy_timeout(PATIENCE).unwrap();
    store
}

/// A store that has its ghosts, and two rows that have ended.
fn store() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("memory.db"));
    store.execute_batch(block("table")).unwrap();
    for n in 0..GHOSTS {
        adopt(&store, &format!("ghost-{n}"));
    }
    for (id, status) in [("old-1", "completed"), ("old-2", "failed")] {
        adopt(&store, id);
        complete(&store, id, status, "2026-01-01T00:00:00.000Z");
    }
    dir
}

/// The store hears of a session by itself.
fn adopt(store: &Connection, id: &str) {
    let insert = "INSERT INTO sdk_sessions(content_session_id) VALUES (?1)";
    store.execute(insert, [id]).unwrap();
}

/// The store completes a session by itself.
fn complete(store: &Connection, id: &str, status: &str, at: &str) {
    let update = "UPDATE sdk_sessions SET status = ?2, completed_at = ?3
         WHERE content_session_id = ?1";
    store.execute(update, [id, status, at]).unwrap();
}

/// The ids of the rows that are so, in order.
fn rows(path: &Path, status: &str) -> Vec<String> {
    let store = open(path);
    let mut rows = store
        .prepare(
            "SELECT content_session_id, status = 'active' = (completed_at IS NULL)
             FROM sdk_sessions WHERE status = ?1 ORDER BY 1",
        )
        .unwrap();
    let rows = rows.query_map([status], |row| {
        let is_sound: bool = row.get(1)?;
        assert!(
            is_sound,
            "an end without its time, or a time without an end"
        );
        row.get(0)
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn row(path: &Path, id: &str) -> (String, Option<String>) {
    let select = "SELECT status, completed_at FROM sdk_sessions WHERE content_session_id = ?1";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    open(path).query_row(select, [id], row).unwrap()
}

fn wait_for_plugin(gateway: &Gateway, is_so: impl Fn(&Value) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, answer) = gateway.get("/v1/plugins");
        let plugin = &answer["plugins"][0];
        if is_so(plugin) {
            return;
        }
        assert!(Instant::now() < until, "{plugin}");
        sleep(Duration::from_millis(10));
    }
}

/// Waits until the rows that are active are these. The opening is in no count of what is owed.
#[track_caller]
fn wait_for_active(gateway: &Gateway, ids: &[&str]) {
    wait_for_plugin(gateway, |plugin| plugin["owed"] == 0);
    let until = Instant::now() + PATIENCE;
    while rows(&gateway.path("memory.db"), "active") != ids {
        let active = rows(&gateway.path("memory.db"), "active");
        assert!(Instant::now() < until, "{active:?}, not {ids:?}");
        sleep(Duration::from_millis(10));
    }
}

fn end(gateway: &Gateway, id: &str, reason: &str) {
    let path = format!("/v1/sessions/{id}/end");
    let (status, answer) = gateway.post(&path, &json!({ "reason": reason }));
    assert_eq!(status, 200, "{answer}");
}

fn start(ended: Ended) -> Gateway {
    Gateway::start_in(ended.dir, &config())
}

#[test]
fn a_store_with_the_recipe_has_no_ghosts_whatever_ends_its_sessions() {
    let gateway = Gateway::start_in(store(), &config_before());
    let store = gateway.path("memory.db");
    for id in ["live", "normal", "broken", "own"] {
        adopt(&open(&store), id);
        gateway.begin(id);
    }
    assert_eq!(rows(&store, "active").len(), GHOSTS + 4);

    // Installed while all that goes on.
    fs::write(gateway.path("config.toml"), config()).unwrap();
    gateway.run(&["plugins", "reload"]).done();
    wait_for_active(&gateway, &["broken", "live", "normal", "own"]);
    assert_eq!(rows(&store, "failed").len(), GHOSTS + 1);
    let unchanged = Some("2026-01-01T00:00:00.000Z".to_owned());
    assert_eq!(
        row(&store, "old-1"),
        ("completed".into(), unchanged.clone())
    );
    assert_eq!(row(&store, "old-2"), ("failed".into(), unchanged));

    end(&gateway, "normal", "completed");
    end(&gateway, "broken", "failed");
    let own = "2030-01-01T00:00:00.000Z";
    complete(&open(&store), "own", "completed", own);
    end(&gateway, "own", "failed");
    gateway.begin("new");
    wait_for_active(&gateway, &["live", "new"]);
    assert_eq!(row(&store, "normal").0, "completed");
    assert_eq!(row(&store, "broken").0, "failed");
    assert_eq!(row(&store, "own"), ("completed".into(), Some(own.into())));

    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.report()["outcome"], "clean", "{}", ended.log);
    let store = ended.path("memory.db");
    assert!(rows(&store, "active").is_empty());
    assert_eq!(row(&store, "live").0, "completed");

    // A restart: one goes on, one is new, and both end with it.
    let gateway = start(ended);
    gateway.begin("live");
    gateway.begin("next");
    wait_for_active(&gateway, &["live", "next"]);
    let ended = gateway.stop(Signal::SIGUSR2);
    assert_eq!(ended.report()["reason"], "restart");
    let store = ended.path("memory.db");
    assert!(rows(&store, "active").is_empty());
    assert_eq!(row(&store, "next").0, "completed");

    // Killed with two at work. They are ghosts until the next start.
    let gateway = start(ended);
    gateway.begin("live");
    gateway.begin("killed");
    wait_for_active(&gateway, &["killed", "live"]);
    let ended = gateway.stop(Signal::SIGKILL);
    let store = ended.path("memory.db");
    assert_eq!(rows(&store, "active"), ["killed", "live"]);

    let gateway = start(ended);
    gateway.begin("last");
    wait_for_active(&gateway, &["last"]);
    let (_, listed) = gateway.get("/v1/sessions");
    let listed = listed["sessions"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["id"], "last");
    for id in ["killed", "live"] {
        assert_eq!(row(&store, id).0, "failed", "{id}");
    }
    let ended = gateway.stop(Signal::SIGTERM);
    assert!(rows(&ended.path("memory.db"), "active").is_empty());
    assert_eq!(rows(&ended.path("memory.db"), "completed").len(), 6);
}

/// Notes in the store itself in which order its rows are changed.
const HISTORY: &str = "CREATE TABLE history(id TEXT, status TEXT);
    CREATE TRIGGER made AFTER INSERT ON sdk_sessions
        BEGIN INSERT INTO history VALUES (new.content_session_id, 'made'); END;
    CREATE TRIGGER changed AFTER UPDATE ON sdk_sessions
        BEGIN INSERT INTO history VALUES (new.content_session_id, new.status); END";

/// What became of rows, in order.
fn history(path: &Path) -> Vec<String> {
    let store = open(path);
    let mut history = store.prepare("SELECT status FROM history").unwrap();
    let rows = history.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// The place of the byte with which SQLite tells whether it may write a file, and a version that it
/// does not know yet: then the file is read-only, for root too.
const WRITE_VERSION: (u64, u8) = (18, 3);

fn write_version(path: &Path) -> u8 {
    let mut byte = [0];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut byte, WRITE_VERSION.0)
        .unwrap();
    byte[0]
}

fn set_write_version(path: &Path, version: u8) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[version], WRITE_VERSION.0).unwrap();
}

/// What mends the store again.
type Mend = Box<dyn FnOnce(&Path)>;
/// What makes the store one that can't be used.
type Break<'a> = &'a dyn Fn(&Path) -> Mend;

#[test]
fn a_store_that_cannot_be_used_at_the_start_is_first_put_in_order_and_loses_nothing() {
    let locked = |path: &Path| -> Mend {
        let other = open(path);
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        Box::new(move |_| other.execute_batch("COMMIT").unwrap())
    };
    let missing = |path: &Path| -> Mend {
        let elsewhere = path.with_extension("away");
        fs::rename(path, &elsewhere).unwrap();
        Box::new(move |path| {
            assert!(!path.exists(), "it was made");
            fs::rename(elsewhere, path).unwrap();
        })
    };
    let read_only = |path: &Path| -> Mend {
        let version = write_version(path);
        set_write_version(path, WRITE_VERSION.1);
        Box::new(move |path| set_write_version(path, version))
    };
    let table_less = |path: &Path| -> Mend {
        let rename = "ALTER TABLE sdk_sessions RENAME TO away";
        open(path).execute_batch(rename).unwrap();
        let back = "ALTER TABLE away RENAME TO sdk_sessions";
        Box::new(move |path| open(path).execute_batch(back).unwrap())
    };
    let cases: [(&str, Break<'_>); 4] = [
        ("database is locked", &locked),
        ("No such file", &missing),
        ("readonly", &read_only),
        ("no such table", &table_less),
    ];
    for (error, break_it) in cases {
        let dir = store();
        let path = dir.path().join("memory.db");
        open(&path).execute_batch(HISTORY).unwrap();
        let mend = break_it(&path);
        let gateway = Gateway::start_in(dir, &config());
        gateway.begin("A");
        gateway.begin("B");
        end(&gateway, "B", "completed");
        wait_for_plugin(&gateway, |plugin| {
            let problem = plugin["last_error"].as_str().unwrap_or_default();
            plugin["state"] != "healthy" && problem.contains(error)
        });
        wait_for_plugin(&gateway, |plugin| plugin["owed"] == 3);
        mend(&path);
        wait_for_active(&gateway, &["A"]);
        assert_eq!(row(&path, "B").0, "completed", "{error}");
        let history = history(&path);
        let (ghosts, others) = history.split_at(GHOSTS);
        assert!(
            ghosts.iter().all(|status| status == "failed"),
            "{error}: {history:?}"
        );
        assert_eq!(others, ["made", "made", "completed"], "{error}");
        let ended = gateway.stop(Signal::SIGTERM);
        assert_eq!(ended.report()["outcome"], "clean", "{error}: {}", ended.log);
        assert!(rows(&path, "active").is_empty(), "{error}");
    }
}
