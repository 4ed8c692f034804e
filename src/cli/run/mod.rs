//! `run`: a gateway around one program, whose parent it is.

mod course;
mod foreground;
mod orphans;
mod program;
pub(super) mod shim;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};

use self::course::Course;
use super::duration::parse_duration;
use super::serve::{self, Around, Options};
use super::{CONFIGURATION, COULD_NOT_START, fail};
use crate::config::{DEFAULT_GRACE, parse_address};
use crate::gateway::{Scope, Secret, Token};
use crate::session::{HolderId, RunId};
use crate::shutdown::Deferral;

/// The name under which the program holds its sessions.
const HOLDER: &str = "run";

/// A free port of this machine.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Runs a program, with a gateway around it for its sessions
///
/// The program finds the gateway in its environment: SESSION_SUPERVISOR_URL,
/// SESSION_SUPERVISOR_TOKEN, SESSION_SUPERVISOR_HOLDER and SESSION_SUPERVISOR_RUN_ID. Its sessions
/// end when it does, however it does: with `shutdown` if it exits with 0, else with `crash`.
///
/// SIGTERM, SIGINT and SIGQUIT stop both: the program gets the signal, and when it has exited the
/// sessions that are left end with `shutdown`. With SIGUSR2 it gets SIGTERM, and they end with
/// `restart`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Run {
    #[command(flatten)]
    options: Options,

    /// Where `serve` listens
    #[arg(long, value_name = "ADDR", value_parser = parse_address, hide = true)]
    listen: Option<SocketAddr>,

    /// How long the program has to exit when it is asked to; then it is killed
    ///
    /// `cap`, `teardown` and a second come on top of it, and all have to fit into `kill_after`.
    /// [default: 4s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    grace: Option<Duration>,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const AFTER_HELP: &str = "\
The gateway listens on a free port of 127.0.0.1, whatever `listen` of the file says, and every
request needs a token. What a plugin of kind `log` writes to `-` goes to standard error: standard
output is the program's.

RUST_LOG says which log lines are written to standard error, such as `debug` or
`warn,session_supervisor=debug`; without it those from `info` on.

Exit codes:
  n        the program's own
  128 + n  signal n ended the program, or a further signal n the wait for it
  1        could not start, such as when the state directory is taken
  2        wrong usage
  4        the stop took longer than it may, and the watchdog ended it
  78       the configuration is wrong: a line says where, what is wrong and what was expected
  126      the program can't be executed
  127      there is no such program

Examples:
  session-supervisor run -- python3 app.py
  session-supervisor run --config /etc/session-supervisor/config.toml --grace 8s -- node server.js";

impl Run {
    pub(super) fn run(self) -> ExitCode {
        let grace = self.grace.unwrap_or(DEFAULT_GRACE);
        let mut flags = self.options.flags();
        (flags.listen, flags.grace) = (Some(LISTEN), Some(grace));
        let config = match serve::load(&flags, true) {
            Ok(config) => config,
            Err(error) => return fail(CONFIGURATION, &error),
        };
        // Before anything starts, and anybody is told of what a run before has left.
        if let Err(error) = program::find(&self.command) {
            return error.fail();
        }
        if self.listen.is_some() {
            tracing::warn!(
                "`--listen` is not for `run`, which listens on a free port of 127.0.0.1"
            );
        }
        let state_dir = match serve::open_state_dir(&config) {
            Ok(state_dir) => state_dir,
            Err(code) => return code,
        };
        let deferral = Deferral::new(grace);
        let started = Identity::generate().and_then(|identity| {
            let around = Around {
                token: identity.token()?,
                deferral: deferral.clone(),
            };
            Ok((
                serve::start(&flags, &config, state_dir, Some(around))?,
                identity,
            ))
        });
        let (gateway, identity) = match started {
            Ok(started) => started,
            Err(error) => {
                return fail(COULD_NOT_START, &format_args!("can't start: {error:#}"));
            }
        };
        // It tells that the program has exited, so it must arrive whatever this process inherited.
        let _ = SigSet::from(Signal::SIGCHLD).thread_unblock();
        let course = Course {
            gateway: &gateway,
            deferral,
            identity,
            grace,
            cap: config.shutdown.cap,
        };
        let command = shim::command(gateway.file_limit_before, self.command);
        // On the main thread, which lives as long as the process: with it the program dies.
        gateway.runtime.block_on(course.run(&command))
    }
}

/// What the program is to the gateway.
struct Identity {
    holder: HolderId,
    run_id: RunId,
    secret: String,
}

impl Identity {
    fn generate() -> anyhow::Result<Self> {
        Ok(Self {
            holder: HolderId::new(HOLDER)?,
            run_id: RunId::new(random::<16>()?)?,
            secret: random::<32>()?,
        })
    }

    fn token(&self) -> anyhow::Result<Token> {
        let secret = Secret::new(&self.secret)?;
        Ok(Token::new(
            HOLDER,
            Scope::Holder(self.holder.clone()),
            secret,
        ))
    }
}

/// Bytes that nobody guesses, as hexadecimal digits.
fn random<const BYTES: usize>() -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).context("the system gives no random numbers")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_is_to_the_gateway_is_another_each_time() {
        let (one, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        assert_ne!(one.run_id, other.run_id);
        assert_ne!(one.secret, other.secret);
        assert_eq!(one.secret.len(), 64);
        assert!(one.token().is_ok());
    }
}
