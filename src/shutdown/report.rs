//! The report of a stop.

mod counts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::counts::{DrainReport, PluginReport};
use crate::clock::serialize_wire_time;
use crate::event::InstanceId;
use crate::ledger::Predecessor;
use crate::monitor::DrainStanding;
use crate::session::EndReason;

/// What a process exits with that was killed, which is what a run that just ceased stands for.
const KILLED: u8 = 128 + 9;

/// The name of the drain among the steps and warnings.
pub(super) const DRAIN_STEP: &str = "session-end-drain";

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It has begun and not ended.
    Unfinished,
    /// Every session's end was delivered to every plugin that hears of ends, or is a dead letter
    /// that is kept.
    Clean,
    /// Something stays owed, and is delivered at the next start.
    Owed,
    /// Something can't be delivered any more, dead letters of a ledger in memory included.
    Lost,
    /// The watchdog had to end the process.
    Watchdog,
    /// A second signal forced the exit.
    Forced,
}

impl Outcome {
    /// The outcome's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Clean => "clean",
            Self::Owed => "owed",
            Self::Lost => "lost",
            Self::Watchdog => "watchdog",
            Self::Forced => "forced",
        }
    }
}

/// How a step of a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepOutcome {
    /// It did what it should.
    Ok,
    /// It failed.
    Failed,
    /// It ran out of time.
    TimedOut,
}

/// A step of a stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct StepReport {
    /// Its name, which stands in the warnings unless the outcome is `ok`.
    pub name: String,
    /// How long it took.
    pub duration_ms: u64,
    /// How it went.
    pub outcome: StepOutcome,
}

/// What the next start found of a run that did not come to the end of its stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct RecoveryReport {
    /// How many sessions it had left active. They are ended now.
    pub found: u64,
    /// The same, by the reason of their ends.
    pub by_reason: BTreeMap<EndReason, u64>,
    /// The last moment at which the run was known to be alive.
    #[serde(serialize_with = "serialize_wire_time")]
    pub alive_at: Timestamp,
}

/// The report of a stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The version of this form.
    pub schema: u32,
    /// How the stop went.
    pub outcome: Outcome,
    /// What the binary exits with: 0, 3 where something was lost, 128 + n where signal n forced
    /// the exit; 137 where the process ceased, whatever the cause.
    pub exit_code: u8,
    /// Which run of the supervisor.
    pub instance: String,
    /// Why the sessions ended.
    pub reason: EndReason,
    /// The downtime that was announced; null for `shutdown`.
    pub restart_expected_ms: Option<u64>,
    /// Who asked: a signal's name, or what the caller said.
    pub trigger: String,
    /// When it was asked for.
    #[serde(serialize_with = "serialize_wire_time")]
    pub started_at: Timestamp,
    /// When it was over.
    #[serde(serialize_with = "serialize_wire_time")]
    pub ended_at: Timestamp,
    /// How long it took.
    pub duration_ms: u64,
    /// How long hooks and drain might take.
    pub cap_ms: u64,
    /// The session-end drain.
    pub drain: DrainReport,
    /// The drain per plugin that hears of ends, in the order of their registration.
    pub plugins: Vec<PluginReport>,
    /// The steps in their order.
    pub steps: Vec<StepReport>,
    /// The step that was under way when the stop was broken off, by the watchdog or by a further
    /// signal.
    #[serde(default)]
    pub held_by: Option<String>,
    /// The names of the steps that failed or timed out, and `ledger` where it failed.
    pub warnings: Vec<String>,
    /// What the next start found, if it had to complete this report.
    pub recovery: Option<RecoveryReport>,
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl ShutdownReport {
    /// The report of a stop that has just been asked for.
    pub(super) fn begin(
        instance: InstanceId,
        reason: EndReason,
        restart_expected: Option<Duration>,
        trigger: String,
        now: Timestamp,
        cap: Duration,
    ) -> Self {
        Self {
            schema: 1,
            outcome: Outcome::Unfinished,
            exit_code: 0,
            instance: instance.to_string(),
            reason,
            restart_expected_ms: restart_expected.map(millis),
            trigger,
            started_at: now,
            ended_at: now,
            duration_ms: 0,
            cap_ms: millis(cap),
            drain: DrainReport::default(),
            plugins: Vec::new(),
            steps: Vec::new(),
            held_by: None,
            warnings: Vec::new(),
            recovery: None,
        }
    }

    /// The report of a run that died without a stop.
    pub(super) fn of_crash(run: &Predecessor, cap: Duration) -> Self {
        let (reason, restart_expected, trigger, asked_at) = match &run.intent {
            Some(intent) => (
                intent.reason,
                intent.restart_expected,
                intent.trigger.clone(),
                intent.asked_at,
            ),
            None => (EndReason::Crash, None, "crash".into(), run.alive_at),
        };
        Self::begin(
            run.instance,
            reason,
            restart_expected,
            trigger,
            asked_at,
            cap,
        )
    }

    pub(super) fn is_unfinished(&self) -> bool {
        self.outcome == Outcome::Unfinished
    }

    /// Adds what the next start found of the run, which puts an end to an unfinished report.
    pub(super) fn recover(&mut self, recovery: RecoveryReport) {
        if self.is_unfinished() {
            self.ended_at = recovery.alive_at.max(self.started_at);
            let took = self.ended_at.duration_since(self.started_at);
            self.duration_ms = Duration::try_from(took).map_or(0, millis);
            (self.outcome, self.exit_code) = (Outcome::Owed, KILLED);
        }
        self.recovery = Some(recovery);
    }

    /// Adds a step, and a warning where it did not go well.
    pub(super) fn add_step(&mut self, name: &str, took: Duration, outcome: StepOutcome) {
        if outcome != StepOutcome::Ok {
            self.warn(name);
        }
        self.steps.push(StepReport {
            name: name.into(),
            duration_ms: millis(took),
            outcome,
        });
    }

    pub(super) fn warn(&mut self, name: &str) {
        if !self.warnings.iter().any(|known| known == name) {
            self.warnings.push(name.into());
        }
    }

    /// Sets the plugins' parts and adds them up. Where nothing outlives the process, what would be
    /// owed is lost.
    pub(super) fn set_plugins(
        &mut self,
        sessions: usize,
        mut plugins: Vec<PluginReport>,
        is_durable: bool,
    ) {
        if !is_durable {
            for plugin in &mut plugins {
                plugin.lost += std::mem::take(&mut plugin.owed);
            }
        }
        let sum = |count: fn(&PluginReport) -> u64| plugins.iter().map(count).sum();
        self.drain = DrainReport {
            duration_ms: self.drain.duration_ms,
            timed_out: plugins.iter().any(|plugin| plugin.timed_out),
            sessions: sessions as u64,
            delivered: sum(|plugin| plugin.delivered),
            owed: sum(|plugin| plugin.owed),
            failed: sum(|plugin| plugin.failed),
            dead: sum(|plugin| plugin.dead),
            lost: sum(|plugin| plugin.lost),
            owed_before: sum(|plugin| plugin.owed_before),
        };
        self.plugins = plugins;
    }

    /// Ends a drain before it is over: what is delivered by now counts, and no more.
    pub(super) fn cut_drain(
        &mut self,
        standings: &BTreeMap<Arc<str>, DrainStanding>,
        took: Duration,
        is_durable: bool,
    ) {
        let mut plugins = std::mem::take(&mut self.plugins);
        for plugin in &mut plugins {
            plugin.last_error = Some("the stop was forced before it was done".into());
            if let Some(standing) = standings.get(&*plugin.name) {
                plugin.stand(standing);
            }
        }
        let sessions = usize::try_from(self.drain.sessions).unwrap_or(usize::MAX);
        self.set_plugins(sessions, plugins, is_durable);
        self.drain.timed_out = true;
        self.drain.duration_ms = millis(took);
        self.add_step(DRAIN_STEP, took, StepOutcome::TimedOut);
    }

    /// Whether the drain is over.
    pub(super) fn is_drained(&self) -> bool {
        self.steps.iter().any(|step| step.name == DRAIN_STEP)
    }

    /// Ends the report. `is_durable` says whether what is owed is found again.
    pub(super) fn finish(&mut self, now: Timestamp, took: Duration, is_durable: bool) {
        self.ended_at = now;
        self.duration_ms = millis(took);
        let drain = &self.drain;
        // Dead letters, too, end with the process where the ledger does.
        let dies_with_us = !is_durable && drain.owed_before + drain.dead > 0;
        (self.outcome, self.exit_code) = if drain.owed > 0 || drain.owed_before > 0 {
            (Outcome::Owed, 0)
        } else {
            (Outcome::Clean, 0)
        };
        if drain.lost > 0 || dies_with_us {
            self.set_lost();
        }
    }

    /// Something was lost, whether the counts show it or not.
    pub(super) fn set_lost(&mut self) {
        (self.outcome, self.exit_code) = (Outcome::Lost, 3);
    }
}
