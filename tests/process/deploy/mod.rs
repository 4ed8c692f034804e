//! The files that deploy the gateway, held against what the binary does.

mod docker;
mod kubernetes;
mod systemd;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::gateway::{Gateway, command, run};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_session-supervisor");

/// Where the files have the configuration.
const CONFIG_PATH: &str = "/etc/session-supervisor/config.toml";

/// Where the tests have it.
const CONFIG_NAME: &str = "config.toml";

/// The text of a file of the folder `docs`.
fn document(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
    std::fs::read_to_string(path.join(name)).unwrap()
}

/// A folder with a configuration.
fn folder_with(config: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(CONFIG_NAME), config).unwrap();
    dir
}

/// The arguments of a deployed command, with the configuration of this folder.
fn in_folder<'a>(words: impl IntoIterator<Item = &'a str>, dir: &TempDir) -> Vec<String> {
    let path = dir.path().join(CONFIG_NAME).display().to_string();
    let words = words.into_iter();
    words.map(|word| word.replace(CONFIG_PATH, &path)).collect()
}

/// Starts the gateway with these arguments of `serve`, on a free port.
fn serve<'a>(dir: TempDir, words: impl IntoIterator<Item = &'a str>, command: Command) -> Gateway {
    let mut command = command;
    command
        .args(in_folder(words, &dir))
        .args(["--log-format", "json", "--listen", "127.0.0.1:0"])
        .current_dir(dir.path());
    let started = Gateway::launch(dir, command);
    started.unwrap_or_else(|ended| panic!("it ended:\n{}", ended.log))
}

/// What `check` makes of a configuration.
struct Checked {
    listen: String,
    state_dir: String,
    /// The moments of a stop, counted from the request, by their names.
    moments: BTreeMap<String, Duration>,
}

impl Checked {
    /// Of one that is valid.
    #[track_caller]
    fn new(config: &str, env: &[(&str, &str)]) -> Self {
        let dir = folder_with(config);
        let mut check = command();
        check.args(["check", "--config", CONFIG_NAME]);
        check.envs(env.iter().copied()).current_dir(dir.path());
        let text = run(&mut check).done();
        let value = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.expect("a value").trim().to_owned()
        };
        let drawn = text.lines().filter_map(|line| line.rsplit_once('─'));
        let moment = |(_, words): (&str, &str)| {
            let mut words = words.split_whitespace();
            let (at, name) = (words.next()?, words.next()?);
            Some((name.to_owned(), humantime::parse_duration(at).ok()?))
        };
        Self {
            listen: value("listen"),
            state_dir: value("state_dir"),
            moments: drawn.filter_map(moment).collect(),
        }
    }

    /// Asserts that a stop is over when this time is, and that the gateway knows of it.
    #[track_caller]
    fn fits_into(&self, kill_after: Duration) {
        assert_eq!(self.moments["kill_after"], kill_after);
        assert!(self.moments["slack"] <= kill_after, "{:?}", self.moments);
    }
}

/// What a gateway of this configuration does on a signal.
#[track_caller]
fn reason_of_a_stop_by(signal: &str) -> String {
    let gateway = serve(folder_with("state_dir = \"state\""), SERVE, command());
    gateway.begin("A");
    let ended = gateway.stop(signal.parse::<Signal>().unwrap());
    assert_eq!(ended.status.code(), Some(0));
    ended.report()["reason"].as_str().unwrap().to_owned()
}

const SERVE: [&str; 3] = ["serve", "--config", CONFIG_PATH];
