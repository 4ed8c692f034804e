//! `status`: for health checks.

use std::process::ExitCode;

use serde::Deserialize;

use super::client::Target;
use super::failure::Failure;
use super::output::{note, print};
use super::{NOT_THERE, USAGE};

/// Says whether the gateway is alive
///
/// Exits with 0 if it is, and with 1 if it is not, not reachable included.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Whether it takes sessions, which from the request to stop it does not
    #[arg(long)]
    ready: bool,

    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Health {
    status: String,
}

impl Status {
    pub(super) fn run(self) -> ExitCode {
        match self.ask() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                note(&failure.to_string());
                ExitCode::from(match failure {
                    Failure::Usage(_) => USAGE,
                    _ => NOT_THERE,
                })
            }
        }
    }

    fn ask(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let (path, expected) = if self.ready {
            ("/readyz", "ready")
        } else {
            ("/healthz", "alive")
        };
        let health: Health = client.probe(path)?.read()?;
        if health.status != expected {
            return Err(client.no_gateway(&format!("{path} answers something else")));
        }
        print(&format!("{expected} at {}", client.url()))
    }
}
