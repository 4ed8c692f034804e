//! A flood of starts and ends while a plugin is more than ten times too slow, and a stop in the midst
//! of it.
//!
//! In the suite 800 sessions start. For 20,000, with 300 MiB of details:
//!
//! ```sh
//! FLOOD_STARTS=20000 cargo test --release --test process ten_times_too_slow -- --nocapture
//! ```

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::books::{Books, Request, SCHEMA, look_at_ledger, told_in_database, told_in_log};
use crate::gateway::{Ended, Gateway, agent, post};

const PATIENCE: Duration = Duration::from_secs(120);

/// How many sessions start before the stop, unless told otherwise.
const STARTS: usize = 800;

const CLIENTS: usize = 4;

/// How many sessions a client holds. Together they are more than there may be.
const HELD: usize = 20;
const MAX_ACTIVE: usize = 50;

/// How large the details of a session are: nearly as large as they may be.
const DETAILS: usize = 15 * 1024;

/// From the signal to the exit: cap, teardown, and a little for a busy machine.
const GONE_WITHIN: Duration = Duration::from_millis(2500);

/// What the newest part of the log may take in memory, its details and what they have in common.
const TAIL_KIB: usize = 96 * 1024;

/// What else a flood takes, most of it kept by the allocator.
const OTHER_KIB: usize = 48 * 1024;

/// Makes each event of `db` cost nearly two million steps, until `pace` is empty.
const SLOW: &str = "
    CREATE TABLE pace(n);
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 140)
    INSERT INTO pace SELECT n FROM numbers;
    CREATE TRIGGER slow BEFORE INSERT ON told
    BEGIN SELECT count(*) FROM pace a, pace b, pace c; END;";

/// The more patient and the smaller its batches, the less of the time of `db` is for nothing.
fn config(ledger: &str, max_batch: usize) -> String {
    let insert = |hook: &str, reason: &str| {
        format!(
            "{hook} = \"INSERT INTO told VALUES (:event_id, '{hook}', :session_id, :incarnation, \
             {reason})\"\n"
        )
    };
    format!(
        "state_dir = \"state\"\n[shutdown]\ncap = \"1s\"\nteardown = \"500ms\"\n\
         [sessions]\nmax_active = {MAX_ACTIVE}\n[ledger]\nkind = \"{ledger}\"\n\
         durability = \"process\"\n\
         [[plugin]]\nname = \"audit\"\nkind = \"log\"\npath = \"audit.jsonl\"\n\
         [[plugin]]\nname = \"db\"\nkind = \"sql\"\nurl = \"sqlite:app.db\"\ntimeout = \"10s\"\n\
         max_batch = {max_batch}\n{}{}",
        insert("session_start", "NULL"),
        insert("session_end", ":reason"),
    )
}

/// What the clients of a flood were answered.
#[derive(Debug, Default)]
struct Answers {
    started: AtomicUsize,
    /// With 429.
    refused: AtomicUsize,
}

/// Starts sessions as fast as it gets answers, and ends its oldest ones, until the gateway stops.
fn flood(url: &str, client: usize, answers: &Answers) -> Books {
    let (agent, mut books, mut held) = (agent(), Books::default(), VecDeque::new());
    let details = json!({"metadata": {"text": "x".repeat(DETAILS)}});
    let mut send = |request: &Request<'_>| {
        let answer = post(&agent, &format!("{url}{}", request.path()), &request.body());
        let goes_on = books.note(request, answer.as_ref());
        goes_on.then(|| answer.map_or(0, |(status, _)| status))
    };
    for n in 0.. {
        let id = format!("{client}-{n}");
        let Some(status) = send(&Request::Start(&id, details.clone())) else {
            break;
        };
        if status == 429 {
            answers.refused.fetch_add(1, Ordering::Relaxed);
        } else {
            answers.started.fetch_add(1, Ordering::Relaxed);
            held.push_back(id);
        }
        if (status == 429 || held.len() > HELD)
            && let Some(oldest) = held.pop_front()
            && send(&Request::End(&oldest)).is_none()
        {
            break;
        }
    }
    books
}

/// How a flood went, and what is left of it.
struct Flooded {
    ended: Ended,
    books: Books,
    answers: Answers,
    /// How much more memory it took at its peak than before.
    growth_kib: usize,
    /// The share of its events that `db` had been told before the stop.
    told: f64,
}

/// Floods a gateway until enough sessions have started, and stops it while the flood goes on.
fn flood_and_stop(ledger: &str) -> Flooded {
    let starts = std::env::var("FLOOD_STARTS").map_or(STARTS, |starts| starts.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let database = Connection::open(folder.path().join("app.db")).unwrap();
    database.execute_batch(SCHEMA).unwrap();
    database.execute_batch(SLOW).unwrap();
    let gateway = Gateway::start_in(folder, &config(ledger, 4));
    let before = gateway.memory_kib();
    let (answers, url) = (Answers::default(), gateway.url().to_owned());
    let (url, seen) = (url.as_str(), &answers);
    let (ended, books, growth_kib, told) = scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || flood(url, client, seen)))
            .collect();
        let until = Instant::now()
            + PATIENCE.max(Duration::from_millis(10) * u32::try_from(starts).unwrap());
        while seen.started.load(Ordering::Relaxed) < starts {
            assert!(Instant::now() < until, "{seen:?}");
            sleep(Duration::from_millis(5));
        }
        let growth_kib = gateway.peak_memory_kib().saturating_sub(before);
        let (_, plugins) = gateway.get("/v1/plugins");
        let owed = plugins["plugins"][1]["owed"].as_f64().unwrap();
        let events = 2 * starts - MAX_ACTIVE;
        let told = 1.0 - (owed / events as f64).min(1.0);
        let ended = gateway.stop(Signal::SIGTERM);
        let books = Books::all(clients.into_iter().map(|client| {
            let mut books = client.join().unwrap();
            books.gone("shutdown");
            books
        }));
        (ended, books, growth_kib, told)
    });
    Flooded {
        ended,
        books,
        answers,
        growth_kib,
        told,
    }
}

/// Asserts what holds of such a flood with any ledger, and prints its figures.
fn check(flooded: &Flooded, ledger: &str) -> Value {
    let (started, refused) = (&flooded.answers.started, &flooded.answers.refused);
    let (started, refused) = (
        started.load(Ordering::Relaxed),
        refused.load(Ordering::Relaxed),
    );
    assert!(refused > 0, "nothing was refused");
    assert!(
        flooded.told < 0.1,
        "the plugin was not slow: {}",
        flooded.told
    );
    let (ended, report) = (&flooded.ended, flooded.ended.report());
    assert!(ended.took <= GONE_WITHIN, "{:?}: {}", ended.took, ended.log);
    let [audit, db] = [0, 1].map(|plugin| &report["plugins"][plugin]);
    let sessions = &report["drain"]["sessions"];
    assert!(sessions.as_u64().unwrap() <= MAX_ACTIVE as u64, "{report}");
    assert_eq!(&audit["delivered"], sessions, "{report}\n{}", ended.log);
    let of_db = ["delivered", "owed", "dead", "lost"].map(|count| db[count].as_u64().unwrap());
    assert_eq!(
        of_db.iter().sum::<u64>(),
        sessions.as_u64().unwrap(),
        "{report}"
    );
    let audited = told_in_log(&ended.path("audit.jsonl"));
    flooded.books.check("audit", &audited, &[]);
    let _ = writeln!(
        io::stderr(),
        "FLOODED with a plugin that kept up with {:.1} %, ledger {ledger}: {started} sessions started, \
         {refused} refused; {} KiB more at the peak; gone {:?} after the signal, {} sessions were active",
        flooded.told * 100.0,
        flooded.growth_kib,
        ended.took,
        sessions,
    );
    report
}

#[test]
fn g4_g8_a_flood_with_a_plugin_ten_times_too_slow_takes_bounded_memory_and_stops_in_time() {
    let flooded = flood_and_stop("sqlite");
    let report = check(&flooded, "sqlite");
    let growth = flooded.growth_kib;
    assert!(growth < TAIL_KIB + OTHER_KIB, "{growth} KiB more");
    let log = &flooded.ended.log;
    assert_eq!(flooded.ended.status.code(), Some(0), "{report}\n{log}");
    assert_eq!(
        (&report["outcome"], &report["drain"]["lost"]),
        (&json!("owed"), &json!(0))
    );

    // The next start tells the rest, to a plugin that is fast again.
    let database = Connection::open(flooded.ended.path("app.db")).unwrap();
    database.execute_batch("DELETE FROM pace").unwrap();
    let gateway = Gateway::start_in(flooded.ended.dir, &config("sqlite", 4096));
    gateway.settle();
    let ended = gateway.stop(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_eq!(ended.report()["outcome"], "clean");
    let folder = ended.dir.path();
    assert_eq!(look_at_ledger(folder).unwrap().open, 0);
    flooded.books.check("db", &told_in_database(folder), &[]);
}

#[test]
fn g4_g8_a_flood_with_a_plugin_ten_times_too_slow_stops_in_time_with_a_ledger_in_memory() {
    let flooded = flood_and_stop("memory");
    let report = check(&flooded, "memory");
    // This ledger keeps what the plugin is owed: what was sent, and no more.
    let started = flooded.answers.started.load(Ordering::Relaxed);
    let (growth, sent) = (flooded.growth_kib, started * DETAILS / 1024);
    assert!(
        growth < sent + sent / 4 + OTHER_KIB,
        "{growth} KiB more for {sent} KiB"
    );
    let log = &flooded.ended.log;
    assert_eq!(flooded.ended.status.code(), Some(3), "{report}\n{log}");
    assert_eq!(
        (&report["outcome"], &report["drain"]["owed"]),
        (&json!("lost"), &json!(0)),
        "{report}\n{log}"
    );
    let lost = report["plugins"][1]["owed_before"].as_u64().unwrap();
    assert!(lost > started as u64, "{report}");
}
