//! Tests of reading a configuration: what is refused, and what comes out.

mod auth;
mod budgets;
mod command;
mod sources;
mod webhook;

use std::collections::HashMap;

use tempfile::TempDir;

use super::plugin::{LogTarget, PluginKind};
use super::*;
use crate::event::{Hook, Hooks};
use crate::plugin::{DeliveryPolicy, SqlSettings};

/// A directory for the files that a configuration names, and what the process is given.
struct World {
    directory: TempDir,
    env: HashMap<&'static str, String>,
    flags: Flags,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("a_file"), "").unwrap();
        Self {
            directory,
            env: HashMap::new(),
            flags: Flags::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Changes a database, which is made if there is none.
    fn database(&self, name: &str, sql: &str) {
        let connection = rusqlite::Connection::open(self.path(name)).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.insert(name, value.to_owned());
        self
    }

    fn read(&self, text: &str) -> Result<Config, ConfigError> {
        self.with_env(|env| {
            let file = File {
                name: "c.toml".into(),
                text: text.into(),
                base: self.directory.path().to_owned(),
            };
            Config::read(Some(file), &self.flags, env)
        })
    }

    fn load(&self) -> Result<Config, ConfigError> {
        self.with_env(|env| Config::load(&self.flags, env))
    }

    fn with_env<T>(&self, f: impl FnOnce(&Env<'_>) -> T) -> T {
        f(&Env::new(&|name| self.env.get(name).map(Into::into)))
    }

    /// What is refused, with the directory written as `DIR`.
    fn refusals(&self, text: &str) -> Vec<String> {
        let Err(error) = self.read(text) else {
            panic!("accepted:\n{text}");
        };
        let directory = self.directory.path().display().to_string();
        let message = error.to_string().replace(&directory, "DIR");
        message.lines().map(str::to_owned).collect()
    }
}

/// The secret of a webhook.
const SIGNING: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Writes a file that its owner alone may open.
fn write_secret(world: &World, name: &str, text: &str) {
    fs::write(world.path(name), text).unwrap();
    set_mode(world, name, 0o600);
}

#[cfg(unix)]
fn set_mode(world: &World, name: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(world.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(not(unix))]
fn set_mode(_: &World, _: &str, _: u32) {}

/// Blocks of a file's text and, after `=> `, what is refused of it.
const REFUSED: &str = include_str!("refused.txt");

#[test]
fn a_wrong_value_is_refused_with_its_line_and_what_was_expected() {
    let world = World::new()
        .env("EMPTY", "")
        .env("PG", "postgres://user:s3cret@host/db")
        .env("TOKEN", "0123456789abcdef")
        .env("TOKEN_2", "fedcba9876543210")
        .env("SIGNING", SIGNING)
        .env("SHORT", "0123456789abcde");
    fs::write(world.path("two_lines"), "0123456789abcdef\n\n").unwrap();
    for block in REFUSED.trim_end().split("\n---\n") {
        let (text, expected) = block.split_once("\n=> ").expect(block);
        assert_eq!(world.refusals(text), [expected], "for:\n{text}");
    }
}

#[test]
fn a_plugin_needs_a_name_of_its_own() {
    let world = World::new();
    let log = "kind = \"log\"\npath = \"-\"";
    let name = |name: &str| format!("[[plugin]]\nname = \"{name}\"\n{log}\n");

    for bad in ["A", "a b", "ä", "a.b", "a\\nb", &"x".repeat(65)] {
        let expected = format!(
            "c.toml:2: plugin name \"{bad}\" is malformed, expected 1 to 64 characters of a-z, 0-9, `_` and `-`"
        );
        assert_eq!(world.refusals(&name(bad)), [expected]);
    }
    for good in ["a", "a_b-1", &"x".repeat(64)] {
        assert_eq!(world.read(&name(good)).unwrap().plugins[0].name, good);
    }
    assert_eq!(
        world.refusals(&format!("[[plugin]]\n{log}")),
        ["c.toml:1: a plugin has no `name`, expected one"]
    );
    assert_eq!(
        world.refusals(&[name("a"), name("b"), name("a")].concat()),
        ["c.toml:10: a plugin before has the name `a`, expected another"]
    );
}

#[test]
fn every_problem_is_named_in_the_order_of_lines() {
    let refusals = World::new().refusals(
        "lisen = \"\"\n[shutdown]\ncap = 2\n[sessions]\nmax_active = 0\n[[plugin]]\nkind = \"log\"\n",
    );
    let lines: Vec<_> = refusals.iter().map(|line| &line[..9]).collect();
    assert_eq!(
        lines,
        [
            "c.toml:1:",
            "c.toml:3:",
            "c.toml:5:",
            "c.toml:6:",
            "c.toml:6:"
        ]
    );
}

#[test]
fn without_a_file_there_is_a_log_to_standard_output() {
    let config = World::new().load().unwrap();
    assert_eq!(config.listen, ["127.0.0.1:7467".parse().unwrap()]);
    assert_eq!(config.state_dir, Path::new("./state"));
    assert_eq!(config.shutdown, ShutdownConfig::default());
    assert_eq!(
        config.sessions,
        SessionsConfig {
            max_active: 1_000_000,
            idle_after: None,
            max_age: None,
            retention: seconds(7 * 24 * 3600),
        }
    );
    let ledger = LedgerConfig {
        kind: LedgerKind::Sqlite,
        durability: Durability::Power,
    };
    assert_eq!(config.ledger, ledger);
    assert_eq!(
        config.plugins,
        [PluginConfig {
            name: "log".into(),
            hooks: Hooks::SESSION,
            policy: DeliveryPolicy::default(),
            kind: PluginKind::Log(LogTarget::Stdout),
        }]
    );
}

#[test]
fn the_ledger_of_a_configuration_that_is_read_again_is_the_one_that_runs() {
    let world = World::new();
    let running = world.read("ledger.durability = \"power\"").unwrap();
    let mut again = world.read("ledger.durability = \"process\"").unwrap();
    let expected = "`ledger` stays as it is: it changes with a restart only";
    assert_eq!(again.keep_fixed(&running), [expected]);
    assert_eq!(again.ledger, running.ledger);
    assert!(again.keep_fixed(&running).is_empty());
}

#[test]
fn a_file_without_a_plugin_means_none() {
    let world = World::new();
    let config = world.read("").unwrap();
    assert_eq!(config.plugins, []);
    assert_eq!(config.shutdown, ShutdownConfig::default());
    assert_eq!(config.listen, ["127.0.0.1:7467".parse().unwrap()]);
    assert_eq!(config.state_dir, Path::new("./state"));
}

#[test]
fn every_key_is_read() {
    let world = World::new();
    world.database("app.db", "CREATE TABLE s (x)");
    let config = world
        .read(
            r#"
            listen = ["127.0.0.1:7467", "[::1]:7467"]
            state_dir = "state"

            [shutdown]
            cap = "4s"
            lifecycle_timeout = "1s"
            teardown = "2s"
            kill_after = "1m"
            restart_expected = "1500ms"

            [sessions]
            max_active = 10
            idle_after = "30m"
            max_age = "24h"
            retention = "14d"

            [ledger]
            kind = "memory"
            durability = "process"

            [[plugin]]
            name = "audit"
            kind = "log"
            hooks = ["session_end", "gateway_shutdown"]
            timeout = "6s"
            retry_for = "1h"
            backoff = "2s"
            backoff_max = "1m"
            max_attempts = 3
            max_batch = 100
            max_in_flight = 8
            path = "audit.jsonl"

            [[plugin]]
            name = "memory-db"
            kind = "sql"
            url = "sqlite:app.db"
            gateway_shutdown = "UPDATE s SET x = 1"
            session_end = "UPDATE s SET x = 2"
            "#,
        )
        .unwrap();
    let expected = Config {
        listen: vec![
            "127.0.0.1:7467".parse().unwrap(),
            "[::1]:7467".parse().unwrap(),
        ],
        state_dir: world.path("state"),
        state_dir_place: "c.toml:3".into(),
        tokens: Vec::new(),
        warnings: Vec::new(),
        shutdown: ShutdownConfig {
            grace: Duration::ZERO,
            cap: seconds(4),
            lifecycle_timeout: seconds(1),
            teardown: seconds(2),
            kill_after: seconds(60),
            restart_expected: Duration::from_millis(1500),
        },
        sessions: SessionsConfig {
            max_active: 10,
            idle_after: Some(seconds(30 * 60)),
            max_age: Some(seconds(24 * 3600)),
            retention: seconds(14 * 24 * 3600),
        },
        ledger: LedgerConfig {
            kind: LedgerKind::Memory,
            durability: Durability::Process,
        },
        plugins: vec![
            PluginConfig {
                name: "audit".into(),
                hooks: Hooks::NONE
                    .with(Hook::SessionEnd)
                    .with(Hook::GatewayShutdown),
                policy: DeliveryPolicy {
                    timeout: seconds(6),
                    retry_for: seconds(3600),
                    backoff: seconds(2),
                    backoff_max: seconds(60),
                    max_attempts: 3,
                    max_batch: 100,
                    max_in_flight: 1,
                },
                kind: PluginKind::Log(LogTarget::File(world.path("audit.jsonl"))),
            },
            PluginConfig {
                name: "memory-db".into(),
                hooks: Hooks::NONE
                    .with(Hook::SessionEnd)
                    .with(Hook::GatewayShutdown),
                policy: DeliveryPolicy::default(),
                kind: PluginKind::Sql(
                    SqlSettings::new(world.path("app.db"))
                        .with_statement(Hook::SessionEnd, "UPDATE s SET x = 2")
                        .unwrap()
                        .with_statement(Hook::GatewayShutdown, "UPDATE s SET x = 1")
                        .unwrap(),
                ),
            },
        ],
    };
    assert_eq!(config, expected);

    let spec = config.plugins[0].to_spec(Durability::Power);
    assert_eq!(spec.name(), "audit");
    assert_eq!(spec.hooks(), expected.plugins[0].hooks);
    assert_eq!(spec.policy(), &expected.plugins[0].policy);
}

#[test]
fn a_database_is_found_by_url_or_by_environment() {
    const STATEMENT: &str = "UPDATE s SET x = 1";
    let world = World::new().env("DB", "sqlite://data/env.db");
    let cases = [
        (
            "url = \"sqlite:///var/lib/app.db\"",
            PathBuf::from("/var/lib/app.db"),
        ),
        (
            "url = \"sqlite:/var/lib/app.db\"",
            PathBuf::from("/var/lib/app.db"),
        ),
        ("url = \"sqlite:app.db\"", world.path("app.db")),
        ("url = \"sqlite://data/app.db\"", world.path("data/app.db")),
        ("url_env = \"DB\"", world.path("data/env.db")),
    ];
    for (key, expected) in cases {
        let text = format!(
            "[[plugin]]\nname = \"a\"\nkind = \"sql\"\nsession_end = \"{STATEMENT}\"\n{key}"
        );
        let settings = SqlSettings::new(expected);
        let settings = settings
            .with_statement(Hook::SessionEnd, STATEMENT)
            .unwrap();
        let kind = &world.read(&text).unwrap().plugins[0].kind;
        assert_eq!(*kind, PluginKind::Sql(settings), "for {key}");
    }
}

#[test]
fn a_database_that_is_not_there_yet_or_that_a_statement_does_not_fit_is_warned_of() {
    let world = World::new();
    let warnings = |path: &str| {
        let text = format!(
            "[[plugin]]\nname = \"a\"\nkind = \"sql\"\nurl = \"sqlite:{path}\"\n\
             session_end = \"UPDATE s SET x = 1\""
        );
        world.read(&text).unwrap().warnings
    };
    world.database("app.db", "CREATE TABLE s (x)");
    assert_eq!(warnings("app.db"), [""; 0]);
    world.database("app.db", "DROP TABLE s");
    let unfit = format!(
        "c.toml:5: `plugin.session_end` does not fit the database {} as it is now: no such table: s",
        world.path("app.db").display()
    );
    assert_eq!(warnings("app.db"), [unfit]);
    let of = |path: &str| format!("c.toml:4: the database {} is ", world.path(path).display());
    let [missing] = &warnings("nosuch.db")[..] else {
        panic!("expected one warning");
    };
    let expected = of("nosuch.db") + "not there yet, expected a file, which is never made: ";
    assert!(missing.starts_with(&expected), "{missing}");
    fs::create_dir(world.path("data")).unwrap();
    let directory = of("data") + "a directory, expected a file";
    assert_eq!(warnings("data"), [directory]);
}

#[test]
fn a_state_directory_that_cannot_be_had_is_a_line_of_the_file() {
    let world = World::new();
    let config = world.read("state_dir = \"a/state\"").unwrap();
    let error = std::io::Error::other("it is full");
    let problem = config.state_dir_error(&error).to_string();
    let path = config.state_dir.display();
    let expected = format!("c.toml:1: {path} can't be written, expected a directory: it is full");
    assert_eq!(problem, expected);
}

#[test]
fn the_configurations_of_the_readme_are_valid() {
    let readme = include_str!("../../../README.md");
    let blocks = readme.split("```toml\n").skip(1);
    let walk = readme.split("<<'TOML'\n").skip(1);
    let texts: Vec<_> = blocks
        .filter_map(|rest| rest.split("```").next())
        .chain(walk.filter_map(|rest| rest.split("\nTOML\n").next()))
        .collect();
    assert_eq!(texts.len(), 2);
    let world = World::new().env("CRM_WEBHOOK_SECRET", SIGNING);
    for text in texts {
        world.read(text).unwrap();
    }
}
