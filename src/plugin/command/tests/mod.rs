//! Tests with real programs, in real time.

mod per_event;
mod stream;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use actix::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::super::adapter::PluginActor;
use super::*;
use crate::event::{Deadline, Event, Verdict};
use crate::plugin::sample;

/// Longer than anything takes that is not to be cut.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a program that is ended may live, on a machine that is busy.
const DYING: Duration = Duration::from_secs(4);

/// A folder that programs run in. They note the number of their group in the file `groups`.
struct Folder(TempDir);

/// What became of a delivery.
#[derive(Debug)]
struct Outcome {
    /// What it failed with.
    error: Option<anyhow::Error>,
    verdicts: Vec<Verdict>,
    took: Duration,
}

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A program that is the shell with `script`, run here.
    fn script(&self, script: &str) -> CommandSettings {
        let script = format!("echo $$ >> groups\n{script}");
        let settings = CommandSettings::new(["/bin/sh", "-c", &script]).unwrap();
        settings
            .passing("PATH")
            .unwrap()
            .in_directory(self.0.path())
    }

    /// The plugin that runs `script` for each event, on this thread.
    fn per_event(&self, script: &str) -> Recipient<Deliver> {
        start(self.script(script))
    }

    /// The plugin that runs `script` for all events, on this thread.
    fn stream(&self, script: &str) -> Recipient<Deliver> {
        start(self.script(script).with_mode(CommandMode::Stream))
    }

    fn groups(&self) -> Vec<String> {
        self.read("groups").lines().map(str::to_owned).collect()
    }

    /// How many processes there are in the groups of the programs.
    fn living(&self) -> usize {
        let groups = self.groups();
        assert!(!groups.is_empty(), "no program was started");
        let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            // Behind the name, which may hold anything: state, parent, group.
            let (_, fields) = stat.rsplit_once(')')?;
            let mut fields = fields.split_whitespace();
            let (state, group) = (fields.next()?, fields.nth(1)?);
            // Orphans that were killed, where the first process of the machine reaps none.
            let is_zombie = matches!(state, "Z" | "X");
            (!is_zombie).then(|| group.to_owned())
        });
        stats.filter(|group| groups.contains(group)).count()
    }

    /// Asserts that no process is left once those that were killed have had the time to die.
    async fn assert_nobody_lives(&self) {
        let until = Instant::now() + DYING;
        while self.living() > 0 {
            assert!(
                Instant::now() < until,
                "{} processes are left",
                self.living()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn start(settings: CommandSettings) -> Recipient<Deliver> {
    let actor = PluginActor::new("command", || CommandPlugin::new(settings));
    actor.start().recipient()
}

fn starts(count: usize) -> Vec<Event> {
    let start = |n| sample::start(&format!("sess-{n}"));
    (0..count).map(start).collect()
}

async fn deliver(plugin: &Recipient<Deliver>, events: Vec<Event>, timeout: Duration) -> Outcome {
    let began = Instant::now();
    let delivery = Deliver::new(events, Deadline::after(timeout));
    let acks = delivery.acks.clone();
    let answer = tokio::time::timeout(PATIENCE, plugin.send(delivery));
    let result = answer.await.expect("it hangs").expect("the actor died");
    Outcome {
        error: result.err(),
        verdicts: acks.close(),
        took: began.elapsed(),
    }
}

impl Outcome {
    /// Asserts that every event was taken.
    #[track_caller]
    fn assert_taken(&self, count: usize) {
        assert!(self.error.is_none(), "{:#}", self.error.as_ref().unwrap());
        assert_eq!(self.verdicts, vec![Verdict::Acknowledged; count]);
    }

    /// Why the plugin is down.
    #[track_caller]
    fn assert_down(&self) -> String {
        let error = self.error.as_ref().expect("it succeeded");
        assert!(error.is::<crate::plugin::Down>(), "not down: {error:#}");
        format!("{error:#}")
    }

    #[track_caller]
    fn assert_timed_out(&self) {
        let error = self.error.as_ref().expect("it succeeded");
        assert!(error.is::<crate::plugin::OutOfTime>(), "{error:#}");
    }

    /// Why the only event was rejected.
    #[track_caller]
    fn rejection(&self) -> &str {
        match self.verdicts.as_slice() {
            [Verdict::Rejected(problem)] => problem,
            other => panic!("not rejected: {other:?}, {:?}", self.error),
        }
    }
}

/// Has the plugin live on a thread of its own, deliver `event` to a program that takes long, and end
/// with its thread.
async fn end_with_its_thread(folder: &Folder, settings: CommandSettings, event: Event) {
    let arbiter = Arbiter::new();
    let (answer, answered) = tokio::sync::oneshot::channel();
    arbiter.spawn(async move {
        let outcome = deliver(&start(settings), vec![event], PATIENCE).await;
        let _ = answer.send(outcome);
    });
    let until = Instant::now() + PATIENCE;
    while folder.read("ready").is_empty() {
        assert!(Instant::now() < until, "the program does not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(folder.living() > 0);
    arbiter.stop();
    arbiter.join().unwrap();
    assert!(answered.await.is_err(), "it was answered");
}
