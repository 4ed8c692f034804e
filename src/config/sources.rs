//! What overrides the file: flags and the environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::LedgerKind;
use super::document::{Document, Given, Origin};

const CONFIG: &str = "SESSION_SUPERVISOR_CONFIG";
const LISTEN: &str = "SESSION_SUPERVISOR_LISTEN";
const STATE_DIR: &str = "SESSION_SUPERVISOR_STATE_DIR";
/// Set by systemd for a unit with `StateDirectory=`: absolute paths, separated by colons.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// Values given on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// `--config`
    pub(crate) config: Option<PathBuf>,
    /// `--listen`
    pub(crate) listen: Option<SocketAddr>,
    /// `--state-dir`
    pub(crate) state_dir: Option<PathBuf>,
    /// `--ledger`
    pub(crate) ledger: Option<LedgerKind>,
    /// `--grace`: how long a stop waits before it begins; not at all if none.
    pub(crate) grace: Option<Duration>,
}

/// The environment, in which an empty variable counts as unset.
pub(crate) struct Env<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl<'a> Env<'a> {
    /// An environment that `look_up` knows.
    pub(crate) fn new(look_up: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self(look_up)
    }

    pub(super) fn get(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// The configuration file, if `flags` name none.
    pub(super) fn config(&self) -> Option<PathBuf> {
        self.get(CONFIG).map(PathBuf::from)
    }

    /// The address that overrides the file's.
    pub(super) fn listen(&self, document: &Document<'_>) -> Option<Given<SocketAddr>> {
        let origin = Origin::Name(LISTEN);
        let text = self.get(LISTEN)?;
        let text = text.to_string_lossy();
        match parse_address(&text) {
            Ok(address) => Some(Given::new(address, origin)),
            Err(problem) => {
                document.refuse(origin, problem);
                None
            }
        }
    }

    /// The state directory that overrides the file's.
    pub(super) fn state_dir(&self) -> Option<Given<PathBuf>> {
        let path = self.get(STATE_DIR)?;
        Some(Given::new(path.into(), Origin::Name(STATE_DIR)))
    }

    /// The state directory if no other is given.
    pub(super) fn default_state_dir(&self) -> Given<PathBuf> {
        if let Some(paths) = self.get(STATE_DIRECTORY)
            && let Some(first) = std::env::split_paths(&paths).next()
        {
            return Given::new(first, Origin::Name(STATE_DIRECTORY));
        }
        Given::new("./state".into(), Origin::Name("state_dir"))
    }
}

/// An address to listen on.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is no address, expected an IP address and a port such as 127.0.0.1:7467")
    })
}
