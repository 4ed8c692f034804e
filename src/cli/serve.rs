//! `serve`: the gateway, until a signal.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::{self, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

use super::{CONFIGURATION, COULD_NOT_START, LOST, fail, notify};
use crate::config::{Config, ConfigError, Env, Flags, LedgerKind, parse_address};
use crate::gateway::{Gateway, Token, raise_file_limit};
use crate::ledger::SqliteLedger;
use crate::shutdown::{Deferral, HeldAtStop};
use crate::state_dir::{StateDir, StateDirError};
use crate::supervisor::{self, LiveSettings, SessionSupervisor};
use crate::web::SERVER_STEP;

/// Runs the gateway until a signal
///
/// It listens for starts and ends of sessions over HTTP and tells the plugins. Without a
/// configuration file there is one plugin, which writes a line of JSON per event to standard
/// output.
///
/// SIGTERM, SIGINT and SIGQUIT stop it: the sessions that are still active end with the reason
/// `shutdown`, and with `restart` on SIGUSR2.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Serve {
    #[command(flatten)]
    options: Options,

    /// The address to listen on; port 0 takes a free one, and any but loopback needs a token
    ///
    /// Overrides `listen` of the file. [env: SESSION_SUPERVISOR_LISTEN] [default: 127.0.0.1:7467]
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    listen: Option<SocketAddr>,
}

/// What every gateway takes.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The configuration file (TOML)
    ///
    /// Without one every setting has its default. [env: SESSION_SUPERVISOR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where the ledger and the reports of stops are kept; made if there is none
    ///
    /// Overrides `state_dir` of the file. [env: SESSION_SUPERVISOR_STATE_DIR] [default: ./state,
    /// under systemd the unit's StateDirectory]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Where events are recorded until every plugin has acknowledged them
    ///
    /// Overrides `ledger.kind` of the file. [default: sqlite]
    #[arg(long, value_name = "KIND", value_enum)]
    ledger: Option<LedgerKind>,
}

const AFTER_HELP: &str = "\
A flag comes before the environment, that before the file, and that before the default. An empty
variable counts as unset.

RUST_LOG says which log lines are written to standard error, such as `debug` or
`warn,session_supervisor=debug`; without it those from `info` on.

Exit codes:
  0        stopped inside its bounds, and nothing was lost
  1        could not start, such as when the port or the state directory is taken
  2        wrong usage
  78       the configuration is wrong: a line says where, what is wrong and what was expected
  3        stopped, and something was lost: what plugins are owed with the memory ledger, or
           what another ledger could not record in time
  4        the stop took longer than it may, and the watchdog ended it
  128 + n  a further signal n forced the exit

Examples:
  session-supervisor serve
  session-supervisor serve --config /etc/session-supervisor/config.toml
  session-supervisor serve --listen 127.0.0.1:0 --state-dir /tmp/state --log-format json";

impl Options {
    pub(super) fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            state_dir: self.state_dir.clone(),
            ledger: self.ledger,
            ..Flags::default()
        }
    }
}

impl Serve {
    pub(super) fn run(self) -> ExitCode {
        let mut flags = self.options.flags();
        flags.listen = self.listen;
        let config = match load(&flags, false) {
            Ok(config) => config,
            Err(error) => return fail(CONFIGURATION, &error),
        };
        let state_dir = match open_state_dir(&config) {
            Ok(state_dir) => state_dir,
            Err(code) => return code,
        };
        let running = match start(&flags, &config, state_dir, None) {
            Ok(running) => running,
            Err(error) => {
                return fail(COULD_NOT_START, &format_args!("can't start: {error:#}"));
            }
        };
        let stopped = notify::until_stopped(&running.supervisor, &running.addresses);
        match running.runtime.block_on(stopped) {
            Ok(report) => ExitCode::from(report.exit_code),
            Err(error) => fail(LOST, &format_args!("stopped without a report: {error}")),
        }
    }
}

/// A gateway that is up.
pub(super) struct Running {
    pub(super) runtime: Runtime,
    pub(super) supervisor: SessionSupervisor,
    /// Where it listens.
    pub(super) addresses: Vec<SocketAddr>,
    /// The soft limit of open files that this process began with, if it has raised it since.
    pub(super) file_limit_before: Option<u64>,
}

/// What a gateway has that is around a program.
pub(super) struct Around {
    /// The program's token, on top of those of the configuration.
    pub(super) token: Token,
    /// Keeps a stop back until the program has exited.
    pub(super) deferral: Deferral,
}

/// Reads the configuration. Around a program standard output is not the gateway's.
pub(super) fn load(flags: &Flags, is_around: bool) -> Result<Config, ConfigError> {
    let env = Env::new(&|name| std::env::var_os(name));
    let mut config = Config::load(flags, &env)?;
    if is_around {
        config.leave_standard_output();
    }
    Ok(config)
}

/// Takes the state directory for this process; if that can't be, says why and answers the exit code.
pub(super) fn open_state_dir(config: &Config) -> Result<StateDir, ExitCode> {
    StateDir::open_when_free(&config.state_dir).map_err(|problem| match problem {
        // No fault of the configuration: a service manager may try again.
        StateDirError::Io { ref error, .. } if is_want_of_space(error) => {
            fail(COULD_NOT_START, &format_args!("can't start: {problem}"))
        }
        StateDirError::Io { error, .. } => fail(CONFIGURATION, &config.state_dir_error(&error)),
        in_use => fail(COULD_NOT_START, &format_args!("can't start: {in_use}")),
    })
}

fn is_want_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Starts the gateway that `config` describes.
pub(super) fn start(
    flags: &Flags,
    config: &Config,
    state_dir: StateDir,
    around: Option<Around>,
) -> anyhow::Result<Running> {
    // Ports are taken before anything else starts: a second gateway by mistake tells nobody.
    let listeners = bind(&config.listen)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if config.plugins.is_empty() {
        tracing::warn!("no plugin is configured: starts and ends are told to nobody");
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let builder = supervisor_of(config, &state_dir)?;
    let (flags, running) = (flags.clone(), config.clone());
    let is_around = around.is_some();
    let mut builder = builder
        .on_reload(move || read_again(&flags, &running, is_around))
        .state_dir(state_dir)
        .handle_signals()
        .exit_process();
    let mut token = None;
    let home = path::absolute(&config.state_dir).ok();
    if let Some(around) = around {
        // Its program goes with it.
        builder = builder
            .held_at_stop(HeldAtStop::End)
            .defer_shutdown(around.deferral);
        token = Some(around.token);
    }
    let supervisor = runtime.block_on(builder.start())?;
    let file_limit_before = raise_file_limit();
    let gateway = Gateway::start_in(listeners, supervisor.clone(), config.access(token), home)?;
    let addresses = gateway.addresses().to_vec();
    for address in &addresses {
        tracing::info!(%address, "listening");
    }
    // It stays open until the drain is over, for refusals and for those who watch.
    supervisor.add_teardown_step(SERVER_STEP, move || async move {
        gateway.stop().await;
        Ok(())
    });
    Ok(Running {
        runtime,
        supervisor,
        addresses,
        file_limit_before,
    })
}

/// A supervisor as `config` describes it, whose ledger is in `state_dir`.
pub(super) fn supervisor_of(
    config: &Config,
    state_dir: &StateDir,
) -> anyhow::Result<supervisor::Builder> {
    let builder = SessionSupervisor::builder()
        .settings(config.live_settings())
        .retention(config.sessions.retention);
    let ledger = config.ledger;
    Ok(match ledger.kind {
        LedgerKind::Sqlite => {
            let opened = SqliteLedger::open_in(state_dir, ledger.durability)?;
            builder.ledger(opened)
        }
        LedgerKind::Memory => builder,
        LedgerKind::Postgres => anyhow::bail!("there is no ledger in PostgreSQL yet"),
    })
}

/// Reads the configuration again that is `running`.
fn read_again(flags: &Flags, running: &Config, is_around: bool) -> anyhow::Result<LiveSettings> {
    let mut config = load(flags, is_around)?;
    let warnings = config.keep_fixed(running);
    let mut settings = config.live_settings();
    settings.warnings.extend(warnings);
    Ok(settings)
}

fn bind(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |address: &SocketAddr| {
        TcpListener::bind(address).with_context(|| {
            format!("can't listen on {address}, expected a free address: see `--listen`")
        })
    };
    addresses.iter().map(bind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(&[address]).unwrap_err();
        let message = format!("{error:#}");
        assert!(
            message.starts_with(&format!("can't listen on {address}, ")),
            "{message}"
        );
    }

    #[test]
    fn every_address_is_listened_on() {
        let free = "127.0.0.1:0".parse().unwrap();
        let listeners = bind(&[free, free]).unwrap();
        assert_eq!(listeners.len(), 2);
    }
}
