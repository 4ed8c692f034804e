//! `recover`: ends and delivers what a dead process has left, with no gateway running.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::failure::Failure;
use super::output::{Format, Output, note, print};
use super::serve::supervisor_of;
use super::table::{Table, age_since, count, or_nothing};
use crate::bus::{PluginState, PluginStatus};
use crate::clock::WireTime;
use crate::config::{Config, Env, Flags, LedgerKind};
use crate::event::Hook;
use crate::ledger::{Recovery, SqliteLedger, Survey};
use crate::plugin::PluginSpec;
use crate::shutdown::{HeldAtStop, ReportArchive, Shutdown};
use crate::state_dir::StateDir;
use crate::supervisor::SessionSupervisor;

/// How often to look how far the plugins are.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often to say how far they are.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// How long to wait while no plugin takes anything.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// How many sessions a rehearsal names.
const NAMED: usize = 1000;

/// How many of them people are shown.
const SHOWN: usize = 10;

/// Ends the sessions that a dead process has left active, and tells the plugins what they are owed
///
/// A gateway does the same when it starts; this is for when none is to. It fails if a gateway has the
/// state directory. Plugins that are down are not waited for: what they are owed stays recorded.
/// Sessions that other programs hold go on, and wait for the next gateway.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Recover {
    /// The configuration file (TOML) that names the state directory and the plugins
    ///
    /// [env: SESSION_SUPERVISOR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where the ledger is kept
    ///
    /// Overrides `state_dir` of the file. [env: SESSION_SUPERVISOR_STATE_DIR] [default: ./state,
    /// under systemd the unit's StateDirectory]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Only shows what would be ended and delivered
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    format: Format,
}

const AFTER_HELP: &str = "\
Exit codes:
  0   every plugin was told, or it was only shown
  1   a plugin is still owed events, a gateway is running, or the ledger can't be used
  2   wrong usage
  78  the configuration is wrong";

/// How a plugin is in the end.
#[derive(Debug, Serialize)]
struct PluginOutcome<'a> {
    name: &'a str,
    state: PluginState,
    owed: u64,
    dead: u64,
    last_error: Option<&'a str>,
}

impl Recover {
    pub(super) fn run(self) -> Result<(), Failure> {
        let output = self.format.format;
        let flags = Flags {
            config: self.config,
            state_dir: self.state_dir,
            ..Flags::default()
        };
        let env = Env::new(&|name| std::env::var_os(name));
        let config = Config::load(&flags, &env).map_err(Failure::Configuration)?;
        if config.ledger.kind != LedgerKind::Sqlite {
            return Err(Failure::Failed(
                "the ledger of this configuration is in memory: a dead process left nothing".into(),
            ));
        }
        let ledger = config.state_dir.join(StateDir::LEDGER);
        if !ledger.exists() {
            return Err(Failure::Failed(format!(
                "there is no ledger at {}: nothing was recorded there, or it is elsewhere\n  \
                 what to do: name its directory with --state-dir, or its configuration with --config",
                ledger.display()
            )));
        }
        let state_dir = StateDir::open_when_free(&config.state_dir).map_err(failed)?;
        if self.dry_run {
            let survey = SqliteLedger::survey(&ledger, NAMED).map_err(failed)?;
            let durability = config.ledger.durability;
            let plugins = config.plugins.iter().map(|it| it.to_spec(durability));
            let plugins: Vec<_> = plugins.collect();
            return show(&survey, &plugins, output);
        }
        recover(&config, state_dir, output)
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

fn recover(config: &Config, state_dir: StateDir, output: Output) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().build().map_err(failed)?;
    // Kept until the end; what this short run itself leaves is no stop to report.
    let archive = ReportArchive::new(state_dir.path());
    let builder =
        supervisor_of(config, &state_dir).map_err(|error| failed(format!("{error:#}")))?;
    // Holders that live have until the next start to come back.
    let builder = builder.held_at_stop(HeldAtStop::GoOn);
    let supervisor = runtime.block_on(builder.start()).map_err(failed)?;
    let recovery = supervisor.recovery().clone();
    if let Err(error) = archive.complete(&recovery, config.shutdown.cap) {
        note(&format!(
            "the report of the run before can't be completed: {error}"
        ));
    }
    let plugins = wait_for_plugins(&runtime, &supervisor)?;
    let holders = runtime.block_on(supervisor.holders()).map_err(failed)?;
    let held = holders.iter().map(|holder| holder.sessions as u64).sum();
    let stop = Shutdown::now().with_trigger("recover");
    runtime
        .block_on(supervisor.shutdown(stop))
        .map_err(failed)?;
    drop(state_dir);

    let owing = plugins.iter().filter(|plugin| plugin.owed > 0).count();
    print(&outcome(&recovery, held, &plugins, output))?;
    if owing > 0 {
        return Err(Failure::Failed(format!(
            "{} still owed events, which stay recorded\n  \
             what to do: mend what LAST ERROR says and run this again, or start the gateway",
            if owing == 1 {
                "1 plugin is".into()
            } else {
                format!("{owing} plugins are")
            }
        )));
    }
    Ok(())
}

/// Waits until each plugin has what it is owed, or is down, waits for another attempt, or has taken
/// nothing for as long as it is waited for.
fn wait_for_plugins(
    runtime: &Runtime,
    supervisor: &SessionSupervisor,
) -> Result<Vec<PluginStatus>, Failure> {
    let (mut said, mut progress) = (Instant::now(), Progress::default());
    loop {
        let plugins = runtime.block_on(supervisor.plugins()).map_err(failed)?;
        let is_settled = |plugin: &PluginStatus| plugin.owed == 0 || plugin.state.waits();
        let going: Vec<_> = plugins.iter().filter(|it| !is_settled(it)).collect();
        if going.is_empty() {
            return Ok(plugins);
        }
        let owed = going.iter().map(|plugin| (&*plugin.name, plugin.owed));
        if progress.stands_still(owed, Instant::now()) {
            for plugin in going {
                let (name, seconds) = (&plugin.name, GIVE_UP_AFTER.as_secs());
                note(&format!("{name}: took nothing for {seconds} s, given up"));
            }
            return Ok(plugins);
        }
        if said.elapsed() >= SAY_EVERY {
            for plugin in going {
                note(&format!(
                    "{}: {} to go",
                    plugin.name,
                    count(plugin.owed, "event")
                ));
            }
            said = Instant::now();
        }
        sleep(LOOK_EVERY);
    }
}

/// Sees whether what plugins are owed becomes less.
#[derive(Default)]
struct Progress {
    /// The least that each was owed.
    least: BTreeMap<String, u64>,
    /// When it became less for any.
    moved_at: Option<Instant>,
}

impl Progress {
    /// Whether no plugin has been owed less than before for [`GIVE_UP_AFTER`].
    fn stands_still<'a>(
        &mut self,
        owed: impl Iterator<Item = (&'a str, u64)>,
        now: Instant,
    ) -> bool {
        for (plugin, owed) in owed {
            let is_less = self.least.get(plugin).is_none_or(|least| owed < *least);
            if is_less {
                self.least.insert(plugin.into(), owed);
                self.moved_at = Some(now);
            }
        }
        let moved_at = *self.moved_at.get_or_insert(now);
        now - moved_at >= GIVE_UP_AFTER
    }
}

fn outcome(recovery: &Recovery, held: u64, plugins: &[PluginStatus], output: Output) -> String {
    let outcomes: Vec<_> = plugins
        .iter()
        .map(|plugin| PluginOutcome {
            name: &plugin.name,
            state: plugin.state,
            owed: plugin.owed,
            dead: plugin.dead,
            last_error: plugin.last_error.as_deref(),
        })
        .collect();
    if output == Output::Json {
        let answer = json!({
            "found": recovery.found,
            "reason": recovery.reason,
            "held": held,
            "plugins": outcomes,
        });
        return answer.to_string();
    }
    let mut table = Table::new(&["PLUGIN", ">OWED", ">DEAD", "LAST ERROR"]);
    for plugin in &outcomes {
        table.row([
            plugin.name.into(),
            plugin.owed.to_string().into(),
            plugin.dead.to_string().into(),
            or_nothing(plugin.last_error),
        ]);
    }
    let mut lines = vec![match (recovery.reason, held) {
        (Some(reason), _) => {
            let found = count(recovery.found, "session");
            format!("{found} ended, reason {reason}")
        }
        (None, 0) => "no session was left active".into(),
        (None, _) => "no session ended".into(),
    }];
    lines.extend(going_on(held, "go on"));
    format!("{}\n\n{table}", lines.join("\n"))
}

/// What becomes of the sessions that other programs hold, if there are any.
fn going_on(held: u64, go_on: &str) -> Option<String> {
    let sessions = count(held, "held session");
    (held > 0).then(|| format!("{sessions} {go_on}: the next gateway waits for their holders"))
}

/// What `plugin` is owed once the sessions that are open have ended.
fn owed(survey: &Survey, plugin: &PluginSpec) -> (u64, u64) {
    let (hears_starts, hears_ends) = (
        plugin.hooks().contains(Hook::SessionStart),
        plugin.hooks().contains(Hook::SessionEnd),
    );
    let known = survey
        .plugins
        .iter()
        .find(|known| known.name == plugin.name());
    let (starts, ends, parked, dead) =
        known.map_or((0, 0, 0, 0), |it| (it.starts, it.ends, it.parked, it.dead));
    let ends = ends + survey.open;
    let unread = if hears_starts { starts } else { 0 } + if hears_ends { ends } else { 0 };
    (unread + parked, dead)
}

fn show(survey: &Survey, plugins: &[PluginSpec], output: Output) -> Result<(), Failure> {
    let reason = survey.reason();
    if output == Output::Json {
        let run = survey.predecessor.as_ref().map(|run| {
            json!({
                "instance": run.instance,
                "alive_at": WireTime(run.alive_at),
                "stopped": run.stopped,
            })
        });
        let plugins: Vec<_> = plugins
            .iter()
            .map(|plugin| {
                let (owed, dead) = owed(survey, plugin);
                json!({"name": plugin.name(), "owed": owed, "dead": dead})
            })
            .collect();
        let answer = json!({
            "run": run,
            "found": survey.open,
            "reason": reason,
            "held": survey.held,
            "sessions": survey.sessions,
            "plugins": plugins,
        });
        return print(&answer.to_string());
    }
    print(&summary(survey, plugins, Timestamp::now()))
}

fn summary(survey: &Survey, plugins: &[PluginSpec], now: Timestamp) -> String {
    let mut lines = Vec::new();
    if let Some(run) = &survey.predecessor {
        let (what, ago) = (
            if run.stopped {
                "stopped"
            } else {
                "was last seen alive"
            },
            age_since(run.alive_at, now),
        );
        lines.push(format!("run {} {what} {ago} ago", run.instance));
    }
    lines.push(match (survey.reason(), survey.held) {
        (Some(reason), _) => {
            let open = count(survey.open, "session");
            format!("{open} would end, reason {reason}:")
        }
        (None, 0) => "no session was left active".into(),
        (None, _) => "no session would end".into(),
    });
    let shown = survey.sessions.iter().take(SHOWN);
    lines.extend(shown.map(|id| format!("  {id}")));
    let more = survey.open.saturating_sub(SHOWN as u64);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines.extend(going_on(survey.held, "would go on"));
    let mut table = Table::new(&["PLUGIN", ">WOULD BE TOLD", ">DEAD"]);
    for plugin in plugins {
        let (owed, dead) = owed(survey, plugin);
        table.row([
            plugin.name().into(),
            owed.to_string().into(),
            dead.to_string().into(),
        ]);
    }
    format!("{}\n\n{table}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_given_up_once_none_of_them_has_taken_anything_for_a_while() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut look = |a, b, seconds| {
            let owed = [("a", a), ("b", b)].into_iter();
            progress.stands_still(owed, after(seconds))
        };
        assert!(!look(5, 9, 0));
        assert!(!look(5, 8, 29), "b is slow");
        assert!(!look(6, 8, 58), "more is no progress");
        assert!(look(6, 8, 59));
        assert!(!look(4, 8, 60));
    }
}
