//! The configuration: a TOML file, what overrides it, and what is wrong with it.
//!
//! A value is taken from a flag, then the environment, then the file, then the default. Where the
//! file is overridden, only the value that counts is held against the world: an address that
//! needs a token or a directory that can't be made is no problem if it is not used.
//!
//! Without a file there is one plugin, a log to standard output. A file says itself who is told:
//! one that has no `[[plugin]]` means nobody.
//!
//! Relative paths in a file are relative to the file; those of flags, the environment and
//! defaults to the current directory.

mod auth;
mod document;
mod duration;
mod outside;
mod plugin;
mod shutdown;
mod sources;
mod spec;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::auth::AuthConfig;
pub(crate) use self::auth::TokenConfig;
use self::document::{Document, Given, Origin, POSITIVE, Section, line_of};
pub(crate) use self::duration::{LONGEST, as_written, parse_duration};
use self::outside::Outside;
pub(crate) use self::plugin::PluginConfig;
pub(crate) use self::shutdown::{DEFAULT_GRACE, SLACK, ShutdownConfig};
pub(crate) use self::sources::{Env, Flags, parse_address};
use crate::durability::Durability;
use crate::supervisor::{DEFAULT_RETENTION, LiveSettings};

const DEFAULT_LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7467));
const TOP_KEYS: &[&str] = &[
    "listen",
    "state_dir",
    "auth",
    "shutdown",
    "sessions",
    "ledger",
    "plugin",
];
const SESSIONS_KEYS: &[&str] = &["max_active", "idle_after", "max_age", "retention"];
const LEDGER_KEYS: &[&str] = &["kind", "durability"];

/// A configuration that holds together, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where the gateway listens: at least one address, without a token only loopback ones.
    pub(crate) listen: Vec<SocketAddr>,
    /// Where reports are kept. It need not exist yet.
    pub(crate) state_dir: PathBuf,
    /// Where `state_dir` was given, for messages.
    state_dir_place: String,
    /// What opens the gateway; with none it is open to the programs of this machine.
    pub(crate) tokens: Vec<TokenConfig>,
    /// The budgets of a shutdown.
    pub(crate) shutdown: ShutdownConfig,
    /// The limits of sessions.
    pub(crate) sessions: SessionsConfig,
    /// Where events are recorded.
    pub(crate) ledger: LedgerConfig,
    /// Who is told.
    pub(crate) plugins: Vec<PluginConfig>,
    /// What may stay, but should not: a line each, for the log.
    pub(crate) warnings: Vec<String>,
}

/// `[sessions]`: how many, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionsConfig {
    /// The most that may be active.
    pub(crate) max_active: usize,
    /// A session ends this long after its start or last touch; never if none.
    pub(crate) idle_after: Option<Duration>,
    /// A session ends this long after its start; never if none.
    pub(crate) max_age: Option<Duration>,
    /// How long ended sessions that nobody is owed are kept.
    pub(crate) retention: Duration,
}

/// What is wrong with a configuration: a line per problem, each with where it is, what is wrong
/// and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct ConfigError(Vec<String>);

/// `[ledger]`: where events are recorded, and what that survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LedgerConfig {
    pub(crate) kind: LedgerKind,
    /// What is recorded survives this; of no meaning with the ledger in memory.
    pub(crate) durability: Durability,
}

/// Where events are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LedgerKind {
    /// In memory: what is owed at the end is lost, and a crash ends nothing
    Memory,
    /// In an SQLite database in the state directory
    Sqlite,
    #[value(skip)]
    Postgres,
}

/// A file's text, its name as the user gave it, and what its paths are relative to.
#[derive(Default)]
struct File {
    name: String,
    text: String,
    base: PathBuf,
}

impl Config {
    /// Finds and reads the configuration.
    ///
    /// # Errors
    ///
    /// Every problem found in the values that count.
    pub(crate) fn load(flags: &Flags, env: &Env<'_>) -> Result<Self, ConfigError> {
        let path = flags.config.clone().or_else(|| env.config());
        let file = path.map(|path| File::open(&path)).transpose()?;
        Self::read(file, flags, env)
    }

    /// Finds the state directory alone: what else is wrong with a file does not hide the reports.
    ///
    /// # Errors
    ///
    /// The file can't be read, is no TOML, or what it says of the state directory is wrong.
    pub(crate) fn find_state_dir(flags: &Flags, env: &Env<'_>) -> Result<PathBuf, ConfigError> {
        let overridden = flags.state_dir.clone();
        if let Some(dir) = overridden.or_else(|| Some(env.state_dir()?.value)) {
            return Ok(dir);
        }
        let path = flags.config.clone().or_else(|| env.config());
        let file = path.map(|path| File::open(&path)).transpose()?;
        let file = file.unwrap_or_default();
        let document = Document::new(&file.name, &file.text);
        let state_dir = read_state_dir(&mut document.root(), &file.base, flags, env);
        document.finish(state_dir.value)
    }

    fn read(file: Option<File>, flags: &Flags, env: &Env<'_>) -> Result<Self, ConfigError> {
        let has_file = file.is_some();
        let file = file.unwrap_or_default();
        let document = Document::new(&file.name, &file.text);
        let mut root = document.root();
        let outside = Outside {
            base: &file.base,
            env,
        };

        let state_dir = read_state_dir(&mut root, &file.base, flags, env);
        let auth = AuthConfig::read(root.table("auth"), outside);
        let listen = read_listen(&document, &mut root, flags, env);
        if !auth.has_token {
            listen
                .iter()
                .for_each(|address| check_loopback(&root, address));
        }
        let mut config = Self {
            listen: listen.into_iter().map(|address| address.value).collect(),
            tokens: auth.tokens,
            state_dir_place: document.place(state_dir.origin),
            state_dir: state_dir.value,
            shutdown: ShutdownConfig::read(root.table("shutdown"), flags.grace),
            sessions: SessionsConfig::read(root.table("sessions")),
            ledger: LedgerConfig::read(root.table("ledger"), flags),
            plugins: if has_file {
                read_plugins(&mut root, outside)
            } else {
                vec![PluginConfig::standard()]
            },
            warnings: Vec::new(),
        };
        root.finish(TOP_KEYS);
        config.warnings = document.take_warnings();
        document.finish(config)
    }

    /// What is wrong with a state directory that can't be made or written.
    pub(crate) fn state_dir_error(&self, error: &io::Error) -> ConfigError {
        let (place, path) = (&self.state_dir_place, self.state_dir.display());
        let problem = format!("{place}: {path} can't be written, expected a directory");
        ConfigError(vec![format!("{problem}: {error}")])
    }
}

impl SessionsConfig {
    fn read(mut section: Section<'_, '_>) -> Self {
        let mut duration = |key| Some(section.duration(key, POSITIVE)?.value);
        let (idle_after, max_age) = (duration("idle_after"), duration("max_age"));
        let retention = duration("retention").unwrap_or(DEFAULT_RETENTION);
        let max_active = section.count("max_active");
        let max_active = max_active.unwrap_or(LiveSettings::default().max_active);
        section.finish(SESSIONS_KEYS);
        Self {
            max_active,
            idle_after,
            max_age,
            retention,
        }
    }
}

impl ConfigError {
    fn new(problems: Vec<String>) -> Self {
        Self(problems)
    }
}

impl File {
    fn open(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let refused = |problem| ConfigError(vec![problem]);
        let bytes = fs::read(path).map_err(|error| {
            refused(format!(
                "{name}: can't be read, expected a configuration file: {error}"
            ))
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
            refused(format!(
                "{name}:{line}: not UTF-8, expected a TOML file in UTF-8"
            ))
        })?;
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { name, text, base })
    }
}

fn read_listen(
    document: &Document<'_>,
    root: &mut Section<'_, '_>,
    flags: &Flags,
    env: &Env<'_>,
) -> Vec<Given<SocketAddr>> {
    let mut in_file = Vec::new();
    if let Some(given) = root.strings("listen", true) {
        if given.value.is_empty() {
            root.refuse(given.origin, "`listen` is empty, expected an address");
        }
        for text in given.value {
            match parse_address(&text.value) {
                Ok(address) => in_file.push(Given::new(address, text.origin)),
                Err(problem) => root.refuse(text.origin, format!("`listen`: {problem}")),
            }
        }
    }
    let flag = flags.listen;
    let flag = flag.map(|address| Given::new(address, Origin::Name("--listen")));
    match flag.or_else(|| env.listen(document)) {
        Some(address) => vec![address],
        None if in_file.is_empty() => vec![Given::new(DEFAULT_LISTEN, Origin::Name("listen"))],
        None => in_file,
    }
}

/// Without a token the gateway is open to whoever reaches it.
fn check_loopback(root: &Section<'_, '_>, address: &Given<SocketAddr>) {
    if !address.value.ip().to_canonical().is_loopback() {
        let problem = format!(
            "{} is not a loopback address and needs a token, expected an `[[auth.token]]` or an \
             address such as {DEFAULT_LISTEN}",
            address.value
        );
        root.refuse(address.origin, problem);
    }
}

fn read_state_dir(
    root: &mut Section<'_, '_>,
    base: &Path,
    flags: &Flags,
    env: &Env<'_>,
) -> Given<PathBuf> {
    let in_file = root.string("state_dir");
    let in_file = in_file.map(|path| path.map(|path| base.join(path)));
    let flag = flags.state_dir.clone();
    let path = flag
        .map(|path| Given::new(path, Origin::Name("--state-dir")))
        .or_else(|| env.state_dir())
        .or(in_file)
        .unwrap_or_else(|| env.default_state_dir());
    if let Err(problem) = check_creatable(&path.value) {
        root.refuse(path.origin, problem);
    }
    path
}

/// Whether the first directory above that exists is one.
fn check_creatable(path: &Path) -> Result<(), String> {
    for above in path.ancestors() {
        let found = if above.as_os_str().is_empty() {
            fs::metadata(".")
        } else {
            fs::metadata(above)
        };
        let problem = match found {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) => "not a directory".to_owned(),
            Err(error) if is_missing(&error) => continue,
            Err(error) => error.to_string(),
        };
        let (path, above) = (path.display(), above.display());
        return Err(format!(
            "{path} can't be made, expected a directory: {above}: {problem}"
        ));
    }
    Ok(())
}

/// Whether nothing is there, or what should hold it is a file.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

impl fmt::Display for LedgerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            LedgerKind::Memory => return f.write_str("memory: what is owed at the end is lost"),
            LedgerKind::Sqlite => "sqlite",
            LedgerKind::Postgres => "postgres",
        };
        let survives = match self.durability {
            Durability::Power => "loss of power",
            Durability::Process => "the end of the process",
        };
        write!(f, "{kind}, survives {survives}")
    }
}

impl LedgerConfig {
    fn read(mut section: Section<'_, '_>, flags: &Flags) -> Self {
        const EXPECTED: &str = "expected `sqlite` or `memory`";
        let in_file = section.string("kind").and_then(|given| {
            let kind = match given.value.as_str() {
                "memory" => LedgerKind::Memory,
                "sqlite" => LedgerKind::Sqlite,
                "postgres" => LedgerKind::Postgres,
                other => {
                    let problem = format!("`ledger.kind` is {other:?}, {EXPECTED}");
                    section.refuse(given.origin, problem);
                    return None;
                }
            };
            Some(Given::new(kind, given.origin))
        });
        let flag = flags.ledger;
        let flag = flag.map(|kind| Given::new(kind, Origin::Name("--ledger")));
        let kind = flag.or(in_file);
        if let Some(given) = &kind
            && given.value == LedgerKind::Postgres
        {
            let problem = format!("this release has no ledger of kind `postgres`, {EXPECTED}");
            section.refuse(given.origin, problem);
        }
        let durability = section.string("durability").and_then(|given| {
            let known = match given.value.as_str() {
                "power" => Some(Durability::Power),
                "process" => Some(Durability::Process),
                _ => None,
            };
            if known.is_none() {
                let problem = format!(
                    "`ledger.durability` is {:?}, expected `power` or `process`",
                    given.value
                );
                section.refuse(given.origin, problem);
            }
            known
        });
        section.finish(LEDGER_KEYS);
        Self {
            kind: kind.map_or(LedgerKind::Sqlite, |given| given.value),
            durability: durability.unwrap_or_default(),
        }
    }
}

fn read_plugins(root: &mut Section<'_, '_>, outside: Outside<'_>) -> Vec<PluginConfig> {
    let mut plugins: Vec<PluginConfig> = Vec::new();
    for section in root.tables("plugin") {
        let Some(plugin) = PluginConfig::read(section, outside) else {
            continue;
        };
        let name = &plugin.value.name;
        if plugins.iter().any(|other| other.name == *name) {
            let problem = format!("a plugin before has the name `{name}`, expected another");
            root.refuse(plugin.origin, problem);
        }
        plugins.push(plugin.value);
    }
    plugins
}

/// The table that `key` belongs to, if there is one; empty for the top of the file.
fn table_of(key: &str) -> Option<&'static str> {
    let tables = [
        ("", TOP_KEYS),
        ("shutdown", shutdown::KEYS),
        ("sessions", SESSIONS_KEYS),
    ];
    let found = tables.iter().find(|(_, keys)| keys.contains(&key));
    found.map(|(table, _)| *table)
}
