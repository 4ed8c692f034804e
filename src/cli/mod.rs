//! The command line.

mod check;
mod client;
mod completions;
mod duration;
mod failure;
mod holders;
mod man;
mod notify;
mod output;
mod plugins;
mod recover;
mod report;
mod run;
mod serve;
mod sessions;
mod status;
mod stop;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::telemetry::{self, LogFormat};

/// The gateway refused, or what was asked for went wrong.
const REFUSED: u8 = 1;
/// For health checks: it is not alive, or not ready.
const NOT_THERE: u8 = 1;
/// Could not start.
const COULD_NOT_START: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 2;
/// Stopped, and something was lost.
const LOST: u8 = 3;
/// No gateway answers: `EX_UNAVAILABLE` of `sysexits.h`.
const NOT_REACHABLE: u8 = 69;
/// The configuration is wrong: `EX_CONFIG` of `sysexits.h`.
const CONFIGURATION: u8 = 78;

/// Every session that starts gets its end, and stopping never takes longer than its cap.
///
/// Programs tell the gateway over HTTP which sessions start and end; it tells the plugins. When it
/// is stopped, it ends the sessions that are left and tells the plugins so, inside a fixed time.
#[derive(Debug, Parser)]
#[command(name = "session-supervisor", version, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_long_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How log lines of `serve` and `run` look: `text` or `json`
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Run(run::Run),
    Check(check::Check),
    Status(status::Status),
    Sessions(sessions::Sessions),
    Holders(holders::Holders),
    Plugins(plugins::Plugins),
    Stop(stop::Stop),
    Report(report::Report),
    Recover(recover::Recover),
    Completions(completions::Completions),
    Man(man::ManPage),
}

const AFTER_HELP: &str = "\
Exit codes of the commands that ask a gateway, `status` excepted:
  0   done
  1   refused
  2   wrong usage
  69  no gateway is reachable";

/// Runs the program with the process's arguments and environment.
pub fn main() -> ExitCode {
    if let Some(code) = run::shim::become_program(std::env::args_os()) {
        return code;
    }
    run(std::env::args_os())
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(mut answer) => {
            suggest_config(&mut answer, &arguments);
            // Help, the version, or what is wrong. If nobody reads it, the code still tells.
            let _ = answer.print();
            return if answer.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = match cli.command {
        Command::Serve(serve) => {
            // The others have no log: what they print is all that they have to say.
            let _logs = telemetry::init(cli.log_format);
            return serve.run();
        }
        Command::Run(run) => {
            let _logs = telemetry::init(cli.log_format);
            return run.run();
        }
        Command::Status(status) => return status.run(),
        Command::Check(check) => check.run(),
        Command::Sessions(sessions) => sessions.run(),
        Command::Holders(holders) => holders.run(),
        Command::Plugins(plugins) => plugins.run(),
        Command::Stop(stop) => stop.run(),
        Command::Report(report) => report.run(),
        Command::Recover(recover) => recover.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(page) => page.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(failure.code(), &failure),
    }
}

/// Says how a configuration is named where one was given as an argument.
fn suggest_config(error: &mut clap::Error, arguments: &[OsString]) {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return;
    };
    let command = Cli::command();
    let name = arguments.get(1).and_then(|name| name.to_str());
    let command = name.and_then(|name| command.find_subcommand(name));
    let takes_config =
        command.is_some_and(|command| command.get_arguments().any(|it| it.get_id() == "config"));
    if error.kind() == ErrorKind::UnknownArgument && argument.ends_with(".toml") && takes_config {
        let tip = format!("to name a configuration, use `--config {argument}`");
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
    }
}

/// Says why the program ends, in lines that are no log lines, and gives its exit code.
fn fail(code: u8, message: &dyn std::fmt::Display) -> ExitCode {
    output::note(&message.to_string());
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_refused() {
        for arguments in [
            &[][..],
            &["serv"],
            &["serve", "--listen", "localhost"],
            &["serve", "--listen", "127.0.0.1"],
            &["serve", "--ledger", "postgres"],
            &["serve", "--log-format", "yaml"],
            &["serve", "config.toml"],
            &["run"],
            &["run", "--"],
            &["run", "true"],
            &["run", "--grace", "4", "--", "true"],
        ] {
            let arguments = ["session-supervisor"].iter().chain(arguments);
            let refused = Cli::try_parse_from(arguments.clone()).err();
            assert!(
                refused.is_some_and(|error| error.use_stderr()),
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn a_file_without_its_flag_is_told_what_it_lacks() {
        let told = |arguments: &[&str]| {
            let arguments = ["session-supervisor"].iter().chain(arguments);
            let arguments: Vec<_> = arguments.map(OsString::from).collect();
            let mut error = Cli::try_parse_from(&arguments).unwrap_err();
            suggest_config(&mut error, &arguments);
            error.to_string()
        };
        let tip = "tip: to name a configuration, use `--config good.toml`";
        for command in ["check", "serve", "report", "recover"] {
            let told = told(&[command, "good.toml"]);
            assert!(told.contains(tip), "{told}");
        }
        for arguments in [["stop", "good.toml"], ["check", "good"]] {
            let told = told(&arguments);
            assert!(!told.contains("--config"), "{told}");
        }
    }

    #[test]
    fn the_help_of_a_command_has_a_line_on_the_logs_of_others() {
        let mut command = Cli::command();
        command.build();
        let stop = command.find_subcommand_mut("stop").unwrap();
        let help = stop.render_long_help().to_string();
        let from = help.find("--log-format").unwrap();
        let lines = help[from..].lines();
        let about_logs = lines.take_while(|line| !line.trim_start().starts_with("-h,"));
        assert!(about_logs.count() <= 5, "{help}");
    }

    #[test]
    fn the_help_of_serve_lists_defaults_and_exit_codes() {
        let mut command = Cli::command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        for expected in [
            "127.0.0.1:7467",
            "./state",
            "SESSION_SUPERVISOR_CONFIG",
            "SESSION_SUPERVISOR_LISTEN",
            "SESSION_SUPERVISOR_STATE_DIR",
            "RUST_LOG",
            "\n  78 ",
            "\n  128 + n ",
        ] {
            assert!(help.contains(expected), "no {expected:?} in:\n{help}");
        }
    }
}
