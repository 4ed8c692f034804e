//! The systemd unit.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{
    BINARY, CONFIG_NAME, Checked, document, folder_with, in_folder, reason_of_a_stop_by, serve,
};
use crate::gateway::{Gateway, command, run};
use crate::tools::{is_installed, skip};

const NAME: &str = "session-supervisor.service";

/// Where the unit has the binary.
const INSTALLED: &str = "/usr/local/bin/session-supervisor";

/// The least version of systemd that reviews the sandbox of a unit that is not installed.
const OFFLINE_REVIEW: u32 = 250;

/// What the sandbox may leave open, in tenths, of a hundred that a service without one does.
const EXPOSURE: &str = "20";

/// The settings of a unit file, in their order.
struct Unit(Vec<(String, String, String)>);

impl Unit {
    fn shipped() -> Self {
        let text = document(&format!("deploy/{NAME}"));
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        let (mut section, mut settings) = (String::new(), Vec::new());
        for line in lines {
            match line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
                Some(name) => section = name.to_owned(),
                None => {
                    let (key, value) = line.split_once('=').unwrap();
                    settings.push((section.clone(), key.to_owned(), value.to_owned()));
                }
            }
        }
        Self(settings)
    }

    /// The values of a key of the section `Service`.
    fn all(&self, key: &str) -> Vec<&str> {
        let settings = self.0.iter();
        let settings = settings.filter(|(section, it, _)| section == "Service" && it == key);
        settings.map(|(_, _, value)| value.as_str()).collect()
    }

    /// The value of a key that is there once.
    #[track_caller]
    fn one(&self, key: &str) -> &str {
        match self.all(key)[..] {
            [value] => value,
            ref values => panic!("{key} is there {} times", values.len()),
        }
    }

    #[track_caller]
    fn duration(&self, key: &str) -> Duration {
        humantime::parse_duration(self.one(key)).unwrap()
    }

    /// The arguments of the command that starts it.
    #[track_caller]
    fn start(&self) -> impl Iterator<Item = &str> {
        let mut words = self.one("ExecStart").split(' ');
        assert_eq!(words.next(), Some(INSTALLED));
        words
    }
}

/// A folder with the unit, whose commands are those of the binary under test.
fn unit_of_the_binary() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let unit = document(&format!("deploy/{NAME}"));
    std::fs::write(dir.path().join(NAME), unit.replace(INSTALLED, BINARY)).unwrap();
    dir
}

fn analyze() -> Command {
    Command::new("systemd-analyze")
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    if !is_installed("systemd-analyze") {
        return skip(
            "systemd_finds_nothing_wrong_with_the_unit",
            "systemd-analyze",
        );
    }
    let dir = unit_of_the_binary();
    let verified = run(analyze()
        .args(["verify", "--man=no"])
        .arg(dir.path().join(NAME)));
    assert_eq!((verified.code, &*verified.stderr), (Some(0), ""));
}

#[test]
fn the_sandbox_of_the_unit_leaves_little_open() {
    let version = is_installed("systemd-analyze").then(|| run(analyze().arg("--version")).done());
    let version = version.as_deref().and_then(|text| text.split(' ').nth(1));
    let version: u32 = version.and_then(|it| it.parse().ok()).unwrap_or_default();
    if version < OFFLINE_REVIEW {
        return skip(
            "the_sandbox_of_the_unit_leaves_little_open",
            "systemd-analyze of systemd 250",
        );
    }
    let dir = unit_of_the_binary();
    let reviewed = run(analyze()
        .args(["security", "--offline=true", "--no-pager", "--threshold"])
        .arg(EXPOSURE)
        .arg(dir.path().join(NAME)));
    assert_eq!(reviewed.code, Some(0), "{}", reviewed.stdout);
}

#[test]
fn a_stop_with_the_defaults_fits_into_the_time_of_the_unit() {
    let unit = Unit::shipped();
    Checked::new("", &[]).fits_into(unit.duration("TimeoutStopSec"));
}

/// Does what the unit does for a reload. Whether all of it went well.
fn reload(unit: &Unit, gateway: &Gateway) -> bool {
    let pid = gateway.pid().to_string();
    // As systemd does, nothing is run after a command that fails.
    unit.all("ExecReload").into_iter().all(|line| {
        let line = line.replace(INSTALLED, BINARY).replace("$MAINPID", &pid);
        let words = in_folder(line.split(' '), gateway.folder());
        run(Command::new(&words[0]).args(&words[1..])).code == Some(0)
    })
}

#[test]
fn the_unit_starts_a_gateway_and_reloads_one_whose_configuration_is_right() {
    let (unit, config) = (Unit::shipped(), "state_dir = \"state\"\n");
    let mut gateway = serve(folder_with(config), unit.start(), command());
    assert!(reload(&unit, &gateway));
    gateway.wait_for_log("\"reloaded\"");

    let path = gateway.path(CONFIG_NAME);
    std::fs::write(&path, "no_such_key = 1\n").unwrap();
    assert!(!reload(&unit, &gateway));
    std::fs::write(&path, config).unwrap();
    let ended = gateway.stop(Signal::SIGTERM);
    // It was never asked to.
    assert!(!ended.log.contains("not reloaded"), "{}", ended.log);
}

#[test]
fn the_unit_stops_for_shutdown_and_restarts_for_restart() {
    let unit = Unit::shipped();
    for (key, reason) in [("KillSignal", "shutdown"), ("RestartKillSignal", "restart")] {
        assert_eq!(reason_of_a_stop_by(unit.one(key)), reason);
    }
}

#[test]
fn the_unit_restarts_what_a_restart_may_help() {
    let unit = Unit::shipped();
    assert_eq!(unit.one("Restart"), "on-failure");
    let prevents = |code: Option<i32>| {
        let code = code.unwrap().to_string();
        let prevented = unit.one("RestartPreventExitStatus");
        prevented.split(' ').any(|it| it == code)
    };
    let serve = |config: &str, arguments: &[&str]| {
        let dir = folder_with(config);
        let mut serve = command();
        serve.current_dir(dir.path());
        serve.args(in_folder(unit.start(), &dir)).args(arguments);
        run(&mut serve).code
    };
    assert!(prevents(serve("", &["--no-such-flag"])), "wrong usage");
    assert!(
        prevents(serve("no_such_key = 1", &[])),
        "wrong configuration"
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(
        !prevents(serve("", &["--listen", &address])),
        "a taken port"
    );
}

#[test]
fn the_unit_waits_for_what_the_gateway_tells() {
    let unit = Unit::shipped();
    assert_eq!(unit.one("Type"), "notify");
    assert_eq!(unit.one("KillMode"), "mixed");
    // The state directory of the unit is that of the gateway, which the configuration need not name.
    assert_eq!(unit.one("StateDirectory"), "session-supervisor");
    let state_dir = "/var/lib/session-supervisor";
    let checked = Checked::new("", &[("STATE_DIRECTORY", state_dir)]);
    assert_eq!(checked.state_dir, state_dir);
}
