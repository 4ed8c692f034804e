//! `check`: what a configuration comes to.

use std::path::PathBuf;
use std::time::Duration;

use super::failure::Failure;
use super::output::print;
use super::table::{Table, exact, or_nothing};
use crate::config::{
    Config, Env, Flags, PluginConfig, SLACK, ShutdownConfig, TokenConfig, as_written,
};
use crate::event::Hook;
use crate::gateway::Scope;
use crate::shutdown::Budget;

/// How long the drawn line is.
const LINE: usize = 40;
/// Marks stand apart even where their moments nearly meet.
const MIN_GAP: usize = 2;

/// Validates a configuration, and shows its budgets and plugins
///
/// Nothing is started or written. Exits with 78 if the configuration is wrong, with a line per
/// problem that says where it is, what is wrong and what was expected.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The configuration file (TOML)
    ///
    /// Without one every setting has its default. [env: SESSION_SUPERVISOR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let flags = Flags {
            config: self.config,
            ..Flags::default()
        };
        let env = Env::new(&|name| std::env::var_os(name));
        let config = Config::load(&flags, &env).map_err(Failure::Configuration)?;
        print(&describe(&config))
    }
}

fn describe(config: &Config) -> String {
    let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    let (shutdown, sessions) = (&config.shutdown, &config.sessions);
    let or_never = |limit: Option<Duration>| limit.map_or("never".into(), as_written);
    let mut settings = Table::new(&["SETTING", "VALUE"]);
    for (name, value) in [
        ("listen", listen.join(", ")),
        ("state_dir", config.state_dir.display().to_string()),
        ("max_active", sessions.max_active.to_string()),
        ("idle_after", or_never(sessions.idle_after)),
        ("max_age", or_never(sessions.max_age)),
        ("retention", as_written(sessions.retention)),
        ("ledger", config.ledger.to_string()),
        ("restart_expected", as_written(shutdown.restart_expected)),
    ] {
        settings.row([name.into(), value.into()]);
    }
    format!(
        "the configuration is valid\n{}\n{settings}\n{}\n\
         a stop, from the moment that it is asked for:\n\n{}\n{}",
        warnings(&config.warnings),
        tokens(&config.tokens),
        budgets(shutdown),
        plugins(&config.plugins),
    )
}

/// What may stay, but should not: a line each.
fn warnings(warnings: &[String]) -> String {
    let lines = warnings
        .iter()
        .map(|warning| format!("warning: {warning}\n"));
    lines.collect()
}

/// Who may ask; nothing where that is every program of this machine.
fn tokens(tokens: &[TokenConfig]) -> String {
    if tokens.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["TOKEN", "SCOPE", "HOLDER"]);
    for token in tokens {
        let (scope, holder) = match &token.scope {
            Scope::Operator => ("operator", None),
            Scope::Read => ("read", None),
            Scope::Holder(holder) => ("holder", Some(holder.as_str())),
        };
        let name = token.name.as_str().into();
        table.row([name, scope.into(), or_nothing(holder)]);
    }
    format!("\n{table}\n")
}

/// A moment of a stop, counted from the request.
struct Moment {
    at: Duration,
    name: &'static str,
    meaning: &'static str,
}

fn moments(config: &ShutdownConfig) -> [Moment; 7] {
    let moment = |at, name, meaning| Moment { at, name, meaning };
    let gone = config.cap + config.teardown;
    [
        moment(Duration::ZERO, "t0", "no new sessions from here on"),
        moment(
            config.lifecycle_timeout,
            "hooks",
            "each lifecycle hook has this long",
        ),
        moment(
            Budget::cut_after(config.cap),
            "cut",
            "deliveries still running are cut",
        ),
        moment(config.cap, "cap", "hooks and drain are over"),
        moment(
            gone,
            "teardown",
            "the server is closed, the process is gone",
        ),
        moment(gone + SLACK, "slack", "the process has been slow to go"),
        moment(
            config.kill_after,
            "kill_after",
            "the service manager kills what is left",
        ),
    ]
}

/// The moments above a line, about to scale, each with its number.
fn budgets(config: &ShutdownConfig) -> String {
    let moments = moments(config);
    let columns = columns(&moments);
    let mut lines = String::new();
    for (row, moment) in moments.iter().enumerate() {
        let mut line = String::new();
        for column in 0..=LINE {
            line.push(match columns.iter().position(|at| *at == column) {
                Some(mark) if mark < row => '│',
                Some(mark) if mark == row => '╭',
                _ if column > columns[row] => '─',
                _ => ' ',
            });
        }
        let (at, name, meaning) = (exact(moment.at), moment.name, moment.meaning);
        lines.push_str(&format!("{line}─ {at:>7}  {name:<10}  {meaning}\n"));
    }
    let axis = (0..=LINE).map(|column| match column {
        0 => '├',
        LINE => '┤',
        column if columns.contains(&column) => '┴',
        _ => '─',
    });
    lines.extend(axis);
    lines.push('\n');
    lines
}

/// Where the moments stand on the line: every gap has its least width, and its share of the rest.
fn columns(moments: &[Moment; 7]) -> [usize; 7] {
    let gaps = moments.len() - 1;
    let whole = moments[gaps].at.as_secs_f64();
    let free = (LINE - MIN_GAP * gaps) as f64;
    let mut columns = [0; 7];
    for (index, moment) in moments.iter().enumerate() {
        let share = moment.at.as_secs_f64() / whole * free;
        // No larger than `LINE`, which is small.
        columns[index] = MIN_GAP * index + share.round() as usize;
    }
    columns
}

fn plugins(plugins: &[PluginConfig]) -> String {
    if plugins.is_empty() {
        return "warning: no plugin is configured: starts and ends are told to nobody".into();
    }
    let mut table = Table::new(&[
        "PLUGIN",
        "KIND",
        ">TIMEOUT",
        ">RETRY FOR",
        ">BACKOFF",
        ">ATTEMPTS",
        ">BATCH",
        ">AT ONCE",
        "HOOKS",
    ]);
    for plugin in plugins {
        let policy = &plugin.policy;
        let hooks = Hook::ALL
            .iter()
            .filter(|hook| plugin.hooks.contains(**hook));
        let hooks: Vec<_> = hooks.map(|hook| hook.as_str()).collect();
        let backoff = format!(
            "{}..{}",
            as_written(policy.backoff),
            as_written(policy.backoff_max)
        );
        table.row([
            plugin.name.as_str().into(),
            plugin.kind.name().into(),
            as_written(policy.timeout).into(),
            as_written(policy.retry_for).into(),
            backoff.into(),
            policy.max_attempts.to_string().into(),
            policy.max_batch.to_string().into(),
            policy.max_in_flight.to_string().into(),
            hooks.join(", ").into(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::gateway::Secret;
    use crate::session::HolderId;

    #[test]
    fn the_default_configuration_is_drawn() {
        let nothing_set = Env::new(&|_| None);
        let config = Config::load(&Flags::default(), &nothing_set).unwrap();
        assert_snapshot!(describe(&config), @r"
        the configuration is valid

        SETTING           VALUE
        listen            127.0.0.1:7467
        state_dir         ./state
        max_active        1000000
        idle_after        never
        max_age           never
        retention         7d
        ledger            sqlite, survives loss of power
        restart_expected  0s

        a stop, from the moment that it is asked for:

        ╭─────────────────────────────────────────      0s  t0          no new sessions from here on
        │  ╭──────────────────────────────────────   250ms  hooks       each lifecycle hook has this long
        │  │     ╭────────────────────────────────   1.95s  cut         deliveries still running are cut
        │  │     │  ╭─────────────────────────────      2s  cap         hooks and drain are over
        │  │     │  │   ╭─────────────────────────      3s  teardown    the server is closed, the process is gone
        │  │     │  │   │    ╭────────────────────      4s  slack       the process has been slow to go
        │  │     │  │   │    │                  ╭─     10s  kill_after  the service manager kills what is left
        ├──┴─────┴──┴───┴────┴──────────────────┤

        PLUGIN  KIND  TIMEOUT  RETRY FOR  BACKOFF  ATTEMPTS  BATCH  AT ONCE  HOOKS
        log     log        5s         3d   1s..5m         5   4096        1  session_start, session_end
        ");
    }

    #[test]
    fn moments_that_nearly_meet_stand_apart() {
        let config = ShutdownConfig {
            cap: Duration::from_millis(100),
            lifecycle_timeout: Duration::from_millis(1),
            teardown: Duration::from_millis(1),
            kill_after: Duration::from_secs(600),
            restart_expected: Duration::ZERO,
            grace: Duration::ZERO,
        };
        assert_snapshot!(budgets(&config), @r"
        ╭─────────────────────────────────────────      0s  t0          no new sessions from here on
        │ ╭───────────────────────────────────────     1ms  hooks       each lifecycle hook has this long
        │ │ ╭─────────────────────────────────────    90ms  cut         deliveries still running are cut
        │ │ │ ╭───────────────────────────────────   100ms  cap         hooks and drain are over
        │ │ │ │ ╭─────────────────────────────────   101ms  teardown    the server is closed, the process is gone
        │ │ │ │ │ ╭───────────────────────────────  1.101s  slack       the process has been slow to go
        │ │ │ │ │ │                             ╭─    600s  kill_after  the service manager kills what is left
        ├─┴─┴─┴─┴─┴─────────────────────────────┤
        ");
    }

    #[test]
    fn a_stop_that_just_fits_fills_the_line() {
        let config = ShutdownConfig {
            cap: Duration::from_secs(600),
            lifecycle_timeout: Duration::from_secs(150),
            teardown: Duration::from_secs(199),
            kill_after: Duration::from_secs(800),
            restart_expected: Duration::ZERO,
            grace: Duration::ZERO,
        };
        let columns = columns(&moments(&config));
        assert_eq!((columns[0], columns[6]), (0, LINE));
        assert!(
            columns.windows(2).all(|pair| pair[0] + MIN_GAP <= pair[1]),
            "{columns:?}"
        );
    }

    #[test]
    fn tokens_show_what_they_open_and_no_secret() {
        let token = |name: &str, scope| TokenConfig {
            name: name.into(),
            scope,
            secret: Secret::new("operator-0123456789").unwrap(),
        };
        let worker = Scope::Holder(HolderId::new("worker-1").unwrap());
        let all = [
            token("ops", Scope::Operator),
            token("dashboard", Scope::Read),
            token("worker", worker),
        ];
        assert_snapshot!(tokens(&all), @r"

        TOKEN      SCOPE     HOLDER
        ops        operator  -
        dashboard  read      -
        worker     holder    worker-1
        ");
        assert_eq!(tokens(&[]), "");
    }

    #[test]
    fn nobody_told_is_said() {
        assert_snapshot!(plugins(&[]), @"warning: no plugin is configured: starts and ends are told to nobody");
    }
}
