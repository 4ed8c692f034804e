//! Plugins that kill the process at one event, with real processes: this one, started as a child that
//! runs a supervisor on a SQLite ledger until it dies or has delivered everything.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use actix::System;
use session_supervisor::testing::{Gate, line};
use session_supervisor::{
    DeliveryPolicy, Durability, EndReason, Event, PluginSpec, SessionSupervisor, Shutdown,
    SqliteLedger, Threads,
};

use crate::support::Shorthand;

/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the child finds its ledger, and leaves what it did.
const HOME: &str = "DEADLY_TEST_HOME";

/// The event at which the child's plugin aborts.
const POISON: &str = "DEADLY_TEST_POISON";

const SESSIONS: usize = 101;

fn policy() -> DeliveryPolicy {
    let mut policy = DeliveryPolicy::default();
    policy.backoff = Duration::from_millis(10);
    policy
}

/// A plugin that notes each event in `notes`, and aborts at `poison`.
fn deadly(name: &'static str, notes: PathBuf, poison: String, gate: Gate) -> PluginSpec {
    let call = move |event: Event| {
        let (notes, poison, gate) = (notes.clone(), poison.clone(), gate.clone());
        async move {
            gate.pass().await;
            if line(&event).starts_with(&poison) {
                std::process::abort();
            }
            let mut notes = OpenOptions::new().create(true).append(true).open(notes)?;
            writeln!(notes, "{}", line(&event))?;
            Ok(())
        }
    };
    PluginSpec::per_session(name, call).with_policy(policy())
}

/// The dead letters once nothing is owed and all of them are recorded, a line for each.
async fn letters_in_the_end(supervisor: &SessionSupervisor) -> String {
    loop {
        let plugins = supervisor.plugins().await.unwrap();
        let owed: u64 = plugins.iter().map(|plugin| plugin.owed).sum();
        let dead: u64 = plugins.iter().map(|plugin| plugin.dead).sum();
        let mut lines = Vec::new();
        for plugin in &plugins {
            let name = &plugin.name;
            for letter in supervisor.dead_letters(name, 0, 1000).await.unwrap() {
                let (event, attempts, error) =
                    (line(&letter.event), letter.attempts, &letter.error);
                lines.push(format!("{name}: {event}: {attempts}: {error}\n"));
            }
        }
        if owed == 0 && lines.len() as u64 == dead {
            return lines.concat();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A run of the child. It returns only if nothing kills it.
async fn run(home: &Path, poison: String) {
    let is_first = !home.join("ledger.db").exists();
    let ledger = SqliteLedger::open(home.join("ledger.db"), Durability::Process).unwrap();
    let gate = Gate::new();
    let never = String::from("nothing");
    let supervisor = SessionSupervisor::builder()
        .threads(Threads::Current)
        .ledger(ledger)
        .plugin(deadly("deadly", home.join("deadly"), poison, gate.clone()))
        .plugin(deadly("good", home.join("good"), never, gate.clone()))
        .start()
        .await
        .unwrap();
    if is_first {
        // All is recorded before anything is delivered.
        for number in 0..SESSIONS {
            supervisor.begin(&format!("s{number}")).await;
        }
        for number in 0..SESSIONS {
            let id = format!("s{number}");
            supervisor.finish(&id, EndReason::Completed).await;
        }
    }
    gate.open();
    let letters = letters_in_the_end(&supervisor).await;
    fs::write(home.join("letters"), letters).unwrap();
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    assert_eq!(report.exit_code, 0);
}

#[test]
#[ignore = "a process that other tests start"]
fn child() {
    if let (Some(home), Ok(poison)) = (std::env::var_os(HOME), std::env::var(POISON)) {
        System::new().block_on(run(Path::new(&home), poison));
    }
}

/// Starts children one after the other until one survives. How many have died.
fn deaths(home: &Path, poison: &str) -> u32 {
    for died in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "deadly::child", "--ignored", "--nocapture"])
            .env(HOME, home)
            .env(POISON, poison)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("a child hangs");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if status.success() {
            return died;
        }
        assert_eq!(status.code(), None, "it was not aborted: {status}");
    }
    panic!("the process dies again and again");
}

/// The events that a plugin noted.
fn noted(home: &Path, plugin: &str) -> BTreeSet<String> {
    let notes = fs::read_to_string(home.join(plugin)).unwrap();
    notes.lines().map(str::to_owned).collect()
}

/// The events that were recorded, without those that start with one of `but`.
fn events_but(but: &[&str]) -> BTreeSet<String> {
    let ids = || (0..SESSIONS).map(|number| format!("s{number}"));
    let starts = ids().map(|id| format!("session_start {id}"));
    let ends = ids().map(|id| format!("session_end {id} completed"));
    let is_wanted = |event: &String| !but.contains(&event.as_str());
    starts.chain(ends).filter(is_wanted).collect()
}

#[test]
fn g6_an_event_that_kills_the_process_again_and_again_ends_as_the_one_dead_letter() {
    let home = tempfile::tempdir().unwrap();
    let died = deaths(home.path(), "session_end s50 ");
    assert_eq!(died, 2 + 5);
    let letters = fs::read_to_string(home.path().join("letters")).unwrap();
    assert_eq!(
        letters,
        "deadly: session_end s50 completed: 5: the process died while the plugin had it\n"
    );
    assert_eq!(noted(home.path(), "good"), events_but(&[]));
    let others = events_but(&["session_end s50 completed"]);
    assert_eq!(noted(home.path(), "deadly"), others);
}

#[test]
fn g6_a_start_that_kills_the_process_is_a_dead_letter_and_its_end_with_it() {
    let home = tempfile::tempdir().unwrap();
    let died = deaths(home.path(), "session_start s100");
    assert_eq!(died, 2 + 5);
    let letters = fs::read_to_string(home.path().join("letters")).unwrap();
    assert_eq!(
        letters,
        "deadly: session_start s100: 5: the process died while the plugin had it\n\
         deadly: session_end s100 completed: 0: not tried, since an earlier event of its session failed\n"
    );
    assert_eq!(noted(home.path(), "good"), events_but(&[]));
    let others = events_but(&["session_start s100", "session_end s100 completed"]);
    assert_eq!(noted(home.path(), "deadly"), others);
}
