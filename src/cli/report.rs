//! `report`: how the last stop went, read from the disk, where it is after a SIGKILL too.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::output::{Format, Output, print};
use super::table::{Table, age_since, clean, count, exact, or_nothing};
use crate::config::{Config, Env, Flags};

const FILE: &str = "last-shutdown.json";
/// How many sessions that a plugin was not told of are named.
const NAMED: usize = 5;

/// Shows the report of the last stop
///
/// It is read from the state directory, with no gateway running too.
#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// The configuration file (TOML) that names the state directory
    ///
    /// [env: SESSION_SUPERVISOR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where the reports of stops are kept
    ///
    /// Overrides `state_dir` of the file. [env: SESSION_SUPERVISOR_STATE_DIR] [default: ./state,
    /// under systemd the unit's StateDirectory]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    #[command(flatten)]
    format: Format,
}

/// A report, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Stop {
    outcome: String,
    exit_code: u8,
    instance: String,
    reason: String,
    restart_expected_ms: Option<u64>,
    trigger: String,
    started_at: Timestamp,
    duration_ms: u64,
    cap_ms: u64,
    drain: Drain,
    plugins: Vec<Plugin>,
    steps: Vec<Step>,
    #[serde(default)]
    held_by: Option<String>,
    warnings: Vec<String>,
    recovery: Option<Recovery>,
}

#[derive(Debug, Deserialize)]
struct Drain {
    duration_ms: u64,
    timed_out: bool,
    sessions: u64,
}

#[derive(Debug, Deserialize)]
struct Plugin {
    name: String,
    state: String,
    delivered: u64,
    owed: u64,
    failed: u64,
    dead: u64,
    lost: u64,
    #[serde(default)]
    owed_before: u64,
    timed_out: bool,
    duration_ms: u64,
    last_error: Option<String>,
    #[serde(default)]
    hung_threads: u64,
    unfinished: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Step {
    name: String,
    duration_ms: u64,
    outcome: String,
}

#[derive(Debug, Deserialize)]
struct Recovery {
    found: u64,
    #[serde(default)]
    by_reason: Map<String, Value>,
    #[serde(default)]
    alive_at: Option<Timestamp>,
}

impl Stop {
    /// What was found of a process that just ceased: nobody had asked it to stop.
    fn killed(&self) -> Option<&Recovery> {
        let is_crash = self.reason == "crash" && self.trigger == "crash";
        self.recovery.as_ref().filter(|_| is_crash)
    }
}

impl Report {
    pub(super) fn run(self) -> Result<(), Failure> {
        let output = self.format.format;
        let flags = Flags {
            config: self.config,
            state_dir: self.state_dir,
            ..Flags::default()
        };
        let env = Env::new(&|name| std::env::var_os(name));
        let dir = Config::find_state_dir(&flags, &env).map_err(Failure::Configuration)?;
        let path = dir.join(FILE);
        let shown = path.display();
        let text = fs::read_to_string(&path).map_err(|error| {
            Failure::Failed(if !dir.exists() {
                format!("there is no directory {}", dir.display())
            } else if error.kind() == ErrorKind::NotFound {
                format!(
                    "no stop is reported in {}: none has happened yet, or its state directory is \
                     another\n  what to do: name it with --state-dir, or its configuration with \
                     --config",
                    dir.display()
                )
            } else {
                format!("{shown} can't be read: {error}")
            })
        })?;
        if output == Output::Json {
            return print(&text);
        }
        let stop = serde_json::from_str(&text).map_err(|error| {
            Failure::Failed(format!(
                "{shown} is no report of a stop that this version knows: {error}\n  \
                 what to do: read it as it is with --format json"
            ))
        })?;
        print(&summary(&stop, Timestamp::now()))
    }
}

fn millis(millis: u64) -> String {
    exact(Duration::from_millis(millis))
}

fn summary(stop: &Stop, now: Timestamp) -> String {
    let mut facts = Table::new(&["LAST STOP", &clean(&stop.outcome)]);
    let verdict = match stop.killed() {
        Some(recovery) => format!(
            "it ended without a stop, as when it is killed; the next start ended {}",
            count(recovery.found, "session")
        ),
        None => verdict(&stop.outcome).into(),
    };
    facts.row(["verdict".into(), verdict.into()]);
    facts.row(["exit code".into(), stop.exit_code.to_string().into()]);
    for (name, text) in match stop.killed() {
        Some(recovery) => killed(stop, recovery, now),
        None => stopped(stop, now),
    } {
        facts.row([name.into(), text.into()]);
    }
    for (name, text) in [
        ("instance", stop.instance.clone()),
        ("warnings", stop.warnings.join(", ")),
    ] {
        facts.row([name.into(), text.into()]);
    }
    if let Some(step) = &stop.held_by {
        facts.row(["held by".into(), step.as_str().into()]);
    }
    if let Some(recovery) = &stop.recovery {
        let reasons = recovery.by_reason.iter();
        let reasons: Vec<_> = reasons.map(|(reason, n)| format!("{n} {reason}")).collect();
        let found = count(recovery.found, "session");
        let text = format!("{found} found at the next start: {}", reasons.join(", "));
        facts.row(["recovery".into(), text.into()]);
    }
    let mut parts = vec![facts.to_string()];
    if !stop.plugins.is_empty() {
        parts.push(plugins(&stop.plugins));
    }
    if !stop.steps.is_empty() {
        let mut steps = Table::new(&["STEP", ">TOOK", "OUTCOME"]);
        for step in &stop.steps {
            let outcome = step.outcome.replace('_', " ");
            let took = millis(step.duration_ms);
            steps.row([step.name.as_str().into(), took.into(), outcome.into()]);
        }
        parts.push(steps.to_string());
    }
    let unfinished = stop.plugins.iter().filter_map(unfinished);
    let unfinished: Vec<_> = unfinished.collect();
    if !unfinished.is_empty() {
        parts.push(unfinished.join("\n"));
    }
    parts.join("\n\n")
}

fn verdict(outcome: &str) -> &'static str {
    match outcome {
        "unfinished" => "it has begun and not ended; the next start completes the report",
        "clean" => "every plugin was told of every end, or rejected it for good",
        "owed" => "plugins are owed ends, which are delivered at the next start",
        "lost" => "plugins were not told of ends, and never will be",
        "watchdog" => "the process had to be ended by its watchdog",
        "forced" => "a further signal forced the exit",
        _ => "an outcome that this version does not know",
    }
}

/// What is known of a process that nobody asked to stop.
fn killed(stop: &Stop, recovery: &Recovery, now: Timestamp) -> Vec<(&'static str, String)> {
    let alive_at = recovery.alive_at.unwrap_or(stop.started_at);
    vec![
        ("reason", stop.reason.clone()),
        ("last seen alive", moment(alive_at, now)),
    ]
}

/// How a stop went that somebody asked for.
fn stopped(stop: &Stop, now: Timestamp) -> Vec<(&'static str, String)> {
    let announced = stop.restart_expected_ms.map_or(String::new(), |downtime| {
        format!(", back in {}", millis(downtime))
    });
    let drain = &stop.drain;
    let in_time = if drain.timed_out { ", timed out" } else { "" };
    let took = format!(
        "{}, of which the drain {}{in_time}; the cap is {}",
        millis(stop.duration_ms),
        millis(drain.duration_ms),
        millis(stop.cap_ms)
    );
    vec![
        ("reason", format!("{}{announced}", stop.reason)),
        ("asked by", stop.trigger.clone()),
        ("asked at", moment(stop.started_at, now)),
        ("took", took),
        ("sessions", format!("{} ended", drain.sessions)),
    ]
}

fn moment(at: Timestamp, now: Timestamp) -> String {
    format!("{at:.3} ({} ago)", age_since(at, now))
}

fn plugins(plugins: &[Plugin]) -> String {
    let mut table = Table::new(&[
        "PLUGIN",
        "STATE",
        ">DELIVERED",
        ">OWED",
        ">FAILED",
        ">DEAD",
        ">LOST",
        ">FROM BEFORE",
        ">TOOK",
        "LAST ERROR",
    ]);
    for plugin in plugins {
        let late = match plugin {
            Plugin {
                hung_threads: 1.., ..
            } => " (hangs)",
            Plugin {
                timed_out: true, ..
            } => " (cut)",
            _ => "",
        };
        table.row([
            plugin.name.as_str().into(),
            plugin.state.as_str().into(),
            plugin.delivered.to_string().into(),
            plugin.owed.to_string().into(),
            plugin.failed.to_string().into(),
            plugin.dead.to_string().into(),
            plugin.lost.to_string().into(),
            plugin.owed_before.to_string().into(),
            format!("{}{late}", millis(plugin.duration_ms)).into(),
            or_nothing(plugin.last_error.as_deref()),
        ]);
    }
    table.to_string()
}

/// The first sessions whose end a plugin was not told.
fn unfinished(plugin: &Plugin) -> Option<String> {
    let named: Vec<_> = plugin
        .unfinished
        .iter()
        .take(NAMED)
        .map(|id| clean(id))
        .collect();
    let more = match plugin.unfinished.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let name = clean(&plugin.name);
    let is_any = !named.is_empty();
    is_any.then(|| format!("{name} was not told of {}{more}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T11:03:12.200Z".parse().unwrap()
    }

    fn stop() -> Value {
        json!({
            "schema": 1, "outcome": "clean", "exit_code": 0, "instance": "0199a", "reason": "shutdown",
            "restart_expected_ms": null, "trigger": "SIGTERM",
            "started_at": "2026-11-22T11:00:00.000Z", "ended_at": "2026-11-22T11:00:00.143Z",
            "duration_ms": 143, "cap_ms": 2000,
            "drain": {"duration_ms": 61, "timed_out": false, "sessions": 11, "delivered": 11,
                "owed": 0, "failed": 0, "dead": 0, "lost": 0, "owed_before": 0},
            "plugins": [{"name": "audit", "state": "healthy", "delivered": 11, "owed": 0,
                "failed": 0, "dead": 0, "lost": 0, "owed_before": 0, "timed_out": false,
                "duration_ms": 4, "last_error": null, "unfinished": []}],
            "steps": [{"name": "gateway_shutdown", "duration_ms": 1, "outcome": "ok"}],
            "warnings": [], "recovery": null
        })
    }

    #[test]
    fn a_clean_stop_is_short() {
        let stop = serde_json::from_value(stop()).unwrap();
        assert_snapshot!(summary(&stop, now()), @r"
        LAST STOP  clean
        verdict    every plugin was told of every end, or rejected it for good
        exit code  0
        reason     shutdown
        asked by   SIGTERM
        asked at   2026-11-22T11:00:00.000Z (3m 12s ago)
        took       143ms, of which the drain 61ms; the cap is 2s
        sessions   11 ended
        instance   0199a
        warnings   -

        PLUGIN  STATE    DELIVERED  OWED  FAILED  DEAD  LOST  FROM BEFORE  TOOK  LAST ERROR
        audit   healthy         11     0       0     0     0            0   4ms  -

        STEP              TOOK  OUTCOME
        gateway_shutdown   1ms  ok
        ");
    }

    #[test]
    fn a_process_that_was_killed_has_no_stop_to_tell_of() {
        let mut stop = stop();
        stop["outcome"] = "owed".into();
        stop["exit_code"] = 137.into();
        stop["reason"] = "crash".into();
        stop["trigger"] = "crash".into();
        stop["plugins"] = json!([]);
        stop["steps"] = json!([]);
        stop["recovery"] = json!({"found": 1, "by_reason": {"crash": 1},
            "alive_at": "2026-11-22T11:00:02.200Z"});
        let stop = serde_json::from_value(stop).unwrap();
        assert_snapshot!(summary(&stop, now()), @r"
        LAST STOP        owed
        verdict          it ended without a stop, as when it is killed; the next start ended 1 session
        exit code        137
        reason           crash
        last seen alive  2026-11-22T11:00:02.200Z (3m 10s ago)
        instance         0199a
        warnings         -
        recovery         1 session found at the next start: 1 crash
        ");
    }

    #[test]
    fn a_stop_that_owes_says_whom_and_what() {
        let mut stop = stop();
        stop["outcome"] = "owed".into();
        stop["reason"] = "restart".into();
        stop["restart_expected_ms"] = 1500.into();
        stop["trigger"] = "SIGUSR2".into();
        stop["drain"]["timed_out"] = true.into();
        stop["warnings"] = json!(["session-end-drain", "http-server"]);
        stop["steps"][0]["outcome"] = "timed_out".into();
        stop["plugins"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "memory-db",
            "state": "retrying", "delivered": 4, "owed": 7, "failed": 7, "dead": 0, "lost": 0,
            "owed_before": 1204, "timed_out": true, "duration_ms": 1950,
            "last_error": "timed out",
            "unfinished": ["s1", "s2", "s3", "s4", "s5", "s6", "s7"]}));
        stop["recovery"] = json!({"found": 3, "by_reason": {"crash": 2, "restart": 1}});
        let stop = serde_json::from_value(stop).unwrap();
        assert_snapshot!(summary(&stop, now()), @r"
        LAST STOP  owed
        verdict    plugins are owed ends, which are delivered at the next start
        exit code  0
        reason     restart, back in 1.5s
        asked by   SIGUSR2
        asked at   2026-11-22T11:00:00.000Z (3m 12s ago)
        took       143ms, of which the drain 61ms, timed out; the cap is 2s
        sessions   11 ended
        instance   0199a
        warnings   session-end-drain, http-server
        recovery   3 sessions found at the next start: 2 crash, 1 restart

        PLUGIN     STATE     DELIVERED  OWED  FAILED  DEAD  LOST  FROM BEFORE         TOOK  LAST ERROR
        audit      healthy          11     0       0     0     0            0          4ms  -
        memory-db  retrying          4     7       7     0     0         1204  1.95s (cut)  timed out

        STEP              TOOK  OUTCOME
        gateway_shutdown   1ms  timed out

        memory-db was not told of s1, s2, s3, s4, s5 and 2 more
        ");
    }
}
