//! Everything that can go wrong, together and for a while: sessions start, end, expire and are ended
//! together, plugins fail in all ways, and the gateway is stopped, restarted, reloaded and killed at
//! random moments. Then one gateway lives long, under the same load and with the same plugins, and its
//! memory and its ledger are measured.
//!
//! In the suite that takes some seconds. For ten minutes:
//!
//! ```sh
//! SOAK=10m cargo test --release --test process soak -- --nocapture
//! ```

mod clients;
mod receiver;
mod trouble;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use self::clients::Load;
use self::trouble::Trouble;
use super::chance;
use crate::books::{Books, PLUGINS, SCHEMA, Told, look_at_ledger, told_in_database, told_in_log};
use crate::gateway::{Ended, Gateway};

/// How long it takes about, unless told otherwise.
const SHORT: Duration = Duration::from_secs(6);

const CAP: Duration = Duration::from_secs(1);
const TEARDOWN: Duration = Duration::from_millis(500);

/// From the signal to the exit: cap, teardown, and a little for a busy machine.
const GONE_WITHIN: Duration = Duration::from_millis(2500);

/// The longest that a plugin is in trouble, and the longest pause after it.
const LONGEST_TROUBLE: Duration = Duration::from_secs(2);

/// How much memory the long life may take more in its last quarter than in its second.
const MAX_GROWTH_KIB: usize = 8 * 1024;

/// What the files of a ledger may take however little is in it: the write-ahead file alone grows to 16 MiB.
const SMALL_LEDGER: u64 = 20 << 20;

/// Writes down each event and takes it, but exits while it is to fail.
const PROGRAM: &str = r#"
exec 3>> program.jsonl
while IFS= read -r line; do
    [ -e failing ] && exit 1
    printf '%s\n' "$line" >&3
    id=${line#*\"event_id\":\"}
    printf '{"ack":"%s"}\n' "${id%%\"*}"
done
"#;

/// A disk that stalls has tests of its own, so that here no stop is to wait for one. Each reload
/// finds another `version`.
fn config(version: u64, receiver: &str) -> String {
    format!(
        r#"
state_dir = "state"
[shutdown]
cap = "1s"
teardown = "500ms"
[sessions]
idle_after = "1s"
max_age = "3s"
retention = "1s"
[ledger]
durability = "process"
[[plugin]]
name = "side"
kind = "log"
path = "side/side.jsonl"
timeout = "{}s"
backoff = "10ms"
backoff_max = "50ms"
[[plugin]]
name = "hook"
kind = "webhook"
url = "{receiver}"
body = "batch"
backoff = "10ms"
backoff_max = "50ms"
[[plugin]]
name = "program"
kind = "command"
mode = "stream"
command = ["/bin/sh", "program.sh"]
cwd = "."
backoff = "10ms"
backoff_max = "50ms"
{PLUGINS}"#,
        5 + version
    )
}

/// What the gateways live in.
struct World {
    load: Load,
    trouble: Trouble,
    /// The URL of the receiver of webhooks.
    receiver: String,
}

/// What happened to the gateways, beside the load and the plugins' trouble.
#[derive(Debug, Default)]
struct History {
    lives: u64,
    /// Signals, by their names.
    signals: BTreeMap<&'static str, u64>,
    slowest_stop: Duration,
    books: Vec<Books>,
}

impl History {
    fn note(&mut self, signal: Signal) {
        *self.signals.entry(signal.as_str()).or_default() += 1;
    }

    /// A life of a gateway under load, during which `meanwhile` is done, and its end by `signal`.
    fn live(
        &mut self,
        folder: TempDir,
        world: &World,
        signal: Signal,
        meanwhile: impl FnOnce(&mut Self, &Gateway),
    ) -> TempDir {
        let directory = world.trouble.keep_directory();
        let gateway = Gateway::start_in(folder, &config(0, &world.receiver));
        drop(directory);
        let (_, active) = gateway.get("/v1/sessions");
        assert_eq!(active["sessions"], json!([]), "nobody holds them");
        self.lives += 1;
        let (url, life) = (gateway.url().to_owned(), self.lives);
        let url = url.as_str();
        scope(|scope| {
            let load = &world.load;
            let clients: Vec<_> = (0..load.clients)
                .map(|client| scope.spawn(move || load.run(url, life, client)))
                .collect();
            meanwhile(self, &gateway);
            let ended = gateway.stop(signal);
            for client in clients {
                let mut books = client.join().unwrap();
                books.gone(reason_of(signal));
                self.books.push(books);
            }
            self.note(signal);
            if signal != Signal::SIGKILL {
                check_stop(&ended);
                self.slowest_stop = self.slowest_stop.max(ended.took);
            }
            ended.dir
        })
    }
}

/// Why sessions end of which the gateway gets this signal.
fn reason_of(signal: Signal) -> &'static str {
    match signal {
        Signal::SIGKILL => "crash",
        Signal::SIGUSR2 => "restart",
        _ => "shutdown",
    }
}

/// Asserts that a stop kept its bounds, lost nothing, and has accounted for every session.
fn check_stop(ended: &Ended) {
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.took <= GONE_WITHIN, "{:?}: {}", ended.took, ended.log);
    let report = ended.report();
    assert!(
        report["outcome"] == "clean" || report["outcome"] == "owed",
        "{report}"
    );
    let millis = |value: &serde_json::Value| Duration::from_millis(value.as_u64().unwrap());
    assert!(millis(&report["drain"]["duration_ms"]) <= CAP, "{report}");
    assert!(millis(&report["duration_ms"]) <= CAP + TEARDOWN, "{report}");
    let drain = |count: &str| report["drain"][count].as_u64().unwrap();
    assert_eq!((drain("dead"), drain("lost")), (0, 0), "{report}");
    let plugins = report["plugins"].as_array().unwrap().len() as u64;
    let pairs = drain("delivered") + drain("owed");
    assert_eq!(drain("sessions") * plugins, pairs, "{report}");
}

/// One life after another until `until`, each stopped or killed at a random moment.
fn live_dangerously(
    history: &mut History,
    mut folder: TempDir,
    world: &World,
    until: Instant,
) -> TempDir {
    const ENDS: [Signal; 3] = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGUSR2];
    while Instant::now() < until {
        let signal = ENDS[usize::try_from(history.lives).unwrap() % ENDS.len()];
        let part = Duration::from_millis(chance(world.load.longest_life_ms) / 2);
        folder = history.live(folder, world, signal, |history, gateway| {
            sleep(part);
            if chance(2) == 0 {
                let other = config(1 + history.lives, &world.receiver);
                fs::write(gateway.path("config.toml"), other).unwrap();
                gateway.signal(Signal::SIGHUP);
                history.note(Signal::SIGHUP);
            }
            sleep(part);
        });
    }
    folder
}

/// What a gateway takes at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    memory_kib: usize,
    ledger_bytes: u64,
}

impl Sample {
    fn of(gateway: &Gateway) -> Self {
        let files = ["ledger.db", "ledger.db-wal"];
        let size = |name| fs::metadata(gateway.path("state").join(name)).map_or(0, |it| it.len());
        Self {
            memory_kib: gateway.memory_kib(),
            ledger_bytes: files.map(size).into_iter().sum(),
        }
    }
}

/// What a long life took in one of its quarters.
#[derive(Debug)]
struct Quarter {
    /// The median.
    memory_kib: usize,
    /// The most.
    ledger_bytes: u64,
}

impl Quarter {
    fn of(samples: &[Sample], quarter: usize) -> Self {
        let at = |quarter| samples.len() * quarter / 4;
        let samples = &samples[at(quarter)..at(quarter + 1)];
        let mut memory: Vec<_> = samples.iter().map(|it| it.memory_kib).collect();
        memory.sort_unstable();
        Self {
            memory_kib: memory[memory.len() / 2],
            ledger_bytes: samples.iter().map(|it| it.ledger_bytes).max().unwrap(),
        }
    }
}

/// One life of this length, measured. Answers its second and its last quarter, and its peak in KiB.
fn live_long(
    history: &mut History,
    folder: TempDir,
    world: &World,
    length: Duration,
) -> (TempDir, [Quarter; 2], usize) {
    let (mut samples, mut peak) = (Vec::new(), 0);
    let folder = history.live(folder, world, Signal::SIGTERM, |_, gateway| {
        let until = Instant::now() + length;
        while Instant::now() < until {
            samples.push(Sample::of(gateway));
            sleep((length / 1000).max(Duration::from_millis(20)));
        }
        peak = gateway.peak_memory_kib();
    });
    let quarters = [1, 3].map(|quarter| Quarter::of(&samples, quarter));
    (folder, quarters, peak)
}

/// Has everybody told of what is left, and stops. Nobody is in trouble any more.
fn make_good(folder: TempDir, receiver: &str) -> TempDir {
    let gateway = Gateway::start_in(folder, &config(0, receiver));
    let plugins = gateway.settle();
    for plugin in plugins["plugins"].as_array().unwrap() {
        assert_eq!(
            (&plugin["state"], &plugin["dead"]),
            (&json!("healthy"), &json!(0)),
            "{plugin}"
        );
    }
    let ended = gateway.stop(Signal::SIGTERM);
    check_stop(&ended);
    assert_eq!(ended.report()["outcome"], "clean");
    assert_eq!(look_at_ledger(ended.dir.path()).unwrap().open, 0, "ghosts");
    ended.dir
}

/// Checks what each plugin was told. Answers by plugin how many events came more than once, and how
/// many sessions ended for which reason.
fn check_books(
    books: &Books,
    folder: &Path,
) -> (BTreeMap<&'static str, usize>, BTreeMap<String, usize>) {
    let log = |name: &str| told_in_log(&folder.join(name));
    let told: [(_, &dyn Fn() -> Vec<Told>); 5] = [
        ("audit", &|| log("audit.jsonl")),
        ("db", &|| told_in_database(folder)),
        ("side", &|| log("side/side.jsonl")),
        ("hook", &|| log("hook.jsonl")),
        ("program", &|| log("program.jsonl")),
    ];
    let (mut twice, mut reasons) = (BTreeMap::new(), BTreeMap::new());
    for (plugin, told) in told {
        let told = told();
        twice.insert(plugin, books.check(plugin, &told, &[]));
        reasons = Told::ends_by_reason(&told);
    }
    (twice, reasons)
}

#[test]
fn g4_g6_g7_g8_nothing_is_lost_and_memory_stays_flat_whatever_comes_together() {
    let length =
        std::env::var("SOAK").map_or(SHORT, |soak| humantime::parse_duration(&soak).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let database = Connection::open(folder.path().join("app.db")).unwrap();
    database.execute_batch(SCHEMA).unwrap();
    drop(database);
    fs::create_dir(folder.path().join("side")).unwrap();
    fs::write(folder.path().join("program.sh"), PROGRAM).unwrap();
    let (told, failing) = ["hook.jsonl", "failing"]
        .map(|name| folder.path().join(name))
        .into();

    let mut history = History::default();
    let trouble = (length / 60).min(LONGEST_TROUBLE);
    let world = World {
        load: Load::for_soak_of(length),
        trouble: Trouble::begin(folder.path(), trouble),
        receiver: receiver::start(&told, &failing),
    };
    let began = Instant::now();
    let folder = live_dangerously(&mut history, folder, &world, began + length / 2);
    let (folder, [early, late], peak) = live_long(&mut history, folder, &world, length / 2);
    let troubles = world.trouble.end();
    let folder = make_good(folder, &world.receiver);

    let growth = late.memory_kib.saturating_sub(early.memory_kib);
    assert!(growth < MAX_GROWTH_KIB, "{early:?}, {late:?}");
    let bound = early.ledger_bytes.max(SMALL_LEDGER) * 3 / 2;
    assert!(late.ledger_bytes < bound, "{early:?}, {late:?}");
    let books = Books::all(std::mem::take(&mut history.books));
    let (twice, reasons) = check_books(&books, folder.path());
    let _ = writeln!(
        io::stderr(),
        "SOAKED for {:?}: {} lives, signals {:?}, the slowest stop took {:?}; plugins in trouble: \
         {troubles:?}\n{} sessions were promised, lost 0, ghosts 0; ends by reason: {reasons:?}\n\
         events told more than once, under one id: {twice:?}\n\
         the long life of {:?}: memory (median) {} KiB in its second quarter, {} KiB in its last, \
         {peak} KiB at its peak; ledger (most) {} KiB and {} KiB",
        began.elapsed(),
        history.lives,
        history.signals,
        history.slowest_stop,
        books.len(),
        length / 2,
        early.memory_kib,
        late.memory_kib,
        early.ledger_bytes / 1024,
        late.ledger_bytes / 1024,
    );
}
